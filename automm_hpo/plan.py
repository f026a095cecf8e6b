"""A call of ``fit``, checked and decided: reads files, writes none, starts no process. All problems of a call are found together."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from .config import Config
from .data.cache import MEND
from .data.columns import IMAGE_TYPES, ColumnTypes, check_names, infer_columns
from .data.decoding import decode_all, describe, find_absent
from .data.encoders import EncodedTable, Encoders, fit_encoders
from .data.features import Features
from .data.images import cover
from .data.ngrams import MOST_CLASSES, fit_ngrams, score_names
from .data.split import train_valid_split
from .data.tables import fingerprint as fingerprint_table
from .data.tables import load_table
from .data.text import cover_texts, load_tokenizer
from .errors import (
    BadImages,
    InvalidArgument,
    InvalidData,
    InvalidSpace,
    InvalidTuneSettings,
    NotSupported,
    Problems,
    did_you_mean,
)
from .hpo.cluster import known_resources
from .hpo.job import first_points, limits_of, resolve_settings
from .hpo.ray_space import candidate_configs, point_to_raw, split_hyperparameters
from .hpo.session import SearchIdentity
from .hpo.settings import DEFAULT_NUM_TRIALS, TuneSettings, check_resources, parse_tune_settings
from .metrics import DEFAULT_METRIC, OBJECT, Metric, check_fits, find_metric
from .models import (
    GEOMETRY_KEYS,
    MODEL_KEYS,
    MODELS,
    TEXT_KEYS,
    can_read,
    check_model,
    fetch_weights,
    image_spec,
    is_pretrained,
    text_spec,
    used_models,
)
from .presets import Occasion, is_searching, join_tune_kwargs, may_be_probed, resolve_preset, searched_from
from .problem import PROBLEM_TYPES, Problem, encode_weights, infer_problem
from .space import RawProposal, SearchSpace, describe_space, space_from_json, space_to_json, tuned_keys
from .training.evaluate import find_device, undefined_on

REFUSED_TYPES = (  # AutoMM's, that are known here by name only
    "object_detection", "open_vocabulary_object_detection", "ner", "named_entity_recognition", "semantic_segmentation", "few_shot_classification",
    "zero_shot_image_classification", "image_similarity", "text_similarity", "image_text_similarity",
)  # fmt: skip


FEATURE_EXTRACTION = "feature_extraction"


@dataclass(frozen=True)
class Target:
    """What the user said of the label; None is inferred. A metric is a name or a scorer object."""

    label: str | None
    problem_type: str | None
    eval_metric: Any
    validation_metric: Any
    sample_weight: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The arguments of the predictor; of a scorer object only the name."""
        metrics = {name: getattr(self, name) for name in ("eval_metric", "validation_metric")}
        return asdict(self) | {name: find_metric(metric, name).name if metric is not None else None for name, metric in metrics.items()}

    def searched_by(self, settings: TuneSettings) -> Self:
        """The same, with the metric that the search was told to go by.

        Raises:
            InvalidTuneSettings: the predictor was told another.
        """
        if settings.metric is None:
            return self
        metric = find_metric(settings.metric, "hyperparameter_tune_kwargs: metric")
        if self.validation_metric is not None and find_metric(self.validation_metric, "validation_metric") != metric:
            raise InvalidTuneSettings(
                f"hyperparameter_tune_kwargs: metric={settings.metric!r}, but the predictor's validation_metric is {self.validation_metric!r}; give one of them"
            )
        return replace(self, validation_metric=settings.metric)


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
    sample_weight: str | None = None

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "valid": self.valid}

    def encode(self, split: Split, encoders: Encoders, report: Callable[[str], None] = lambda line: None) -> EncodedTable:
        """Rows with their targets as arrays; pictures still to be decoded."""
        target = self.problem.encode(split.table[self.problem.label])
        return encoders.transform(split.table, split.folder, target, self.weights(split), report, held_out=split is self.train)

    def weights(self, split: Split) -> np.ndarray | None:
        """(N,) float32 of the rows, scaled to a mean of 1 over those of training; None where all count alike."""
        if self.sample_weight is None or self.sample_weight not in split.table.columns:
            return None
        mean = encode_weights(self.train.table[self.sample_weight]).mean()
        return (encode_weights(split.table[self.sample_weight], may_be_zero=split is not self.train) / mean).astype(np.float32)

    def fit_scorer(self, encoders: Encoders, seed: int, time_limit: float | None) -> Encoders:
        """The encoders with the linear models of the texts' words, where those are wanted."""
        if not encoders.score_names:
            return encoders
        table, columns = self.train.table, encoders.text_columns
        target = self.problem.encode(table[self.problem.label])
        return encoders.with_scorer(fit_ngrams(table, columns, target, self.weights(self.train), self.problem, seed, time_limit))


