"""Plans the data: reads the tables, finds the label and the metrics, infers the column types, splits the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..data.columns import ColumnTypes, check_names, infer_columns
from ..data.split import assign_folds, choose_held_out
from ..data.tables import load_table
from ..errors import InvalidArgument, InvalidData, NotSupported, Problems, did_you_mean, listed
from ..metrics import DEFAULT_METRIC, check_fits, find_metric
from ..problem import PROBLEM_TYPES, Problem, encode_weights, infer_problem
from ..sections import unwrapped
from ..training.evaluate import undefined_on
from .plan import DataPlan, Split, Target, Task
from .start import Start

REFUSED_TYPES = (  # AutoMM's problem types that are not implemented here
    "object_detection", "open_vocabulary_object_detection", "ner", "named_entity_recognition", "semantic_segmentation", "few_shot_classification",
    "zero_shot_image_classification", "image_similarity", "text_similarity", "image_text_similarity",
)  # fmt: skip
FEATURE_EXTRACTION = "feature_extraction"
ABSURD = 1_000.0  # times the usual distance from the median


def plan_task(
    target: Target, train_data: Any, tuning_data: Any, column_types: Mapping[str, str] | None, pos_label: Any = None, start: Start | None = None
) -> Task:
    """Reads the tables, and infers the problem and the column types.

    Args:
        pos_label: the hyperparameter ``data.pos_label``.
        start: the predictor whose problem and columns are used; None: they are inferred.

    Raises:
        InvalidData, InvalidArgument, MissingData, NotSupported
    """
    if target.problem_type == FEATURE_EXTRACTION:
        raise NotSupported("problem_type: there is nothing to fit for feature_extraction; call extract_embedding(data)")
    table, folder = load_table(train_data, "train_data")
    check_names(table.columns)
    label = _find_label(table, target.label)
    problem = infer_problem(table[label], label, target.problem_type) if start is None else start.problem_of(table[label])
    if start is None and pos_label is not None:
        problem = problem.with_positive(pos_label)
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
    given = None
    if tuning_data is not None:
        given = Split(*load_table(tuning_data, "tuning_data"))
        _check_tuning_data(given.table, columns, label)
        problem.encode(given.table[label])  # refuses classes that train lacks
    return Task(
        rows=Split(table, folder),
        tuning_rows=given,
        problem=problem,
        columns=columns,
        eval_metric=eval_metric,
        validation_metric=validation_metric,
        sample_weight=target.sample_weight,
        label_note=_odd_classes(table[label]) if problem.is_classification else _odd_values(table[label], problem, target.problem_type is None),
    )


def split_rows(
    task: Task,
    seed: int,
    num_folds: int = 0,
    holdout_frac: float | None = None,
    max_num_tuning_data: int | None = None,
    preprocessing: str | None = "standardscaler",
    start: Start | None = None,
) -> DataPlan:
    """Decides which rows to learn from and which to validate on.

    Args:
        num_folds: 0: some rows are held out, unless ``tuning_data`` was given.
        preprocessing: the hyperparameter ``data.label.numerical_preprocessing``.
        start: the predictor to begin with. Rows that it does not know are validated on, as far as there are any.

    Raises:
        InvalidData: too few rows, or the validation metric is undefined on the rows to validate on.
        InvalidArgument: the ``eval_metric`` cannot be computed at all.
    """
    problem, rows, valid = task.problem, task.rows, task.tuning_rows
    table = rows.table
    valid_rows = np.arange(len((valid or rows).table))
    if num_folds:
        train = valid = replace(rows, fold=assign_folds(table, problem, num_folds, seed))
    elif valid is None:
        held_out = choose_held_out(table, problem, holdout_frac, seed, None if start is None else start.knows(table, rows.folder))
        train, valid, valid_rows = replace(rows, table=table[~held_out]), replace(rows, table=table[held_out]), np.flatnonzero(held_out)
    else:
        train = rows
        if max_num_tuning_data is not None and len(valid_rows) > max_num_tuning_data:
            valid_rows = pd.Series(valid_rows).sample(max_num_tuning_data, random_state=seed).to_numpy()
            valid = replace(valid, table=valid.table.iloc[valid_rows])
    if start is None:  # the predictor in start_from has its own scale
        weights = None if task.sample_weight is None else encode_weights(train.table[task.sample_weight])
        problem = problem.scaled_to(train.table[problem.label], weights, preprocessing)
    target, metric = problem.encode(valid.table[problem.label]), task.validation_metric
    if why := undefined_on(metric, problem, target):
        remedy = "more rows, a larger holdout_frac, tuning_data or another metric help"
        raise InvalidData(f"validation_metric: {metric.name} is undefined on the {len(target)} validation rows: {why}; {remedy}")
    if task.eval_metric.scorer is not None:
        undefined_on(task.eval_metric, problem, target)  # raises if it cannot be computed at all
    note = "" if start is None else _what_it_knows(start, train, valid, task)
    return DataPlan(**{**vars(task), "problem": problem}, train=train, valid=valid, valid_rows=valid_rows, start_note=note)


def _odd_classes(labels: pd.Series) -> str:
    """A note on classes that may be a mistake; otherwise empty."""
    counts = labels.astype(object).value_counts()
    alike = Counter(" ".join(str(label).split()).casefold() for label in counts.index)
    if len(alike) < len(counts):
        same = next(words for words, count in alike.items() if count > 1)
        variants = [label for label in counts.index if " ".join(str(label).split()).casefold() == same]
        return f"{listed(variants)} are different classes, which differ only in case, blanks or type"
    if rare := int((counts == 1).sum()):
        return f"{rare:,} of {len(counts):,} classes have a single row, too few to be both learned from and judged"
    return ""


def _odd_values(labels: pd.Series, problem: Problem, is_inferred: bool) -> str:
    """A note on a regression's labels that may be class numbers, or a mistake; otherwise empty."""
    values = problem.encode(labels)
    distance = np.abs(values - np.median(values))
    farthest, usual = int(distance.argmax()), np.quantile(distance, 0.9)
    if usual and distance[farthest] > ABSURD * usual:
        return (
            f"{values[farthest]:g} in row {unwrapped(labels.index[farthest])!r} is {distance[farthest] / usual:,.0f} times as far from the median as nine of "
            "ten labels are: if it is a mistake, drop the row, because it alone decides the loss"
        )
    distinct = np.unique(values)
    if not is_inferred or 2 * len(distinct) > len(values) or (distinct % 1).any():
        return ""
    return f"{len(distinct):,} different whole numbers, treated as quantities; problem_type='multiclass' treats them as classes"


