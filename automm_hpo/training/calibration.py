"""Makes class probabilities honest: networks that fit their training rows well are surer of their predictions on new rows than they are right.

Guo et al. 2017, "On calibration of modern neural networks" (arXiv:1706.04599), section 4.2: all logits are divided by one temperature, which minimises
the cross entropy of the validation rows. The predicted classes stay the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from ..config import Optim
from ..problem import Problem

HIGHEST = 10.0


def wants_temperature(problem: Problem, optim: Optim) -> bool:
    return problem.is_classification and optim.calibrate and optim.class_weights is None  # class weights are meant to change the probabilities


def fit_temperature(logits: torch.Tensor, target: torch.Tensor) -> float:
    """The temperature, between 1 and ``HIGHEST``, to two decimals.

    Never below 1: of a few hundred rows that happen to be right without exception, it would make certainty (``benchmarks/RESULTS.md``).

    Args:
        logits: (N, K).
        target: (N,) int64.
    """

    def loss(inverse: float) -> float:  # convex in the inverse
        return float(F.cross_entropy(logits.double() * inverse, target))

    return round(1 / float(minimize_scalar(loss, bounds=(1 / HIGHEST, 1.0), method="bounded").x), 2)
