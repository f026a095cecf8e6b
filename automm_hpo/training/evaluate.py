"""Logits -> predictions -> metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..config import Env
from ..data.batch import Batch, TensorCache, batches
from ..errors import InvalidArgument
from ..metrics import Metric, compute_scorer
from ..models import TableModel
from ..problem import Problem
from .device import autocast, free_unused, is_out_of_memory, rounding
from .result import rank
from .threshold import DECIDED, HALF, best_threshold
from .transforms import eval_view

ROUNDING = 1e-6  # relative; losses are float32


@dataclass(frozen=True)
class Validation:
    """How good predictions of the validation rows are.

    Attributes:
        logits: (N, num_outputs).
        metric, score: the raw metric, and the metric turned so that higher is better.
        refusal: why the metric has no value, if it raised an error.
        threshold: above which probability of the positive class the metric takes a row for positive.
    """

    logits: torch.Tensor
    metric: float
    score: float
    loss: float
    refusal: str = ""
    threshold: float = HALF

    @property
    def is_finite(self) -> bool:
        """Whether the predictions are finite. The metric may still be undefined."""
        return bool(self.logits.isfinite().all())

    @property
    def rank(self) -> tuple[float, float]:
        return rank(self.score, self.loss)

    def beats(self, other: Validation) -> bool:
        """Whether it ranks higher by more than rounding, so that the mean of a model with itself does not beat it."""
        own, others = next((pair for pair in zip(self.rank, other.rank, strict=True) if not math.isclose(*pair, rel_tol=ROUNDING)), (0.0, 0.0))
        return own > others


def loss_function(problem: Problem, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The loss that validation reports, whatever training minimises: cross entropy for classes, mean squared error on standardised values."""
    return F.cross_entropy(logits.float(), target) if problem.is_classification else F.mse_loss(logits.float().squeeze(1), target)


@torch.inference_mode()
def predict_logits(model: TableModel, data: TensorCache, env: Env, function: Callable[[Batch], torch.Tensor] | None = None) -> torch.Tensor:
    """(N, num_outputs) float32 on the CPU. Leaves the model in eval mode. If a batch does not fit the device, it continues with smaller ones.

    Args:
        function: computes the output in place of the model itself, such as ``model.features``.
    """
    if model.training:  # walking all modules takes longer than a small model's prediction for a row
        model.eval()
    function = function or model
    device = next(model.parameters()).device
    batch_size = (env.per_gpu_batch_size or env.batch_size) * env.inference_batch_size_ratio
    batch_size = min(batch_size, model.most_rows or batch_size)

    def parts(start: int) -> Iterator[torch.Tensor]:
        for batch in batches(data, [slice(place, place + batch_size) for place in range(start, len(data), batch_size)], device):
            with autocast(env, device), rounding(env, device):
                part = function(batch.with_images(eval_view(batch.images, model.image_spec))).float()
            yield part

    logits: list[torch.Tensor] = []
    start = 0
    while start < len(data):
        try:
            for part in parts(start):
                logits.append(part)
                start += len(part)
        except RuntimeError as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
        if start < len(data):
            model.most_rows = batch_size = (min(batch_size, len(data) - start) + 1) // 2
            free_unused(device)
    return torch.cat(logits).cpu()


def probabilities(logits: torch.Tensor) -> np.ndarray:
    """(N, K) float64, rows sum to 1."""
    return logits.double().softmax(1).numpy()


def values(problem: Problem, logits: torch.Tensor) -> np.ndarray:
    """(N,) float64 in the label's own unit."""
    return logits.double().squeeze(1).numpy() * problem.sd + problem.mean


def predicted(problem: Problem, logits: torch.Tensor, threshold: float = HALF) -> np.ndarray:
    """(N,) int64 class indices, or (N,) float64 values in the label's own unit.

    Args:
        threshold: of the positive class, in a binary problem; otherwise, the likeliest class is predicted.
    """
    if not problem.is_classification:
        return values(problem, logits)
    if problem.problem_type == "binary" and threshold != HALF:
        return (probabilities(logits)[:, 1] > threshold).astype(np.int64)
    return logits.argmax(1).numpy()


def compute_metric(metric: Metric, problem: Problem, logits: torch.Tensor, target: np.ndarray, threshold: float = HALF) -> float:
    """The raw metric; for regression, of values in the label's own unit.

    Args:
        logits: (N, num_outputs).
        target: (N,) as ``Problem.encode`` gives it.
        threshold: as for ``predicted``.

    Raises:
        InvalidArgument: the metric is a scorer of scikit-learn, and refuses these predictions.
    """
    found = predicted(problem, logits, threshold)
    if metric.needs == "scorer":
        return compute_scorer(metric, target, found, probabilities(logits) if problem.is_classification else None, problem.class_labels)
    return metric.compute(target, probabilities(logits) if metric.needs == "probabilities" else found)


def needs_threshold(metric: Metric, problem: Problem) -> bool:
    """Whether the metric is computed at a threshold of its own, and not for the likeliest class."""
    return problem.problem_type == "binary" and metric.name in DECIDED


def find_threshold(metric: Metric, problem: Problem, logits: torch.Tensor, target: np.ndarray) -> float:
    """The ``best_threshold`` of the metric for these predictions; a half if it needs none."""
    return best_threshold(metric, (logits[:, 1].double() - logits[:, 0].double()).numpy(), target) if needs_threshold(metric, problem) else HALF


def validate(metric: Metric, problem: Problem, logits: torch.Tensor, target: np.ndarray) -> Validation:
    """Judges predictions of the validation rows. If they are not finite, or the metric refuses them, the score is NaN, which ranks last.

    A metric that a decision threshold is chosen for is computed at that threshold, as the predictor will be.

    Args:
        logits: (N, num_outputs).
        target: (N,) as ``Problem.encode`` gives it.
    """
    value, refusal, threshold = math.nan, "", HALF
    if bool(logits.isfinite().all()):
        threshold = find_threshold(metric, problem, logits, target)
        try:
            value = compute_metric(metric, problem, logits, target, threshold)
        except InvalidArgument as error:  # a logarithm of negative predictions, for example; other errors were found before the start
            refusal = str(error)
    loss = float(loss_function(problem, logits, torch.from_numpy(problem.standardise(target))))
    return Validation(logits, value, metric.score(value), loss, refusal, threshold)


def undefined_on(metric: Metric, problem: Problem, target: np.ndarray) -> str:
    """Why a metric has no value on these rows, whatever is predicted; empty if it has one.

    Args:
        target: (N,) as ``Problem.encode`` gives it.

    Raises:
        InvalidArgument: the metric is a scorer of scikit-learn, and refuses these rows.
    """
    if problem.is_classification:
        found = compute_metric(metric, problem, torch.randn(len(target), problem.num_outputs, generator=torch.Generator().manual_seed(0)), target)
    else:
        found = compute_scorer(metric, target, np.roll(target, 1))  # values that occur, because some metrics accept only positive ones
    if math.isfinite(found):
        return ""
    distinct = np.unique(target)
    return f"all have the same label, {problem.class_labels[distinct[0]]!r}" if problem.is_classification and len(distinct) == 1 else "too few or too alike"
