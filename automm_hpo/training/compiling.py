"""Chooses a GPU's kernels, and when to compile a model.

``torch.compile`` caches compiled code in a folder of the machine, where other trials of the same architecture find it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

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

    Compiled networks do not outlive the block if they may have recorded graphs, whose memory would never be free again.

    With ``compile.turn_on`` at ``auto``, a model that this machine cannot compile runs uncompiled.
    """
    if device.type != "cuda":
        yield
        return
    from torch import _dynamo

    choice = replace(_read_choice(), benchmark=not env.deterministic, deterministic=env.deterministic)
    if env.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # otherwise cuBLAS is not deterministic; it reads this at its first use
        # where torch only warns, fused attention stays nondeterministic in its gradient, without a warning
        choice = replace(choice, fused_attention=(False, False, False))
        if not choice.repeatable:
            choice = replace(choice, repeatable=True, only_warns=True)
    try:
        with _choice.be(choice), float32_may_round(env.precision != "32"), _dynamo.config.patch(suppress_errors=env.compile.turn_on == "auto"):
            yield
    finally:
        if records_graphs(env, device):
            torch.compiler.reset()


@dataclass(frozen=True)
class _Kernels:
    """Torch's settings of this process that decide which kernels run.

    Attributes:
        benchmark, deterministic: cuDNN's.
        repeatable, only_warns: whether operators must be deterministic, and whether those that cannot be are only warned of.
        fused_attention: whether attention may be computed by FlashAttention, by the memory-efficient kernel, and by cuDNN.
    """

    benchmark: bool
    deterministic: bool
    repeatable: bool
    only_warns: bool
    fused_attention: tuple[bool, bool, bool]


def _read_choice() -> _Kernels:
    cudnn, cuda, only_warns = torch.backends.cudnn, torch.backends.cuda, torch.is_deterministic_algorithms_warn_only_enabled()
    fused = cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()
    return _Kernels(cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled(), only_warns, fused)


def _write_choice(choice: _Kernels) -> None:
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    cudnn.benchmark, cudnn.deterministic = choice.benchmark, choice.deterministic
    torch.use_deterministic_algorithms(choice.repeatable, warn_only=choice.only_warns)
    for enable, is_on in zip((cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_cudnn_sdp), choice.fused_attention, strict=True):
        enable(is_on)


_choice = ProcessWide(_read_choice, _write_choice)
