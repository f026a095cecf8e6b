"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from ..config import Optim


def _adamw(groups: list[dict], optim: Optim) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=optim.lr, fused=True)


def _sgd(groups: list[dict], optim: Optim) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.momentum > 0, fused=True)


OPTIMIZERS: dict[str, Callable[[list[dict], Optim], torch.optim.Optimizer]] = {"adamw": _adamw, "sgd": _sgd}

# progress in [0, 1] after the warm-up -> factor of the peak learning rate
LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine_decay": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear_decay": lambda progress: 1 - progress,
    "polynomial_decay": lambda progress: (1 - progress) ** 2,
    "constant": lambda progress: 1.0,
}


def build_optimizer(model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """Two groups: weights with decay, norms and biases without."""
    return OPTIMIZERS[optim.optim_type](param_groups_weight_decay(model, optim.weight_decay), optim)


def lr_factor(optim: Optim, step: int, total_steps: int) -> float:
    """Factor of the peak learning rate at a step, counted from 0: linear warm-up, then the schedule down to the last step."""
    warmup = round(optim.warmup_steps * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    return LR_SCHEDULES[optim.lr_schedule]((step - warmup) / max(1, total_steps - warmup))
