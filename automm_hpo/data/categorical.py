"""Columns of categories -> codes. 0 is what training did not have; a missing value is a category of its own where training had it."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from ..problem import distinct_values

UNKNOWN = 0
WRITTEN = {"True": ("1", "true", "TRUE"), "False": ("0", "false", "FALSE")}


@dataclass(frozen=True)
class CategoryEncoder:
    """A column of categories.

    Attributes:
        categories: the most frequent first; category i has code i + 1.
        has_missing: whether training had missing values; they have the last code then.
    """

    column: Hashable
    categories: tuple[str, ...]
    has_missing: bool

    @property
    def cardinality(self) -> int:
        return 1 + len(self.categories) + self.has_missing

    def transform(self, column: pd.Series) -> np.ndarray:
        """(N,) int64."""
        codes = {category: code for code, category in enumerate(self.categories, 1)}
        if set(codes) <= {"True", "False"}:  # which many files and databases write as numbers
            codes |= {word: codes.get(value, UNKNOWN) for value, words in WRITTEN.items() for word in words}
        missing = self.cardinality - 1 if self.has_missing else UNKNOWN
        positions, keys = find_categories(column)
        return np.array([*(codes.get(key, UNKNOWN) for key in keys), missing], np.int64)[positions]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(values["column"], tuple(values["categories"]), values["has_missing"])


def fit_categories(column: pd.Series, minimum_count: int, maximum_num: int) -> CategoryEncoder:
    """The encoder of a column, by its training rows.

    Args:
        minimum_count: rows that a category needs for a code of its own; the rest share 0, and with it teach the layers above what to make of the unknown.
        maximum_num: most categories with a code of their own.
    """
    positions, keys = find_categories(column)
    counts: Counter[str] = Counter()
    for key, count in zip(keys, np.bincount(positions[positions >= 0], minlength=len(keys)), strict=True):
        counts[key] += int(count)
    frequent = sorted((key for key, count in counts.items() if count >= minimum_count), key=lambda key: (-counts[key], key))
    return CategoryEncoder(column.name, tuple(frequent[:maximum_num]), bool((positions < 0).any()))


def find_categories(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """What a column's cells say.

    Returns:
        (N,) int64, each row's position among the categories, -1 where the cell is missing; and the categories, one of which may come twice:
        1, 1.0 and "1" are one, for a column of whole numbers turns to floats as soon as one is missing.
    """
    positions, values = distinct_values(column)
    return positions, [_key(value) for value in values]


def _key(value: Any) -> str:
    if isinstance(value, str):  # first, for most are
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return str(value)
    if isinstance(value, numbers.Integral):
        return str(int(value))  # by way of a float, identifiers beyond 2**53 would be one category
    if isinstance(value, numbers.Real) and float(value).is_integer():
        return str(int(float(value)))
    return str(value)
