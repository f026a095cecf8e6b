"""Runs one trial, of a model or an objective: replays what is on record, then continues. Does not need Ray.

A trial that finds its own log reports the rows again and continues from its newest checkpoint. So a resumed search, a killed worker
and a paused trial are one and the same case.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..errors import CorruptFile
from ..training.checkpoint_folder import checkpoint_name, checkpoint_order, is_inherited, list_checkpoints
from ..training.result import EpochResult, StopCheck
from .monitor import SearchMonitor
from .records import Segment, TrialFolder, TrialRecord, ends_for_good

NUM_STATES = 2  # resumable checkpoints that a running trial keeps: the newest, and the one before in case it is damaged
Newest = tuple[Path, EpochResult]
STOP_FILE = "stop"  # file in the search's folder; while it exists, trials end
LOOKS_EVERY = 0.1  # seconds between two checks for that file, which would slow down short steps, most of all on a network disk


class TrialFunction(Protocol):
    """What the trials of a search do. Pickled and sent to the actors."""

    def recover(self, folder: TrialFolder) -> TrialRecord:
        """Truncates the log to the newest intact checkpoint and returns the record; epochs after a damaged checkpoint are trained again."""

    def take_over(self, folder: TrialFolder, parent: TrialFolder, segment: Segment) -> None:
        """Begins a new segment from another trial's newest checkpoint, whose epoch becomes the segment's ``epoch``."""

    def __call__(self, folder: TrialFolder, should_stop: StopCheck) -> Iterator[EpochResult]:
        """Runs a trial from the state in its folder, and records each result there before yielding it."""


@dataclass(frozen=True)
class TrialTask:
    """What all trials of a search share. Pickled and sent to the actors.

    Attributes:
        search_folder: absolute.
        run: what a trial does.
        deadline: time.time() at which trials end; None: never.
        trial_time_limit: seconds of one trial, summed over its sessions; None: no limit.
        look: called with the epoch after each step of a trial that runs in the caller's process.
    """

    search_folder: Path
    run: TrialFunction
    deadline: float | None = None
    trial_time_limit: float | None = None
    look: Callable[[float], None] | None = None


@dataclass(frozen=True)
class TrialStep:
    """The next step of a trial.

    Attributes:
        result: None: the trial ends without another result.
        replayed: whether the result was on record already.
        done: whether the trial ends here.
        went_on: for a replayed result, whether the trial is known to have continued after it.
    """

    result: EpochResult | None
    replayed: bool
    done: bool
    went_on: bool = True


def run_trial(task: TrialTask, number: int) -> Generator[TrialStep]:
    """Yields what is on record, then runs the trial unless it has ended."""
    folder = TrialFolder(task.search_folder, number)
    record = folder.read()
    if not record.has_ended:
        record = task.run.recover(folder)
    ended = record.has_ended or (bool(record.results) and ends_for_good(record.results[-1].end))
    for place, result in enumerate(record.results, 1):
        is_last = place == len(record.results)
        yield TrialStep(result, replayed=True, done=ended and is_last, went_on=not is_last)
    if not ended:
        should_stop = _ShouldStop(task, record.seconds)
        for result in task.run(folder, should_stop):
            paused = time.monotonic()
            yield TrialStep(result, replayed=False, done=result.end is not None)
            should_stop.began += time.monotonic() - paused  # time in which the trial waits for others does not count
    yield TrialStep(None, replayed=ended, done=True)  # the end, if no result has marked it


class _ShouldStop:
    """A trial's ``StopCheck``."""

    def __init__(self, task: TrialTask, seconds: float) -> None:
        """Starts the trial's clock at ``seconds``, which earlier sessions took."""
        self.task, self.began, self.stop_file = task, time.monotonic() - seconds, task.search_folder / STOP_FILE
        self.looked, self.is_interrupted = -math.inf, False

    def __call__(self, epoch: float, ahead: float) -> str | None:
        if self.task.look:
            self.task.look(epoch)
        now = time.monotonic()  # the deadline is wall time, because processes share it
        if now > self.looked + LOOKS_EVERY and not self.is_interrupted:
            self.looked, self.is_interrupted = now, self.stop_file.exists()
        if self.is_interrupted:
            return "interrupted"
        if self.task.deadline is not None and time.time() + ahead > self.task.deadline:
            return "time_limit"
        if self.task.trial_time_limit is not None and now + ahead > self.began + self.task.trial_time_limit:
            return "trial_time_limit"
        return None


