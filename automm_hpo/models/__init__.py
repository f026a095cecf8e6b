"""Models by name. To add one: a class like ``TimmImage`` and an entry in ``MODELS``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..config import Config
from ..data.images import ImageSpec
from . import timm_image

MODELS = {"timm_image": timm_image.build}


def build_model(config: Config, num_outputs: int, load_weights: bool = True) -> nn.Module:
    """The model of a trial, on the CPU.

    Args:
        num_outputs: classes, or 1 for regression.
        load_weights: False where a checkpoint of ours follows; nothing is fetched then.

    Returns:
        A module ``(images (B, I, 3, H, W) uint8, image_mask (B, I) bool) -> logits (B, num_outputs)``.
    """
    [name] = config.model.names
    return MODELS[name](config, num_outputs, load_weights)


def image_spec(config: Config) -> ImageSpec:
    """Size, interpolation and crop that the config's image model wants; the model is not built."""
    return timm_image.image_spec(config.model.timm_image)


def describe_source(config: Config) -> dict[str, Any]:
    """What a saved predictor keeps, so that ``build_model`` works where the model's own folder or hub is out of reach; JSON."""
    return timm_image.describe_source(config.model.timm_image)


def remember_source(config: Config, described: Mapping[str, Any]) -> None:
    """The inverse of ``describe_source``."""
    timm_image.remember_source(config.model.timm_image, described)


def check_model(config: Config) -> None:
    """Refuses, before any process starts, what would fail in every trial: unknown names, sizes the model does not take."""
    timm_image.check(config.model.timm_image)


def fetch_weights(config: Config) -> None:
    """Has the pretrained weights that the config asks for on this machine."""
    timm_image.fetch_weights(config.model.timm_image)
