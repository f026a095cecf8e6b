"""One trial: a config becomes data, model and loop; every validation leaves a checkpoint and a line in the log. Needs no Ray.

A trial that finds its own log reports those rows again and goes on from its newest checkpoint. So a resumed search, a killed worker
and a trial that was paused are one case.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from ..config import Config
from ..data.batch import TensorCache
from ..data.cache import open_cache
from ..data.features import Features
from ..errors import CorruptFile
from ..metrics import Metric
from ..models import build_model, image_spec
from ..problem import Problem
from ..training.checkpoint import (
    checkpoint_name,
    inherit_checkpoint,
    is_inherited,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from ..training.evaluate import find_device
from ..training.loop import EpochResult, StopCheck, TrainState, TrialData, train_epochs
from ..training.optim import build_optimizer
from .monitor import SearchMonitor
from .records import ENDS, GOES_ON, Segment, TrialFolder, TrialRecord

NUM_STATES = 2  # resumable checkpoints a running trial keeps: the newest, and one before it should that be damaged
STOP_FILE = "stop"  # in the search's folder; while it is there, trials end after the step they are at


class TrialFunction(Protocol):
    """What the trials of a search do; travels to the actors."""

    def recover(self, folder: TrialFolder) -> TrialRecord:
        """The record of a trial whose log and newest state are brought to agree; what lies behind a damaged state is done again."""

    def take_over(self, folder: TrialFolder, parent: TrialFolder, segment: Segment) -> None:
        """Begins a new segment with another trial's newest state; the segment's epoch is filled in."""

    def __call__(self, folder: TrialFolder, should_stop: StopCheck) -> Iterator[EpochResult]:
        """Runs a trial from where its folder says it is, and records each result there before yielding it."""


@dataclass(frozen=True)
class TrialTask:
    """What all trials of a search share; travels to the actors.

    Attributes:
        search_folder: absolute.
        run: what a trial does.
        deadline: time.time() at which trials end; None: never.
        trial_time_limit: seconds of one trial, over all its sessions; None: no limit.
    """

    search_folder: Path
    run: TrialFunction
    deadline: float | None = None
    trial_time_limit: float | None = None


@dataclass(frozen=True)
class TrialStep:
    """What a trial says next.

    Attributes:
        result: None where a recorded trial never had one.
        replayed: it was on record already.
        done: the trial ends here.
        went_on: of a replayed one: the trial is known to have gone on after it.
    """

    result: EpochResult | None
    replayed: bool
    done: bool
    went_on: bool = True


def run_trial(task: TrialTask, number: int) -> Iterator[TrialStep]:
    """First what is on record, then, where the trial has not ended, its further course."""
    folder = TrialFolder(task.search_folder, number)
    record = folder.read()
    if not record.has_ended:
        record = task.run.recover(folder)
    last = record.results[-1].end if record.results else None
    ended = record.has_ended or (last is not None and ENDS[last][1] not in GOES_ON)
    for place, result in enumerate(record.results, 1):
        is_last = place == len(record.results)
        yield TrialStep(result, replayed=True, done=ended and is_last, went_on=not is_last)
    if not ended:
        for result in task.run(folder, _stop_check(task, record)):
            yield TrialStep(result, replayed=False, done=result.end is not None)
    yield TrialStep(None, replayed=ended, done=True)  # where no result has said so


def _stop_check(task: TrialTask, record: TrialRecord) -> StopCheck:
    started, stop_file = time.time() - record.seconds, task.search_folder / STOP_FILE

    def should_stop(ahead: float) -> str | None:
        now = time.time() + ahead  # ending must begin so much earlier
        if stop_file.exists():
            return "interrupted"
        if task.deadline is not None and now > task.deadline:
            return "time_limit"
        if task.trial_time_limit is not None and now > started + task.trial_time_limit:
            return "trial_time_limit"
        return None

    return should_stop


def drop_unrecorded(folder: TrialFolder, record: TrialRecord) -> None:
    """A takeover that a kill cut short before it was recorded has not happened."""
    for path in list_checkpoints(folder.checkpoints):
        if int(path.name.partition("-")[0]) > record.segments[-1].number:
            shutil.rmtree(path)


def cut_log(folder: TrialFolder, record: TrialRecord, newest: EpochResult | None, inherited: bool) -> TrialRecord:
    """Brings the log to end with the newest state, and drops damaged states behind it.

    Args:
        newest: the result that state was saved with; None: there is none, and the trial begins again.
        inherited: it was another trial's, and has no row here.
    """
    kept: list[EpochResult] = []
    if newest is None:
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
    else:
        place = (newest.segment, newest.epoch)
        for path in list_checkpoints(folder.checkpoints):
            if path.name > checkpoint_name(newest):
                shutil.rmtree(path)
        kept = [row for row in record.results if (row.segment, row.epoch) < place] + ([] if inherited else [newest])
    if repr(kept) != repr(list(record.results)):  # nan differs from itself, its text does not
        folder.rewrite_results(kept)
    return replace(record, results=tuple(kept))


def add_segment(folder: TrialFolder, segment: Segment) -> None:
    """From here on the trial runs under the segment's values; this makes a takeover final."""
    record = folder.read()
    tuned = {**record.tuned, **segment.tuned}
    folder.write(replace(record, tuned=tuned, config={**record.config, **tuned}, segments=(*record.segments, replace(segment, tuned=tuned))))


