"""What is predicted: the problem's type, its classes, and how labels become numbers and predictions come back in the label's own dtype."""

from __future__ import annotations

import contextlib
import datetime
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd

from .errors import InvalidData, InvalidHyperparameter
from .sections import unwrapped

PROBLEM_TYPES = ("binary", "multiclass", "regression")
LARGEST_VALUE = 1e150  # limit for a regression's labels, whose squares must be finite
ODD_NUMBER = re.compile(r"\s*[^\w\s.,-]?\s*-?\d{1,3}([.,' ]?\d{3})*([.,]\d+)?\s*[^\w\s]?\s*")  # a number with a currency or percent sign, or with separators
MOSTLY_NUMBERS = 0.8  # if at least this share of the texts are numbers, the column was meant as numbers
ROWS_A_CLASS = 10  # text labels that look like numbers are refused as classes if the classes had fewer rows on average
MAX_INTEGER_CLASSES = 20  # with more distinct integers than this, the problem is a regression


@dataclass(frozen=True)
class Problem:
    """The target of a fit.

    Attributes:
        class_labels: the classes in the order of the logits; empty for regression. JSON values of the label's own kind.
        label_dtype: the pandas dtype of predictions; ``category`` keeps all classes as categories.
        ordered: whether a categorical label was ordered.
        mean, sd: offset and scale of a regression's labels, by default their mean and standard deviation (``scaled_to``). The model is trained
            on ``(label - mean) / sd``.
        is_turned: the two classes are swapped, because the user named the first one as the positive class.
    """

    label: str
    problem_type: str
    class_labels: tuple[Any, ...] = ()
    label_dtype: str = "float64"
    ordered: bool = False
    mean: float = 0.0
    sd: float = 1.0
    is_turned: bool = False

    @property
    def is_classification(self) -> bool:
        return self.problem_type != "regression"

    @property
    def num_outputs(self) -> int:
        return len(self.class_labels) or 1

    @property
    def positive_class(self) -> Any:
        """The class that binary metrics look for: the second one. None if the problem is not binary."""
        return self.class_labels[1] if self.problem_type == "binary" else None

    def encode(self, labels: pd.Series, whose: str = "the training rows") -> np.ndarray:
        """Labels -> (N,) int64 class indices, or (N,) float64 values in the label's own unit, as metrics take them.

        Args:
            whose: the owner of the known classes, for the message.

        Raises:
            InvalidData: a missing or infinite label, or a class that training did not have.
        """
        _check_labels(labels, self.label)
        if not self.is_classification:
            return _as_floats(labels, self.label)
        index = {unwrapped(value): i for i, value in enumerate(self.class_labels)}
        positions, values = distinct_values(labels)
        codes = np.array([index.get(value, -1) for value in values], np.int64)[positions]
        if (codes < 0).any():
            unseen = labels[codes < 0].astype(object)
            counts = ", ".join(f"{value!r} ({count} rows)" for value, count in unseen.value_counts().head(5).items())
            known = ", ".join(map(repr, self.class_labels[:10])) + (", ..." if len(self.class_labels) > 10 else "")
            mend = "Drop these rows, or train with some of each class."
            texts = {str(value): value for value in self.class_labels}
            if all(str(value) in texts for value in unseen):  # the texts '0' and '1' come back from a CSV file as numbers
                one = unseen.iloc[0]
                mend = f"They are of another type: {one!r} is {_kind_of(one)} here and was {_kind_of(texts[str(one)])} in training; convert the column."
            raise InvalidData(
                f"label column {self.label!r}: classes that {whose} do not have: {counts}; first in row {unwrapped(unseen.index[0])!r}. "
                f"Expected {known}. {mend}"
            )
        return codes

    def with_positive(self, value: Any) -> Self:
        """The problem with the positive class that the user named.

        Raises:
            InvalidHyperparameter: the problem is not binary, or has no such class.
        """
        classes = self.class_labels
        if self.problem_type != "binary":
            raise InvalidHyperparameter(f"data.pos_label: only binary problems have a positive class; this one is {self.problem_type} (got {value!r})")
        if value not in classes:
            raise InvalidHyperparameter(f"data.pos_label: expected {classes[0]!r} or {classes[1]!r}, got {value!r} ({type(value).__name__})")
        return self if value == classes[1] else replace(self, class_labels=classes[::-1], is_turned=True)

    def scaled_to(self, labels: pd.Series, weights: np.ndarray | None, preprocessing: str | None = "standardscaler") -> Self:
        """The problem with ``mean`` and ``sd`` of a regression's training rows; a classification is returned as it is.

        Args:
            weights: (N,) of the rows; None: all count alike.
            preprocessing: ``minmaxscaler``: the minimum and the range instead, over the rows with a weight > 0. None: 0 and 1.
        """
        if self.is_classification:
            return self
        if preprocessing is None:
            return replace(self, mean=0.0, sd=1.0)
        values = _as_floats(labels, self.label)
        if preprocessing == "minmaxscaler":
            counting = values if weights is None else values[weights > 0]
            return replace(self, mean=float(counting.min()), sd=float(np.ptp(counting)) or 1.0)
        largest = np.abs(values).max() or 1.0  # squares of tiny numbers would be 0
        shares = values / largest
        mean = np.average(shares, weights=weights)
        sd = float(np.sqrt(np.average((shares - mean) ** 2, weights=weights)) * largest)
        return replace(self, mean=float(mean * largest), sd=sd or 1.0)

    def standardise(self, target: np.ndarray) -> np.ndarray:
        """The target that a model is trained on: (N,) class indices as they are, or (N,) float32 values ``(value - mean) / sd``."""
        return target if self.is_classification else ((target - self.mean) / self.sd).astype(np.float32)

    def decode(self, predictions: np.ndarray, index: pd.Index) -> pd.Series:
        """(N,) class indices or values in the label's unit -> a Series in the label's own dtype."""
        if not self.is_classification:
            return pd.Series(predictions.astype(np.float64), index=index, name=self.label, dtype=self.label_dtype)
        values = [self.class_labels[i] for i in predictions]
        if self.label_dtype == "category":
            categories = self.class_labels[::-1] if self.is_turned else self.class_labels
            return pd.Series(pd.Categorical(values, categories=list(categories), ordered=self.ordered), index=index, name=self.label)
        return pd.Series(values, index=index, name=self.label, dtype=self.label_dtype)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(**{**values, "class_labels": tuple(values["class_labels"])})


