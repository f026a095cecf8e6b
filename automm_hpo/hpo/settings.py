"""``hyperparameter_tune_kwargs``, typed and checked before anything starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field

from ..errors import InvalidTuneSettings, Problems, did_you_mean
from ..presets import TUNE_PRESETS
from ..process import usable_cores
from ..sections import Expected, Flag, HyperField, NonNegativeFloat, NonNegativeInt, Number, PositiveFloat, PositiveInt, Section, Text, fields_of
from .scheduler_args import SCHEDULER_ARGS, canonical_scheduler, check_scheduler_args
from .searcher_args import SEARCHER_ARGS, described, find_searcher

DEFAULT_NUM_TRIALS, DEFAULT_KEEP_TRIALS = 10, 3

MODES = {"maximize": "max", "minimize": "min"}  # HyperDrive's


def canonical_mode(mode: Any) -> Any:
    """``max`` or ``min`` for HyperDrive's ``MAXIMIZE`` or ``MINIMIZE``, as a string or a member of an enumeration; anything else is returned as it is."""
    mode = mode.name if isinstance(mode, Enum) else mode
    return MODES.get(mode.lower(), mode) if isinstance(mode, str) else mode


RESOURCE_NAMES = {"cpu": "cpu", "gpu": "gpu", "num_cpus": "cpu", "num_gpus": "gpu"}


IN_THE_CALL = "{}, an argument of the call itself"
ELSEWHERE = {  # names of HyperDrive and Ray -> their counterpart here
    "max_total_runs": "num_trials",
    "num_samples": "num_trials",
    "max_concurrent_runs": "max_concurrent_trials",
    "hyperparameter_sampling": "searcher",
    "search_alg": "searcher",
    "policy": "scheduler",
    "early_termination_policy": "scheduler",
    "primary_metric_name": "metric",
    "primary_metric_goal": "mode",
    "keep_checkpoints_num": "num_to_keep",
    "stop": "optim.max_epochs of fit and max_epochs of tune_objective; a report with done=True, which ends its trial; or goal, which ends the search",
    "seed": IN_THE_CALL.format("seed"),
    "verbose": IN_THE_CALL.format("verbosity"),
    **dict.fromkeys(("name", "local_dir", "storage_path"), IN_THE_CALL.format("save_path")),
    **dict.fromkeys(("callbacks", "loggers"), IN_THE_CALL.format("tracking, which is MLflow's")),
    **dict.fromkeys(("time_limit", "time_budget_s", "max_duration_minutes"), IN_THE_CALL.format("time_limit, in seconds")),
}


def _by_short_name(resources: dict[str, float]) -> dict[str, float]:
    amounts = {RESOURCE_NAMES.get(name, ""): amount for name, amount in resources.items()}
    if "" in amounts or len(amounts) < len(resources) or amounts.get("cpu") == 0:
        raise ValueError("an unknown name, an amount given twice, or no CPU, which would let Ray start any number of trials at once")
    return amounts


ArgsDict = Annotated[dict[str, Any], Expected("a dict")]
Resources = Annotated[
    dict[str, NonNegativeFloat],
    AfterValidator(_by_short_name),
    Expected("a dict like {'cpu': 1, 'gpu': 0.5} of finite numbers, cpu > 0 and gpu >= 0"),
]
Finite = Annotated[float, Number, Field(allow_inf_nan=False), Expected("a finite number")]
Points = Annotated[tuple[dict[str, Any], ...], Expected("a list of dicts of dotted keys")]


def _absolute(folders: Any) -> tuple[str, ...]:
    folders = [folders] if isinstance(folders, (str, os.PathLike)) else folders
    if not isinstance(folders, (list, tuple)) or not all(isinstance(folder, (str, os.PathLike)) for folder in folders):
        raise ValueError("neither a path nor several")
    return tuple(str(Path(folder).expanduser().absolute()) for folder in folders)


Folders = Annotated[tuple[str, ...], BeforeValidator(_absolute), Expected("a folder's path, or a list of them")]


