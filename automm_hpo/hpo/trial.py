"""One trial: a config becomes data, model and loop; every validation leaves a checkpoint and a line in the log. Needs no Ray."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import Config
from ..data.cache import TensorCache, open_cache
from ..metrics import find_metric
from ..models import build_model, image_spec
from ..problem import Problem
from ..training.checkpoint import prune_checkpoints, save_checkpoint
from ..training.evaluate import find_device
from ..training.loop import EpochResult, TrainState, TrialData, train_epochs
from ..training.optim import build_optimizer
from .monitor import SearchMonitor
from .records import TrialFolder

NUM_STATES = 2  # resumable checkpoints a running trial keeps: the newest, and one before it should that be damaged


@dataclass(frozen=True)
class TrialTask:
    """What all trials of a search share.

    Attributes:
        search_folder: absolute; holds the cache and the trials.
        num_to_keep: best epochs whose weights a running trial keeps.
        deadline: time.time() at which trials end; None: never.
    """

    search_folder: Path
    problem: Problem
    metric: str
    seed: int
    num_to_keep: int
    deadline: float | None = None

    def should_stop(self, ahead: float) -> str | None:
        """Whether ending, which takes ``ahead`` seconds, must begin now."""
        return "time_limit" if self.deadline is not None and time.time() + ahead > self.deadline else None


def run_trial(task: TrialTask, number: int, config: Config) -> Iterator[EpochResult]:
    """Trains a trial; each result is on disk before it is yielded."""
    folder = TrialFolder(task.search_folder, number)
    data = load_trial_data(task, config)
    state = build_state(config, task.problem, task.seed, find_device(config.env))
    for result in train_epochs(state, data, config, task.seed, task.should_stop):
        if result.end != "diverged":  # the last finite checkpoint stays the newest
            prune_checkpoints(folder.checkpoints, task.num_to_keep, NUM_STATES - 1)
            save_checkpoint(folder.checkpoints, state, result)
            prune_checkpoints(folder.checkpoints, task.num_to_keep, NUM_STATES)
        folder.append(result)
        yield result


def run_here(task: TrialTask, config: Config, monitor: SearchMonitor) -> None:
    """A whole search of one trial, in this process, without Ray. What it raises reaches the caller."""
    number = monitor.records.open_trial({}, config).number
    monitor.trial_started(number)
    try:
        for result in run_trial(task, number, config):
            monitor.trial_reported(number, result)
    except Exception:
        monitor.trial_failed(number, traceback.format_exc())
        raise
    finally:
        _open_split.cache_clear()  # this process lives on; another fit may use the same folder's name
    monitor.trial_ended(number)


def build_state(config: Config, problem: Problem, seed: int, device: torch.device) -> TrainState:
    """A fresh model and optimizer; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = build_model(config, problem.num_outputs).to(device).to(memory_format=torch.channels_last)  # 1.3 times faster, on CPUs too
    return TrainState(model, build_optimizer(model, config.optim))


def load_trial_data(task: TrialTask, config: Config) -> TrialData:
    device = find_device(config.env)
    train, valid = _open_split(task.search_folder, "train", device), _open_split(task.search_folder, "valid", device)
    target = valid.target.cpu().numpy()
    return TrialData(train, valid, task.problem, find_metric(task.metric), image_spec(config), target)


@functools.lru_cache(maxsize=2)  # a warm actor's next trial finds its data where the last one left it
def _open_split(search_folder: Path, name: str, device: torch.device) -> TensorCache:
    """On the device where it fits, with as much again left for the model; else mapped, and each batch travels."""
    split = open_cache(search_folder / "cache", name)
    if device.type == "cuda" and 2 * split.images.nbytes > torch.cuda.mem_get_info(device)[0]:
        return split
    return split.to(device)
