"""The searcher between the actual searchers and Ray: numbers and records every proposal before Ray sees it, and repeats those on record."""

from __future__ import annotations

import time
from typing import Any, Self

from ray.tune.search import Searcher

from ..errors import AutoMMHPOError
from ..files import is_json
from ..sections import unwrapped
from ..space import RawProposal, finish_proposal, range_scales
from ..space.kinds import text_of
from . import records
from .job import SearchJob
from .monitor import SearchMonitor
from .records import TIME_LIMIT, TrialRecord
from .result_keys import FAILED, METRIC
from .scheduler_args import POPULATIONS


class RecordingSearcher(Searcher):
    """Passes on what another searcher proposes, and records it.

    The other searcher was built with the recorded proposals as its first points, so it proposes them again, in order. The trial then uses
    the record, not the repeated proposal. The other searcher knows trials by their numbers, wherever they run.
    """

    def __init__(self, inner: Searcher, job: SearchJob, monitor: SearchMonitor, deadline: float | None) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.inner, self.job, self.monitor, self.deadline = inner, job, monitor, deadline
        self.records = monitor.records
        # schedulers of population-based training change the values; all others need only the trial's number
        self.with_values = job.settings.scheduler in POPULATIONS
        self.num_recorded, self.num_proposed = len(self.records), 0
        self.num_asked, self.told = 0, set[int]()  # how many trials the other searcher has proposed, and those whose end it was told
        self.numbers: dict[str, int] = {}  # trial id (Ray's, or that of ``in_process``) -> trial number
        self.failed: set[int] = set()  # trials that failed in an earlier session
        self.last: dict[str, dict[str, Any]] = {}  # trial id -> last result, while the trial runs

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles the searcher to restore it later; we resume from our own records

    def suggest(self, trial_id: str) -> Any:
        self._tell_ended()
        if self.num_proposed >= self.job.num_trials:
            return Searcher.FINISHED  # Ray does not count the trials that _tell_ended skips
        repeats = self.num_proposed < self.num_recorded
        is_late = self.deadline is not None and time.time() + self.monitor.seconds_to_score > self.deadline
        if is_late and not repeats and self.num_proposed:  # the first trial runs however little time is left
            self.monitor.ending = self.monitor.ending or TIME_LIMIT
        if self.monitor.over or self.monitor.ending:
            return Searcher.FINISHED
        raw = self._ask()
        if raw is None or raw == Searcher.FINISHED:
            return raw
        if repeats:
            record = self.records.folder_of(self.num_proposed).read()
            if record.status == records.FAILED:
                self.failed.add(record.number)
        else:
            record = self._open_trial({path: unwrapped(value) for path, value in raw.items()})
        self.numbers[trial_id] = record.number
        self.num_proposed += 1
        return {"trial": record.number, "segment": record.segments[-1].number} | (dict(record.tuned) if self.with_values else {})

    def again(self) -> Self:
        """The searcher, reset for another runner of trials: proposes all of them once more, so that unfinished ones continue there."""
        self.num_recorded, self.num_proposed = len(self.records), 0
        self.numbers.clear()
        self.last.clear()
        return self

    def _ask(self) -> Any:
        """The other searcher's proposal for the next trial; an empty dict if it has proposed that trial already."""
        if self.num_proposed < self.num_asked:
            return {}
        raw = self.inner.suggest(str(self.num_proposed))
        self.num_asked += isinstance(raw, dict)
        return raw

    @property
    def is_cut_short(self) -> bool:
        """Whether the search ends before all trials were proposed."""
        return bool(self.monitor.ending or self.monitor.over)

    def end_search(self) -> None:
        """Ends a search that starts no more trials; to be called once no trial is training."""
        self.monitor.over = self.monitor.over or self.monitor.ending

    def _tell_ended(self) -> None:
        """Skips replaying ended trials through Ray with FIFO, which learns nothing from them; replaying a thousand would take half a minute."""
        while self.job.settings.scheduler == "FIFO" and self.num_proposed < self.num_recorded and self.records.has_ended(self.num_proposed):
            record = self.records.folder_of(self.num_proposed).read()
            if not isinstance(self._ask(), dict):
                return
            self._tell_end(record.number, None if record.status == records.FAILED or record.best is None else {METRIC: record.best.score})
            self.num_proposed += 1

    def _open_trial(self, raw: RawProposal) -> TrialRecord:
        values = finish_proposal(self.job.space, raw, self.job.fixed, (self.job.seed, self.num_proposed))
        try:
            config = self.job.complete(values)
        except AutoMMHPOError:  # a computed value can be invalid in a rare trial, which then fails with this error
            config = {**self.job.fixed, **values}
        config = {key: value if is_json(value) else text_of(value) for key, value in config.items()}  # an objective's values may be any objects
        return self.records.open_trial(raw, {key: config[key] for key in values}, config, range_scales(self.job.space))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if METRIC in result:
            self.last[trial_id] = result
            if (number := self.numbers[trial_id]) not in self.told:
                self.inner.on_trial_result(str(number), result)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        last, number = self.last.pop(trial_id, {}), self.numbers[trial_id]
        result = result or last  # Ray passes none if a scheduler, such as HyperBand, ends a trial while it is paused
        has_failed = error or FAILED in result or number in self.failed or METRIC not in result  # it raised, diverged at once, or had no time
        self._tell_end(number, None if has_failed else result)

    def _tell_end(self, number: int, result: dict[str, Any] | None) -> None:
        if number not in self.told:
            self.told.add(number)
            self.inner.on_trial_complete(str(number), result, error=result is None)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        return True  # both were set in __init__

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("searches resume from their records, never from Ray's files")
