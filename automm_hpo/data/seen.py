"""Recognises rows that a model has learned from, by a few bytes each: its predictions for them say nothing about its quality."""

from __future__ import annotations

import base64
import contextlib
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ..errors import InvalidData
from ..sections import unwrapped
from .categorical import find_categories
from .columns import ColumnTypes
from .dates import to_dates
from .images import SEPARATOR, identify, is_several, pictures_in, resolve_path
from .numerical import to_floats

ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: spreads neighbouring numbers


def row_digests(table: pd.DataFrame, columns: ColumnTypes, label: Any, folder: Path) -> np.ndarray:
    """(N,) uint32 digests of the used columns and the label. Equal for equal rows; different rows collide once in four billion.

    Args:
        folder: base of relative image paths.
    """
    found = np.zeros(len(table), np.uint64)
    for column in (*columns.used, label):
        values = table[column]
        bits = _bits(values, "label" if column == label else columns[column], folder)
        found = (found ^ bits) * ODD  # wraps
        found ^= found >> np.uint64(29)
    return (found >> np.uint64(32)).astype(np.uint32)


def _bits(values: pd.Series, kind: str, folder: Path) -> np.ndarray:
    """(N,) uint64 digests of a column's values, the same however a date, a number or a category is written."""
    with contextlib.suppress(InvalidData):  # values of another type are refused when the table is encoded
        if kind == "datetime":
            return to_dates(values).as_unit("us").asi8.view(np.uint64)
        if kind == "numerical" or (kind == "label" and pd.api.types.is_numeric_dtype(values.dtype)):
            numbers = to_floats(values) + 0.0  # turns -0.0 into 0.0
            return np.where(np.isnan(numbers), np.nan, numbers).view(np.uint64)
    if kind == "categorical":
        positions, keys = find_categories(values)
        return _checksums([*keys, ""])[positions]
    return _checksums(_paths(value, folder) if kind == "image_path" else _text(value) for value in values.astype(object))


def _checksums(texts: Iterable[str]) -> np.ndarray:
    return np.array([zlib.crc32(text.encode("utf-8", "surrogatepass")) for text in texts], np.uint64)


def _paths(value: Any, folder: Path) -> str:
    return SEPARATOR.join(resolve_path(picture, folder) for picture in pictures_in(value, True, folder))


def _text(value: Any) -> str:
    if is_several(value):
        return SEPARATOR.join(map(_text, value))
    if isinstance(value, bytearray):
        value = bytes(value)
    if isinstance(value, (bytes, Image.Image, np.ndarray)):
        return repr(identify(value))
    return "" if pd.api.types.is_scalar(value) and pd.isna(value) else str(unwrapped(value))


def digests_to_text(digests: np.ndarray) -> str:
    return base64.b64encode(np.unique(digests).astype("<u4").tobytes()).decode()


def digests_from_text(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u4")
