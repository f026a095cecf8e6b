"""What a search needs of the machines and the disk: trials at a time, their epochs, and room for their checkpoints."""

from __future__ import annotations

from dataclasses import replace

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
from ..training.device import pick_device
from ..training.gradients import epoch_size
from .plan import FitPlan, SearchPlan

MOST_KINDS = 4  # of models that are measured; with more, trials do not share a GPU
MOST_ON_A_GPU = 8  # trials, each a process with Python, torch and a context of its own
PLENTY = 4e9  # free bytes beyond which no model is built to check whether it fits


def num_parallel(search: SearchPlan) -> int:
    """Trials at a time, on the running Ray if there is one, otherwise on this machine."""
    if not search.space:
        return 1
    env = search.config.env
    return search.settings.num_parallel(known_resources(env.num_gpus) or local_resources(), search.num_trials, env.allows_gpu)


def most_parallel(search: SearchPlan) -> int:
    """The most trials at a time, before it is measured how many share a GPU."""
    env = search.config.env
    shares = pick_device(env).type == "cuda" and known_resources(env.num_gpus) is not None and len(largest_configs(search)) <= MOST_KINDS
    return num_parallel(replace(search, settings=search.settings.with_gpu_share(1 / MOST_ON_A_GPU)) if shares else search)


def num_epochs(config: Config, num_rows: int) -> float:
    """The most epochs that a trial can have with ``num_rows`` training rows."""
    limit, (_, steps_per_epoch) = config.optim.max_steps, epoch_size(config.env, num_rows)
    return config.optim.max_epochs if limit < 0 else min(config.optim.max_epochs, limit / steps_per_epoch)


def most_epochs(search: SearchPlan, num_rows: int) -> float:
    """The most epochs that any trial of a search can have. Schedulers plan their rungs with it."""
    values = {key: values_of(key, search.config, search.space) for key in ("optim.max_epochs", "optim.max_steps", "env.batch_size")}
    unlimited = min(values["optim.max_steps"]) < 0  # some trials have no such limit
    most = {key: max(found) for key, found in values.items()} | ({"optim.max_steps": -1} if unlimited else {})
    return num_epochs(search.config.with_overrides(most), num_rows)


def largest_configs(search: SearchPlan) -> list[Config]:
    """Every kind of model that may be tried, at its largest size and batch size; for lists of layer widths, one config per option."""
    searched = {key: values_of(key, search.config, search.space) for key in tuned_keys(search.space) if key in (*SIZE_KEYS, "env.batch_size")}
    found = candidate_configs(search.config, search.space, MODEL_KEYS)
    for key, values in searched.items():
        if key not in MODEL_KEYS:
            options = values if isinstance(values[0], list) else [max(values)]
            found = [config.with_overrides({key: value}) for config in found for value in options]
    return found


def peak_bytes(plan: FitPlan) -> tuple[int, int]:
    """(peak size of all checkpoints of a search, size of the largest set of weights), in bytes."""
    search, settings = plan.search, plan.search.settings
    num_averages = int(any(values_of("optim.ema_decay", search.config, search.space)))
    predictions = len(plan.data.valid.table) * plan.data.problem.num_outputs * 4  # float32
    num_live = most_parallel(search) if settings.scheduler not in WAITING else search.num_trials  # paused trials keep their state too
    num_ended = settings.num_kept(plan.ensemble_size)

    def peak(weights: int, frozen: int) -> int:
        changing = weights - frozen
        state = (2 + num_averages) * changing  # AdamW's two moments; with a running average, also the trained weights
        kept = changing + min(weights, predictions)  # predictions larger than the weights are not stored
        live = num_live * (frozen + (settings.num_to_keep + NUM_STATES) * kept + NUM_STATES * state)
        return live + num_ended * (frozen + kept) + settings.num_to_keep * kept  # the best one keeps several epochs for a soup

    sizes = _weights_bytes(plan)
    return max(peak(*size) for size in sizes), max(weights for weights, _ in sizes)


def _weights_bytes(plan: FitPlan) -> list[tuple[int, int]]:
    """(bytes of all weights, of the frozen ones among them) for each of the ``largest_configs``."""
    models = [plan.models.empty(config) for config in largest_configs(plan.search)]
    return [
        (
            sum(tensor.nbytes for tensor in model.state_dict().values()),
            sum(weight.nbytes for weight in model.parameters() if not weight.requires_grad),
        )
        for model in models
    ]


def _check_room(plan: FitPlan) -> None:
    """Raises DiskFull if the disk of ``save_path`` cannot hold the weights of any model. If sizes are searched, small models may fit: no check."""
    free = free_bytes(plan.path)
    if free is None or free > PLENTY or any(key in SIZE_KEYS for key in tuned_keys(plan.search.space)):
        return
    if (least := min(weights for weights, _ in _weights_bytes(plan))) > free:
        raise DiskFull(f"save_path: no room in {plan.path}: {least / 1e6:.3g} MB needed for one set of weights, {free / 1e6:.3g} MB free")


def check_quota(plan: FitPlan) -> None:
    """Refuses a search whose checkpoints could exceed the quota, and a fit without room for a single set of weights.

    Raises:
        InvalidTuneSettings: the checkpoints could take more than ``disk_quota_mb``.
        DiskFull: no model's weights fit on the disk.
    """
    if not plan.resuming:  # a finished search needs no more room
        _check_room(plan)
    search, quota = plan.search, plan.search.settings.disk_quota_mb
    if quota is None:
        return
    peak, weights = peak_bytes(plan)
    if peak > quota * 1e6:
        raise InvalidTuneSettings(
            f"disk_quota_mb: {quota:g} MB are allowed, and the checkpoints can come to {peak / 1e6:.0f} MB ({most_parallel(search)} trials at a time, "
            f"{weights / 1e6:.1f} MB a set of weights); lower max_concurrent_trials, num_to_keep or keep_trials"
        )
