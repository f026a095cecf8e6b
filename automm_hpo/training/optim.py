"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from ..config import Optim
from ..models import Backbone, TableModel

Groups = list[dict]


def _timm(groups: Groups, optim: Optim, **options: Any) -> torch.optim.Optimizer:
    """An optimizer of timm, by its name there."""
    return create_optimizer_v2(groups, opt=optim.optim_type, lr=optim.lr, betas=(0.9, optim.beta2), **options)


def _sgd(groups: Groups, optim: Optim) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.momentum > 0, fused=True)
    if optim.momentum:
        # torch would leave them as uninitialised memory if the first step is skipped because float16 overflowed; from 0 the first step is the same
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


OPTIMIZERS: dict[str, Callable[[Groups, Optim], torch.optim.Optimizer]] = {
    "adamw": lambda groups, optim: torch.optim.AdamW(groups, lr=optim.lr, betas=(0.9, optim.beta2), fused=True),
    "adam": lambda groups, optim: torch.optim.Adam(groups, lr=optim.lr, betas=(0.9, optim.beta2), fused=True),
    "nadamw": _timm,
    "sgd": _sgd,
    "lamb": functools.partial(_timm, max_grad_norm=None),  # switches off timm's own clipping, because the training loop clips
    "lion": _timm,
}

# progress in [0, 1] after the warm-up -> factor of the peak learning rate
LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine_decay": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear_decay": lambda progress: 1 - progress,
    "polynomial_decay": lambda progress: (1 - progress) ** 2,
    "multi_step": lambda progress: 0.1 ** ((progress >= 0.5) + (progress >= 0.75)),
    "coslog4": lambda progress: 0.5 * (1 - math.cos(2 * math.pi * math.log2(1 + 15 * progress))),  # arXiv:2407.04491
    "constant": lambda progress: 1.0,
}


def build_optimizer(model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """Builds the optimizer. Parameters are grouped by weight decay and by ``lr_scale``, the factor of the model's learning rate."""
    return OPTIMIZERS[optim.optim_type](parameter_groups(model, optim), optim)


def parameter_groups(model: nn.Module, optim: Optim) -> Groups:
    """The trainable parameters in groups. Norms, biases and the parameters in a backbone's ``no_weight_decay`` are never decayed."""
    scales = lr_scales(model, optim)
    groups: dict[tuple[float, bool], dict] = {}
    undecayed = {f"{prefix}{name}" for prefix, backbone in _backbones(model) for name in backbone.no_weight_decay()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_decayed = parameter.ndim > 1 and not name.endswith(".bias") and name not in undecayed
            group = {"params": [], "lr_scale": scales[name], "weight_decay": optim.weight_decay if is_decayed else 0.0}
            groups.setdefault((scales[name], is_decayed), group)["params"].append(parameter)
    return list(groups.values())


def lr_scales(model: nn.Module, optim: Optim) -> dict[str, float]:
    """Parameter -> factor of ``optim.lr``, from ``optim.lr_choice`` and each backbone's own ``lr_scales``."""
    new = optim.lr_mult if optim.lr_choice else 1.0
    decay = optim.lr_decay if optim.lr_choice == "layerwise_decay" else 1.0
    scales = {name: new for name, _ in model.named_parameters()}
    for prefix, backbone in _backbones(model):
        for name, scale in backbone.lr_scales(decay if backbone.is_pretrained else 1.0).items():
            if not backbone.is_pretrained:
                scale *= new
            elif "lora_" in name:
                scale = new
            scales[f"{prefix}{name}"] = scale
    return scales


def _backbones(model: nn.Module) -> list[tuple[str, Backbone]]:
    """(prefix of its parameters' names, module) of each backbone."""
    return [(f"backbones.{name}.", backbone) for name, backbone in model.backbones.items()] if isinstance(model, TableModel) else []


def lr_factor(optim: Optim, step: int, total_steps: int) -> float:
    """Factor of the peak learning rate at a step, counted from 0: linear warm-up, then the schedule, which ends at ``end_lr`` one step after the last.

    If ``end_lr`` is above the peak, the learning rate stays at the peak.
    """
    warmup = round(optim.warmup_steps * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    factor, least = LR_SCHEDULES[optim.lr_schedule]((step - warmup) / max(1, total_steps - warmup)), min(1.0, optim.end_lr / optim.lr)
    return least + (1 - least) * factor
