"""The trial of ``fit``: trains the model of a config; every validation writes a checkpoint and a line in the log. Does not need Ray."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import Config
from ..data.batch import TensorCache
from ..data.cache import open_cache
from ..metrics import Metric
from ..problem import Problem
from ..training.building import ModelBuilder
from ..training.checkpoint import Snapshot, load_checkpoint, take_snapshot, write_checkpoint
from ..training.checkpoint_folder import inherit_checkpoint, is_inherited, newest_checkpoint, prune_checkpoints
from ..training.compiling import gpu_kernels
from ..training.device import find_device, keep_freed_memory, resident
from ..training.gradients import micro_batch_size
from ..training.loop import train_steps
from ..training.memory import known_micro_batch, note_micro_batch
from ..training.probe import start_from_probe, wants_probe
from ..training.result import EpochResult, StopCheck
from ..training.state import TrainState, TrialData
from .records import Segment, TrialFolder, TrialRecord, ends_for_good
from .trial import NUM_STATES, inherit, recovered


@dataclass(frozen=True)
class Training:
    """A trial of ``fit``: trains a model.

    Attributes:
        num_to_keep: number of best epochs whose weights a running trial keeps.
    """

    problem: Problem
    models: ModelBuilder
    metric: Metric
    seed: int
    num_to_keep: int

    def recover(self, folder: TrialFolder) -> TrialRecord:
        record = folder.read()
        if record.results and record.results[-1].end == "diverged":
            return record  # it has ended, and its last row has no checkpoint
        return recovered(folder, record, lambda checkpoints: newest_checkpoint(checkpoints, ends_for_good))

    def take_over(self, folder: TrialFolder, parent: TrialFolder, segment: Segment) -> None:
        inherit(folder, parent, segment, newest_checkpoint, lambda path, _: inherit_checkpoint(path, folder.checkpoints, segment.number))

    def __call__(self, folder: TrialFolder, should_stop: StopCheck) -> Iterator[EpochResult]:
        record, cache = folder.read(), folder.path.parent.parent / "cache"
        config = Config.from_flat(record.config)
        device = find_device(config.env)
        if device.type == "cuda":
            gc.collect()  # frees networks that are part of reference cycles
            torch.cuda.empty_cache()  # other trials on the GPU may need the memory of this actor's last trial
        keep_freed_memory()
        data = load_trial_data(folder.path.parent.parent, config, self.problem, self.metric)
        state = self.models.state(config, self.seed, device)
        state.micro_batch_size = known = known_micro_batch(cache, config, device)
        with gpu_kernels(config.env, device), ThreadPoolExecutor(1) as writer:  # leaving it waits for the last checkpoint
            if newest := newest_checkpoint(folder.checkpoints):
                restore_state(newest[0], state)
                if is_inherited(newest[0]):
                    state.seconds = record.seconds  # its own time, not the other trial's
            elif self.models.start is None and wants_probe(state.model, config.optim, len(data.train)):
                start_from_probe(state, data, config, cache, should_stop)
            writing: Future[EpochResult] | None = None
            for result in train_steps(state, data, config, self.seed, should_stop):
                if writing is not None and (result is not None or writing.done()):
                    yield writing.result()
                    writing = None
                if result is None:
                    continue
                if state.micro_batch_size < (known or micro_batch_size(config.env, len(data.train))):
                    note_micro_batch(cache, config, device, known := state.micro_batch_size)
                beside = result.end is None and writes_beside(device)
                # none after divergence, so that the last finite one stays the newest; not resumable if nothing will continue from it
                snapshot = None if result.end == "diverged" else take_snapshot(state, copy=beside, resumable=not ends_for_good(result.end))
                if beside:
                    writing = writer.submit(self._record, folder, snapshot, result)
                else:
                    yield self._record(folder, snapshot, result)
                del snapshot  # makes room for the next one

    def _record(self, folder: TrialFolder, snapshot: Snapshot | None, result: EpochResult) -> EpochResult:
        """Writes the checkpoint, then the row in the log."""
        if snapshot is not None:
            prune_checkpoints(folder.checkpoints, self.num_to_keep, NUM_STATES - 1)
            write_checkpoint(folder.checkpoints, snapshot, result)
            prune_checkpoints(folder.checkpoints, self.num_to_keep, NUM_STATES)
        folder.append(result)
        return result


def writes_beside(device: torch.device) -> bool:
    """Whether checkpoints are written while training continues: a GPU need not wait for the disk, but on a CPU the two would compete for the cores."""
    return device.type == "cuda"


def restore_state(path: Path, state: TrainState) -> None:
    """Loads a checkpoint, but keeps the config's weight decay, because a new segment may have changed it."""
    wanted = [group["weight_decay"] for group in state.optimizer.param_groups]
    load_checkpoint(path, state)
    state.is_unscored = False
    for group, weight_decay in zip(state.optimizer.param_groups, wanted, strict=True):
        group["weight_decay"] = weight_decay


def load_trial_data(search_folder: Path, config: Config, problem: Problem, metric: Metric) -> TrialData:
    device = find_device(config.env)
    train, valid = _open_split(search_folder, "train", device), _open_split(search_folder, "valid", device)
    return TrialData.of(train, valid, problem, metric)


@contextlib.contextmanager
def splits_closed() -> Iterator[None]:
    """Closes all open splits at its end, in a process that lives on: another fit may use a folder of the same name."""
    try:
        yield
    finally:
        _open_split.cache_clear()


@functools.lru_cache(maxsize=2)  # a warm actor's next trial reuses the data of the last one
def _open_split(search_folder: Path, name: str, device: torch.device) -> TensorCache:
    return resident(open_cache(search_folder / "cache", name), device)
