"""Searchers by name, all Ray Searchers, and the one that stands between them and Ray and keeps the records.

To add one: a function ``(space, settings, seed) -> Searcher`` and an entry in ``SEARCHERS``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from ..config import Config
from ..errors import InvalidTuneSettings
from ..space import SearchSpace, draw_space, finish_proposal
from .ray_space import to_optuna
from .records import SearchRecords
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


class RecordingSearcher(Searcher):
    """Finishes each proposal of another searcher, and numbers and records it before Ray sees it."""

    def __init__(self, inner: Searcher, space: SearchSpace, config: Config, records: SearchRecords, deadline: float | None) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.inner, self.space, self.config, self.records, self.deadline = inner, space, config, records, deadline

    def suggest(self, trial_id: str) -> Any:
        if self.deadline is not None and time.time() > self.deadline:
            return Searcher.FINISHED
        proposal = self.inner.suggest(trial_id)
        if proposal is None or proposal == Searcher.FINISHED:
            return proposal
        proposal = finish_proposal(self.space, proposal, self.config.flat())
        record = self.records.open_trial(proposal, self.config.with_overrides(proposal))
        return {"trial": record.number}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        score = (result or {}).get(METRIC)
        if error or score is None:  # raised, diverged at once, or found no time
            self.inner.on_trial_complete(trial_id, error=True)
        else:
            self.inner.on_trial_complete(trial_id, {METRIC: score})

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        return True  # both are known since __init__

    def save(self, checkpoint_path: str) -> None:
        pass  # our own records are what a search resumes from

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("searches resume from their records, never from Ray's files")
