"""``hyperparameter_tune_kwargs``, typed and checked before anything starts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..config import Expected, Flag, HyperField, NonNegativeFloat, NonNegativeInt, Number, PositiveFloat, PositiveInt, Section, Text, check_value, fields_of
from ..errors import InvalidTuneSettings, Problems, did_you_mean
from ..presets import TUNE_PRESETS

DEFAULT_NUM_TRIALS = 10

SearcherName = Literal["random", "bayes"]
SchedulerName = Literal["FIFO", "ASHA"]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


RESOURCE_NAMES = {"cpu": "cpu", "gpu": "gpu", "num_cpus": "cpu", "num_gpus": "gpu"}


def _by_short_name(resources: dict[str, float]) -> dict[str, float]:
    amounts = {RESOURCE_NAMES.get(name, ""): amount for name, amount in resources.items()}
    if "" in amounts or len(amounts) < len(resources) or amounts.get("cpu") == 0:
        raise ValueError("an unknown name, one amount twice, or no CPU, of which Ray could give to any number of trials")
    return amounts


ArgsDict = Annotated[dict[str, Any], Expected("a dict")]
Resources = Annotated[
    dict[str, NonNegativeFloat],
    AfterValidator(_by_short_name),
    Expected("a dict like {'cpu': 1, 'gpu': 0.5} of finite numbers, cpu > 0 and gpu >= 0"),
]
Finite = Annotated[float, Number, Field(allow_inf_nan=False), Expected("a finite number")]
Points = Annotated[tuple[dict[str, Any], ...], Expected("a list of dicts of dotted keys")]
Epochs = Annotated[float, Number, Field(ge=1, allow_inf_nan=False), Expected("a number >= 1")]


class BayesArgs(Section):
    """Of Optuna's TPESampler; what is absent takes Optuna's default."""

    n_startup_trials: NonNegativeInt
    """Random trials before the first that is modelled."""
    n_ei_candidates: PositiveInt
    """Candidates drawn for each proposal."""
    multivariate: Flag
    """Model the hyperparameters together."""
    group: Flag
    """With multivariate: model those that occur together as a group."""
    constant_liar: Flag
    """Keep running trials apart by presuming them bad."""


class AshaArgs(Section):
    """Of Ray's ASHAScheduler; what is absent follows from the search."""

    max_t: Epochs
    """Epochs after which every trial ends; by default the most that optim.max_epochs can be."""
    grace_period: Epochs
    """Epochs that every trial gets; by default the square root of ``max_t``, and never less than the warm-up."""
    reduction_factor: Annotated[float, Number, Field(gt=1, allow_inf_nan=False), Expected("a number > 1")]
    """One in this many trials passes each rung; 3 by default."""
    brackets: PositiveInt
    """Brackets, each with a longer grace period; 1 by default."""


INIT_ARGS: dict[str, dict[str, HyperField]] = {
    "random": {},
    "bayes": fields_of(BayesArgs, "searcher_init_args."),
    "FIFO": {},
    "ASHA": fields_of(AshaArgs, "scheduler_init_args."),
}


class TuneSettings(Section):
    """How to search; the seed and the time limit are ``fit``'s."""

    searcher: Annotated[SearcherName, BeforeValidator(_lower)] = "bayes"
    """Who proposes configurations: ``random``, or ``bayes`` (Optuna's tree-structured Parzen estimator)."""
    scheduler: Annotated[SchedulerName, BeforeValidator(_upper)] = "ASHA"
    """Who ends weak trials early: ``FIFO`` nobody, ``ASHA`` asynchronous successive halving over epochs."""
    num_trials: PositiveInt | None = None
    """Configurations to try; None: 10, or the whole grid where the searcher is ``grid``."""
    num_to_keep: PositiveInt = 3
    """Best epochs whose weights each running trial keeps."""
    keep_trials: PositiveInt | None = None
    """Ended trials that keep the weights of their best epoch, rows and curves of all stay for ever; None: 3, or as many as the ensemble may have."""
    disk_quota_mb: PositiveFloat | None = None
    """Megabytes that all checkpoints of the search may take at their peak, said before the start where it cannot do; None: no limit."""
    max_concurrent_trials: PositiveInt | None = None
    """Trials at a time; None: as many as the resources allow."""
    resources_per_trial: Resources | None = None
    """CPUs and GPUs of one trial, fractions allowed; None: one CPU, and one GPU where there is one."""
    trial_time_limit: PositiveFloat | None = None
    """Seconds of one trial; it ends then with the best it has."""
    max_failed_trials: NonNegativeInt | None = None
    """The search ends when more than this many trials have failed; None: it tries them all."""
    goal: Finite | None = None
    """The search ends when a trial's validation metric, in its natural sign, is as good as this."""
    metric: Text | None = None
    """What the search goes by: HyperDrive's primary metric, another name for the predictor's ``validation_metric``."""
    mode: Literal["max", "min"] | None = None
    """Whether more or less of the metric is better; every metric here knows that, so this is only compared."""
    default_first: Flag = True
    """The first trial takes the defaults of the tuned hyperparameters, where they all lie inside the search space."""
    points_to_evaluate: Points = ()
    """Configurations of the tuned hyperparameters, dicts of dotted keys, to try before the searcher's own."""
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
        """What a trial wants of ``cpu`` and ``gpu``; what the user left out is absent."""
        return dict(self.resources_per_trial or {})


FIELDS = fields_of(TuneSettings)


def parse_tune_settings(given: Mapping[str, Any] | str | None) -> TuneSettings:
    """Checks ``hyperparameter_tune_kwargs``; the caller's dict is not changed.

    Args:
        given: a dict, or the name of a preset.

    Raises:
        InvalidTuneSettings, InvalidInput: all problems together.
    """
    if isinstance(given, str):
        if given.lower() not in TUNE_PRESETS:
            hint = did_you_mean(given, TUNE_PRESETS)
            raise InvalidTuneSettings(f"hyperparameter_tune_kwargs: expected a dict or one of {', '.join(TUNE_PRESETS)}, got {given!r}.{hint}")
        given = TUNE_PRESETS[given.lower()]
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
    for kind in ("searcher", "scheduler"):
        if kind in values or kind not in given:  # else nobody knows whose arguments these are
            name = values.get(kind, FIELDS[kind].default)
            values[f"{kind}_init_args"] = _init_args(name, f"{kind}_init_args", values.get(f"{kind}_init_args", {}), problems)
    problems.raise_any()
    return TuneSettings(**values)


def _init_args(owner: str, field: str, given: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """The checked arguments of a searcher or scheduler; what is wrong with them goes to ``problems``."""
    known = INIT_ARGS[owner]
    args: dict[str, Any] = {}
    for name, value in given.items():
        with problems.gather():
            if f"{field}.{name}" not in known:
                names = [key.removeprefix(f"{field}.") for key in known]
                raise InvalidTuneSettings(f"{field}: {owner} takes {', '.join(names) or 'no arguments'}, got {name!r}.{did_you_mean(name, names)}")
            args[name] = check_value(f"{field}.{name}", value, known, InvalidTuneSettings)
    if args.get("max_t", math.inf) < args.get("grace_period", 0):
        problems.add(InvalidTuneSettings(f"{field}: expected grace_period <= max_t, got grace_period={args['grace_period']:g}, max_t={args['max_t']:g}"))
    if args.get("group") and not args.get("multivariate", True):
        problems.add(InvalidTuneSettings(f"{field}: group=True needs multivariate=True"))
    return args


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
