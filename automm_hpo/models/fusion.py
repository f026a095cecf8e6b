"""Backbones brought together: a table's row becomes one vector, and a linear head answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..config import FusionMlp as FusionMlpConfig
from ..data.batch import Batch
from .tabular import mlp


class Only(nn.Module):
    """The fusion of a single backbone: nothing to do."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        [features] = parts
        return features


class FusionMlp(nn.Module):
    """Each modality is normalised and brought to one width, then a multilayer perceptron sees them side by side."""

    def __init__(self, own: FusionMlpConfig, sizes: Sequence[int]) -> None:
        super().__init__()
        width = max(sizes)
        self.modality_dropout = own.modality_dropout
        self.adapters = nn.ModuleList(nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width)) for size in sizes)
        self.layers = mlp(width * len(sizes), own.hidden_sizes, own.activation, "layer_norm", own.dropout)
        self.num_features = own.hidden_sizes[-1]

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """M times (B, F_m) -> (B, F)."""
        adapted = torch.stack([adapter(part) for adapter, part in zip(self.adapters, parts, strict=True)], 1)  # (B, M, width)
        if self.training and self.modality_dropout:
            adapted = adapted * kept_modalities(len(adapted), len(parts), self.modality_dropout, adapted.device).unsqueeze(-1)
        return self.layers(adapted.flatten(1))


def kept_modalities(num_rows: int, num_modalities: int, dropout: float, device: torch.device) -> torch.Tensor:
    """(B, M) bool: each modality of a row is dropped with that probability, but where all would be, one stays."""
    chance = torch.rand(num_rows, num_modalities, device=device)
    return (chance >= dropout) | (chance == chance.max(1, keepdim=True).values)


class TableModel(nn.Module):
    """The model of a trial.

    Args:
        backbones: by name, each ``(Batch) -> (B, num_features)``.
        fusion: takes their features as a list.
        aux_loss_weight: of a head on each backbone alone, in training; 0: there are none.
    """

    def __init__(self, backbones: dict[str, nn.Module], fusion: nn.Module, num_outputs: int, aux_loss_weight: float = 0.0) -> None:
        super().__init__()
        self.backbones = nn.ModuleDict(backbones)
        self.fusion = fusion
        self.head = nn.Linear(int(fusion.num_features), num_outputs)  # type: ignore[arg-type]
        self.aux_loss_weight = aux_loss_weight
        wanted = backbones.items() if aux_loss_weight else ()
        self.aux_heads = nn.ModuleDict({name: nn.Linear(int(backbone.num_features), num_outputs) for name, backbone in wanted})  # type: ignore[arg-type]

    def features(self, batch: Batch) -> torch.Tensor:
        """(B, F): the embedding of each row."""
        return self.fusion([backbone(batch) for backbone in self.backbones.values()])

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.head(self.features(batch))  # (B, num_outputs)

    def training_logits(self, batch: Batch) -> list[tuple[torch.Tensor, float]]:
        """All that is to answer for the target, each with its weight in the loss: the model itself, or each of its members, and each
        modality's own head."""
        parts = {name: backbone(batch) for name, backbone in self.backbones.items()}
        if isinstance(self.fusion, Only) and (num_members := getattr(self.backbones[next(iter(parts))], "num_members", 1)) > 1:
            [features] = parts.values()
            return [(logits, 1 / num_members) for logits in self._member_logits(features, num_members)]
        own = [(head(parts[name]), self.aux_loss_weight) for name, head in self.aux_heads.items()]
        return [(self.head(self.fusion(list(parts.values()))), 1.0), *own]

    def _member_logits(self, features: torch.Tensor, num_members: int) -> torch.Tensor:
        """(members, B, num_outputs), whose mean is the head's answer."""
        weight = self.head.weight.unflatten(1, (num_members, -1))  # (K, members, F)
        return num_members * torch.einsum("bmf,kmf->mbk", features.unflatten(1, (num_members, -1)), weight) + self.head.bias
