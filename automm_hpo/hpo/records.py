"""The records of a search on disk: one folder per trial, written as it runs.

search/trials/0003/   config.json     number, raw proposal, tuned values, whole config, segments, status, reason
                      metrics.jsonl   one EpochResult per line, written by the trial itself
                      error.txt       the traceback of a trial that failed
                      checkpoints/    see training/checkpoint_folder.py
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import AllTrialsFailed
from ..files import read_json, room_needed, write_json, write_text
from ..metrics import Metric
from ..training.checkpoint_folder import checkpoint_name, list_checkpoints, prune_checkpoints, weights_bytes
from ..training.result import NO_RANK, EpochResult, result_from_json, result_to_json

RUNNING, COMPLETED, STOPPED, DIVERGED, FAILED = "RUNNING", "COMPLETED", "STOPPED", "DIVERGED", "FAILED"

TIME_LIMIT, INTERRUPTED, NO_ROOM = "time limit", "interrupted", "no room on the disk"
BY_SCHEDULER, TRIAL_TIME_LIMIT = "scheduler", "trial time limit"

# the `end` of a trial's last EpochResult -> status and reason of its row
ENDS = {
    "max_epochs": (COMPLETED, ""),
    "returned": (COMPLETED, ""),  # a user's objective
    "patience": (COMPLETED, "no better score within optim.patience validations"),
    "time_limit": (STOPPED, TIME_LIMIT),
    "interrupted": (STOPPED, INTERRUPTED),
    "trial_time_limit": (STOPPED, TRIAL_TIME_LIMIT),
    "diverged": (DIVERGED, "loss or predictions became nan or infinite"),
    "not_finite": (DIVERGED, "the objective reported nan or an infinite value"),
    None: (STOPPED, BY_SCHEDULER),
}


def is_for_good(status: str, reason: str) -> bool:
    """Whether a trial with this status and reason has ended for good. A resumed search continues trials that stopped only because the search did."""
    return status != RUNNING and (status != STOPPED or reason in (BY_SCHEDULER, TRIAL_TIME_LIMIT))


def ends_for_good(end: str | None) -> bool:
    """Whether a trial has ended for good if its last result has this ``end``."""
    return end is not None and is_for_good(*ENDS[end])


def count_causes(causes: Iterable[str]) -> list[tuple[str, int]]:
    """Counts causes, most frequent first. Causes that differ only in numbers, such as bytes, count as one, named by the first of them."""
    named: dict[str, str] = {}
    counts = Counter[str]()
    for cause in causes:
        counts[named.setdefault(re.sub(r"\d+(\.\d+)?", "0", cause), cause)] += 1
    return counts.most_common()


REOPENING = "reopening"  # file in the search's folder while all trials are being reopened
LEADERBOARD = ("trial", "status", "score", "best_epoch", "epochs", "seconds", "size_mb", "reason")


@dataclass(frozen=True)
class Segment:
    """A stretch of a trial under one configuration. Only population-based training has more than one per trial.

    Attributes:
        number: counted from 0.
        parent, epoch: the trial whose weights the segment began with, and their epoch there; None and 0 for the first segment.
        tuned: the values that the search chose, by dotted key.
    """

    number: int
    parent: int | None
    epoch: float
    tuned: Mapping[str, Any]


@dataclass(frozen=True)
class TrialRecord:
    """One trial, as read from its files.

    Attributes:
        number: counted from 0 in the order of proposal.
        tuned: the values that the search chose for the last segment, by dotted key.
        config: all hyperparameters of the last segment, by dotted key.
        started, ended: time.time() of the first start and of the end; ``ended`` is 0 while the trial runs.
        weights_bytes: size of one set of weights; 0 if none were kept.
        results: one per validation, in order.
        raw: the searcher's raw proposal, which a resumed search proposes again.
        segments: all segments, in order.
        scales: ``log`` or ``linear`` for each value drawn from a range, by dotted key.
    """

    number: int
    tuned: Mapping[str, Any]
    config: Mapping[str, Any]
    status: str = RUNNING
    reason: str = ""
    started: float = 0.0
    ended: float = 0.0
    weights_bytes: int = 0
    results: tuple[EpochResult, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    scales: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line; a notebook would show pages of results and hyperparameters."""
        score = f"{self.metric:.4f} at epoch {self.best.epoch:g}" if self.best else "no score"
        values = [f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value!r}" for key, value in self.best_tuned.items()]
        return f"TrialRecord({', '.join([f'{self.number}: {self.status.lower()}', score, *values])})"

    @property
    def best(self) -> EpochResult | None:
        """The best epoch by ``EpochResult.rank``; None if no epoch has a score."""
        finite = [result for result in self.results if math.isfinite(result.score)]
        return max(finite, key=lambda result: result.rank, default=None)

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key: trials by their best epoch, the best highest; those without a score are below all others."""
        return self.best.rank if self.best else NO_RANK

    @property
    def metric(self) -> float:
        """The metric of the best epoch, in its natural sign; nan if no epoch has a score."""
        return self.best.metric if self.best else math.nan

    @property
    def best_tuned(self) -> Mapping[str, Any]:
        """The tuned values of the segment with the best epoch."""
        return self.segments[self.best.segment].tuned if self.best and self.segments else self.tuned

    @property
    def best_config(self) -> Mapping[str, Any]:
        """All hyperparameters of the segment with the best epoch."""
        return {**self.config, **self.best_tuned}

    @property
    def epochs(self) -> float:
        return self.results[-1].epoch if self.results else 0.0

    @property
    def seconds(self) -> float:
        """Time spent on training and validation; for a trial that failed before its first validation, the time until then."""
        if not self.results and self.status == FAILED:
            return max(0.0, self.ended - self.started)
        return self.results[-1].seconds if self.results else 0.0

    @property
    def has_ended(self) -> bool:
        """Whether the trial has ended for good: a resumed search reports it, but does not touch it."""
        return is_for_good(self.status, self.reason)


def best_of(trials: Iterable[TrialRecord]) -> TrialRecord | None:
    """The trial with the best epoch, the first of equals; None if no trial has a score."""
    return max((record for record in trials if record.best), key=attrgetter("rank"), default=None)


def ranked(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials by their best epoch, best first, those without a score last."""
    return sorted(trials, key=attrgetter("rank"), reverse=True)


