"""What each column is, and why we think so."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..errors import InvalidArgument, InvalidData, NotSupported, Problems, did_you_mean
from .images import EXTENSIONS, opens_as_image, resolve_path

COLUMN_TYPES = ("null", "categorical", "numerical", "datetime", "image_path", "image_bytearray", "image_base64_str", "text")
MODELLED = ("image_path",)  # what this version has a model for; the rest is inferred, named and refused
SAMPLE = 10


@dataclass(frozen=True)
class ColumnTypes(Mapping):
    """Column -> type, with the reason of each; the label is not among them."""

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


def infer_columns(table: pd.DataFrame, label: str, folder: Path, given: Mapping[str, str] | None = None) -> ColumnTypes:
    """Infers the type of every column but the label.

    Args:
        folder: where relative image paths count from.
        given: column -> type, which wins over inference; ``null`` leaves a column out.

    Raises:
        InvalidArgument: ``given`` names a column or a type that does not exist.
        NotSupported: a column of a type that no model here reads yet.
        InvalidData: nothing is left to learn from.
    """
    problems = Problems()
    if not isinstance(given or {}, Mapping):
        raise InvalidArgument(f"column_types: expected a dict of column -> type, got {given!r}")
    given = dict(given or {})
    for column, kind in given.items():
        if column not in table.columns:
            hint = did_you_mean(str(column), map(str, table.columns))
            problems.add(InvalidArgument(f"column_types: the training data has no column {column!r}.{hint}"))
        elif kind not in COLUMN_TYPES:
            hint = did_you_mean(str(kind), COLUMN_TYPES)
            problems.add(InvalidArgument(f"column_types[{column!r}]: expected one of {', '.join(COLUMN_TYPES)}, got {kind!r}.{hint}"))
    problems.raise_any()
    types, reasons = {}, {}
    for column in table.columns:
        if column != label:
            types[column], reasons[column] = (given[column], "given") if column in given else _infer(table[column], folder)
    unread = [f"{column!r} ({kind}: {reasons[column]})" for column, kind in types.items() if kind not in (*MODELLED, "null")]
    if unread:
        raise NotSupported(
            f"this version learns from image_path columns only; it has no model for {', '.join(unread)}. "
            "Leave a column out with column_types={name: 'null'}, or say what it is if the guess is wrong."
        )
    if not any(kind in MODELLED for kind in types.values()):
        raise InvalidData(f"no column to learn from: expected at least one image_path column, got {dict(types) or 'only the label'}")
    return ColumnTypes(types, reasons)


def _infer(column: pd.Series, folder: Path) -> tuple[str, str]:
    """(type, reason): the first that fits; pictures before categories, for a few of them are still pictures."""
    present = column.dropna()
    if present.empty:
        return "null", "all values missing"
    if pd.api.types.is_bool_dtype(column.dtype) or isinstance(column.dtype, pd.CategoricalDtype):
        return "categorical", f"dtype {column.dtype}"
    if pd.api.types.is_numeric_dtype(column.dtype):
        return ("numerical", f"dtype {column.dtype}") if present.nunique() > 1 else ("null", "constant")
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return "datetime", f"dtype {column.dtype}"
    sampled = list(present.iloc[:: max(1, len(present) // SAMPLE)][:SAMPLE])
    if all(isinstance(value, (bytes, bytearray)) for value in sampled):
        return "image_bytearray", "bytes"
    # before constancy and counts: a few rows, or one picture repeated, are still pictures
    opened = sum(opens_as_image(resolve_path(value, folder)) for value in sampled)
    if opened:
        return "image_path", f"{opened} of {len(sampled)} sampled values open as images"
    sample = [str(value) for value in sampled]
    if all(value.lower().endswith(EXTENSIONS) for value in sample):
        return "image_path", "all sampled values end like image files"
    # object: pandas' own strings cannot hold file names that are not UTF-8
    texts = pd.Series([str(value) for value in present], dtype=object)
    if texts.nunique() == 1:
        return "null", "constant"
    if texts.nunique() <= min(100, max(2, len(texts) // 10)):
        return "categorical", f"{texts.nunique()} distinct values in {len(texts)} rows"
    if pd.to_numeric(texts, errors="coerce").notna().all():
        return "numerical", "all values parse as numbers"
    if pd.to_datetime(pd.Series(sample, dtype=object), errors="coerce", format="ISO8601", utc=True).notna().all():
        return "datetime", "sampled values parse as ISO 8601 dates"
    if all(_is_base64_image(value) for value in sample):
        return "image_base64_str", "sampled values decode to images"
    if texts.map(lambda value: len(value.split())).mean() >= 3:
        return "text", "three words or more on average"
    return "categorical", "short strings"


def _is_base64_image(value: str) -> bool:
    try:
        head = base64.b64decode(value.split(",")[-1][:64])  # after the comma of a data: address
    except ValueError:
        return False
    return head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*"))
