"""Builds what a trial starts with: a model, possibly with pretrained weights or those of another predictor, and its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..data.features import Features
from ..models import TableModel, build_model
from ..rng import seeded
from .averaging import build_average
from .checkpoint import load_weights
from .optim import build_optimizer
from .state import TrainState


@dataclass(frozen=True)
class ModelBuilder:
    """Builds the models of a search, which differ only in their hyperparameters. Is sent to the actors.

    Attributes:
        features: what the table has.
        num_outputs: number of classes, or 1 for regression.
        start: file of another predictor's weights, from which every trial starts; None: as the hyperparameters say.
        sources: that predictor's ``TableModel.sources``; None: as the hyperparameters say.
    """

    features: Features
    num_outputs: int
    start: Path | None = None
    sources: Mapping[str, Mapping[str, Any]] | None = None

    def empty(self, config: Config) -> TableModel:
        """A model on the CPU, without pretrained weights, for weights to be loaded into."""
        return build_model(config, self.features, self.num_outputs, load_weights=False, sources=self.sources)

    def loaded(self, config: Config, weights: Path) -> TableModel:
        """A model on the CPU, with the weights in a file or in a checkpoint's folder.

        Raises:
            CorruptFile: they are not this model's weights.
        """
        model = self.empty(config)
        load_weights(model, weights)
        return model

    def state(self, config: Config, seed: int, device: torch.device) -> TrainState:
        """The state that a trial starts with. The same seed gives the same weights.

        A model that starts from another predictor's weights is validated before the first step.
        """
        with seeded(seed):  # models are built on the CPU
            model = build_model(config, self.features, self.num_outputs) if self.start is None else self.loaded(config, self.start)
        model = model.to(device).to(memory_format=torch.channels_last)  # 1.3 times faster, on CPUs too
        scaler = torch.amp.GradScaler(device.type, enabled=config.env.precision == "16-mixed")
        return TrainState(model, build_optimizer(model, config.optim), scaler, build_average(model, config.optim), is_unscored=self.start is not None)
