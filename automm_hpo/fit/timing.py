"""Miniature trials, to be timed before the search starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..config import Config
from ..data.cache import MEND, build_cache
from ..data.decoding import describe
from ..errors import BadImages
from ..rng import generators_unchanged
from ..training.compiling import gpu_kernels
from ..training.device import find_device
from ..training.state import TrainState, TrialData
from ..training.threads import num_threads
from .plan import FitPlan, SearchPlan, Split


@contextlib.contextmanager
def as_in_a_trial(search: SearchPlan) -> Iterator[torch.device]:
    """Yields the device of a trial, and sets torch's kernels and threads as in a trial. Restores torch and frees the GPU's cached memory afterwards."""
    device = find_device(search.config.env)
    threads = num_threads(search.settings.num_threads) if search.space else contextlib.nullcontext()
    try:
        with threads, generators_unchanged(device), gpu_kernels(search.config.env, device):
            yield device
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


@contextlib.contextmanager
def miniature(plan: FitPlan, config: Config, num_steps: int) -> Iterator[tuple[Config, TrainState, TrialData]]:
    """Yields the config, state and data of a trial whose epochs are one batch each.

    Raises:
        BadImages: images of the batch cannot be read.
    """
    data = plan.data
    table = data.train.table.head(min(config.env.batch_size, len(data.train.table)))
    encoded, strategy = data.encode(Split(table, data.train.folder), plan.encoders), config.data.image.missing_value_strategy
    rows, bad = build_cache(encoded, plan.encoders.geometry, config.env.num_workers, strategy)
    if bad and strategy != "skip":
        raise BadImages(f"train: {describe(bad, list(table.index))} {MEND}")
    with as_in_a_trial(plan.search) as device:
        cache = rows.to(device)
        short = config.with_overrides({"optim.max_epochs": num_steps, "optim.max_steps": -1, "optim.val_check_interval": 1.0, "optim.patience": num_steps})
        state = plan.models.state(short, plan.seed, device)
        yield short, state, TrialData.of(cache, cache, data.problem, data.validation_metric)
