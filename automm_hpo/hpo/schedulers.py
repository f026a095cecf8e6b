"""Schedulers by name: who ends weak trials early. Times are in epochs.

To add one: a function ``(settings, max_epochs, warmup_epochs) -> TrialScheduler`` and an entry in ``SCHEDULERS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from .searchers import METRIC
from .settings import TuneSettings

TIME_ATTR = "epoch"


def _fifo(settings: TuneSettings, max_epochs: int, warmup_epochs: float) -> TrialScheduler:
    return FIFOScheduler()


def _asha(settings: TuneSettings, max_epochs: int, warmup_epochs: float) -> TrialScheduler:
    given = settings.scheduler_init_args
    max_t = given.get("max_t", max(max_epochs, given.get("grace_period", 1)))
    # early scores mislead: with batch norm the best trials often look the worst for some epochs (benchmarks/RESULTS.md)
    grace_period = min(max_t, math.ceil(max(warmup_epochs, math.sqrt(max_t))))
    arguments: dict[str, Any] = {"max_t": max_t, "grace_period": grace_period, "reduction_factor": 3} | given
    return ASHAScheduler(time_attr=TIME_ATTR, metric=METRIC, mode="max", **arguments)


SCHEDULERS: dict[str, Callable[[TuneSettings, int, float], TrialScheduler]] = {"FIFO": _fifo, "ASHA": _asha}


def build_scheduler(settings, space, max_epochs, warmup_epochs, seed):
    return SCHEDULERS[settings.scheduler](settings, max_epochs, warmup_epochs)
