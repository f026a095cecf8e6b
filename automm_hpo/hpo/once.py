"""Avoids trying a point twice, which is useless because all trials of a search have the same seed; ``job.repeats_nothing`` says when it applies."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from ray.tune.search import Searcher

from ..space import Point, RawProposal, SearchSpace, draw_space, grid_point, grid_size, point_of
from .job import can_be_tried, repeats_nothing
from .searchers import OwnSearcher, Points, build_searcher
from .settings import TuneSettings

NUM_ASKED = 5  # proposals of tried points for one trial, before the searcher is given an untried one
NUM_DRAWN = 100  # random draws to find an untried point in a space too large to go through


class Once(OwnSearcher):
    """Keeps another searcher from trying a point twice. If it repeats one, it is told the known score and asked again, and finally given an untried point.

    Every proposal gets a score in the end; the repetition of a point that is still running gets it when that trial ends. TPE found better points
    when it was told the scores of its repetitions than when these were ignored or trained (``benchmarks/repeated_points.py``).

    Ranges rarely produce repetitions. Branches of a conditional space with one or few points do: they can make up half of a search.
    """

    def __init__(self, inner: OwnSearcher) -> None:
        super().__init__(inner.space, inner.args, inner.seed, inner.first_points)
        self.inner, self.num_asked = inner, 0
        self.asked: dict[str, tuple[str, Point]] = {}  # trial -> (its name in the other searcher, its point)
        self.scores: dict[Point, float | None] = {}  # scores of all proposed points; None: not known yet
        self.waiting: dict[Point, list[str]] = defaultdict(list)  # repetitions of points that are still running, by their names in the other searcher

    def _propose(self, trial_id: str, given: RawProposal | None) -> RawProposal | str | None:
        for _ in range(NUM_ASKED):
            asked, proposal = self._ask(given)
            if proposal is None and len(self.asked) == len(self.failed):
                break  # it waits for a score, but no trial is running that could bring one
            if not isinstance(proposal, dict):
                return proposal
            point = point_of(self.space, proposal)
            if given is not None or point not in self.scores:
                return self._adopt(trial_id, asked, proposal)
            if (score := self.scores[point]) is not None:
                self.inner._tell(asked, score)
            else:
                self.waiting[point].append(asked)
        chosen = self._untried()
        return Searcher.FINISHED if chosen is None else self._adopt(trial_id, self._ask(chosen)[0], chosen)

    def _untried(self) -> RawProposal | None:
        """A random untried point; None if all were tried. In a space too large to go through, a tried one if no random draw is untried."""
        rng = np.random.default_rng([self.seed, self.num_proposed])
        if can_be_tried(self.space):
            points = (grid_point(self.space, index) for index in range(grid_size(self.space) or 0))
            left = [point for point in points if point_of(self.space, point) not in self.scores]
            return left[rng.integers(len(left))] if left else None
        drawn = [draw_space(self.space, int(rng.integers(2**32)), 0) for _ in range(NUM_DRAWN)]
        return next((point for point in drawn if point_of(self.space, point) not in self.scores), drawn[0])

    def _ask(self, given: RawProposal | None) -> tuple[str, RawProposal | str | None]:
        self.num_asked += 1
        asked, self.inner.num_proposed = str(self.num_asked), self.num_proposed
        return asked, self.inner._propose(asked, given)

    def _adopt(self, trial_id: str, asked: str, proposal: RawProposal) -> RawProposal:
        point = point_of(self.space, proposal)
        self.asked[trial_id] = asked, point
        self.scores.setdefault(point, None)
        return proposal

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        self.inner.on_trial_result(self.asked[trial_id][0], result)

    def _tell(self, trial_id: str, score: float) -> None:
        asked, point = self.asked.pop(trial_id)
        self.scores[point] = score
        for name in (asked, *self.waiting.pop(point, ())):
            self.inner._tell(name, score)


def build_proposer(settings: TuneSettings, space: SearchSpace, seed: int, first_points: Points, *earlier: Any) -> OwnSearcher:
    """Builds the searcher that proposes the trials of a search.

    Args:
        earlier: see ``build_searcher``.
    """
    searcher = build_searcher(settings, space, seed, first_points, *earlier)
    return Once(searcher) if repeats_nothing(settings, space) else searcher
