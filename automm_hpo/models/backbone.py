"""The base class of all backbones."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import nn

from ..data.batch import Batch
from ..data.images import ImageSpec


class Backbone(nn.Module):
    """Reads some columns of a batch: ``(Batch) -> (B, num_features)``. Subclasses override the defaults below as needed.

    Attributes:
        num_features: width of its output.
        num_members: networks side by side in it, each with an equal share of ``num_features``. If it is the only backbone, each is trained on its own.
        is_pretrained: it starts from published weights, or from those of a file.
        is_frozen: its weights are not trained.
        spec: the images that it expects; None: it reads no images.
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
        """The module of timm or transformers that takes plain tensors, and nearly all of the computing time. None: there is none."""
        return None

    def folded(self) -> Self:
        """An equivalent backbone that predicts faster, or this one if there is none. It shares all weights that are the same."""
        return self

    def describe_source(self) -> dict[str, Any] | None:
        """What ``build`` needs, as JSON, to rebuild it when its folder or repository is out of reach or has changed. None: nothing."""
        return None

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, in addition to norms and biases."""
        return set()

    def lr_scales(self, decay: float) -> dict[str, float]:
        """Factor of each trainable parameter's learning rate, relative to the rate of pretrained or new backbones.

        Args:
            decay: factor from each layer to the layer below it; ignored by networks that never have pretrained weights.
        """
        return {name: 1.0 for name, parameter in self.named_parameters() if parameter.requires_grad}
