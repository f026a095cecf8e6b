"""Columns of dates -> columns of numbers: calendar features and elapsed time."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from ..config import Scaling
from .numerical import NumberScaler, fit_scaler, refuse_rows

EPOCH = pd.Timestamp(0, tz="UTC").as_unit("us")  # not nanoseconds, which end in 2262: 9999-12-31 is a common "until further notice"

# periodic part -> (its values, counted from 0; its period)
CYCLES = {
    "month": (lambda when: when.month - 1, 12),
    "day": (lambda when: when.day - 1, 31),
    "weekday": (lambda when: when.day_of_week, 7),
    "hour": (lambda when: when.hour + when.minute / 60, 24),
}
LINES = {  # part that only grows -> its values
    "year": lambda when: when.year,
    "elapsed": lambda when: (when.as_unit("us") - EPOCH).total_seconds() / 86_400,  # days
}

ZONED = re.compile(r"[T ]\d{2}(:?\d{2}){0,2}(\.\d+)?\s*(Z|[+-]\d{2}(:?\d{2})?)$")  # a time of day with an offset from UTC


@dataclass(frozen=True)
class DateEncoder:
    """Encodes one column of dates, converted to UTC if they have a time zone.

    Attributes:
        lines: part that only grows -> its scaler, for parts that varied in training.
        cycles: periodic parts that varied in training; each becomes a sine and a cosine, so that December is near January.
        has_missing: whether training had missing values; if so, there is an indicator of them.
        has_zone: True if all training dates had a time zone, False if none had; later dates must match. None: only some had, or there were no dates.
    """

    column: Hashable
    lines: Mapping[str, NumberScaler]
    cycles: tuple[str, ...]
    has_missing: bool
    has_zone: bool | None = None

    @property
    def names(self) -> tuple[str, ...]:
        parts = [*self.lines, *(f"{cycle} {wave}" for cycle in self.cycles for wave in ("sin", "cos")), *(["missing"] if self.has_missing else [])]
        return tuple(f"{self.column}: {part}" for part in parts)

    def transform(self, column: pd.Series) -> np.ndarray:
        """(N, features) float32.

        Raises:
            InvalidData: a value is not a date, or has a time zone where training dates had none, or the other way round.
        """
        when = to_dates(column)
        if self.has_zone is not None:
            expected = "expected dates with a time zone, as in training; add one, e.g. with dt.tz_localize('Europe/Paris')"
            none = "expected dates without a time zone, as in training; remove it with dt.tz_localize(None)"
            refuse_rows(column, ~np.asarray(when.isna()) & (_zoned(column) != self.has_zone), expected if self.has_zone else none)
        features = [scaler.transform(_part(LINES[name], when)) for name, scaler in self.lines.items()]
        for name in self.cycles:
            values, period = CYCLES[name]
            angle = 2 * math.pi / period * _part(values, when)
            features += [np.nan_to_num(np.sin(angle)), np.nan_to_num(np.cos(angle))]  # a missing date is at the circle's centre
        features += [np.asarray(when.isna())] if self.has_missing else []
        return np.stack(features, 1).astype(np.float32) if features else np.zeros((len(column), 0), np.float32)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        lines = {name: NumberScaler.from_json(scaler) for name, scaler in values["lines"].items()}
        return cls(values["column"], lines, tuple(values["cycles"]), values["has_missing"], values["has_zone"])


def fit_dates(column: pd.Series, scaling: Scaling) -> DateEncoder:
    """Fits the encoder of a column to its training rows.

    Raises:
        InvalidData: a value is not a date.
    """
    when = to_dates(column)
    lines = {name: values for name, part in LINES.items() if _varies(values := _part(part, when))}
    cycles = tuple(name for name, (part, _) in CYCLES.items() if _varies(_part(part, when)))
    missing = np.asarray(when.isna())
    zoned = set(_zoned(column)[~missing].tolist())
    scalers = {name: fit_scaler(values, scaling) for name, values in lines.items()}
    return DateEncoder(column.name, scalers, cycles, bool(missing.any()), zoned.pop() if len(zoned) == 1 else None)


def to_dates(column: pd.Series) -> pd.DatetimeIndex:
    """Parses a column as dates in UTC, NaT if missing. Dates without a time zone are taken as UTC.

    Raises:
        InvalidData: a value is not a date; names the column, the first such rows and their values.
    """
    missing = column.isna().to_numpy(dtype=bool)
    is_known = pd.api.types.is_datetime64_any_dtype(column.dtype)
    plain = column
    if not is_known:
        cells = zip(column.astype(object), missing, strict=True)
        plain = pd.Series([None if absent else _as_text(value) for value, absent in cells], dtype=object)
    when = pd.DatetimeIndex(pd.to_datetime(plain, errors="coerce", format="ISO8601", utc=True))
    when = when.tz_localize("UTC") if when.tz is None else when.tz_convert("UTC")  # to_datetime leaves Arrow's dates unchanged
    refuse_rows(column, np.asarray(when.isna()) & ~missing, "expected dates, as datetimes or ISO 8601 texts such as 2026-05-31 or 2026-05-31T18:30:00")
    return when


def _zoned(column: pd.Series) -> np.ndarray:
    """(N,) bool: which dates have a time zone."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return np.full(len(column), "tz=" in str(column.dtype) or isinstance(column.dtype, pd.DatetimeTZDtype))  # Arrow's dtypes have it in their name
    return np.array([ZONED.search(_as_text(value)) is not None for value in column.astype(object)], dtype=bool)


def _as_text(value: object) -> str:
    """A cell as text, because pandas rejects some mixtures of dates and reads numbers as timestamps. Here the number 20260531 is a date, as in text."""
    if isinstance(value, pd.Period):
        value = value.start_time
    elif isinstance(value, float) and value.is_integer():  # whole numbers become floats in a column with missing values
        value = int(value)
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text.encode("utf-8", "replace").decode("utf-8")


def _part(part: Any, when: pd.DatetimeIndex) -> np.ndarray:
    return np.asarray(part(when), dtype=np.float64)


def _varies(values: np.ndarray) -> bool:
    present = values[~np.isnan(values)]
    return len(present) > 1 and bool((present != present[0]).any())
