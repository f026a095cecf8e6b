"""What every scheduler is built from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NEARLY = 1e-6  # epochs of tolerance, because positions are sums of floats


@dataclass(frozen=True)
class SchedulerPlan:
    """What a scheduler knows about its search.

    Attributes:
        args: ``scheduler_init_args``, checked.
        max_epochs: the most epochs that a trial can have.
        warmup_epochs: epochs in which no trial is judged.
    """

    args: Mapping[str, Any]
    max_epochs: float
    warmup_epochs: float = 0.0
    space: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def max_t(self) -> float:
        return self.args.get("max_t", max(self.max_epochs, self.args.get("grace_period", 1)))

    @property
    def perturbation_interval(self) -> float:
        """Epochs between two exchanges of a population."""
        return self.args.get("perturbation_interval", max(1, self.max_epochs // 5))

    @property
    def burn_in_period(self) -> float:
        """Epochs before the first exchange."""
        return max(self.args.get("burn_in_period", 0), self.warmup_epochs)

    @property
    def first_exchange(self) -> float:
        """The epoch of the first exchange: the first multiple of the interval that the burn-in does not cover."""
        return self.perturbation_interval * max(1, math.ceil(self.burn_in_period / self.perturbation_interval - NEARLY))

    def grace(self, *names: str) -> float:
        """Epochs before the first judgement: the first of these arguments that was given, else a default; never less than the warm-up."""
        # early scores mislead: with batch norm the best trials often look the worst for some epochs (benchmarks/RESULTS.md)
        default = math.ceil(math.sqrt(self.max_t) - NEARLY)
        given = next((self.args[name] for name in names if name in self.args), default)
        return max(given, self.warmup_epochs)
