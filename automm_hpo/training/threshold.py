"""Decision thresholds: above which probability of the positive class a row of a binary problem is predicted positive.

For accuracy it is a half. Some metrics weigh the classes by their own rules, and the likelier class is not their best prediction: with few positive rows,
F1 may be 0 at a half and good at a fifth. Lipton, Elkan and Naryanaswamy 2014, "Optimal thresholding of classifiers to maximize F1 measure"
(arXiv:1402.1892).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.special import expit

from ..metrics import Metric
from .calibration import fit_temperature

HALF = 0.5
OUTSIDE = 0.1  # log odds from the first or last row to the threshold that predicts all rows alike
MOST = 30.0  # log odds; a little more is a probability of 1 to a float

Counts = np.ndarray  # (T,) float64, one for each threshold


def _f1(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> np.ndarray:
    return _ratio(2 * tp, 2 * tp + fp + fn)


def _f1_macro(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> np.ndarray:
    return (_f1(tp, fp, fn, tn) + _f1(tn, fn, fp, tp)) / 2


def _f1_weighted(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> np.ndarray:
    share = (tp + fn) / (tp + fp + fn + tn)
    return share * _f1(tp, fp, fn, tn) + (1 - share) * _f1(tn, fn, fp, tp)


def _balanced_accuracy(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> np.ndarray:
    return (_ratio(tp, tp + fn) + _ratio(tn, tn + fp)) / 2


def _mcc(tp: Counts, fp: Counts, fn: Counts, tn: Counts) -> np.ndarray:
    return _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


DECIDED: dict[str, Callable[[Counts, Counts, Counts, Counts], np.ndarray]] = {
    "f1": _f1,
    "f1_macro": _f1_macro,
    "f1_weighted": _f1_weighted,
    "balanced_accuracy": _balanced_accuracy,
    "mcc": _mcc,
}
"""The metrics that a threshold is chosen for -> their value by the numbers of true positives, false positives, false negatives and true negatives."""


def best_threshold(metric: Metric, log_odds: np.ndarray, target: np.ndarray) -> float:
    """A threshold at which a metric is high, for these rows and for new ones.

    The threshold that is best for some rows is that of a chance peak, and lies elsewhere for others. This one is the middle, as log odds, between two that
    vary less: the mean of all thresholds, weighted by how near each comes to the best (on the scale of half a standard error, or 0.03 if that is less); and the
    one that is best in expectation, if the probabilities are right once a temperature has calibrated them. The second is the better of few rows, and is left
    out where the rows contradict it by more than two standard errors. Compared in ``benchmarks/RESULTS.md``.

    Args:
        metric: one of ``DECIDED``.
        log_odds: (N,) of the positive class.
        target: (N,) 0 or 1.

    Returns:
        A probability; a half if the rows are all of one class.
    """
    order = np.argsort(-log_odds, kind="stable")
    falling, is_positive = log_odds[order].astype(np.float64), target[order] == 1
    num_rarer = min(is_positive.sum(), (~is_positive).sum())
    if not num_rarer:
        return HALF
    between = np.r_[falling[0] + OUTSIDE, (falling[1:] + falling[:-1]) / 2, falling[-1] - OUTSIDE]
    is_one = np.r_[True, falling[1:] < falling[:-1], True]  # no threshold separates rows that are alike

    def values(share: np.ndarray) -> np.ndarray:
        """The metric if only the first 0, 1, ..., N rows are predicted positive, and these shares of each row are."""
        tp, fp = np.r_[0.0, np.cumsum(share)], np.r_[0.0, np.cumsum(1 - share)]
        return np.where(is_one, DECIDED[metric.name](tp, fp, tp[-1] - tp, fp[-1] - fp), -np.inf)

    seen = values(is_positive.astype(np.float64))
    error = 0.5 / math.sqrt(num_rarer)  # at most the standard error of a share of so many rows
    observed = np.average(between, weights=np.exp((seen - seen.max()) / min(0.03, error / 2)))
    logits = torch.from_numpy(np.stack([np.zeros_like(falling), falling], 1))
    calibrated = falling / fit_temperature(logits, torch.from_numpy(is_positive.astype(np.int64)))
    believed = values(expit(calibrated)).argmax()
    is_wrong = seen[believed] < seen.max() - 2 * error  # the probabilities are not what they say, as with class weights
    return float(expit(np.clip(observed if is_wrong else (observed + between[believed]) / 2, -MOST, MOST)))
