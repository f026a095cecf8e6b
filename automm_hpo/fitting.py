"""A planned fit, carried out: caches, trials, the best of them, its folder."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from . import __version__
from .artifact import Artifact, Member, save_artifact
from .config import Config
from .data.cache import store_cache
from .errors import BadImages, CorruptFile, Problems, SavePathExists, TimeLimitTooShort
from .finishing import kept_epochs, reserved_seconds, run_after_search
from .hpo.cluster import ray_cluster
from .hpo.monitor import SearchMonitor
from .hpo.progress import Progress
from .hpo.records import SearchRecords, TrialRecord
from .hpo.trial import TrialTask, run_here
from .models import build_model
from .plan import FitPlan
from .process import process_unchanged
from .tracking import MlflowTracker
from .training.checkpoint import WEIGHTS, check_checkpoint, list_checkpoints, load_weights
from .training.evaluate import find_device

SAVE_SECONDS, RAY_STOP_SECONDS = 1.0, 2.5  # of a time limit, kept for what follows the last trial


def run_fit(plan: FitPlan, verbosity: int, tracking: str | None, ensemble_size: int = 1, refit: bool = False) -> Artifact:
    """Runs the trials and commits the best one's best epoch to the plan's folder, then what is better than that.

    Raises:
        AllTrialsFailed: no trial ended with a score.
        BadImages: images that cannot be read; nothing is left behind.
    """
    started = time.time()
    metric, records = plan.data.validation_metric, SearchRecords(plan.path / "search")
    progress = Progress(metric, verbosity, plan.search.num_trials, plan.deadline)
    _announce(plan, progress)
    with process_unchanged(), torch.random.fork_rng(), _new_folder(plan.path), contextlib.ExitStack() as stack:
        available = _prepare(plan, stack, progress)
        tracker = stack.enter_context(_tracker(plan, tracking))
        keep_trials = max(plan.search.settings.keep_trials, ensemble_size)
        monitor = SearchMonitor(records, [progress, *([tracker] if tracker else [])], keep_trials, kept_epochs(plan.search))
        try:
            _run_trials(plan, monitor, available, ensemble_size)
        except KeyboardInterrupt:
            monitor.interrupted()
            if records.best() is not None:
                _commit_best(plan, records, progress, started)
                progress.say(f"interrupted: the best so far is kept, MultiModalPredictor.load({str(plan.path)!r}) gives it", level=1)
            raise
        best, artifact = _commit_best(plan, records, progress, started)
        artifact = run_after_search(plan, records, progress, best, artifact, _last_commit(plan), ensemble_size, refit)
        if tracker:
            tracker.close("FINISHED", best, plan.deadline)
    progress.summary(records)
    progress.say(f"best: trial {best.number}, {metric.name} {best.best.metric if best.best else math.nan:.4f}, saved in {plan.path}", level=1)
    return artifact


def _prepare(plan: FitPlan, stack: contextlib.ExitStack, progress: Progress) -> Mapping[str, float]:
    """Decodes the images, and starts Ray meanwhile where there is something to search.

    Returns:
        The resources of the Ray that now runs, which ``stack`` stops; empty without a search.
    """
    with ThreadPoolExecutor(1) as pool:
        caches = pool.submit(_build_caches, plan, progress)
        available = stack.enter_context(ray_cluster(plan.search.config.env.num_gpus)) if plan.search.space else {}
        caches.result()
    return available


def _build_caches(plan: FitPlan, progress: Progress) -> None:
    config, problems = plan.search.config, Problems()
    for name, split in plan.data.splits.items():
        with problems.gather():  # bad images of one split do not hide the other's
            store_cache(
                plan.path / "search" / "cache",
                name,
                plan.encoders.image_paths(split.table, split.folder),
                plan.data.problem.encode(split.table[plan.data.problem.label]),
                plan.encoders.geometry,
                on_bad=config.data.image.missing_value_strategy,
                num_threads=config.env.num_workers,
                report=progress.say,
                labels=list(split.table.index),
            )
    if problems.found:
        raise BadImages("\n".join(map(str, problems.found)))


def _last_commit(plan: FitPlan) -> float | None:
    """time.time() at which the predictor must be ready to be saved."""
    return None if plan.deadline is None else plan.deadline - SAVE_SECONDS - (RAY_STOP_SECONDS if plan.search.space else 0.0)


def _run_trials(plan: FitPlan, monitor: SearchMonitor, available: Mapping[str, float], ensemble_size: int) -> None:
    """Runs the trials; what they leave is in the records."""
    data, search = plan.data, plan.search
    deadline = _last_commit(plan)
    if deadline is not None:
        deadline -= reserved_seconds(search, ensemble_size, deadline - time.time())
    task = TrialTask(monitor.records.folder, data.problem, data.validation_metric.name, plan.seed, search.settings.num_to_keep, deadline)
    if deadline is not None and search.space and time.time() > deadline:
        late = time.time() - (plan.deadline or 0.0)
        raise TimeLimitTooShort(
            f"time_limit: reading the images and starting Ray took it all, and {late + SAVE_SECONDS + RAY_STOP_SECONDS:.1f} s more are needed"
        )
    if search.space:
        from .hpo.search import run_search  # Ray is imported in the environment that ray_cluster sets

        run_search(task, search.config, search.space, search.settings, monitor, available)
    else:
        run_here(task, search.config, monitor)
    monitor.records.raise_if_all_failed()


def _commit_best(plan: FitPlan, records: SearchRecords, progress: Progress, started: float) -> tuple[TrialRecord, Artifact]:
    """Makes the best so far the predictor of the plan's folder; of a whole search and of an interrupted one alike."""
    best, artifact = _best_artifact(plan, records, progress)
    artifact = artifact.with_summary(training_time=round(time.time() - started, 2))
    save_artifact(artifact, plan.path)
    records.leaderboard(plan.data.validation_metric).to_csv(records.folder / "leaderboard.csv", index=False)
    return best, artifact


