"""Chooses the image size that a time limit leaves time for, from a measured training step.

Time is proportional to the number of pixels. If there is no time for two epochs at the size that a model's weights were published for, two epochs of smaller
images teach more than part of an epoch of large ones, and more than many epochs of still smaller ones (``benchmarks/short_of_time.py``). An ``image_size``
that the user gave is never changed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ..config import Env
from ..data.batch import Batch
from ..data.columns import IMAGE_TYPES
from ..data.features import Features
from ..errors import InvalidHyperparameter
from ..hpo.hyperparameter_space import candidate_configs
from ..models import GEOMETRY_KEYS, TableModel, build_model, check_model, image_spec, is_pretrained, used_models
from ..presets import may_be_probed
from ..session import trials_deadline
from ..training.device import autocast, free_unused, is_out_of_memory
from ..training.gradients import epoch_size
from ..training.loop import num_validations
from .capacity import num_parallel
from .plan import DataPlan, SearchPlan
from .timing import as_in_a_trial
from .venue import choose_venue

KEY = "model.timm_image.image_size"
START_SECONDS = 8.0  # from the start of a search on Ray to the first step of its first trial
# pretrained or not -> (epochs that a trial should have time for, smallest fraction of the published size)
NEEDS = {True: (2, 0.4), False: (8, 0.25)}
FORWARD = 1 / 3  # cost of a row without its gradient, relative to a trained row
STEP = 32  # pixels; sizes are multiples of it, because most models halve them five times
TIMED_ROWS = 8


def fit_resolution(search: SearchPlan, data: DataPlan, deadline: float | None, stored: Mapping[str, Any] | None) -> SearchPlan:
    """The search with the largest ``image_size`` that there is time for.

    It is unchanged if there is time for the model's own size, if the size is given or searched, or if time is unlimited.

    Args:
        deadline: time.time() at which ``fit`` must return; None: no limit.
        stored: the choice of the search that is being resumed, which is kept without measuring; None: a new search.
    """
    pictures = data.num_pictures(search.config)
    features = Features(num_images=sum(pictures.get(column, 1) for column in data.columns.of_type(*IMAGE_TYPES)))
    configs = candidate_configs(search.config, search.space, GEOMETRY_KEYS)
    if KEY in search.given or len(configs) > 1 or not features.num_images or "timm_image" not in used_models(search.config, features):
        return search
    if stored is not None:
        return _with_size(search, stored[KEY]) if KEY in stored else search
    if deadline is None:
        return search
    pretrained = is_pretrained(search.config, features)
    published, (epochs, least) = image_spec(search.config).size, NEEDS[pretrained]
    sizes = [size for size in range(2 * STEP, published, STEP) if size >= least * published]
    if not sizes:
        return search
    rows = row_cost(search, data, epochs, pretrained and may_be_probed(search.config.optim.linear_probe, len(data.train.table)))
    seconds = rows * _row_seconds(search, features)
    with_ray = choose_venue(search, data, deadline).may_use_ray
    there_is = (trials_deadline(deadline, with_ray) or 0.0) - time.time() - (START_SECONDS if with_ray else 0.0)
    share = there_is * (num_parallel(search) if with_ray else 1) / search.num_trials
    if seconds <= share:
        return search
    in_time = [size for size in sizes if seconds * (size / published) ** 2 <= share]
    for size in sorted(in_time or sizes[:1], reverse=True):
        try:
            check_model(_with_size(search, size).config)
        except InvalidHyperparameter:  # a few models accept only certain sizes
            continue
        return _with_size(search, size)
    return search


def chosen_resolution(search: SearchPlan) -> dict[str, Any]:
    """The choice made by ``fit_resolution``, to be passed as ``stored`` when the search is resumed."""
    return {KEY: search.given[KEY]} if KEY in search.added else {}


def row_cost(search: SearchPlan, data: DataPlan, epochs: int, probed: bool) -> float:
    """The cost of a trial of up to ``epochs`` epochs, in trained rows. Rows that are only predicted count as a ``FORWARD`` share each."""
    optim, num_train, num_valid = search.config.optim, len(data.train.table), len(data.valid.table)
    _, steps_per_epoch = epoch_size(search.config.env, num_train)
    epoch = num_train + FORWARD * num_validations(optim, steps_per_epoch) * num_valid
    return min(epochs, optim.max_epochs) * epoch + (FORWARD * (num_train + num_valid) if probed else 0)


def _with_size(search: SearchPlan, size: int) -> SearchPlan:
    chosen = {KEY: size}
    return replace(search, config=search.config.with_overrides(chosen), given={**search.given, **chosen}, added=(*search.added, KEY))


def _row_seconds(search: SearchPlan, features: Features) -> float:
    """Seconds of the forward and backward pass of one row through the image model at its published size, with as many threads as a trial has."""
    config = search.config.with_overrides({"model.names": ["timm_image"]})
    with as_in_a_trial(search) as device:
        model = build_model(config, features, 1, load_weights=False).to(device).to(memory_format=torch.channels_last).train()
        num_rows = TIMED_ROWS if device.type == "cpu" else config.env.batch_size
        while True:
            try:
                return _step_seconds(model, num_rows, features.num_images, config.env, device) / num_rows
            except RuntimeError as error:
                if num_rows == 1 or not is_out_of_memory(error):
                    raise
            num_rows = (num_rows + 1) // 2
            free_unused(device)


def _step_seconds(model: TableModel, num_rows: int, num_images: int, env: Env, device: torch.device) -> float:
    """Seconds of the second of two steps; the first one is a warm-up."""
    side = model.image_spec.size
    pixels = torch.zeros(num_rows, num_images, side, side, 3, dtype=torch.uint8, device=device).permute(0, 1, 4, 2, 3)
    mask = torch.ones(num_rows, num_images, dtype=torch.bool, device=device)
    batch, seconds = Batch(pixels, mask, torch.zeros(num_rows, device=device)), 0.0
    for _ in range(2):
        started = time.perf_counter()
        with autocast(env, device):
            loss = model(batch).float().square().mean()
        loss.backward()
        loss.item()  # waits for the device
        seconds = time.perf_counter() - started
    return seconds
