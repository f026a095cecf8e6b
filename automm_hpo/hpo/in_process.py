"""Runs the first trials of a search in the caller's process: many searches end within the seconds that Ray needs to start.

Searcher and scheduler are the same as on Ray. If the search continues there, it finds the trials that ran here on record, like those of an earlier session.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from ..training.threads import num_threads
from .job import InProcess, SearchJob, ray_pays
from .monitor import SearchMonitor
from .recording import RecordingSearcher
from .reports import TrialReports
from .result_keys import REPLAYED, TIME_ATTR
from .schedulers import build_scheduler
from .trial import TrialTask

LOOKED_AT_SECONDS = 1.5  # a trial's pace counts only after this time, because its first steps are slow
STALL_SECONDS = 5.0  # waiting that is not counted, e.g. while MLflow is imported and creates its database during the first trial


class SoonerOnRay(BaseException):
    """Ends a trial here, to be continued on Ray. No trial may catch it as an error of its own."""


@dataclass(frozen=True)
class Trial:
    """Stands in for Ray's ``Trial``: only what schedulers use."""

    trial_id: str
    config: Mapping[str, Any]


def search_in_process(searcher: RecordingSearcher, job: SearchJob, how: InProcess, task: TrialTask, monitor: SearchMonitor) -> float | None:
    """Runs trials one after another, until the search ends or the rest of it would end sooner on Ray.

    Args:
        searcher: must not have proposed anything yet.

    Returns:
        Seconds that the remaining trials would take here, including an unfinished one; None: none remain.
    """
    scheduler = build_scheduler(job.settings, job.space, job.max_epochs, job.warmup_epochs, job.seed)
    forecast = Forecast(how.num_parallel, task.deadline)
    with num_threads(job.settings.num_threads):  # as on Ray: the number of threads affects a trial's results
        try:
            while not monitor.over:
                forecast.check()
                trial_id = f"in process {searcher.num_proposed}"
                proposal = searcher.suggest(trial_id)
                if proposal == Searcher.FINISHED:
                    break
                if proposal is None:  # the user's searcher has no proposal yet; Ray will ask it again
                    raise SoonerOnRay
                epochs = how.num_epochs(monitor.records.folder_of(proposal["trial"]).read().config)
                forecast.begin(epochs, num_to_come=job.num_trials - searcher.num_proposed)
                was_trained = _run(Trial(trial_id, proposal), replace(task, look=forecast.look), scheduler, searcher, monitor, job.metric, forecast)
                forecast.end(was_trained)
        except SoonerOnRay:
            return forecast.seconds_left()
    return None


def _run(trial: Trial, task: TrialTask, scheduler: Any, searcher: RecordingSearcher, monitor: SearchMonitor, metric: str, forecast: Forecast) -> bool:
    """Runs one trial to its end, and notifies scheduler, searcher and monitor in the same order as Ray.

    Returns:
        Whether the trial did more than repeat what is on record.
    """
    number, was_trained = trial.config["trial"], False
    monitor.trial_started(number)
    scheduler.on_trial_add(None, trial)
    with contextlib.closing(TrialReports(task, number, metric)) as reports:
        while not (report := reports.next())["done"]:
            action = scheduler.on_trial_result(None, trial, report)
            if action != TrialScheduler.STOP:
                searcher.on_trial_result(trial.trial_id, report)
            monitor.heard(number, report)
            if action == TrialScheduler.STOP or monitor.over:
                break
            if not report[REPLAYED]:
                was_trained = True
                forecast.look(report[TIME_ATTR])
        else:
            monitor.heard(number, report)
    scheduler.on_trial_complete(None, trial, report)
    searcher.on_trial_complete(trial.trial_id, report)
    if report["done"] or not monitor.over:  # else the search ends, and ``close_open`` will close this trial with the reason
        monitor.heard_last(number, report)
    return was_trained or not report.get(REPLAYED, False)


