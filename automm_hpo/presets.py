"""Presets, and the defaults of a fit without one: plain data, every value of which the user could have written.

The user's values win over a preset's, and a preset's over the fields' own defaults in ``config.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InvalidArgument, did_you_mean
from .space import choice, loguniform, uniform

PROBED_ROWS = 20_000  # with more training rows, a trial begins with a linear probe only on request, see ``training/probe.py``
TABLE_FOLDS, FOLDED_ROWS = 4, 10_000  # of larger tables, enough rows can be held out without being missed
TUNE_PRESETS: dict[str, dict[str, Any]] = {
    "auto": {},  # the defaults
    "bayes": {"searcher": "bayes", "scheduler": "ASHA"},
    "random": {"searcher": "random", "scheduler": "FIFO"},
}
"""``hyperparameter_tune_kwargs`` by name."""


def may_be_probed(linear_probe: str, num_rows: int) -> bool:
    """Whether a trial with pretrained weights begins with a linear probe."""
    # with more rows, an epoch of fine-tuning trains the head well enough, and computing the features takes long
    return linear_probe == "on" or (linear_probe == "auto" and num_rows <= PROBED_ROWS)


@dataclass(frozen=True)
class Occasion:
    """What the defaults depend on.

    Attributes:
        models: the backbones that have a column to read.
        is_pretrained: at least one of them begins from published weights.
        num_rows: number of training rows.
        problem_type: binary, multiclass or regression.
        device: ``cpu`` or ``cuda``.
        is_probed: a trial with pretrained weights begins with a linear probe.
        num_folds: folds for cross-validation within each trial; 0: rows to validate on are held out or given.
    """

    models: tuple[str, ...]
    is_pretrained: bool
    num_rows: int
    problem_type: str
    device: str
    is_probed: bool = False
    num_folds: int = 0

    @property
    def is_table(self) -> bool:
        """Whether neither an image model nor a text encoder is used."""
        return not {"timm_image", "hf_text"} & set(self.models)


@dataclass(frozen=True)
class Preset:
    """Hyperparameters, and how to search those that are spaces.

    Attributes:
        hyperparameters: dotted key -> value, or search space if the preset searches.
        tune_kwargs: its ``hyperparameter_tune_kwargs``; empty if it does not search.
        ensemble_size: most trials that the predictor combines.
    """

    hyperparameters: Mapping[str, Any]
    tune_kwargs: Mapping[str, Any] = field(default_factory=dict)
    ensemble_size: int = 1


def default_hyperparameters(occasion: Occasion) -> dict[str, Any]:
    """The defaults of a fit without a preset. The measurements behind them are in ``benchmarks/``."""
    found: dict[str, Any] = {"env.batch_size": _batch_size(occasion)}
    if occasion.num_folds:
        found["data.num_folds"] = occasion.num_folds
    if "real_mlp" in occasion.models and occasion.problem_type == "regression":
        found["model.real_mlp.activation"] = "mish"
    if occasion.is_pretrained:
        return found | {
            "optim.lr": 3e-4 if occasion.models == ("timm_image",) else 1e-4,
            "optim.lr_choice": "layerwise_decay",
            "optim.lr_mult": 1.0 if len(occasion.models) == 1 and occasion.is_probed else 10.0,  # 1: the probe has already fitted the head
            "optim.max_epochs": _fine_tuning_epochs(occasion),
            "model.timm_image.frozen_norm_stats": occasion.num_rows < 5_000,
        }
    if "real_mlp" in occasion.models and occasion.is_table:  # close to how its authors trained it (arXiv:2407.04491)
        return found | {
            "optim.lr": 2e-3 if occasion.problem_type == "regression" else 1e-3,
            "optim.lr_schedule": "coslog4",
            "optim.warmup_steps": 0.0,
            "optim.beta2": 0.95,
            "optim.weight_decay": 0.02,
            "optim.gradient_clip_val": 0.0,
            "optim.max_epochs": _table_epochs(occasion),
            "optim.patience": 40,
        }
    if occasion.models == ("ft_transformer",):
        return found | {"optim.lr": 1e-4, "optim.weight_decay": 1e-5, "optim.max_epochs": _table_epochs(occasion), "optim.patience": 16}
    if occasion.is_table:
        return found | {"optim.lr": 1e-3, "optim.max_epochs": _table_epochs(occasion), "optim.patience": 20}
    return found | {"optim.lr": 1e-3}


def _fine_tuning_epochs(occasion: Occasion) -> int:
    """Fewer with a text encoder: it has memorised the rows after three or four epochs, and each takes long."""
    few, many = (5, 3) if "hf_text" in occasion.models else (20, 10)
    return few if occasion.num_rows < 20_000 else many


def _batch_size(occasion: Occasion) -> int:
    """The largest size that gives at least 20 steps per epoch, but no less than 32."""
    largest = 256 if occasion.is_table else 128
    return next((size for size in (256, 128, 64, 32) if size <= largest and 20 * size <= occasion.num_rows), 32)


def _table_epochs(occasion: Occasion) -> int:
    """100, fewer with more than 30,000 rows, but at least 10."""
    return max(10, min(100, 3_000_000 // max(1, occasion.num_rows)))


# quality -> device -> the backbone that is worth its time there
IMAGE_MODELS = {
    "medium_quality": {"cpu": "mobilenetv3_large_100", "cuda": "mobilenetv3_large_100"},
    "high_quality": {"cpu": "efficientnet_b0", "cuda": "convnext_tiny.fb_in22k_ft_in1k"},
    "best_quality": {"cpu": "convnext_nano.in12k_ft_in1k", "cuda": "convnext_base.fb_in22k_ft_in1k"},
}
TEXT_MODELS = {
    "medium_quality": {"cpu": "sentence-transformers/all-MiniLM-L6-v2", "cuda": "sentence-transformers/all-MiniLM-L6-v2"},
    "high_quality": {"cpu": "sentence-transformers/all-MiniLM-L12-v2", "cuda": "sentence-transformers/all-mpnet-base-v2"},
    "best_quality": {"cpu": "sentence-transformers/all-mpnet-base-v2", "cuda": "BAAI/bge-large-en-v1.5"},
}
POOLED_BY_FIRST_TOKEN = ("BAAI/bge-large-en-v1.5",)  # as these were published; the other encoders take the mean of all tokens
NUM_MEMBERS = {"medium_quality": 4, "high_quality": 4, "best_quality": 8}  # networks in real_mlp
SEARCHED_MEMBERS = NUM_MEMBERS | {"medium_quality": 1}  # fewer, so that eight trials do not take long
TABLE_ENSEMBLE = 4  # trials; on few rows, the best of eight is often only the luckiest
NUM_TRIALS = {"medium_quality": 8, "high_quality": 20, "best_quality": 50}


def _fixed(quality: str, occasion: Occasion) -> Preset:
    encoder = TEXT_MODELS[quality][occasion.device]
    pooling = {"model.hf_text.pooling_mode": "cls"} if encoder in POOLED_BY_FIRST_TOKEN else {}
    return Preset(
        default_hyperparameters(occasion)
        | {
            "model.timm_image.checkpoint_name": IMAGE_MODELS[quality][occasion.device],
            "model.hf_text.checkpoint_name": encoder,
            "model.real_mlp.num_members": NUM_MEMBERS[quality],
        }
        | pooling
    )


def _searching(quality: str, occasion: Occasion) -> Preset:
    fixed = dict(_fixed(quality, occasion).hyperparameters)
    if not occasion.num_folds:
        fixed["model.real_mlp.num_members"] = SEARCHED_MEMBERS[quality]
    space: dict[str, Any] = {"optim.lr": loguniform(fixed["optim.lr"] / 5, fixed["optim.lr"] * 5), "optim.weight_decay": loguniform(1e-5, 1e-1)}
    if occasion.is_pretrained:
        space |= {"optim.lr_decay": choice([0.7, 0.8, 0.9, 1.0]), "optim.lr_mult": choice([1.0, 10.0, 30.0])}
        if "timm_image" in occasion.models:
            space["model.timm_image.frozen_norm_stats"] = choice([True, False])
    if "real_mlp" in occasion.models:
        space |= {
            "model.real_mlp.dropout": choice([0.0, 0.15, 0.3, 0.45]),
            "model.real_mlp.frequency_scale": loguniform(0.03, 1.0),
            "model.real_mlp.hidden_size": choice([128, 256, 512]),
        }
    if "ft_transformer" in occasion.models:
        space |= {"model.ft_transformer.num_blocks": choice([1, 2, 3, 4]), "model.ft_transformer.ffn_dropout": uniform(0.0, 0.5)}
    if len(occasion.models) > 1:
        space["model.fusion_mlp.modality_dropout"] = choice([0.0, 0.15, 0.3])
    return Preset({**fixed, **space}, {**TUNE_PRESETS["bayes"], "num_trials": NUM_TRIALS[quality]}, TABLE_ENSEMBLE if occasion.is_table else 1)


PRESETS: dict[str, Callable[[Occasion], Preset]] = {
    name: made
    for quality in IMAGE_MODELS
    for name, made in (
        (quality, lambda occasion, quality=quality: _fixed(quality, occasion)),
        (f"{quality}_hpo", lambda occasion, quality=quality: _searching(quality, occasion)),
    )
}


def is_searching(name: str | None) -> bool:
    """Whether a preset has a search space of its own."""
    return isinstance(name, str) and name.endswith("_hpo")


def check_preset(name: Any) -> None:
    """Refuses anything but the name of a preset, or None.

    Raises:
        InvalidArgument: there is no such preset.
    """
    if name is not None and (not isinstance(name, str) or name not in PRESETS):
        expected = f"presets: expected one of {', '.join(PRESETS)}, or None"
        if not isinstance(name, str):
            raise InvalidArgument(f"{expected}, got {type(name).__name__}. Rows to validate on are tuning_data=...")
        raise InvalidArgument(f"{expected}, got {name!r}.{did_you_mean(name, PRESETS)}")


def resolve_preset(name: str | None, occasion: Occasion) -> Preset:
    """The preset of that name; without a name, the defaults."""
    return Preset(default_hyperparameters(occasion)) if name is None else PRESETS[name](occasion)


def searched_from(name: str | None, occasion: Occasion) -> Mapping[str, Any]:
    """The values that a search tries first: those of the same preset without ``_hpo``, which has no spaces."""
    return resolve_preset(name and name.removesuffix("_hpo"), occasion).hyperparameters


def join_tune_kwargs(preset: Preset, given: Mapping[str, Any] | str | None) -> Mapping[str, Any] | str | None:
    """The user's ``hyperparameter_tune_kwargs`` over those of the preset."""
    if not preset.tune_kwargs or (isinstance(given, str) and given.lower() not in TUNE_PRESETS):
        return given
    return {**preset.tune_kwargs, **(TUNE_PRESETS[given.lower()] if isinstance(given, str) else given or {})}
