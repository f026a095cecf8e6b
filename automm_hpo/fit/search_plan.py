"""Plans the search: the user's hyperparameters on top of defaults that suit the data, and one encoding of the data for all trials."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config import Config, without_effect
from ..data.cache import MEND
from ..data.columns import IMAGE_TYPES
from ..data.decoding import decode_all, describe, find_absent
from ..data.encoders import Encoders, fit_encoders
from ..data.features import Features
from ..data.images import cover
from ..data.ngrams import MOST_CLASSES, score_names
from ..data.text import cover_texts, load_tokenizer
from ..errors import BadImages, InvalidData, InvalidHyperparameter, InvalidTuneSettings, Problems
from ..hpo.cluster import known_resources
from ..hpo.hyperparameter_space import candidate_configs, point_to_raw, split_hyperparameters, values_of
from ..hpo.job import first_points, resolve_settings
from ..hpo.settings import TuneSettings, check_resources, local_resources, parse_tune_settings
from ..hpo.warm_start import read_warm_start
from ..metrics import Metric
from ..models import GEOMETRY_KEYS, MODEL_KEYS, MODELS, TEXT_KEYS, can_read, check_model, fetch_weights, image_spec, is_pretrained, text_spec, used_models
from ..presets import FOLDED_ROWS, TABLE_FOLDS, Occasion, is_searching, join_tune_kwargs, may_be_probed, resolve_preset, searched_from
from ..problem import Problem
from ..space import SearchSpace, tuned_keys
from ..training.device import find_device
from .plan import DataPlan, SearchPlan, Task
from .start import Start


def plan_search(
    layers: Sequence[Mapping[str, Any] | None],
    tune_kwargs: Mapping[str, Any] | str | None,
    presets: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    start: Start | None = None,
) -> SearchPlan:
    """Splits the hyperparameters into fixed values and spaces, and checks that every trial they allow could start.

    Args:
        layers: hyperparameters of the predictor and of the call; later ones win.
        presets: name of the preset, which ``plan_defaults`` adds once the data are known.
        defaults: default values of searched hyperparameters that differ from those of their fields.
        start: a predictor to begin with; its hyperparameters are among the layers, and its model needs no check.

    Raises:
        AutoMMHPOError: all problems together.
    """
    problems = Problems()
    settings, points, available = TuneSettings(), [], None if tune_kwargs is None else known_resources()
    understood = tune_kwargs is None
    if tune_kwargs is not None:
        with problems.gather():
            settings = parse_tune_settings(tune_kwargs)
            understood = True
            if (wanted := settings.resources.get("gpu", 0)) > 1:
                problems.add(InvalidTuneSettings(f"resources_per_trial: a trial trains on one GPU at most for now, got {wanted:g}"))
            if available is not None:
                check_resources(settings, available)
    with problems.gather():
        fixed, space = split_hyperparameters(*({} if layer is None else layer for layer in layers))
        without = available is not None and not available["gpu"] and bool(local_resources()["gpu"])  # the user's Ray has no GPU, but does not hide ours
        if settings.resources.get("gpu") == 0 or (without and fixed.get("env.accelerator") != "gpu"):  # no GPU for trials, so none may be used here either
            fixed = {"env.num_gpus": 0} | fixed
        config = Config.from_flat(fixed)
        if config.optim.top_k is not None and "num_to_keep" not in settings.model_fields_set:
            settings = settings.model_copy(update={"num_to_keep": config.optim.top_k})
        if not is_searching(presets):  # such a preset adds a space and settings later
            _check_space_and_settings(space, tune_kwargs)
        if space and understood:  # otherwise errors would be about default settings, not the user's
            settings = resolve_settings(settings, space)
            searched = tuned_keys(space)
            points = first_points(settings, space, config.flat() | {key: value for key, value in (defaults or {}).items() if key in searched}, point_to_raw)
        with problems.gather():
            find_device(config.env)
        if start is not None:
            start.check(config, space)
        else:
            for candidate in candidate_configs(config, space, MODEL_KEYS):
                with problems.gather():
                    check_model(candidate)
    problems.raise_any()
    idle = {key: why for layer in layers if layer for key, why in without_effect(layer).items()}
    return SearchPlan(config, fixed, space, settings, tuple(points), without_effect=idle)


def plan_warm_start(search: SearchPlan, metric: Metric, resuming: bool) -> SearchPlan:
    """The search with the results of the earlier searches in ``warm_start``, if there are any.

    Raises:
        InvalidTuneSettings, NotSupported
    """
    found = read_warm_start(search.settings, search.space, search.config.flat(), metric, resuming)
    return replace(search, warm_start=found, first_points=found.before(search.first_points))


def _check_space_and_settings(space: SearchSpace, tune_kwargs: Mapping[str, Any] | str | None) -> None:
    if space and tune_kwargs is None:
        raise InvalidTuneSettings(
            f"there is a search space of {', '.join(space)}, and hyperparameter_tune_kwargs is None: give it (e.g. 'auto'), or give fixed values instead"
        )
    if not space and tune_kwargs is not None:
        raise InvalidTuneSettings(
            "hyperparameter_tune_kwargs is given, and no hyperparameter has a search space: give one a tune.* space, name a preset that has "
            "(presets='medium_quality_hpo'), or leave hyperparameter_tune_kwargs out"
        )


@dataclass(frozen=True)
class _Readers:
    """What reads the columns.

    Attributes:
        names: ``model.names`` if it must differ from the user's, as a dict of that one hyperparameter; otherwise empty.
        configs: one for every choice of models that trials may make.
        kinds: the kinds of the columns; the cardinalities are known only once the rows are encoded.
        used: the names of all models that have a column to read.
    """

    names: Mapping[str, Any]
    configs: Sequence[Config]
    kinds: Features
    used: Collection[str]


def _find_readers(search: SearchPlan, task: Task) -> _Readers:
    columns = task.columns
    kinds = Features(
        len(columns.of_type(*IMAGE_TYPES)), columns.of_type("numerical", "datetime"), (2,) * len(columns.of_type("categorical")), len(columns.of_type("text"))
    )
    configs = candidate_configs(search.config, search.space, MODEL_KEYS)
    names = _without_transformers(search, kinds)
    if names and _with_scores(kinds, task.problem, others := [config.with_overrides(names) for config in configs]).num_scores:
        configs = others
    else:
        names = {}
    kinds = _with_scores(kinds, task.problem, configs)
    return _Readers(names, configs, kinds, {name for config in configs for name in used_models(config, kinds)})


def choose_num_folds(search: SearchPlan, task: Task, validating: Collection[str]) -> int:
    """The number of folds: the user's, or the default for plain tables.

    Args:
        search: the plan made from the user's ``layers`` alone.
        validating: the arguments of the call that say which rows are validated on.

    Raises:
        InvalidHyperparameter: these arguments leave no folds.
    """
    if "data.num_folds" in search.given:
        if (given := search.config.data.num_folds) and validating:
            why = "folds validate on all rows of train_data"
            raise InvalidHyperparameter(f"data.num_folds: expected 0 with {' and '.join(validating)}, got {given}: {why}")
        return search.config.data.num_folds
    num_members = values_of("model.real_mlp.num_members", search.config, search.space)
    can_divide = len(num_members) == 1 and num_members[0] % TABLE_FOLDS == 0  # if it is searched: the more networks judge a row, the better they seem
    is_small = len(task.rows.table) <= FOLDED_ROWS
    return TABLE_FOLDS if not validating and is_small and can_divide and set(_find_readers(search, task).used) == {"real_mlp"} else 0


def plan_defaults(
    search: SearchPlan,
    data: DataPlan,
    layers: Sequence[Mapping[str, Any] | None],
    tune_kwargs: Mapping[str, Any] | str | None,
    presets: str | None,
    start: Start | None = None,
) -> SearchPlan:
    """Plans the search again, with a preset, or with defaults that suit the data, below what the user gave.

    Args:
        search: the plan made from the user's ``layers`` alone.

    Raises:
        AutoMMHPOError: all problems together.
    """
    readers = _find_readers(search, data)
    occasion = Occasion(
        tuple(name for name in MODELS if name in readers.used),
        any(is_pretrained(config, readers.kinds) for config in readers.configs),
        len(data.train.table),
        data.problem.problem_type,
        find_device(search.config.env).type,
        may_be_probed(search.config.optim.linear_probe, len(data.train.table)),
        data.num_folds,
    )
    preset = resolve_preset(presets, occasion)
    brought = {**readers.names, **preset.hyperparameters}
    encoder = "model.hf_text.checkpoint_name"
    if encoder in search.space or search.given.get(encoder, brought.get(encoder)) != brought.get(encoder):
        brought.pop("model.hf_text.pooling_mode", None)  # it belongs to the preset's own checkpoint
    preset = replace(preset, hyperparameters=brought)
    begins = {**searched_from(presets, occasion), **(start.hyperparameters(presets) if start else {})}
    whole = plan_search((preset.hyperparameters, *layers), join_tune_kwargs(preset, tune_kwargs), presets, begins, start)
    added = tuple(key for key in preset.hyperparameters if key not in search.given and key not in search.space)
    return replace(whole, added=added, ensemble_size=min(preset.ensemble_size, whole.num_trials, whole.settings.keep_trials or whole.num_trials))


def _without_transformers(search: SearchPlan, kinds: Features) -> dict[str, Any]:
    """``model.names`` without hf_text, if there are texts, transformers is not installed and the user did not ask for it; otherwise nothing."""
    asked = {"model.names", "model.hf_text.checkpoint_name"} & {*search.given, *search.space}
    if not kinds.num_texts or asked or importlib.util.find_spec("transformers") is not None:
        return {}
    return {"model.names": [name for name in search.config.model.names if name != "hf_text"]}


def _with_scores(features: Features, problem: Problem, configs: Sequence[Config]) -> Features:
    """The features, with the scores of word models of the texts if these trials use them."""
    names, wanted = score_names(problem), configs[0].data.text.words
    scored = replace(features, numeric=(*features.numeric, *names), num_scores=len(names))
    auto = len(names) <= MOST_CLASSES and all(can_read(config, scored) for config in configs)
    return scored if features.num_texts and (wanted == "on" or (wanted == "auto" and auto)) else features


def plan_encoders(data: DataPlan, search: SearchPlan, start: Start | None = None) -> Encoders:
    """The encoders for all trials, without tokenizers, which ``plan_weights`` adds. With ``start``, its encoders as they are.

    Raises:
        InvalidData, InvalidInput: values in either split do not have their column's type; all problems together.
        BadImages: image files are missing. Files that cannot be decoded are usually found later, when the caches are built.
    """
    encoders = _fit_encoders(data, search) if start is None else start.artifact.encoders
    problems, images = Problems(), {}
    for name, split in data.splits.items():
        with problems.gather():
            images[name] = data.encode(split, encoders).images
    problems.raise_any()
    geometry, strategy = encoders.geometry, search.config.data.image.missing_value_strategy
    if geometry is not None and strategy != "skip" and any(find_absent(sources, strategy) for sources in images.values()):
        # refused in any case, so decode all images to name all bad files at once
        bad = {name: (decode_all(sources, geometry, strategy=strategy), list(data.splits[name].table.index)) for name, sources in images.items()}
        raise BadImages("\n".join(f"{name}: {describe(found, labels)}" for name, (found, labels) in bad.items() if found) + f" {MEND}")
    return encoders


def _fit_encoders(data: DataPlan, search: SearchPlan) -> Encoders:
    own, geometry = search.config.data, None
    if data.columns.of_type(*IMAGE_TYPES):
        geometry = cover([image_spec(config) for config in candidate_configs(search.config, search.space, GEOMETRY_KEYS)], own.image.max_pixels)
    encoders = fit_encoders(data.columns, data.train.table, own, geometry, data.num_pictures(search.config))
    if _with_scores(encoders.features, data.problem, candidate_configs(search.config, search.space, MODEL_KEYS)).num_scores:
        encoders = replace(encoders, score_names=score_names(data.problem))
    if encoders.features == Features():
        raise InvalidData(
            f"no column to learn from: in the {len(data.train.table)} rows to train on, no value of {', '.join(map(repr, data.columns.used))} occurs twice. "
            "Give column_types={column: 'text'} for columns that are worth reading, or other columns"
        )
    return encoders


def plan_weights(search: SearchPlan, encoders: Encoders) -> Encoders:
    """Downloads the pretrained weights of all trials, unless they are on this machine, and loads the tokenizers of their texts.

    Returns:
        The encoders with the tokenizers.

    Raises:
        WeightsUnavailable, InvalidInput
    """
    problems = Problems()
    for config in candidate_configs(search.config, search.space, MODEL_KEYS):
        with problems.gather():
            fetch_weights(config, encoders.features)
    problems.raise_any()  # if weights cannot be fetched, their tokenizer would fail for the same reason
    configs = candidate_configs(search.config, search.space, ("model.names", *TEXT_KEYS))
    texts = [config for config in configs if "hf_text" in used_models(config, encoders.features)]
    tokenizers = {}
    for spec in cover_texts([text_spec(config) for config in texts]):
        with problems.gather():
            tokenizers[spec.checkpoint_name] = load_tokenizer(spec)
    problems.raise_any()
    return encoders.with_tokenizers(tokenizers)
