"""Infers the type of each column, with a reason."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

import numpy as np
import pandas as pd
from PIL import Image

from ..errors import InvalidArgument, InvalidData, Problems, did_you_mean
from ..problem import MOSTLY_NUMBERS, ODD_NUMBER
from .images import EXTENSIONS, hint_of_tensor, is_image_base64, is_several, opens_as_image, pictures_in, resolve_path
from .numerical import DURATIONS, is_duration

IMAGE_TYPES = ("image_path", "image_bytearray", "image_base64_str")
IDENTIFIER = re.compile(r"(?i:(.*[^a-z])?id)|.*[a-z]I[dD]")  # id, household_id, "store id", storeId, but not covid
ROWS_AN_ID = 5  # average rows per identifier, enough to learn something about each
NAMELESS = re.compile(r"Unnamed: \d+")  # read_csv's name for a column without one
COLUMN_TYPES = ("null", "categorical", "numerical", "datetime", *IMAGE_TYPES, "text")
SAMPLE = 10
MANY = 20  # more columns than this are listed in groups
MOSTLY_DISTINCT = 0.9  # share of distinct values
ODD_DATE = re.compile(r"\s*\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b(?![./-])")  # ambiguous: day or month may come first
PATH_OR_URL = re.compile(r"\S+://\S+|(~|\.\.?)?/.+|[A-Za-z]:[\\/].+|[A-Za-z_][^\s/\\]*([/\\][^\s/\\]+)+")


@dataclass(frozen=True)
class ColumnTypes(Mapping):
    """Column -> type, with the reason for each. Does not include the label."""

    types: Mapping[str, str]
    reasons: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.types[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self.types)

    def __len__(self) -> int:
        return len(self.types)

    def of_type(self, *types: str) -> tuple[str, ...]:
        return tuple(column for column, kind in self.types.items() if kind in types)

    @property
    def used(self) -> tuple[str, ...]:
        """The columns that models learn from."""
        return tuple(column for column, kind in self.types.items() if kind != "null")

    def lines(self) -> list[str]:
        """A table of column, type and reason. If there are many columns, those with equal type and reason share a line."""
        alike: dict[tuple[str, str, str], list[str]] = {}
        for column, kind in self.types.items():
            own = repr(column) if len(self) <= MANY else ""
            alike.setdefault((own, kind, self.reasons[column]), []).append(repr(column))
        rows = [(", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""), kind, why) for (_, kind, why), names in alike.items()]
        width = max((len(names) for names, _, _ in rows), default=0)
        return [f"{names:{width}}  {kind:{max(map(len, COLUMN_TYPES))}}  {why}" for names, kind, why in rows]


def check_names(names: Iterable[Hashable]) -> None:
    """Refuses column names that cannot be stored.

    Raises:
        InvalidData: a name has a type that JSON, and therefore the predictor folder, cannot store.
    """
    bad = [name for name in names if not isinstance(name, (str, int, float, NoneType)) or (isinstance(name, float) and not math.isfinite(name))]
    if bad:
        found = f"{bad[0]!r} ({type(bad[0]).__name__})" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")
        how = "['_'.join(map(str, name)) for name in table.columns]" if isinstance(bad[0], tuple) else "table.columns.map(str)"
        raise InvalidData(f"train_data: column names must be strings or numbers, got {found}; fix them with table.columns = {how}")


def infer_columns(table: pd.DataFrame, targets: Collection[Hashable], folder: Path, given: Mapping[str, str] | None = None) -> ColumnTypes:
    """Infers the type of every column that is not a target.

    Args:
        targets: the label, and other columns that are not features.
        folder: base of relative image paths.
        given: column -> type, overriding inference; ``null`` leaves a column out.

    Raises:
        InvalidArgument, InvalidInput: ``given`` is not a dict, or names a target, or a column or type that does not exist.
        InvalidData: no column is left to learn from.
    """
    problems = Problems()
    if not isinstance(given or {}, Mapping):
        raise InvalidArgument(f"column_types: expected a dict of column -> type, got {given!r}")
    given = dict(given or {})
    for column, kind in given.items():
        if column not in table.columns:
            hint = did_you_mean(str(column), map(str, table.columns))
            problems.add(InvalidArgument(f"column_types: the training data has no column {column!r}.{hint}"))
        elif column in targets:
            problems.add(InvalidArgument(f"column_types[{column!r}]: this column is not a feature; problem_type sets the type of the label"))
        elif kind not in COLUMN_TYPES:
            hint = did_you_mean(str(kind), COLUMN_TYPES)
            problems.add(InvalidArgument(f"column_types[{column!r}]: expected one of {', '.join(COLUMN_TYPES)}, got {kind!r}.{hint}"))
    problems.raise_any()
    types, reasons = {}, {}
    for column in table.columns:
        if column not in targets:
            types[column], reasons[column] = (given[column], "given") if column in given else _infer(table[column], folder)
    if not any(kind != "null" for kind in types.values()):
        found = ", ".join(f"{column!r} (null: {reasons[column]})" for column in types)
        raise InvalidData(f"no column to learn from: expected at least one with values that differ, got {found or 'only the label'}")
    return ColumnTypes(types, reasons)


def infer_readable(table: pd.DataFrame, targets: Collection[Hashable], folder: Path, readable: Collection[str] = (*IMAGE_TYPES, "text")) -> ColumnTypes:
    """Infers the columns of images and texts; all others are ``null``. Unlike in ``infer_columns``, repeated values do not turn texts into categories.

    Strings that all parse as numbers or dates are not texts, unless so few are distinct that ``infer_columns`` would call them categories.

    Args:
        readable: the column types that some model can read.
    """
    types, reasons = {}, {}
    for column in table.columns:
        if column not in targets:
            kind, reasons[column] = _infer(table[column], folder)
            if kind in ("null", "categorical") and _are_texts(table[column]):
                kind, reasons[column] = "text", "texts"
            elif kind == "categorical":
                reasons[column] = "not all values are texts"
            if kind in (*IMAGE_TYPES, "text") and kind not in readable:
                reasons[column] = f"{kind}, for which model.names has no model"
            types[column] = kind if kind in readable else "null"
    return ColumnTypes(types, reasons)


def _are_texts(column: pd.Series) -> bool:
    present = column.dropna()
    return not isinstance(column.dtype, pd.CategoricalDtype) and len(present) > 0 and all(isinstance(value, str) for value in present.astype(object))


def _infer(column: pd.Series, folder: Path) -> tuple[str, str]:
    """(type, reason) of the first type that fits. Images come before categories, because a column with few distinct images is still images."""
    present = column.dropna()
    if present.empty:
        return "null", "all values missing"
    dtype = column.dtype
    # whether the value is present may be informative
    single = ("categorical", "one value, or missing") if len(present) < len(column) else ("null", "constant")
    if pd.api.types.is_bool_dtype(dtype) or isinstance(dtype, pd.CategoricalDtype):
        return ("categorical", f"dtype {dtype}") if column.nunique(dropna=False) > 1 else ("null", "constant")
    if pd.api.types.is_integer_dtype(dtype) and NAMELESS.fullmatch(str(column.name)) and column.is_unique:
        return "null", "row numbers, which to_csv writes as a column without a name"
    if IDENTIFIER.fullmatch(str(column.name)) and _are_whole(present) and 1 < (num := present.nunique()) <= len(present) / ROWS_AN_ID:
        how = f"column_types={{{column.name!r}: 'numerical'}} where their order matters"
        return "categorical", f"{num:,} identifiers, {len(present) / num:.0f} rows each on average; {how}"
    if pd.api.types.is_numeric_dtype(dtype) or is_duration(dtype):
        return ("numerical", f"dtype {dtype}") if present.nunique() > 1 else single
    if pd.api.types.is_datetime64_any_dtype(dtype) or isinstance(dtype, pd.PeriodDtype):
        return ("datetime", f"dtype {dtype}") if present.nunique() > 1 else single
    present = present.astype(object)  # iterating over Arrow's strings is slow
    cells = list(present.iloc[:: max(1, len(present) // SAMPLE)][:SAMPLE])
    sampled = [next(iter(value), "") if is_several(value) else value for value in cells]  # the first of several images in a cell
    if all(isinstance(value, (bytes, bytearray)) for value in sampled):
        return "image_bytearray", "bytes"
    if all(isinstance(value, Image.Image) or (isinstance(value, np.ndarray) and value.ndim in (2, 3)) for value in sampled):
        return "image_bytearray", "pictures, as PIL images or arrays"
    # before constants and counts: a few rows, or one repeated image, are still images
    opened = sum(opens_as_image(resolve_path(pictures_in(value, True, folder)[0], folder)) for value in sampled)
    if opened:
        return "image_path", f"{opened} of {len(sampled)} sampled values open as images"
    sample = [str(value) for value in sampled]
    if all(value.lower().endswith(EXTENSIONS) for value in sample):
        return "image_path", "all sampled values end like image files"
    if all(is_image_base64(value) for value in sample):
        return "image_base64_str", "sampled values decode to images"
    if any(map(pd.api.types.is_list_like, cells)):  # not text: a text model would read digits and brackets
        hint = next(filter(None, map(hint_of_tensor, cells)), "; give each a column of its own")
        return "null", f"{type(cells[0]).__name__}: several values in a cell are supported for images only{hint}"
    if all(isinstance(value, DURATIONS) for value in present):
        return ("numerical", "durations") if present.nunique() > 1 else single
    if all(isinstance(value, datetime.time) for value in present):
        return ("numerical", "times of day") if present.nunique() > 1 else single
    # dtype object, because pandas' own strings cannot hold file names that are not UTF-8
    texts = pd.Series([str(value) for value in present], dtype=object)
    num_distinct = len(set(texts))  # not nunique: pandas 2 considers all names that are not UTF-8 equal
    if num_distinct == 1:
        return single
    if num_distinct <= min(100, max(2, len(texts) // 10)):
        return "categorical", f"{num_distinct} distinct values in {len(texts)} rows"
    if pd.to_numeric(texts, errors="coerce").notna().all():
        return "numerical", "all values parse as numbers"
    if all(_is_date(pd.Series(values, dtype=object)) for values in (sample, texts)):
        return "datetime", "all values parse as ISO 8601 dates"
    hint = _what_they_may_be(texts, sample, column.name)
    words, distinct = texts.map(lambda value: len(value.split())).mean(), num_distinct / len(texts)
    if words >= 3:
        return "text", f"three words or more on average{hint}"
    if distinct >= MOSTLY_DISTINCT and words >= 1.5:  # as categories nearly all would be unknown
        return "text", f"a few words, nearly all values distinct{hint}"
    if distinct == 1:
        return "null", f"all values distinct, like names or identifiers{hint}"
    return "categorical", f"short strings{hint}"


def _are_whole(values: pd.Series) -> bool:
    dtype = values.dtype
    return pd.api.types.is_integer_dtype(dtype) or (pd.api.types.is_float_dtype(dtype) and bool((values % 1 == 0).all()))


def _what_they_may_be(texts: pd.Series, sample: list[str], name: Hashable) -> str:
    """A hint if the texts of this column look like values that another type would read; empty otherwise."""
    if all(map(ODD_DATE.match, sample)):
        return "; dates? pd.to_datetime(..., format=...) reads them"
    numbers = pd.to_numeric(texts, errors="coerce").notna()
    if numbers.mean() >= MOSTLY_NUMBERS:
        return f"; {numbers.sum()} of {len(texts)} values are numbers, but not {texts[~numbers].iloc[0]!r}: set such values to NaN to get a numeric column"
    if all(map(ODD_NUMBER.fullmatch, sample)):
        return "; numbers? without signs and separators (1200 for $1,200) they are a numeric column"
    if sum(PATH_OR_URL.fullmatch(value) is not None for value in sample) > len(sample) / 2:
        return f"; these look like paths or URLs, but none opens as an image (URLs are not fetched): column_types={{{name!r}: 'image_path'}} tells why"
    return ""


def _is_date(values: pd.Series) -> bool:
    return bool(pd.to_datetime(values, errors="coerce", format="ISO8601", utc=True).notna().all())
