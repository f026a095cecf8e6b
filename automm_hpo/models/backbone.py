"""What every backbone is, whatever columns it reads."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import nn

from ..data.batch import Batch
from ..data.images import ImageSpec


class Backbone(nn.Module):
    """Reads some columns of a batch: ``(Batch) -> (B, num_features)``. What a subclass says nothing of is as it is here.

    Attributes:
        num_features: width of what it returns.
        num_members: networks side by side in it, each of an equal share of ``num_features``; with one of them the head is trained member by member.
        is_pretrained: it begins from published weights, or those of a file.
        is_frozen: it stays as it began.
        spec: of the pictures that it takes; None: it takes none.
    """

    num_features: int
    num_members = 1
    is_pretrained = False
    is_frozen = False
    spec: ImageSpec | None = None

    def forward(self, batch: Batch) -> torch.Tensor:
        raise NotImplementedError

    @property
    def network(self) -> nn.Module | None:
        """The part that takes plain tensors and nearly all of the time, a module of timm's or transformers' own; None: there is none."""
        return None

    def folded(self) -> Self:
        """What predicts the same in less time, where there is such a thing; it shares the weights that it has in common with this one."""
        return self

    def describe_source(self) -> dict[str, Any] | None:
        """What ``build`` needs to make it again, as JSON: its folder or repository may be out of reach then, or hold something else. None: nothing."""
        return None

    def no_weight_decay(self) -> set[str]:
        """Parameters that do not decay, beside norms and biases."""
        return set()

    def lr_scales(self, decay: float) -> dict[str, float]:
        """Learning rate of each parameter that learns, against that of a backbone of its kind, pretrained or new.

        Args:
            decay: factor from each layer to the one below it; networks that are always new have no use for it.
        """
        return {name: 1.0 for name, parameter in self.named_parameters() if parameter.requires_grad}