class TuneSettings(Section):
    """How to search. The seed and the time limit are arguments of ``fit``."""

    searcher: Annotated[Any, Expected("a name, a Ray Searcher or an Optuna sampler")] = "bayes"
    """What proposes configurations: a name (``searcher_args.py`` lists them: ``random``, ``grid``, ``bayes``, ``gp``, ...), a Ray ``Searcher`` or
    an Optuna sampler. If neither you nor a preset gives one and the space has ``grid_search``, it is ``random``, which goes through the grid."""
    scheduler: Annotated[Any, Expected("a name, or a Ray TrialScheduler")] = "ASHA"
    """What ends weak trials early: a name (``scheduler_args.py`` lists them: ``FIFO``, which ends none, ``ASHA``, ``HyperBand``, ``median``, ``bandit``,
    ``PBT``, ...) or a Ray ``TrialScheduler``."""
    num_trials: PositiveInt | None = None
    """Configurations to try; None: 10, or the whole grid if there is one (the searcher ``grid``, or ``grid_search`` in the space). No point is
    tried twice, so a space of choices and stepped ranges gets at most as many trials as it has points."""
    num_to_keep: PositiveInt = 3
    """Number of best epochs whose weights each running trial keeps."""
    keep_trials: PositiveInt | None = None
    """Number of best ended trials that keep the weights of their best epoch; None: 3, or twice an ensemble's size (its size if there is a ``disk_quota_mb``).
    Records and curves of all trials are kept."""
    disk_quota_mb: PositiveFloat | None = None
    """Megabytes that all checkpoints of the search may take at their peak; None: no limit. If they could take more, the search is refused before it
    starts. Not for ``tune_objective``."""
    max_concurrent_trials: PositiveInt | None = None
    """Trials at a time; None: as many as the resources allow, but one at a time in the calling process while the search is too short for Ray."""
    resources_per_trial: Resources | None = None
    """CPUs and GPUs of one trial, fractions allowed; None: one CPU and, if there is a GPU, the share of it that a trial was measured to need."""
    trial_time_limit: PositiveFloat | None = None
    """Seconds of one trial, which then ends with its best epoch so far. ``fit`` checks it after every step, and shortens the schedule of a trial that would
    take longer; ``tune_objective`` checks it when the objective reports."""
    max_failed_trials: NonNegativeInt | None = None
    """The search ends when more than this many trials have failed; None: no limit."""
    retry_failed: Flag = False
    """Whether a resumed search continues its failed trials, whose cause may have been fixed. If all trials ended without a
    score, all of them start over in any case."""
    goal: Finite | None = None
    """The search ends when a trial's validation metric, in its natural sign, is at least as good as this."""
    metric: Text | None = None
    """The metric that the search compares, HyperDrive's primary metric: another name for the predictor's ``validation_metric``, or for ``metric`` of
    ``tune_objective``."""
    mode: Annotated[Literal["max", "min"] | None, BeforeValidator(canonical_mode)] = None
    """Whether higher (``max``) or lower (``min``) values of the metric are better. ``fit`` only checks that it agrees with the metric's own direction; for
    ``tune_objective`` it is another place for ``mode``."""
    default_first: Flag = True
    """The first trial takes the defaults of the tuned hyperparameters, if they all lie inside the search space."""
    points_to_evaluate: Points = ()
    """Configurations of the tuned hyperparameters, dicts of dotted keys, to try before the searcher's own."""
    warm_start: Folders = ()
    """The ``save_path`` of one or more earlier searches: the searcher knows the scores of their trials from the start, and tries the best of them first,
    instead of the defaults. Their spaces may differ. They must have used the same metric, and should have used similar data."""
    deterministic: Flag = False
    """Run one trial at a time, so that a model-based searcher proposes the same configurations in every run."""
    searcher_init_args: ArgsDict = Field(default_factory=dict)
    """Further arguments of the searcher; see ``searcher_args.py``."""
    scheduler_init_args: ArgsDict = Field(default_factory=dict)
    """Further arguments of the scheduler, with times in epochs; see ``scheduler_args.py``."""

    @property
    def method(self) -> str:
        """Searcher and scheduler as text."""
        return " + ".join(each if isinstance(each, str) else type(each).__name__ for each in (self.searcher, self.scheduler))

    @property
    def concurrency(self) -> int | None:
        return 1 if self.deterministic else self.max_concurrent_trials

    @property
    def resources(self) -> dict[str, float]:
        """The ``cpu`` and ``gpu`` that the user gave for a trial; amounts not given are absent."""
        return dict(self.resources_per_trial or {})

    @property
    def num_threads(self) -> int:
        """Number of threads of a trial."""
        return max(1, int(self.resources.get("cpu", 1)))

    def num_kept(self, ensemble_size: int = 1) -> int:
        """Number of ended trials that keep weights. An ensemble has twice as many to choose from as it may contain, unless disk space is limited."""
        wanted = ensemble_size if ensemble_size == 1 or self.disk_quota_mb is not None else 2 * ensemble_size
        return self.keep_trials or max(DEFAULT_KEEP_TRIALS, wanted)

    def with_gpu_share(self, share: float) -> Self:
        """The settings with this share of a GPU for each trial, unless the user gave one. A whole GPU is the default anyway."""
        return self if share == 1 or "gpu" in self.resources else self.model_copy(update={"resources_per_trial": {**self.resources, "gpu": share}})

    def resources_among(self, there: Mapping[str, float], may_use_gpu: bool = True) -> dict[str, float]:
        """The resources that each trial takes from a cluster: one core and, if it has any, one GPU, unless the user gave other amounts."""
        return {"cpu": 1.0, "gpu": 1.0 if there["gpu"] and may_use_gpu else 0.0, **self.resources}

    def num_parallel(self, there: Mapping[str, float], num_trials: int, may_use_gpu: bool = True) -> int:
        """Number of trials at a time, at least one.

        Args:
            there: a cluster's resources, ``cpu`` and ``gpu`` among them.
            num_trials: number of trials of the whole search.
        """
        slots = min(int(there.get(kind, 0.0) / each + 1e-9) for kind, each in self.resources_among(there, may_use_gpu).items() if each)
        return max(1, min(slots, self.concurrency or slots, num_trials))


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
    given = {key: value for key, value in given.items() if key != "searcher" or value is not None}
    unknown = [key for key in given if key not in FIELDS]
    for key, value in given.items():
        with problems.gather():
            if key in unknown:
                hint = f" Here that is {ELSEWHERE[key]}." if key in ELSEWHERE else did_you_mean(str(key), FIELDS)
                listed = f" Known: {', '.join(FIELDS)}" if key == unknown[-1] else ""  # only once
                raise InvalidTuneSettings(f"hyperparameter_tune_kwargs: unknown key {key!r}.{hint}{listed}")
            check = {"searcher": find_searcher, "scheduler": find_scheduler}.get(key)
            values[key] = check(value) if check else FIELDS[key].check(key, value, InvalidTuneSettings)
    for kind, known in (("searcher", SEARCHER_ARGS), ("scheduler", SCHEDULER_ARGS)):
        if kind in values or kind not in given:  # else it is unknown whose arguments these are
            name = values.get(kind, FIELDS[kind].default)
            args = values.get(f"{kind}_init_args", {})
            if isinstance(name, str):
                values[f"{kind}_init_args"] = _init_args(name, f"{kind}_init_args", args, known[name], problems)
            elif args:
                problems.add(InvalidTuneSettings(f"{kind}_init_args: {type(name).__name__} is an object; pass the arguments when you create it"))
    problems.raise_any()
    return TuneSettings(**values)


