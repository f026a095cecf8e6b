"""Kernels: which may be used, and when a model is compiled.

``torch.compile`` keeps what it makes in a folder of the machine, where other trials of the architecture find it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..config import Env
from ..models import TableModel

SECONDS = 60.0  # that compiling may take
SHARE = 0.2  # of a step's time that it saves on a GPU, with mixed precision and little else to gain


def wants_compiling(env: Env, device: torch.device, seconds_left: float) -> bool:
    """Whether to compile now.

    Args:
        seconds_left: of training without it, as far as the pace is known; 0 before the first step.
    """
    if env.compile.turn_on == "auto":
        return device.type == "cuda" and SHARE * seconds_left > SECONDS
    return env.compile.turn_on


def compile_networks(model: TableModel, env: Env) -> None:
    """In place; names of weights stay as they are, and a copy of the model is not compiled."""
    for network in model.networks():
        network.compile(mode=None if env.compile.mode == "default" else env.compile.mode, backend=env.compile.backend)


@contextmanager
def gpu_kernels(env: Env, device: torch.device) -> Iterator[None]:
    """Within, a GPU's libraries choose the fastest kernels for the sizes they meet, or repeatable ones; torch's settings are put back."""
    if device.type != "cuda":
        yield
        return
    precision, repeatable = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    may_round = env.precision != "32"
    with torch.backends.cudnn.flags(enabled=True, benchmark=not env.deterministic, deterministic=env.deterministic, allow_tf32=may_round):
        torch.set_float32_matmul_precision("high" if may_round else "highest")
        torch.use_deterministic_algorithms(env.deterministic or repeatable, warn_only=True)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            torch.use_deterministic_algorithms(repeatable)
