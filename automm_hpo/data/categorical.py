"""Columns of categories -> integer codes. 0 is an unknown category. Missing values are a category of their own if training had any."""

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
    """Encodes one column of categories.

    Attributes:
        categories: the most frequent first; category i has code i + 1.
        has_missing: whether training had missing values, which then have the last code.
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
        if set(codes) <= {"True", "False"}:  # booleans, which many files and databases write as numbers
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
    """Fits the encoder of a column to its training rows.

    Args:
        minimum_count: rows that a category needs to get its own code. Rarer ones share code 0, which teaches the network how to treat unknown categories.
        maximum_num: maximum number of categories with their own code.
    """
    positions, keys = find_categories(column)
    counts: Counter[str] = Counter()
    for key, count in zip(keys, np.bincount(positions[positions >= 0], minlength=len(keys)), strict=True):
        counts[key] += int(count)
    frequent = sorted((key for key, count in counts.items() if count >= minimum_count), key=lambda key: (-counts[key], key))
    return CategoryEncoder(column.name, tuple(frequent[:maximum_num]), bool((positions < 0).any()))


def find_categories(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Finds the category of each cell of a column.

    Returns:
        (N,) int64 positions in the list of categories, -1 if the cell is missing; and that list, in which a category may appear twice.
        1, 1.0 and "1" are the same category, because pandas turns a column of whole numbers into floats as soon as one is missing.
    """
    positions, values = distinct_values(column)
    return positions, [_key(value) for value in values]


def _key(value: Any) -> str:
    if isinstance(value, str):  # first, because most values are strings
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return str(value)
    if isinstance(value, numbers.Integral):
        return str(int(value))  # not through float, which would merge identifiers beyond 2**53
    if isinstance(value, numbers.Real) and float(value).is_integer():
        return str(int(float(value)))
    return str(value)
