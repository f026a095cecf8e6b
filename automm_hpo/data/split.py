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


def train_valid_split(table: pd.DataFrame, problem: Problem, holdout_frac: float | None, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Splits the training rows; every class keeps at least one row in train, and has one in valid if it has two.

    Raises:
        InvalidData: too few rows to hold any out.
    """
    frac = default_holdout_frac(len(table)) if holdout_frac is None else holdout_frac
    groups = problem.encode(table[problem.label]) if problem.is_classification else np.zeros(len(table), dtype=np.int64)
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(table), dtype=bool)
    for group in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == group))
        held_out[rows[: min(len(rows) - 1, max(1, round(len(rows) * frac)))]] = True
    if not held_out.any():
        raise InvalidData(f"train_data: {len(table)} rows are too few to hold any out for validation; give tuning_data")
    return table[~held_out], table[held_out]
