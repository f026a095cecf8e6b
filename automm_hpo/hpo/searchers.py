"""Searchers by name, all Ray Searchers. They propose raw values and learn from ``{METRIC: score}``, where higher is better.

To add one: a class or function ``(space, args, seed, first_points) -> Searcher`` and an entry in ``SEARCHERS``, its arguments in
``searcher_args.py``. An optimizer that is asked and told is a class in ``libraries.py``, a sampler of Optuna's a line in ``SAMPLERS``.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.search import Searcher

from ..errors import InvalidSpace, InvalidTuneSettings, NotSupported
from ..sections import unwrapped
from ..space import (
    Choice,
    Float,
    Int,
    Normal,
    RawProposal,
    SearchSpace,
    Space,
    draw_space,
    exhaustive_point,
    exhaustive_size,
    grid_point,
    grid_size,
    point_of,
    propose,
)
from .apart import Apart
from .cube import from_cube, to_cube
from .libraries import LIBRARIES, Bohb, Library, Point
from .ray_space import plain_spaces, to_ray
from .result_keys import METRIC
from .searcher_args import BLIND, is_sampler
from .settings import TuneSettings

Args = Mapping[str, Any]
Points = Sequence[RawProposal]


class OwnSearcher(Searcher):
    """Proposes the given first points as they are, then its own.

    What fails counts as the worst trial so far: told nothing of it, Gaussian processes and Parzen estimators propose more of what
    fails, if they expect the best there: in a trial search 15 to 20 of the last 20 trials failed, and so 1 to 10.

    Attributes:
        num_proposed: also the number of the trial proposed next.
    """

    def __init__(self, space: SearchSpace, args: Args, seed: int, first_points: Points) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.space, self.args, self.seed, self.first_points, self.num_proposed = space, args, seed, list(first_points), 0
        self.worst, self.failed = math.inf, list[str]()  # and not yet told of

    def suggest(self, trial_id: str) -> Any:
        given = self.first_points[self.num_proposed] if self.num_proposed < len(self.first_points) else None
        proposal = self._propose(trial_id, given)
        if isinstance(proposal, dict):
            self.num_proposed += 1
            return dict(proposal)
        return proposal

    def _propose(self, trial_id: str, given: RawProposal | None) -> RawProposal | str | None:
        """``given``, to be learned from like any other; where that is None one of its own, FINISHED, or None (not now)."""
        raise NotImplementedError

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        score = None if error else score_of(result)
        if score is None:
            self.failed.append(trial_id)
        else:
            self.worst = min(self.worst, score)
            self._tell(trial_id, score)
        if math.isfinite(self.worst):
            while self.failed:
                self._tell(self.failed.pop(), self.worst)

    def _tell(self, trial_id: str, score: float) -> None:
        """A trial ended with this score."""

    def learn(self, scores: Sequence[float]) -> None:
        """Takes as many of its first points for tried already, with these scores."""
        for number, score in enumerate(scores):
            self._propose(f"known {number}", self.first_points.pop(0))
            self.on_trial_complete(f"known {number}", {METRIC: score})

    def on_pause(self, trial_id: str) -> None:
        """HyperBandForBOHB calls it on any searcher."""

    def on_unpause(self, trial_id: str) -> None:
        """HyperBandForBOHB calls it on any searcher."""


def score_of(result: Mapping[str, Any] | None) -> float | None:
    score = (result or {}).get(METRIC)
    return float(score) if score is not None and math.isfinite(score) else None


class RandomSearcher(OwnSearcher):
    """Draws every hyperparameter independently; trial n depends on (seed, n) only.

    Exhaustive choices (``grid_search``) take the points of their grid in turn. One that a first point has is not tried again in that round.
    """

    def __init__(self, space: SearchSpace, args: Args, seed: int, first_points: Points) -> None:
        super().__init__(space, args, seed, first_points)
        self.size, self.index, self.given = exhaustive_size(space), 0, list(first_points)

    def _propose(self, trial_id: str, given: RawProposal | None) -> RawProposal:
        return draw_space(self.space, self.seed, self.num_proposed, self._next_point()) if given is None else given

    def _next_point(self) -> int:
        while True:
            point, self.index = self.index % self.size, self.index + 1
            on_grid = exhaustive_point(self.space, point).items()
            given = next((raw for raw in self.given if on_grid <= raw.items()), None)
            if given is None or self.size == 1:
                return point
            self.given.remove(given)


class GridSearcher(OwnSearcher):
    """Every point of a finite space once, the last key changing fastest. A first point of the grid is not tried again."""

    def __init__(self, space: SearchSpace, args: Args, seed: int, first_points: Points) -> None:
        super().__init__(space, args, seed, first_points)
        self.index, self.covered = 0, {point_of(space, point) for point in first_points}

    def _propose(self, trial_id: str, given: RawProposal | None) -> RawProposal | str:
        if given is not None:
            return given
        while self.index < (grid_size(self.space) or 0):
            point = grid_point(self.space, self.index)
            self.index += 1
            if point_of(self.space, point) not in self.covered:
                return point
        return Searcher.FINISHED


class QmcSearcher(OwnSearcher):
    """A sequence that fills the space more evenly than chance; trial n depends on (seed, n) only."""

    def __init__(self, space: SearchSpace, args: Args, seed: int, first_points: Points) -> None:
        from scipy.stats import qmc

        super().__init__(space, args, seed, first_points)
        sequence = {"sobol": qmc.Sobol, "halton": qmc.Halton}[args.get("qmc_type", "sobol")]
        self.sequence = sequence(len(plain_spaces(space, "qmc")), scramble=args.get("scramble", True), rng=seed)
        self.places: list[list[float]] = []  # so much of the sequence as has been drawn

    def _propose(self, trial_id: str, given: RawProposal | None) -> RawProposal:
        while len(self.places) <= self.num_proposed:  # asked twice for a trial, it says the same twice
            self.places += self.sequence.random().tolist()
        place = iter(self.places[self.num_proposed])
        return propose(self.space, lambda path, space: from_cube(space, next(place))) if given is None else given


class OptunaSearcher(OwnSearcher):
    """Any of Optuna's samplers, asked and told.

    Args:
        build: (args, seed) -> sampler.
    """

    def __init__(self, space: SearchSpace, args: Args, seed: int, first_points: Points, build: Callable[[Args, int], Any]) -> None:
        import optuna

        super().__init__(space, args, seed, first_points)
        self.apart, self.stopped, self.running = Apart(seed), False, dict[str, Any]()
        with self.apart():
            self.study = optuna.create_study(direction="maximize", sampler=build(args, seed % 2**32))
        self.breeds = isinstance(self.study.sampler, (optuna.samplers.CmaEsSampler, optuna.samplers.NSGAIISampler, optuna.samplers.NSGAIIISampler))
        # samplers that come to an end call it, and Optuna's own works within optimize() only
        self.study.stop = functools.partial(setattr, self, "stopped", True)  # type: ignore[method-assign]

    def _propose(self, trial_id: str, given: RawProposal | None) -> RawProposal | str:
        if given is None and self.stopped:
            return Searcher.FINISHED
        with self.apart():
            if given is not None:
                self.study.enqueue_trial(propose(self.space, lambda path, space: _to_optuna(space, given[path])))
            trial = self.running[trial_id] = self.study.ask()
            if given is not None and self.breeds:
                trial.relative_params  # noqa: B018  # what is never asked for its parameters would have no generation
            proposal = propose(self.space, lambda path, space: _ask_optuna(trial, path, space))
        return proposal if given is None else given

    def _tell(self, trial_id: str, score: float) -> None:
        with self.apart():
            self.study.tell(self.running.pop(trial_id), score)


def _ask_optuna(trial: Any, path: str, space: Space) -> Any:
    match space:
        case Float():
            return trial.suggest_float(path, space.lower, space.upper, log=space.log)
        case Int():
            return trial.suggest_int(path, space.lower, space.upper, log=space.log)  # finish() rounds to the step
        case Normal():
            return from_cube(space, trial.suggest_float(path, 0, 1))
        case Choice():
            return _optuna_options(space).index(trial.suggest_categorical(path, _optuna_options(space)))


def _to_optuna(space: Space, raw: Any) -> Any:
    """The inverse of what ``_ask_optuna`` returns."""
    match space:
        case Float():
            return min(max(float(raw), space.lower), space.upper)
        case Int():
            return space.finish(raw)
        case Normal():
            return to_cube(space, raw)
        case Choice():
            return _optuna_options(space)[int(raw)]


def _optuna_options(space: Choice) -> tuple[Any, ...]:
    """The options themselves where Optuna can hold them, which a GridSampler of the user's will name; else their numbers."""
    plain = all(option is None or isinstance(option, (bool, int, float, str)) for option in space.options)
    return space.options if plain and len(set(space.options)) == len(space.options) else tuple(range(len(space.options)))