def infer_problem(labels: pd.Series, label: str, problem_type: str | None = None) -> Problem:
    """Works out the problem from the training labels.

    Two distinct values are binary; strings, categories and booleans are classes; integers are classes up to 20 distinct values;
    everything else is a regression.

    Args:
        problem_type: binary, multiclass or regression, if the user gave it; None: it is inferred.

    Raises:
        InvalidData: missing or infinite labels, a single class, or labels that the given type cannot have.
    """
    _check_labels(labels, label)
    kept = labels
    if isinstance(labels.dtype, pd.CategoricalDtype):
        kept = labels.cat.remove_unused_categories()
    elif not any(isinstance(value, str) for value in labels):  # pandas would make Arrow texts of strings, and fail for names that are not UTF-8
        kept = labels.infer_objects()  # numbers in an object column count as numbers
    distinct = list(kept.cat.categories) if isinstance(kept.dtype, pd.CategoricalDtype) else sorted(kept.unique().tolist(), key=_order)
    if len(distinct) < 2:
        only = f"only {unwrapped(distinct[0])!r}" if distinct else "none"
        raise InvalidData(f"label column {label!r}: expected at least 2 different values, got {only} in {len(labels)} rows")
    inferred = _infer_type(kept, len(distinct))
    few_each = len(distinct) > max(MAX_INTEGER_CLASSES, len(labels) / ROWS_A_CLASS)
    if problem_type is None and few_each and all(isinstance(value, str) for value in distinct):
        _refuse_numbers_as_text(kept.astype(object), label)
    problem_type = problem_type or inferred
    if problem_type == "regression":
        dtype = _dtype_name(labels.dtype) if pd.api.types.is_float_dtype(labels.dtype) else "float64"  # predictions are never whole numbers
        return Problem(label, problem_type, label_dtype=dtype).scaled_to(labels, None)
    if problem_type == "binary" and len(distinct) != 2:
        raise InvalidData(f"label column {label!r}: problem_type 'binary' expects 2 classes, got {len(distinct)}")
    if inferred == "regression" and len(distinct) > len(labels) / 2:
        raise InvalidData(f"label column {label!r}: problem_type {problem_type!r} with {len(distinct)} different numbers in {len(labels)} rows; a regression?")
    categorical = isinstance(kept.dtype, pd.CategoricalDtype)
    return Problem(
        label,
        "binary" if len(distinct) == 2 and problem_type != "multiclass" else "multiclass",
        tuple(unwrapped(value) for value in distinct),
        "category" if categorical else _dtype_name(labels.dtype),
        ordered=bool(categorical and kept.cat.ordered),
    )


def _refuse_numbers_as_text(labels: pd.Series, label: str) -> None:
    """Refuses texts that were probably meant as numbers, rather than take hundreds of them for classes.

    Raises:
        InvalidData: at least 80% of the labels are numbers written as texts, or all look like numbers with signs or separators.
    """
    numbers = pd.to_numeric(labels, errors="coerce").notna()
    if numbers.mean() < MOSTLY_NUMBERS and all(map(ODD_NUMBER.fullmatch, labels)):
        raise InvalidData(
            f"label column {label!r}: the labels look like numbers with signs or separators, as {labels.iloc[0]!r}. For a regression give numbers; "
            "problem_type='multiclass' takes the texts for classes."
        )
    if numbers.mean() >= MOSTLY_NUMBERS:
        others = "" if numbers.all() else f", but not {labels[~numbers].iloc[0]!r}"
        raise InvalidData(
            f"label column {label!r}: {int(numbers.sum())} of {len(labels)} labels are numbers, written as texts{others}. For a regression give numbers "
            "(pd.to_numeric(..., errors='coerce') makes the others missing; drop those rows); problem_type='multiclass' takes the texts for classes."
        )


