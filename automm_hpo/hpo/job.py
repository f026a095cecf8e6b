"""What is searched, told without Ray."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import NotSupported, Problems
from ..space import RawProposal, SearchSpace, computed_keys, default_point, exhaustive_keys, exhaustive_size, grid_size, to_raw
from .scheduler_args import LIVE_KEYS, POPULATIONS, check_scheduler
from .searcher_args import check_searcher, is_sampler
from .settings import DEFAULT_NUM_TRIALS, TuneSettings

MOST_POINTS = 10_000  # of a space in which one could come twice in a search
RAY_SECONDS = 9.0  # that Ray's start, its processes' imports and its end take beside the trials: benchmarks/RESULTS.md, "What bounds the search"
MOST_SECONDS = 60.0  # of trials in the caller's process, where one that crashes takes the caller with it


def ray_pays(seconds: float, num_parallel: int) -> bool:
    """Whether trials that take so many seconds one after the other are sooner over on Ray, so many at a time.

    >>> ray_pays(17, num_parallel=2), ray_pays(19, num_parallel=2), ray_pays(40, num_parallel=1)
    (False, True, False)
    """
    return seconds > MOST_SECONDS or seconds - seconds / num_parallel > RAY_SECONDS


@dataclass(frozen=True)
class InProcess:
    """Trials run in the caller's process, until those that are left are sooner over on Ray.

    Attributes:
        num_parallel: trials at a time on Ray.
        num_epochs: all hyperparameters of a trial -> the most epochs that it can have.
    """

    num_parallel: int
    num_epochs: Callable[[Mapping[str, Any]], float]


@dataclass(frozen=True)
class SearchJob:
    """What is searched.

    Attributes:
        fixed: the hyperparameters that do not vary, by dotted key.
        metric: its name, under which schedulers of the user's find it.
        max_epochs: the most a trial can have.
        warmup_epochs: in which no scheduler should judge.
        complete: tuned values -> all hyperparameters of the trial, checked.
        first_points: raw proposals to try before the searcher's own.
        known: raw proposals that were tried elsewhere, with their scores.
        in_process: how the search begins; None: on Ray.
    """

    space: SearchSpace
    fixed: Mapping[str, Any]
    settings: TuneSettings
    num_trials: int
    seed: int
    metric: str
    max_epochs: float
    warmup_epochs: float
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    first_points: tuple[RawProposal, ...] = ()
    known: tuple[tuple[RawProposal, float], ...] = ()
    in_process: InProcess | None = None


def resolve_settings(settings: TuneSettings, space: SearchSpace, live: Collection[str] = LIVE_KEYS) -> TuneSettings:
    """The settings with the defaults that depend on the space.

    Args:
        live: the hyperparameters that may change on a trained state.

    Raises:
        AutoMMHPOError: the searcher or the scheduler cannot take this space.
    """
    problems = Problems()
    with problems.gather():
        check_searcher(settings.searcher, settings.searcher_init_args, space)
    with problems.gather():
        check_scheduler(settings.scheduler, settings.searcher, space, live)
    problems.raise_any()
    num_trials = settings.num_trials or _default_num_trials(settings, space)
    return settings.model_copy(update={"num_trials": min(num_trials, grid_size(space) or 1) if is_tried_once(settings, space) else num_trials})


def repeats_nothing(settings: TuneSettings, space: SearchSpace) -> bool:
    """Whether no point is trained twice: a second trial of one would be the first again, for all trials of a search have one seed.

    Values alone are tried as often as they are to be, a population may begin with equal values, ``grid_search`` goes round as often as it is asked to,
    and an object that proposes may want to repeat.
    """
    proposes = isinstance(settings.searcher, str) or is_sampler(settings.searcher)
    return bool(space) and proposes and settings.scheduler not in POPULATIONS and not exhaustive_keys(space) and not computed_keys(space)


def is_tried_once(settings: TuneSettings, space: SearchSpace) -> bool:
    """Whether the search is over when it has tried every point."""
    return repeats_nothing(settings, space) and can_be_tried(space)


def can_be_tried(space: SearchSpace) -> bool:
    """Whether a search could try every point there is."""
    return (grid_size(space) or MOST_POINTS + 1) <= MOST_POINTS


def _default_num_trials(settings: TuneSettings, space: SearchSpace) -> int:
    """A grid is tried whole; where other values are drawn for its points, no fewer than without a grid, and as often for each point."""
    points = _grid_points(settings, space)
    return points if points and points == grid_size(space) else math.ceil(DEFAULT_NUM_TRIALS / (points or 1)) * (points or 1)


def _grid_points(settings: TuneSettings, space: SearchSpace) -> int:
    """How many points the grid has that the searcher goes through; 0: all is drawn."""
    if settings.searcher == "grid":
        return grid_size(space) or 0
    return exhaustive_size(space) if exhaustive_keys(space) else 0


def search_line(settings: TuneSettings, num_trials: int, space: SearchSpace) -> str:
    """What is searched, in one line; a grid that is not tried whole is named, and a space that is tried whole without one."""
    points = _grid_points(settings, space)
    trials, first = ("1 trial", "point") if num_trials == 1 else (f"{num_trials:,} trials", f"{num_trials:,} points")
    part = f" (the first {first} of a grid of {points:,})" if points > num_trials else ""
    if not points and num_trials > 1 and num_trials == grid_size(space) and is_tried_once(settings, space):
        part = " (all points of the space)"
    return f"search: {settings.method}, {trials}{part} over {', '.join(space)}" if space else f"{trials} of the same values, {settings.scheduler}"


def first_points(
    settings: TuneSettings,
    space: SearchSpace,
    defaults: Mapping[str, Any] | None = None,
    to_raw: Callable[[SearchSpace, Mapping[str, Any]], RawProposal] = to_raw,
) -> list[RawProposal]:
    """The defaults, where they lie inside the space and nothing better is known, and the user's own points.

    Args:
        to_raw: a point as the user writes it -> a raw proposal.

    Raises:
        InvalidSpace, UnknownHyperparameter, InvalidInput: points name what is not tuned, or lie outside the space; all problems together.
        NotSupported: the searcher is an object that cannot be given points.
    """
    if not takes_first_points(settings):
        if settings.points_to_evaluate:
            raise NotSupported(f"points_to_evaluate: {type(settings.searcher).__name__} cannot be told what to try first; give a searcher by its name")
        return []
    default = default_point(space, defaults or {}) if settings.default_first and not settings.warm_start else None
    problems, points = Problems(), [] if default is None else [default]
    for number, given in enumerate(settings.points_to_evaluate):
        wrong = Problems()
        with wrong.gather():
            if (point := to_raw(space, given)) not in points:
                points.append(point)
        for problem in wrong.found:
            problems.add(type(problem)(f"points_to_evaluate[{number}]: {problem}"))
    problems.raise_any()
    return points


def takes_first_points(settings: TuneSettings) -> bool:
    """Whether the searcher can be told what to try first, which is also what resuming needs; those by name all can."""
    if isinstance(settings.searcher, str):
        return True
    from . import searchers  # the object is one of Ray's or Optuna's, and they are loaded then

    return searchers.can_be_told(settings.searcher)


def check_scheduled_by(settings: TuneSettings, metric: str, mode: str) -> None:
    """Refuses a scheduler that could not judge by this metric; those by name all can.

    Raises:
        NotSupported, InvalidTuneSettings: a scheduler of the user's that cannot serve a search by this metric.
    """
    if not isinstance(settings.scheduler, str):
        from .schedulers import check_given_scheduler  # its class is Ray's, which is loaded then

        check_given_scheduler(settings.scheduler, metric, mode)


def check_resumable(settings: TuneSettings) -> None:
    """Refuses to go on with a search whose searcher would not know what was tried.

    Raises:
        NotSupported: the searcher is an object that cannot be told of earlier trials.
    """
    if not takes_first_points(settings):
        name = type(settings.searcher).__name__
        raise NotSupported(f"resume: the searcher {name} cannot be told of earlier trials; a search with it begins in a new save_path")


LIMITS = (
    "num_trials", "num_to_keep", "keep_trials", "disk_quota_mb", "max_concurrent_trials", "resources_per_trial", "trial_time_limit",
    "max_failed_trials", "retry_failed", "goal", "warm_start",
)  # fmt: skip


def limits_of(settings: TuneSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what must stay the same for a search to be resumed, what may change from call to call), as JSON values."""
    stated = {name: _as_json(value) for name, value in settings.model_dump().items()}
    limits = {name: stated.pop(name) for name in LIMITS}
    return stated, limits


def _as_json(value: Any) -> Any:
    """A setting as JSON can hold it; a searcher or scheduler object by its class."""
    plain = value is None or isinstance(value, (str, int, float, bool, list, tuple, dict))
    return value if plain else f"{type(value).__module__}.{type(value).__qualname__}"