def _best_artifact(plan: FitPlan, records: SearchRecords, progress: Progress) -> tuple[TrialRecord, Artifact]:
    """The best epoch of the best trial as a predictor; where its weights are damaged, the next best, and that is said."""
    data = plan.data
    for record in records.ranked():
        folder, best = records.folder_of(record.number), record.best
        if best is None:  # this one and all behind it
            break
        config = Config.from_flat(record.config)
        model = build_model(config, data.problem.num_outputs, load_weights=False)
        try:
            check_checkpoint(folder.checkpoint(best))
            load_weights(model, folder.checkpoint(best) / WEIGHTS)
        except CorruptFile as problem:
            if list_checkpoints(folder.checkpoints):  # pruned ones are simply not there
                progress.say(f"trial {record.number}'s best checkpoint is unusable, the next best trial is taken: {problem}", level=1)
            continue
        summary = {
            f"val_{data.validation_metric.name}": best.metric,
            "num_trials": len(records),
            "best_trial": record.number,
            "best_epoch": best.epoch,
            "hyperparameters": dict(record.tuned),
        }
        members = (Member(config, model),)
        return record, Artifact(data.problem, data.columns, plan.encoders, members, data.eval_metric.name, data.validation_metric.name, summary)
    raise CorruptFile(f"no trial in {records.folder} has an intact checkpoint")


def _announce(plan: FitPlan, progress: Progress) -> None:
    data, search = plan.data, plan.search
    classes = f", {data.problem.num_outputs} classes" if data.problem.is_classification else ""
    progress.say(
        f"automm_hpo {__version__} | {data.problem.label!r}: {data.problem.problem_type}{classes} | {data.validation_metric.name} | "
        f"{len(data.train.table):,} rows to train, {len(data.valid.table):,} to validate | {find_device(search.config.env).type}"
    )
    for column, kind in data.columns.items():
        progress.say(f"column {column!r}: {kind} ({data.columns.reasons[column]})")
    if search.space:
        settings = search.settings
        progress.say(f"search: {settings.searcher} + {settings.scheduler}, {settings.num_trials} trials over {', '.join(search.space)}")


@contextlib.contextmanager
def _new_folder(path: Path) -> Iterator[None]:
    """Makes the folder of a fit; one that ends before its first trial leaves none behind."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        (path / "search").mkdir(parents=True)
    except FileExistsError:
        raise SavePathExists(f"save_path: another fit has just begun in {path}; give another folder") from None
    try:
        yield
    except BaseException:
        if not (path / "search" / "trials").exists():
            shutil.rmtree(path / "search")
            with contextlib.suppress(OSError):  # another fit may have made its own folder beside this one
                for folder in made:
                    folder.rmdir()
        raise
    finally:
        shutil.rmtree(path / "search" / "cache", ignore_errors=True)


@contextlib.contextmanager
def _tracker(plan: FitPlan, tracking: str | None) -> Iterator[MlflowTracker | None]:
    """The MLflow run of a fit; one that raises ends FAILED, one that is interrupted KILLED."""
    if tracking is None:
        yield None
        return
    params = {key: value for key, value in plan.search.config.flat().items() if key not in plan.search.space}
    tags = {"automm_hpo.path": str(plan.path), "automm_hpo.label": plan.data.problem.label, "automm_hpo.metric": plan.data.validation_metric.name}
    tracker = MlflowTracker(plan.path / "search", plan.path.name, params, tags)
    try:
        yield tracker
    except BaseException as error:
        tracker.close("FAILED" if isinstance(error, Exception) else "KILLED", deadline=plan.deadline)
        raise
