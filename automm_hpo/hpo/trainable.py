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

STAY_SECONDS = 3.5  # after the deadline a process ends itself: Ray would wait for a trial that hangs, and the call would return late


class TrialRunner(tune.Trainable):
    """Asks a trial for its reports. All state is in the trial's folder; Ray only ever sees a pointer to it."""

    def setup(  # type: ignore[override]  # with_parameters adds the arguments
        self, config: dict[str, Any], task: TrialTask, num_threads: int, metric: str, driver: tuple[str, int, str]
    ) -> None:
        gc.freeze()  # imported modules stay; otherwise every collection walks through torch's million objects, which takes 0.1 s
        for name in ("ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they would log every pointer that is saved or restored
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
        """Begins a trial. ``known`` is the (segment, epoch) up to which Ray has received its reports."""
        with contextlib.suppress(OSError):  # another machine may not have it
            os.chdir(self.folder)  # relative paths refer to the caller's folder, wherever Ray was started or the last trial changed to
        self.proposal, self.reports = dict(config), TrialReports(self.task, config["trial"], self.metric, known)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Continues where a pointer says, or takes over the trial that it points to (population-based training)."""
        folder, segment = self.reports.folder, self.proposal["segment"]
        if checkpoint["trial"] == folder.number:
            self._begin(self.proposal, known=(checkpoint["segment"], checkpoint["epoch"]))
            return
        if segment > folder.read().segments[-1].number:  # else an actor that has died since had already taken it over
            tuned = {key: value for key, value in self.proposal.items() if key not in ("trial", "segment", "parent")}
            parent = TrialFolder(self.task.search_folder, checkpoint["trial"])
            self.task.run.take_over(folder, parent, Segment(segment, parent.number, 0.0, tuned))
        self._begin(self.proposal, known=(segment, -1.0))  # earlier segments were reported already

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        last = self.reports.last
        segment, epoch = (last.segment, last.epoch) if last else (0, -1.0)
        return {"trial": self.reports.folder.number, "segment": segment, "epoch": epoch}

    def step(self) -> dict[str, Any]:
        return self.reports.next()


def leave_with(host: str, pid: int, latest: float) -> None:
    """Ends this process soon after its driver has died. Ray itself can take a minute to notice that the driver was killed.

    Args:
        latest: time.time() at which this process ends in any case.
    """
    is_near = host == socket.gethostname()  # processes of another machine are not visible here

    def watch() -> None:
        while time.time() < latest and (not is_near or is_alive(pid)):
            time.sleep(min(1.0, max(0.0, latest - time.time())))
        os._exit(1)

    threading.Thread(target=watch, name="driver-watch", daemon=True).start()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # Z: dead, but its parent has not noticed yet
    except ProcessLookupError:
        return False
    except OSError:  # the process is another user's, or the system has no /proc
        return True
