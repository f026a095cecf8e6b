"""Optuna's samplers, used through ask and tell. To add one: a line in ``SAMPLERS``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from ...space import Choice, Float, Int, Normal, RawProposal, SearchSpace, Space, propose
from ...space.kinds import is_plain
from .apart import Apart
from .cube import from_cube, to_cube
from .given import own_copy
from .own import Args, OwnSearcher, Points

MOST_INTEGERS = 10_000  # the largest range that GPSampler gets as integers; larger ones it gets as floats


class OptunaSearcher(OwnSearcher):
    """Searches with any Optuna sampler through ``study.ask`` and ``study.tell``.

    Args:
        build: (args, seed) -> sampler.
    """

    def __init__(self, space: SearchSpace, args: Args, seed: int, first_points: Points, build: Callable[[Args, int], Any]) -> None:
        import optuna

        super().__init__(space, args, seed, first_points)
        self.apart, self.stopped, self.running = Apart(seed), False, dict[str, Any]()
        with self.apart():
            self.study = optuna.create_study(direction="maximize", sampler=build(args, seed % 2**32))
        # GPSampler enumerates all integers of a range
        self.most_integers = MOST_INTEGERS if isinstance(self.study.sampler, optuna.samplers.GPSampler) else math.inf
        self.breeds = isinstance(self.study.sampler, (optuna.samplers.CmaEsSampler, optuna.samplers.NSGAIISampler, optuna.samplers.NSGAIIISampler))
        # exhausted samplers call study.stop(), which Optuna allows only inside optimize()
        self.study.stop = functools.partial(setattr, self, "stopped", True)  # type: ignore[method-assign]

    def _propose(self, trial_id: str, given: RawProposal | None) -> RawProposal | str:
        if given is None and self.stopped:
            return Searcher.FINISHED
        with self.apart():
            if given is not None:
                self.study.enqueue_trial(propose(self.space, lambda path, space: _to_optuna(space, given[path])))
            trial = self.running[trial_id] = self.study.ask()
            if given is not None and self.breeds:
                trial.relative_params  # noqa: B018  # accessing it assigns a generation; with all values given, Optuna would not do so
            proposal = propose(self.space, lambda path, space: self._ask(trial, path, space))
        return proposal if given is None else given

    def _ask(self, trial: Any, path: str, space: Space) -> Any:
        if isinstance(space, Int) and space.upper - space.lower >= self.most_integers:
            # finish() rounds to an integer; half a step more at both ends makes the outermost integers as likely as the others
            lower = space.lower - 0.5 if not space.log else max(space.lower - 0.5, 0.5)
            return trial.suggest_float(path, lower, space.upper + 0.5, log=space.log)
        return _ask_optuna(trial, path, space)

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
    """Raw value -> the value that Optuna stores: the inverse of ``_ask_optuna``."""
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
    """The options themselves if Optuna can store them, because a GridSampler of the user names them; otherwise their indices."""
    plain = all(map(is_plain, space.options))
    return space.options if plain and len(set(space.options)) == len(space.options) else tuple(range(len(space.options)))


def continued(sampler: Any, space: SearchSpace, num_earlier: int) -> Any:
    """A copy of the user's sampler, advanced past earlier trials: it keeps its own seed, and would otherwise draw for new trials what it drew for those."""
    import optuna

    sampler = own_copy(sampler)
    earlier = optuna.create_study(sampler=sampler)
    earlier.stop = lambda: None  # type: ignore[method-assign]
    for _ in range(num_earlier):
        trial = earlier.ask()
        propose(space, functools.partial(_ask_optuna, trial))
    return sampler


STARTUP_TRIALS = 4  # Optuna's 10 would leave few modelled trials in a usual search; measured by benchmarks/startup_trials.py


def _bayes(args: Args, seed: int) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, **{"n_startup_trials": STARTUP_TRIALS, **args})


def _gp(args: Args, seed: int) -> Any:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, **{"n_startup_trials": STARTUP_TRIALS, **args})


def _cmaes(args: Args, seed: int) -> Any:
    from optuna.samplers import CmaEsSampler, TPESampler

    return CmaEsSampler(seed=seed, independent_sampler=TPESampler(seed=seed), **args)  # CMA-ES ignores choices; TPE models them


def _evolution(args: Args, seed: int) -> Any:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, **{"population_size": 10, **args})  # with Optuna's 50, most searches would not outlast the random first generation


SAMPLERS: dict[str, Callable[[Args, int], Any]] = {"bayes": _bayes, "gp": _gp, "cmaes": _cmaes, "evolution": _evolution}
