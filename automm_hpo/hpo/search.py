"""The search on Ray Tune: searcher, scheduler and trials brought together."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from ..config import Config
from ..space import SearchSpace
from ..training.loop import EpochResult
from .monitor import SearchMonitor
from .ray_space import values_of
from .schedulers import SCHEDULERS
from .searchers import SEARCHERS, RecordingSearcher
from .settings import TuneSettings, check_resources
from .trainable import RESULT, TrialRunner
from .trial import TrialTask

LATE_SECONDS = 2.0  # trials end themselves at the deadline; one that hangs, or never got a place, is ended by Ray so much later


def run_search(task: TrialTask, config: Config, space: SearchSpace, settings: TuneSettings, monitor: SearchMonitor, available: Mapping[str, float]) -> None:
    """Runs all trials on the running Ray.

    Args:
        config: the fixed values; the searcher's proposals override it.
        available: the cluster's resources.
    """
    check_resources(settings, {"cpu": available.get("CPU", 0.0), "gpu": available.get("GPU", 0.0)})
    resources = {"cpu": 1.0, "gpu": 1.0 if available.get("GPU") else 0.0} | settings.resources
    # Ray would start one actor after another where the number is not given
    slots = min(int(available.get(kind.upper(), 0) / wanted + 1e-9) for kind, wanted in resources.items() if wanted)
    searcher = RecordingSearcher(SEARCHERS[settings.searcher](space, settings, task.seed), space, config, monitor.records, task.deadline)
    max_epochs = max(values_of("optim.max_epochs", config, space))
    scheduler = SCHEDULERS[settings.scheduler](settings, max_epochs, max_epochs * max(values_of("optim.warmup_steps", config, space)))
    runner = tune.with_parameters(TrialRunner, task=task, num_threads=max(1, int(resources["cpu"])))
    ray_files = Path(tempfile.mkdtemp(prefix="automm_hpo_ray_"))
    try:
        tune.Tuner(
            tune.with_resources(runner, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=settings.num_trials,
                time_budget_s=None if task.deadline is None else max(1.0, task.deadline - time.time() + LATE_SECONDS),
                max_concurrent_trials=max(1, min(slots, settings.concurrency or slots, settings.num_trials)),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="search", storage_path=str(ray_files), verbose=0, progress_reporter=NoReporter(), callbacks=[RayEvents(monitor)]),
        ).fit()
    finally:
        shutil.rmtree(ray_files, ignore_errors=True)


class NoReporter(tune.ProgressReporter):
    """Ray's own would clear the notebook's cell, verbose or not."""

    def should_report(self, trials: list, done: bool = False) -> bool:
        return False

    def report(self, trials: list, done: bool, *sys_info: str) -> None:
        pass


class RayEvents(tune.Callback):
    """Ray's events -> the monitor's."""

    def __init__(self, monitor: SearchMonitor) -> None:
        self.monitor = monitor

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its callbacks to restore from; we resume from our records, and a monitor cannot be pickled

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.monitor.trial_started(trial.config["trial"])

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        if RESULT in result:
            self.monitor.trial_reported(trial.config["trial"], EpochResult(**result[RESULT]))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.monitor.trial_ended(trial.config["trial"])

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.monitor.trial_failed(trial.config["trial"], str(trial.get_error() or "the trial's process died"))
