"""Models by name. To add one: a class like ``TimmImage`` and an entry in ``MODELS``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..config import Config
from ..data.batch import Batch
from ..data.features import Features
from ..data.images import ImageSpec
from ..data.text import TextSpec
from ..errors import NotSupported
from . import timm_image

MODELS = {"timm_image": timm_image.build}

# hyperparameters that a search may vary and that others must know all values of
GEOMETRY_KEYS = ("model.timm_image.checkpoint_name", "model.timm_image.image_size")
TEXT_KEYS: tuple[str, ...] = ()
MODEL_KEYS = (
    "model.names",
    *GEOMETRY_KEYS,
    "model.timm_image.pretrained",
    "model.timm_image.checkpoint_path",
    "model.timm_image.drop_path_rate",
)


class TableModel(nn.Module):
    """A backbone for each kind of column, what brings them together, and a linear head."""

    def __init__(self, backbones: dict[str, nn.Module], fusion: nn.Module, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.backbones = nn.ModuleDict(backbones)
        self.fusion = fusion
        self.head = nn.Linear(num_features, num_outputs)

    def features(self, batch: Batch) -> torch.Tensor:
        """(B, F): the embedding of each row."""
        return self.fusion(torch.cat([backbone(batch) for backbone in self.backbones.values()], 1))

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.head(self.features(batch))  # (B, num_outputs)


def used_models(config: Config, features: Features) -> tuple[str, ...]:
    """Those of ``model.names`` that have a column to feed them.

    Raises:
        NotSupported: there are columns that none of them reads.
    """
    unread = [f"numbers ({', '.join(features.numeric[:5])})"] if features.numeric else []
    unread += [f"{len(features.cardinalities)} of categories"] if features.cardinalities else []
    unread += [f"{features.num_texts} of text"] if features.num_texts else []
    if unread:
        raise NotSupported(
            f"model.names: no model here reads the columns of {', '.join(unread)}; leave such a column out with column_types={{name: 'null'}}, "
            "or say what it is if the guess is wrong"
        )
    return config.model.names


def build_model(config: Config, features: Features, num_outputs: int, load_weights: bool = True) -> TableModel:
    """The model of a trial, on the CPU.

    Args:
        features: what the table has.
        num_outputs: classes, or 1 for regression.
        load_weights: False where a checkpoint of ours follows; nothing is fetched then.
    """
    [name] = used_models(config, features)
    backbone = MODELS[name](config, load_weights)
    return TableModel({name: backbone}, nn.Identity(), backbone.num_features, num_outputs)


def image_spec(config: Config) -> ImageSpec:
    """Size, interpolation and crop that the config's image model wants; the model is not built."""
    return timm_image.image_spec(config.model.timm_image)


def text_spec(config: Config) -> TextSpec:
    """What the config's text model reads."""
    raise NotSupported("model.names: no model here reads text")


def describe_source(config: Config, features: Features) -> dict[str, Any]:
    """What a saved predictor keeps, so that ``build_model`` works where the model's own folder or hub is out of reach; JSON."""
    return timm_image.describe_source(config.model.timm_image)


def remember_source(config: Config, described: Mapping[str, Any]) -> None:
    """The inverse of ``describe_source``."""
    timm_image.remember_source(config.model.timm_image, described)


def check_model(config: Config, features: Features | None = None) -> None:
    """Refuses, before any process starts, what would fail in every trial: unknown names, sizes the model does not take.

    Args:
        features: what the table has; None before that is known.
    """
    if features is not None:
        used_models(config, features)
    timm_image.check(config.model.timm_image)


def fetch_weights(config: Config, features: Features) -> None:
    """Has the pretrained weights that the config asks for on this machine."""
    timm_image.fetch_weights(config.model.timm_image)
