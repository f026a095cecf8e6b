"""Averages of weights: a running average over the steps of a training, and soups of several checkpoints, which predict at the cost of one model.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time"
(arXiv:2203.05482). A soup is good only if its ingredients lie in one valley of the loss: epochs of one training mostly do, trainings from the
same pretrained weights often, trainings from random weights hardly ever. So every mixture is validated before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from timm.utils import ModelEmaV3
from torch import nn

from ..config import Optim
from .checkpoint import read_weights
from .evaluate import Validation

Weights = Mapping[str, torch.Tensor]
Validate = Callable[[Weights], Validation | None]
"""Validates a set of weights; returns None if there is no time for it."""
Soup = tuple[list[int], Weights, Validation]
"""The indices of the averaged checkpoints, the averaged weights, and their validation."""


class RunningAverage(ModelEmaV3):
    """timm's running average, but with the tensors collected only once: doing that at every step takes longer than averaging them."""

    _pairs: tuple[list[torch.Tensor], ...] = ()  # averages and their sources, then whole numbers and theirs

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        if not self._pairs:  # stays valid, because training changes the tensors in place
            pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
            self._pairs = tuple([pair[side] for pair in pairs if pair[0].is_floating_point() is kind] for kind in (True, False) for side in (0, 1))
        averages, weights, counts, new_counts = self._pairs
        torch._foreach_lerp_(averages, weights, weight=1 - decay)
        if counts:
            torch._foreach_copy_(counts, new_counts)


def build_average(model: nn.Module, optim: Optim) -> ModelEmaV3 | None:
    """A running average that starts from the current weights; None if ``ema_decay`` is 0. After s steps it covers at most about the last s^(2/3)."""
    return RunningAverage(model, optim.ema_decay, use_warmup=True) if optim.ema_decay else None


def mix(weights: Weights, more: Weights, share: float) -> Weights:
    """``(1 - share) * weights + share * more``, including batch norm's statistics. Integer tensors are those of ``weights``."""
    return {key: torch.lerp(value, more[key], share) if value.is_floating_point() else value for key, value in weights.items()}


def greedy_soup(paths: Sequence[Path], best: Validation, validate: Validate) -> Soup | None:
    """Goes through the checkpoints from best to worst, and adds each to the average if that makes it better.

    Args:
        paths: of weights, as ``read_weights`` takes them, the best first.
        best: validation of the first alone.

    Returns:
        The soup; None if no average is better than the best checkpoint alone.
    """
    chosen, reached = [0], best
    weights: Weights = read_weights(paths[0])
    for index, path in enumerate(paths[1:], 1):
        mixed = mix(weights, read_weights(path), 1 / (len(chosen) + 1))
        found = validate(mixed)
        if found is None:
            break
        if found.beats(reached):
            chosen, weights, reached = [*chosen, index], mixed, found
    return (chosen, weights, reached) if len(chosen) > 1 else None


def uniform_soup(paths: Sequence[Path], best: Validation, validate: Validate) -> Soup | None:
    """The plain average of all checkpoints. Arguments and result as in ``greedy_soup``."""
    weights: Weights = read_weights(paths[0])
    for index, path in enumerate(paths[1:], 1):
        weights = mix(weights, read_weights(path), 1 / (index + 1))
    found = validate(weights) if len(paths) > 1 else None
    return (list(range(len(paths))), weights, found) if found is not None and found.beats(best) else None


SOUPS: dict[str, Callable[[Sequence[Path], Validation, Validate], Soup | None]] = {"greedy_soup": greedy_soup, "uniform_soup": uniform_soup}
