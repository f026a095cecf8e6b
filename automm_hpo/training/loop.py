"""The training loop. ``train_steps`` yields after every step and every validation; stopping, schedulers, tracking and checkpoints consume it.

All randomness is a function of (seed, step), see ``gradients.py``. A run resumed from a checkpoint therefore takes the same steps as an
uninterrupted one, and no generator's state needs to be stored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import nn

from ..config import Config, Optim
from .compiling import compile_networks, wants_compiling
from .evaluate import predict_logits, validate
from .gradients import Gradients, epoch_size
from .optim import lr_factor
from .pace import Pace
from .result import EpochResult, StopCheck
from .state import TrainState, TrialData

MOST_VALIDATIONS = 500  # per epoch: checkpoints are named by the epoch to three decimals, and need different names
CLIPS: dict[str, Callable[..., object]] = {"norm": nn.utils.clip_grad_norm_, "value": nn.utils.clip_grad_value_}


def train_epochs(state: TrainState, data: TrialData, config: Config, seed: int, should_stop: StopCheck) -> Iterator[EpochResult]:
    """Trains until the trial ends, yielding after every validation. Arguments as in ``train_steps``."""
    return (result for result in train_steps(state, data, config, seed, should_stop) if result is not None)


def train_steps(state: TrainState, data: TrialData, config: Config, seed: int, should_stop: StopCheck) -> Iterator[EpochResult | None]:
    """Trains until the trial ends.

    Args:
        state: changed in place; a restored state continues where it was.
        should_stop: asked after every step and every validation, so a trial always has at least one result.

    Yields:
        None after a step that is followed by another one, so that the caller can do other work in between. After the other steps, the result of
        a validation.
    """
    optim, model, optimizer, scaler = config.optim, state.model, state.optimizer, state.scaler
    parameters = list(model.parameters())  # once, because walking the modules at every step would take longer than the clipping
    device = parameters[0].device
    batch_size, steps_per_epoch = epoch_size(config.env, len(data.train))
    all_steps = most_steps(optim, steps_per_epoch)
    validations = num_validations(optim, steps_per_epoch)
    gradients = Gradients(state, data, config, seed, all_steps)
    known = state.total_steps if state.step < state.total_steps < all_steps else all_steps

    def stops(ahead: float) -> str | None:
        return should_stop(state.step / steps_per_epoch, ahead)

    pace = Pace(all_steps, known, validations / steps_per_epoch, len(data.valid) / batch_size, stops)
    lr, end, is_compiled = 0.0, None, False
    while end is None:
        started = time.perf_counter()
        losses: list[torch.Tensor] = []
        compiles = not is_compiled and wants_compiling(config.env, device, pace.seconds_left(state.step))
        if compiles:
            compile_networks(model, config.env)
            is_compiled = True
        model.train()
        pace.start(afresh=compiles)
        while not state.is_unscored:  # weights of a probe or another predictor are validated before the first step
            losses += gradients.add()
            scaler.unscale_(optimizer)
            if optim.gradient_clip_val:
                CLIPS[optim.gradient_clip_algorithm](parameters, optim.gradient_clip_val)
            lr = optim.lr * lr_factor(optim, state.step, pace.total_steps)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            state.step += 1
            if state.average is not None:
                state.average.update(model, state.step)
            pace.step_taken(state.step)
            if state.step >= pace.total_steps or is_validated(state.step, steps_per_epoch, validations):
                break
            if end := pace.stop_reason():
                break
            paused = time.perf_counter()
            yield None
            started += time.perf_counter() - paused
            pace.start()

        train_loss = float(torch.stack(losses).mean()) if losses else math.nan  # one synchronisation for all steps
        if losses:
            pace.steps_done()
        validation_started = time.perf_counter()
        state.valid_logits = predict_logits(state.predictor, data.valid, config.env)
        found = validate(data.metric, data.problem, state.valid_logits, data.valid_target)
        has_diverged = not (found.is_finite and (state.is_unscored or math.isfinite(train_loss)))
        score, metric = (math.nan, math.nan) if has_diverged else (found.score, found.metric)
        state.is_unscored, state.total_steps = False, pace.total_steps
        pace.validated(time.perf_counter() - validation_started)
        state.seconds += time.perf_counter() - started

        improved, is_due = score > state.best_score, end is None
        state.best_score = score if improved else state.best_score
        if improved or is_due:  # a validation that cuts an epoch short does not use up patience, because an uninterrupted training does not have it
            state.validations_since_best = 0 if improved else state.validations_since_best + 1
        if has_diverged:
            end = "diverged"
        elif state.step >= all_steps:
            end = "max_epochs"
        elif state.validations_since_best >= optim.patience:
            end = "patience"
        elif state.step >= pace.total_steps:
            end = pace.shortened
        else:
            end = end or pace.stop_reason()
        epoch = state.step / steps_per_epoch
        result = EpochResult(epoch, state.step, score, metric, train_loss, found.loss, lr, state.seconds, end, state.segment, state.total_steps)
        yield replace(result, refusal=found.refusal, threshold=found.threshold)


def most_steps(optim: Optim, steps_per_epoch: int) -> int:
    """Steps of a trial that nothing ends earlier."""
    steps = optim.max_epochs * steps_per_epoch
    return steps if optim.max_steps < 0 else min(optim.max_steps, steps)


def num_validations(optim: Optim, steps_per_epoch: int) -> int:
    """Number of validations per epoch, evenly spread."""
    interval = optim.val_check_interval
    return min(steps_per_epoch, MOST_VALIDATIONS, round(1 / interval) if interval <= 1 else max(1, round(steps_per_epoch / interval)))


def is_validated(step: int, steps_per_epoch: int, validations: int) -> bool:
    """Whether a validation follows after ``step`` steps, so that an epoch's validations are evenly spread."""
    position = (step - 1) % steps_per_epoch
    return (position + 1) * validations // steps_per_epoch > position * validations // steps_per_epoch
