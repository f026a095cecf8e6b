"""What is searched, told without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..space import RawProposal, SearchSpace
from .settings import TuneSettings


@dataclass(frozen=True)
class SearchJob:
    """What is searched.

    Attributes:
        fixed: the hyperparameters that do not vary, by dotted key.
        metric: its name, under which schedulers of the user's find it.
        max_epochs: the most a trial can have.
        warmup_epochs: in which no scheduler should judge.
        first_points: raw proposals to try before the searcher's own.
    """

    space: SearchSpace
    fixed: Mapping[str, Any]
    settings: TuneSettings
    num_trials: int
    seed: int
    metric: str
    max_epochs: float
    warmup_epochs: float
    first_points: tuple[RawProposal, ...] = ()
