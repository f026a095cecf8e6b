"""A linear probe: fits the head to a pretrained backbone's features before anything is fine-tuned.

Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution" (arXiv:2202.10054): first train the head
alone, then all of the model from there. A backbone's features are computed once for a whole search, and the head fitted to them is stored next to
the encoded data, where all trials with this backbone find it. If there are several backbones, the head reads the features of the pretrained ones
and the columns of the table side by side (``models/fusion.py``).
"""

from __future__ import annotations

import fcntl
import os
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..config import Config, Optim
from ..data.linear import cross_entropy, of_classes
from ..files import digest
from ..models import ARCHITECTURE_KEYS, TableModel
from ..presets import may_be_probed
from .evaluate import predict_logits
from .losses import class_weights, weighted
from .result import StopCheck
from .state import TrainState, TrialData

STRENGTHS = (0.003, 0.03, 0.3, 3.0)  # C of scikit-learn's logistic regression, tried from the strongest penalty to the weakest
MOST_ITERATIONS = 200
SCORE_SCALE = 10.0  # n-gram scores were penalised when they were fitted, so here they are enlarged, and thus penalised a hundred times less


def wants_probe(model: TableModel, optim: Optim, num_rows: int) -> bool:
    """Whether a trial starts with a probe, for which at least one backbone must be pretrained."""
    possible = any(backbone.is_pretrained for backbone in model.backbones.values())
    return possible and may_be_probed(optim.linear_probe, num_rows)


def start_from_probe(state: TrainState, data: TrialData, config: Config, folder: Path, should_stop: StopCheck) -> None:
    """Gives the head the probe's weights, which are validated before the first step. If there is no time for a probe, training starts without it.

    Args:
        folder: where the search stores fitted heads.
    """
    head, started = state.model.head, time.perf_counter()
    fitted = _fitted_once(state.model, data, config, folder, should_stop)
    if fitted is None:
        return
    with torch.no_grad():
        head.weight.copy_(fitted["weight"])
        head.bias.copy_(fitted["bias"])
    if state.average is not None:
        state.average.set(state.model)
    state.is_unscored = True
    state.seconds += time.perf_counter() - started


def _fitted_once(model: TableModel, data: TrialData, config: Config, folder: Path, should_stop: StopCheck) -> dict[str, torch.Tensor] | None:
    """The head of this backbone's probe. The first trial that asks fits it, others wait and read it. None: there is no time."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"probe-{digest({key: config.flat()[key] for key in (*ARCHITECTURE_KEYS, 'optim.class_weights')})}.safetensors"
    with open(file.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            quicker = model.folded()  # nothing is trained here
            if should_stop(0.0, _feature_seconds(quicker, data, config)):
                return None
            weight, bias = fit_head(quicker, data, config)
            save_file({"weight": weight, "bias": bias}, file.with_suffix(".tmp"))
            os.replace(file.with_suffix(".tmp"), file)
    return load_file(file)


def _feature_seconds(model: TableModel, data: TrialData, config: Config) -> float:
    """Estimates the seconds that the features of all rows will take, from a few of them."""
    few = data.train.head(config.env.batch_size)
    on_gpu = next(model.parameters()).device.type == "cuda"  # its libraries must start, and find the fastest kernels for this size
    predict_logits(model, few if on_gpu else few.head(1), config.env, model.features)
    started = time.perf_counter()
    predict_logits(model, few, config.env, model.features)
    return (time.perf_counter() - started) / len(few) * (len(data.train) + len(data.valid))


def fit_head(model: TableModel, data: TrialData, config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """(num_outputs, F) weight and (num_outputs,) bias of the regularised linear model with the lowest loss on the validation rows.

    The features of a fusion's perceptron get zero weights, because it has learned nothing yet.
    """
    num_new = model.fusion.num_new
    train, valid = (predict_logits(model, split, config.env, model.features)[:, num_new:].double().numpy() for split in (data.train, data.valid))
    mean, sd = train.mean(0), train.std(0) + 1e-6
    sd[np.array(model.fusion.scores, int) - num_new] /= SCORE_SCALE
    train, valid = (train - mean) / sd, (valid - mean) / sd
    target = data.valid.target.cpu().numpy()  # in the model's unit; ``valid_target`` is in the label's
    of_class, rows = class_weights(config.optim.class_weights, data.problem, data.train), weighted(data.train, config.optim, data.problem)
    judged_by = Rows(valid, target, np.ones(len(target)) if of_class is None else of_class.numpy()[target])
    learned_from = Rows(train, rows.target.cpu().numpy(), rows.weight.cpu().numpy())
    weight, bias = _fit_classes(learned_from, judged_by, data.problem.num_outputs) if data.problem.is_classification else _fit_values(learned_from, judged_by)
    weight = weight / sd  # for features that are not standardised
    bias = bias - weight @ mean
    weight = np.pad(weight, ((0, 0), (num_new, 0)))
    return torch.from_numpy(weight).float().contiguous(), torch.from_numpy(bias).float().contiguous()


class Rows(NamedTuple):
    """(N, F) features, (N,) classes or values, and (N,) weights of rows."""

    features: np.ndarray
    target: np.ndarray
    weight: np.ndarray


def _fit_classes(train: Rows, valid: Rows, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    features, target, weight = (values[train.weight > 0] for values in train)
    regression = LogisticRegression(max_iter=MOST_ITERATIONS, warm_start=True)
    best, found = np.inf, (np.zeros((features.shape[1], num_classes)), np.zeros(num_classes))
    for strength in STRENGTHS if len(np.unique(target)) > 1 else ():  # after rows were dropped for their images, one class may be left
        with warnings.catch_warnings():  # weak penalties need not converge, only the loss on the validation rows counts
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.set_params(C=strength).fit(features, target, sample_weight=weight)
        coefficients, intercepts = of_classes(regression.coef_, regression.intercept_, regression.classes_, num_classes)
        loss = cross_entropy(valid.features @ coefficients + intercepts, valid.target, valid.weight)
        if loss >= best:
            break  # it only gets worse from here
        best, found = loss, (coefficients, intercepts)
    return found[0].T, found[1]


def _fit_values(train: Rows, valid: Rows) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.linear_model import Ridge

    features, target, weight = train
    fitted = [Ridge(alpha=len(features) * strength).fit(features, target, sample_weight=weight) for strength in (10.0, 1.0, 0.1, 0.01, 0.001)]
    best = min(fitted, key=lambda ridge: float(np.mean((ridge.predict(valid.features) - valid.target) ** 2)))
    return np.atleast_2d(best.coef_), np.atleast_1d(best.intercept_)
