"""Holdout: stratified for classes, seeded."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..errors import InvalidData
from ..problem import Problem


def default_holdout_frac(num_rows: int) -> float:
    """AutoGluon's rule: a fifth of small tables down to a tenth, ever less of large ones."""
    if num_rows < 5_000:
        return max(0.1, min(0.2, 500 / num_rows))
    return max(0.01, min(0.1, 2_500 / num_rows))


def train_valid_split(
    table: pd.DataFrame, problem: Problem, holdout_frac: float | None, seed: int, known: np.ndarray | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Splits the training rows; every class keeps at least one row in train, and has one in valid if it has two.

    Args:
        known: (N,) bool, rows that a model has learned from: they are not held out, and of the others at most half. Where all are, it is of no use.

    Raises:
        InvalidData: too few rows to hold any out.
    """
    frac = default_holdout_frac(len(table)) if holdout_frac is None else holdout_frac
    groups = problem.encode(table[problem.label]) if problem.is_classification else np.zeros(len(table), dtype=np.int64)
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(table), dtype=bool)
    is_new = np.ones(len(table), dtype=bool) if known is None or known.all() else ~known
    for group in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == group))
        count, new = min(len(rows) - 1, max(1, round(len(rows) * frac))), rows[is_new[rows]]
        held_out[new[: count if len(new) == len(rows) else min(count, (len(new) + 1) // 2)]] = True
    if not held_out.any():
        raise InvalidData(f"train_data: {len(table)} rows are too few to hold any out for validation; give tuning_data")
    return table[~held_out], table[held_out]
