"""Mixup and CutMix, by torchvision: mixes the images of a batch in pairs, and their labels with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from ..config import Mixup
from ..data.batch import Batch
from ..problem import Problem


def build_mixing(mixup: Mixup, problem: Problem) -> Callable[[Batch, int], Batch]:
    """Builds (batch, epoch) -> batch with mixed images and weights, and (B, K) shares of classes as target; unchanged if nothing is to be mixed.

    Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899. Draws from torch's default generator.
    """
    chances: dict[v2.Transform, float] = {}
    if mixup.mixup_alpha:
        chances[v2.MixUp(alpha=mixup.mixup_alpha, num_classes=problem.num_outputs)] = 1 - mixup.switch_prob if mixup.cutmix_alpha else 1.0
    if mixup.cutmix_alpha:
        chances[v2.CutMix(alpha=mixup.cutmix_alpha, num_classes=problem.num_outputs)] = mixup.switch_prob if mixup.mixup_alpha else 1.0
    pick = v2.RandomChoice(list(chances), p=list(chances.values())) if mixup.turn_on else None

    def mixed(batch: Batch, epoch: int) -> Batch:
        if pick is None or epoch >= mixup.turn_off_epoch or torch.rand(()) >= mixup.prob:
            return batch
        # (B, K) weight of each class in a row: of two mixed rows, each label counts by its row's weight, so that a row of weight 0 adds no label
        weights = F.one_hot(batch.target, problem.num_outputs) * batch.weight.unsqueeze(1)
        own = batch.images.squeeze(1).float()
        images, weights = pick(own, weights)
        if own.is_contiguous(memory_format=torch.channels_last):
            images = images.contiguous(memory_format=torch.channels_last)  # on a GPU, mixing loses it
        weight = weights.sum(1)
        target = weights / weight.unsqueeze(1).clamp(min=torch.finfo(weight.dtype).tiny)
        target = target * (1 - mixup.label_smoothing) + mixup.label_smoothing / problem.num_outputs
        return replace(batch, images=images.unsqueeze(1), target=target, weight=weight)

    return mixed
