"""Columns of numbers -> columns of about N(0, 1), with an indicator if training had missing values."""

from __future__ import annotations

import datetime
import math
import numbers
import reprlib
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from ..config import Scaling
from ..errors import InvalidData

MAX_QUANTILES = 1_000
ROWS_A_QUANTILE = 30  # fewer rows have fewer quantiles, so that each stands for several rows
LARGEST = 1e4  # standard deviations; values beyond are clipped, far below the limit of float32
LARGEST_VALUE = 1e300  # larger values count as infinite, because their differences may be
MAX_NAMED = 5
SHORT = reprlib.Repr()
SHORT.maxother = 60  # a date needs more than the default of 30
DURATIONS = (datetime.timedelta, np.timedelta64)


@dataclass(frozen=True)
class NumberScaler:
    """How the finite values of a column are scaled.

    Attributes:
        scaling: ``quantile`` (by rank, to a normal distribution), ``standard``, or ``robust`` (by quartiles, with soft ends).
        center, scale: for standard and robust: ``(value - center) / scale``.
        quantiles: for quantile: the values at evenly spaced ranks, from the smallest to the largest.
    """

    scaling: Scaling
    center: float = 0.0
    scale: float = 1.0
    quantiles: tuple[float, ...] = ()

    def transform(self, values: np.ndarray) -> np.ndarray:
        """(N,) float64 -> (N,) float32; NaN becomes 0, the middle."""
        if self.scaling == "quantile":
            scaled = self._normal_scores(values)
        else:
            with np.errstate(over="ignore"):
                scaled = np.clip((values - self.center) / self.scale, -LARGEST, LARGEST)
            if self.scaling == "robust":
                scaled = scaled / np.sqrt(1 + (scaled / 3) ** 2)  # smooth clipping to (-3, 3): Holzmüller et al. 2024, "Better by Default", section 3.2
        return np.nan_to_num(scaled, nan=0.0).astype(np.float32)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(**{**values, "quantiles": tuple(values["quantiles"])})

    def _normal_scores(self, values: np.ndarray) -> np.ndarray:
        """Like scikit-learn's QuantileTransformer, except at both ends, where that gives -5.2 and 5.2, even if half of all values are the smallest."""
        quantiles = np.array(self.quantiles)
        if quantiles[0] == quantiles[-1]:
            return np.zeros_like(values)
        references = np.linspace(0, 1, len(quantiles))
        # among equal quantiles, one interpolation takes the last and the other the first, so their mean is the middle rank
        ranks = 0.5 * (np.interp(values, quantiles, references) - np.interp(-values, -quantiles[::-1], -references[::-1]))
        edge = 0.5 / len(quantiles)
        from scipy.special import ndtri  # imported here, because trials import this module but scale nothing

        return ndtri(np.clip(ranks, edge, 1 - edge))


