"""A call of ``fit``: its arguments, and the plan they come to. Whatever is wrong with a call is found here, before anything is started."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from .arguments import absolute_path, check_tracking, checked_numbers, plan_path
from .checks import check_goal, check_quota, check_same_metric, check_training
from .errors import InvalidArgument, Problems
from .finishing import check_ensemble, check_finishing
from .hpo.job import check_resumable
from .hpo.session import check_same_search, read_identity
from .plan import FitPlan, Target, check_models, plan_data, plan_defaults, plan_encoders, plan_identity, plan_search, plan_weights, stored_search
from .presets import check_preset, is_searching
from .resolution import chosen_resolution, fit_resolution


@dataclass(frozen=True)
class FitCall:
    """The arguments of ``MultiModalPredictor.fit`` but for the data, which says what they mean."""

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
    ensemble_size: int = 1
    refit: bool = False

    def changed_by(self, other: Self) -> Self:
        """This call, which began a search, as another one goes on with it: what that gives wins, and a default gives nothing.

        Raises:
            InvalidArgument: that one is of another folder.
        """
        if other.resume is False or absolute_path(other.save_path or "", "save_path") != self.save_path:
            raise InvalidArgument(f"save_path, resume: this predictor goes on with the search in {self.save_path}; make a new one for another fit")
        given = {field.name: value for field in fields(self) if (value := getattr(other, field.name)) != field.default}
        return replace(self, **{**given, "save_path": self.save_path, "resume": True})


def plan_fit(call: FitCall, target: Target, layers: Sequence[Mapping[str, Any] | None], train_data: Any, tuning_data: Any) -> FitPlan:
    """What a call comes to.

    Args:
        layers: the predictor's own hyperparameters; those of the call win.

    Raises:
        InvalidInput: everything wrong with the call, as far as it can be found together.
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
    layers, tune_kwargs = (*layers, call.hyperparameters), call.hyperparameter_tune_kwargs
    with problems.gather():
        search = plan_search(layers, tune_kwargs, call.presets)
        target = target.searched_by(search.settings)
        if not is_searching(call.presets):
            check_ensemble(call.ensemble_size, search)
    with problems.gather():
        data = plan_data(target, train_data, tuning_data, numbers["max_num_tuning_data"], numbers["holdout_frac"], call.column_types, numbers["seed"])
    problems.raise_any()
    deadline = None if call.time_limit is None else called + float(call.time_limit)
    stored = read_identity(folder / "search") if resuming else None
    search = plan_defaults(search, data, layers, tune_kwargs, call.presets)
    search = fit_resolution(search, data, deadline, stored.chosen if stored else None)
    check_ensemble(call.ensemble_size, search)
    check_goal(search.settings, data.validation_metric)
    encoders = plan_encoders(data, search)
    check_models(search, encoders.features)
    check_training(search, data.problem, encoders.features)
    check_quota(search, data.problem, encoders.features)
    after, seed = {"ensemble_size": call.ensemble_size, "refit": call.refit}, int(call.seed)
    again = {**numbers, **after, "presets": call.presets, "column_types": call.column_types} | stored_search(search, tune_kwargs, data)
    identity = plan_identity(data, search, encoders, seed, {"target": target.to_json(), "fit": again, "chosen": chosen_resolution(search)}, after)
    if stored is not None:
        check_resumable(search.settings)
        check_same_metric(data.validation_metric)
        check_same_search(stored, identity, folder / "search")
    encoders = plan_weights(search, encoders)  # the network only for a call that is otherwise right
    return FitPlan(folder, data, search, encoders, seed, identity, resuming, numbers["time_limit"], deadline, call.ensemble_size, call.refit)
