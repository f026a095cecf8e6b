"""Anything a user may give as a table -> a DataFrame, and the base folder of its relative paths."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ..errors import InvalidData, MissingData
from .images import describe_values


def load_table(data: Any, name: str, columns: Collection[Hashable] | None = None) -> tuple[pd.DataFrame, Path]:
    """Reads a table. Never changes the caller's object.

    Args:
        data: DataFrame, path of a .csv or .parquet file, dict of columns (or of one row's values), or list of dicts.
        name: the argument's name, for messages.
        columns: the columns that will be used, so that problems in others are ignored; None: all.

    Returns:
        The table, and the base folder of its relative image paths: the file's own, otherwise the current one.

    Raises:
        InvalidData, MissingData
    """
    folder = Path.cwd()
    if isinstance(data, pd.DataFrame):
        table = data
    elif isinstance(data, (str, os.PathLike)):
        path = Path(os.path.expanduser(data)).absolute()
        if not os.path.isfile(path):
            raise MissingData(f"{name}: {'not a file' if os.path.exists(path) else 'no such file'}: {path}")
        readers: dict[str, Callable[[Path], pd.DataFrame]] = {
            ".csv": _read_csv, ".csv.gz": _read_csv, ".csv.zip": _read_csv, ".parquet": pd.read_parquet, ".pq": pd.read_parquet
        }  # fmt: skip
        kind = next((ending for ending in readers if path.name.lower().endswith(ending)), None)
        if kind is None:
            raise InvalidData(f"{name}: expected a .csv or .parquet file, got {path.name}")
        try:
            table, folder = readers[kind](path), path.parent
        except Exception as error:  # pandas' readers raise a dozen types
            raise InvalidData(f"{name}: {path} does not read as {kind}: {type(error).__name__}: {error}") from None
    elif isinstance(data, Mapping) or (isinstance(data, Sequence) and not isinstance(data, bytes) and all(isinstance(row, Mapping) for row in data)):
        try:
            table = _from_dicts(data, columns)
        except (TypeError, ValueError) as error:  # columns of different lengths, sets, matrices, ...
            raise InvalidData(f"{name}: does not read as a table: {error}") from None
    else:
        hint = "; of a row of a table, df.iloc[[0]] is a DataFrame" if isinstance(data, pd.Series) else ""
        raise InvalidData(f"{name}: expected a DataFrame, a path, a dict or a list of dicts, got {type(data).__name__}{hint}")
    repeated = [column for column in table.columns[table.columns.duplicated()] if columns is None or column in columns]
    if repeated:
        raise InvalidData(f"{name}: column names must be unique; repeated: {', '.join(map(repr, dict.fromkeys(repeated)))}")
    return table, folder


def _from_dicts(data: Mapping | Sequence[Mapping], columns: Collection[Hashable] | None) -> pd.DataFrame:
    if not isinstance(data, Mapping):
        return pd.DataFrame(data) if data or columns is None else pd.DataFrame(columns=list(columns))
    read = {column: value for column, value in data.items() if columns is None or column in columns} or data
    if data and not any(map(_is_column, read.values())):
        return pd.DataFrame([{column: value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value for column, value in data.items()}])
    try:
        return pd.DataFrame(data)
    except (TypeError, ValueError):  # the unused columns have other lengths
        return pd.DataFrame(read)


def _is_column(value: Any) -> bool:
    """Whether a value holds the values of several rows. An image as an array is one value."""
    return value.ndim == 1 if isinstance(value, np.ndarray) else pd.api.types.is_list_like(value)


def fingerprint(table: pd.DataFrame, files: Iterable[str] = ()) -> str:
    """16 hex digits that change with any column name, dtype or value of a table, and with the size or mtime of a file it refers to."""
    digest = hashlib.sha256()
    for column in table.columns:
        series = table[column]
        digest.update(f"{column!r}\0{series.dtype}\0".encode())
        if series.dtype == object and any(isinstance(value, (np.ndarray, Image.Image, list, tuple)) for value in series):
            for value in series:  # pandas would hash their repr
                digest.update(describe_values(value).encode("utf-8", "surrogatepass"))
            continue
        try:
            digest.update(pd.util.hash_pandas_object(series, index=False).to_numpy().tobytes())
        except (TypeError, UnicodeEncodeError):  # unhashable values; file names that are not UTF-8
            for value in series:
                digest.update(repr(value).encode())
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            digest.update(b"absent")
        else:
            digest.update(f"{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _read_csv(path: Path) -> pd.DataFrame:
    """Reads a file like pandas, but leaves repeated column names as they are, so that the caller can refuse them."""
    table = pd.read_csv(path, low_memory=False)  # read in chunks, a label 1 could be a number in some and a string in others
    header = pd.read_csv(path, header=None, nrows=1, dtype=object).iloc[0]
    return table.set_axis(list(header), axis=1) if header.dropna().duplicated().any() else table
