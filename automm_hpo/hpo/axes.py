"""Hyperparameters and metrics as coordinates, for plots and for hyperparameter importance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metrics import Metric
from .records import TrialRecord
from .table import short_name, value_texts

FEW = 6  # at most this many distinct numbers, each drawn twice on average, are taken for the options of a choice


@dataclass(frozen=True)
class Axis:
    """One tuned hyperparameter over all trials.

    Attributes:
        kind: ``linear``, ``log``, or ``options`` (texts or a few distinct numbers, equally spaced).
        positions: (N,) float64: the value, its decimal logarithm, or the option's index; nan for trials without the hyperparameter.
        options: texts of the options; empty for the other kinds.
    """

    key: str
    name: str
    kind: str
    positions: np.ndarray
    options: tuple[str, ...] = ()

    @property
    def bounds(self) -> tuple[float, float]:
        """(low, high) ends of the axis; options have a margin of half a unit on either side."""
        if self.kind == "options":
            return -0.5, len(self.options) - 0.5
        return float(np.nanmin(self.positions)), float(np.nanmax(self.positions))

    @property
    def unit_positions(self) -> np.ndarray:
        """(N,) positions scaled to [0, 1]; 0.5 if all are equal, nan where ``positions`` is."""
        low, high = self.bounds
        return (self.positions - low) / (high - low) if high > low else np.where(np.isnan(self.positions), np.nan, 0.5)


def tuned_axes(trials: Sequence[TrialRecord]) -> list[Axis]:
    """One axis for each hyperparameter that any trial tuned, in the order of the leaderboard's columns."""
    keys = list(dict.fromkeys(key for record in trials for key in record.tuned))
    scales = {key: scale for record in trials for key, scale in record.scales.items()}
    return [_axis(key, short_name(key, keys), [record.best_tuned.get(key, _ABSENT) for record in trials], scales.get(key)) for key in keys]


_ABSENT = object()


def _axis(key: str, name: str, values: list[Any], scale: str | None) -> Axis:
    """The axis of a hyperparameter's values.

    Args:
        scale: the scale of the range they were drawn from; None: they were not drawn from a range, and the scale is guessed from the values.
    """
    present = [value for value in values if value is not _ABSENT]
    different = sorted({_identity(value): value for value in reversed(present)}.items(), key=lambda item: _order(item[1]))
    if not all(map(_is_number, present)) or 2 <= len(different) <= min(FEW, len(present) / 2):
        index = {identity: float(position) for position, (identity, _) in enumerate(different)}
        positions = np.array([math.nan if value is _ABSENT else index[_identity(value)] for value in values])
        return Axis(key, name, "options", positions, tuple(value_texts([value for _, value in different])))
    numbers = np.array([math.nan if value is _ABSENT else float(value) for value in values])
    found = numbers[~np.isnan(numbers)]
    if found.min() > 0 and (scale == "log" or (scale is None and is_logarithmic(found))):
        return Axis(key, name, "log", np.log10(numbers))
    return Axis(key, name, "linear", numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _identity(value: Any) -> Any:
    """Key by which equal values count as one option. Texts and booleans never equal a number."""
    return float(value) if _is_number(value) else repr(value)


def _order(value: Any) -> tuple[bool, float, str]:
    """Sort key: numbers first, in numerical order, then everything else by its text."""
    return (False, float(value), "") if _is_number(value) else (True, 0.0, str(value))


def is_logarithmic(numbers: np.ndarray) -> bool:
    """Whether positive numbers crowd at the low end of their range, as values from a log-uniform space do."""
    low, high = numbers.min(), numbers.max()
    return bool(low > 0 and high >= 10 * low and (np.median(numbers) - low) / (high - low) < 0.25)


@dataclass(frozen=True)
class MetricAxis:
    """How to plot a metric that may explode in some trials: on a logarithmic axis, or cut off on its bad side.

    Attributes:
        low, high: ends of the axis, in the metric's natural sign.
        num_beyond: number of values beyond the bad end.
    """

    is_log: bool
    low: float
    high: float
    num_beyond: int = 0

    def positions(self, values: np.ndarray) -> np.ndarray:
        """Values clipped to the ends; on a logarithmic axis, their decimal logarithms."""
        cut = np.clip(values, self.low, self.high)
        return np.log10(cut) if self.is_log else cut

    def unit_positions(self, values: np.ndarray) -> np.ndarray:
        """Positions scaled to [0, 1], increasing with the metric; 0.5 if all are equal."""
        low, high = self.positions(np.array([self.low, self.high])) / 2  # halved, because the difference of the largest floats would overflow
        return (self.positions(values) / 2 - low) / (high - low) if high > low else np.full(len(values), 0.5)


ORDERS = 20  # a positive loss gets a logarithmic axis if its highest value is at least this many times its lowest
FAR = 30  # values more than this many times as far from the best as the median are cut off: they would squeeze all others together
MOST_BEYOND = 0.25  # largest share of values to cut off; if more lie that far out, they are no outliers and all are shown


def metric_axis(values: Sequence[float], metric: Metric) -> MetricAxis:
    """The axis on which these values can be told apart.

    Args:
        values: at least one, all finite, in the metric's natural sign.
    """
    numbers = np.array(values, dtype=np.float64)
    is_loss = not metric.higher_is_better and bool(numbers.min() > 0)
    badness = np.log10(numbers) if is_loss else -numbers if metric.higher_is_better else numbers
    with np.errstate(over="ignore"):  # the largest floats may overflow
        best, median = badness.min(), np.median(badness)
        shown = numbers[badness <= best + FAR * (median - best)] if median > best else numbers
    if len(numbers) - len(shown) > MOST_BEYOND * len(numbers):
        shown = numbers
    low, high = float(shown.min()), float(shown.max())
    return MetricAxis(is_loss and high >= ORDERS * low, low, high, len(numbers) - len(shown))