def reaches(result: EpochResult | None, goal: float | None) -> bool:
    """Whether an epoch's score reaches the goal; False if there is no epoch or no goal."""
    return result is not None and goal is not None and result.score >= goal


class TrialFolder:
    """The files of one trial."""

    def __init__(self, search_folder: Path, number: int) -> None:
        self.number = number
        self.path = search_folder / "trials" / f"{number:04d}"
        self.checkpoints = self.path / "checkpoints"

    def create(self, raw: Mapping[str, Any], tuned: Mapping[str, Any], config: Mapping[str, Any], scales: Mapping[str, str]) -> TrialRecord:
        self.path.mkdir(parents=True, exist_ok=True)  # a kill may have left an empty folder
        record = TrialRecord(self.number, tuned, config, started=time.time(), raw=raw, segments=(Segment(0, None, 0.0, tuned),), scales=scales)
        self.write(record)
        return record

    def write(self, record: TrialRecord) -> None:
        stored = {item.name: getattr(record, item.name) for item in fields(record) if item.name != "results"}
        write_json(self.path / "config.json", stored | {"segments": [asdict(segment) for segment in record.segments]})

    def read(self) -> TrialRecord:
        stored = read_json(self.path / "config.json")
        segments = tuple(Segment(**segment) for segment in stored.pop("segments"))
        return TrialRecord(**stored, segments=segments, results=self.results())

    def append(self, result: EpochResult) -> None:
        if _is_torn(self.path / "metrics.jsonl"):  # else the line would join an incomplete one that a full disk or a kill has left
            self.rewrite_results(self.results())
        line = json.dumps(result_to_json(result)) + "\n"
        with room_needed(self.path / "metrics.jsonl", len(line), torn=True), open(self.path / "metrics.jsonl", "a", encoding="utf-8") as log:
            log.write(line)

    def results(self) -> tuple[EpochResult, ...]:
        log = self.path / "metrics.jsonl"
        results: list[EpochResult] = []
        for line in log.read_bytes().splitlines(keepends=True) if log.exists() else []:
            if (result := _result(line)) is None:
                break
            results.append(result)
        return tuple(results)

    def rewrite_results(self, results: Sequence[EpochResult]) -> None:
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(result_to_json(result)) + "\n" for result in results))

    def checkpoint(self, result: EpochResult) -> Path:
        return self.checkpoints / checkpoint_name(result)

    @property
    def error(self) -> str:
        path = self.path / "error.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def forget_error(self) -> None:
        """Removes the error of a trial that is tried again."""
        (self.path / "error.txt").unlink(missing_ok=True)

    def write_error(self, traceback: str) -> None:
        with room_needed(self.path / "error.txt", len(traceback)):
            self.path.joinpath("error.txt").write_text(traceback, encoding="utf-8", errors="backslashreplace")  # it may contain file names that are not UTF-8


