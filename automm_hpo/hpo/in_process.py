"""The first trials of a search, in the caller's process: Ray takes some seconds to begin, in which many a search is over.

Searcher and scheduler are those that Ray would ask. What Ray takes over it finds on record, as of an earlier session.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from ray.tune.schedulers import TrialScheduler

from ..training.result import EpochResult, StopCheck
from .job import InProcess, SearchJob, ray_pays
from .monitor import SearchMonitor
from .recording import RecordingSearcher
from .records import Segment, TrialFolder, TrialRecord
from .reports import TrialReports
from .result_keys import DISK_FULL, FAILED, HOPELESS, REPLAYED, RESULT, TIME_ATTR
from .schedulers import build_scheduler
from .trial import TrialFunction, TrialTask

LOOKED_AT_SECONDS = 1.5  # of a trial, until its pace counts: the first steps are slow
STALL_SECONDS = 5.0  # of a search, in which it may wait for others and they are not counted: MLflow is imported, and makes its database, beside the first trial


class SoonerOnRay(BaseException):
    """Ends a trial, which goes on elsewhere; no trial may take it for an error of its own."""


@dataclass(frozen=True)
class Trial:
    """What schedulers look at of Ray's."""

    trial_id: str
    config: Mapping[str, Any]


def search_in_process(searcher: RecordingSearcher, job: SearchJob, how: InProcess, task: TrialTask, monitor: SearchMonitor) -> float:
    """Runs trials one after the other, until the search is over or what is left of it would sooner be over on Ray.

    Args:
        searcher: has not proposed anything yet.

    Returns:
        Seconds that the trials that are left would take here, one of which may be under way; 0: none are left.
    """
    scheduler = build_scheduler(job.settings, job.space, job.max_epochs, job.warmup_epochs, job.seed)
    forecast = Forecast(job.num_trials, how.num_parallel, task.deadline)
    watched = replace(task, run=Watched(task.run, forecast.look))
    threads = torch.get_num_threads()
    torch.set_num_threads(job.settings.num_threads)  # as on Ray: with others a trial would come to other values
    try:
        while not monitor.over:
            forecast.look()
            trial_id = f"in process {forecast.num_begun}"
            config = searcher.suggest(trial_id)
            if not isinstance(config, dict):
                break
            forecast.begin(how.num_epochs(monitor.records.folder_of(config["trial"]).read().config))
            _run(Trial(trial_id, config), watched, scheduler, searcher, monitor, job.metric, forecast)
            forecast.end()
    except SoonerOnRay:
        return forecast.seconds_left()
    finally:
        torch.set_num_threads(threads)
    return 0.0


def _run(trial: Trial, task: TrialTask, scheduler: Any, searcher: RecordingSearcher, monitor: SearchMonitor, metric: str, forecast: Forecast) -> None:
    """One trial to its end, told of in the order in which Ray tells it."""
    number = trial.config["trial"]
    monitor.trial_started(number)
    scheduler.on_trial_add(None, trial)
    with contextlib.closing(TrialReports(task, number, metric)) as reports:
        while not (report := reports.next())["done"]:
            action = scheduler.on_trial_result(None, trial, report)
            if action != TrialScheduler.STOP:
                searcher.on_trial_result(trial.trial_id, report)
            _tell(monitor, number, report)
            if action == TrialScheduler.STOP or monitor.over:
                break
            if not report[REPLAYED]:
                forecast.reported(report[TIME_ATTR])
        else:
            _tell(monitor, number, report)
    scheduler.on_trial_complete(None, trial, report)
    searcher.on_trial_complete(trial.trial_id, report)
    if FAILED in report:
        monitor.trial_failed(number, hopeless=report[HOPELESS], disk_full=report[DISK_FULL])
    elif report["done"] or not monitor.over:
        monitor.trial_ended(number)


def _tell(monitor: SearchMonitor, number: int, report: Mapping[str, Any]) -> None:
    if RESULT in report and not report[REPLAYED]:
        monitor.trial_reported(number, EpochResult(**report[RESULT]))


