"""The training loop. ``train_steps`` yields after every step and every validation; stopping, schedulers, tracking and checkpoints consume it.

All randomness is a function of (seed, step): which rows, which windows, which dropout masks. A run resumed from a checkpoint
therefore takes the very steps the uninterrupted one would have taken, and no generator's state needs to be stored.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import nn

from ..config import Config, Env, Optim
from ..data.batch import Batch, TensorCache, batches
from ..data.images import ImageSpec
from ..metrics import Metric
from ..models import TableModel
from ..problem import Problem
from .compiling import compile_networks, wants_compiling
from .evaluate import autocast, compute_metric, loss_function, predict_logits
from .losses import build_loss
from .mixing import build_mixing
from .optim import lr_factor
from .pace import StepClock, steps_in_time
from .result import EpochResult, StopCheck
from .transforms import train_view

MOST_VALIDATIONS = 500  # of an epoch: checkpoints are named by the epoch to three decimals, and no two may have one name


@dataclass
class TrainState:
    """Everything a resumed run needs; ``checkpoint.py`` stores it.

    Attributes:
        average: of the weights over the steps; None: there is none.
        is_probed: the head comes from a linear probe that has not been validated yet.
        micro_batch_size: rows that go through the device at once; 0: not known yet. It is halved where they do not fit.
        valid_logits: (N, num_outputs) of the last validation; a checkpoint keeps them, a resumed run makes its own.
    """

    model: TableModel
    optimizer: torch.optim.Optimizer
    average: ModelEmaV3 | None = None
    is_probed: bool = False
    micro_batch_size: int = 0
    step: int = 0
    best_score: float = -math.inf
    validations_since_best: int = 0
    seconds: float = 0.0
    segment: int = 0
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
    spec: ImageSpec
    valid_target: np.ndarray = field(repr=False)  # (N,) on the CPU, for the metric


def train_epochs(state: TrainState, data: TrialData, config: Config, seed: int, should_stop: StopCheck) -> Iterator[EpochResult]:
    """Trains until an end, yielding after every validation. Arguments as of ``train_steps``."""
    return (result for result in train_steps(state, data, config, seed, should_stop) if result is not None)


def train_steps(state: TrainState, data: TrialData, config: Config, seed: int, should_stop: StopCheck) -> Iterator[EpochResult | None]:
    """Trains until an end.

    Args:
        state: changed in place; a restored one goes on where it was.
        should_stop: asked after every step, so a trial always has at least one step and one result.

    Yields:
        None after a step that another one follows: whoever has something to do beside the training may look after it. What a validation
        found after the others.
    """
    optim, env = config.optim, config.env
    model, optimizer = state.model, state.optimizer
    parameters = list(model.parameters())  # walking the modules at every step would take longer than the clipping
    device = parameters[0].device
    batch_size, steps_per_epoch = epoch_size(env, len(data.train))
    state.micro_batch_size = state.micro_batch_size or micro_batch_size(env, len(data.train))
    all_steps = optim.max_epochs * steps_per_epoch if optim.max_steps < 0 else min(optim.max_steps, optim.max_epochs * steps_per_epoch)
    total_steps = all_steps  # of the schedule; fewer where there is no time for all
    validations = num_validations(optim, steps_per_epoch)
    view_rng = torch.Generator(device)  # windows and mirrors
    # dropout draws from the device's default generator, torchvision from the CPU's; torch.manual_seed would seed those of all devices, and
    # take a hundredth of a step for it
    default_rngs = [torch.default_generator] + ([torch.cuda.default_generators[torch.cuda.current_device()]] if device.type == "cuda" else [])
    compute_loss = build_loss(optim, data.problem, data.train, device)
    mixed = build_mixing(config.data.mixup, data.problem)
    clock, compiled = StepClock(), False
    validation_seconds = ahead = share = lr = 0.0
    out_of_time = end = None

    def num_parts() -> int:
        """Micro-batches of a step, alike in size: one row alone would be none to batch norm, and weigh too much in the mean of their losses."""
        return math.ceil(batch_size / state.micro_batch_size)

    def micro_batches() -> Iterator[Batch]:
        """Of all steps from this one on."""
        steps = step_rows(seed, len(data.train), batch_size, range(state.step, all_steps), device)
        return batches(data.train, (rows for step in steps for rows in step.tensor_split(num_parts())), device)

    def backward(feed: Iterator[Batch], epoch: int) -> list[torch.Tensor]:
        """Adds up the gradient of the mean loss of a step's rows."""
        losses = []
        for batch in itertools.islice(feed, num_parts()):
            batch = batch.with_images(train_view(batch.images, data.spec, config.model.timm_image.train_transforms, view_rng))
            batch = mixed(batch, epoch)
            with autocast(env, device):
                loss = compute_loss(model.training_logits(batch), batch)
            (loss * (len(batch) / batch_size)).backward()
            losses.append(loss.detach())
        return losses

    def too_late(steps: int) -> str | None:
        """Why so many further steps, their validations, and the last one, would end too late."""
        return should_stop(ahead + share * steps)

    feed = micro_batches()
    while end is None:
        started = time.perf_counter()
        losses: list[torch.Tensor] = []
        if not compiled and wants_compiling(env, device, clock.seconds * (total_steps - state.step)):
            compile_networks(model, env)
            compiled = True
        model.train()
        clock.start()
        while not state.is_probed:  # a probe is validated before the first step
            epoch, position = divmod(state.step, steps_per_epoch)
            randomness = step_seed(seed, state.step)
            view_rng.manual_seed(randomness)
            for default_rng in default_rngs:
                default_rng.manual_seed(randomness)
            try:
                losses += backward(feed, epoch)
            except torch.OutOfMemoryError:
                if state.micro_batch_size == 1:
                    raise
                state.micro_batch_size = (state.micro_batch_size + 1) // 2
                optimizer.zero_grad()
                feed = micro_batches()
                continue  # the same step again: all that is random in it is a function of its number
            if optim.gradient_clip_val:
                nn.utils.clip_grad_norm_(parameters, optim.gradient_clip_val)
            lr = optim.lr * lr_factor(optim, state.step, total_steps)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            optimizer.step()
            optimizer.zero_grad()
            state.step += 1
            if state.average is not None:
                state.average.update(model, state.step)
            is_due = clock.tick()
            # a validation not measured yet costs at most what training as many rows would
            ahead = validation_seconds or clock.seconds / batch_size * len(data.valid)
            if is_due:  # where there is no time for all steps the schedule ends earlier, so that no rate is high when it does
                share = clock.seconds + ahead * validations / steps_per_epoch
                out_of_time = too_late(all_steps - state.step)
                total_steps = state.step + steps_in_time(all_steps - state.step, too_late) if out_of_time else all_steps
            if state.step >= total_steps or (position + 1) * validations // steps_per_epoch > position * validations // steps_per_epoch:
                break
            if end := should_stop(ahead):
                break
            yield None

        train_loss = float(torch.stack(losses).mean()) if losses else math.nan  # the one synchronisation of the epoch
        validation_started = time.perf_counter()
        state.valid_logits = logits = predict_logits(state.predictor, data.valid, data.spec, env)
        finite = (state.is_probed or math.isfinite(train_loss)) and bool(logits.isfinite().all())
        state.is_probed = False
        metric = compute_metric(data.metric, data.problem, logits, data.valid_target) if finite else math.nan
        valid_loss = float(loss_function(data.problem, logits, torch.from_numpy(data.valid_target)))
        validation_seconds = time.perf_counter() - validation_started
        state.seconds += time.perf_counter() - started

        score = data.metric.score(metric)
        improved = score > state.best_score
        state.best_score = score if improved else state.best_score
        state.validations_since_best = 0 if improved else state.validations_since_best + 1
        if not finite:
            end = "diverged"
        elif state.step >= all_steps:
            end = "max_epochs"
        elif state.validations_since_best >= optim.patience:
            end = "patience"
        elif state.step >= total_steps:
            end = out_of_time
        else:
            end = end or should_stop(validation_seconds)
        yield EpochResult(state.step / steps_per_epoch, state.step, score, metric, train_loss, valid_loss, lr, state.seconds, end, state.segment)