def find_scheduler(given: Any) -> Any:
    """The canonical name of a scheduler given by a name or alias in any case, or as None (``FIFO``); a Ray ``TrialScheduler`` is returned as it is.

    Raises:
        InvalidTuneSettings: there is no such scheduler.
    """
    name = "FIFO" if given is None else canonical_scheduler(given)
    if isinstance(name, str) and name in SCHEDULER_ARGS:
        return name
    module = sys.modules.get("ray.tune.schedulers")  # such an object exists only if Ray is already loaded
    if module is not None and isinstance(given, module.TrialScheduler):
        return given
    hint = did_you_mean(given, SCHEDULER_ARGS) if isinstance(given, str) else ""
    raise InvalidTuneSettings(f"scheduler: expected one of {', '.join(SCHEDULER_ARGS)}, or a Ray TrialScheduler, got {described(given)}.{hint}")


def _init_args(owner: str, field: str, given: Mapping[str, Any], known: Mapping[str, HyperField], problems: Problems) -> dict[str, Any]:
    """The checked arguments of a searcher or scheduler. Errors go to ``problems``."""
    args: dict[str, Any] = {}
    found_before = len(problems.found)
    for name, value in given.items():
        with problems.gather():
            if f"{field}.{name}" not in known:
                names = [key.removeprefix(f"{field}.") for key in known]
                raise InvalidTuneSettings(f"{field}: {owner} takes {', '.join(names) or 'no arguments'}, got {name!r}.{did_you_mean(name, names)}")
            args[name] = known[f"{field}.{name}"].check(f"{field}.{name}", value, InvalidTuneSettings)
    if len(problems.found) > found_before:
        return args  # how the arguments fit together is checked only if each is valid
    if field == "scheduler_init_args":
        check_scheduler_args(owner, args, problems)
    elif args.get("group") and not args.get("multivariate", True):
        problems.add(InvalidTuneSettings(f"{field}: group=True needs multivariate=True"))
    return args


def check_resources(settings: TuneSettings, available: Mapping[str, float]) -> None:
    """Refuses trials that need more than all that is available; Ray would let them wait for ever.

    Raises:
        InvalidTuneSettings, InvalidInput: a trial needs more CPUs or GPUs than there are.
    """
    problems = Problems()
    for kind, wanted in ({"cpu": 1.0} | settings.resources).items():  # the user's Ray may have no CPU
        if wanted > available[kind]:
            problems.add(InvalidTuneSettings(f"resources_per_trial: a trial needs {wanted:g} {kind}, but only {available[kind]:g} are available"))
    problems.raise_any()


def local_resources(num_gpus: int = -1) -> dict[str, float]:
    """The ``cpu`` that this process may use, and the ``gpu`` that torch can use: at most ``num_gpus``; -1: all."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0  # device_count includes GPUs whose driver is too old
    return {"cpu": float(usable_cores()), "gpu": float(gpus if num_gpus < 0 else min(num_gpus, gpus))}
