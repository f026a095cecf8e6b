"""Searchers that do not learn: random, grid, and quasi-Monte Carlo sequences."""

from __future__ import annotations

from ray.tune.search import Searcher

from ...space import RawProposal, SearchSpace, draw_space, exhaustive_point, exhaustive_size, grid_point, grid_size, point_of, propose
from ..searcher_args import plain_spaces
from .cube import from_cube
from .own import Args, OwnSearcher, Points


class RandomSearcher(OwnSearcher):
    """Draws every hyperparameter independently; trial n depends on (seed, n) only.

    Exhaustive choices (``grid_search``) take the points of their grid in turn. A grid point that a first point covers is skipped once.
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
    """Proposes every point of a finite space once, the last key changing fastest. Points that were first points are skipped."""

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
    """Proposes a low-discrepancy sequence, which covers the space more evenly than random points; trial n depends on (seed, n) only."""

    def __init__(self, space: SearchSpace, args: Args, seed: int, first_points: Points) -> None:
        from scipy.stats import qmc

        super().__init__(space, args, seed, first_points)
        sequence = {"sobol": qmc.Sobol, "halton": qmc.Halton}[args.get("qmc_type", "sobol")]
        self.sequence = sequence(len(plain_spaces(space, "qmc")), scramble=args.get("scramble", True), rng=seed)
        self.places: list[list[float]] = []  # the part of the sequence drawn so far

    def _propose(self, trial_id: str, given: RawProposal | None) -> RawProposal:
        while len(self.places) <= self.num_proposed:  # if asked again for the same trial, it proposes the same point
            self.places += self.sequence.random().tolist()
        place = iter(self.places[self.num_proposed])
        return propose(self.space, lambda path, space: from_cube(space, next(place))) if given is None else given
