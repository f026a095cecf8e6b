"""Averages of weights: a running one over the steps of a training, and soups of several checkpoints, which predict at the price of one model.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time"
(arXiv:2203.05482). A soup is only ever as good as its ingredients lie in one valley of the loss: epochs of one training mostly do, trainings
from the same pretrained weights often, trainings from random weights hardly ever. Hence every mixture is validated before it is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import nn

from ..config import Optim
from .evaluate import Validation

Weights = Mapping[str, torch.Tensor]
Validate = Callable[[Weights], Validation | None]
"""Validates a set of weights; None: there is no time for it."""
Soup = tuple[list[int], Weights, Validation]
"""Which of the checkpoints went in, what came out, and how good it is."""


class RunningAverage(ModelEmaV3):
    """timm's, which asks both models for all their tensors by name at every step, and takes longer for that than for averaging them."""

    _values: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        if self._values is None:
            self._values = list(self.module.state_dict().values()), list(model.state_dict().values())  # training changes them in place
        pairs = list(zip(*self._values, strict=True))
        values = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([own for own, _ in values], [learning for _, learning in values], weight=1 - decay)
        for own, learning in pairs:
            if not own.is_floating_point():
                own.copy_(learning)


def build_average(model: nn.Module, optim: Optim) -> ModelEmaV3 | None:
    """A running average of the weights, as they are now; None where none is wanted. After s steps it remembers s^(2/3) of them at most."""
    return RunningAverage(model, optim.ema_decay, use_warmup=True) if optim.ema_decay else None


def mix(weights: Weights, more: Weights, share: float) -> Weights:
    """``(1 - share) * weights + share * more``, batch norm's statistics like all else; what counts in whole numbers stays as it is."""
    return {key: torch.lerp(value, more[key], share) if value.is_floating_point() else value for key, value in weights.items()}


def greedy_soup(paths: Sequence[Path], best: Validation, validate: Validate) -> Soup | None:
    """Goes through the checkpoints from the best to the worst and keeps in the average what makes it better.

    Args:
        paths: files of weights, the best first.
        best: what the first alone reaches.

    Returns:
        The soup; None where no average is better than the best alone.
    """
    chosen, reached = [0], best
    weights: Weights = load_file(paths[0])
    for index, path in enumerate(paths[1:], 1):
        mixed = mix(weights, load_file(path), 1 / (len(chosen) + 1))
        found = validate(mixed)
        if found is None:
            break
        if found.beats(reached):
            chosen, weights, reached = [*chosen, index], mixed, found
    return (chosen, weights, reached) if len(chosen) > 1 else None


def uniform_soup(paths: Sequence[Path], best: Validation, validate: Validate) -> Soup | None:
    """The plain average of all; arguments and result as of ``greedy_soup``."""
    weights: Weights = load_file(paths[0])
    for index, path in enumerate(paths[1:], 1):
        weights = mix(weights, load_file(path), 1 / (index + 1))
    found = validate(weights) if len(paths) > 1 else None
    return (list(range(len(paths))), weights, found) if found is not None and found.beats(best) else None


SOUPS: dict[str, Callable[[Sequence[Path], Validation, Validate], Soup | None]] = {"greedy_soup": greedy_soup, "uniform_soup": uniform_soup}
