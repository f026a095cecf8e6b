"""Combines backbones: each row of a table becomes one vector, from which a linear head predicts."""

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
    """The fusion of a single backbone: returns its features unchanged."""

    num_new = 0
    scores: tuple[int, ...] = ()

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, parts: list[torch.Tensor], batch: Batch) -> torch.Tensor:
        [features] = parts
        return features


class FusionMlp(nn.Module):
    """Normalises each modality and projects it to a common width, then feeds them side by side to a multilayer perceptron.

    The perceptron's output is joined by what a linear model can read from each modality: a pretrained backbone's features or, in place of a table
    network's features, which are random at first, its columns. So the head is a linear model of all modalities plus what the perceptron adds,
    and can start as the linear model alone (``training/probe.py``), which is better than each modality before any step.

    Args:
        sizes: number of features of each backbone.
        columns: for each backbone, the columns that the head reads in place of its features; None: its own features.

    Attributes:
        num_new: how many features, at the beginning, are the perceptron's.
        scores: indices of the features that are n-gram scores of texts.
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
    """(B, M) bool: each modality of a row is dropped with probability ``dropout``, but one is always kept."""
    chance = torch.rand(num_rows, num_modalities, device=device)
    return (chance >= dropout) | (chance == chance.max(1, keepdim=True).values)


class TableModel(nn.Module):
    """The model of a trial.

    Args:
        backbones: by name.
        fusion: takes their features as a list, and the batch.
        aux_loss_weight: loss weight of an additional head on each backbone, used in training only; 0: there are none.

    Attributes:
        most_rows: limit of rows in a prediction batch, set when the device could not hold the requested size.
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
        """(B, num_outputs). Rows of a fold get the mean of those members that leave it out in training."""
        features = self.features(batch)
        if not batch.fold.shape[1]:
            return self._answer(features)
        left_out = self._left_out(batch)
        return (self._member_logits(features) * left_out.T.unsqueeze(2)).sum(0) / (self.num_members // batch.fold.shape[1])

    def _answer(self, features: torch.Tensor) -> torch.Tensor:
        """Always in float32: bfloat16 has only 128 values between 1 and 2, so many rows would have equal logits."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float())

    def networks(self) -> list[nn.Module]:
        """The backbones' ``network`` modules, which take nearly all of the computing time."""
        return [each.network for each in self.backbones.values() if each.network is not None]

    @property
    def image_spec(self) -> ImageSpec:
        """The images that it expects; of size 0 if it reads no images."""
        return next((each.spec for each in self.backbones.values() if each.spec), ImageSpec(0))

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """Backbone -> its ``describe_source``, without backbones that need none."""
        return {name: source for name, each in self.backbones.items() if (source := each.describe_source()) is not None}

    def folded(self) -> TableModel:
        """An equivalent model in eval mode, with backbones that predict faster if possible. It shares all weights except the folded ones."""
        return shared_copy(self, backbones=nn.ModuleDict({name: each.folded() for name, each in self.backbones.items()})).eval()

    def training_logits(self, batch: Batch) -> list[tuple[torch.Tensor, float | torch.Tensor]]:
        """The logits that the loss is computed on, each with its weight in it: the model's or its members', and those of each auxiliary head.

        With folds, the weight is (B,): 0 for the rows that a member leaves out.
        """
        parts = {name: backbone(batch) for name, backbone in self.backbones.items()}
        if self.num_members > 1:
            [features] = parts.values()
            return list(zip(self._member_logits(features), self._shares(batch), strict=True))
        own = [(head(parts[name]), self.aux_loss_weight) for name, head in self.aux_heads.items()]
        return [(self._answer(self.fusion(list(parts.values()), batch)), 1.0), *own]

    @property
    def num_members(self) -> int:
        """Networks that are trained on their own."""
        return next(iter(self.backbones.values())).num_members if isinstance(self.fusion, Only) else 1

    def _member_logits(self, features: torch.Tensor) -> torch.Tensor:
        """(members, B, num_outputs), whose mean is the head's output."""
        weight = self.head.weight.unflatten(1, (self.num_members, -1))  # (K, members, F)
        with torch.autocast(features.device.type, enabled=False):  # float32, as in ``_answer``
            return self.num_members * torch.einsum("bmf,kmf->mbk", features.float().unflatten(1, (self.num_members, -1)), weight) + self.head.bias

    def _left_out(self, batch: Batch) -> torch.Tensor:
        """(B, members) bool: the members that do not learn from a row. They take turns: with F folds, member m leaves out fold m modulo F."""
        return batch.fold.repeat(1, self.num_members // batch.fold.shape[1])

    def _shares(self, batch: Batch) -> Sequence[float | torch.Tensor]:
        """Each member's weight in the loss, so that its rows count as much as if it learned from all of them."""
        num_folds = batch.fold.shape[1]
        if not num_folds:
            return [1 / self.num_members] * self.num_members
        return (~self._left_out(batch) * (num_folds / (num_folds - 1) / self.num_members)).unbind(1)
