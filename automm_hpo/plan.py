"""A call of ``fit``, checked and decided: reads files, writes none, starts no process. All problems of a call are found together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .artifact import is_predictor
from .config import Config, canonical_key
from .data.columns import ColumnTypes, infer_columns
from .data.encoders import Encoders, fit_encoders
from .data.images import cover
from .data.split import train_valid_split
from .data.tables import load_table
from .errors import InvalidArgument, InvalidData, InvalidTuneSettings, NotSupported, Problems, SavePathExists, did_you_mean
from .hpo.ray_space import candidate_configs, split_hyperparameters
from .hpo.settings import TuneSettings, check_resources, local_resources, parse_tune_settings
from .metrics import DEFAULT_METRIC, Metric, check_fits, find_metric
from .models import check_model, image_spec
from .problem import PROBLEM_TYPES, Problem, infer_problem
from .space import SearchSpace
from .training.evaluate import find_device, undefined_on

REFUSED_TYPES = (  # AutoMM's, that are known here by name only
    "object_detection", "open_vocabulary_object_detection", "ner", "named_entity_recognition", "semantic_segmentation", "few_shot_classification",
    "zero_shot_image_classification", "image_similarity", "text_similarity", "image_text_similarity", "feature_extraction",
)  # fmt: skip
GEOMETRY_KEYS = ("model.timm_image.checkpoint_name", "model.timm_image.image_size")
MODEL_KEYS = (*GEOMETRY_KEYS, "model.timm_image.pretrained", "model.timm_image.checkpoint_path", "model.timm_image.drop_path_rate")


@dataclass(frozen=True)
class Target:
    """What the user said of the label; None is inferred."""

    label: str | None
    problem_type: str | None
    eval_metric: str | None
    validation_metric: str | None


@dataclass(frozen=True)
class Split:
    """Rows, and the folder that their relative paths count from."""

    table: pd.DataFrame
    folder: Path


@dataclass(frozen=True)
class DataPlan:
    """What is learned from."""

    train: Split
    valid: Split
    problem: Problem
    columns: ColumnTypes
    eval_metric: Metric
    validation_metric: Metric


@dataclass(frozen=True)
class SearchPlan:
    """What is tried. Without a space, ``settings`` are the defaults and there is one trial."""

    config: Config
    space: SearchSpace
    settings: TuneSettings

    @property
    def num_trials(self) -> int:
        return self.settings.num_trials if self.space else 1


@dataclass(frozen=True)
class FitPlan:
    """Attributes:
    deadline: time.time() at which ``fit`` must return; None: no limit.
    """

    path: Path
    data: DataPlan
    search: SearchPlan
    encoders: Encoders
    seed: int
    deadline: float | None


def plan_search(hyperparameters: Mapping[str, Any], defaults: Mapping[str, Any], tune_kwargs: Mapping[str, Any] | str | None) -> SearchPlan:
    """Takes the hyperparameters apart and checks that every trial they allow could start.

    Args:
        defaults: the predictor's own hyperparameters, which ``hyperparameters`` override.

    Raises:
        AutoMMHPOError: all problems together.
    """
    problems = Problems()
    config, settings = Config(), TuneSettings()
    space: SearchSpace = {}
    with problems.gather():
        if isinstance(hyperparameters, Mapping):
            given = {canonical_key(str(key)) for key in hyperparameters}
            hyperparameters = {key: value for key, value in defaults.items() if canonical_key(str(key)) not in given} | dict(hyperparameters)
        fixed, space = split_hyperparameters(hyperparameters)
        config = Config.from_flat(fixed)
    if not problems.found:  # which keys are searched is known only when they could be read
        with problems.gather():
            settings = _tune_settings(space, tune_kwargs)
        with problems.gather():
            find_device(config.env)
        for candidate in candidate_configs(config, space, MODEL_KEYS):
            with problems.gather():
                check_model(candidate)
    elif tune_kwargs is not None:
        with problems.gather():
            parse_tune_settings(tune_kwargs)
    problems.raise_any()
    return SearchPlan(config, space, settings)


def _tune_settings(space: SearchSpace, tune_kwargs: Mapping[str, Any] | str | None) -> TuneSettings:
    if tune_kwargs is None:
        if space:
            raise InvalidTuneSettings(
                f"{', '.join(space)} have search spaces, and hyperparameter_tune_kwargs is None: give it (e.g. 'auto'), or give fixed values instead"
            )
        return TuneSettings()
    settings = parse_tune_settings(tune_kwargs)
    if not space:
        raise InvalidTuneSettings(
            "hyperparameter_tune_kwargs is given, and no hyperparameter has a search space: give one a tune.* space, or leave hyperparameter_tune_kwargs out"
        )
    check_resources(settings, local_resources())
    return settings


def plan_data(
    target: Target,
    train_data: Any,
    tuning_data: Any,
    max_num_tuning_data: int | None,
    holdout_frac: float | None,
    column_types: Mapping[str, str] | None,
    seed: int,
) -> DataPlan:
    """Reads the tables, works out the problem and the columns, and splits.

    Raises:
        InvalidData, InvalidArgument, MissingData, NotSupported
    """
    table, folder = load_table(train_data, "train_data")
    label = _find_label(table, target.label)
    problem = infer_problem(table[label], label, target.problem_type)
    eval_metric = find_metric(target.eval_metric or DEFAULT_METRIC[problem.problem_type], "eval_metric")
    validation_metric = find_metric(target.validation_metric or eval_metric.name, "validation_metric")
    problems = Problems()
    for metric, argument in {eval_metric: "eval_metric", validation_metric: "validation_metric"}.items():
        with problems.gather():
            check_fits(metric, problem.problem_type, argument)
    problems.raise_any()
    columns = infer_columns(table, label, folder, column_types)
    if tuning_data is None:
        train, held_out = train_valid_split(table, problem, holdout_frac, seed)
        valid = Split(held_out, folder)
    else:
        train, valid = table, Split(*load_table(tuning_data, "tuning_data"))
        _check_tuning_data(valid.table, columns, label)
        if max_num_tuning_data is not None and len(valid.table) > max_num_tuning_data:
            valid = Split(valid.table.sample(max_num_tuning_data, random_state=seed), valid.folder)
    valid_target = problem.encode(valid.table[label])  # classes that train lacks are refused here
    if why := undefined_on(validation_metric, problem, valid_target):
        raise InvalidData(f"validation_metric: {validation_metric.name} is undefined on the {len(valid_target)} validation rows: {why}")
    return DataPlan(Split(train, folder), valid, problem, columns, eval_metric, validation_metric)


def plan_encoders(data: DataPlan, search: SearchPlan) -> Encoders:
    """The decoding that serves every trial."""
    return fit_encoders(data.columns, cover([image_spec(config) for config in candidate_configs(search.config, search.space, GEOMETRY_KEYS)]))


def _find_label(train: pd.DataFrame, label: str | None) -> str:
    if label is None:
        raise InvalidArgument("label: expected the name of the column to predict, got None; MultiModalPredictor(label=...)")
    if label not in train.columns:
        hint = did_you_mean(str(label), map(str, train.columns))
        raise InvalidData(f"train_data: has no label column {label!r}; it has {', '.join(map(repr, train.columns))}.{hint}")
    if train.empty:
        raise InvalidData("train_data: has no rows")
    return label


def _check_tuning_data(table: pd.DataFrame, columns: ColumnTypes, label: str) -> None:
    if table.empty:
        raise InvalidData("tuning_data: has no rows; leave it out to hold some of train_data out")
    absent = [column for column in (label, *columns.of_type("image_path")) if column not in table.columns]
    if absent:
        raise InvalidData(f"tuning_data: lacks the columns {', '.join(map(repr, absent))}; it has {', '.join(map(repr, table.columns))}")


def plan_path(path: str | Path | None) -> Path:
    """The folder of a fit, absolute; a new name after the time where none is given.

    Raises:
        SavePathExists, InvalidArgument
    """
    if path is None:
        return Path("automm_hpo_models").absolute() / datetime.now().strftime("%Y%m%d_%H%M%S_%f")
    absolute = absolute_path(path, "save_path")
    check_unused(absolute, "save_path")
    return absolute


def absolute_path(path: str | Path, argument: str) -> Path:
    """Raises:
    InvalidArgument: it is no path.
    """
    if not isinstance(path, (str, Path)) or not str(path):
        raise InvalidArgument(f"{argument}: expected a folder's path, got {path!r}")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # "~nobody"
        raise InvalidArgument(f"{argument}: {error}") from None


def check_unused(path: Path, argument: str) -> None:
    """Raises:
    SavePathExists: somebody's files are there.
    """
    parent = next((folder for folder in path.parents if folder.exists()), None)
    if (path.exists() and not path.is_dir()) or (parent is not None and not parent.is_dir()):
        raise SavePathExists(f"{argument}: {path if path.exists() else parent} is a file; give a new or an empty folder")
    if path.is_dir() and any(path.iterdir()):
        whose = "a predictor or a search" if is_predictor(path) or (path / "search").is_dir() else "files"
        raise SavePathExists(f"{argument}: {path} already holds {whose}; give a new or an empty folder. Nothing in it was touched.")


# ------------------------------------------------------------------------------------------------- single arguments of a call


def check_problem_type(problem_type: str | None) -> None:
    if problem_type in REFUSED_TYPES:
        raise NotSupported(f"problem_type: {problem_type} is not covered here; {', '.join(PROBLEM_TYPES)} are")
    if problem_type is not None and problem_type not in PROBLEM_TYPES:
        hint = did_you_mean(str(problem_type), PROBLEM_TYPES)
        raise InvalidArgument(f"problem_type: expected one of {', '.join(PROBLEM_TYPES)}, got {problem_type!r}.{hint}")


def check_presets(presets: str | None) -> None:
    if presets is not None:
        raise NotSupported(f"presets: this version has none, got {presets!r}; name a model with model.timm_image.checkpoint_name")


def check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InvalidArgument(f"seed: expected an integer >= 0, got {seed!r}")


def check_holdout_frac(holdout_frac: float | None) -> None:
    if holdout_frac is not None and not (isinstance(holdout_frac, float) and 0 < holdout_frac < 1):
        raise InvalidArgument(f"holdout_frac: expected a float between 0 and 1, got {holdout_frac!r}")


def check_max_num_tuning_data(limit: int | None) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidArgument(f"max_num_tuning_data: expected an integer >= 1, got {limit!r}")


def check_tracking(tracking: str | None) -> None:
    if tracking not in ("mlflow", None):
        raise InvalidArgument(f"tracking: expected 'mlflow' or None, got {tracking!r}")


def check_verbosity(verbosity: int) -> None:
    if isinstance(verbosity, bool) or not isinstance(verbosity, int) or verbosity < 0:
        raise InvalidArgument(f"verbosity: expected an integer >= 0, got {verbosity!r}")


def check_time_limit(time_limit: float | None) -> None:
    number = isinstance(time_limit, (int, float)) and not isinstance(time_limit, bool)
    if time_limit is not None and not (number and 0 < time_limit < math.inf):
        raise InvalidArgument(f"time_limit: expected seconds > 0 or None, got {time_limit!r}")


FIT_CHECKS: dict[str, Callable[[Any], None]] = {
    "presets": check_presets,
    "seed": check_seed,
    "holdout_frac": check_holdout_frac,
    "max_num_tuning_data": check_max_num_tuning_data,
    "tracking": check_tracking,
    "time_limit": check_time_limit,
}