STARTUP_TRIALS = 4  # Optuna's ten would leave little of a usual search to be modelled; measured by benchmarks/startup_trials.py


def _bayes(args: Args, seed: int) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, **{"n_startup_trials": STARTUP_TRIALS, **args})


def _gp(args: Args, seed: int) -> Any:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, **{"n_startup_trials": STARTUP_TRIALS, **args})


def _cmaes(args: Args, seed: int) -> Any:
    from optuna.samplers import CmaEsSampler, TPESampler

    return CmaEsSampler(seed=seed, independent_sampler=TPESampler(seed=seed), **args)  # choices are none of its business, and get a model too


def _evolution(args: Args, seed: int) -> Any:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, **{"population_size": 10, **args})  # Optuna's 50 would make most searches random ones


SAMPLERS: dict[str, Callable[[Args, int], Any]] = {"bayes": _bayes, "gp": _gp, "cmaes": _cmaes, "evolution": _evolution}


class LibrarySearcher(OwnSearcher):
    """A library's optimizer, which sees the unit cube only."""

    def __init__(self, space: SearchSpace, args: Args, seed: int, first_points: Points, build: Callable[..., Library]) -> None:
        super().__init__(space, args, seed, first_points)
        self.plain = plain_spaces(space, type(self).__name__)
        # a choice of one option is a number that nobody looks at
        self.choices = {key: len(domain.options) for key, domain in self.plain.items() if isinstance(domain, Choice) and len(domain.options) > 1}
        self.apart, self.tokens = Apart(seed), dict[str, Any]()
        with self.apart():
            dimensions = {key: self.choices.get(key) for key in self.plain}
            self.library = build(dimensions, args, seed, list(map(self._to_point, first_points)))

    def _propose(self, trial_id: str, given: RawProposal | None) -> RawProposal | None:
        with self.apart():
            asked = self.library.ask() if given is None else None
            if asked is not None:
                point, self.tokens[trial_id] = asked
                return {key: int(point[key]) if key in self.choices else from_cube(domain, float(point[key])) for key, domain in self.plain.items()}
            if given is None and len(self.tokens) > len(self.failed):
                return None
            # it waits for a score, and nothing runs that could bring one: a random trial does
            proposal = draw_space(self.space, self.seed, self.num_proposed) if given is None else given
            self.tokens[trial_id] = self.library.adopt(self._to_point(proposal))
            return proposal

    def _to_point(self, raw: RawProposal) -> Point:
        return {key: int(raw[key]) if key in self.choices else to_cube(domain, raw[key]) for key, domain in self.plain.items()}

    def _tell(self, trial_id: str, score: float) -> None:
        with self.apart():
            self.library.tell(self.tokens.pop(trial_id), score)


