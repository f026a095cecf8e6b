"""When a model is compiled. ``torch.compile`` keeps what it makes in a folder of the machine, where other trials of the architecture find it."""

from __future__ import annotations

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
