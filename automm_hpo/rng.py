"""torch's default generators, from which layers and initialisations draw without saying so. A process has one, whatever its number of threads."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from .process import KEEP, ProcessWide

_drawing = threading.RLock()


@contextmanager
def seeded(seed: int, *others: torch.Generator) -> Iterator[None]:
    """Within, the CPU's default generator starts at ``seed``, and no other thread of ours draws from it.

    ``torch.manual_seed`` would seed every GPU, too, which takes a hundredth of a step.

    Args:
        others: generators to start at the same seed.
    """
    with _drawing:
        for generator in (torch.default_generator, *others):
            generator.manual_seed(seed)
        yield


@contextmanager
def forked() -> Iterator[None]:
    """Within, this thread may seed the CPU's default generator and draw from it. Afterwards its state is restored."""
    with _drawing, torch.random.fork_rng(devices=[]):
        yield


def generators_unchanged(device: torch.device) -> AbstractContextManager:
    """Restores the default generators of the CPU and of the device when the last of several threads leaves.

    Other GPUs are left alone, because reading their states would start them.
    """
    return _generators(device).be(KEEP)


@functools.cache
def _generators(device: torch.device) -> ProcessWide:
    is_gpu = device.type == "cuda"

    def read() -> tuple[torch.Tensor, torch.Tensor | None]:
        return torch.get_rng_state(), torch.cuda.get_rng_state(device) if is_gpu else None

    def write(states: tuple[torch.Tensor, torch.Tensor | None]) -> None:
        torch.set_rng_state(states[0])
        if states[1] is not None:
            torch.cuda.set_rng_state(states[1], device)

    return ProcessWide(read, write)