def fit_scaler(values: np.ndarray, scaling: Scaling) -> NumberScaler:
    """Fits the scaling of these values.

    Args:
        values: (N,) float64; NaN is missing.
    """
    present = values[~np.isnan(values)]
    if not len(present):
        return NumberScaler("standard")
    if scaling == "quantile":
        count = min(MAX_QUANTILES, max(10, len(present) // ROWS_A_QUANTILE))
        # interpolated quantiles may decrease by a rounding error
        return NumberScaler(scaling, quantiles=tuple(np.maximum.accumulate(np.quantile(present, np.linspace(0, 1, count))).tolist()))
    if scaling == "robust":
        low, center, high = np.quantile(present, [0.25, 0.5, 0.75]).tolist()
        return NumberScaler(scaling, center, high - low or (present.max() - present.min()) / 2 or 1.0)
    largest = np.abs(present).max() or 1.0  # squares of huge numbers would overflow
    return NumberScaler(scaling, float((present / largest).mean() * largest), float((present / largest).std() * largest) or 1.0)


@dataclass(frozen=True)
class NumberEncoder:
    """Encodes one column of numbers.

    Attributes:
        has_missing: whether training had missing values; if so, there is an indicator of them.
    """

    column: Hashable
    scaler: NumberScaler
    has_missing: bool

    @property
    def names(self) -> tuple[str, ...]:
        return (f"{self.column}", f"{self.column}: missing") if self.has_missing else (f"{self.column}",)

    def transform(self, column: pd.Series) -> np.ndarray:
        """(N, 1 or 2) float32.

        Raises:
            InvalidData: a value is infinite or not a number.
        """
        values = to_floats(column)
        scaled = self.scaler.transform(values)
        return np.stack([scaled, np.isnan(values)], 1).astype(np.float32) if self.has_missing else scaled[:, None]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(values["column"], NumberScaler.from_json(values["scaler"]), values["has_missing"])


def fit_numbers(column: pd.Series, scaling: Scaling) -> NumberEncoder:
    """Fits the encoder of a column to its training rows.

    Raises:
        InvalidData: a value is infinite or not a number.
    """
    values = to_floats(column)
    return NumberEncoder(column.name, fit_scaler(values, scaling), bool(np.isnan(values).any()))


def to_floats(column: pd.Series) -> np.ndarray:
    """(N,) float64, NaN if missing or blank. Parses strings; durations become seconds, times of day seconds since midnight.

    Raises:
        InvalidData: a value is infinite or not a number; names the column, the first such rows and their values.
    """
    missing, dtype = column.isna().to_numpy(dtype=bool), column.dtype
    if is_duration(dtype):
        values = column.dt.total_seconds().to_numpy(np.float64, na_value=np.nan)
    elif pd.api.types.is_bool_dtype(dtype):
        values = column.astype("boolean").to_numpy(np.float64, na_value=np.nan)
    else:
        is_plain = "decimal" not in str(dtype) and not pd.api.types.is_complex_dtype(dtype)  # pandas mishandles Arrow's decimals
        is_real = is_plain and pd.api.types.is_numeric_dtype(dtype)
        plain = column
        if not is_real:
            cells = zip(column.astype(object), missing, strict=True)  # iterating over Arrow's strings is slow
            plain = pd.Series([None if absent else _as_real(value) for value, absent in cells], dtype=object)
        values = pd.to_numeric(plain, errors="coerce").to_numpy(np.float64, na_value=np.nan)
        blank = np.array([isinstance(value, str) and not value.strip() for value in plain], dtype=bool) if plain.dtype == object else missing
        refuse_rows(column, np.isnan(values) & ~missing & ~blank, "expected numbers")
    refuse_rows(column, np.abs(values) > LARGEST_VALUE, f"expected finite numbers of at most {LARGEST_VALUE:g}; clip them, or make them missing (NaN)")
    return values


def is_duration(dtype: Any) -> bool:
    """Whether a dtype is a duration, numpy's or Arrow's."""
    return getattr(dtype, "kind", "") == "m"


def _as_real(value: Any) -> Any:
    """The value in a form that pandas reads as the same number, or rejects if it is not a real number."""
    if isinstance(value, str):  # first, because most values are strings
        return value
    if isinstance(value, DURATIONS):
        return pd.Timedelta(value).total_seconds()
    if isinstance(value, datetime.time):
        return datetime.timedelta(hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond).total_seconds()
    if isinstance(value, numbers.Integral) and abs(int(value)) > LARGEST_VALUE:
        return math.inf  # float() would raise for the largest ones
    return str(value) if isinstance(value, complex) else value


def refuse_rows(column: pd.Series, bad: np.ndarray, expected: str) -> None:
    """Refuses a column if any of its rows is bad.

    Raises:
        InvalidData: a row is bad.
    """
    if bad.any():
        rows = ", ".join(f"row {row!r}: {SHORT.repr(value)}" for row, value in column[bad].head(MAX_NAMED).astype(object).items())
        more = ", ..." if bad.sum() > MAX_NAMED else ""
        raise InvalidData(f"column {column.name!r}: {expected}; {int(bad.sum())} of {len(column)} values are not: {rows}{more}")
