"""Backbones brought together: a table's row becomes one vector, and a linear head answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from ..config import FusionMlp as FusionMlpConfig
from ..data.batch import Batch
from ..data.images import ImageSpec
from .backbone import Backbone
from .folding import shared_copy
from .tabular import Columns, mlp


class Only(nn.Module):
    """The fusion of a single backbone: nothing to do."""

    num_new = 0
    scores: tuple[int, ...] = ()

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, parts: list[torch.Tensor], batch: Batch) -> torch.Tensor:
        [features] = parts
        return features


class FusionMlp(nn.Module):
    """Each modality is normalised and brought to one width, then a multilayer perceptron sees them side by side.

    Beside what it makes of them stands what a linear model can read of each: a pretrained backbone's features, and in place of a table
    network's, which are random at first, its columns. So the head is a linear model of all modalities plus what the perceptron adds to it,
    and can begin as the linear one alone (``training/probe.py``): better than each modality before any step.

    Args:
        sizes: features of each backbone.
        columns: of each, what stands for it; None: its own features.

    Attributes:
        num_new: of its features, the first so many are the perceptron's.
        scores: of its features, those that say what the words of texts do.
    """

    def __init__(self, own: FusionMlpConfig, sizes: Sequence[int], columns: Sequence[Columns | None]) -> None:
        super().__init__()
        width = max(sizes)
        self.modality_dropout = own.modality_dropout
        self.adapters = nn.ModuleList(nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width)) for size in sizes)
        self.layers = mlp(width * len(sizes), own.hidden_sizes, own.activation, "layer_norm", own.dropout)
        self.num_new = own.hidden_sizes[-1]
        self.columns = tuple(columns)
        widths = (size if own is None else own.num_features for size, own in zip(sizes, columns, strict=True))
        starts = list(accumulate(widths, initial=self.num_new))
        self.scores = tuple(start + place for start, own in zip(starts, columns, strict=False) if own is not None for place in own.scores)
        self.num_features = starts[-1]

    def forward(self, parts: list[torch.Tensor], batch: Batch) -> torch.Tensor:
        """M times (B, F_m) -> (B, num_features)."""
        adapted = [adapter(part) for adapter, part in zip(self.adapters, parts, strict=True)]
        linear = [part if columns is None else columns(batch) for columns, part in zip(self.columns, parts, strict=True)]
        if self.training and self.modality_dropout:
            kept = kept_modalities(len(batch), len(parts), self.modality_dropout, parts[0].device).unsqueeze(-1).unbind(1)  # M times (B, 1)
            adapted, linear = ([part * mask for part, mask in zip(each, kept, strict=True)] for each in (adapted, linear))
        return torch.cat([self.layers(torch.cat(adapted, 1)), *linear], 1)


def kept_modalities(num_rows: int, num_modalities: int, dropout: float, device: torch.device) -> torch.Tensor:
    """(B, M) bool: each modality of a row is dropped with that probability, but where all would be, one stays."""
    chance = torch.rand(num_rows, num_modalities, device=device)
    return (chance >= dropout) | (chance == chance.max(1, keepdim=True).values)


class TableModel(nn.Module):
    """The model of a trial.

    Args:
        backbones: by name.
        fusion: takes their features as a list, and the batch.
        aux_loss_weight: of a head on each backbone alone, in training; 0: there are none.

    Attributes:
        most_rows: that its device holds when it predicts, where that is less than was asked for.
    """

    backbones: Mapping[str, Backbone]
    most_rows: int | None = None

    def __init__(self, backbones: Mapping[str, Backbone], fusion: Only | FusionMlp, num_outputs: int, aux_loss_weight: float = 0.0) -> None:
        super().__init__()
        self.backbones = nn.ModuleDict(backbones)  # type: ignore[assignment]
        self.fusion = fusion
        self.head = nn.Linear(fusion.num_features, num_outputs)
        self.aux_loss_weight = aux_loss_weight
        wanted = backbones.items() if aux_loss_weight else ()
        self.aux_heads = nn.ModuleDict({name: nn.Linear(backbone.num_features, num_outputs) for name, backbone in wanted})

    def features(self, batch: Batch) -> torch.Tensor:
        """(B, F): the embedding of each row."""
        return self.fusion([backbone(batch) for backbone in self.backbones.values()], batch)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self._answer(self.features(batch))  # (B, num_outputs)

    def _answer(self, features: torch.Tensor) -> torch.Tensor:
        """In float32 always: answers in bfloat16 are one of 256 between 1 and 2, and many rows have the same."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float())

    def networks(self) -> list[nn.Module]:
        """Of the backbones, the parts that take plain tensors and nearly all of the time."""
        return [each.network for each in self.backbones.values() if each.network is not None]

    @property
    def image_spec(self) -> ImageSpec:
        """Of the pictures that it takes; of none where it takes none."""
        return next((each.spec for each in self.backbones.values() if each.spec), ImageSpec(0))

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """Backbone -> what it is built from, as JSON; those that need nothing are not among them."""
        return {name: source for name, each in self.backbones.items() if (source := each.describe_source()) is not None}

    def folded(self) -> TableModel:
        """What predicts the same, faster where that can be; its weights are this one's, but for those that were folded into one another."""
        return shared_copy(self, backbones=nn.ModuleDict({name: each.folded() for name, each in self.backbones.items()})).eval()

    def training_logits(self, batch: Batch) -> list[tuple[torch.Tensor, float]]:
        """All that is to answer for the target, each with its weight in the loss: the model itself, or its members, and each modality's own head."""
        parts = {name: backbone(batch) for name, backbone in self.backbones.items()}
        if isinstance(self.fusion, Only) and (num_members := next(iter(self.backbones.values())).num_members) > 1:
            [features] = parts.values()
            return [(logits, 1 / num_members) for logits in self._member_logits(features, num_members)]
        own = [(head(parts[name]), self.aux_loss_weight) for name, head in self.aux_heads.items()]
        return [(self._answer(self.fusion(list(parts.values()), batch)), 1.0), *own]

    def _member_logits(self, features: torch.Tensor, num_members: int) -> torch.Tensor:
        """(members, B, num_outputs), whose mean is the head's answer."""
        weight = self.head.weight.unflatten(1, (num_members, -1))  # (K, members, F)
        with torch.autocast(features.device.type, enabled=False):  # as ``_answer``
            return num_members * torch.einsum("bmf,kmf->mbk", features.float().unflatten(1, (num_members, -1)), weight) + self.head.bias
