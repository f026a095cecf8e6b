"""Columns of dates -> calendar features and the time that has passed, as columns of numbers."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from ..config import Scaling
from .numerical import NumberScaler, fit_scaler, refuse_rows

# periodic part -> (its values, counted from 0; how many there are)
CYCLES = {
    "month": (lambda when: when.month - 1, 12),
    "day": (lambda when: when.day - 1, 31),
    "weekday": (lambda when: when.day_of_week, 7),
    "hour": (lambda when: when.hour + when.minute / 60, 24),
}
LINES = {  # part that only grows -> its values
    "year": lambda when: when.year,
    "elapsed": lambda when: (when - pd.Timestamp(0, tz="UTC")).total_seconds() / 86_400,  # days
}


@dataclass(frozen=True)
class DateEncoder:
    """A column of dates, in UTC where they have a time zone.

    Attributes:
        lines: part that only grows -> its scaling; those that varied in training.
        cycles: periodic parts that varied in training; each becomes a sine and a cosine, so that December is near January.
        has_missing: whether training had missing values, for which there is an indicator then.
    """

    column: Hashable
    lines: Mapping[str, NumberScaler]
    cycles: tuple[str, ...]
    has_missing: bool

    @property
    def names(self) -> tuple[str, ...]:
        parts = [*self.lines, *(f"{cycle} {wave}" for cycle in self.cycles for wave in ("sin", "cos")), *(["missing"] if self.has_missing else [])]
        return tuple(f"{self.column}: {part}" for part in parts)

    def transform(self, column: pd.Series) -> np.ndarray:
        """(N, features) float32.

        Raises:
            InvalidData: a value is no date.
        """
        when = to_dates(column)
        features = [scaler.transform(_part(LINES[name], when)) for name, scaler in self.lines.items()]
        for name in self.cycles:
            values, period = CYCLES[name]
            angle = 2 * math.pi / period * _part(values, when)
            features += [np.nan_to_num(np.sin(angle)), np.nan_to_num(np.cos(angle))]  # a missing date has no direction
        features += [np.asarray(when.isna())] if self.has_missing else []
        return np.stack(features, 1).astype(np.float32) if features else np.zeros((len(column), 0), np.float32)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        lines = {name: NumberScaler(**{**scaler, "quantiles": tuple(scaler["quantiles"])}) for name, scaler in values["lines"].items()}
        return cls(values["column"], lines, tuple(values["cycles"]), values["has_missing"])


def fit_dates(column: pd.Series, scaling: Scaling) -> DateEncoder:
    """The encoder of a column, by its training rows.

    Raises:
        InvalidData: a value is no date.
    """
    when = to_dates(column)
    lines = {name: values for name, part in LINES.items() if _varies(values := _part(part, when))}
    cycles = tuple(name for name, (part, _) in CYCLES.items() if _varies(_part(part, when)))
    return DateEncoder(column.name, {name: fit_scaler(values, scaling) for name, values in lines.items()}, cycles, bool(when.isna().any()))


def to_dates(column: pd.Series) -> pd.DatetimeIndex:
    """In UTC, NaT where missing. Dates without a time zone are taken as they are.

    Raises:
        InvalidData: names the column, the first rows and their values.
    """
    missing = column.isna().to_numpy(dtype=bool)
    is_known = pd.api.types.is_datetime64_any_dtype(column.dtype)
    plain = column if is_known else pd.Series([None if absent else _as_text(value) for value, absent in zip(column, missing, strict=True)], dtype=object)
    when = pd.DatetimeIndex(pd.to_datetime(plain, errors="coerce", format="ISO8601", utc=True))
    when = when.tz_localize("UTC") if when.tz is None else when.tz_convert("UTC")  # Arrow's dates are left as they came
    refuse_rows(column, np.asarray(when.isna()) & ~missing, "expected dates, as datetimes or ISO 8601 texts such as 2026-05-31 or 2026-05-31T18:30:00")
    return when


def _as_text(value: object) -> str:
    """pandas does not take every mixture of dates, and numbers for something else: 20260531 is a date here as it is in a text."""
    if isinstance(value, pd.Period):
        value = value.start_time
    elif isinstance(value, float) and value.is_integer():  # a column of whole numbers, of which some are missing
        value = int(value)
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text.encode("utf-8", "replace").decode("utf-8")


def _part(part: Any, when: pd.DatetimeIndex) -> np.ndarray:
    return np.asarray(part(when), dtype=np.float64)


def _varies(values: np.ndarray) -> bool:
    present = values[~np.isnan(values)]
    return len(present) > 1 and bool((present != present[0]).any())
