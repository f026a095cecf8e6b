"""What a search takes of the machines and of the disk: trials at a time, their epochs, and room for their checkpoints."""

from __future__ import annotations

from ..config import Config
from ..errors import DiskFull, InvalidTuneSettings
from ..files import free_bytes
from ..hpo.cluster import known_resources
from ..hpo.hyperparameter_space import candidate_configs, values_of
from ..hpo.scheduler_args import WAITING
from ..hpo.settings import local_resources
from ..hpo.trial import NUM_STATES
from ..models import MODEL_KEYS, SIZE_KEYS
from ..space import tuned_keys
from ..training.gradients import epoch_size
from .plan import FitPlan, SearchPlan

PLENTY = 4e9  # bytes that are free: no model is built to find out that it fits


def num_parallel(search: SearchPlan) -> int:
    """Trials at a time: on the Ray that runs, else on this machine."""
    if not search.space:
        return 1
    env = search.config.env
    return search.settings.num_parallel(known_resources(env.num_gpus) or local_resources(), search.num_trials, env.allows_gpu)


def num_epochs(config: Config, num_rows: int) -> float:
    """The most epochs that a trial can have, of so many rows."""
    limit, (_, steps_per_epoch) = config.optim.max_steps, epoch_size(config.env, num_rows)
    return config.optim.max_epochs if limit < 0 else min(config.optim.max_epochs, limit / steps_per_epoch)


def largest_configs(search: SearchPlan) -> list[Config]:
    """One of each kind of model that may be tried, with as many rows at once, and as large as it may be; of widths of layers all that are searched."""
    searched = {key: values_of(key, search.config, search.space) for key in tuned_keys(search.space) if key in (*SIZE_KEYS, "env.batch_size")}
    found = candidate_configs(search.config, search.space, MODEL_KEYS)
    for key, values in searched.items():
        if key not in MODEL_KEYS:
            options = values if isinstance(values[0], list) else [max(values)]
            found = [config.with_overrides({key: value}) for config in found for value in options]
    return found


def peak_bytes(plan: FitPlan) -> tuple[int, int]:
    """(the most that a search's checkpoints can take at a time, the largest set of weights), in bytes."""
    search, settings = plan.search, plan.search.settings
    weights = max(_weights_bytes(plan))
    is_averaged = any(values_of("optim.ema_decay", search.config, search.space))
    state = (3 if is_averaged else 2) * weights  # an optimizer's (AdamW has two moments), and beside a running average the weights that learn
    predictions = len(plan.data.valid.table) * plan.data.problem.num_outputs * 4  # float32
    kept = weights + min(weights, predictions)  # which are left out where they would take more than the weights
    num_live = num_parallel(search) if settings.scheduler not in WAITING else search.num_trials  # paused trials keep their state too
    live = num_live * ((settings.num_to_keep + NUM_STATES) * kept + NUM_STATES * state)
    ended = settings.num_kept(plan.ensemble_size) + settings.num_to_keep  # the best one keeps several epochs, for their average
    return live + ended * kept, weights


def _weights_bytes(plan: FitPlan) -> list[int]:
    """Of each kind of model that may be tried, as large as it may be."""
    return [sum(tensor.nbytes for tensor in plan.models.empty(config).state_dict().values()) for config in largest_configs(plan.search)]


def _check_room(plan: FitPlan) -> None:
    """Where the file system of ``save_path`` cannot hold the weights of any of the models; what a size is searched of may be as small as it likes."""
    free = free_bytes(plan.path)
    if free is None or free > PLENTY or any(key in SIZE_KEYS for key in tuned_keys(plan.search.space)):
        return
    if (least := min(_weights_bytes(plan))) > free:
        raise DiskFull(f"save_path: no room in {plan.path}: {least / 1e6:.3g} MB needed for one set of weights, {free / 1e6:.3g} MB free")


def check_quota(plan: FitPlan) -> None:
    """Refuses a search that could need more room for checkpoints than it is allowed, and a fit that has no room for a single one.

    Raises:
        InvalidTuneSettings: the checkpoints could come to more than ``disk_quota_mb``.
        DiskFull
    """
    if not plan.resuming:  # what is finished needs no more
        _check_room(plan)
    search, quota = plan.search, plan.search.settings.disk_quota_mb
    if quota is None:
        return
    peak, weights = peak_bytes(plan)
    if peak > quota * 1e6:
        raise InvalidTuneSettings(
            f"disk_quota_mb: {quota:g} MB are allowed, and the checkpoints can come to {peak / 1e6:.0f} MB ({num_parallel(search)} trials at a time, "
            f"{weights / 1e6:.1f} MB a set of weights); lower max_concurrent_trials, num_to_keep or keep_trials"
        )
