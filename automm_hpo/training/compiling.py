"""Chooses a GPU's kernels, and when to compile a model.

``torch.compile`` caches compiled code in a folder of the machine, where other trials of the same architecture find it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..config import Env
from ..models import TableModel
from ..models.folding import float32_may_round
from ..process import ProcessWide

SECONDS = 60.0  # that compiling may take
SHARE = 0.2  # of a step's time that compiling saves on a GPU, with mixed precision and little else to gain


def wants_compiling(env: Env, device: torch.device, seconds_left: float) -> bool:
    """Whether to compile now.

    Args:
        seconds_left: estimated seconds of training left without compiling; 0 before the first step.
    """
    if env.compile.turn_on == "auto":
        return device.type == "cuda" and SHARE * seconds_left > SECONDS and has_compiler()
    return env.compile.turn_on


def has_compiler() -> bool:
    """Whether there is a C compiler. Without one, torch would try in vain to compile every part of a network."""
    return bool(os.environ.get("CC") or any(map(shutil.which, ("gcc", "clang", "cc"))))


def records_graphs(env: Env, device: torch.device) -> bool:
    """Whether compiled code may run as CUDA graphs, whose next run overwrites the memory of their results."""
    return device.type == "cuda" and env.compile.turn_on is not False and env.compile.mode in ("reduce-overhead", "max-autotune")


def compile_networks(model: TableModel, env: Env) -> None:
    """Compiles a model's networks in place. Names of weights do not change, and a copy of the model is not compiled.

    What was compiled before in this process is forgotten. Models of one class share their code, so torch would search through what it compiled for earlier
    models at every call, take sizes that differed between them for variable, and stop compiling after a number of times.
    """
    torch.compiler.reset()
    for network in model.networks():
        network.compile(mode=None if env.compile.mode == "default" else env.compile.mode, backend=env.compile.backend)


@contextmanager
def gpu_kernels(env: Env, device: torch.device) -> Iterator[None]:
    """Inside the block, a GPU's libraries choose the fastest kernels for each size, or deterministic ones. Restores torch's settings.

    With ``compile.turn_on`` at ``auto``, a model that this machine cannot compile runs uncompiled.
    """
    if device.type != "cuda":
        yield
        return
    from torch import _dynamo

    *_, repeatable, warns_only = _read_choice()
    if env.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # otherwise cuBLAS is not deterministic; it reads this at its first use
    if env.deterministic and not repeatable:
        repeatable = warns_only = True
    chosen = _choice.be((not env.deterministic, env.deterministic, repeatable, warns_only))
    with chosen, float32_may_round(env.precision != "32"), _dynamo.config.patch(suppress_errors=env.compile.turn_on == "auto"):
        yield


def _read_choice() -> tuple[bool, bool, bool, bool]:
    cudnn, only_warns = torch.backends.cudnn, torch.is_deterministic_algorithms_warn_only_enabled()
    return cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled(), only_warns


def _write_choice(choice: tuple[bool, bool, bool, bool]) -> None:
    cudnn = torch.backends.cudnn
    cudnn.benchmark, cudnn.deterministic, repeatable, warns_only = choice
    torch.use_deterministic_algorithms(repeatable, warn_only=warns_only)


_choice = ProcessWide(_read_choice, _write_choice)