def _what_it_knows(start: Start, train: Split, valid: Split, task: Task) -> str:
    """A note on how many of the rows the start predictor has learned from, and on columns that it does not read; empty if there are none."""
    trained, validated = (int(start.knows(split.table, split.folder).sum()) for split in (train, valid))
    found = [f"{trained:,} of the {len(train.table):,} rows to train on"] if trained else []
    if validated:
        found.append(f"{validated:,} of the {len(valid.table):,} to validate on, so its scores are too optimistic: give tuning_data that it has not seen")
    notes = [f"it has learned from {' and '.join(found)}"] if found else []
    if new := [column for column in train.table.columns if column not in (*task.columns, task.problem.label, task.sample_weight)]:
        notes.append(f"it does not know the column{'s' * (len(new) > 1)} {listed(new)}, and leaves {'them' if len(new) > 1 else 'it'} out")
    return "; ".join(notes)


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
    return listed(table.columns) or "no columns"


def _check_tuning_data(table: pd.DataFrame, columns: ColumnTypes, label: str) -> None:
    if table.empty:
        raise InvalidData("tuning_data: has no rows; leave it out to hold some of train_data out")
    absent = [column for column in (label, *columns.used) if column not in table.columns]
    if absent:
        raise InvalidData(f"tuning_data: lacks the columns {listed(absent)}; it has {_names(table)}")


def check_problem_type(problem_type: str | None) -> None:
    if problem_type in REFUSED_TYPES:
        raise NotSupported(f"problem_type: {problem_type} is not supported; expected one of {', '.join((*PROBLEM_TYPES, FEATURE_EXTRACTION))}")
    known = (*PROBLEM_TYPES, FEATURE_EXTRACTION)
    if problem_type is not None and problem_type not in known:
        hint = did_you_mean(str(problem_type), known)
        raise InvalidArgument(f"problem_type: expected one of {', '.join(known)}, got {problem_type!r}.{hint}")
