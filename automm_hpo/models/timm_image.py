"""Any image model of timm as a backbone."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast, get_args

import timm
import torch
from safetensors.torch import load_file
from timm.models import PretrainedCfg
from timm.optim import param_groups_layer_decay
from torch import nn

from .. import hub
from ..config import Config, ToSquare
from ..config import TimmImage as TimmImageConfig
from ..data.batch import Batch
from ..data.features import Features
from ..data.images import ImageSpec, Interpolation
from ..errors import InvalidHyperparameter, MissingData, WeightsUnavailable, did_you_mean, first_line
from ..rng import forked, seeded
from .backbone import Backbone
from .folding import fold_norms, shared_copy

KEY = "model.timm_image"


class TimmImage(Backbone):
    """Normalises images, computes each one's pooled features with timm's network, and averages them over the images that a row has."""

    spec: ImageSpec

    def __init__(self, backbone: nn.Module, own: TimmImageConfig, source: Source) -> None:
        super().__init__()
        self.source, self.spec = source, source.image_spec(own)
        self.pixel_mean: torch.Tensor
        self.pixel_std: torch.Tensor
        self.backbone = backbone
        self.num_features = _feature_size(backbone)
        self.is_pretrained = own.is_pretrained
        self.is_frozen, self.has_frozen_stats = own.trainable == "head", own.frozen_norm_stats and self.is_pretrained
        if self.is_frozen:
            backbone.requires_grad_(False)
        # for pixels in [0, 255], so that the data need not know the model
        self.register_buffer("pixel_mean", 255 * torch.tensor(tuple(source.cfg.mean)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", 255 * torch.tensor(tuple(source.cfg.std)).view(1, 3, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, I, 3, H, W) uint8 -> (B, F)."""
        flat = batch.images.flatten(0, 1).to(torch.float32, copy=True).sub_(self.pixel_mean).div_(self.pixel_std)  # (B*I, 3, H, W)
        pooled = self.backbone(flat).unflatten(0, batch.image_mask.shape)  # (B, I, F)
        share = batch.image_mask / batch.image_mask.sum(1, keepdim=True).clamp(min=1)
        return (pooled * share.unsqueeze(-1)).sum(1)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.is_frozen:
            self.backbone.eval()
        elif self.has_frozen_stats:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    @property
    def network(self) -> nn.Module:
        return self.backbone

    def describe_source(self) -> dict[str, Any]:
        return self.source.to_json()

    def folded(self) -> Self:
        size = self.spec.size
        sample = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(self.pixel_mean.device, memory_format=torch.channels_last)
        network = fold_norms(self.backbone, sample)
        return self if network is None else shared_copy(self, backbone=network)

    def lr_scales(self, decay: float) -> dict[str, float]:
        """By timm's groups of layers: 1 at the top, times ``decay`` for each layer below."""
        scale_of = {id(parameter): group["lr_scale"] for group in param_groups_layer_decay(self.backbone, layer_decay=decay) for parameter in group["params"]}
        return {name: scale_of[id(parameter)] for name, parameter in self.named_parameters() if parameter.requires_grad}

    def no_weight_decay(self) -> set[str]:
        own: Any = getattr(self.backbone, "no_weight_decay", set)
        return {f"backbone.{name}" for name in own()}


def build(config: Config, features: Features, load_weights: bool, described: Mapping[str, Any] | None = None) -> TimmImage:
    own = config.model.timm_image
    source = Source.from_json(described) if described else _source(own.checkpoint_name)
    from_file = _weights_file(own) if load_weights else None
    backbone = _create(own, source, pretrained=load_weights and own.pretrained and not from_file)
    if from_file:
        _load_backbone(backbone, from_file)
    return TimmImage(backbone, own, source)


def _weights_file(own: TimmImageConfig) -> Path | None:
    return None if own.checkpoint_path is None else Path(own.checkpoint_path).expanduser()


