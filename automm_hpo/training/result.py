"""What a validation found, on its way from the loop to the log, the scheduler and the pictures. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

StopCheck = Callable[[float], str | None]
"""Given the seconds that ending would take, why to end now; None: go on."""


NO_RANK = (-math.inf, -math.inf)  # of what has no score: below all that have one
UNKNOWN = ("train_loss", "valid_loss", "lr")  # of an objective


def rank(score: float, loss: float) -> tuple[float, float]:
    """Orders what was validated, the best highest: by score; of equal scores (a small validation set has many) the lower loss is better."""
    return (score, -loss) if math.isfinite(score) else NO_RANK


@dataclass(frozen=True)
class EpochResult:
    """What one validation found.

    Attributes:
        epoch: position in epochs; 1.5 is the middle of the second.
        step: optimizer steps taken.
        score: the validation metric turned so that higher is better; nan where the trial diverged.
        metric: the same in its natural sign.
        train_loss, valid_loss: means since the last validation, and over the validation rows.
        lr: learning rate of the last step.
        seconds: spent in this trial so far, training and validating.
        end: why the trial ends here (``max_epochs``, ``patience``, ``diverged``, or what ``should_stop`` said); None: it goes on.
        segment: counted from 0; population-based training begins another where a trial takes over a better one's weights.
        total_steps: of the schedule, as far as was known: fewer than all where there is no time for them; 0 of an objective.
        refusal: why the metric has no value; empty where it has one, or nothing more is known.
        extra: further values by name, in their natural sign; those an objective of the user's returned.
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
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def rank(self) -> tuple[float, float]:
        """Orders epochs, the best highest."""
        return rank(self.score, self.valid_loss)

    def named(self, names: Sequence[str], taken: Collection[str] = ()) -> dict[str, float]:
        """These of its values, and what else was reported, which may be what an objective leaves unknown.

        Args:
            taken: other names; what was reported under one of these or of ``names`` is given as ``reported/<name>``.
        """
        own = {name: getattr(self, name) for name in names if not (name in UNKNOWN and name in self.extra)}
        return own | {f"reported/{name}" if name in own or name in taken else name: value for name, value in self.extra.items()}


def result_to_json(result: EpochResult) -> dict[str, Any]:
    """JSON has no nan: None stands for it."""
    values = asdict(result)
    return _finite(values) | {"extra": _finite(values["extra"])}


def result_from_json(values: Mapping[str, Any]) -> EpochResult:
    fields: dict[str, Any] = _with_nan(values) | {"end": values["end"], "extra": _with_nan(values["extra"])}
    return EpochResult(**fields)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()}


def _with_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in values.items()}
