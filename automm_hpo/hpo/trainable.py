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
from typing import Any

from ray import tune

from .records import Segment, TrialFolder
from .reports import TrialReports
from .trial import TrialTask

STAY_SECONDS = 3.5  # after the trials' deadline: one that hangs would keep Ray waiting for its process, and the call would end late


class TrialRunner(tune.Trainable):
    """Asks a trial for its reports. All state is in the trial's folder; Ray only ever sees a pointer to it."""

    def setup(  # type: ignore[override]  # with_parameters adds them
        self, config: dict[str, Any], task: TrialTask, num_threads: int, metric: str, driver: tuple[str, int, str]
    ) -> None:
        gc.freeze()  # what was imported stays; else every collection walks through torch's million objects, a tenth of a second each
        for name in ("ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they would tell of every pointer that is saved or restored
        os.environ["OMP_NUM_THREADS"] = str(num_threads)  # for an objective that imports torch later, or never
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(num_threads)
        host, pid, self.folder = driver
        leave_with(host, pid, math.inf if task.deadline is None else task.deadline + STAY_SECONDS)
        self.task, self.metric = task, metric
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any], known: tuple[int, float] | None = None) -> None:
        """A trial, of which Ray has heard everything up to a (segment, epoch)."""
        with contextlib.suppress(OSError):  # another machine need not have it
            os.chdir(self.folder)  # relative paths are the caller's, wherever Ray was started, and wherever the last trial went
        self.proposal, self.reports = dict(config), TrialReports(self.task, config["trial"], self.metric, known)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Goes on where a pointer says, or takes over the trial it points to (population-based training)."""
        folder, segment = self.reports.folder, self.proposal["segment"]
        if checkpoint["trial"] == folder.number:
            self._begin(self.proposal, known=(checkpoint["segment"], checkpoint["epoch"]))
            return
        if segment > folder.read().segments[-1].number:  # else it was done already, before this actor's predecessor died
            tuned = {key: value for key, value in self.proposal.items() if key not in ("trial", "segment", "parent")}
            parent = TrialFolder(self.task.search_folder, checkpoint["trial"])
            self.task.run.take_over(folder, parent, Segment(segment, parent.number, 0.0, tuned))
        self._begin(self.proposal, known=(segment, -1.0))  # earlier segments are told already

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        last = self.reports.last
        segment, epoch = (last.segment, last.epoch) if last else (0, -1.0)
        return {"trial": self.reports.folder.number, "segment": segment, "epoch": epoch}

    def step(self) -> dict[str, Any]:
        return self.reports.next()


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
