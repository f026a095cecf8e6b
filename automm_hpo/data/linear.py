"""Brings scikit-learn's linear classifiers to one shape, whatever the number of classes and whether all of them had rows."""

from __future__ import annotations

import numpy as np


def of_classes(coefficients: np.ndarray, intercepts: np.ndarray, classes: np.ndarray, num_scores: int) -> tuple[np.ndarray, np.ndarray]:
    """The fitted coefficients as (F, S) and intercepts as (S,). A class without rows has zero weights and the lowest of the other intercepts."""
    if num_scores == 1:
        return coefficients.T, intercepts
    if len(coefficients) == 1:  # for two classes scikit-learn gives only the difference
        coefficients, intercepts = np.concatenate([-coefficients, coefficients]) / 2, np.concatenate([-intercepts, intercepts]) / 2
    weight, bias = np.zeros((coefficients.shape[1], num_scores)), np.full(num_scores, intercepts.min())
    weight[:, classes], bias[classes] = coefficients.T, intercepts
    return weight, bias


def cross_entropy(scores: np.ndarray, target: np.ndarray, weight: np.ndarray | float = 1.0) -> float:
    """The mean cross entropy of scores used as logits.

    Args:
        scores: (N, K), or (N, 1) of the second of two classes.
        weight: (N,) factor of each row's loss.
    """
    if scores.shape[1] == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], 1)
    return float(np.mean(weight * (np.logaddexp.reduce(scores, 1) - scores[np.arange(len(scores)), target])))