def run_here(task: TrialTask, number: int, monitor: SearchMonitor) -> None:
    """A whole search of one trial, in this process, without Ray. What it raises reaches the caller."""
    monitor.trial_started(number)
    try:
        for step in run_trial(task, number):
            if step.result and not step.replayed:
                monitor.trial_reported(number, step.result)
    except Exception:
        monitor.trial_failed(number, traceback.format_exc())
        raise
    finally:
        _open_split.cache_clear()  # this process lives on; another fit may use the same folder's name
    monitor.trial_ended(number)


@dataclass(frozen=True)
class Training:
    """A trial of ``fit``: trains a model.

    Attributes:
        num_to_keep: best epochs whose weights a running trial keeps.
    """

    problem: Problem
    features: Features
    metric: Metric
    seed: int
    num_to_keep: int

    def recover(self, folder: TrialFolder) -> TrialRecord:
        record = folder.read()
        if record.results and record.results[-1].end == "diverged":
            return record  # ended; its last row has no checkpoint
        drop_unrecorded(folder, record)
        newest = newest_checkpoint(folder.checkpoints)
        if newest is None:
            return cut_log(folder, record, None, inherited=False)
        return cut_log(folder, record, newest[1], is_inherited(newest[0]))

    def take_over(self, folder: TrialFolder, parent: TrialFolder, segment: Segment) -> None:
        for _ in range(20):  # the parent trains on, and may drop a checkpoint while it is being read
            newest = newest_checkpoint(parent.checkpoints)
            if newest is None:
                time.sleep(0.05)
                continue
            with contextlib.suppress(CorruptFile, OSError):
                start = inherit_checkpoint(newest[0], folder.checkpoints, segment.number)
                return add_segment(folder, replace(segment, epoch=start.epoch))
        raise CorruptFile(f"trial {parent.number} has no intact checkpoint to take over")

    def __call__(self, folder: TrialFolder, should_stop: StopCheck) -> Iterator[EpochResult]:
        config = Config.from_flat(folder.read().config)
        data = load_trial_data(folder.path.parent.parent, config, self.problem, self.metric)
        state = build_state(config, self.features, self.problem.num_outputs, self.seed, find_device(config.env))
        if newest := newest_checkpoint(folder.checkpoints):
            restore_state(newest[0], state, config)
        for result in train_epochs(state, data, config, self.seed, should_stop):
            if result.end != "diverged":  # the last finite checkpoint stays the newest
                prune_checkpoints(folder.checkpoints, self.num_to_keep, NUM_STATES - 1)
                save_checkpoint(folder.checkpoints, state, result)
                prune_checkpoints(folder.checkpoints, self.num_to_keep, NUM_STATES)
            folder.append(result)
            yield result


def build_state(config: Config, features: Features, num_outputs: int, seed: int, device: torch.device) -> TrainState:
    """A fresh model and optimizer; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = build_model(config, features, num_outputs).to(device).to(memory_format=torch.channels_last)  # 1.3 times faster, on CPUs too
    return TrainState(model, build_optimizer(model, config.optim))


def restore_state(path: Path, state: TrainState, config: Config) -> None:
    """Loads a checkpoint; hyperparameters that live in the optimizer are the config's, for a new segment may have changed them."""
    wanted = [group["weight_decay"] for group in state.optimizer.param_groups]
    load_checkpoint(path, state)
    for group, weight_decay in zip(state.optimizer.param_groups, wanted, strict=True):
        group["weight_decay"] = weight_decay


def load_trial_data(search_folder: Path, config: Config, problem: Problem, metric: Metric) -> TrialData:
    device = find_device(config.env)
    train, valid = _open_split(search_folder, "train", device), _open_split(search_folder, "valid", device)
    target = valid.target.cpu().numpy()
    return TrialData(train, valid, problem, metric, image_spec(config), target)


@functools.lru_cache(maxsize=2)  # a warm actor's next trial finds its data where the last one left it
def _open_split(search_folder: Path, name: str, device: torch.device) -> TensorCache:
    """On the device where it fits, with as much again left for the model; else mapped, and each batch travels."""
    split = open_cache(search_folder / "cache", name)
    if device.type == "cuda" and 2 * split.nbytes > torch.cuda.mem_get_info(device)[0]:
        return split
    return split.to(device)
