"""``hyperparameter_tune_kwargs``, typed and checked before anything starts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ..config import Expected, Flag, PositiveInt, Section, check_value, fields_of
from ..errors import InvalidTuneSettings, Problems, did_you_mean
from ..presets import TUNE_PRESETS

SearcherName = Literal["random", "bayes"]
SchedulerName = Literal["FIFO", "ASHA"]
ASHA_ARGS = ("max_t", "grace_period", "reduction_factor", "brackets")
BAYES_ARGS = ("n_startup_trials", "n_ei_candidates", "multivariate", "group", "constant_liar", "consider_endpoints")


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


ArgsDict = Annotated[dict[str, Any], Expected("a dict")]
Resources = Annotated[dict[Literal["cpu", "gpu", "num_cpus", "num_gpus"], Annotated[float, Field(ge=0)]], Expected("a dict like {'cpu': 1, 'gpu': 0.5}")]


class TuneSettings(Section):
    """How to search; the seed and the time limit are ``fit``'s."""

    searcher: Annotated[SearcherName, BeforeValidator(_lower)] = "bayes"
    """Who proposes configurations: ``random``, or ``bayes`` (Optuna's tree-structured Parzen estimator)."""
    scheduler: Annotated[SchedulerName, BeforeValidator(_upper)] = "ASHA"
    """Who ends weak trials early: ``FIFO`` nobody, ``ASHA`` asynchronous successive halving over epochs."""
    num_trials: PositiveInt = 10
    """Configurations to try."""
    num_to_keep: PositiveInt = 3
    """Best epochs whose weights each running trial keeps."""
    keep_trials: PositiveInt = 3
    """Ended trials that keep the weights of their best epoch; rows and curves of all stay for ever."""
    max_concurrent_trials: PositiveInt | None = None
    """Trials at a time; None: as many as the resources allow."""
    resources_per_trial: Resources | None = None
    """CPUs and GPUs of one trial, fractions allowed; None: one CPU, and one GPU where there is one."""
    deterministic: Flag = False
    """One trial at a time, so that a model-based searcher proposes the same configurations again."""
    searcher_init_args: ArgsDict = Field(default_factory=dict)
    """More arguments for the searcher: those of Optuna's TPESampler for ``bayes``."""
    scheduler_init_args: ArgsDict = Field(default_factory=dict)
    """More arguments for the scheduler: max_t, grace_period, reduction_factor, brackets for ``ASHA``; times in epochs."""

    @property
    def concurrency(self) -> int | None:
        return 1 if self.deterministic else self.max_concurrent_trials

    @property
    def resources(self) -> dict[str, float]:
        """What a trial wants, by Ray's short names ``cpu`` and ``gpu``; what the user left out is absent."""
        return {key.removeprefix("num_").removesuffix("s"): value for key, value in (self.resources_per_trial or {}).items()}


FIELDS = fields_of(TuneSettings)


def parse_tune_settings(given: Mapping[str, Any] | str | None) -> TuneSettings:
    """Checks ``hyperparameter_tune_kwargs``; the caller's dict is not changed.

    Args:
        given: a dict, or the name of a preset.

    Raises:
        InvalidTuneSettings, InvalidInput: all problems together.
    """
    if isinstance(given, str):
        if given not in TUNE_PRESETS:
            hint = did_you_mean(given, TUNE_PRESETS)
            raise InvalidTuneSettings(f"hyperparameter_tune_kwargs: expected a dict or one of {', '.join(TUNE_PRESETS)}, got {given!r}.{hint}")
        given = TUNE_PRESETS[given]
    if not isinstance(given, Mapping):
        raise InvalidTuneSettings(f"hyperparameter_tune_kwargs: expected a dict or a preset's name, got {given!r}")
    problems = Problems()
    values: dict[str, Any] = {}
    for key, value in given.items():
        with problems.gather():
            if key not in FIELDS:
                hint = did_you_mean(str(key), FIELDS)
                raise InvalidTuneSettings(f"hyperparameter_tune_kwargs: unknown key {key!r}.{hint} Known: {', '.join(FIELDS)}")
            values[key] = check_value(key, value, FIELDS, InvalidTuneSettings)
    problems.raise_any()
    settings = TuneSettings(**values)
    for problem in _argument_problems(settings):
        problems.add(problem)
    problems.raise_any()
    return settings


def _argument_problems(settings: TuneSettings) -> list[InvalidTuneSettings]:
    found = []
    known = {"searcher_init_args": BAYES_ARGS if settings.searcher == "bayes" else (), "scheduler_init_args": ASHA_ARGS if settings.scheduler == "ASHA" else ()}
    owner = {"searcher_init_args": settings.searcher, "scheduler_init_args": settings.scheduler}
    for field, names in known.items():
        for name in getattr(settings, field):
            if name not in names:
                hint = did_you_mean(str(name), names)
                found.append(InvalidTuneSettings(f"{field}: {owner[field]} takes {', '.join(names) or 'no arguments'}, got {name!r}.{hint}"))
    for name, value in settings.scheduler_init_args.items():
        least = 2 if name == "reduction_factor" else 1
        if name in ASHA_ARGS and (isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < least):
            found.append(InvalidTuneSettings(f"scheduler_init_args: {name}: expected a number >= {least}, got {value!r}"))
    return found


def check_resources(settings: TuneSettings, available: Mapping[str, float]) -> None:
    """Refuses a trial that no machine could ever hold; Ray would let it wait for ever.

    Raises:
        InvalidTuneSettings
    """
    problems = Problems()
    for kind, wanted in settings.resources.items():
        if wanted > available[kind]:
            problems.add(InvalidTuneSettings(f"resources_per_trial: a trial wants {wanted:g} {kind}, there are {available[kind]:g}; it would wait for ever"))
        if kind == "gpu" and wanted > 1:
            problems.add(InvalidTuneSettings(f"resources_per_trial: a trial trains on one GPU at most for now, got {wanted:g}"))
    problems.raise_any()


def local_resources() -> dict[str, float]:
    """CPUs and GPUs of this machine."""
    import torch

    return {"cpu": float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1), "gpu": float(torch.cuda.device_count())}
