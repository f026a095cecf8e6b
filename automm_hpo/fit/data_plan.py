"""Plans the data: reads the tables, finds the label and the metrics, infers the column types, splits the rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..config import Data
from ..data.columns import ColumnTypes, check_names, infer_columns
from ..data.split import assign_folds, train_valid_split
from ..data.tables import load_table
from ..errors import InvalidArgument, InvalidData, InvalidHyperparameter, NotSupported, Problems, did_you_mean
from ..metrics import DEFAULT_METRIC, check_fits, find_metric
from ..problem import PROBLEM_TYPES, encode_weights, infer_problem
from ..training.evaluate import undefined_on
from .plan import DataPlan, Split, Target
from .start import Start

REFUSED_TYPES = (  # AutoMM's problem types that are not implemented here
    "object_detection", "open_vocabulary_object_detection", "ner", "named_entity_recognition", "semantic_segmentation", "few_shot_classification",
    "zero_shot_image_classification", "image_similarity", "text_similarity", "image_text_similarity",
)  # fmt: skip
FEATURE_EXTRACTION = "feature_extraction"


def plan_data(
    target: Target,
    train_data: Any,
    tuning_data: Any,
    max_num_tuning_data: int | None,
    holdout_frac: float | None,
    column_types: Mapping[str, str] | None,
    seed: int,
    own: Data,
    start: Start | None = None,
) -> DataPlan:
    """Reads the tables, infers the problem and the column types, and splits the rows.

    Args:
        own: the hyperparameters ``data.*``. Folds are left to ``divide``, since the default depends on the models.
        start: the predictor whose problem and columns are used; None: they are inferred.

    Raises:
        InvalidData, InvalidArgument, InvalidHyperparameter, MissingData, NotSupported
    """
    if target.problem_type == FEATURE_EXTRACTION:
        raise NotSupported("problem_type: there is nothing to fit for feature_extraction; call extract_embedding(data)")
    chosen = [name for name, given in (("tuning_data", tuning_data), ("holdout_frac", holdout_frac), ("start_from", start)) if given is not None]
    if chosen and own.num_folds:
        raise InvalidHyperparameter(f"data.num_folds: expected 0 with {' and '.join(chosen)}, got {own.num_folds}: folds validate on all rows of train_data")
    table, folder = load_table(train_data, "train_data")
    check_names(table.columns)
    label = _find_label(table, target.label)
    problem = infer_problem(table[label], label, target.problem_type) if start is None else start.problem_of(table[label])
    if start is None and own.pos_label is not None:
        problem = problem.with_positive(own.pos_label)
    eval_metric = find_metric(target.eval_metric or DEFAULT_METRIC[problem.problem_type], "eval_metric")
    validation_metric = find_metric(target.validation_metric, "validation_metric") if target.validation_metric else eval_metric
    problems = Problems()
    with problems.gather():
        check_fits(eval_metric, problem.problem_type, "eval_metric")
    if validation_metric is not eval_metric:
        with problems.gather():
            check_fits(validation_metric, problem.problem_type, "validation_metric")
    problems.raise_any()
    targets = [label, *([] if target.sample_weight is None else [_find_weights(table, target.sample_weight, label)])]
    columns = infer_columns(table, targets, folder, column_types) if start is None else start.columns(table.columns, column_types, target.sample_weight)
    if tuning_data is None:
        known = None if start is None else start.knows(table, folder)
        train, held_out = train_valid_split(table, problem, holdout_frac, seed, known)
        valid = Split(held_out, folder)
    else:
        train, valid = table, Split(*load_table(tuning_data, "tuning_data"))
        _check_tuning_data(valid.table, columns, label)
        if max_num_tuning_data is not None and len(valid.table) > max_num_tuning_data:
            valid = Split(valid.table.sample(max_num_tuning_data, random_state=seed), valid.folder)
    if start is None:  # the predictor in start_from has its own scale
        weights = None if target.sample_weight is None else encode_weights(train[target.sample_weight])
        problem = problem.scaled_to(train[label], weights, own.label.numerical_preprocessing)
    valid_target = problem.encode(valid.table[label])  # refuses classes that train lacks
    if why := undefined_on(validation_metric, problem, valid_target):
        remedy = "more rows, a larger holdout_frac, tuning_data or another metric help"
        raise InvalidData(f"validation_metric: {validation_metric.name} is undefined on the {len(valid_target)} validation rows: {why}; {remedy}")
    if eval_metric.scorer is not None:
        undefined_on(eval_metric, problem, valid_target)  # raises if it cannot be computed at all
    return DataPlan(
        train=Split(train, folder),
        valid=valid,
        problem=problem,
        columns=columns,
        eval_metric=eval_metric,
        validation_metric=validation_metric,
        sample_weight=target.sample_weight,
        valid_is_given=tuning_data is not None,
        undivided=None if chosen else Split(table, folder),
        label_note=_may_be_classes(problem.encode(table[label])) if target.problem_type is None and problem.problem_type == "regression" else "",
        start_note="" if start is None else _what_it_knows(start, Split(train, folder), valid),
    )


def divide(data: DataPlan, num_folds: int, seed: int, own: Data) -> DataPlan:
    """The data with all rows in folds, to learn from and to validate on."""
    assert data.undivided, "``plan_data`` refuses folds otherwise"
    table = data.undivided.table
    rows = replace(data.undivided, fold=assign_folds(table, data.problem, num_folds, seed))
    weights = None if data.sample_weight is None else encode_weights(table[data.sample_weight])
    problem = data.problem.scaled_to(table[data.problem.label], weights, own.label.numerical_preprocessing)
    return replace(data, train=rows, valid=rows, problem=problem)


def _may_be_classes(values: np.ndarray) -> str:
    """A hint if the labels of a regression look like class numbers; otherwise empty."""
    distinct = np.unique(values)
    if 2 * len(distinct) > len(values) or (distinct % 1).any():
        return ""
    return f"{len(distinct):,} different whole numbers, treated as quantities; problem_type='multiclass' treats them as classes"


def _what_it_knows(start: Start, train: Split, valid: Split) -> str:
    """A note on how many of the rows the start predictor has learned from; empty if none."""
    trained, validated = (int(start.knows(split.table, split.folder).sum()) for split in (train, valid))
    found = [f"{trained:,} of the {len(train.table):,} rows to train on"] if trained else []
    if validated:
        found.append(f"{validated:,} of the {len(valid.table):,} to validate on, so its scores are too optimistic: give tuning_data that it has not seen")
    return f"it has learned from {' and '.join(found)}" if found else ""


def _find_label(train: pd.DataFrame, label: str | None) -> str:
    if label is None or not isinstance(label, Hashable):
        raise InvalidArgument(f"label: expected the name of the column to predict, got {label!r}; MultiModalPredictor(label=...)")
    if label not in train.columns:
        hint = did_you_mean(str(label), map(str, train.columns))
        if len(train.columns) == 1 and (separator := next((each for each in ";\t|" if each in str(train.columns[0])), None)):
            hint = f" Its columns seem to be separated by {separator!r}: pandas.read_csv(path, sep={separator!r}) reads them."
        raise InvalidData(f"train_data: has no label column {label!r}; it has {_names(train)}.{hint}")
    if train.empty:
        raise InvalidData("train_data: has no rows")
    return label


def _find_weights(train: pd.DataFrame, column: str, label: str) -> str:
    if not isinstance(column, Hashable) or column == label:
        raise InvalidArgument(f"sample_weight: expected the name of a column of weights, not the label's, got {column!r}")
    if column not in train.columns:
        hint = did_you_mean(str(column), map(str, train.columns))
        raise InvalidData(f"train_data: has no sample_weight column {column!r}; it has {_names(train)}.{hint}")
    encode_weights(train[column])
    return column


def _names(table: pd.DataFrame) -> str:
    return ", ".join(map(repr, table.columns)) or "no columns"


def _check_tuning_data(table: pd.DataFrame, columns: ColumnTypes, label: str) -> None:
    if table.empty:
        raise InvalidData("tuning_data: has no rows; leave it out to hold some of train_data out")
    absent = [column for column in (label, *columns.used) if column not in table.columns]
    if absent:
        raise InvalidData(f"tuning_data: lacks the columns {', '.join(map(repr, absent))}; it has {_names(table)}")


def check_problem_type(problem_type: str | None) -> None:
    if problem_type in REFUSED_TYPES:
        raise NotSupported(f"problem_type: {problem_type} is not supported; expected one of {', '.join((*PROBLEM_TYPES, FEATURE_EXTRACTION))}")
    known = (*PROBLEM_TYPES, FEATURE_EXTRACTION)
    if problem_type is not None and problem_type not in known:
        hint = did_you_mean(str(problem_type), known)
        raise InvalidArgument(f"problem_type: expected one of {', '.join(known)}, got {problem_type!r}.{hint}")
