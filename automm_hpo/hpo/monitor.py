"""What happens in a search, told once: the records are brought up to date, then every listener hears of it."""

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
    """Hears of the events of a search; ``Progress`` prints them, the MLflow tracker stores them."""

    def trial_resumed(self, record: TrialRecord) -> None:
        """A trial that an earlier session left, ended or not; told before anything runs."""

    def trial_started(self, record: TrialRecord) -> None:
        """With results already, where it goes on."""

    def trial_retried(self, record: TrialRecord, cause: str) -> None:
        """Its process died; it goes on in another."""

    def trial_took_over(self, record: TrialRecord) -> None:
        """It goes on from another trial's weights, under new values: in its last segment."""

    def trial_reported(self, record: TrialRecord, result: EpochResult) -> None: ...

    def trial_ended(self, record: TrialRecord) -> None: ...


class SearchMonitor:
    """Keeps the records up to date, tells the listeners, and says when all is over.

    Args:
        keep_trials, keep_epochs: see ``SearchRecords.prune``.
        goal: the score at which the search is over; None: there is none.
        max_failed_trials: the search is over when more than so many have failed; None: any number may.

    Attributes:
        over: why the whole search ends now; empty while it goes on.
        ending: why no further trial begins; those under way end by themselves.
        seconds_to_score: in which the quickest trial came to its first result; 0 while none has. One that begins later than that would come to none.
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
        self._firsts: list[float] = []  # of trials, the seconds to their first result

    def resume(self) -> None:
        """Takes note of what earlier sessions left. What they did not get to, or were not asked for, may be there already: the goal."""
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
        return min(self._firsts, default=0.0)

    def _time_first(self, result: EpochResult) -> None:
        if result.end is None or ends_for_good(result.end):  # else it was cut short
            self._firsts.append(result.seconds)

    def trial_started(self, number: int) -> None:
        """A trial has a place now; one that had it before, and lost it for a while, is not told again."""
        if number in self._open or self.records.has_ended(number):
            return
        self._open[number] = record = self.records.reopen_trial(number)
        if record.results and not list_checkpoints(self.records.folder_of(number).checkpoints):
            record = replace(record, results=())  # with nothing to go on from it begins again, a function say
        if record.results:
            self._last[number] = record.results[-1]
        for listener in self.listeners:
            listener.trial_started(record)

    def heard(self, number: int, report: Mapping[str, Any]) -> None:
        """A trial has reported, by the names of ``result_keys``."""
        if RESULT in report and not report[REPLAYED]:
            self.trial_reported(number, EpochResult(**report[RESULT]))

    def heard_last(self, number: int, report: Mapping[str, Any]) -> None:
        """A trial has ended with this report."""
        if FAILED_REPORT in report:
            self.trial_failed(number, hopeless=report[HOPELESS], disk_full=report[DISK_FULL])
        else:
            self.trial_ended(number)

    def trial_retried(self, number: int, cause: str) -> None:
        record = self._open.get(number) or self.records.folder_of(number).read()  # it may have died before it told that it lived
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
        """A trial ended by itself or by the scheduler."""
        results = self.records.folder_of(number).results()  # an objective's last row learns late that it was the last
        status, reason = ENDS[results[-1].end] if results else (STOPPED, self.ending or TIME_LIMIT)
        if results and not any(math.isfinite(result.score) for result in results):
            reason = results[-1].refusal or reason
        self._close(number, status, reason)

    def trial_failed(self, number: int, error: str = "", hopeless: bool = False, disk_full: bool = False) -> None:
        """A trial raised, or its process died.

        Args:
            error: what is known besides the traceback the trial itself may have written.
            hopeless: so will every other, which need not be waited for unless one has shown the contrary.
            disk_full: for want of room, which the others would have to find, too; they are left for another session.
        """
        folder = self.records.folder_of(number)
        if number not in self._open and not self.records.is_closed(number):
            self._open[number] = folder.read()  # its process never started
        if not folder.error:
            folder.write_error(error)
        reason = raised_in(folder.error) or "unknown"
        if hopeless and self.records.best() is None:
            self.over = "none of the others would do better"
        if disk_full:
            self.over = NO_ROOM
        self._close(number, FAILED, reason)

    def close_open(self, reason: str) -> None:
        """The search ends here; what still runs is stopped."""
        for number in range(len(self.records)):
            if number not in self._open and not self.records.is_closed(number):
                self._open[number] = self.records.folder_of(number).read()  # it was proposed and never got a place
        for number in sorted(self._open):
            record = self.records.folder_of(number).read()
            if record.results and ends_for_good(record.results[-1].end):  # with what reached the goal, say
                self._close(number, *ENDS[record.results[-1].end])
                continue
            found_it = reason != GOAL or reaches(record.best, self.goal)
            self._close(number, STOPPED, reason if found_it else f"{GOAL} by another trial")

    def _note_failures(self) -> None:
        if self.max_failed_trials is not None and self._num_failed > self.max_failed_trials:
            self.over = f"more than {self.max_failed_trials} failed trials"

    def _close(self, number: int, status: str, reason: str) -> None:
        if self._open.pop(number, None) is None:
            return  # it was closed in an earlier session, and only reported again
        record = self.records.close_trial(number, status, reason)
        self.records.prune(self.keep_trials, self.keep_epochs)
        self._num_failed += status == FAILED
        self._note_failures()
        for listener in self.listeners:
            listener.trial_ended(record)
