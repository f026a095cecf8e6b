"""What happens in a search, told once: the records are brought up to date, then every listener hears of it."""

from __future__ import annotations

from typing import Protocol

from ..training.loop import EpochResult
from .records import ENDS, FAILED, STOPPED, SearchRecords, TrialRecord


class Listener(Protocol):
    """Hears of the events of a search; ``Progress`` prints them, the MLflow tracker stores them."""

    def trial_started(self, record: TrialRecord) -> None: ...

    def trial_reported(self, record: TrialRecord, result: EpochResult) -> None: ...

    def trial_ended(self, record: TrialRecord) -> None: ...


class SearchMonitor:
    def __init__(self, records: SearchRecords, listeners: list[Listener], keep_trials: int, keep_epochs: int = 1) -> None:
        self.records, self.listeners, self.keep_trials, self.keep_epochs = records, listeners, keep_trials, keep_epochs
        self._started: dict[int, TrialRecord] = {}
        self._last: dict[int, EpochResult] = {}
        self._open: set[int] = set()

    def trial_started(self, number: int) -> None:
        self._open.add(number)
        self._started[number] = record = self.records.folder_of(number).read()
        for listener in self.listeners:
            listener.trial_started(record)

    def trial_reported(self, number: int, result: EpochResult) -> None:
        self._last[number] = result
        for listener in self.listeners:
            listener.trial_reported(self._started[number], result)

    def trial_ended(self, number: int) -> None:
        """A trial ended by itself or by the scheduler."""
        last = self._last.get(number)
        status, reason = ENDS[last.end] if last else (STOPPED, "time limit, before its first step")
        self._close(number, status, reason)

    def trial_failed(self, number: int, error: str) -> None:
        """A trial raised, or its process died.

        Args:
            error: what is known besides the traceback the trial itself may have written.
        """
        folder = self.records.folder_of(number)
        if not folder.error:
            folder.write_error(error)
        lines = folder.error.strip().splitlines()
        self._close(number, FAILED, lines[-1] if lines else "unknown")

    def interrupted(self) -> None:
        """The search ends here; what still runs is stopped."""
        for number in sorted(self._open):
            self._close(number, STOPPED, "interrupted")

    def _close(self, number: int, status: str, reason: str) -> None:
        self._open.discard(number)
        record = self.records.close_trial(number, status, reason)
        self.records.prune(self.keep_trials, self.keep_epochs)
        for listener in self.listeners:
            listener.trial_ended(record)
