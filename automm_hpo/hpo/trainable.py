"""A trial inside a Ray actor. The actor stays warm: the next trial starts without importing anything again."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Generator, Mapping
from dataclasses import asdict
from typing import Any

from ray import tune

from ..errors import AutoMMHPOError, DiskFull, InvalidReport
from ..training.result import EpochResult
from .records import Segment, TrialFolder
from .result_keys import DISK_FULL, FAILED, HOPELESS, METRIC, REPLAYED, RESULT, SCORE, TIME_ATTR, WENT_ON
from .trial import STOP_FILE, TrialStep, TrialTask, run_trial

STAY_SECONDS = 3.5  # after the trials' deadline: one that hangs would keep Ray waiting for its process, and the call would end late


class TrialRunner(tune.Trainable):
    """Advances ``run_trial`` one validation a step. All state is in the trial's folder; Ray only ever sees a pointer to it."""

    def setup(  # type: ignore[override]  # with_parameters adds them
        self, config: dict[str, Any], task: TrialTask, num_threads: int, metric: str, driver: tuple[str, int, str]
    ) -> None:
        gc.freeze()  # what was imported stays; else every collection walks through torch's million objects, a tenth of a second each
        for name in ("ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they would tell of every pointer that is saved or restored
        os.environ["OMP_NUM_THREADS"] = str(num_threads)  # for an objective that imports torch later, or never
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(num_threads)
        host, pid, folder = driver
        with contextlib.suppress(OSError):  # another machine need not have it
            os.chdir(folder)  # a Ray that runs already may have been started elsewhere, and relative paths are the caller's
        leave_with(host, pid, math.inf if task.deadline is None else task.deadline + STAY_SECONDS)
        self.task, self.metric_name = task, metric
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: Mapping[str, Any]) -> None:
        self.proposal = dict(config)
        self.folder = TrialFolder(self.task.search_folder, config["trial"])
        self.steps: Generator[TrialStep] | None = None
        self.known: tuple[int, float] | None = None  # Ray has heard of everything up to this (segment, epoch)
        self.last: EpochResult | None = None
        self.best_score = -math.inf

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Goes on where a pointer says, or takes over the trial it points to (population-based training)."""
        if checkpoint["trial"] == self.folder.number:
            self._begin(self.proposal)
            self.known = (checkpoint["segment"], checkpoint["epoch"])
            return
        segment = self.proposal["segment"]
        if segment > self.folder.read().segments[-1].number:  # else it was done already, before this actor's predecessor died
            tuned = {key: value for key, value in self.proposal.items() if key not in ("trial", "segment", "parent")}
            parent = TrialFolder(self.task.search_folder, checkpoint["trial"])
            self.task.run.take_over(self.folder, parent, Segment(segment, parent.number, 0.0, tuned))
        self._begin(self.proposal)
        self.known = (segment, -1.0)  # earlier segments are told already

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        segment, epoch = (self.last.segment, self.last.epoch) if self.last else (0, -1.0)
        return {"trial": self.folder.number, "segment": segment, "epoch": epoch}

    def step(self) -> dict[str, Any]:
        try:
            if self.steps is None:
                if not self.folder.results() and (self._too_late() or (self.task.search_folder / STOP_FILE).exists()):
                    return {"done": True}
                self.steps = run_trial(self.task, self.folder.number)
            while True:
                step = next(self.steps)
                if step.result is None:
                    return {"done": True, REPLAYED: step.replayed} | self._best()
                self._note(step.result)
                if not self._known(step):
                    if step.done:
                        self.steps.close()  # what an objective has in its ``finally``: when the search is over, its process is no more
                    return self._report(step, step.result)
        except (Exception, SystemExit) as error:
            # this process cannot be used again, or was told by a signal to go; Ray starts another, in which the trial goes on
            words = traceback_of(error)  # str(error) may raise itself
            if "CUDA error" in words or hasattr(error, "ray_terminate_msg"):
                raise
            with contextlib.suppress(DiskFull):  # the driver will find no room either, and say so
                self.folder.write_error(words)
            # the actor is sound: told as a result, a failure costs no new one
            return {"done": True, FAILED: True, HOPELESS: isinstance(error, InvalidReport), DISK_FULL: isinstance(error, DiskFull)} | self._best()

    def _too_late(self) -> bool:
        """It was proposed in time and found no time; others have a result to show."""
        deadline, folder = self.task.deadline, self.task.search_folder
        return deadline is not None and time.time() > deadline and any(folder.glob("trials/*/metrics.jsonl"))

    def _known(self, step: TrialStep) -> bool:
        result = step.result
        return step.replayed and not step.done and self.known is not None and result is not None and (result.segment, result.epoch) <= self.known

    def _note(self, result: EpochResult) -> None:
        self.last = result
        if math.isfinite(result.score):
            self.best_score = max(self.best_score, result.score)

    def _best(self) -> dict[str, float]:
        return {METRIC: self.best_score} if math.isfinite(self.best_score) else {}

    def _report(self, step: TrialStep, result: EpochResult) -> dict[str, Any]:
        report: dict[str, Any] = {TIME_ATTR: result.epoch, "segment": result.segment, RESULT: asdict(result)}
        report |= {REPLAYED: step.replayed, WENT_ON: step.went_on, "done": step.done}
        if math.isfinite(result.score):  # an objective's metric may have one of these names, which schedulers go by
            report = {self.metric_name: result.metric} | report | {SCORE: result.score}
        return report | self._best()


def traceback_of(error: BaseException) -> str:
    """As Python prints it, without the frames of this folder that lead to the trial's own code; of a full disk, which no code is to blame for, its message."""
    if isinstance(error, DiskFull):
        return f"{type(error).__name__}: {error}"
    frames, here = error.__traceback__, os.path.dirname(__file__)
    while frames is not None and os.path.dirname(frames.tb_frame.f_code.co_filename) == here:
        frames = frames.tb_next
    if frames is None and not isinstance(error, AutoMMHPOError):  # what we raise ourselves needs no more than its words
        frames = error.__traceback__
    return "".join(traceback.format_exception(type(error), error, frames))


def leave_with(host: str, pid: int, latest: float) -> None:
    """Ends this process soon after its driver, which may be killed without a word; Ray itself can take a minute to notice.

    Args:
        latest: time.time() at which it ends in any case.
    """
    is_near = host == socket.gethostname()  # another machine's processes cannot be seen from here

    def watch() -> None:
        while time.time() < latest and (not is_near or is_alive(pid)):
            time.sleep(min(1.0, max(0.0, latest - time.time())))
        os._exit(1)

    threading.Thread(target=watch, name="driver-watch", daemon=True).start()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # dead, but its parent has not looked yet
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or a system without /proc
        return True
