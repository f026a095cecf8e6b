"""Fitted preprocessing: what the predictor must remember to see new rows as it saw the training ones. JSON, no pickle."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from ..errors import InvalidData, did_you_mean
from .columns import ColumnTypes
from .images import ImageGeometry, resolve_path


@dataclass(frozen=True)
class Encoders:
    """Attributes:
    image_columns: in the order of the tensor's second axis.
    geometry: how their files are decoded.
    """

    image_columns: tuple[str, ...]
    geometry: ImageGeometry

    def image_paths(self, table: pd.DataFrame, folder: Path) -> list[list[str]]:
        """(rows, image columns) absolute paths, matched by column name; an empty string where missing.

        Raises:
            InvalidData: a column is missing, or has a value that is no path.
        """
        absent = [column for column in self.image_columns if column not in table.columns]
        if absent:
            hint = did_you_mean(str(absent[0]), map(str, table.columns))
            raise InvalidData(f"missing columns: {', '.join(map(repr, absent))}; the data has {', '.join(map(repr, table.columns))}.{hint}")
        for column in self.image_columns:
            for row, value in table[column].items():
                if not (isinstance(value, (str, os.PathLike)) or (pd.api.types.is_scalar(value) and pd.isna(value))):
                    raise InvalidData(f"column {column!r}, row {row!r}: expected the path of an image, got {type(value).__name__} {reprlib.repr(value)}")
        columns = [[resolve_path(value, folder) for value in table[column]] for column in self.image_columns]
        return [list(row) for row in zip(*columns, strict=True)]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(tuple(values["image_columns"]), ImageGeometry(**values["geometry"]))


def fit_encoders(columns: ColumnTypes, geometry: ImageGeometry) -> Encoders:
    return Encoders(columns.of_type("image_path"), geometry)
