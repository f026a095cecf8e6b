"""Models by name. To add one, write a class like those in ``tabular.py`` and add an entry to ``MODELS``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ..config import FIELDS, Config, keys_marked
from ..data.features import Features
from ..data.text import TextSpec
from ..errors import InvalidHyperparameter
from ..sections import Mark, Section
from . import peft, tabular, text, timm_image
from .backbone import Backbone
from .fusion import FusionMlp, Only, TableModel
from .text import text_spec
from .timm_image import image_spec

__all__ = [
    "ARCHITECTURE_KEYS", "Backbone", "GEOMETRY_KEYS", "MODELS", "MODEL_KEYS", "SIZE_KEYS", "TEXT_KEYS", "TableModel", "TextSpec", "build_model", "can_read",
    "check_model", "fetch_weights", "has_say", "image_spec", "is_pretrained", "architecture", "text_spec", "used_groups", "used_models",
]  # fmt: skip

# the values that these can take are known before a search
MODEL_KEYS, SIZE_KEYS, GEOMETRY_KEYS, TEXT_KEYS = (keys_marked(mark) for mark in (Mark.BUILDING, Mark.SIZE, Mark.DECODING, Mark.TOKENS))
# two models with equal values of these and equal weights compute the same, unless LoRA adds something
ARCHITECTURE_KEYS = tuple(key for key in FIELDS if key.startswith("model.") and key not in keys_marked(Mark.TRAINING))
LORA_KEYS = ("optim.lora.r", "optim.lora.alpha", "model.timm_image.trainable", "model.hf_text.trainable")  # trainable, because LoRA skips frozen backbones


def _nothing(config: Config) -> None:
    """Stands in for the functions of models that need no check and no weights."""


def _never(config: Config) -> bool:
    """Stands in for ``is_pretrained`` of models without published weights."""
    return False


@dataclass(frozen=True)
class ModelEntry:
    """A kind of backbone.

    Attributes:
        build: (config, features, load_weights) -> backbone. The result of the backbone's ``describe_source``, as a fourth argument, replaces its
            folder or repository.
        reads: the fields of ``Features`` that it can read.
        check: refuses a model that could not be built.
        fetch_weights: makes the pretrained weights available on this machine.
        is_pretrained: whether it starts from pretrained weights.
    """

    build: Callable[..., Backbone]
    reads: tuple[str, ...]
    check: Callable[[Config], None] = _nothing
    fetch_weights: Callable[[Config], None] = _nothing
    is_pretrained: Callable[[Config], bool] = _never

    def wants(self, features: Features) -> bool:
        """Whether the table has a column that it can read."""
        return any(getattr(features, kind) for kind in self.reads)


def _of(module: Any, reads: tuple[str, ...]) -> ModelEntry:
    return ModelEntry(module.build, reads, module.check, module.fetch_weights, module.is_pretrained)


MODELS = {
    "timm_image": _of(timm_image, ("num_images",)),
    "hf_text": _of(text, ("num_texts",)),
    "numerical_mlp": ModelEntry(lambda config, features, load_weights: tabular.NumericalMlp(config, features), ("numeric",)),
    "categorical_mlp": ModelEntry(lambda config, features, load_weights: tabular.CategoricalMlp(config, features), ("cardinalities",)),
    "ft_transformer": ModelEntry(
        lambda config, features, load_weights: tabular.FtTransformer(config, features), ("numeric", "cardinalities"), tabular.check_ft_transformer
    ),
    "real_mlp": ModelEntry(lambda config, features, load_weights: tabular.RealMlp(config, features), ("numeric", "cardinalities"), tabular.check_real_mlp),
}
KINDS = {
    "num_images": ("image columns", "timm_image"),
    "numeric": ("columns of numbers", "real_mlp"),
    "cardinalities": ("columns of categories", "real_mlp"),
    "num_texts": ("columns of text", "hf_text"),
}


def used_models(config: Config, features: Features) -> tuple[str, ...]:
    """The backbones among ``model.names`` that have a column to read, in the order of ``MODELS``.

    Raises:
        InvalidHyperparameter: no named model reads some columns, or several backbones are used without ``fusion_mlp``.
    """
    names = config.model.names
    used = tuple(name for name, entry in MODELS.items() if name in names and entry.wants(features))
    read = {kind for name in used for kind in MODELS[name].reads}
    if features.num_scores:
        read.add("num_texts")  # through their n-gram scores
    unread = [kind for kind in KINDS if getattr(features, kind) and kind not in read]
    if unread:
        raise InvalidHyperparameter(
            f"model.names: {', '.join(names)} read none of the table's {' and '.join(KINDS[kind][0] for kind in unread)}; add "
            f"{' and '.join(dict.fromkeys(KINDS[kind][1] for kind in unread))}, or leave these columns out with column_types={{column: 'null'}}"
        )
    if len(used) > 1 and "fusion_mlp" not in names:
        raise InvalidHyperparameter(f"model.names: {', '.join(used)} cannot be combined without fusion_mlp; add it, or name only one of them")
    return used


def can_read(config: Config, features: Features) -> bool:
    """Whether the models among ``model.names`` read all columns, and can be used together."""
    try:
        return bool(used_models(config, features))
    except InvalidHyperparameter:
        return False


def used_groups(configs: Iterable[Config], features: Features) -> set[str]:
    """The groups of ``model.*`` that have an effect in any of these configs: the models used, and ``fusion_mlp`` if there are several."""
    used = [used_models(config, features) for config in configs]
    return {name for names in used for name in (*names, *(["fusion_mlp"] if len(names) > 1 else []))}


def has_say(key: str, groups: Collection[str]) -> bool:
    """Whether a hyperparameter has an effect: it is outside ``model.*``, in one of these groups of it, or ``model.names``."""
    return not key.startswith("model.") or key.split(".")[1] in ("names", *groups)


def build_model(
    config: Config, features: Features, num_outputs: int, load_weights: bool = True, sources: Mapping[str, Mapping[str, Any]] | None = None
) -> TableModel:
    """Builds the model of a trial, on the CPU.

    Args:
        features: what the table has; decides which of the named models are used.
        num_outputs: number of classes, or 1 for regression.
        load_weights: False if one of our checkpoints is loaded afterwards; then nothing is fetched.
        sources: the ``sources`` of a saved model; None: read from the folders and repositories that the config names.
    """
    known = {name: (source,) for name, source in (sources or {}).items()}
    backbones = {name: MODELS[name].build(config, features, load_weights, *known.get(name, ())) for name in used_models(config, features)}
    for backbone in backbones.values():
        peft.freeze(backbone, config.optim)
    fusion_config, sizes = config.model.fusion_mlp, [backbone.num_features for backbone in backbones.values()]
    if len(backbones) == 1:
        return TableModel(backbones, Only(*sizes), num_outputs)
    columns = [None if backbone.is_pretrained else tabular.Columns(features, MODELS[name].reads) for name, backbone in backbones.items()]
    return TableModel(backbones, FusionMlp(fusion_config, sizes, columns), num_outputs, fusion_config.aux_loss_weight)


def architecture(config: Config) -> dict[str, Any]:
    """The hyperparameters that two models must share for the weights of one to be meaningful in the other."""
    keys = (*ARCHITECTURE_KEYS, "optim.peft", *(LORA_KEYS if config.optim.adds_lora else ()))
    flat = config.flat()
    return {key: flat[key] for key in keys}


def is_pretrained(config: Config, features: Features) -> bool:
    """Whether any of the models used starts from pretrained weights."""
    return any(MODELS[name].is_pretrained(config) for name in used_models(config, features))


def check_model(config: Config, features: Features | None = None) -> None:
    """Refuses, before any process starts, what would fail in every trial: unknown names, sizes a model does not accept.

    Args:
        features: what the table has. None: not known yet, so ``hf_text`` is not checked, because only a table with texts needs its library and files.
    """
    peft.check(config.optim)
    names = [name for name in MODELS if name in config.model.names and name != "hf_text"] if features is None else used_models(config, features)
    for name in names:
        MODELS[name].check(config)


def fetch_weights(config: Config, features: Features) -> None:
    """Makes sure that the pretrained weights that the config needs are on this machine.

    Raises:
        WeightsUnavailable, InvalidHyperparameter: they cannot be loaded, belong to another model, or ``optim.peft`` finds nothing to train in it.
    """
    for name in used_models(config, features):
        MODELS[name].fetch_weights(config)
        if config.optim.peft is not None and MODELS[name].is_pretrained(config):
            _try_peft_once(name, getattr(config.model, name), config.optim.peft)


@lru_cache(maxsize=1_000)
def _try_peft_once(name: str, own: Section, kind: str) -> None:
    config = Config.model_validate({"model": {name: own}, "optim": {"peft": kind}})
    with torch.device("meta"):  # shapes without memory or arithmetic
        backbone = MODELS[name].build(config, Features(num_images=1, num_texts=1), False)
        peft.freeze(backbone, config.optim)