class BohbSearcher(LibrarySearcher):
    """Learns besides from every rung of HyperBandForBOHB; with other schedulers from the ends of trials only."""

    library: Bohb

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        budget, score = (result.get("hyperband_info") or {}).get("budget"), score_of(result)
        if budget is not None and score is not None:
            self.library.tell(self.tokens[trial_id], score, budget)


class RaySearcher(OwnSearcher):
    """A Ray Searcher of the user's. It is told of scores under its own metric's name, negated where its mode is "min".

    It is given Ray's domains of the raw values, of a choice the index; one that takes no domains proposes the values themselves.

    Args:
        searcher: is not changed; a copy of it searches.

    Raises:
        InvalidTuneSettings: it brings a space of its own, or refuses ours.
        NotSupported: there are first points, and it cannot be told of them.
    """

    def __init__(self, space: SearchSpace, args: Args, seed: int, first_points: Points, searcher: Searcher) -> None:
        super().__init__(space, args, seed, first_points)
        self.name = type(_core(searcher)).__name__
        if first_points and not takes_first_points(searcher):
            raise NotSupported(f"searcher: {self.name} has no add_evaluated_point, and cannot learn from configurations that it did not propose")
        self.plain = plain_spaces(space, self.name)
        self.inner = own_copy(searcher)
        core = _core(self.inner)
        self.told_as, self.sign = core.metric or METRIC, -1 if core.mode == "min" else 1
        self.takes_domains = type(core).set_search_properties is not Searcher.set_search_properties
        if self.takes_domains:
            try:
                accepted = self.inner.set_search_properties(self.told_as, core.mode or "max", to_ray(space, self.name))
            except Exception as error:
                raise InvalidTuneSettings(f"searcher: {self.name} does not take this search space: {error}") from error
            if not accepted:
                raise InvalidTuneSettings(f"searcher: {self.name} has a space of its own; leave it out, the space is that of the hyperparameters")
        self.proposed: dict[str, dict[str, Any]] = {}
        self.given: dict[str, RawProposal] = {}

    def _propose(self, trial_id: str, given: RawProposal | None) -> RawProposal | str | None:
        if given is not None:
            self.given[trial_id] = given
            return given
        values = self.inner.suggest(trial_id)
        if not isinstance(values, dict):
            return values
        if values.keys() != self.plain.keys():
            raise InvalidTuneSettings(f"searcher: {self.name} proposes values of {', '.join(values)}; the search space is of {', '.join(self.plain)}")
        self.proposed[trial_id] = values
        return {key: self._raw(key, unwrapped(value)) for key, value in values.items()}

    def _raw(self, key: str, value: Any) -> Any:
        space = self.plain[key]
        try:
            if self.takes_domains:
                space.finish(value)
                return value
            return space.raw_of(value)
        except (InvalidSpace, TypeError, ValueError, IndexError) as problem:
            raise InvalidTuneSettings(f"searcher: {self.name} proposes {value!r} for {key}: {problem}") from None

    def _value(self, key: str, raw: Any) -> Any:
        """The inverse of ``_raw``."""
        space = self.plain[key]
        if self.takes_domains and isinstance(space, (Choice, Normal)):
            return raw
        return space.finish(raw)

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        score = score_of(result)
        if trial_id in self.proposed and score is not None:
            self.inner.on_trial_result(trial_id, self._result(trial_id, score, result))

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        score = None if error else score_of(result)
        if trial_id in self.given:
            raw = self.given.pop(trial_id)
            told: Any = None if score is None else self.sign * score
            self.inner.add_evaluated_point({key: self._value(key, raw[key]) for key in self.plain}, told, error=score is None)
        elif score is None:
            self.inner.on_trial_complete(trial_id, None, error=True)
        else:
            self.inner.on_trial_complete(trial_id, self._result(trial_id, score, result or {}))

    def _result(self, trial_id: str, score: float, result: Mapping[str, Any]) -> dict[str, Any]:
        """As Ray's own results are, which have the configuration among them."""
        values = self.proposed[trial_id]
        return {**result, "config": values, **{f"config/{key}": value for key, value in values.items()}, self.told_as: self.sign * score}

    def on_pause(self, trial_id: str) -> None:
        if hasattr(self.inner, "on_pause"):  # TuneBOHB's
            self.inner.on_pause(trial_id)

    def on_unpause(self, trial_id: str) -> None:
        if hasattr(self.inner, "on_unpause"):
            self.inner.on_unpause(trial_id)


