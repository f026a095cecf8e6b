"""The base class of all searchers: proposes the given first points, then its own, and counts failed trials as the worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher

from ...space import RawProposal, SearchSpace
from ..result_keys import METRIC

Args = Mapping[str, Any]
Points = Sequence[RawProposal]


class OwnSearcher(Searcher):
    """Proposes the given first points as they are, then its own.

    A failed trial counts as the worst so far. If failures are not reported, Gaussian processes and Parzen estimators keep proposing
    configurations that fail if they expect the best scores there: in an experiment 15 to 20 of the last 20 trials failed, and 1 to 10 this way.

    Attributes:
        num_proposed: trials proposed so far; also the number of the next trial.
    """

    def __init__(self, space: SearchSpace, args: Args, seed: int, first_points: Points) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.space, self.args, self.seed, self.first_points, self.num_proposed = space, args, seed, list(first_points), 0
        self.worst, self.failed = math.inf, list[str]()  # ``failed``: trials to be told once any trial has a score

    def suggest(self, trial_id: str) -> Any:
        given = self.first_points[self.num_proposed] if self.num_proposed < len(self.first_points) else None
        proposal = self._propose(trial_id, given)
        if isinstance(proposal, dict):
            self.num_proposed += 1
            return dict(proposal)
        return proposal

    def _propose(self, trial_id: str, given: RawProposal | None) -> RawProposal | str | None:
        """Returns ``given``, to learn from its score like from any other; if that is None, an own proposal, FINISHED, or None (not now)."""
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
        """Learns from a trial that ended with this score."""

    def learn(self, scores: Sequence[float]) -> None:
        """Learns that the first of its first points, one per score, were tried already; they are not proposed."""
        for number, score in enumerate(scores):
            self._propose(f"known {number}", self.first_points.pop(0))
            self.on_trial_complete(f"known {number}", {METRIC: score})


def score_of(result: Mapping[str, Any] | None) -> float | None:
    score = (result or {}).get(METRIC)
    return float(score) if score is not None and math.isfinite(score) else None
