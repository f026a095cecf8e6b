"""A call of ``fit``: its arguments, and the plan made from them. All errors in a call are found here, before anything is started."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import pandas as pd

from ..arguments import absolute_path, check_tracking, checked_numbers, plan_path
from ..artifact import Artifact
from ..config import Config, Data
from ..data.columns import IMAGE_TYPES, infer_readable
from ..data.encoders import Encoders, count_pictures, fit_encoders
from ..data.images import cover
from ..data.tables import fingerprint as fingerprint_table
from ..errors import InvalidArgument, InvalidData, InvalidSpace, NotSupported, Problems
from ..files import is_predictor
from ..hpo.identity import SearchIdentity, check_same_search, is_search, read_identity
from ..hpo.job import check_resumable, limits_of
from ..metrics import OBJECT
from ..models import image_spec
from ..presets import TUNE_PRESETS, check_preset, is_searching
from ..sections import unwrapped
from ..space import describe_space, space_from_json, space_to_json
from .capacity import check_quota
from .checks import check_ensemble, check_finishing, check_goal, check_models, check_same_metric, check_training
from .data_plan import plan_task, split_rows
from .plan import WORDS_LIMIT, DataPlan, FitPlan, SearchPlan, Target
from .resolution import chosen_resolution, fit_resolution
from .search_plan import choose_num_folds, plan_defaults, plan_encoders, plan_search, plan_warm_start, plan_weights
from .start import START_FOLDER, Start, read_start


@dataclass(frozen=True)
class FitCall:
    """The arguments of ``MultiModalPredictor.fit`` except the data; documented there."""

    presets: str | None = None
    max_num_tuning_data: int | None = None
    time_limit: float | None = None
    save_path: str | Path | None = None
    hyperparameters: Mapping[str, Any] | None = None
    column_types: Mapping[str, str] | None = None
    holdout_frac: float | None = None
    seed: int = 0
    hyperparameter_tune_kwargs: Mapping[str, Any] | str | None = None
    resume: bool | str = "auto"
    tracking: str | None = "mlflow"
    ensemble_size: int | None = None
    refit: bool = False
    start_from: str | Path | None = None

    def without_effect(self, has_tuning_data: bool) -> dict[str, str]:
        """The arguments that do nothing in this call -> why."""
        if has_tuning_data:
            return {} if self.holdout_frac is None else {"holdout_frac": "tuning_data is validated on"}
        return {} if self.max_num_tuning_data is None else {"max_num_tuning_data": "there is no tuning_data"}

    def changed_by(self, other: Self) -> Self:
        """This call, which began a search, with the changes of ``other``, which resumes it: every argument of ``other`` that is not the default wins.

        In ``hyperparameter_tune_kwargs``, single settings win.

        Raises:
            InvalidArgument: ``other`` names another folder, or says ``resume=False``.
        """
        if other.resume is False or absolute_path(other.save_path or "", "save_path") != self.save_path:
            raise InvalidArgument(f"save_path, resume: this predictor goes on with the search in {self.save_path}; make a new one for another fit")
        given = {field.name: value for field in fields(self) if (value := getattr(other, field.name)) != field.default}
        began, settings = self.hyperparameter_tune_kwargs, other.hyperparameter_tune_kwargs
        if isinstance(settings, Mapping) and began is not None:
            given["hyperparameter_tune_kwargs"] = {**(TUNE_PRESETS[began.lower()] if isinstance(began, str) else began), **settings}
        return replace(self, **{**given, "save_path": self.save_path, "resume": True})


def plan_fit(call: FitCall, target: Target, layers: Sequence[Mapping[str, Any] | None], train_data: Any, tuning_data: Any) -> FitPlan:
    """Checks a call and plans it.

    Args:
        layers: the predictor's own hyperparameters; those of the call win.

    Raises:
        AutoMMHPOError: what is wrong with the call; several problems are raised together as InvalidInput, as far as they can be found together.
        SearchMismatch: its folder holds another search.
    """
    called = time.time()
    problems = Problems()
    numbers = checked_numbers(problems, call.seed, time_limit=call.time_limit, holdout_frac=call.holdout_frac, max_num_tuning_data=call.max_num_tuning_data)
    for check, argument in ((check_preset, call.presets), (check_tracking, call.tracking)):
        with problems.gather():
            check(argument)
    with problems.gather():
        folder, resuming = plan_path(call.save_path, call.resume)
    with problems.gather():
        check_finishing(call.ensemble_size, call.refit)
    layers, tune_kwargs, start = (*layers, call.hyperparameters), call.hyperparameter_tune_kwargs, None
    if call.start_from is not None:
        problems.raise_any()  # its folder must be known
        start = read_start(call.start_from, folder / "search")
        layers = (start.hyperparameters(call.presets), *layers, start.origin)
    wanted, own = target.begun_with(start), Data()  # to check the data with, even if the hyperparameters are wrong
    with problems.gather():
        search = plan_search(layers, tune_kwargs, call.presets, start=start)
        wanted, own = target.searched_by(search.settings).begun_with(start), search.config.data
        if not is_searching(call.presets):
            check_ensemble(call.ensemble_size, search)
    with problems.gather():
        task = plan_task(wanted, train_data, tuning_data, call.column_types, own.pos_label, start)
    problems.raise_any()
    validating = [name for name, given in (("tuning_data", tuning_data), ("holdout_frac", call.holdout_frac), ("start_from", start)) if given is not None]
    num_folds, limits = choose_num_folds(search, task, validating), (numbers["holdout_frac"], numbers["max_num_tuning_data"])
    data = split_rows(task, int(numbers["seed"]), num_folds, *limits, own.label.numerical_preprocessing, start)
    deadline = None if call.time_limit is None else called + float(call.time_limit)
    stored = read_identity(folder / "search") if resuming else None
    search = plan_defaults(search, data, layers, tune_kwargs, call.presets, start)
    search = replace(search, without_effect={**search.without_effect, **call.without_effect(tuning_data is not None)})
    search = fit_resolution(search, data, deadline, stored.chosen if stored else None)
    check_ensemble(call.ensemble_size, search)
    check_goal(search.settings, data.validation_metric)
    search = plan_warm_start(search, data.validation_metric, resuming)
    encoders = plan_encoders(data, search, start)
    if start is None:
        check_models(search, encoders.features)
    check_training(search, data.problem, encoders.features)
    ensemble_size = 1 if call.refit else search.ensemble_size if call.ensemble_size is None else int(call.ensemble_size)
    after, seed = {"ensemble_size": ensemble_size, "refit": call.refit}, int(numbers["seed"])
    given = after | {"ensemble_size": None if call.ensemble_size is None else ensemble_size}
    chosen = chosen_resolution(search)
    if encoders.score_names:
        chosen[WORDS_LIMIT] = numbers["time_limit"] if stored is None else stored.chosen.get(WORDS_LIMIT, numbers["time_limit"])
    arguments = {**numbers, **given, **stored_arguments(call, search, data, start)}
    identity = plan_identity(data, search, encoders, seed, {"target": wanted.to_json(), "fit": arguments, "chosen": chosen}, after, start)
    plan = FitPlan(
        path=folder,
        data=data,
        search=search,
        encoders=encoders,
        seed=seed,
        identity=identity,
        resuming=resuming,
        deadline=deadline,
        ensemble_size=ensemble_size,
        refit=call.refit,
        start=start,
    )
    check_quota(plan)
    if stored is not None:
        check_resumable(search.settings)
        check_same_metric(data.validation_metric)
        check_same_search(stored, identity, folder / "search")
    return plan if start else replace(plan, encoders=plan_weights(search, encoders))  # last: uses the network only once the call is known to be valid


def plan_identity(
    data: DataPlan, search: SearchPlan, encoders: Encoders, seed: int, call: Mapping[str, Any], limits: Mapping[str, Any], start: Start | None = None
) -> SearchIdentity:
    """What distinguishes this search from others.

    Args:
        call: the call as JSON values, from which ``load(path, resume=True)`` makes it again.
        limits: arguments of ``fit`` that may change from call to call.
    """
    settings = search.settings
    fingerprint = {
        "label": data.problem.label,
        "sample_weight": data.sample_weight,
        "problem_type": data.problem.problem_type,
        "validation_metric": data.validation_metric.name,
        **({"scorer": data.validation_metric.scorer_digest} if data.validation_metric.is_object else {}),
        # a category's order is the order of the outputs in the checkpoints, and the table fingerprints do not include it
        **({"classes": list(data.problem.class_labels)} if data.problem.label_dtype == "category" else {}),
        "columns": dict(data.columns),
        **({"start_from": start.digest} if start else {}),
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


def stored_arguments(call: FitCall, search: SearchPlan, data: DataPlan, start: Start | None) -> dict[str, Any]:
    """The non-numeric arguments of a call as JSON values. If JSON cannot hold the hyperparameters or a metric, ``unstorable`` says why."""
    column_types = None if call.column_types is None else [*call.column_types.items()]  # pairs, because JSON would turn a column 0 into "0"
    others = {"presets": call.presets, "tracking": call.tracking, "column_types": column_types, "start_from": start and str(start.folder)}
    objects = [metric.name.removeprefix(OBJECT) for metric in (data.eval_metric, data.validation_metric) if metric.is_object]
    if objects:
        return others | {"unstorable": f"its metric {objects[0]} is a scorer object"}
    tune_kwargs = call.hyperparameter_tune_kwargs
    if isinstance(tune_kwargs, Mapping) and search.settings.warm_start:  # absolute, because the search may be resumed from another working directory
        tune_kwargs = {**tune_kwargs, "warm_start": search.settings.warm_start}
    try:
        searched = {"space": space_to_json(search.space), "hyperparameter_tune_kwargs": json.loads(json.dumps(tune_kwargs, default=_unwrapped))}
    except (InvalidSpace, TypeError, ValueError) as problem:
        return others | {"unstorable": str(problem)}
    return others | {"hyperparameters": dict(search.given)} | searched


def _unwrapped(value: Any) -> Any:
    if (plain := unwrapped(value)) is value:
        raise TypeError(f"{type(value).__name__} objects cannot be stored")
    return plain


def restored_call(search_folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arguments of the predictor, arguments of ``fit``) of the call that began a search.

    Raises:
        NotSupported: the call had an argument that JSON cannot hold, or it is a search of ``tune_objective``.
    """
    identity = read_identity(search_folder)
    if identity.is_objective:
        raise NotSupported("resume=True: this is a search of tune_objective, and no file holds its function; make the same tune_objective call again")
    target, call = dict(identity.call["target"]), dict(identity.call["fit"])
    if reason := call.pop("unstorable", None):
        raise NotSupported(f"resume=True: this search cannot be resumed from its folder alone ({reason}); repeat the original fit call instead")
    if is_predictor(search_folder / START_FOLDER):  # the original folder may hold another predictor by now
        call["start_from"] = search_folder / START_FOLDER
    call["column_types"] = _column_types(call)
    given = {key: value for key, value in call.pop("hyperparameters").items() if key not in identity.chosen}
    if "data.num_folds" not in identity.fingerprint:  # begun before there were folds, which are the default for tables now
        given["data.num_folds"] = 0
    # two layers, because a conditional space may override a fixed value in some branches only
    return target | {"hyperparameters": given}, call | {"hyperparameters": space_from_json(call.pop("space"))}