def epoch_size(env: Env, num_rows: int) -> tuple[int, int]:
    """Rows of a step, and steps of an epoch; the rest of an epoch's shuffled rows waits for another epoch."""
    batch_size = min(env.batch_size, num_rows)
    return batch_size, num_rows // batch_size


def num_validations(optim: Optim, steps_per_epoch: int) -> int:
    """Of an epoch, evenly spread."""
    return min(steps_per_epoch, MOST_VALIDATIONS, round(1 / optim.val_check_interval))


def micro_batch_size(env: Env, num_rows: int) -> int:
    """Rows that are to go through the device at once."""
    return min(env.per_gpu_batch_size or env.batch_size, env.batch_size, num_rows)


def step_rows(seed: int, num_rows: int, batch_size: int, steps: range, device: torch.device) -> Iterator[torch.Tensor]:
    """(batch_size,) int64 on the CPU, a step's rows, for each of the steps."""
    order = None
    for step in steps:
        epoch, position = divmod(step, num_rows // batch_size)
        if position == 0 or order is None:
            order = epoch_order(seed, epoch, num_rows)
            order = order.pin_memory() if device.type == "cuda" else order  # travels without anybody waiting for it
        yield order[position * batch_size : (position + 1) * batch_size]


def epoch_order(seed: int, epoch: int, num_rows: int) -> torch.Tensor:
    """(num_rows,) int64: the rows in this epoch's order."""
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(step_seed(seed, -1 - epoch)))


def step_seed(seed: int, step: int) -> int:
    """A seed of its own for every step (and, below zero, for every epoch); neighbours share no pattern."""
    return int(np.random.SeedSequence([seed, step & 0xFFFFFFFF]).generate_state(1, np.uint64)[0] >> 1)
