"""The state of a training, and the data that it learns from."""

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
        scaler: scales the loss so that its gradient fits into float16; off in any other precision.
        average: running average of the weights; None: there is none.
        is_unscored: the weights are those of a linear probe or another predictor, to be validated before the next step.
        micro_batch_size: rows that go through the device at once; 0: not known yet. Halved if they do not fit.
        total_steps: steps of the schedule, by the current estimate; 0: not known yet.
        valid_logits: (N, num_outputs) of the last validation. Saved in checkpoints, but not restored from them.
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
        """The model that is validated, saved and used to predict."""
        return self.model if self.average is None else self.average.module


@dataclass(frozen=True)
class TrialData:
    """The data that a trial learns from, on its device if they fit."""

    train: TensorCache
    valid: TensorCache
    problem: Problem
    metric: Metric
    valid_target: np.ndarray = field(repr=False)  # (N,) on the CPU, as ``Problem.encode`` gives it, for the metric

    @classmethod
    def of(cls, train: TensorCache, valid: TensorCache, problem: Problem, metric: Metric) -> Self:
        """The data of splits whose targets come from ``Problem.encode``."""
        target = valid.target.cpu().numpy()
        return cls(_standardised(train, problem), _standardised(valid, problem), problem, metric, target)


def _standardised(split: TensorCache, problem: Problem) -> TensorCache:
    if problem.is_classification:
        return split
    target = torch.from_numpy(problem.standardise(split.target.cpu().numpy()))
    return replace(split, target=target.to(split.target.device))
