"""Splits off holdout rows, or divides rows into folds: seeded, and stratified for classes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..errors import InvalidData
from ..problem import Problem

MANY, MUCH = 20, 0.2  # number of classes; share of the rows


def default_holdout_frac(num_rows: int) -> float:
    """AutoGluon's rule: a fifth of small tables, falling to a tenth, and to a hundredth for large ones."""
    if num_rows < 5_000:
        return max(0.1, min(0.2, 500 / num_rows))
    return max(0.01, min(0.1, 2_500 / num_rows))


def choose_held_out(table: pd.DataFrame, problem: Problem, holdout_frac: float | None, seed: int, known: np.ndarray | None = None) -> np.ndarray:
    """(N,) bool, true for the rows to validate on. Every class keeps at least one row to train on, and has one to validate on if it has at least two rows.

    If there are so many small classes that this would hold out more than a fifth of all rows, and more than requested, some have none to validate on.

    Args:
        known: (N,) bool, rows that a model has learned from. They are not held out, and in a class that has some, at most half of the others are.
            Ignored if all rows are known.

    Raises:
        InvalidData: there are too few rows to hold any out.
    """
    frac = default_holdout_frac(len(table)) if holdout_frac is None else holdout_frac
    groups = problem.encode(table[problem.label]) if problem.is_classification else np.zeros(len(table), dtype=np.int64)
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(table), dtype=bool)
    is_new = np.ones(len(table), dtype=bool) if known is None or known.all() else ~known
    sizes = np.unique(groups, return_counts=True)[1]
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(sizes)[:-1])
    for positions, count in zip(members, _held_out_counts(sizes, frac, seed), strict=True):
        rows = rng.permutation(positions)
        new = rows[is_new[rows]]
        held_out[new[: count if len(new) == len(rows) else min(count, (len(new) + 1) // 2)]] = True
    if not held_out.any() and len(sizes) == len(table) >= 10:
        raise InvalidData(f"train_data: no two of the {len(table)} rows are of one class, so none can be held out for validation; is it a regression?")
    if not held_out.any():
        raise InvalidData(f"train_data: {len(table)} rows are too few to hold any out for validation; give tuning_data")
    return held_out


def _held_out_counts(sizes: np.ndarray, frac: float, seed: int) -> np.ndarray:
    """(K,) number of rows to hold out from each class, given the class sizes."""
    counts, wanted = np.minimum(sizes - 1, np.maximum(1, np.round(sizes * frac).astype(int))), max(1, round(sizes.sum() * frac))
    if len(sizes) > MANY and counts.sum() > max(wanted, MUCH * sizes.sum()):
        small = np.random.default_rng([seed, 1]).permutation(np.flatnonzero((counts == 1) & (sizes * frac < 1)))
        counts[small[: counts.sum() - wanted]] = 0
    return counts


def assign_folds(table: pd.DataFrame, problem: Problem, num_folds: int, seed: int) -> np.ndarray:
    """(N, num_folds) bool, true for the fold that a row is in. Folds differ by at most one row in size, and in the rows of any class."""
    order = np.random.default_rng(seed).permutation(len(table))
    if problem.is_classification:
        order = order[np.argsort(problem.encode(table[problem.label])[order], kind="stable")]
    fold = np.zeros((len(table), num_folds), dtype=bool)
    fold[order, np.arange(len(table)) % num_folds] = True
    return fold
