"""Warm start: reads what earlier searches tried, and its scores, for the searcher of a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..errors import InvalidTuneSettings, NotSupported
from ..metrics import Metric
from ..space import RawProposal, SearchSpace, raw_at, tuned_keys
from ..space.kinds import same_value
from .identity import is_search, read_identity
from .job import takes_first_points
from .records import SearchRecords, TrialRecord
from .searcher_args import BLIND
from .settings import TuneSettings


@dataclass(frozen=True)
class WarmStart:
    """What is known before the first trial.

    Attributes:
        trials: (raw proposal, score) of earlier trials that lie in this search's space, best first.
        num_others: number of scored earlier trials that do not.
    """

    trials: tuple[tuple[RawProposal, float], ...] = ()
    num_others: int = 0

    def before(self, points: Sequence[RawProposal]) -> tuple[RawProposal, ...]:
        """The points to try first: the best known trial, then ``points``."""
        best = tuple(raw for raw, _ in self.trials[:1])
        return best + tuple(point for point in points if point not in best)

    @property
    def line(self) -> str:
        others = f", {self.num_others:,} more lie outside this space" if self.num_others else ""
        return f"warm start: {len(self.trials):,} earlier trials are known{others}; the best of them is the first to be tried"


def read_warm_start(settings: TuneSettings, space: SearchSpace, fixed: Mapping[str, Any], metric: Metric, resuming: bool) -> WarmStart:
    """Reads the trials of the searches in ``settings.warm_start`` that lie in this search's space.

    A trial lies in the space if its hyperparameters do, and if those that were tuned then and are fixed now had the same values.

    Args:
        fixed: the hyperparameters that do not vary, by dotted key.
        resuming: whether this search is resumed; then folders of the earlier searches may be missing.

    Raises:
        InvalidTuneSettings: a folder holds no search, or one by another metric; no trial lies in the space; the searcher does not learn from trials.
        NotSupported: the searcher is an object that cannot be told of trials.
    """
    if not settings.warm_start:
        return WarmStart()
    if settings.searcher in BLIND:
        raise InvalidTuneSettings(
            f"warm_start: {settings.searcher} learns from no trial, neither its own nor an earlier one; give another searcher, or points_to_evaluate"
        )
    if not takes_first_points(settings):
        raise NotSupported(f"warm_start: {type(settings.searcher).__name__} cannot be told of earlier trials; give a searcher by its name")
    folders = [Path(folder) for folder in settings.warm_start if not resuming or is_search(Path(folder) / "search")]
    scored = [record for folder in folders for record in _trials(folder, metric) if record.best]
    scored.sort(key=attrgetter("rank"), reverse=True)
    known = [(raw, record.best.score) for record in scored if record.best and (raw := _raw(record, space, fixed)) is not None]
    if not known and not resuming:
        absent = [key for key in space if scored and not any(key in record.best_config for record in scored)]
        why = f"; they have no {', '.join(map(repr, absent))}" if absent else ""
        raise InvalidTuneSettings(f"warm_start: {', '.join(settings.warm_start)}: none of its {len(scored):,} scored trials lies in this search space{why}")
    return WarmStart(tuple(known), len(scored) - len(known))


def _trials(folder: Path, metric: Metric) -> list[TrialRecord]:
    if not is_search(folder / "search"):
        raise InvalidTuneSettings(f"warm_start: {folder} holds no search; expected the save_path of an earlier one")
    before = read_identity(folder / "search").metric
    if (before.name, before.mode) != (metric.name, metric.mode):
        went, goes = f"{before.name} ({before.mode})", f"{metric.name} ({metric.mode})"
        raise InvalidTuneSettings(f"warm_start: the search in {folder} used {went}, this one uses {goes}: their scores cannot be compared")
    return SearchRecords(folder / "search").trials()


def _raw(record: TrialRecord, space: SearchSpace, fixed: Mapping[str, Any]) -> RawProposal | None:
    searched = {key: value for key, value in record.best_tuned.items() if key not in tuned_keys(space)}
    if not all(key in fixed and same_value(fixed[key], value) for key, value in searched.items()):
        return None
    return raw_at(space, record.best_config)
