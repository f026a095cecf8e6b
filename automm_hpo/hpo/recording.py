"""The searcher that stands between the searchers and Ray: it numbers and records every proposal before Ray sees it, and repeats those on record."""

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
    """Proposes what another searcher proposes, recorded.

    The other searcher's first proposals are the recorded ones, in order (it was built with them); the record, not its repetition, is
    what is used. It knows trials by their numbers, wherever they run.
    """

    def __init__(self, inner: Searcher, job: SearchJob, monitor: SearchMonitor, deadline: float | None) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.inner, self.job, self.monitor, self.deadline = inner, job, monitor, deadline
        self.records = monitor.records
        # population-based training changes the values themselves; all others need only the trial's number
        self.with_values = job.settings.scheduler in POPULATIONS
        self.num_recorded, self.num_proposed = len(self.records), 0
        self.num_asked, self.told = 0, set[int]()  # trials that the other searcher has proposed, and those whose end it has heard of
        self.numbers: dict[str, int] = {}  # by the names of those who run them
        self.failed: set[int] = set()  # in an earlier session
        self.last: dict[str, dict[str, Any]] = {}  # results of trials that have not ended

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles what it may restore from; we resume from our own records

    def suggest(self, trial_id: str) -> Any:
        self._tell_ended()
        if self.num_proposed >= self.job.num_trials:
            return Searcher.FINISHED  # Ray counts only what it was given
        repeats = self.num_proposed < self.num_recorded
        is_late = self.deadline is not None and time.time() + self.monitor.seconds_to_score > self.deadline
        if is_late and not repeats and self.num_proposed:  # the first has whatever time there is
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
        """The same, for another who runs the trials: all are proposed once more, and those that have not ended go on there."""
        self.num_recorded, self.num_proposed = len(self.records), 0
        self.numbers.clear()
        self.last.clear()
        return self

    def _ask(self) -> Any:
        """What the other searcher proposes for the next trial; anything, where it has done so already."""
        if self.num_proposed < self.num_asked:
            return {}
        raw = self.inner.suggest(str(self.num_proposed))
        self.num_asked += isinstance(raw, dict)
        return raw

    @property
    def is_cut_short(self) -> bool:
        """Whether the search ends before it has proposed all that it would."""
        return bool(self.monitor.ending or self.monitor.over)

    def end_search(self) -> None:
        """Nobody is under way any more."""
        self.monitor.over = self.monitor.over or self.monitor.ending

    def _tell_ended(self) -> None:
        """Where no scheduler has to learn from them, recorded trials that have ended need no place in Ray: of a thousand it would take half a minute."""
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
        except AutoMMHPOError:  # a computed value can be forbidden in a rare trial, which then fails with the reason
            config = {**self.job.fixed, **values}
        config = {key: value if is_json(value) else text_of(value) for key, value in config.items()}  # an objective's own may be anything
        return self.records.open_trial(raw, {key: config[key] for key in values}, config, range_scales(self.job.space))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if METRIC in result:
            self.last[trial_id] = result
            if (number := self.numbers[trial_id]) not in self.told:
                self.inner.on_trial_result(str(number), result)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        last, number = self.last.pop(trial_id, {}), self.numbers[trial_id]
        result = result or last  # Ray has none for a trial that is ended while it is paused, as halving in brackets does
        has_failed = error or FAILED in result or number in self.failed or METRIC not in result  # raised, diverged at once, or found no time
        self._tell_end(number, None if has_failed else result)

    def _tell_end(self, number: int, result: dict[str, Any] | None) -> None:
        if number not in self.told:
            self.told.add(number)
            self.inner.on_trial_complete(str(number), result, error=result is None)

    def on_pause(self, trial_id: str) -> None:
        """BOHB's scheduler tells its searcher."""
        self.inner.on_pause(str(self.numbers[trial_id]))  # type: ignore[attr-defined]

    def on_unpause(self, trial_id: str) -> None:
        self.inner.on_unpause(str(self.numbers[trial_id]))  # type: ignore[attr-defined]

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        return True  # both are known since __init__

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("searches resume from their records, never from Ray's files")
