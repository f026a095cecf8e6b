"""Fitted preprocessing: what the predictor must store to encode new rows as it encoded the training rows. JSON, no pickle."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from PIL import Image

from ..config import Data
from ..errors import InvalidData, Problems, did_you_mean, listed
from .categorical import UNKNOWN, CategoryEncoder, fit_categories
from .columns import IMAGE_TYPES, ColumnTypes
from .dates import DateEncoder, fit_dates
from .features import Features
from .images import Base64, ImageGeometry, ImageSource, hint_of_tensor, is_long_base64, pictures_in, reads_as_path, resolve_path
from .ngrams import NgramScorer
from .numerical import NumberEncoder, fit_numbers
from .text import TextTokenizer, join_texts

MOST_PICTURES = "model.timm_image.max_image_num_per_column"


@dataclass(frozen=True)
class EncodedTable:
    """Rows as arrays. Their images are not decoded yet.

    Attributes:
        images: (N, I) sources; an empty string for a missing image, None after the last image of a cell.
        target: (N,) int64 classes or float64 values.
        numeric: (N, Dn) float32.
        categorical: (N, Dc) int64.
        tokens: tokenizer -> (N, longest + 1) int32.
        token_counts: tokenizer -> (N,) int64.
        weight: (N,) float32.
        fold: (N, F) bool, true for the fold that the row is in; (N, 0) without folds.
    """

    images: Sequence[Sequence[ImageSource | None]]
    target: np.ndarray
    numeric: np.ndarray
    categorical: np.ndarray
    weight: np.ndarray
    tokens: Mapping[str, np.ndarray] = field(default_factory=dict)
    token_counts: Mapping[str, np.ndarray] = field(default_factory=dict)
    fold: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))

    def __post_init__(self) -> None:
        if not self.fold.size:
            object.__setattr__(self, "fold", np.zeros((len(self), 0), dtype=bool))

    @classmethod
    def of_images(cls, images: Sequence[Sequence[ImageSource | None]], target: np.ndarray) -> Self:
        """Rows that have only images."""
        num_rows = len(target)
        return cls(images, target, np.zeros((num_rows, 0), np.float32), np.zeros((num_rows, 0), np.int64), np.ones(num_rows, np.float32))

    def __len__(self) -> int:
        return len(self.target)

    @property
    def num_images(self) -> int:
        """Images per row, over all image columns."""
        return len(self.images[0]) if len(self.images) else 0

    def take(self, rows: slice | np.ndarray) -> Self:
        positions = np.arange(len(self))[rows]
        return replace(
            self,
            images=[self.images[row] for row in positions],
            target=self.target[rows],
            numeric=self.numeric[rows],
            categorical=self.categorical[rows],
            weight=self.weight[rows],
            tokens={name: tokens[rows] for name, tokens in self.tokens.items()},
            token_counts={name: counts[rows] for name, counts in self.token_counts.items()},
            fold=self.fold[rows],
        )


@dataclass(frozen=True)
class Encoders:
    """The encoding of a table, column by column.

    Attributes:
        image_columns: column -> type, in the order of the tensor's second axis.
        num_pictures: column -> how many images of a cell are read, if more than one.
        geometry: how images are decoded; None without image columns.
        tokenizers: checkpoint -> its tokenizer of the text columns.
        score_names: names of the n-gram scores of the text columns (``ngrams.py``); empty if they are not used.
        scorer: computes these scores; None until fitted.
    """

    image_columns: Mapping[Hashable, str] = field(default_factory=dict)
    geometry: ImageGeometry | None = None
    numbers: tuple[NumberEncoder, ...] = ()
    dates: tuple[DateEncoder, ...] = ()
    categories: tuple[CategoryEncoder, ...] = ()
    text_columns: tuple[Hashable, ...] = ()
    tokenizers: Mapping[str, TextTokenizer] = field(default_factory=dict)
    score_names: tuple[str, ...] = ()
    scorer: NgramScorer | None = None
    num_pictures: Mapping[Hashable, int] = field(default_factory=dict)

    @property
    def features(self) -> Features:
        numeric = (*(name for encoder in self._numeric for name in encoder.names), *self.score_names)
        cardinalities = tuple(encoder.cardinality for encoder in self.categories)
        num_images = sum(self.num_pictures.get(column, 1) for column in self.image_columns)
        return Features(num_images, numeric, cardinalities, len(self.text_columns), len(self.score_names))

    @property
    def _numeric(self) -> tuple[NumberEncoder | DateEncoder, ...]:
        return (*self.numbers, *self.dates)

    @property
    def columns(self) -> tuple[Hashable, ...]:
        """The columns that a table must have."""
        encoded = [encoder.column for encoder in self._numeric] + [encoder.column for encoder in self.categories]
        return (*self.image_columns, *encoded, *self.text_columns)

    def with_tokenizers(self, tokenizers: Mapping[str, TextTokenizer]) -> Self:
        return replace(self, tokenizers=tokenizers)

    def with_scorer(self, scorer: NgramScorer) -> Self:
        return replace(self, score_names=scorer.names, scorer=scorer)

    def transform(
        self,
        table: pd.DataFrame,
        folder: Path,
        target: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        report: Callable[[str], None] = lambda line: None,
        held_out: bool = False,
    ) -> EncodedTable:
        """Encodes rows, matching columns by name. Opens no image.

        Args:
            folder: base of relative image paths.
            target: (N,) encoded labels; None: zeros.
            weight: (N,) loss weights of the rows; None: ones.
            report: receives a line on images that are not read and, unless ``held_out``, on unknown categories and unexpected missing values.
            held_out: these are the training rows, so their n-gram scores must come from models that were not fitted to them.

        Raises:
            InvalidData, InvalidInput: columns are missing, or have values of another type; all problems together.
        """
        self._check_columns(table)
        problems = Problems()
        images: Sequence[Sequence[ImageSource | None]] = []
        numeric = [np.zeros((len(table), 0), np.float32)]
        with problems.gather():
            images = self.image_sources(table, folder, report)
        for encoder in self._numeric:
            with problems.gather():
                numeric.append(encoder.transform(table[encoder.column]))
        problems.raise_any()
        if self.scorer is not None:
            numeric.append(self.scorer.transform(table, held_out))
        codes = [encoder.transform(table[encoder.column]) for encoder in self.categories]
        if not held_out:  # rare categories of the training rows are unknown by design
            self._report_unknown(table, codes, report)
            self._report_missing(table, report)
        encoded = EncodedTable(
            images,
            np.zeros(len(table), np.int64) if target is None else target,
            np.concatenate(numeric, 1),
            np.stack(codes, 1) if codes else np.zeros((len(table), 0), np.int64),
            np.ones(len(table), np.float32) if weight is None else weight,
        )
        if not self.tokenizers:
            return encoded
        texts = join_texts(table, self.text_columns)
        found = {name: tokenizer.transform(texts) for name, tokenizer in self.tokenizers.items()}
        return replace(encoded, tokens={name: each[0] for name, each in found.items()}, token_counts={name: each[1] for name, each in found.items()})

    def image_sources(self, table: pd.DataFrame, folder: Path, report: Callable[[str], None] = lambda line: None) -> list[list[ImageSource | None]]:
        """(rows, images) sources, matched by column name; an empty string for a missing image, None after the last image of a cell.

        Raises:
            InvalidData: a column is missing, or has a value that cannot be an image.
        """
        self._check_columns(table, self.image_columns)
        if not self.image_columns:  # a shortcut for large tables
            return [[]] * len(table)
        rows: list[list[ImageSource | None]] = [[] for _ in range(len(table))]
        for column, kind in self.image_columns.items():
            most, more = self.num_pictures.get(column, 1), 0
            for row, cell in zip(rows, _image_sources(table[column], kind, folder), strict=True):
                row += [*cell[:most], *[None] * (most - len(cell))]
                more += len(cell) > most
            if more:
                first = "one is" if most == 1 else f"{most} are"
                report(f"{column!r}: of the pictures in a cell the first {first} read: no training row had more, or {MOST_PICTURES} allows no more")
        return rows

    def image_files(self, table: pd.DataFrame, folder: Path) -> list[str]:
        """Absolute paths of all images that are files."""
        paths = [column for column, kind in self.image_columns.items() if kind == "image_path"]
        self._check_columns(table, paths)
        return [
            resolve_path(picture, folder)
            for column in paths
            for value in table[column]
            for picture in pictures_in(value, True, folder)[: self.num_pictures.get(column, 1)]
        ]

    def _check_columns(self, table: pd.DataFrame, columns: Sequence[Hashable] | Mapping[Hashable, str] | None = None) -> None:
        absent = [column for column in (self.columns if columns is None else columns) if column not in table.columns]
        if absent:
            alike = next((column for column in table.columns if str(column) == str(absent[0])), None)
            new = [str(column) for column in table.columns if column not in self.columns]  # the missing one may be among them, under another name
            hint = did_you_mean(str(absent[0]), new)
            if alike is not None:
                here, before = type(alike).__name__, type(absent[0]).__name__
                hint = f" Names count by type: {alike!r} is of type {here} here, {absent[0]!r} was of type {before} in training."
            raise InvalidData(f"missing columns: {listed(absent)}; the data has {listed(table.columns)}.{hint}")

    def _report_unknown(self, table: pd.DataFrame, codes: list[np.ndarray], report: Callable[[str], None]) -> None:
        found = []
        for encoder, column in zip(self.categories, codes, strict=True):
            unknown = (column == UNKNOWN) & table[encoder.column].notna().to_numpy(dtype=bool)
            if unknown.any():
                first = table[encoder.column][unknown].astype(object).iloc[0]
                many = f"all {len(column)}" if unknown.all() else f"{int(unknown.sum())} of {len(column)}"
                found.append(f"{encoder.column!r} in {many} rows (first {reprlib.repr(first)})")
        if found:
            report(f"unknown categories (absent or too rare in training): {'; '.join(found)}")

    def _report_missing(self, table: pd.DataFrame, report: Callable[[str], None]) -> None:
        numeric = {encoder.column: encoder.has_missing for encoder in self._numeric}
        unexpected = [*(column for column, known in numeric.items() if not known), *(each.column for each in self.categories if not each.has_missing)]
        counts = {column: int(table[column].isna().sum()) for column in unexpected}
        found = ", ".join(f"{column!r} in {count} of {len(table)} rows" for column, count in counts.items() if count)
        if found:
            report(f"missing values where training had none, encoded as the middle of the numbers or as an unknown category: {found}")

    def to_json(self) -> dict[str, Any]:
        return {
            # lists, because column names need not be strings, as JSON keys must
            "image_columns": [[column, kind] for column, kind in self.image_columns.items()],
            "num_pictures": [[column, count] for column, count in self.num_pictures.items()],
            "geometry": None if self.geometry is None else asdict(self.geometry),
            "numbers": [encoder.to_json() for encoder in self.numbers],
            "dates": [encoder.to_json() for encoder in self.dates],
            "categories": [encoder.to_json() for encoder in self.categories],
            "text_columns": list(self.text_columns),
            "tokenizers": {name: tokenizer.to_json() for name, tokenizer in self.tokenizers.items()},
            "scorer": self.scorer and self.scorer.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        fitted = cls(
            dict(values["image_columns"]),
            None if values["geometry"] is None else ImageGeometry(**values["geometry"]),
            tuple(map(NumberEncoder.from_json, values["numbers"])),
            tuple(map(DateEncoder.from_json, values["dates"])),
            tuple(map(CategoryEncoder.from_json, values["categories"])),
            tuple(values["text_columns"]),
            {name: TextTokenizer.from_json(tokenizer) for name, tokenizer in values["tokenizers"].items()},
            num_pictures=dict(values["num_pictures"]),
        )
        return fitted if values["scorer"] is None else fitted.with_scorer(NgramScorer.from_json(values["scorer"]))


def fit_encoders(
    columns: ColumnTypes, table: pd.DataFrame, data: Data, geometry: ImageGeometry | None, num_pictures: Mapping[Hashable, int] | None = None
) -> Encoders:
    """Fits the encoders to the training rows. Tokenizers are added later (``with_tokenizers``), because they may have to be downloaded.

    Args:
        table: the training rows.
        geometry: how images are decoded; None without image columns.
        num_pictures: ``count_pictures`` of the image columns; None: one image per cell.

    Raises:
        InvalidData, InvalidInput: columns have values of another type; all problems together.
    """

    def named(column: Hashable) -> pd.Series:
        values = table[column].copy(deep=False)
        values.name = column  # pandas may name it with a numpy scalar, which JSON rejects
        return values

    problems = Problems()
    numbers, dates = [], []
    for column in columns.of_type("numerical"):
        with problems.gather():
            numbers.append(fit_numbers(named(column), data.numerical.scaling))
    for column in columns.of_type("datetime"):
        with problems.gather():
            dates.append(fit_dates(named(column), data.numerical.scaling))
    problems.raise_any()
    limits = data.categorical
    categories = [fit_categories(named(column), limits.minimum_cat_count, limits.maximum_num_cat) for column in columns.of_type("categorical")]
    categories = [encoder for encoder in categories if encoder.cardinality > 1]  # one code for all rows carries no information
    images: dict[Hashable, str] = {column: columns[column] for column in columns.of_type(*IMAGE_TYPES)}
    return Encoders(
        images, geometry if images else None, tuple(numbers), tuple(dates), tuple(categories), columns.of_type("text"), num_pictures=num_pictures or {}
    )


def count_pictures(columns: ColumnTypes, table: pd.DataFrame, folder: Path, most: int) -> dict[Hashable, int]:
    """Image column -> largest number of images in a cell of the training rows, at most ``most``. Columns with one per cell are left out."""
    if most == 1:
        return {}
    counts: dict[Hashable, int] = {
        column: max(len(pictures_in(value, columns[column] == "image_path", folder)) for value in table[column]) for column in columns.of_type(*IMAGE_TYPES)
    }
    return {column: min(count, most) for column, count in counts.items() if count > 1}


def _image_sources(column: pd.Series, kind: str, folder: Path) -> list[list[ImageSource]]:
    """The image sources in each cell of a column; an empty string for a missing image.

    A model trained on files also accepts bytes or base64, and the other way round. If a text could be a path or base64, the column's type decides.

    Raises:
        InvalidData: a value is not an image source.
    """

    def source(value: Any) -> ImageSource:
        if isinstance(value, (bytes, bytearray)):
            return bytes(value)
        if isinstance(value, (Image.Image, np.ndarray)):
            return value
        if isinstance(value, str) and (not reads_as_path(value, folder) if kind == "image_base64_str" else is_long_base64(value)):
            return Base64(value) if value else ""
        if isinstance(value, (str, os.PathLike)):
            return resolve_path(value, folder)
        if pd.api.types.is_scalar(value) and pd.isna(value):
            return ""
        raise TypeError(f"{type(value).__name__} {reprlib.repr(value)}{hint_of_tensor(value)}")

    cells: list[list[ImageSource]] = []
    for row, value in column.items():
        try:
            cells.append([source(picture) for picture in pictures_in(value, kind == "image_path", folder)])
        except TypeError as problem:
            text = "base64 text, a path" if kind == "image_base64_str" else "a path"
            raise InvalidData(
                f"column {column.name!r}, row {row!r}: expected an image as {text}, bytes, a PIL image or an array, or a list of such, got {problem}"
            ) from None
    return cells