class Forecast:
    """How long the trials of a search take yet, one after the other, by those that have run so far and by the steps of the one that runs.

    Args:
        num_trials: of the whole search.
        deadline: time.time() at which trials end; None: never.

    Attributes:
        num_begun: trials, those on record among them.
    """

    def __init__(self, num_trials: int, num_parallel: int, deadline: float | None) -> None:
        self.num_trials, self.num_parallel, self.deadline, self.num_begun = num_trials, num_parallel, deadline, 0
        self._start = time.thread_time(), time.perf_counter()
        self._took: list[float] = []  # seconds of the trials that ended
        self._running = False
        self._pace = self._whole = self._ends = 0.0  # of the trial that runs, by its steps so far: seconds of an epoch, of all of them, and when it ends

    def begin(self, num_epochs: float) -> None:
        """A trial begins, of so many epochs at the most."""
        self.num_begun += 1
        self._running, self._num_epochs, self._began = True, num_epochs, self._clock()
        self._since: tuple[float, float] | None = None  # when its first step was done, later when its first result was told; and that one's epoch
        self._epoch: float | None = None  # of the last result
        self._pace = self._whole = self._ends = 0.0

    def look(self) -> None:
        """To be called before every trial, and after each of its steps.

        Raises:
            SoonerOnRay
        """
        if self._running:
            self._since = self._since or (self._clock(), 0.0)
            self._expect((self._epoch or 0.0) + 1)  # which it has not come to
        self._check()

    def reported(self, epoch: float) -> None:
        """The trial that runs has come so far.

        Raises:
            SoonerOnRay
        """
        if self._epoch is None or self._since is None:
            self._since = self._clock(), epoch
        self._epoch = epoch
        self._expect(epoch)
        self._check()

    def end(self) -> None:
        self._running = False
        seconds = self._clock() - self._began
        if not self._took and self._pace:  # the first one's start is that of all
            seconds = min(seconds, self._pace * self._num_epochs)
        self._took.append(seconds)

    def seconds_left(self) -> float:
        """Of those to come each takes as long as the others did on average."""
        trials = [*self._took, self._whole] if self._running else self._took
        to_come = (self.num_trials - self.num_begun) * (sum(trials) / len(trials) if trials else 0.0)
        left = to_come + (max(0.0, self._ends - self._clock()) if self._running else 0.0)
        return left if self.deadline is None else min(left, self.deadline - time.time())

    def _expect(self, epoch: float) -> None:
        """By the time that it has taken to this epoch."""
        assert self._since is not None, "the caller has set it"
        (since, first), now = self._since, self._clock()
        self._pace = (now - since) / (epoch - first) if epoch > first else 0.0
        if now > since + LOOKED_AT_SECONDS:
            self._whole, self._ends = self._pace * self._num_epochs, since + self._pace * (self._num_epochs - first)

    def _clock(self) -> float:
        """Seconds that this thread has worked, or all but a few of those that have passed."""
        worked, passed = time.thread_time() - self._start[0], time.perf_counter() - self._start[1]
        return max(worked, passed - STALL_SECONDS)

    def _check(self) -> None:
        if ray_pays(self.seconds_left(), self.num_parallel):
            raise SoonerOnRay


@dataclass(frozen=True)
class Watched:
    """A trial's function, with someone who looks after each step."""

    function: TrialFunction
    look: Callable[[], None]

    def recover(self, folder: TrialFolder) -> TrialRecord:
        return self.function.recover(folder)

    def take_over(self, folder: TrialFolder, parent: TrialFolder, segment: Segment) -> None:
        self.function.take_over(folder, parent, segment)

    def __call__(self, folder: TrialFolder, should_stop: StopCheck) -> Iterator[EpochResult]:
        def look_too(ahead: float) -> str | None:
            self.look()
            return should_stop(ahead)

        return self.function(folder, look_too)
