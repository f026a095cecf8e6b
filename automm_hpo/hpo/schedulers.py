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
    # before the warm-up is over, a trial's score says little about it
    grace_period = min(max_t, max(1, math.ceil(warmup_epochs)))
    arguments: dict[str, Any] = {"max_t": max_t, "grace_period": grace_period, "reduction_factor": 3} | given
    return ASHAScheduler(time_attr=TIME_ATTR, metric=METRIC, mode="max", **arguments)


SCHEDULERS: dict[str, Callable[[TuneSettings, int, float], TrialScheduler]] = {"FIFO": _fifo, "ASHA": _asha}