def encode_weights(weights: pd.Series, may_be_zero: bool = False) -> np.ndarray:
    """A column of sample weights -> (N,) float64.

    Args:
        may_be_zero: whether all weights may be 0.

    Raises:
        InvalidData: a weight is missing, negative, infinite or no number, or all are zero.
    """
    values = _to_floats(weights.astype(object))
    bad = ~np.isfinite(values) | (values < 0)
    if bad.any():
        rows = ", ".join(f"row {unwrapped(row)!r}: {unwrapped(value)!r}" for row, value in weights[bad].head(5).astype(object).items())
        raise InvalidData(f"sample_weight column {weights.name!r}: expected finite numbers >= 0; {int(bad.sum())} of {len(values)} are not: {rows}")
    if len(values) and not values.any() and not may_be_zero:
        raise InvalidData(f"sample_weight column {weights.name!r}: all {len(values)} weights are 0")
    return values


def _infer_type(labels: pd.Series, num_distinct: int) -> str:
    if num_distinct == 2:
        return "binary"
    if not pd.api.types.is_numeric_dtype(labels.dtype) or pd.api.types.is_bool_dtype(labels.dtype):
        return "multiclass"
    whole = pd.api.types.is_integer_dtype(labels.dtype)
    return "multiclass" if whole and num_distinct <= MAX_INTEGER_CLASSES else "regression"


def _dtype_name(dtype: Any) -> str:
    """The name of a dtype, if pandas can read it back; else ``object`` (for Arrow's dictionaries)."""
    try:
        pd.api.types.pandas_dtype(str(dtype))
    except (TypeError, ValueError):
        return "object"
    return str(dtype)


def _check_labels(labels: pd.Series, label: str) -> None:
    """Refuses labels that nothing could be learned from, or that could not be stored.

    Raises:
        InvalidData: a label is missing, infinite, or of a kind that JSON cannot keep.
    """
    positions, values = distinct_values(labels)
    infinite = np.array([*(isinstance(value, float) and math.isinf(value) for value in values), True], dtype=bool)  # the last is for missing labels, at -1
    bad = labels.isna().to_numpy(dtype=bool) | infinite[positions]
    if bad.any():
        rows = ", ".join(repr(unwrapped(row)) for row in labels.index[bad][:5])
        raise InvalidData(f"label column {label!r}: {int(bad.sum())} of {len(labels)} labels are missing or infinite; first in rows {rows}. Drop or fill them.")
    for position, value in enumerate(values):
        if not isinstance(value, (str, int, float)):
            row = labels.index[positions == position][0]
            since = "(column - column.min())" if isinstance(value, datetime.date) else "column"
            is_time = isinstance(value, (datetime.date, datetime.timedelta))
            numbers = f"{since}.dt.total_seconds()" if is_time else "map(lambda one: one.mid)" if isinstance(value, pd.Interval) else "astype(float)"
            raise InvalidData(
                f"label column {label!r}: expected strings, numbers or booleans, got {type(value).__name__} {value!r} in row {unwrapped(row)!r}. "
                f"Convert the column: astype(str) gives classes, {numbers} numbers."
            )


def distinct_values(column: pd.Series) -> tuple[np.ndarray, list[Any]]:
    """The values of a column, without repetitions as far as pandas can find them.

    An object column gives the value of every cell: there pandas takes some values for others, such as True for 1, and in its version 2 names
    that are not UTF-8.

    Returns:
        (N,) int64, each row's position among the values, -1 where the cell is missing; and the values as Python's own types.
    """
    positions, values = np.where(column.isna(), -1, np.arange(len(column))), column
    if column.dtype != object:
        with contextlib.suppress(NotImplementedError):  # pandas cannot factorize Arrow's lists
            positions, distinct = pd.factorize(column)
            values = pd.Series(distinct)
    return positions.astype(np.int64), [unwrapped(value) for value in values.astype(object)]


def _kind_of(value: Any) -> str:
    return {"str": "a text", "bool": "a boolean"}.get(type(unwrapped(value)).__name__, "a number")


def _to_floats(column: pd.Series) -> np.ndarray:
    """(N,) float64; nan for what is no number, inf for integers that are too large."""
    try:
        return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    except OverflowError:
        return _to_floats(column.map(lambda value: math.inf if isinstance(value, int) and abs(value) > LARGEST_VALUE else value))


def _as_floats(labels: pd.Series, label: str) -> np.ndarray:
    values = _to_floats(labels)
    bad = ~(np.abs(values) <= LARGEST_VALUE)
    if bad.any():
        largest = f", and {LARGEST_VALUE:g} is the largest it takes" if np.isfinite(values[bad][0]) else ""
        row, value = unwrapped(labels.index[bad][0]), unwrapped(labels[bad].iloc[0])
        raise InvalidData(f"label column {label!r}: a regression needs numbers; row {row!r} has {value!r}{largest}")
    return values


def _order(value: Any) -> tuple[str, Any]:
    return (type(value).__name__, value) if isinstance(value, str) else ("", value)
