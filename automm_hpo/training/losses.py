"""Losses that training minimises, by name. To add one, write a function of ``(logits, target, optim)`` and add it to ``CLASS_LOSSES`` or ``VALUE_LOSSES``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F

from ..config import Optim
from ..data.batch import Batch, TensorCache
from ..problem import Problem

Answers = Sequence[tuple[torch.Tensor, float | torch.Tensor]]
"""(B, num_outputs) logits of the model, or of several parts of it, each with its weight in the loss: one, or (B,)."""


def _cross_entropy(logits: torch.Tensor, target: torch.Tensor, optim: Optim) -> torch.Tensor:
    smoothing = 0.0 if target.is_floating_point() else optim.label_smoothing  # shares of classes come from mixing, which has already smoothed them
    return F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="none")


def _focal_loss(logits: torch.Tensor, target: torch.Tensor, optim: Optim) -> torch.Tensor:
    """Focal loss of a softmax (Lin et al. 2017, arXiv:1708.02002): a row counts less the more certain its class is."""
    probability = logits.softmax(1)
    certainty = (probability * target).sum(1) if target.is_floating_point() else probability.gather(1, target.unsqueeze(1)).squeeze(1)
    return (1 - certainty).clamp(min=1e-6) ** optim.focal_loss.gamma * _cross_entropy(logits, target, optim)


# (B, K) logits, (B,) classes or (B, K) shares of classes -> (B,)
CLASS_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, Optim], torch.Tensor]] = {"cross_entropy": _cross_entropy, "focal_loss": _focal_loss}

# (B,) predicted and (B,) true standardised values -> (B,)
VALUE_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, Optim], torch.Tensor]] = {
    "mse": lambda values, target, optim: F.mse_loss(values, target, reduction="none"),
    "mae": lambda values, target, optim: F.l1_loss(values, target, reduction="none"),
    "huber": lambda values, target, optim: F.huber_loss(values, target, reduction="none"),
}


def losses_for(problem: Problem) -> dict[str, Callable[[torch.Tensor, torch.Tensor, Optim], torch.Tensor]]:
    """The losses that a problem can be trained with; the first is the default."""
    return CLASS_LOSSES if problem.is_classification else VALUE_LOSSES


def build_loss(optim: Optim, problem: Problem) -> Callable[[Answers, Batch], torch.Tensor]:
    """Builds the loss of a batch, a scalar: the mean over its rows of their weighted losses.

    The sum is divided by the number of rows, not by the sum of their weights, so that a batch of heavy rows takes a large step.
    """
    choices = losses_for(problem)
    compute = choices[next(iter(choices)) if optim.loss_func == "auto" else optim.loss_func]

    def loss(answers: Answers, batch: Batch) -> torch.Tensor:
        weight, parts = batch.weight / len(batch), []
        for logits, share in answers:
            prediction = logits.float() if problem.is_classification else logits.float().squeeze(1)
            parts.append(torch.dot(compute(prediction, batch.target, optim), share * weight))
        return functools.reduce(torch.add, parts)

    return loss


def weighted(train: TensorCache, optim: Optim, problem: Problem) -> TensorCache:
    """The rows, with each row's weight multiplied by the weight of its class."""
    of_class = class_weights(optim.class_weights, problem, train)
    return train if of_class is None else replace(train, weight=train.weight * of_class.to(train.weight.device)[train.target])


def class_weights(given: Literal["balanced"] | Sequence[float] | None, problem: Problem, data: TensorCache) -> torch.Tensor | None:
    """(K,) loss weight of the rows of each class, 1 on average over the rows; None if all count equally."""
    if given is None or not problem.is_classification:
        return None
    counts = torch.bincount(data.target.cpu(), weights=data.weight.cpu(), minlength=problem.num_outputs).float()
    weights = counts.sum() / (problem.num_outputs * counts.clamp(min=1e-9)) if given == "balanced" else torch.tensor(given)
    weights = torch.where(counts > 0, weights, 0.0)  # the split may have left a class without rows
    return weights * counts.sum() / (weights * counts).sum()
