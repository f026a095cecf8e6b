"""What every search needs, of models or of an objective of the user's: its folder, its tracker, and its trials run to an end."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import InvalidArgument, SavePathExists, TimeLimitTooShort
from .hpo.job import SearchJob
from .hpo.monitor import SearchMonitor
from .hpo.progress import Progress
from .hpo.records import INTERRUPTED, TIME_LIMIT, SearchRecords, reaches
from .hpo.session import SearchIdentity, check_same_search, is_finished, is_search, read_identity, search_lock, write_identity
from .hpo.trial import STOP_FILE, TrialTask, run_here
from .process import Interruption, interruptible
from .tracking import MlflowTracker

SAVE_SECONDS, RAY_STOP_SECONDS = 1.0, 2.5  # of a time limit, kept for what follows the last trial


def trials_deadline(deadline: float | None, with_ray: bool) -> float | None:
    """time.time() at which trials must end for the whole call to end at ``deadline``."""
    return None if deadline is None else deadline - SAVE_SECONDS - (RAY_STOP_SECONDS if with_ray else 0.0)


def is_anything_left(records: SearchRecords, num_trials: int, goal: float | None) -> bool:
    """Whether a trial has yet to be proposed, or to go on.

    Args:
        goal: the score at which the search is over; None: there is none.
    """
    trials = records.trials()
    if any(reaches(record.best, goal) for record in trials):
        return False
    return len(trials) < num_trials or not all(record.has_ended for record in trials)


@contextlib.contextmanager
def search_folder(path: Path, identity: SearchIdentity, resuming: bool) -> Iterator[None]:
    """Makes, locks and marks the folder of a search; one that ends before its first trial leaves none behind.

    Raises:
        SearchInUse, SearchMismatch, SavePathExists
        InvalidArgument: the folder cannot be made.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    search = path / "search"
    try:
        search.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InvalidArgument(f"save_path: {path} cannot be made: {problem}; give a folder that can be written to") from None
    with search_lock(search):
        if resuming:
            check_same_search(read_identity(search), identity, search)  # again: now nobody else can change it
            if not is_finished(search, identity):
                for name in (STOP_FILE, "outcome.json"):
                    (search / name).unlink(missing_ok=True)
        elif is_search(search):
            raise SavePathExists(f"save_path: another search has just begun in {path}; give another folder")
        write_identity(search, identity)
        try:
            yield
        except BaseException:
            if not (search / "trials").exists():
                shutil.rmtree(search)
                with contextlib.suppress(OSError):  # another fit may have made its own folder beside this one
                    for folder in made:
                        folder.rmdir()
            raise
        finally:
            shutil.rmtree(search / "cache", ignore_errors=True)


@contextlib.contextmanager
def search_tracker(
    path: Path, params: Mapping[str, Any], tags: Mapping[str, str], tracking: str | None, deadline: float | None
) -> Iterator[MlflowTracker | None]:
    """The MLflow run of a search; one that raises ends FAILED, one that is interrupted KILLED."""
    if tracking is None:
        yield None
        return
    tracker = MlflowTracker(path / "search", path.name, params, {"automm_hpo.path": str(path), **tags})
    try:
        yield tracker
    except BaseException as error:
        tracker.close("FAILED" if isinstance(error, Exception) else "KILLED", deadline=deadline)
        raise


def run_trials(task: TrialTask, job: SearchJob | None, monitor: SearchMonitor, available: Mapping[str, float], progress: Progress) -> Interruption:
    """Runs the trials that are left; what they leave is in the records, and why it ended is in ``monitor.over``, empty for a whole search.

    Args:
        job: None runs the one trial on record, in this process.
        available: the running Ray's resources; empty where there is none, for nothing is left to search.

    Raises:
        TimeLimitTooShort: there is no time left, and nothing to show.
    """
    if task.deadline is not None and job and time.time() > task.deadline and monitor.records.best() is None:
        late = time.time() - task.deadline
        raise TimeLimitTooShort(f"time_limit: reading the data and starting Ray took it all, and {late:.1f} s more are needed")

    if job is not None:
        monitor.resume()  # also where nothing is left to run: what has ended must not be taken for what was cut short

    def end_soon() -> None:
        monitor.ending = INTERRUPTED
        (task.search_folder / STOP_FILE).touch()
        progress.say("ending: the trials under way are validated where they are, and kept; a second interrupt ends at once", level=1)

    interruption = Interruption()
    try:
        with interruptible(end_soon) as interruption:
            if job is None:
                run_here(task, 0, monitor)
            elif available and not monitor.over:
                from .hpo.search import run_search  # Ray is imported in the environment that ray_cluster sets

                run_search(job, task, monitor, available)
    except KeyboardInterrupt:
        interruption.signal = interruption.signal or signal.SIGINT
    reason = monitor.over or (INTERRUPTED if interruption.signal is not None else TIME_LIMIT)
    monitor.close_open(reason)
    if interruption.signal is not None or not all(record.has_ended for record in monitor.records.trials()):
        monitor.over = reason
    return interruption
