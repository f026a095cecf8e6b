"""Decides how many trials share a GPU, unless the user has said so, by measuring the memory and time that a trial takes on it.

Processes take turns on a GPU. A small model keeps it busy only a fraction of the time, because it waits for its own Python code; many trials at a time
then slow each other down little. With NVIDIA's MPS (``nvidia-cuda-mps-control -d``), their kernels also run side by side.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch.profiler import ProfilerActivity, profile

from ..config import Config
from ..errors import first_line
from ..training.device import find_device, free_unused
from ..training.loop import train_epochs
from .capacity import MOST_KINDS, MOST_ON_A_GPU, largest_configs
from .plan import FitPlan
from .timing import miniature

MEMORY_SHARE = 0.85  # share of a GPU's free memory planned for trials; the rest is for what is not measured, such as larger validation batches
STEPS = 8
CONTEXT_BYTES = 500_000_000  # a CUDA context, one per process; this process has its own before anything is measured, so it must be added


@dataclass(frozen=True)
class Occupancy:
    """What a trial needs of a GPU.

    Attributes:
        memory_bytes: peak memory, including the CUDA context and libraries.
        busy: share of the time in which the GPU computes, in [0, 1].
    """

    memory_bytes: int
    busy: float


def trials_per_gpu(occupancy: Occupancy, free_bytes: int, cpus_per_gpu: float) -> int:
    """Trials at a time on one GPU that hardly wait for each other: bounded by memory, GPU time, the CPU cores that feed it, and ``MOST_ON_A_GPU``."""
    by_memory = math.floor(MEMORY_SHARE * free_bytes / max(1, occupancy.memory_bytes))
    by_time = round(1 / max(occupancy.busy, 1 / MOST_ON_A_GPU))
    return max(1, min(by_memory, by_time, math.floor(cpus_per_gpu), MOST_ON_A_GPU))


def plan_gpu_share(plan: FitPlan, there: Mapping[str, float] | None) -> tuple[float, str]:
    """(share of one of this machine's GPUs that each trial gets, explanation).

    1 if the user gave it, if sharing gains nothing, or if it cannot be measured here; 0 if the user keeps trials off the GPU.

    Args:
        there: ``cpu`` and ``gpu`` that the search will have; None: those of a cluster that is not connected yet.
    """
    search = plan.search
    device = find_device(search.config.env)
    free_unused(device)  # of earlier timing
    if not search.config.env.allows_gpu:
        return 0.0, ""
    if there is None or not there["gpu"]:
        return 1.0, ""
    num_cpus, num_gpus = there["cpu"], there["gpu"]
    kinds = largest_configs(search)
    settled = "gpu" in search.settings.resources or search.settings.concurrency == 1 or search.num_trials <= num_gpus
    if device.type != "cuda" or settled or len(kinds) > MOST_KINDS:
        return 1.0, ""
    why = ""
    try:
        measured = [_measure(plan, config, device) for config in kinds]
    except RuntimeError as error:  # e.g. of one kind of model only, whose trials will fail and say why
        why = f"trials do not share a GPU: measuring one failed with {type(error).__name__}: {first_line(error)}"
    free_unused(device)  # for the trials
    if why:
        return 1.0, why
    worst = Occupancy(max(each.memory_bytes for each in measured), max(each.busy for each in measured))
    free, _ = torch.cuda.mem_get_info(device)  # other programs may use this GPU too
    cpus = search.settings.resources.get("cpu", 1.0)
    count = min(trials_per_gpu(worst, free, num_cpus / num_gpus / cpus), math.ceil(search.num_trials / num_gpus))
    used = f"one takes {worst.memory_bytes / 1e9:.1f} of {free / 1e9:.0f} GB and {worst.busy:.0%} of its time"
    return 1 / count, f"{count} trials share a GPU: {used}" if count > 1 else ""


def _measure(plan: FitPlan, config: Config, device: torch.device) -> Occupancy:
    """Measures a few steps in this process."""
    free_unused(device)
    torch.cuda.reset_peak_memory_stats(device)  # forget what this process did before
    free, _ = torch.cuda.mem_get_info(device)
    with miniature(plan, config, STEPS) as (short, state, data):
        # an epoch is one step here, so validating whole batches would take up much of the time
        data = replace(data, valid=data.valid.head(1), valid_target=data.valid_target[:1])
        steps = train_epochs(state, data, short, plan.seed, lambda epoch, ahead: None)
        for _ in range(STEPS // 2):  # warm-up: kernels are chosen, the allocator grows
            next(steps, None)  # None: training diverged
        torch.cuda.synchronize(device)
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # keeps the profiler from printing to the console; it reads this at its first use
        with profile(activities=[ProfilerActivity.CUDA]) as traced:
            started = time.perf_counter()
            for _ in steps:
                pass
            torch.cuda.synchronize(device)
            seconds = time.perf_counter() - started
        busy = sum(event.self_device_time_total for event in traced.key_averages()) / 1e6 / seconds
        busy = min(1.0, busy) or 1.0  # 0: the profiler saw nothing, e.g. for lack of permission
        taken = max(free - torch.cuda.mem_get_info(device)[0], torch.cuda.max_memory_reserved(device))
        rows = data.train.nbytes / len(data.train) * (len(plan.data.train.table) + len(plan.data.valid.table))  # each trial has its own copy on the GPU
    return Occupancy(int(CONTEXT_BYTES + taken + (rows if 2 * rows <= free else 0)), busy)
