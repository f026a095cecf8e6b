"""The gradients of a trial's steps. If a step's rows do not fit the device's memory, they go through it in parts.

All randomness is a function of (seed, step): which rows, which windows, which dropout masks.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Iterator

import torch
from torch import nn

from ..config import Config, Env
from ..data.batch import Batch, batches
from ..rng import seeded
from .compiling import records_graphs
from .device import autocast, free_unused, is_out_of_memory
from .losses import build_loss, weighted
from .mixing import build_mixing
from .state import TrainState, TrialData
from .transforms import train_view


class Gradients:
    """Computes the gradients of one trial.

    Args:
        state: has the model; its step determines which rows are next.
        num_steps: maximum number of steps of the trial.
    """

    def __init__(self, state: TrainState, data: TrialData, config: Config, seed: int, num_steps: int) -> None:
        self._state, self._train, self._config = state, weighted(data.train, config.optim, data.problem), config
        self._seed, self._num_steps = seed, num_steps
        self._device = next(state.model.parameters()).device
        self._batch_size, self._steps_per_epoch = epoch_size(config.env, len(data.train))
        state.micro_batch_size = state.micro_batch_size or micro_batch_size(config.env, len(data.train))
        self._loss = build_loss(config.optim, data.problem)
        self._mixed = build_mixing(config.data.mixup, data.problem)
        self._view_rng = torch.Generator(self._device)  # for crop windows and mirroring
        # dropout draws from the device's default generator, torchvision from the CPU's
        on_gpu = [torch.cuda.default_generators[torch.cuda.current_device()]] if self._device.type == "cuda" else []
        self._rngs = [self._view_rng, *on_gpu]
        has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in state.model.modules())
        self._most_parts = max(1, self._batch_size // (2 if has_batch_norm else 1))  # batch norm needs two rows
        self._parts = self._parts_from_here()

    def add(self) -> list[torch.Tensor]:
        """Adds up the gradient of the mean loss of a step's rows, times the scale of the state's scaler.

        Returns:
            Each part's mean loss, still on the device.

        Raises:
            RuntimeError: not even one row fits (``torch.OutOfMemoryError``, or what a GPU's libraries raise instead).
        """
        while True:
            try:
                with seeded(step_seed(self._seed, self._state.step), *self._rngs):
                    return self._backward()
            except RuntimeError as error:
                if self._state.micro_batch_size == 1 or not is_out_of_memory(error):
                    raise
            self._state.micro_batch_size = (self._state.micro_batch_size + 1) // 2
            self._state.optimizer.zero_grad()
            self._parts = self._parts_from_here()  # the same rows again, because a step's randomness depends only on its number
            free_unused(self._device)  # also of batches that were fetched ahead

    @property
    def _num_parts(self) -> int:
        """Number of parts of a step. They have similar sizes, so that batch norm sees about as many rows in each."""
        return min(math.ceil(self._batch_size / self._state.micro_batch_size), self._most_parts)

    def _backward(self) -> list[torch.Tensor]:
        losses, config = [], self._config
        if self._num_parts > 1 and records_graphs(config.env, self._device):
            self._hold_gradients()
        for batch in itertools.islice(self._parts, self._num_parts):
            batch = batch.with_images(train_view(batch.images, self._state.model.image_spec, config.model.timm_image.train_transforms, self._view_rng))
            batch = self._mixed(batch, self._state.step // self._steps_per_epoch)
            with autocast(config.env, self._device):
                loss = self._loss(self._state.model.training_logits(batch), batch)
            share = len(batch) / self._batch_size
            self._state.scaler.scale(loss if share == 1 else loss * share).backward()
            losses.append(loss.detach())
        return losses

    def _hold_gradients(self) -> None:
        """Gives gradients memory of their own. Otherwise they lie in a recorded graph's memory, which the next part overwrites."""
        for weight in self._state.model.parameters():
            if weight.requires_grad and weight.grad is None:
                weight.grad = torch.zeros_like(weight)

    def _parts_from_here(self) -> Iterator[Batch]:
        """The parts of all steps from the current one on. They do not refer to ``self``, so that dropping it also ends the thread that decodes them."""
        num_parts = self._num_parts
        steps = step_rows(self._seed, len(self._train), self._batch_size, range(self._state.step, self._num_steps), self._device)
        return batches(self._train, (rows for step in steps for rows in step.tensor_split(num_parts)), self._device)


def epoch_size(env: Env, num_rows: int) -> tuple[int, int]:
    """Rows per step, and steps per epoch. An epoch's shuffled rows that do not fill a step are left out of it."""
    batch_size = min(env.batch_size, num_rows)
    return batch_size, num_rows // batch_size


def micro_batch_size(env: Env, num_rows: int) -> int:
    """Rows that go through the device at once, if its memory holds them."""
    return min(env.per_gpu_batch_size or env.batch_size, env.batch_size, num_rows)


def step_rows(seed: int, num_rows: int, batch_size: int, steps: range, device: torch.device) -> Iterator[torch.Tensor]:
    """Yields each step's rows, (batch_size,) int64 on the CPU."""
    order = None
    for step in steps:
        epoch, position = divmod(step, num_rows // batch_size)
        if position == 0 or order is None:
            order = epoch_order(seed, epoch, num_rows)
            order = order.pin_memory() if device.type == "cuda" else order  # so that the copy to the device is asynchronous
        yield order[position * batch_size : (position + 1) * batch_size]


def epoch_order(seed: int, epoch: int, num_rows: int) -> torch.Tensor:
    """(num_rows,) int64: the rows in this epoch's order."""
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(step_seed(seed, -1 - epoch)))


def step_seed(seed: int, step: int) -> int:
    """A separate seed for every step and, as negative numbers, for every epoch. The seeds of neighbours are unrelated."""
    # a hash, because numpy's SeedSequence takes as long as a small operator: a hundredth of a step
    return int.from_bytes(hashlib.blake2b(struct.pack("<qq", seed, step), digest_size=8).digest()) >> 1