def target_again(artifact: Artifact, search_folder: Path) -> tuple[Target, Mapping[str, str] | None]:
    """(what the user said about a predictor's label, the column types they gave), so that another fit has the same problem.

    A metric that was a scorer object is only a name now. Such a fit refuses it, because it cannot use the same metric.
    """
    call = read_identity(search_folder).call if is_search(search_folder) else {}
    weights = call.get("target", {}).get("sample_weight")
    target = Target(artifact.problem.label, artifact.problem.problem_type, artifact.eval_metric, artifact.validation_metric, weights)
    return target, _column_types(call.get("fit", {}))


def _column_types(stored: Mapping[str, Any]) -> dict[Any, str] | None:
    pairs = stored.get("column_types")
    return None if pairs is None else dict(pairs)


def plan_embedding(
    layers: Sequence[Mapping[str, Any] | None], table: pd.DataFrame, folder: Path, label: str | None, report: Callable[[str], None] = lambda line: None
) -> tuple[Config, Encoders]:
    """The config and encoders for embedding a table with pretrained models that are not fine-tuned. They read images and texts only.

    Args:
        report: called with lines that say how each column is understood.

    Raises:
        InvalidData: there is neither an image nor a text column.
        WeightsUnavailable, InvalidInput
    """
    search = plan_search(layers, None)
    names = search.config.model.names
    readable = (*(IMAGE_TYPES if "timm_image" in names else ()), *(("text",) if "hf_text" in names else ()))
    columns = infer_readable(table, [label], folder, readable)
    for line in columns.lines():
        report(f"  {line}")
    others = ", ".join(f"{column!r} ({columns.reasons[column]})" for column in columns.of_type("null"))
    if not columns.used:
        raise InvalidData(f"no column that a pretrained model could read: expected images or texts, got {others or 'none'}")
    geometry = cover([image_spec(search.config)], search.config.data.image.max_pixels)
    pictures = count_pictures(columns, table, folder, search.config.model.timm_image.max_image_num_per_column)
    encoders = fit_encoders(columns, table, search.config.data, geometry, pictures)
    check_models(search, encoders.features)
    return search.config, plan_weights(search, encoders)
