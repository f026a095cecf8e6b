"""Runs a search, on Ray Tune or at first in this process: brings searcher, scheduler and trials together."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune

from .cluster import Cluster, check_nodes, killed_when_late
from .job import SearchJob
from .monitor import SearchMonitor
from .once import build_proposer
from .recording import RecordingSearcher
from .schedulers import build_scheduler
from .settings import check_resources
from .trainable import TrialRunner, is_alive
from .trial import TrialTask

LATE_SECONDS = 3.0  # trials end by themselves at the deadline; those that hang or have not started are killed this much later
RAY_FILES = f"automm_hpo_ray_{socket.gethostname()}_"  # in the temporary folder, which machines may share; followed by the driver's pid
_registering = threading.Lock()  # Ray's registry of trainables is not thread-safe
MAX_RETRIES = 2  # a trial whose process died continues from its checkpoint in another process; the third death ends it


def run_search(job: SearchJob, task: TrialTask, monitor: SearchMonitor, cluster: Cluster, report: Callable[[str], None]) -> None:
    """Runs the trials that have not ended, and replays those on record for searcher and scheduler.

    Args:
        monitor: has been told what earlier sessions left (``resume``).
        cluster: is started if it is needed.
        report: is called with a line if the trials move to Ray.
    """
    recorded = [dict(record.raw) for record in monitor.records.trials()]
    first_points = [*recorded, *(point for point in job.first_points if point not in recorded)]
    proposer = build_proposer(job.settings, job.space, job.seed, first_points, job.known, len(recorded))
    searcher = RecordingSearcher(proposer, job, monitor, task.deadline)
    if job.in_process:
        from .in_process import search_in_process  # imports torch, which the search of an objective does not need

        seconds = search_in_process(searcher, job, job.in_process, task, monitor)
        if seconds is None or monitor.over or monitor.ending:
            return
        trial = "".join(f", trial {number} from its last checkpoint" for number in monitor.under_way)
        where = f"on Ray (some ten seconds to start), {job.in_process.num_parallel} at a time"
        report(f"about {seconds:.0f} s of trials remain: continuing {where}{trial}")
    available = cluster.start()
    if not monitor.over and not monitor.ending:  # it may have been interrupted meanwhile
        run_on_ray(searcher.again(), job, task, monitor, available)


def run_on_ray(searcher: RecordingSearcher, job: SearchJob, task: TrialTask, monitor: SearchMonitor, available: Mapping[str, float]) -> None:
    """Runs what the searcher proposes on the running Ray.

    Args:
        available: the cluster's resources.
    """
    settings, there = job.settings, {"cpu": available.get("CPU", 0.0), "gpu": available.get("GPU", 0.0)}
    check_resources(settings, there)
    check_nodes(task.search_folder, settings.resources_among(there))
    scheduler = build_scheduler(settings, job.space, job.max_epochs, job.warmup_epochs, job.seed)
    driver = (socket.gethostname(), os.getpid(), _here())
    name = f"TrialRunner_{secrets.token_hex(4)}"  # actors look it up when they start; unique, because another thread may search, too
    with _registering:
        runner = tune.with_parameters(TrialRunner, task=task, num_threads=settings.num_threads, metric=job.metric, driver=driver)
        tune.register_trainable(name, tune.with_resources(runner, settings.resources_among(there)))
    remove_orphans()
    ray_files = Path(tempfile.mkdtemp(prefix=f"{RAY_FILES}{os.getpid()}_"))
    seconds = None if task.deadline is None else max(1.0, task.deadline - time.time() + LATE_SECONDS)
    try:
        tuner = tune.Tuner(
            name,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=job.num_trials,
                time_budget_s=seconds,
                max_concurrent_trials=settings.num_parallel(there, job.num_trials),  # without it Ray would start one actor after another
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(ray_files),
                verbose=0,
                progress_reporter=NoReporter(),
                callbacks=[RayEvents(monitor)],
                stop=WhenOver(monitor),
                failure_config=tune.FailureConfig(max_failures=MAX_RETRIES),
            ),
        )
        with killed_when_late(seconds):
            tuner.fit()
    finally:
        shutil.rmtree(ray_files, ignore_errors=True)


def _here() -> str:
    """The current folder; empty if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


class NoReporter(tune.ProgressReporter):
    """Reports nothing. Ray's own reporter would clear the notebook's cell, even with verbose=0."""

    def should_report(self, trials: list, done: bool = False) -> bool:
        return False

    def report(self, trials: list, done: bool, *sys_info: str) -> None:
        pass


class WhenOver(tune.Stopper):
    """Stops all trials when the monitor says that the search is over."""

    def __init__(self, monitor: SearchMonitor) -> None:
        self.monitor = monitor

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see RayEvents

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self.monitor.over)


class RayEvents(tune.Callback):
    """Passes Ray's events on to the monitor."""

    def __init__(self, monitor: SearchMonitor) -> None:
        self.monitor = monitor

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its callbacks to restore them later; we resume from our records, and a monitor cannot be pickled

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.monitor.trial_started(trial.config["trial"])

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self.monitor.heard(trial.config["trial"], result)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.monitor.heard_last(trial.config["trial"], trial.last_result or {})

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.monitor.trial_failed(trial.config["trial"], f"its process died {MAX_RETRIES + 1} times: {_cause(trial)}")

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.monitor.trial_retried(trial.config["trial"], _cause(trial))


def _cause(trial: Any) -> str:
    """Why a trial's process died, as far as Ray knows."""
    path = trial.error_file and Path(trial.error_file)
    text = path.read_text(encoding="utf-8", errors="replace") if path and path.exists() else ""
    known = [line.partition("Worker exit detail:")[2] or line for line in text.splitlines() if "Worker exit detail:" in line or "running low on memory" in line]
    lines = known or text.strip().splitlines()[-1:]
    return lines[0].strip() if lines else "unknown"


def remove_orphans() -> None:
    """Removes what killed searches have left in the temporary folder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{RAY_FILES}*_*"):
        pid = folder.name.removeprefix(RAY_FILES).partition("_")[0]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)  # other users' folders stay
