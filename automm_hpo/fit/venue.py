"""Where the trials of a search run: in the caller's process as long as that is over before Ray would have started its first trial, else on Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import Config
from ..data.columns import IMAGE_TYPES
from ..errors import AutoMMHPOError
from ..hpo.cluster import least_start_seconds
from ..hpo.hyperparameter_space import values_of
from ..hpo.job import InProcess, ray_pays
from ..hpo.records import RUNNING, SearchRecords
from ..hpo.scheduler_args import WAITING
from ..training.device import pick_device
from .capacity import num_epochs, num_parallel
from .plan import DataPlan, FitPlan, SearchPlan

# lower bounds of the seconds that a row takes in an epoch, on one core, with images and without: any network takes far longer
LEAST_ROW_SECONDS = {True: 4e-4, False: 2e-5}


@dataclass(frozen=True)
class Venue:
    """Where the trials of a search run.

    Attributes:
        in_process: how they begin in the caller's process; None: none of them runs there, unless there is no search.
        may_use_ray: whether they begin on Ray, or may continue there.
    """

    in_process: InProcess | None
    may_use_ray: bool


def choose_venue(search: SearchPlan, data: DataPlan, deadline: float | None, was_killed: bool = False) -> Venue:
    """Begins on Ray if the search is known to be long, or asks for what only Ray has.

    So does a search on a GPU: each trial has a process of its own there, because an error on the GPU can spoil all that the process still has to do on it.

    Args:
        deadline: time.time() at which ``fit`` must return.
        was_killed: the process of an earlier session died, perhaps through one of the trials.
    """
    if not search.space:
        return Venue(None, may_use_ray=False)
    settings, parallel, num_rows = search.settings, num_parallel(search), len(data.train.table)
    is_plain = settings.max_concurrent_trials is None and settings.resources_per_trial is None
    has_simple_scheduler = isinstance(settings.scheduler, str) and settings.scheduler not in WAITING
    can_begin_here = is_plain and has_simple_scheduler and not was_killed and least_start_seconds() and pick_device(search.config.env).type == "cpu"
    there_is = math.inf if deadline is None else deadline - time.time()
    if not can_begin_here or ray_pays(min(_least_seconds(search, data), there_is), parallel):
        return Venue(None, may_use_ray=True)

    def epochs(flat: Mapping[str, Any]) -> float:
        try:
            return num_epochs(Config.from_flat(flat), num_rows)
        except AutoMMHPOError:  # a computed value that is not allowed: the trial will fail with the reason
            return 0.0

    return Venue(InProcess(parallel, epochs), may_use_ray=ray_pays(there_is, parallel))


def venue_of(plan: FitPlan) -> Venue:
    """Where the trials that are left run."""
    records = SearchRecords(plan.path / "search").trials() if plan.resuming else []
    return choose_venue(plan.search, plan.data, plan.deadline, was_killed=any(record.status == RUNNING for record in records))


def _least_seconds(search: SearchPlan, data: DataPlan) -> float:
    """A lower bound of what the trials take, one after another."""
    shortest = min(values_of("optim.max_epochs", search.config, search.space)) if search.config.optim.max_steps < 0 else 0
    return search.num_trials * shortest * len(data.train.table) * LEAST_ROW_SECONDS[bool(data.columns.of_type(*IMAGE_TYPES))]
