"""The gradients of a trial's steps. A step's rows go through the device in as many parts as it has memory for.

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
from .compiling import records_graphs
from .device import autocast, is_out_of_memory
from .losses import build_loss, weighted
from .mixing import build_mixing
from .state import TrainState, TrialData
from .transforms import train_view


class Gradients:
    """Those of one trial.

    Args:
        state: whose model they are of; its step says which rows are next.
        num_steps: how many there can be at most.
    """

    def __init__(self, state: TrainState, data: TrialData, config: Config, seed: int, num_steps: int) -> None:
        self._state, self._train, self._config = state, weighted(data.train, config.optim, data.problem), config
        self._seed, self._num_steps = seed, num_steps
        self._device = next(state.model.parameters()).device
        self._batch_size, self._steps_per_epoch = epoch_size(config.env, len(data.train))
        state.micro_batch_size = state.micro_batch_size or micro_batch_size(config.env, len(data.train))
        self._loss = build_loss(config.optim, data.problem)
        self._mixed = build_mixing(config.data.mixup, data.problem)
        self._view_rng = torch.Generator(self._device)  # windows and mirrors
        # dropout draws from the device's default generator, torchvision from the CPU's; torch.manual_seed would seed those of all devices,
        # and take a hundredth of a step for it
        on_gpu = [torch.cuda.default_generators[torch.cuda.current_device()]] if self._device.type == "cuda" else []
        self._rngs = [self._view_rng, torch.default_generator, *on_gpu]
        has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in state.model.modules())
        self._most_parts = max(1, self._batch_size // (2 if has_batch_norm else 1))  # one row alone is none to it
        self._parts = self._parts_from_here()

    def add(self) -> list[torch.Tensor]:
        """Adds up the gradient of the mean loss of a step's rows, times the scale of the state's scaler.

        Returns:
            Each part's mean loss, still on the device.

        Raises:
            RuntimeError: ``torch.OutOfMemoryError``, or what a GPU's libraries say instead; not even one row fits.
        """
        while True:
            randomness = step_seed(self._seed, self._state.step)
            for rng in self._rngs:
                rng.manual_seed(randomness)
            try:
                return self._backward()
            except RuntimeError as error:
                if self._state.micro_batch_size == 1 or not is_out_of_memory(error):
                    raise
            self._state.micro_batch_size = (self._state.micro_batch_size + 1) // 2
            self._state.optimizer.zero_grad()
            self._parts = self._parts_from_here()  # the same rows again: all that is random in a step is a function of its number

    @property
    def _num_parts(self) -> int:
        """Of a step, alike in size, so that batch norm sees about as many rows in each."""
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
        """In memory of their own: a recorded graph's gradients lie in its memory, where the next part's would overwrite them."""
        for weight in self._state.model.parameters():
            if weight.requires_grad and weight.grad is None:
                weight.grad = torch.zeros_like(weight)

    def _parts_from_here(self) -> Iterator[Batch]:
        """Of all steps from the state's on. They hold nothing of ``self``: so whoever drops it ends the thread that decodes them, too."""
        num_parts = self._num_parts
        steps = step_rows(self._seed, len(self._train), self._batch_size, range(self._state.step, self._num_steps), self._device)
        return batches(self._train, (rows for step in steps for rows in step.tensor_split(num_parts)), self._device)


def epoch_size(env: Env, num_rows: int) -> tuple[int, int]:
    """Rows of a step, and steps of an epoch; the rest of an epoch's shuffled rows waits for another epoch."""
    batch_size = min(env.batch_size, num_rows)
    return batch_size, num_rows // batch_size


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
    # numpy's SeedSequence does the same in the time of a small operator: a hundredth of a step
    return int.from_bytes(hashlib.blake2b(struct.pack("<qq", seed, step), digest_size=8).digest()) >> 1
