"""What a trial begins with: a model, of published weights or another predictor's, and its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..data.features import Features
from ..models import TableModel, build_model
from .averaging import build_average
from .checkpoint import load_weights
from .optim import build_optimizer
from .state import TrainState


@dataclass(frozen=True)
class ModelBuilder:
    """Builds the models of a search, which differ in their hyperparameters alone; travels to the actors.

    Attributes:
        features: what the table has.
        num_outputs: classes, or 1 for regression.
        start: the file of the weights that every trial begins with, another predictor's; None: as its hyperparameters say.
        sources: what such a predictor's models are built from (``TableModel.sources``); None: as their hyperparameters say.
    """

    features: Features
    num_outputs: int
    start: Path | None = None
    sources: Mapping[str, Mapping[str, Any]] | None = None

    def empty(self, config: Config) -> TableModel:
        """On the CPU, for weights to be loaded into."""
        return build_model(config, self.features, self.num_outputs, load_weights=False, sources=self.sources)

    def loaded(self, config: Config, weights: Path) -> TableModel:
        """On the CPU.

        Raises:
            CorruptFile: the file does not hold this model's weights.
        """
        model = self.empty(config)
        load_weights(model, weights)
        return model

    def state(self, config: Config, seed: int, device: torch.device) -> TrainState:
        """A model and an optimizer as a trial begins with them; the same seed gives the same weights.

        A model that begins with another predictor's weights is validated as it is, before the first step.
        """
        torch.default_generator.manual_seed(seed)  # the processor's, where models are made; torch.manual_seed would seed every GPU
        model = build_model(config, self.features, self.num_outputs) if self.start is None else self.loaded(config, self.start)
        model = model.to(device).to(memory_format=torch.channels_last)  # 1.3 times faster, on CPUs too
        scaler = torch.amp.GradScaler(device.type, enabled=config.env.precision == "16-mixed")
        return TrainState(model, build_optimizer(model, config.optim), scaler, build_average(model, config.optim), is_unscored=self.start is not None)