def image_spec(config: Config) -> ImageSpec:
    """Size, interpolation and crop that the config's image model expects. Does not build the model."""
    own = config.model.timm_image
    return _source(own.checkpoint_name).image_spec(own)


def check(config: Config) -> None:
    """Refuses a model that could not be built, or does not accept its images. Reads no weights.

    Raises:
        InvalidHyperparameter: there is no such model, or these values do not fit it or each other.
        MissingData: ``checkpoint_path`` does not exist.
    """
    own = config.model.timm_image
    squares = [name for name in own.train_transforms if name in get_args(ToSquare)]
    if squares and ("resize_to_square" in squares) != (own.val_transforms == "resize_to_square"):
        raise InvalidHyperparameter(
            f"{KEY}.train_transforms: {squares[0]!r}, and {KEY}.val_transforms is {own.val_transforms!r}: pictures are decoded once, for training and "
            "validation alike; give both the same"
        )
    if own.checkpoint_name.startswith("local-dir:"):
        _try_shapes(own)
    elif own != TimmImageConfig():  # the defaults fit, and a table may have no images
        _try_shapes_once(own)
    if (file := _weights_file(own)) is not None and not file.is_file():
        raise MissingData(f"{KEY}.checkpoint_path: no such file: {own.checkpoint_path}")


def _try_shapes(own: TimmImageConfig) -> None:
    source = _source(own.checkpoint_name)
    size = source.image_spec(own).size
    with torch.device("meta"):  # shapes without memory or arithmetic
        backbone = _create(own, source, pretrained=False).eval()
        try:
            features = backbone(torch.empty(1, 3, size, size))
        except Exception as error:  # models refuse sizes with assertions and shape errors of many kinds
            raise InvalidHyperparameter(f"{KEY}.image_size: {own.checkpoint_name} does not take {size} pixels: {error}") from None
    if not isinstance(features, torch.Tensor) or features.shape != (1, _feature_size(backbone)):  # for example encoders of larger models
        raise InvalidHyperparameter(f"{KEY}.checkpoint_name: {own.checkpoint_name} returns tokens or a feature map, not a vector per image; choose another")


_try_shapes_once = functools.lru_cache(maxsize=1_000)(_try_shapes)  # takes a tenth of a second or two, and planning asks several times


