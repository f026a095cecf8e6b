"""Ensembles: averages the predictions of several models, and selects the models worth including.

Caruana et al. 2004, "Ensemble selection from libraries of models" (doi:10.1145/1015330.1015432), with its remedies against overfitting the
validation rows: selection with replacement, which gives weights, and sorted initialisation. The validation rows still choose the models, so an
ensemble's score on them is too optimistic, the more so the fewer rows and the more candidates there are.

Few rows tell models apart better by log loss than by a metric that only counts errors or compares ranks. Ensembles chosen by log loss score higher by such
metrics on new rows, even where they score lower on the validation rows: the best trial's value there is the luckiest of many (``benchmarks/RESULTS.md``).
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch

from ..config import Optim
from ..metrics import Metric, find_metric
from ..problem import Problem
from .evaluate import Validation

NUM_ROUNDS = 25  # limit of models in the bag, counted as often as they were added
# not metrics that depend on a threshold or on the balance of the classes: the likeliest class is not their best prediction
BETTER_WITH_LOG_LOSS = ("accuracy", "f1_micro", "roc_auc", "roc_auc_ovr", "roc_auc_ovo", "average_precision")


def selection_metric(metric: Metric, optim: Optim) -> Metric:
    """The metric by which an ensemble is selected that is to be good by ``metric``. With class weights, probabilities are not meant to be calibrated."""
    return find_metric("log_loss") if metric.name in BETTER_WITH_LOG_LOSS and optim.class_weights is None else metric


def combine_logits(problem: Problem, logits: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The weighted mean of probabilities, or of a regression's values, in float64. The logits of a single model are returned unchanged.

    Args:
        logits: (N, num_outputs) of each model.
        weights: of the same models, sum 1.

    Returns:
        (N, num_outputs): for classes the logarithms of the mean probabilities, whose softmax gives these probabilities.
    """
    if len(logits) == 1:
        return logits[0]
    if problem.is_classification:
        return torch.stack([each.double().log_softmax(1) + math.log(weight) for each, weight in zip(logits, weights, strict=True)]).logsumexp(0)
    return torch.stack([each.double() * weight for each, weight in zip(logits, weights, strict=True)]).sum(0)


def select_members(
    problem: Problem,
    logits: Sequence[torch.Tensor],
    judge: Callable[[torch.Tensor], Validation],
    max_members: int,
    out_of_time: Callable[[], bool] = lambda: False,
) -> tuple[dict[int, float], Validation]:
    """Adds models to a bag, each time the one with which it predicts best, and returns the best bag on the way.

    Args:
        logits: (N, num_outputs) of each model on the validation rows.
        judge: logits -> their validation.
        max_members: maximum number of distinct models.
        out_of_time: checked before each further addition.

    Returns:
        Index -> weight of the chosen models, the heaviest first, weights sum to 1; and the validation of the ensemble. The smaller of two equal bags wins.
    """

    def best_of(bags: Iterable[Counter[int]]) -> tuple[Validation, Counter[int]]:
        """The best bag and its validation; the first of equal ones."""
        judged = ((judge(combine_logits(problem, [logits[index] for index in bag], [count / bag.total() for count in bag.values()])), bag) for bag in bags)
        return functools.reduce(lambda best, other: other if other[0].beats(best[0]) else best, judged)

    alone = [judge(each).rank for each in logits]
    order = sorted(range(len(logits)), key=lambda index: alone[index], reverse=True)
    # sorted initialisation: the n best models, for the best n
    best, bag = best_of(Counter(order[:size]) for size in range(1, min(max_members, len(order)) + 1))
    current = bag
    for _ in range(bag.total(), NUM_ROUNDS):
        if out_of_time():
            break
        # models in the bag come first, so that of equal choices one that needs no further model wins
        allowed = [*current, *(index for index in order if index not in current)] if len(current) < max_members else list(current)
        found, current = best_of(current + Counter([index]) for index in allowed)
        if found.beats(best):
            best, bag = found, current
    return {index: count / bag.total() for index, count in bag.most_common()}, best
