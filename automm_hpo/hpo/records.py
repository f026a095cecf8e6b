"""What a search leaves on disk, and what is read from it: one folder a trial, written as it happens.

search/trials/0003/   config.json     number, tuned values, whole config, status, reason
                      metrics.jsonl   one EpochResult a line, written by the trial itself
                      error.txt       the traceback of a trial that failed
                      checkpoints/    see training/checkpoint.py
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..config import Config
from ..errors import AllTrialsFailed
from ..files import read_json, write_json
from ..metrics import Metric
from ..training.checkpoint import WEIGHTS, checkpoint_name, list_checkpoints, prune_checkpoints, result_from_json, result_to_json
from ..training.loop import EpochResult

RUNNING, COMPLETED, STOPPED, DIVERGED, FAILED = "RUNNING", "COMPLETED", "STOPPED", "DIVERGED", "FAILED"

# the `end` of a trial's last EpochResult -> status and reason of its row
ENDS = {
    "max_epochs": (COMPLETED, ""),
    "patience": (COMPLETED, "no better score within optim.patience validations"),
    "time_limit": (STOPPED, "time limit"),
    "diverged": (DIVERGED, "loss or predictions became nan or infinite"),
    None: (STOPPED, "scheduler"),
}


@dataclass(frozen=True)
class TrialRecord:
    """One trial as its files tell it.

    Attributes:
        number: counted from 0 in the order of proposal.
        tuned: the values the search chose, by dotted key.
        config: all hyperparameters, by dotted key.
        results: one a validation, in order.
        weights_bytes: of one set of weights; 0 where none were kept.
    """

    number: int
    tuned: Mapping[str, Any]
    config: Mapping[str, Any]
    status: str = RUNNING
    reason: str = ""
    started: float = 0.0
    weights_bytes: int = 0
    results: tuple[EpochResult, ...] = ()

    @property
    def best(self) -> EpochResult | None:
        """The best epoch by ``EpochResult.rank``; None where no epoch has a score."""
        finite = [result for result in self.results if math.isfinite(result.score)]
        return max(finite, key=lambda result: result.rank, default=None)

    @property
    def epochs(self) -> float:
        return self.results[-1].epoch if self.results else 0.0

    @property
    def seconds(self) -> float:
        return self.results[-1].seconds if self.results else 0.0


class TrialFolder:
    """The files of one trial."""

    def __init__(self, search_folder: Path, number: int) -> None:
        self.number = number
        self.path = search_folder / "trials" / f"{number:04d}"
        self.checkpoints = self.path / "checkpoints"

    def create(self, tuned: Mapping[str, Any], config: Config) -> TrialRecord:
        self.path.mkdir(parents=True)
        record = TrialRecord(self.number, tuned, config.flat(), started=time.time())
        self.write(record)
        return record

    def write(self, record: TrialRecord) -> None:
        fields = ("number", "tuned", "config", "status", "reason", "started", "weights_bytes")
        write_json(self.path / "config.json", {field: getattr(record, field) for field in fields})

    def read(self) -> TrialRecord:
        return replace(TrialRecord(**read_json(self.path / "config.json")), results=self.results())

    def append(self, result: EpochResult) -> None:
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(result_to_json(result)) + "\n")

    def results(self) -> tuple[EpochResult, ...]:
        log = self.path / "metrics.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
        return tuple(result_from_json(json.loads(line)) for line in lines if line.endswith("\n"))  # a kill can leave half a line

    def checkpoint(self, result: EpochResult) -> Path:
        return self.checkpoints / checkpoint_name(result)

    @property
    def error(self) -> str:
        path = self.path / "error.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def write_error(self, traceback: str) -> None:
        self.path.joinpath("error.txt").write_text(traceback, encoding="utf-8")


def _rank(record: TrialRecord) -> tuple[float, float]:
    return record.best.rank if record.best else (-math.inf, -math.inf)


class SearchRecords:
    """All trials of a search. The driver's view: it opens trials, closes them, and decides whose weights are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._closed: dict[int, TrialRecord] = {}  # an ended trial's files no longer change

    def folder_of(self, number: int) -> TrialFolder:
        return TrialFolder(self.folder, number)

    def open_trial(self, tuned: Mapping[str, Any], config: Config) -> TrialRecord:
        """Numbers a trial and writes its configuration, before anything runs it."""
        return self.folder_of(len(self)).create(tuned, config)

    def close_trial(self, number: int, status: str, reason: str) -> TrialRecord:
        folder = self.folder_of(number)
        stored = list_checkpoints(folder.checkpoints)
        size = (stored[-1] / WEIGHTS).stat().st_size if stored else 0
        record = replace(folder.read(), status=status, reason=reason, weights_bytes=size)
        folder.write(record)
        self._closed[number] = record
        return record

    def prune(self, keep_trials: int, keep_epochs: int = 1) -> None:
        """Of the ended trials the best ``keep_trials`` keep the weights of their best epoch, the first of them those of ``keep_epochs``; rows stay for ever."""
        ranked = sorted(self._closed.values(), key=_rank, reverse=True)
        for rank, record in enumerate(ranked):
            kept = keep_epochs if rank == 0 else 1 if rank < keep_trials else 0
            prune_checkpoints(self.folder_of(record.number).checkpoints, num_best=kept, num_states=0)

    def __len__(self) -> int:
        return len(self._numbers())

    def _numbers(self) -> list[int]:
        return sorted(int(path.parent.name) for path in self.folder.glob("trials/*/config.json"))

    def trials(self) -> list[TrialRecord]:
        """In the order of proposal."""
        return [self._closed.get(number) or self.folder_of(number).read() for number in self._numbers()]

    def best(self) -> TrialRecord | None:
        """The trial with the best best epoch; None where no trial has a score."""
        return next((record for record in self.ranked() if record.best), None)

    def ranked(self) -> list[TrialRecord]:
        """By their best epoch, those without a score last."""
        return sorted(self.trials(), key=_rank, reverse=True)

    def raise_if_all_failed(self) -> None:
        """Raises:
        AllTrialsFailed: no trial has a score; the causes are counted, and the first traceback is in the message.
        """
        trials = self.trials()
        if any(record.best for record in trials):
            return
        causes = Counter(record.reason or record.status for record in trials).most_common()
        counted = "; ".join(f"{count} x {cause}" for cause, count in causes) or "none was started"
        first = next((f"\nThe first traceback:\n{error}" for record in trials if (error := self.folder_of(record.number).error)), "")
        raise AllTrialsFailed(f"none of {len(trials)} trials has a score: {counted}{first}")

    def leaderboard(self, metric: Metric) -> pd.DataFrame:
        """One row a trial, best first, trials without a score last.

        Returns:
            Columns: trial, status, score (higher is better), the metric in its natural sign where that differs, best_epoch, epochs,
            seconds, size_mb (one set of weights), reason, and one column for each tuned hyperparameter.
        """
        ranked = self.ranked()
        keys = dict.fromkeys(key for record in ranked for key in record.tuned)
        rows = []
        for record in ranked:
            row: dict[str, Any] = {"trial": record.number, "status": record.status, "score": record.best.score if record.best else math.nan}
            if not metric.higher_is_better:
                row[metric.name] = record.best.metric if record.best else math.nan
            row |= {"best_epoch": record.best.epoch if record.best else math.nan, "epochs": record.epochs, "seconds": round(record.seconds, 2)}
            row |= {"size_mb": round(record.weights_bytes / 1e6, 2), "reason": record.reason}
            rows.append(row | {key: record.tuned.get(key) for key in keys})
        return pd.DataFrame(rows)
