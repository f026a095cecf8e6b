"""A trial inside a Ray actor. The actor stays warm: the next trial starts without importing anything again."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from ray import tune

from ..config import Config
from ..training.loop import EpochResult
from .records import TrialFolder
from .searchers import METRIC
from .trial import TrialTask, run_trial

RESULT = "epoch_result"


class TrialRunner(tune.Trainable):
    """Advances ``run_trial`` one validation a step. All state is in the trial's folder; Ray only ever sees a pointer to it."""

    def setup(self, config: dict[str, Any], task: TrialTask, num_threads: int) -> None:  # type: ignore[override]  # with_parameters adds them
        torch.set_num_threads(num_threads)
        self.task = task
        self._begin(config["trial"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config["trial"])
        return True

    def _begin(self, number: int) -> None:
        self.folder = TrialFolder(self.task.search_folder, number)
        self.results: Iterator[EpochResult] | None = None
        self.best_score = -math.inf

    def step(self) -> dict[str, Any]:
        try:
            if self.results is None:
                if self.task.should_stop(0.0) and any(self.task.search_folder.glob("trials/*/metrics.jsonl")):
                    return {"done": True}  # it was proposed in time and found no time; others have a result to show
                config = Config.from_flat(self.folder.read().config)
                self.results = run_trial(self.task, self.folder.number, config)
            result = next(self.results)
        except Exception:
            self.folder.write_error(traceback.format_exc())
            raise
        if math.isfinite(result.score):
            self.best_score = max(self.best_score, result.score)
        report = {"epoch": result.epoch, RESULT: asdict(result), "done": result.end is not None}
        return report | ({METRIC: self.best_score} if math.isfinite(self.best_score) else {})

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"trial": self.folder.number}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self._begin(checkpoint["trial"])