@dataclass(frozen=True)
class SearchPlan:
    """What is tried. Without a space, ``settings`` are the defaults and there is one trial.

    Attributes:
        given: the fixed values, by canonical key: what the user gave, and what a preset or these data add to it.
        first_points: raw proposals to try before the searcher's own.
        added: of ``given`` and ``space``, the keys that a preset or these data added.
    """

    config: Config
    given: Mapping[str, Any]
    space: SearchSpace
    settings: TuneSettings
    first_points: tuple[RawProposal, ...] = ()
    added: tuple[str, ...] = ()

    @property
    def num_trials(self) -> int:
        return self.settings.num_trials or DEFAULT_NUM_TRIALS if self.space else 1


@dataclass(frozen=True)
class FitPlan:
    """Attributes:
    identity: what makes the search the same in another call.
    resuming: the folder holds this search already.
    time_limit: seconds that ``fit`` was given; None: no limit.
    deadline: time.time() at which ``fit`` must return; None: no limit.
    ensemble_size: most models of an ensemble; 1: none.
    refit: instead train the best configuration again, on all rows; none are left to validate that.
    """

    path: Path
    data: DataPlan
    search: SearchPlan
    encoders: Encoders
    seed: int
    identity: SearchIdentity
    resuming: bool
    time_limit: float | None
    deadline: float | None
    ensemble_size: int = 1
    refit: bool = False

    def with_scorer(self) -> Self:
        """The plan with what words say learned, where that is wanted: it takes a while, and a search that has finished needs it no more."""
        return replace(self, encoders=self.data.fit_scorer(self.encoders, self.seed, self.time_limit))


