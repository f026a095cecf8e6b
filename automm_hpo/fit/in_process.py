"""Whether a search begins in the caller's process: where it may be over before Ray would have started its first trial."""

from __future__ import annotations

import math
import time

from ..config import Config
from ..data.columns import IMAGE_TYPES
from ..hpo.cluster import least_start_seconds
from ..hpo.hyperparameter_space import values_of
from ..hpo.job import InProcess, ray_pays
from ..hpo.scheduler_args import WAITING
from ..training.device import pick_device
from .capacity import num_epochs, num_parallel
from .plan import DataPlan, SearchPlan

# of a row in an epoch, on one core: no network is quicker, by far. Of pictures, and of anything else
LEAST_ROW_SECONDS = {True: 4e-4, False: 2e-5}


def in_process(search: SearchPlan, data: DataPlan, deadline: float | None) -> InProcess | None:
    """How a search begins in this process; None: it begins on Ray, for it is known to be long, or asks for something that only Ray has.

    On a GPU trials have processes of their own: what goes wrong there can spoil all that this one still has to do on it.

    Args:
        deadline: time.time() at which ``fit`` must return.
    """
    settings, parallel = search.settings, num_parallel(search)
    is_plain = settings.max_concurrent_trials is None and settings.resources_per_trial is None
    has_simple_scheduler = isinstance(settings.scheduler, str) and settings.scheduler not in WAITING
    if not (search.space and is_plain and has_simple_scheduler and least_start_seconds() and pick_device(search.config.env).type == "cpu"):
        return None
    seconds = min(_least_seconds(search, data), math.inf if deadline is None else deadline - time.time())
    num_rows = len(data.train.table)
    return None if ray_pays(seconds, parallel) else InProcess(parallel, lambda config: num_epochs(Config.from_flat(config), num_rows))


def needs_ray(search: SearchPlan, data: DataPlan, deadline: float | None) -> bool:
    """Whether trials may come to run on Ray: not where there is no time for it to pay."""
    how = in_process(search, data, deadline)
    return bool(search.space) and (how is None or deadline is None or ray_pays(deadline - time.time(), how.num_parallel))


def _least_seconds(search: SearchPlan, data: DataPlan) -> float:
    """Less than the trials can take, one after the other."""
    shortest = min(values_of("optim.max_epochs", search.config, search.space)) if search.config.optim.max_steps < 0 else 0
    return search.num_trials * shortest * len(data.train.table) * LEAST_ROW_SECONDS[bool(data.columns.of_type(*IMAGE_TYPES))]