class Forecast:
    """Estimates how long the remaining trials would take one after another, from those that ended and the pace of the current one.

    Args:
        num_parallel: trials that Ray would run at a time.
        deadline: time.time() at which trials must end; None: never.
    """

    def __init__(self, num_parallel: int, deadline: float | None) -> None:
        self.num_parallel, self.deadline = num_parallel, deadline
        self._start = time.thread_time(), time.perf_counter()
        self._took: list[float] = []  # durations of ended trials
        self._num_to_come = 0
        self._began = 0.0
        self._pace: Pace | None = None  # of the current trial; None between trials

    def begin(self, num_epochs: float, num_to_come: int) -> None:
        """A trial of at most ``num_epochs`` begins, and ``num_to_come`` more will follow it."""
        self._num_to_come, self._began, self._pace = num_to_come, self._clock(), Pace(num_epochs)

    def look(self, epoch: float) -> None:
        """To be called after each step and report of the current trial.

        Raises:
            SoonerOnRay: see ``check``.
        """
        if self._pace:
            self._pace.has_reached(epoch, self._clock())
        self.check()

    def check(self) -> None:
        """To be called before every trial.

        Raises:
            SoonerOnRay: the rest of the search would end sooner on Ray.
        """
        time_left = math.inf if self.deadline is None else self.deadline - time.time()
        if ray_pays(self.seconds_left(), self.num_parallel, time_left):
            raise SoonerOnRay

    def end(self, was_trained: bool) -> None:
        """The current trial has ended.

        Args:
            was_trained: whether it did more than repeat what is on record; else its duration says nothing about other trials.
        """
        seconds, pace, self._pace = self._clock() - self._began, self._pace, None
        if was_trained:
            if not self._took and pace and pace.epoch_seconds:  # the first trial's duration includes imports
                seconds = min(seconds, pace.epoch_seconds * pace.num_epochs)
            self._took.append(seconds)

    def seconds_left(self) -> float:
        """The forecast: each trial to come takes as long as the average so far. Never more than the time until ``deadline``."""
        trials = [*self._took, *([self._pace.seconds] if self._pace and self._pace.seconds else [])]
        left = self._num_to_come * (sum(trials) / len(trials) if trials else 0.0)
        left += max(0.0, self._pace.ends - self._clock()) if self._pace else 0.0
        return left if self.deadline is None else min(left, self.deadline - time.time())

    def _clock(self) -> float:
        """CPU seconds of this thread, or elapsed seconds minus ``STALL_SECONDS`` if that is more."""
        worked, passed = time.thread_time() - self._start[0], time.perf_counter() - self._start[1]
        return max(worked, passed - STALL_SECONDS)


class Pace:
    """How fast a trial proceeds.

    Args:
        num_epochs: the most epochs that it can have.

    Attributes:
        epoch_seconds: duration of an epoch; 0 while it is unknown.
        seconds, ends: forecast of the whole trial's duration and of the time it ends; 0 until it has run for ``LOOKED_AT_SECONDS``.
    """

    def __init__(self, num_epochs: float) -> None:
        self.num_epochs, self.epoch_seconds, self.seconds, self.ends = num_epochs, 0.0, 0.0, 0.0
        self._since: tuple[float, float] | None = None  # (time, epoch) from which the pace is measured: of the first step, then the end of its epoch
        self._warm = 0.0  # that end

    def has_reached(self, epoch: float, now: float) -> None:
        if self._since is None:
            self._since, self._warm = (now, math.floor(epoch)), max(1.0, math.ceil(epoch))
        elif epoch == self._warm:  # the last time is that of its report
            self._since = now, epoch
        began, first = self._since
        epoch = max(epoch, self._warm)  # its first steps say little: they are slow
        self.epoch_seconds = (now - began) / (epoch - first) if epoch > first else 0.0
        if now > began + LOOKED_AT_SECONDS:
            self.seconds, self.ends = self.epoch_seconds * self.num_epochs, began + self.epoch_seconds * (self.num_epochs - first)
