"""What a training has and what it learns from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from timm.utils import ModelEmaV3

from ..data.batch import TensorCache
from ..metrics import Metric
from ..models import TableModel
from ..problem import Problem


@dataclass
class TrainState:
    """Everything a resumed run needs; ``checkpoint.py`` stores it.

    Attributes:
        scaler: of the loss, so that its gradient can be held in float16; off in any other precision.
        average: of the weights over the steps; None: there is none.
        is_unscored: what a linear probe or another predictor made of the weights is to be validated before the next step.
        micro_batch_size: rows that go through the device at once; 0: not known yet. It is halved where they do not fit.
        total_steps: of the schedule, as far as is known; 0: not yet.
        valid_logits: (N, num_outputs) of the last validation; a checkpoint keeps them, a resumed run makes its own.
    """

    model: TableModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    average: ModelEmaV3 | None = None
    is_unscored: bool = False
    micro_batch_size: int = 0
    step: int = 0
    best_score: float = -math.inf
    validations_since_best: int = 0
    seconds: float = 0.0
    segment: int = 0
    total_steps: int = 0
    valid_logits: torch.Tensor | None = None

    @property
    def predictor(self) -> TableModel:
        """What is validated, kept and used."""
        return self.model if self.average is None else self.average.module


@dataclass(frozen=True)
class TrialData:
    """What a trial learns from, on its device."""

    train: TensorCache
    valid: TensorCache
    problem: Problem
    metric: Metric
    valid_target: np.ndarray = field(repr=False)  # (N,) on the CPU, as ``Problem.encode`` gives it, for the metric

    @classmethod
    def of(cls, train: TensorCache, valid: TensorCache, problem: Problem, metric: Metric) -> Self:
        """Of splits whose targets are as ``Problem.encode`` gives them."""
        target = valid.target.cpu().numpy()
        return cls(_standardised(train, problem), _standardised(valid, problem), problem, metric, target)


def _standardised(split: TensorCache, problem: Problem) -> TensorCache:
    if problem.is_classification:
        return split
    target = torch.from_numpy(problem.standardise(split.target.cpu().numpy()))
    return replace(split, target=target.to(split.target.device))