def recovered(folder: TrialFolder, record: TrialRecord, newest: Callable[[Path], Newest | None]) -> TrialRecord:
    """Truncates the log to the newest intact checkpoint and returns the record. Undoes a takeover that a kill cut short before it was recorded.

    Args:
        newest: as in ``inherit``.
    """
    for path in list_checkpoints(folder.checkpoints):
        if int(path.name.partition("-")[0]) > record.segments[-1].number:
            shutil.rmtree(path)
    found = newest(folder.checkpoints)
    return cut_log(folder, record, None, inherited=False) if found is None else cut_log(folder, record, found[1], is_inherited(found[0]))


def cut_log(folder: TrialFolder, record: TrialRecord, newest: EpochResult | None, inherited: bool) -> TrialRecord:
    """Makes the log end with the newest intact checkpoint, and deletes damaged ones after it.

    Args:
        newest: the result saved with that checkpoint; None: there is none, and the trial starts over.
        inherited: whether the checkpoint comes from another trial, and so has no row in this log.
    """
    kept: list[EpochResult] = []
    if newest is None:
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
    else:
        place = (newest.segment, newest.epoch)
        for path in list_checkpoints(folder.checkpoints):
            if checkpoint_order(path.name) > checkpoint_order(checkpoint_name(newest)):
                shutil.rmtree(path)
        kept = [row for row in record.results if (row.segment, row.epoch) < place] + ([] if inherited else [newest])
    folder.rewrite_results(kept)  # also if nothing was cut: behind a damaged line, no other would be read
    return replace(record, results=tuple(kept))


def inherit(
    folder: TrialFolder, parent: TrialFolder, segment: Segment, newest: Callable[[Path], Newest | None], copy: Callable[[Path, EpochResult], EpochResult]
) -> None:
    """Begins a new segment from another trial's newest checkpoint.

    Args:
        newest: folder of checkpoints -> path and result of the newest intact one; None: there is none.
        copy: copies a checkpoint into the trial's own folder, and returns the result stored there.

    Raises:
        CorruptFile: the other trial has no intact checkpoint.
    """
    for _ in range(20):  # the parent keeps running, and may delete a checkpoint while it is being copied
        if (found := newest(parent.checkpoints)) is None:
            time.sleep(0.05)
            continue
        with contextlib.suppress(CorruptFile, OSError, shutil.Error):
            return add_segment(folder, replace(segment, epoch=copy(*found).epoch))
    raise CorruptFile(f"trial {parent.number} has no intact state to take over")


def add_segment(folder: TrialFolder, segment: Segment) -> None:
    """Records the segment, whose values the trial uses from here on. This makes a takeover final."""
    record = folder.read()
    tuned = {**record.tuned, **segment.tuned}
    folder.write(replace(record, tuned=tuned, config={**record.config, **tuned}, segments=(*record.segments, replace(segment, tuned=tuned))))


def run_here(task: TrialTask, number: int, monitor: SearchMonitor) -> None:
    """Runs a search of a single trial in this process, without Ray. Errors of the trial reach the caller."""
    monitor.trial_started(number)
    try:
        for step in run_trial(task, number):
            if step.result and not step.replayed:
                monitor.trial_reported(number, step.result)
    except Exception:
        monitor.trial_failed(number, traceback.format_exc())
        raise
    monitor.trial_ended(number)
