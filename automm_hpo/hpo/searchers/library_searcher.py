"""Searchers that propose with an optimizer of ``libraries.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...space import Choice, RawProposal, SearchSpace, draw_space
from ..searcher_args import plain_spaces
from .apart import Apart
from .cube import from_cube, to_cube
from .libraries import Bohb, Library, Point
from .own import Args, OwnSearcher, Points, score_of


class LibrarySearcher(OwnSearcher):
    """Searches with a library's optimizer, which sees only the unit cube."""

    def __init__(self, space: SearchSpace, args: Args, seed: int, first_points: Points, build: Callable[..., Library]) -> None:
        super().__init__(space, args, seed, first_points)
        self.plain = plain_spaces(space, type(self).__name__)
        # a choice with a single option becomes a number that has no effect
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
            # the library waits for a score, but no trial is running that could bring one: try a random point
            proposal = draw_space(self.space, self.seed, self.num_proposed) if given is None else given
            self.tokens[trial_id] = self.library.adopt(self._to_point(proposal))
            return proposal

    def _to_point(self, raw: RawProposal) -> Point:
        return {key: int(raw[key]) if key in self.choices else to_cube(domain, raw[key]) for key, domain in self.plain.items()}

    def _tell(self, trial_id: str, score: float) -> None:
        with self.apart():
            self.library.tell(self.tokens.pop(trial_id), score)


class BohbSearcher(LibrarySearcher):
    """With the scheduler BOHB, also learns from every rung; with other schedulers, only from the ends of trials."""

    library: Bohb

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        budget, score = (result.get("hyperband_info") or {}).get("budget"), score_of(result)
        if budget is not None and score is not None:
            self.library.tell(self.tokens[trial_id], score, budget)
