"""Searchers by name, all Ray Searchers. They propose raw values and learn from ``{METRIC: score}``, where higher is better.

To add one: a class or function ``(space, args, seed, first_points) -> OwnSearcher`` and an entry in ``SEARCHERS``, its arguments in
``hpo/searcher_args.py``. An optimizer with an ask-and-tell interface is a class in ``libraries.py``, an Optuna sampler a line in ``SAMPLERS``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...space import RawProposal, SearchSpace
from ..searcher_args import BLIND, is_sampler
from ..settings import TuneSettings
from .drawn import GridSearcher, QmcSearcher, RandomSearcher
from .given import RaySearcher, can_be_told
from .libraries import LIBRARIES
from .library_searcher import BohbSearcher, LibrarySearcher
from .optuna_samplers import SAMPLERS, OptunaSearcher, continued
from .own import Args, OwnSearcher, Points

__all__ = ["SEARCHERS", "OwnSearcher", "Points", "build_searcher", "can_be_told"]

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
        first_points: raw proposals that come first, in this order; the searcher learns from their scores.
        known: raw proposals that were tried elsewhere, with their scores.
        num_recorded: how many of the first points an earlier session of this search proposed. If there are such points or known ones, the
            seed is changed, because the original seed would draw the random trials of that session, or of the known search, again.

    Returns:
        A Searcher whose ``suggest`` gives raw proposals, None (not now) or FINISHED, and which learns from ``{METRIC: score}``.

    Raises:
        InvalidTuneSettings, NotSupported: the searcher is an object that cannot search this space.
    """
    num_earlier = len(known) + num_recorded
    if num_earlier and settings.searcher not in BLIND:  # those draw by trial number
        seed = int(np.random.SeedSequence([seed, len(known), num_recorded]).generate_state(1)[0])
    built = _build(settings.searcher, space, num_earlier)(space, settings.searcher_init_args, seed, [*(raw for raw, _ in known), *first_points])
    built.learn([score for _, score in known])
    return built


def _build(searcher: Any, space: SearchSpace, num_earlier: int) -> Callable[[SearchSpace, Args, int, Points], OwnSearcher]:
    if not space:  # only fixed and computed values: nothing to propose
        return RandomSearcher
    if isinstance(searcher, str):
        return SEARCHERS[searcher]
    if is_sampler(searcher):
        return functools.partial(OptunaSearcher, build=lambda args, seed: continued(searcher, space, num_earlier))
    return functools.partial(RaySearcher, searcher=searcher)
