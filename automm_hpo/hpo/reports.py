"""Runs a trial report by report, for a Ray actor or in this process."""

from __future__ import annotations

import contextlib
import math
import os
import time
import traceback
from collections.abc import Generator
from dataclasses import asdict
from typing import Any

from ..errors import AutoMMHPOError, DiskFull, InvalidReport
from ..training.result import EpochResult
from .records import TrialFolder
from .result_keys import DISK_FULL, FAILED, HOPELESS, METRIC, REPLAYED, RESULT, SCORE, TIME_ATTR, WENT_ON
from .trial import STOP_FILE, TrialStep, TrialTask, run_trial

BROKEN_GPU = ("CUDA error", "cuDNN error", "Triton Error [CUDA]")  # after these, nothing else of the process runs on the GPU


class TrialReports:
    """Advances ``run_trial`` by one validation per report.

    Args:
        metric: the metric's name, under which a user's scheduler finds it in reports.
        known: (segment, epoch) up to which everything was reported before, and is skipped; None: nothing was.

    Attributes:
        last: the result of the newest report.
    """

    def __init__(self, task: TrialTask, number: int, metric: str, known: tuple[int, float] | None = None) -> None:
        self.task, self.folder, self.metric_name, self.known = task, TrialFolder(task.search_folder, number), metric, known
        self.last: EpochResult | None = None
        self._steps: Generator[TrialStep] | None = None
        self._best_score = -math.inf

    def next(self) -> dict[str, Any]:
        """The next report, with the keys of ``result_keys``; ``done`` marks the last. If the trial raises, that is its last report."""
        try:
            if self._steps is None:
                if not self.folder.results() and (self._too_late() or (self.task.search_folder / STOP_FILE).exists()):
                    return {"done": True}
                self._steps = run_trial(self.task, self.folder.number)
            while True:
                step = next(self._steps)
                if step.result is None:
                    return {"done": True, REPLAYED: step.replayed} | self._best()
                self._note(step.result)
                if not self._known(step):
                    if step.done:
                        self.close()  # runs an objective's ``finally`` now: its process will not outlive the search
                    return self._report(step, step.result)
        except (Exception, SystemExit) as error:
            # the process is unusable or was told to exit: re-raise, so that Ray restarts the trial in a new one
            words = traceback_of(error)  # str(error) may raise itself
            if any(broken in words for broken in BROKEN_GPU) or hasattr(error, "ray_terminate_msg"):
                raise
            with contextlib.suppress(DiskFull):  # the driver will find the disk full as well, and report it
                self.folder.write_error(words)
            # the process itself is fine: a failure reported as a result does not cost a new process
            return {"done": True, FAILED: True, HOPELESS: isinstance(error, InvalidReport), DISK_FULL: isinstance(error, DiskFull)} | self._best()

    def close(self) -> None:
        """Ends the trial where it is; to be called when no more reports are wanted."""
        if self._steps is not None:
            self._steps.close()

    def _too_late(self) -> bool:
        """Whether the deadline passed before the trial started, and another trial has results."""
        deadline, folder = self.task.deadline, self.task.search_folder
        return deadline is not None and time.time() > deadline and any(folder.glob("trials/*/metrics.jsonl"))

    def _known(self, step: TrialStep) -> bool:
        result = step.result
        return step.replayed and not step.done and self.known is not None and result is not None and (result.segment, result.epoch) <= self.known

    def _note(self, result: EpochResult) -> None:
        self.last = result
        if math.isfinite(result.score):
            self._best_score = max(self._best_score, result.score)

    def _best(self) -> dict[str, float]:
        return {METRIC: self._best_score} if math.isfinite(self._best_score) else {}

    def _report(self, step: TrialStep, result: EpochResult) -> dict[str, Any]:
        report: dict[str, Any] = {TIME_ATTR: result.epoch, "segment": result.segment, RESULT: asdict(result)}
        report |= {REPLAYED: step.replayed, WENT_ON: step.went_on, "done": step.done}
        if math.isfinite(result.score):  # an objective's metric may have one of these names, which schedulers go by
            report = {self.metric_name: result.metric} | report | {SCORE: result.score}
        return report | self._best()


def traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it, without the frames of this folder that lead to the trial's own code; only the message if the disk is full."""
    if isinstance(error, DiskFull):
        return f"{type(error).__name__}: {error}"
    frames, here = error.__traceback__, os.path.dirname(__file__)
    while frames is not None and os.path.dirname(frames.tb_frame.f_code.co_filename) == here:
        frames = frames.tb_next
    if frames is None and not isinstance(error, AutoMMHPOError):  # our own errors need no frames, only their message
        frames = error.__traceback__
    return "".join(traceback.format_exception(type(error), error, frames))
