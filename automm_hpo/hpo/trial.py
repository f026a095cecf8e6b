"""One trial, of a model or of an objective: what is on record is told again, then it goes on. Needs no Ray.

A trial that finds its own log reports those rows again and goes on from its newest checkpoint. So a resumed search, a killed worker
and a trial that was paused are one case.
"""

from __future__ import annotations

import contextlib
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

NUM_STATES = 2  # resumable checkpoints a running trial keeps: the newest, and one before it should that be damaged
Newest = tuple[Path, EpochResult]
STOP_FILE = "stop"  # in the search's folder; while it is there, trials end
LOOKS_EVERY = 0.1  # seconds, for that file: small steps would each wait for it, on a network's disk for long


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
        look: called after each step of a trial that runs in the caller's process.
    """

    search_folder: Path
    run: TrialFunction
    deadline: float | None = None
    trial_time_limit: float | None = None
    look: Callable[[], None] | None = None


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


def run_trial(task: TrialTask, number: int) -> Generator[TrialStep]:
    """First what is on record, then, where the trial has not ended, its further course."""
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
            paused = time.time()
            yield TrialStep(result, replayed=False, done=result.end is not None)
            should_stop.began += time.time() - paused  # a trial that waits for others takes none of its own time
    yield TrialStep(None, replayed=ended, done=True)  # where no result has said so


class _ShouldStop:
    """A trial's ``StopCheck``."""

    def __init__(self, task: TrialTask, seconds: float) -> None:
        """Of a trial that has taken so many seconds."""
        self.task, self.began, self.stop_file = task, time.time() - seconds, task.search_folder / STOP_FILE
        self.looked, self.is_interrupted = 0.0, False

    def __call__(self, ahead: float) -> str | None:
        if self.task.look:
            self.task.look()
        now = time.time()
        if now > self.looked + LOOKS_EVERY and not self.is_interrupted:
            self.looked, self.is_interrupted = now, self.stop_file.exists()
        if self.is_interrupted:
            return "interrupted"
        now += ahead  # ending must begin so much earlier
        if self.task.deadline is not None and now > self.task.deadline:
            return "time_limit"
        if self.task.trial_time_limit is not None and now > self.began + self.task.trial_time_limit:
            return "trial_time_limit"
        return None


def recovered(folder: TrialFolder, record: TrialRecord, newest: Callable[[Path], Newest | None]) -> TrialRecord:
    """The record, its log brought to agree with the newest intact state. A takeover that a kill cut short before it was recorded has not happened.

    Args:
        newest: as of ``inherit``.
    """
    for path in list_checkpoints(folder.checkpoints):
        if int(path.name.partition("-")[0]) > record.segments[-1].number:
            shutil.rmtree(path)
    found = newest(folder.checkpoints)
    return cut_log(folder, record, None, inherited=False) if found is None else cut_log(folder, record, found[1], is_inherited(found[0]))


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
            if checkpoint_order(path.name) > checkpoint_order(checkpoint_name(newest)):
                shutil.rmtree(path)
        kept = [row for row in record.results if (row.segment, row.epoch) < place] + ([] if inherited else [newest])
    if repr(kept) != repr(list(record.results)):  # nan differs from itself, its text does not
        folder.rewrite_results(kept)
    return replace(record, results=tuple(kept))


def inherit(
    folder: TrialFolder, parent: TrialFolder, segment: Segment, newest: Callable[[Path], Newest | None], copy: Callable[[Path, EpochResult], EpochResult]
) -> None:
    """Begins a new segment with another trial's newest state.

    Args:
        newest: of a folder of checkpoints, the path and the result of the newest one that is intact; None: there is none.
        copy: brings it into the trial's own folder, and returns its result as it stands there.

    Raises:
        CorruptFile: the other trial has none.
    """
    for _ in range(20):  # the parent goes on, and may drop a state while it is being copied
        if (found := newest(parent.checkpoints)) is None:
            time.sleep(0.05)
            continue
        with contextlib.suppress(CorruptFile, OSError, shutil.Error):
            return add_segment(folder, replace(segment, epoch=copy(*found).epoch))
    raise CorruptFile(f"trial {parent.number} has no intact state to take over")


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
    monitor.trial_ended(number)
