"""Handles the events of a search: updates the records, then notifies every listener."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from ..errors import raised_in
from ..training.checkpoint_folder import list_checkpoints
from ..training.result import EpochResult
from .identity import GOAL
from .records import ENDS, FAILED, NO_ROOM, STOPPED, TIME_LIMIT, SearchRecords, TrialRecord, ends_for_good, reaches
from .result_keys import DISK_FULL, HOPELESS, REPLAYED, RESULT
from .result_keys import FAILED as FAILED_REPORT


class Listener(Protocol):
    """Receives the events of a search. ``Progress`` prints them, the MLflow tracker stores them."""

    def trial_resumed(self, record: TrialRecord) -> None:
        """An earlier session left this trial, ended or not. Called before anything runs."""

    def trial_started(self, record: TrialRecord) -> None:
        """A trial starts or continues; if it continues, the record has results already."""

    def trial_retried(self, record: TrialRecord, cause: str) -> None:
        """The trial's process died, and the trial continues in another one."""

    def trial_took_over(self, record: TrialRecord) -> None:
        """The trial continues from another trial's weights with new values, as the record's last segment says."""

    def trial_reported(self, record: TrialRecord, result: EpochResult) -> None: ...

    def trial_ended(self, record: TrialRecord) -> None: ...


class SearchMonitor:
    """Keeps the records up to date, notifies the listeners, and decides when the search ends.

    Args:
        keep_trials, keep_epochs: see ``SearchRecords.prune``.
        goal: the score at which the search ends; None: no goal.
        max_failed_trials: the search ends when more trials than this have failed; None: no limit.

    Attributes:
        over: why the whole search ends now; empty while it continues.
        ending: why no new trials start while the running ones end by themselves; empty while new ones may start.
        seconds_to_score: how long the quickest trial took to its first result; if all were cut short before theirs, how long they ran at least. A trial
            with less time left would get no result.
    """

    def __init__(
        self,
        records: SearchRecords,
        listeners: list[Listener],
        keep_trials: int,
        keep_epochs: int = 1,
        goal: float | None = None,
        max_failed_trials: int | None = None,
    ) -> None:
        self.records, self.listeners, self.keep_trials, self.keep_epochs = records, listeners, keep_trials, keep_epochs
        self.goal, self.max_failed_trials = goal, max_failed_trials
        self.over = self.ending = ""
        self._open: dict[int, TrialRecord] = {}
        self._last: dict[int, EpochResult] = {}
        self._num_failed = 0
        self._firsts: list[float] = []  # seconds to the first result, by trial
        self._cut: list[float] = []  # seconds of trials that were cut short before it

    @property
    def under_way(self) -> list[int]:
        """The trials that have begun and not ended."""
        return sorted(self._open)

    def resume(self) -> None:
        """Takes in the trials that earlier sessions left. One of them may have reached the goal already, because the goal can change."""
        for record in self.records.trials():
            if reaches(record.best, self.goal):
                self.over = GOAL
            if record.has_ended:
                self.records.remember(record)
                self._num_failed += record.status == FAILED
            for result in record.results[:1]:
                self._time_first(result)
            for listener in self.listeners:
                listener.trial_resumed(record)
        self._note_failures()

    @property
    def seconds_to_score(self) -> float:
        return min(self._firsts, default=max(self._cut, default=0.0))

    def _time_first(self, result: EpochResult) -> None:
        if result.end is None or ends_for_good(result.end):
            self._firsts.append(result.seconds)
        else:
            self._cut.append(result.seconds)

    def trial_started(self, number: int) -> None:
        """A trial got resources. Ignored if it was only paused, or has ended and is replayed."""
        if number in self._open or self.records.has_ended(number):
            return
        self._open[number] = record = self.records.reopen_trial(number)
        if record.results and not list_checkpoints(self.records.folder_of(number).checkpoints):
            record = replace(record, results=())  # without a checkpoint it starts over, as functions do
        if record.results:
            self._last[number] = record.results[-1]
        for listener in self.listeners:
            listener.trial_started(record)

    def heard(self, number: int, report: Mapping[str, Any]) -> None:
        """Handles a trial's report, whose keys are those of ``result_keys``."""
        if RESULT in report and not report[REPLAYED]:
            self.trial_reported(number, EpochResult(**report[RESULT]))

    def heard_last(self, number: int, report: Mapping[str, Any]) -> None:
        """Handles a trial's last report."""
        if FAILED_REPORT in report:
            self.trial_failed(number, hopeless=report[HOPELESS], disk_full=report[DISK_FULL])
        else:
            self.trial_ended(number)

    def trial_retried(self, number: int, cause: str) -> None:
        record = self._open.get(number) or self.records.folder_of(number).read()  # its process may have died before the trial started
        for listener in self.listeners:
            listener.trial_retried(record, cause)

    def trial_reported(self, number: int, result: EpochResult) -> None:
        record, last = self._open[number], self._last.get(number)
        if last is None:
            self._time_first(result)
        if last and last.segment != result.segment:
            self._open[number] = record = self.records.folder_of(number).read()
            for listener in self.listeners:
                listener.trial_took_over(record)
        self._last[number] = result
        for listener in self.listeners:
            listener.trial_reported(record, result)
        if reaches(result, self.goal):
            self.over = GOAL

    def trial_ended(self, number: int) -> None:
        """Closes a trial that ended by itself, or that the scheduler ended."""
        results = self.records.folder_of(number).results()  # read again: a generator's last row is marked as the last only afterwards
        status, reason = ENDS[results[-1].end] if results else (STOPPED, self.ending or TIME_LIMIT)
        if results and not any(math.isfinite(result.score) for result in results):
            reason = results[-1].refusal or reason
        self._close(number, status, reason)

    def trial_failed(self, number: int, error: str = "", hopeless: bool = False, disk_full: bool = False) -> None:
        """Closes a trial that raised, or whose process died.

        Args:
            error: stored as the error if the trial itself has not written a traceback.
            hopeless: every other trial would fail in the same way, so the search ends unless a trial has a score.
            disk_full: the trial failed because the disk is full. The search ends, and the other trials are left for a later session.
        """
        folder = self.records.folder_of(number)
        if number not in self._open and not self.records.is_closed(number):
            self._open[number] = folder.read()  # it failed before it started
        if not folder.error:
            folder.write_error(error)
        reason = raised_in(folder.error) or "unknown"
        if hopeless and self.records.best() is None:
            self.over = "every other trial would fail in the same way"
        if disk_full:
            self.over = NO_ROOM
        self._close(number, FAILED, reason)

    def close_open(self, reason: str) -> None:
        """Closes all trials that have not ended, because the search ends."""
        for number in range(len(self.records)):
            if number not in self._open and not self.records.is_closed(number):
                self._open[number] = self.records.folder_of(number).read()  # it was proposed but never started
        for number in sorted(self._open):
            record = self.records.folder_of(number).read()
            if record.results and ends_for_good(record.results[-1].end):  # e.g. with the result that reached the goal
                self._close(number, *ENDS[record.results[-1].end])
                continue
            found_it = reason != GOAL or reaches(record.best, self.goal)
            self._close(number, STOPPED, reason if found_it else f"{GOAL} by another trial")

    def _note_failures(self) -> None:
        if self.max_failed_trials is not None and self._num_failed > self.max_failed_trials:
            self.over = f"more than {self.max_failed_trials} failed trials"

    def _close(self, number: int, status: str, reason: str) -> None:
        if self._open.pop(number, None) is None:
            return  # an earlier session closed it, and it was only replayed
        record = self.records.close_trial(number, status, reason)
        self.records.prune(self.keep_trials, self.keep_epochs)
        self._num_failed += status == FAILED
        self._note_failures()
        for listener in self.listeners:
            listener.trial_ended(record)
