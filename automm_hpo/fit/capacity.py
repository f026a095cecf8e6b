"""What a search takes of the machines and of the disk: trials at a time, and room for their checkpoints."""

from __future__ import annotations

from ..config import Config
from ..errors import InvalidTuneSettings
from ..hpo.cluster import known_resources
from ..hpo.ray_space import candidate_configs, values_of
from ..hpo.scheduler_args import WAITING
from ..hpo.settings import TuneSettings, local_resources
from ..hpo.trial import NUM_STATES
from ..models import MODEL_KEYS, SIZE_KEYS
from ..space import tuned_keys
from .plan import FitPlan, SearchPlan


def num_parallel(search: SearchPlan) -> int:
    """Trials at a time: on the Ray that runs, else on this machine."""
    if not search.space:
        return 1
    env = search.config.env
    return search.settings.num_parallel(known_resources(env.num_gpus) or local_resources(), search.num_trials, env.allows_gpu)


def largest_configs(search: SearchPlan) -> list[Config]:
    """One of each kind of model that may be tried, as large as it may be."""
    searched = {key: values_of(key, search.config, search.space) for key in tuned_keys(search.space) if key in SIZE_KEYS}
    largest = {key: max(values, key=lambda value: sum(value) if isinstance(value, list) else value) for key, values in searched.items()}
    kinds = candidate_configs(search.config, search.space, MODEL_KEYS)
    return [config.with_overrides({key: value for key, value in largest.items() if key not in MODEL_KEYS}) for config in kinds]


def peak_bytes(settings: TuneSettings, slots: int, weights: int, averaged: bool, ensemble_size: int) -> int:
    """The most that checkpoints can take at a time.

    Args:
        slots: trials at a time.
        weights: bytes of one set of weights; the state of an optimizer (AdamW's two moments) takes twice as many at most.
        averaged: a running average is what is kept, and the weights that learn are part of the state.
    """
    state = (3 if averaged else 2) * weights
    kept_live = slots if settings.scheduler not in WAITING else settings.num_trials or slots  # paused trials keep their state too
    running = kept_live * ((settings.num_to_keep + NUM_STATES) * weights + NUM_STATES * state)
    ended = settings.num_kept(ensemble_size) + settings.num_to_keep  # the best one keeps several epochs, for their average
    return running + ended * weights


def is_averaged(search: SearchPlan) -> bool:
    """Whether a trial may keep a running average of its weights."""
    return any(values_of("optim.ema_decay", search.config, search.space))


def check_quota(plan: FitPlan) -> None:
    """Refuses a search that could need more room for checkpoints than it is allowed.

    Raises:
        InvalidTuneSettings: the checkpoints could come to more than ``disk_quota_mb``.
    """
    search, quota = plan.search, plan.search.settings.disk_quota_mb
    if quota is None:
        return
    models = [plan.models.empty(config) for config in largest_configs(search)]
    weights = max(sum(tensor.nbytes for tensor in model.state_dict().values()) for model in models)
    peak = peak_bytes(search.settings, num_parallel(search), weights, is_averaged(search), plan.ensemble_size) / 1e6
    if peak > quota:
        raise InvalidTuneSettings(
            f"disk_quota_mb: {quota:g} MB are allowed, and the checkpoints can come to {peak:.0f} MB ({num_parallel(search)} trials at a time, "
            f"{weights / 1e6:.1f} MB a set of weights); lower max_concurrent_trials, num_to_keep or keep_trials"
        )