def own_copy(given: Any) -> Any:
    """An object of the user's to search with, which is not changed; the object itself where it holds what cannot be copied, a connection perhaps."""
    try:
        return copy.deepcopy(given)
    except Exception:
        return given


def takes_first_points(searcher: Any) -> bool:
    """Whether a searcher can be told of configurations that it did not propose: recorded ones, the defaults, points_to_evaluate.

    Args:
        searcher: a name, an Optuna sampler, or a Ray Searcher.
    """
    return isinstance(searcher, str) or is_sampler(searcher) or type(_core(searcher)).add_evaluated_point is not Searcher.add_evaluated_point


def _core(searcher: Searcher) -> Searcher:
    """The searcher within a ConcurrencyLimiter."""
    inner = getattr(searcher, "searcher", None)
    return _core(inner) if isinstance(inner, Searcher) else searcher


SEARCHERS: dict[str, Callable[[SearchSpace, Args, int, Points], OwnSearcher]] = {
    "random": RandomSearcher,
    "grid": GridSearcher,
    "qmc": QmcSearcher,
    **{name: functools.partial(OptunaSearcher, build=build) for name, build in SAMPLERS.items()},
    **{name: functools.partial(BohbSearcher if name == "bohb" else LibrarySearcher, build=build) for name, build in LIBRARIES.items()},
}


