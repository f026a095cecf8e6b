"""Describes what is searched. Does not need Ray."""

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

MOST_POINTS = 10_000  # spaces of up to this many points can be tried whole
RAY_SECONDS = 9.0  # overhead of Ray's start, its processes' imports and its end: benchmarks/RESULTS.md, "What bounds the search"
MOST_SECONDS = 60.0  # of trials in the caller's process, where a crash takes the caller with it


def ray_pays(seconds: float, num_parallel: int, time_left: float = math.inf) -> bool:
    """Whether trials that take ``seconds`` one after another belong on Ray: they would end sooner there, or exceed ``MOST_SECONDS``.

    Args:
        time_left: seconds until the deadline of the trials. If it comes first, Ray has to pay twice over, because trials on Ray lose more time
            than expected if the machine is busy and Ray is slow to start.

    >>> ray_pays(17, num_parallel=2), ray_pays(19, num_parallel=2), ray_pays(40, num_parallel=1)
    (False, True, False)
    >>> ray_pays(100, num_parallel=2, time_left=30), ray_pays(100, num_parallel=2, time_left=40)
    (False, True)
    """
    gained = 1 - 1 / num_parallel  # of every second
    has_time = time_left > MOST_SECONDS or time_left * gained > 2 * RAY_SECONDS
    return has_time and (seconds > MOST_SECONDS or seconds * gained > RAY_SECONDS)


@dataclass(frozen=True)
class InProcess:
    """A search that begins in the caller's process, and moves to Ray once the remaining trials would end sooner there.

    Attributes:
        num_parallel: trials that Ray would run at a time.
        num_epochs: all hyperparameters of a trial -> the most epochs that it can have.
    """

    num_parallel: int
    num_epochs: Callable[[Mapping[str, Any]], float]


@dataclass(frozen=True, kw_only=True)
class SearchJob:
    """What is searched.

    Attributes:
        fixed: the hyperparameters that do not vary, by dotted key.
        metric: the metric's name, under which a user's scheduler finds it in results.
        max_epochs: the most epochs that a trial can have.
        warmup_epochs: epochs in which no scheduler should end a trial.
        complete: tuned values -> all hyperparameters of the trial, checked.
        first_points: raw proposals to try before the searcher's own.
        known: (raw proposal, score) of trials of earlier searches.
        in_process: how the search begins in the caller's process; None: it begins on Ray.
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
        live: the hyperparameters that may change while a model trains.

    Raises:
        AutoMMHPOError: the searcher or the scheduler cannot take this space.
    """
    if exhaustive_keys(space) and "searcher" not in settings.model_fields_set and not settings.searcher_init_args:
        settings = settings.model_copy(update={"searcher": "random"})
    problems = Problems()
    with problems.gather():
        check_searcher(settings.searcher, settings.searcher_init_args, space)
    with problems.gather():
        check_scheduler(settings.scheduler, settings.searcher, space, live)
    problems.raise_any()
    num_trials = settings.num_trials or _default_num_trials(settings, space)
    return settings.model_copy(update={"num_trials": min(num_trials, grid_size(space) or 1) if is_tried_once(settings, space) else num_trials})


def repeats_nothing(settings: TuneSettings, space: SearchSpace) -> bool:
    """Whether the search avoids training a point twice. All trials of a search have the same seed, so the second trial would equal the first.

    Repetition is allowed if nothing is tuned, in population-based training (members may start equal), with ``grid_search`` (which cycles through its
    options), with computed values (which can differ at the same point), and if a Ray ``Searcher`` object proposes (it may repeat on purpose).
    """
    proposes = isinstance(settings.searcher, str) or is_sampler(settings.searcher)
    return bool(space) and proposes and settings.scheduler not in POPULATIONS and not exhaustive_keys(space) and not computed_keys(space)


def is_tried_once(settings: TuneSettings, space: SearchSpace) -> bool:
    """Whether the search ends once it has tried every point."""
    return repeats_nothing(settings, space) and can_be_tried(space)


def can_be_tried(space: SearchSpace) -> bool:
    """Whether the space is finite and small enough to go through all its points."""
    return (grid_size(space) or MOST_POINTS + 1) <= MOST_POINTS


def _default_num_trials(settings: TuneSettings, space: SearchSpace) -> int:
    """All points of a grid. If other values are drawn at its points, at least ``DEFAULT_NUM_TRIALS``, and equally many for each point."""
    points = _grid_points(settings, space)
    return points if points and points == grid_size(space) else math.ceil(DEFAULT_NUM_TRIALS / (points or 1)) * (points or 1)


def _grid_points(settings: TuneSettings, space: SearchSpace) -> int:
    """The number of points of the grid that the searcher goes through; 0: there is no grid, all values are drawn."""
    if settings.searcher == "grid":
        return grid_size(space) or 0
    return exhaustive_size(space) if exhaustive_keys(space) else 0


def search_line(settings: TuneSettings, num_trials: int, space: SearchSpace) -> str:
    """One line that says what is searched, and whether all points of a grid or a finite space are tried."""
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
    """The points to try first: the defaults, if they lie inside the space and there is no warm start, then the user's points.

    Args:
        to_raw: converts a user's point to a raw proposal.

    Raises:
        InvalidSpace, UnknownHyperparameter, InvalidInput: a point has a hyperparameter that is not tuned, or lies outside the space; all problems together.
        NotSupported: there are points, and the searcher is an object that cannot take any.
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
    """Whether the searcher can be told what to try first, which resuming needs too. All searchers given by name can."""
    if isinstance(settings.searcher, str):
        return True
    from . import searchers  # the object comes from Ray or Optuna, so the library is already loaded

    return searchers.can_be_told(settings.searcher)


def check_scheduled_by(settings: TuneSettings, metric: str, mode: str) -> None:
    """Refuses a scheduler object that cannot judge by this metric. All schedulers given by name can.

    Raises:
        NotSupported, InvalidTuneSettings: the user's scheduler does not fit a search by this metric.
    """
    if not isinstance(settings.scheduler, str):
        from .schedulers import check_given_scheduler  # its class is Ray's, so Ray is already loaded

        check_given_scheduler(settings.scheduler, metric, mode)


def check_resumable(settings: TuneSettings) -> None:
    """Refuses to resume a search whose searcher cannot learn what was tried.

    Raises:
        NotSupported: the searcher is an object that cannot be told about earlier trials.
    """
    if not takes_first_points(settings):
        name = type(settings.searcher).__name__
        raise NotSupported(f"resume: the searcher {name} cannot be told of earlier trials; a search with it begins in a new save_path")


LIMITS = (
    "num_trials", "num_to_keep", "keep_trials", "disk_quota_mb", "max_concurrent_trials", "resources_per_trial", "trial_time_limit",
    "max_failed_trials", "retry_failed", "goal", "warm_start",
)  # fmt: skip


def limits_of(settings: TuneSettings) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings that must not change if a search is resumed, settings that may), as JSON values."""
    stated = {name: _as_json(value) for name, value in settings.model_dump().items()}
    limits = {name: stated.pop(name) for name in LIMITS}
    return stated, limits


def _as_json(value: Any) -> Any:
    """A setting as a JSON value; a searcher or scheduler object as the name of its class."""
    plain = value is None or isinstance(value, (str, int, float, bool, list, tuple, dict))
    return value if plain else f"{type(value).__module__}.{type(value).__qualname__}"
