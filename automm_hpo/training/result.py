"""The result of a validation, passed from the loop to the log, the scheduler and the plots. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

StopCheck = Callable[[float, float], str | None]
"""Takes the epoch, and the seconds that ending would need; returns why to end now, or None to continue."""


NO_RANK = (-math.inf, -math.inf)  # without a score: below all results that have one
UNKNOWN = ("train_loss", "valid_loss", "lr")  # fields that are unknown in an objective's trial, unless it reports them


def rank(score: float, loss: float) -> tuple[float, float]:
    """Sort key of validations, the best highest: by score, then by lower loss, because a small validation set has many equal scores."""
    return (score, -loss) if math.isfinite(score) else NO_RANK


@dataclass(frozen=True)
class EpochResult:
    """The result of one validation.

    Attributes:
        epoch: position in epochs; 1.5 is the middle of the second.
        step: optimizer steps taken.
        score: the validation metric, turned so that higher is better; nan if the trial diverged or the metric has no value.
        metric: the raw validation metric.
        train_loss, valid_loss: means since the last validation, and over the validation rows.
        lr: learning rate of the last step.
        seconds: spent in this trial so far, training and validating.
        end: why the trial ends here (``max_epochs``, ``patience``, ``diverged``, or what ``should_stop`` said); None: it continues.
        segment: counted from 0; population-based training begins another when a trial takes over a better one's weights.
        total_steps: steps of the schedule, as estimated then: fewer than all if there is no time for them; 0 for an objective.
        refusal: why the metric has no value; empty if it has one, or the reason is unknown.
        threshold: the decision threshold at which the metric was computed, see ``training/threshold.py``.
        extra: further raw values by name, returned by a user's objective.
    """

    epoch: float
    step: int
    score: float
    metric: float
    train_loss: float
    valid_loss: float
    lr: float
    seconds: float
    end: str | None = None
    segment: int = 0
    total_steps: int = 0
    refusal: str = ""
    threshold: float = 0.5
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key of epochs, the best highest."""
        return rank(self.score, self.valid_loss)

    def named(self, names: Sequence[str], taken: Collection[str] = ()) -> dict[str, float]:
        """The fields ``names``, and all of ``extra``. An extra value takes the place of a field in ``UNKNOWN``.

        Args:
            taken: names used otherwise. An extra value whose name is among these or ``names`` becomes ``reported/<name>``.
        """
        own = {name: getattr(self, name) for name in names if not (name in UNKNOWN and name in self.extra)}
        return own | {f"reported/{name}" if name in own or name in taken else name: value for name, value in self.extra.items()}


def result_to_json(result: EpochResult) -> dict[str, Any]:
    """The result as JSON values, with None for nan, which JSON does not have."""
    values = asdict(result)
    return _finite(values) | {"extra": _finite(values["extra"])}


def result_from_json(values: Mapping[str, Any]) -> EpochResult:
    fields: dict[str, Any] = _with_nan(values) | {"end": values["end"], "extra": _with_nan(values["extra"])}
    return EpochResult(**fields)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()}


def _with_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in values.items()}
