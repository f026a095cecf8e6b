"""Decides where the trials of a search run: in the caller's process while that is expected to be short and no slower than Ray, otherwise on Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import Config
from ..data.columns import IMAGE_TYPES
from ..errors import AutoMMHPOError
from ..hpo.cluster import least_start_seconds
from ..hpo.hyperparameter_space import values_of
from ..hpo.job import InProcess, ray_pays
from ..hpo.records import RUNNING, TrialRecord
from ..hpo.scheduler_args import WAITING
from ..hpo.searcher_args import is_sampler
from ..session import trials_deadline
from ..training.device import pick_device
from .capacity import num_epochs, num_parallel
from .plan import DataPlan, FitPlan, SearchPlan

# has images or not -> lower bound of the seconds per row and epoch on one core; any network takes far longer
LEAST_ROW_SECONDS = {True: 4e-4, False: 2e-5}


@dataclass(frozen=True)
class Venue:
    """Where the trials of a search run.

    Attributes:
        in_process: how they begin in the caller's process; None: they begin on Ray, or there is no search.
        may_use_ray: whether they begin on Ray, or may continue there.
    """

    in_process: InProcess | None
    may_use_ray: bool


def choose_venue(search: SearchPlan, data: DataPlan, deadline: float | None, earlier: Sequence[TrialRecord] = ()) -> Venue:
    """Chooses Ray from the start if the search is known to be long, or needs what only Ray provides.

    A search on a GPU also begins on Ray: each trial gets its own process, because after a GPU error a process may not be able to use the GPU again.

    Args:
        deadline: time.time() at which ``fit`` must return; None: no limit.
        earlier: trials that earlier sessions began. One that still counts as running was killed with its process, and may have been the reason.
    """
    if not search.space:
        return Venue(None, may_use_ray=False)
    settings, parallel, num_rows = search.settings, num_parallel(search), len(data.train.table)
    is_plain = settings.max_concurrent_trials is None and settings.resources_per_trial is None
    has_simple_searcher = isinstance(settings.searcher, str) or is_sampler(settings.searcher)  # a Searcher of the user's may want to be asked again later
    has_simple_scheduler = isinstance(settings.scheduler, str) and settings.scheduler not in WAITING
    was_killed, num_left = any(record.status == RUNNING for record in earlier), search.num_trials - sum(record.has_ended for record in earlier)
    needs_no_ray = is_plain and has_simple_searcher and has_simple_scheduler and not was_killed
    can_begin_here = needs_no_ray and least_start_seconds() and pick_device(search.config.env).type == "cpu"
    trials_end = trials_deadline(deadline, with_ray=True)
    time_left = math.inf if trials_end is None else trials_end - time.time()
    if not can_begin_here or ray_pays(_least_seconds(search, data, num_left), parallel, time_left):
        return Venue(None, may_use_ray=True)

    def epochs(flat: Mapping[str, Any]) -> float:
        try:
            return num_epochs(Config.from_flat(flat), num_rows)
        except AutoMMHPOError:  # a computed value is invalid: the trial will fail and say why
            return 0.0

    return Venue(InProcess(parallel, epochs), may_use_ray=ray_pays(math.inf, parallel, time_left))


def venue_of(plan: FitPlan) -> Venue:
    """Where the remaining trials run."""
    return choose_venue(plan.search, plan.data, plan.deadline, plan.earlier)


def _least_seconds(search: SearchPlan, data: DataPlan, num_trials: int) -> float:
    """A lower bound of the seconds that so many trials take one after another, if none is stopped."""
    is_limited = max(values_of("optim.max_steps", search.config, search.space)) >= 0
    shortest = 0 if is_limited else min(values_of("optim.max_epochs", search.config, search.space))
    return num_trials * shortest * len(data.train.table) * LEAST_ROW_SECONDS[bool(data.columns.of_type(*IMAGE_TYPES))]