def _result(line: bytes) -> EpochResult | None:
    """The result in a line of a log; None if the line is incomplete, which a kill can leave, or damaged, as after a power cut."""
    try:
        return result_from_json(json.loads(line)) if line.endswith(b"\n") else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _is_torn(log: Path) -> bool:
    """Whether the last line of the log is incomplete."""
    if not log.exists() or not log.stat().st_size:
        return False
    with open(log, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


class SearchRecords:
    """All trials of a search, for its driver, which opens and closes them and decides whose weights are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._closed: dict[int, TrialRecord] = {}  # trials whose files no longer change
        self._keepers: list[TrialRecord] = []  # the closed trials that still have weights
        self._count = len(self._numbers())  # only this process assigns numbers

    def folder_of(self, number: int) -> TrialFolder:
        return TrialFolder(self.folder, number)

    def open_trial(self, raw: Mapping[str, Any], tuned: Mapping[str, Any], config: Mapping[str, Any], scales: Mapping[str, str] | None = None) -> TrialRecord:
        """Numbers a trial and writes its configuration, before anything runs it."""
        scales = {key: scale for key, scale in (scales or {}).items() if key in tuned}
        record = self.folder_of(self._count).create(raw, tuned, config, scales)
        self._count += 1
        return record

    def reopen_trial(self, number: int) -> TrialRecord:
        """Marks a trial as running, for the first time or again."""
        self._closed.pop(number, None)
        self._keepers = [record for record in self._keepers if record.number != number]
        self.folder_of(number).forget_error()
        record = self.folder_of(number).read()
        record = replace(record, status=RUNNING, reason="", ended=0.0, started=record.started if record.results else time.time())
        self.folder_of(number).write(record)
        return record

    def have_all_failed(self) -> bool:
        """Whether there are trials, all have ended, and none has a score; or ``reopen_all``, which follows from that, was cut short."""
        trials = self.trials()
        if (self.folder / REOPENING).exists():
            return True
        lost = any(not record.results and list_checkpoints(self.folder_of(record.number).checkpoints) for record in trials)  # a damaged log
        return bool(trials) and not lost and all(record.has_ended and not record.best for record in trials)

    def reopen_failed(self) -> None:
        """Reopens failed trials, which continue from their newest checkpoints if they have any."""
        for record in self.trials():
            if record.status == FAILED:
                self.reopen_trial(record.number)

    def reopen_all(self) -> None:
        """Makes every trial start over, because the cause of its failure may have been fixed."""
        (self.folder / REOPENING).touch()
        for number in self._numbers():
            shutil.rmtree(self.folder_of(number).checkpoints, ignore_errors=True)
            self.folder_of(number).rewrite_results(())
            self.reopen_trial(number)
        (self.folder / REOPENING).unlink()

    def close_trial(self, number: int, status: str, reason: str) -> TrialRecord:
        folder = self.folder_of(number)
        stored = list_checkpoints(folder.checkpoints)
        size = weights_bytes(stored[-1]) if stored else 0
        record = replace(folder.read(), status=status, reason=reason, ended=time.time(), weights_bytes=size)
        folder.write(record)
        self.remember(record)
        return record

    def remember(self, record: TrialRecord) -> None:
        """Adds a trial to the closed ones, because it ended in this session or for good. Its files are not read again."""
        self._closed[record.number] = record
        self._keepers.append(record)

    def is_closed(self, number: int) -> bool:
        return number in self._closed

    def has_ended(self, number: int) -> bool:
        return self.is_closed(number) and self._closed[number].has_ended

    def prune(self, keep_trials: int, keep_epochs: int = 1) -> None:
        """Deletes weights. The best ``keep_trials`` ended trials keep those of their best epoch, the very best those of its ``keep_epochs`` best.

        Trials that may continue keep what they need for that. Records and results of all trials are kept.
        """
        self._keepers.sort(key=attrgetter("number"))
        self._keepers.sort(key=attrgetter("rank"), reverse=True)  # equal trials stay in this order, as in ``best_of``
        ended = [record for record in self._keepers if record.has_ended]
        for rank, record in enumerate(ended):
            kept = keep_epochs if rank == 0 else 1 if rank < keep_trials else 0
            prune_checkpoints(self.folder_of(record.number).checkpoints, num_best=kept, num_states=0)
        self._keepers = ended[:keep_trials] + [record for record in self._keepers if not record.has_ended]

    def __len__(self) -> int:
        return self._count

    def _numbers(self) -> list[int]:
        return sorted(int(path.parent.name) for path in self.folder.glob("trials/*/config.json"))

    def trials(self) -> list[TrialRecord]:
        """All trials, in the order of proposal."""
        return [self._closed.get(number) or self.folder_of(number).read() for number in self._numbers()]

    def best(self) -> TrialRecord | None:
        """The trial with the best epoch; None if no trial has a score."""
        return best_of(self.trials())

    def ranked(self) -> list[TrialRecord]:
        """All trials by their best epoch, best first, those without a score last."""
        return ranked(self.trials())

    def raise_if_all_failed(self, shown: str = "", again: str = "", lower: str = "") -> None:
        """Raises an error if the search found nothing.

        Args:
            shown: hint where its trials can be seen.
            again: hint how to try its trials again.
            lower: hint instead of ``again`` if all of them diverged.

        Raises:
            AllTrialsFailed: no trial has a score; the causes are counted, and the first traceback is in the message.
        """
        trials = self.trials()
        if any(record.best for record in trials):
            return
        broken = [record for record in trials if record.status in (FAILED, DIVERGED)]  # the others did not start, or had no time
        causes = count_causes(record.reason or record.status for record in broken or trials)
        counted = "; ".join(f"{count} x {cause}" for cause, count in causes) or "none was started"
        first = next((f"\nThe first traceback:\n{error}" for record in trials if (error := self.folder_of(record.number).error)), "")
        all_diverged = all(record.status == DIVERGED for record in broken)
        hint = "" if not broken else lower if all_diverged and lower else again
        hints = [f"none of {len(trials)} trials has a score: {counted}", hint, shown if trials else ""]
        raise AllTrialsFailed("; ".join(filter(None, hints)) + first)


def leaderboard(trials: Iterable[TrialRecord], metric: Metric) -> pd.DataFrame:
    """A table with one row per trial, best first, trials without a score last.

    Returns:
        Columns: trial, status, score (higher is better), the metric in its natural sign if lower is better, best_epoch, epochs, seconds,
        size_mb (one set of weights), reason, one column for each tuned hyperparameter (nan for trials without it), and one for each other
        value that an objective reported with its best score. If an objective uses one of these names, its metric's column is ``metric``,
        a hyperparameter's ``config/<name>``, and another value's ``reported/<name>``.
    """
    ordered = ranked(trials)
    keys = dict.fromkeys(key for record in sorted(ordered, key=attrgetter("number")) for key in record.tuned)
    natural = "metric" if metric.name in LEADERBOARD else metric.name
    taken = {*LEADERBOARD, natural}
    rows = []
    for record in ordered:
        best = record.best
        row: dict[str, Any] = {"trial": record.number, "status": record.status, "score": best.score if best else math.nan}
        if not metric.higher_is_better:
            row[natural] = record.metric
        row |= {"best_epoch": best.epoch if best else math.nan, "epochs": record.epochs, "seconds": round(record.seconds, 2)}
        row |= {"size_mb": round(record.weights_bytes / 1e6, 2), "reason": record.reason}
        rows.append(row)
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in (rows[0] if rows else LEADERBOARD)}
    for key in keys:
        values = [record.best_tuned.get(key, math.nan) for record in ordered]
        # object, because pandas would turn None (a value) into nan, and its strings cannot hold file names that are not UTF-8
        dtype = object if None in values or "\\udc" in ascii(values) else None
        columns[f"config/{key}" if key in taken else key] = pd.Series(values, dtype=dtype)
    for name in dict.fromkeys(name for record in ordered if record.best for name in record.best.extra):
        column = f"reported/{name}" if name in columns else name
        columns[column] = [record.best.extra.get(name, math.nan) if record.best else math.nan for record in ordered]
    return pd.DataFrame(columns)