def plan_search(
    layers: Sequence[Mapping[str, Any] | None],
    tune_kwargs: Mapping[str, Any] | str | None,
    presets: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> SearchPlan:
    """Takes the hyperparameters apart and checks that every trial they allow could start.

    Args:
        layers: hyperparameters of the predictor and of the call; a later one wins.
        presets: the name of what is added when the data are known (``plan_defaults``).
        defaults: of what is searched, where they are not the fields' own.

    Raises:
        AutoMMHPOError: all problems together.
    """
    problems = Problems()
    settings, points = TuneSettings(), []
    understood = tune_kwargs is None
    if tune_kwargs is not None:
        with problems.gather():
            settings = parse_tune_settings(tune_kwargs)
            understood = True
            if (available := known_resources()) is not None:
                check_resources(settings, available)
    with problems.gather():
        fixed, space = split_hyperparameters(*({} if layer is None else layer for layer in layers))
        if settings.resources.get("gpu") == 0:  # not to be had, and so not to be used
            fixed = {"env.num_gpus": 0} | fixed
        config = Config.from_flat(fixed)
        if not is_searching(presets):  # which brings what may be missing here
            _check_space_and_settings(space, tune_kwargs)
        if space and understood:  # else the defaults would be blamed
            settings = resolve_settings(settings, space)
            searched = tuned_keys(space)
            points = first_points(settings, space, config.flat() | {key: value for key, value in (defaults or {}).items() if key in searched}, point_to_raw)
        with problems.gather():
            find_device(config.env)
        for candidate in candidate_configs(config, space, MODEL_KEYS):
            with problems.gather():
                check_model(candidate)
    problems.raise_any()
    return SearchPlan(config, fixed, space, settings, tuple(points))


def plan_defaults(
    search: SearchPlan,
    data: DataPlan,
    layers: Sequence[Mapping[str, Any] | None],
    tune_kwargs: Mapping[str, Any] | str | None,
    presets: str | None,
) -> SearchPlan:
    """The search again, with a preset, or the defaults that these data call for, beneath what the user gave.

    Args:
        search: of the user's ``layers`` alone.

    Raises:
        AutoMMHPOError: all problems together.
    """
    columns = data.columns
    kinds = Features(  # as much of it as is known before the columns are encoded: which kinds there are
        len(columns.of_type(*IMAGE_TYPES)), columns.of_type("numerical", "datetime"), (2,) * len(columns.of_type("categorical")), len(columns.of_type("text"))
    )
    configs = candidate_configs(search.config, search.space, MODEL_KEYS)
    names = _without_transformers(search, kinds)
    if names and _with_scores(kinds, data.problem, others := [config.with_overrides(names) for config in configs]).num_scores:
        configs = others
    else:
        names = {}
    kinds = _with_scores(kinds, data.problem, configs)
    used = {name for config in configs for name in used_models(config, kinds)}
    occasion = Occasion(
        tuple(name for name in MODELS if name in used),
        any(is_pretrained(config, kinds) for config in configs),
        len(data.train.table),
        data.problem.problem_type,
        find_device(search.config.env).type,
        may_be_probed(search.config.optim.linear_probe, len(data.train.table)),
    )
    preset = resolve_preset(presets, occasion)
    preset = replace(preset, hyperparameters={**names, **preset.hyperparameters})
    whole = plan_search((preset.hyperparameters, *layers), join_tune_kwargs(preset, tune_kwargs), presets, searched_from(presets, occasion))
    return replace(whole, added=tuple(key for key in preset.hyperparameters if key not in search.given and key not in search.space))


def _without_transformers(search: SearchPlan, kinds: Features) -> dict[str, Any]:
    """The models to use where texts are to be read, the transformers library is not installed, and nobody asked for it; else nothing."""
    asked = {"model.names", "model.hf_text.checkpoint_name"} & {*search.given, *search.space}
    if not kinds.num_texts or asked or importlib.util.find_spec("transformers") is not None:
        return {}
    return {"model.names": [name for name in search.config.model.names if name != "hf_text"]}


def _with_scores(features: Features, problem: Problem, configs: Sequence[Config]) -> Features:
    """The features, with the numbers that the words of the texts give, where these trials want them."""
    names, wanted = score_names(problem), configs[0].data.text.words
    scored = replace(features, numeric=(*features.numeric, *names), num_scores=len(names))
    auto = len(names) <= MOST_CLASSES and all(can_read(config, scored) for config in configs)
    return scored if features.num_texts and (wanted == "on" or (wanted == "auto" and auto)) else features


def plan_identity(data: DataPlan, search: SearchPlan, encoders: Encoders, seed: int, call: Mapping[str, Any], limits: Mapping[str, Any]) -> SearchIdentity:
    """What tells this search from another one.

    Args:
        call: fit's other arguments, JSON values.
        limits: those of fit that may change from call to call.
    """
    settings = search.settings
    fingerprint = {
        "label": data.problem.label,
        "sample_weight": data.sample_weight,
        "problem_type": data.problem.problem_type,
        "validation_metric": data.validation_metric.name,
        # an order that the user gave is that of the heads in the checkpoints, and the tables' values do not show it
        **({"classes": list(data.problem.class_labels)} if data.problem.label_dtype == "category" else {}),
        "columns": dict(data.columns),
        **{name: fingerprint_table(split.table, encoders.image_files(split.table, split.folder)) for name, split in data.splits.items()},
        "seed": seed,
        **{key: value for key, value in search.config.flat().items() if key not in search.space},
        **describe_space(search.space),
    }
    changeable: dict[str, Any] = {}
    if search.space:
        stated, changeable = limits_of(settings)
        fingerprint |= stated
    return SearchIdentity.of(fingerprint, changeable | dict(limits), call)


def stored_search(search: SearchPlan, tune_kwargs: Mapping[str, Any] | str | None, data: DataPlan) -> dict[str, Any]:
    """The hyperparameters and tune kwargs of a call as JSON holds them; ``unstorable`` says why it cannot."""
    objects = [metric.name.removeprefix(OBJECT) for metric in (data.eval_metric, data.validation_metric) if metric.is_object]
    if objects:
        return {"unstorable": f"its metric {objects[0]} is a scorer object"}
    try:
        return {"hyperparameters": dict(search.given), "space": space_to_json(search.space), "hyperparameter_tune_kwargs": json.loads(json.dumps(tune_kwargs))}
    except (InvalidSpace, TypeError, ValueError) as problem:
        return {"unstorable": str(problem)}


def restored_call(identity: SearchIdentity) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arguments of the predictor, arguments of ``fit``) of the call that began a search.

    Raises:
        NotSupported: it was given something that only code can hold.
    """
    if identity.call.get("kind") == "objective":
        raise NotSupported("resume=True: this is a search of tune_objective, and no file holds its function; make the same tune_objective call again")
    target, call = dict(identity.call["target"]), dict(identity.call["fit"])
    if reason := call.pop("unstorable", None):
        raise NotSupported(f"resume=True: this search cannot be begun from its folder alone ({reason}); make the same fit call again, that resumes it too")
    given = {key: value for key, value in call.pop("hyperparameters").items() if key not in identity.chosen}
    # in layers: a fixed value may stand beneath a conditional space that gives it in some branches only
    return target | {"hyperparameters": given}, call | {"hyperparameters": space_from_json(call.pop("space"))}


def plan_weights(search: SearchPlan, encoders: Encoders) -> Encoders:
    """Has the pretrained weights of all trials at hand, and the tokenizers of their texts, fetched where they are not.

    Returns:
        The encoders with the tokenizers.

    Raises:
        WeightsUnavailable, InvalidInput
    """
    problems = Problems()
    for config in candidate_configs(search.config, search.space, MODEL_KEYS):
        with problems.gather():
            fetch_weights(config, encoders.features)
    problems.raise_any()  # where weights cannot be had, the same would be said of their tokenizer
    configs = candidate_configs(search.config, search.space, ("model.names", *TEXT_KEYS))
    texts = [config for config in configs if "hf_text" in used_models(config, encoders.features)]
    tokenizers = {}
    for spec in cover_texts([text_spec(config) for config in texts]):
        with problems.gather():
            tokenizers[spec.checkpoint_name] = load_tokenizer(spec)
    problems.raise_any()
    return encoders.with_tokenizers(tokenizers)


def _check_space_and_settings(space: SearchSpace, tune_kwargs: Mapping[str, Any] | str | None) -> None:
    if space and tune_kwargs is None:
        raise InvalidTuneSettings(
            f"{', '.join(space)} have search spaces, and hyperparameter_tune_kwargs is None: give it (e.g. 'auto'), or give fixed values instead"
        )
    if not space and tune_kwargs is not None:
        raise InvalidTuneSettings(
            "hyperparameter_tune_kwargs is given, and no hyperparameter has a search space: give one a tune.* space, name a preset that has "
            "(presets='medium_quality_hpo'), or leave hyperparameter_tune_kwargs out"
        )


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
    if target.problem_type == FEATURE_EXTRACTION:
        raise NotSupported("problem_type: there is nothing to fit for feature_extraction; call extract_embedding(data)")
    table, folder = load_table(train_data, "train_data")
    label = _find_label(table, target.label)
    problem = infer_problem(table[label], label, target.problem_type)
    eval_metric = find_metric(target.eval_metric or DEFAULT_METRIC[problem.problem_type], "eval_metric")
    validation_metric = find_metric(target.validation_metric, "validation_metric") if target.validation_metric else eval_metric
    problems = Problems()
    with problems.gather():
        check_fits(eval_metric, problem.problem_type, "eval_metric")
    if validation_metric is not eval_metric:
        with problems.gather():
            check_fits(validation_metric, problem.problem_type, "validation_metric")
    problems.raise_any()
    check_names(table.columns)
    targets = [label, *([] if target.sample_weight is None else [_find_weights(table, target.sample_weight, label)])]
    columns = infer_columns(table, targets, folder, column_types)
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
    if eval_metric.scorer is not None:
        undefined_on(eval_metric, problem, valid_target)  # whether it can be computed at all
    return DataPlan(Split(train, folder), valid, problem, columns, eval_metric, validation_metric, target.sample_weight)


def plan_encoders(data: DataPlan, search: SearchPlan) -> Encoders:
    """The encoding that serves every trial, but for the tokenizers, which ``plan_weights`` adds.

    Raises:
        InvalidData, InvalidInput: values that are not of their column's type, in either split; all problems together.
        BadImages: files that are not there; those that do not decode are found when they are decoded.
    """
    own, geometry = search.config.data, None
    if data.columns.of_type(*IMAGE_TYPES):
        geometry = cover([image_spec(config) for config in candidate_configs(search.config, search.space, GEOMETRY_KEYS)], own.image.max_pixels)
    encoders = fit_encoders(data.columns, data.train.table, own, geometry)
    if _with_scores(encoders.features, data.problem, candidate_configs(search.config, search.space, MODEL_KEYS)).num_scores:
        encoders = replace(encoders, score_names=score_names(data.problem))
    if encoders.features == Features():
        raise InvalidData(
            f"no column to learn from: in the {len(data.train.table)} rows to train on, nothing of {', '.join(map(repr, data.columns.used))} comes twice. "
            "Give column_types={column: 'text'} for columns that are worth reading, or other columns"
        )
    problems, images = Problems(), {}
    for name, split in data.splits.items():
        with problems.gather():
            images[name] = data.encode(split, encoders).images
    problems.raise_any()
    strategy = own.image.missing_value_strategy
    if geometry is not None and strategy != "skip" and any(find_absent(sources, strategy) for sources in images.values()):
        # it is refused in any case: then let all bad files be named at once
        bad = {name: (decode_all(sources, geometry, strategy=strategy), list(data.splits[name].table.index)) for name, sources in images.items()}
        raise BadImages("\n".join(f"{name}: {describe(found, labels)}" for name, (found, labels) in bad.items() if found) + f" {MEND}")
    return encoders


def check_models(search: SearchPlan, features: Features) -> None:
    """Raises:
    AutoMMHPOError: a trial's models do not suit the columns; all problems together.
    """
    problems = Problems()
    for config in candidate_configs(search.config, search.space, MODEL_KEYS):
        with problems.gather():
            check_model(config, features)
    problems.raise_any()


def plan_embedding(layers: Sequence[Mapping[str, Any] | None], table: pd.DataFrame, folder: Path, label: str | None) -> tuple[Config, Encoders]:
    """What an untrained, pretrained model makes of a table's images and texts; it has nothing to say of the other columns.

    Raises:
        InvalidData: there is neither an image nor a text column.
        WeightsUnavailable, InvalidInput
    """
    search = plan_search(layers, None)
    columns = infer_columns(table, [label], folder)
    read = {column: kind if kind in (*IMAGE_TYPES, "text") else "null" for column, kind in columns.items()}
    if set(read.values()) == {"null"}:
        found = ", ".join(f"{column!r} ({kind}: {columns.reasons[column]})" for column, kind in columns.items())
        raise InvalidData(f"no column that a pretrained model could read: expected images or texts, got {found}")
    geometry = cover([image_spec(search.config)], search.config.data.image.max_pixels)
    encoders = fit_encoders(ColumnTypes(read, columns.reasons), table, search.config.data, geometry)
    check_models(search, encoders.features)
    return search.config, plan_weights(search, encoders)


def _find_label(train: pd.DataFrame, label: str | None) -> str:
    if label is None or not isinstance(label, Hashable):
        raise InvalidArgument(f"label: expected the name of the column to predict, got {label!r}; MultiModalPredictor(label=...)")
    if label not in train.columns:
        hint = did_you_mean(str(label), map(str, train.columns))
        raise InvalidData(f"train_data: has no label column {label!r}; it has {_names(train)}.{hint}")
    if train.empty:
        raise InvalidData("train_data: has no rows")
    return label


def _find_weights(train: pd.DataFrame, column: str, label: str) -> str:
    if not isinstance(column, Hashable) or column == label:
        raise InvalidArgument(f"sample_weight: expected the name of a column of weights, not the label's, got {column!r}")
    if column not in train.columns:
        hint = did_you_mean(str(column), map(str, train.columns))
        raise InvalidData(f"train_data: has no sample_weight column {column!r}; it has {_names(train)}.{hint}")
    encode_weights(train[column])
    return column


def _names(table: pd.DataFrame) -> str:
    return ", ".join(map(repr, table.columns)) or "no columns"


def _check_tuning_data(table: pd.DataFrame, columns: ColumnTypes, label: str) -> None:
    if table.empty:
        raise InvalidData("tuning_data: has no rows; leave it out to hold some of train_data out")
    absent = [column for column in (label, *columns.used) if column not in table.columns]
    if absent:
        raise InvalidData(f"tuning_data: lacks the columns {', '.join(map(repr, absent))}; it has {_names(table)}")


# ------------------------------------------------------------------------------------------------- single arguments of a call


def check_problem_type(problem_type: str | None) -> None:
    if problem_type in REFUSED_TYPES:
        raise NotSupported(f"problem_type: {problem_type} is not covered here; {', '.join((*PROBLEM_TYPES, FEATURE_EXTRACTION))} are")
    known = (*PROBLEM_TYPES, FEATURE_EXTRACTION)
    if problem_type is not None and problem_type not in known:
        hint = did_you_mean(str(problem_type), known)
        raise InvalidArgument(f"problem_type: expected one of {', '.join(known)}, got {problem_type!r}.{hint}")
