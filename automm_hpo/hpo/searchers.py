"""Searchers by name, all Ray Searchers, and the one that stands between them and Ray and keeps the records.

To add one: a function ``(space, settings, seed) -> Searcher`` and an entry in ``SEARCHERS``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from ..errors import InvalidTuneSettings
from ..space import SearchSpace, draw_space
from .ray_space import to_optuna
from .settings import TuneSettings

METRIC = "best_score"  # what searchers are told of a trial: its best epoch, which is what it would contribute


class RandomSearcher(Searcher):
    """Draws every hyperparameter independently; trial n depends on (seed, n) only."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.space, self.seed, self.num_proposed = space, seed, 0

    def suggest(self, trial_id: str) -> dict[str, Any]:
        proposal = draw_space(self.space, self.seed, self.num_proposed)
        self.num_proposed += 1
        return proposal

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        pass


def _random(space: SearchSpace, settings: TuneSettings, seed: int) -> Searcher:
    return RandomSearcher(space, seed)


def _bayes(space: SearchSpace, settings: TuneSettings, seed: int) -> Searcher:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # multivariate, group, constant_liar: the user's choice
        try:
            sampler = optuna.samplers.TPESampler(seed=seed, **settings.searcher_init_args)
        except (TypeError, ValueError) as error:
            raise InvalidTuneSettings(f"searcher_init_args: Optuna's TPESampler refuses them: {error}") from None
    return OptunaSearch(to_optuna(space), metric=METRIC, mode="max", sampler=sampler)


SEARCHERS: dict[str, Callable[[SearchSpace, TuneSettings, int], Searcher]] = {"random": _random, "bayes": _bayes}


def build_searcher(settings, space, seed, first_points):
    inner = SEARCHERS[settings.searcher](space, settings, seed)

    class First(Searcher):
        def __init__(self):
            super().__init__(metric=METRIC, mode="max")
            self.n = 0

        def suggest(self, trial_id):
            self.n += 1
            raw = inner.suggest(trial_id)
            return first_points[self.n - 1] if self.n <= len(first_points) else raw

        def on_trial_complete(self, trial_id, result=None, error=False):
            inner.on_trial_complete(trial_id, {METRIC: result[METRIC]} if result else None, error)

        def on_trial_result(self, trial_id, result):
            pass

    return First()
