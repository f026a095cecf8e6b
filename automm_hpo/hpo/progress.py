"""What a person sees while a search runs: a line when a trial starts, improves or ends; a table at the end; nothing when quiet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

from ..metrics import Metric
from ..training.loop import EpochResult
from .records import FAILED, SearchRecords, TrialRecord

SECONDS_BETWEEN_BESTS = 10.0  # an improving trial says so with every epoch; a person reads one line in a while


class Progress:
    """Args:
    verbosity: 0 prints nothing, 1 the summary, 2 and more everything.
    deadline: time.time() at which the call must return; None: no limit.
    """

    def __init__(self, metric: Metric, verbosity: int, num_trials: int, deadline: float | None, write: Callable[[str], None] = print) -> None:
        self.metric, self.verbosity, self.num_trials, self.deadline, self.write = metric, verbosity, num_trials, deadline, write
        self.best: tuple[EpochResult, int] | None = None
        self._said_best = 0.0

    def say(self, line: str, level: int = 2) -> None:
        if self.verbosity >= level:
            self.write(line)

    def trial_resumed(self, record: TrialRecord) -> None:
        if record.best and (self.best is None or record.best.rank > self.best[0].rank):
            self.best = (record.best, record.number)

    def trial_retried(self, record: TrialRecord, cause: str) -> None:
        self.say(f"{self._trial(record)} lost its process and goes on in another ({cause})", level=1)

    def trial_started(self, record: TrialRecord) -> None:
        if record.results:
            self.say(f"{self._trial(record)} goes on at epoch {record.epochs:g}")
            return
        values = " ".join(f"{_short(key, record.tuned)}={_value(value)}" for key, value in record.tuned.items())
        self.say(f"trial {record.number:>3} starts  {values}" if values else "training starts")

    def trial_reported(self, record: TrialRecord, result: EpochResult) -> None:
        if math.isnan(result.score) or (self.best is not None and result.rank <= self.best[0].rank):
            return
        self.best = (result, record.number)
        if time.time() - self._said_best >= SECONDS_BETWEEN_BESTS and result.end is None:
            self._said_best = time.time()
            self.say(f"{self._trial(record)} best    {self._metric(result)} at epoch {result.epoch:g}{self._time_left()}")

    def trial_ended(self, record: TrialRecord) -> None:
        outcome = f"{self._metric(record.best)} at epoch {record.best.epoch:g} of {record.epochs:g}" if record.best else "no score"
        why = f" ({record.reason})" if record.reason else ""
        best = f" | best so far {self.best[0].metric:.4f} (trial {self.best[1]})" if self.best and self.num_trials > 1 else ""
        word = "fails " if record.status == FAILED else "ends  "
        self.say(f"{self._trial(record)} {word}  {record.status.lower()}{why}: {outcome}, {record.seconds:.1f} s{best}{self._time_left()}")

    def summary(self, records: SearchRecords) -> None:
        """The table of all trials, best first."""
        if self.num_trials == 1:
            return
        table = records.leaderboard(self.metric).drop(columns=["size_mb"])
        keys = [column for column in table.columns if "." in column]
        table = table.rename(columns={key: _short(key, keys) for key in keys})
        table["reason"] = table["reason"].str.slice(0, 40)
        self.say(table.to_string(index=False, float_format=lambda number: f"{number:.4g}", na_rep=""), level=1)

    def _trial(self, record: TrialRecord) -> str:
        return f"trial {record.number:>3}" if self.num_trials > 1 else "training"

    def _metric(self, result: EpochResult) -> str:
        return f"{self.metric.name} {result.metric:.4f}"

    def _time_left(self) -> str:
        return "" if self.deadline is None else f" | {max(0.0, self.deadline - time.time()):.0f} s left"


def _short(key: str, keys: Iterable[str]) -> str:
    """The last word of a dotted key, or all of it where two tuned keys share that word."""
    last = key.rsplit(".", 1)[-1]
    return key if sum(other.rsplit(".", 1)[-1] == last for other in keys) > 1 else last


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