def fetch_weights(config: Config) -> None:
    """Makes sure that the weights of the config's model are on this machine. Checks that weights from elsewhere than timm fit the model.

    Raises:
        WeightsUnavailable, InvalidHyperparameter: the pretrained weights cannot be loaded, or belong to another model.
    """
    own = config.model.timm_image
    if (file := _weights_file(own)) is not None:
        _try_file_once(own, file, file.stat().st_mtime_ns)
    elif own.pretrained:
        _fetch_weights(own.checkpoint_name)
        kind, _, place = own.checkpoint_name.partition(":")
        if place:
            files = sorted(Path(place).iterdir()) if kind == "local-dir" else []
            _try_others_once(own, tuple((str(file), file.stat().st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=1_000)
def _try_file_once(own: TimmImageConfig, file: Path, changed: int) -> None:
    """Checks that a file's weights fit, by names and shapes; loads them if those differ, because timm may convert them. Cached until the file changes."""
    source, weights = _source(own.checkpoint_name), _read_weights(file)
    with torch.device("meta"):
        shapes = _create(own, source, pretrained=False).state_dict()
    if _absent(shapes, _fitting(shapes, weights)):
        with forked():
            _load_backbone(_create(own, source, pretrained=False), file)


@functools.lru_cache(maxsize=1_000)
def _try_others_once(own: TimmImageConfig, files: tuple[tuple[str, int], ...]) -> None:
    """Checks that weights from elsewhere are complete, because timm leaves tensors that they lack random, without an error.

    A tensor is random if it equals that of a model built from the same seed without weights, and not that of another seed.

    Raises:
        WeightsUnavailable: the weights cannot be loaded, or lack tensors.
    """

    def parameters(seed: int, pretrained: bool) -> dict[str, torch.Tensor]:
        with seeded(seed):
            return dict(_create(own, _source(own.checkpoint_name), pretrained).named_parameters())

    with forked(), torch.no_grad():
        begun, others = parameters(0, False), parameters(1, False)
        try:
            loaded = parameters(0, True)
        except InvalidHyperparameter:
            raise
        except Exception as error:  # no file, files of other models, files that would run code
            first = first_line(error)
            raise WeightsUnavailable(f"{KEY}.checkpoint_name: the weights of {own.checkpoint_name} cannot be loaded: {first}") from None
        random = [name for name, value in loaded.items() if torch.equal(value, begun[name]) and not torch.equal(value, others[name])]
    if random:
        named = f"{', '.join(random[:3])}{', ...' if random[3:] else ''}"
        raise WeightsUnavailable(
            f"{KEY}.checkpoint_name: the weights of {own.checkpoint_name} lack {len(random)} of the {len(loaded)} tensors of this model, which would stay "
            f"random: {named}"
        )


def is_pretrained(config: Config) -> bool:
    return config.model.timm_image.is_pretrained


def _create(own: TimmImageConfig, source: Source, pretrained: bool) -> nn.Module:
    options: dict[str, Any] = {"drop_rate": own.drop_rate}
    if own.drop_path_rate:
        options["drop_path_rate"] = own.drop_path_rate
    if own.image_size and source.cfg.fixed_input_size:
        options["img_size"] = own.image_size

    def create() -> nn.Module:
        if pretrained:
            return timm.create_model(own.checkpoint_name, pretrained=True, num_classes=0, **options)
        return timm.create_model(source.architecture, pretrained_cfg=source.cfg, **{**source.arguments, **options, "num_classes": 0})

    try:
        with warnings.catch_warnings():  # "mapping deprecated model name": the user's choice is kept
            warnings.simplefilter("ignore")
            try:
                return create()
            except TypeError:
                if own.drop_rate:
                    raise
                del options["drop_rate"]  # unknown to this model, and not needed; others apply dropout unless it is 0
                return create()
    except TypeError as error:
        raise InvalidHyperparameter(f"{KEY}: {own.checkpoint_name} does not take {', '.join(options)}: {error}") from None


def _feature_size(backbone: nn.Module) -> int:
    """Width of the backbone's output without its classifier (some models end in a hidden layer wider than their last block)."""
    size: Any = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    return int(size)


@dataclass(frozen=True)
class Source:
    """What timm needs to build a model: one of its names, or the config.json of a folder or hub repository."""

    architecture: str
    cfg: PretrainedCfg
    arguments: Mapping[str, Any]

    def image_spec(self, own: TimmImageConfig) -> ImageSpec:
        size, interpolation = own.image_size or self.cfg.input_size[-1], cast(Interpolation, self.cfg.interpolation)
        if own.val_transforms == "resize_to_square":
            return ImageSpec(size, interpolation, to_square=True)
        return ImageSpec(size, interpolation, self.cfg.crop_pct)

    def to_json(self) -> dict[str, Any]:
        return {"architecture": self.architecture, "cfg": self.cfg.to_dict(), "arguments": dict(self.arguments)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of ``to_json``.

        Raises:
            ValueError: this version of timm has no such model.
        """
        if not timm.is_model(values["architecture"]):
            raise ValueError(f"timm {timm.__version__} has no model {values['architecture']!r}")
        return cls(values["architecture"], PretrainedCfg(**values["cfg"]), values["arguments"])


def _source(name: str) -> Source:
    """The source of a model, by the name in the config.

    Raises:
        InvalidHyperparameter, WeightsUnavailable
    """
    kind, _, place = name.partition(":")
    if kind in ("hf-hub", "hf_hub", "local-dir") and place:
        from timm.models import _hub

        try:
            cfg, architecture, arguments = (_hub.load_model_config_from_path if kind == "local-dir" else _hub.load_model_config_from_hf)(place)
        except Exception as error:
            raise WeightsUnavailable(f"{KEY}.checkpoint_name: {name} cannot be read: {type(error).__name__}: {error}") from None
        return Source(architecture, PretrainedCfg(**cfg) if isinstance(cfg, Mapping) else cfg, arguments or {})
    if not timm.is_model(name):
        hint = did_you_mean(name.split(".")[0], timm.list_models())
        raise InvalidHyperparameter(f"{KEY}.checkpoint_name: timm has no model {name!r}.{hint} timm.list_models() lists all.")
    try:
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:  # a tag that does not exist
        tags = ", ".join(timm.list_pretrained(name.split(".")[0] + ".*"))
        raise InvalidHyperparameter(f"{KEY}.checkpoint_name: no weights are published as {name!r}; there are: {tags or 'none'}") from None
    assert cfg is not None, "every registered model has a configuration"
    return Source(name, cfg, {})


def _fetch_weights(name: str) -> None:
    """Downloads a model's weights, unless they are on this machine already."""
    if name.startswith("local-dir:"):
        return
    repo = name.partition(":")[2] or _source(name).cfg.hf_hub_id
    if not repo:
        raise WeightsUnavailable(f"{KEY}.checkpoint_name: no pretrained weights are published for {name!r}; set {KEY}.pretrained to False")
    repo, _, revision = repo.partition("@")
    files = ("model.safetensors", "pytorch_model.bin")
    if any(hub.cached(repo, file, revision or None) for file in files):
        return
    hub.fetch(
        repo,
        revision or None,
        lambda there: [next((file for file in files if file in there), files[0])],
        f"{KEY}.checkpoint_name: the pretrained weights of {name!r}",
        f"Ways out: {KEY}.pretrained=False starts from random weights; {KEY}.checkpoint_path=<file> or "
        f"{KEY}.checkpoint_name='local-dir:<folder>' use weights you have; or run once where the hub can be reached.",
    )


def _read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors of a file that the user named, without any wrapper around them.

    Raises:
        InvalidHyperparameter: the file holds no tensors by name.
    """
    try:
        # the file is not ours, but weights_only runs no code
        weights = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise InvalidHyperparameter(f"{KEY}.checkpoint_path: {file} holds no plain weights: {type(error).__name__}: {first}") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(weights, Mapping) and isinstance(weights.get(wrapper), Mapping):
            weights = weights[wrapper]
    if not isinstance(weights, Mapping):
        raise InvalidHyperparameter(f"{KEY}.checkpoint_path: {file} holds no weights by name, but a {type(weights).__name__}")
    return {str(key).removeprefix("module.").removeprefix("_orig_mod."): value for key, value in weights.items() if isinstance(value, torch.Tensor)}


def _fitting(own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in weights.items() if key in own and value.shape == own[key].shape}


def _absent(own: Mapping[str, torch.Tensor], fitting: Mapping[str, torch.Tensor]) -> list[str]:
    return sorted(key for key in own.keys() - fitting.keys() if not key.endswith("num_batches_tracked"))  # older files lack it


def _load_backbone(backbone: nn.Module, file: Path) -> None:
    """Loads the weights of a file that the user named, except those of a classifier.

    Raises:
        InvalidHyperparameter: the file holds no weights, or those of another model.
    """
    weights, own = _read_weights(file), backbone.state_dict()
    fitting = _fitting(own, weights)
    adapt: Any = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if _absent(own, fitting) and adapt:  # timm's own: converts other image sizes, and names of other libraries
        with contextlib.suppress(Exception):
            fitting = _fitting(own, adapt(weights, backbone))
    if absent := _absent(own, fitting):
        named = f"{', '.join(absent[:3])}{', ...' if absent[3:] else ''}"
        raise InvalidHyperparameter(
            f"{KEY}.checkpoint_path: {file} lacks {len(absent)} of the {len(own)} tensors of this model, or has them in another shape: {named}"
        )
    backbone.load_state_dict(fitting)