def build_searcher(
    settings: TuneSettings, space: SearchSpace, seed: int, first_points: Points, known: Sequence[tuple[RawProposal, float]] = (), num_recorded: int = 0
) -> OwnSearcher:
    """The searcher of these settings.

    Args:
        first_points: raw proposals that come first, in this order; what they score is learned from.
        known: raw proposals that were tried elsewhere, with their scores.
        num_recorded: of the first points, those that an earlier session of this search proposed. With that one's seed its random trials
            would be drawn once more, as would those of a search that is known.

    Returns:
        A Searcher whose ``suggest`` gives raw proposals, None (not now) or FINISHED, and which learns from ``{METRIC: score}``.

    Raises:
        InvalidTuneSettings, NotSupported: an object that cannot search this.
    """
    num_earlier = len(known) + num_recorded
    if num_earlier and settings.searcher not in BLIND:  # those go by the number of the trial
        seed = int(np.random.SeedSequence([seed, len(known), num_recorded]).generate_state(1)[0])
    built = _build(settings.searcher, space, num_earlier)(space, settings.searcher_init_args, seed, [*(raw for raw, _ in known), *first_points])
    built.learn([score for _, score in known])
    return built


def _build(searcher: Any, space: SearchSpace, num_earlier: int) -> Callable[[SearchSpace, Args, int, Points], OwnSearcher]:
    if isinstance(searcher, str):
        return SEARCHERS[searcher]
    if is_sampler(searcher):
        return functools.partial(OptunaSearcher, build=lambda args, seed: _own_sampler(searcher, space, num_earlier))
    return functools.partial(RaySearcher, searcher=searcher)


def _own_sampler(sampler: Any, space: SearchSpace, num_earlier: int) -> Any:
    """A copy of the user's sampler, which is not changed. It has a seed of its own, and so draws first what it drew for earlier trials."""
    import optuna

    sampler = own_copy(sampler)
    earlier = optuna.create_study(sampler=sampler)
    earlier.stop = lambda: None  # type: ignore[method-assign]
    for _ in range(num_earlier):
        trial = earlier.ask()
        propose(space, functools.partial(_ask_optuna, trial))
    return sampler
