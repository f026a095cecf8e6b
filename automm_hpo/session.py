"""A session of a search, of models or of an objective of the user's: its folder is taken, its trials run to an end, and what became of them is told."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from .errors import InvalidArgument, SavePathExists, TimeLimitTooShort
from .hpo.cluster import Cluster, deaths_untold, least_start_seconds, set_ray_environment
from .hpo.identity import (
    COMPLETE,
    Outcome,
    SearchIdentity,
    check_same_search,
    is_finished,
    is_search,
    read_identity,
    search_lock,
    write_identity,
    write_outcome,
)
from .hpo.job import SearchJob, takes_first_points
from .hpo.monitor import Listener, SearchMonitor
from .hpo.progress import Progress
from .hpo.records import FAILED, INTERRUPTED, NO_ROOM, RUNNING, TIME_LIMIT, SearchRecords, TrialRecord, leaderboard, reaches
from .hpo.settings import TuneSettings
from .hpo.trial import STOP_FILE, TrialFunction, TrialTask, run_here
from .metrics import Metric
from .process import Interruption, interruptible, process_unchanged
from .results import SearchResults
from .space import SearchSpace, tuned_keys
from .tracking import MlflowTracker

SAVE_SECONDS, RAY_STOP_SECONDS = 1.0, 2.5  # of a time limit, kept for what follows the last trial
NO_TIME_AFTER = "no time was left for what follows the trials"
AND_A_TRIAL = "and what a trial takes to its first score"


def trials_deadline(deadline: float | None, with_ray: bool) -> float | None:
    """time.time() at which trials must end for the whole call to end at ``deadline``."""
    return None if deadline is None else deadline - SAVE_SECONDS - (RAY_STOP_SECONDS if with_ray else 0.0)


def is_anything_left(records: SearchRecords, num_trials: int, goal: float | None, max_failed_trials: int | None = None) -> bool:
    """Whether a trial has yet to be proposed, or to go on.

    Args:
        goal: the score at which the search is over; None: there is none.
        max_failed_trials: beyond which it is, too; None: any number.
    """
    trials = records.trials()
    if records.have_all_failed():
        return True  # they are tried again
    if any(reaches(record.best, goal) for record in trials):
        return False
    if max_failed_trials is not None and sum(record.status == FAILED for record in trials) > max_failed_trials:
        return False
    return len(trials) < num_trials or not all(record.has_ended for record in trials)


class Session:
    """One call that searches. Its steps, in order: ``open``, ``tracked``, ``run``, ``close``, ``say_goodbye``.

    Args:
        path: the predictor's, or an objective's; the search has its own folder in it.
        resuming: the folder holds this search already.
        num_trials: of the whole search.
        deadline: time.time() at which the call must return; None: no limit.
        with_ray: whether trials may come to run on Ray.

    Attributes:
        records: of all trials, once it is open.
        goal: the score at which the search is over; None: there is none.
    """

    def __init__(
        self,
        path: Path,
        identity: SearchIdentity,
        resuming: bool,
        settings: TuneSettings,
        num_trials: int,
        metric: Metric,
        deadline: float | None,
        verbosity: int,
        with_ray: bool = True,
    ) -> None:
        self.path, self.folder, self.deadline = path, path / "search", deadline
        self.goal = None if settings.goal is None else metric.score(settings.goal)
        self.progress = Progress(metric, verbosity, num_trials, deadline)
        self._identity, self._resuming, self._settings, self._num_trials, self._metric = identity, resuming, settings, num_trials, metric
        self._with_ray = with_ray
        self._tracker: MlflowTracker | None = None
        self._ended_by = ""  # why, where it did not come to its own end

    @contextlib.contextmanager
    def open(self) -> Iterator[Self]:
        """Within, the folder is this session's alone; afterwards the process is as it was.

        Raises:
            SearchInUse, SearchMismatch, SavePathExists
            InvalidArgument: the folder cannot be made.
            TimeLimitTooShort: Ray's start alone would take longer.
        """
        with process_unchanged(), search_folder(self.path, self._identity, self._resuming):
            self.records = SearchRecords(self.folder)
            if self._settings.retry_failed:
                self.records.reopen_failed()
            self._check_time()
            yield self

    def _check_time(self) -> None:
        """Before Ray is started, which takes long."""
        if self.deadline is None or not self._with_ray or not self.is_anything_left or self.records.best() is not None:
            return
        around, least = SAVE_SECONDS + RAY_STOP_SECONDS, least_start_seconds()
        if (late := time.time() + least + around - self.deadline) > 0:
            start = f"starting Ray takes {least:g} s at the least, and " if least else ""
            raise TimeLimitTooShort(f"time_limit: {start}{around:g} s are kept for the end of a search; at least {late:.1f} s more are needed, {AND_A_TRIAL}")

    @property
    def is_finished(self) -> bool:
        """Whether an earlier session has done all there is to do."""
        return self._resuming and is_finished(self.folder, self._identity) and all(record.status != RUNNING for record in self.records.trials())

    @property
    def is_anything_left(self) -> bool:
        return is_anything_left(self.records, self._num_trials, self.goal, self._settings.max_failed_trials)

    @contextlib.contextmanager
    def tracked(self, tracking: str | None, params: Mapping[str, Any], space: SearchSpace, **tags: str) -> Iterator[None]:
        """Within, what happens is told to MLflow as well; a search that raises ends FAILED there, one that is interrupted KILLED.

        Args:
            params, tags: see ``MlflowTracker``.
        """
        if tracking is None:
            yield
            return
        named = {f"automm_hpo.{name}": value for name, value in tags.items()}
        named |= {"automm_hpo.path": str(self.path), "automm_hpo.metric": self._metric.name}
        if space:
            how = {"searched_by": self._settings.method, "num_trials": self._num_trials, "seed": self._identity.fingerprint.get("seed")}
            named |= {f"automm_hpo.{name}": str(value) for name, value in how.items()}
        self._tracker = MlflowTracker(self.folder, self.path.name, params, named, tuned_keys(space))
        try:
            yield
        except BaseException as error:
            self._tracker.close("FAILED" if isinstance(error, Exception) else "KILLED", deadline=self.deadline)
            raise

    def run(
        self,
        function: TrialFunction,
        job: SearchJob | None,
        cluster: Cluster,
        trials_end: float | None,
        keep_trials: int,
        keep_epochs: int = 1,
    ) -> Interruption:
        """Runs the trials that are left, and ends Ray.

        Args:
            function: what a trial does.
            job: None runs the one trial on record, in this process.
            trials_end: time.time() at which trials end; None: never.
            keep_trials, keep_epochs: see ``SearchRecords.prune``.

        Raises:
            TimeLimitTooShort: there was no time for a score.
            AllTrialsFailed: no trial has a score.
            KeyboardInterrupt, SystemExit: it was interrupted before any trial had one.
        """
        listeners: list[Listener] = [self.progress, *([self._tracker] if self._tracker else [])]
        monitor = SearchMonitor(self.records, listeners, keep_trials, keep_epochs, self.goal, self._settings.max_failed_trials)
        task = TrialTask(self.folder, function, trials_end, self._settings.trial_time_limit)
        with deaths_untold(trials_end):
            with self.progress:
                interruption = run_trials(task, job, monitor, cluster if self.is_anything_left else None, self.progress)
            self._ended_by = monitor.over
            if self._tracker and job:
                self._tracker.log_figures(SearchResults(self.records, self._metric).each_figure)  # while Ray ends
            cluster.stop()  # not on a thread, while other things go on: a handle of Ray's that is collected meanwhile ends the process
        if interruption.signal is not None and self.records.best() is None:
            if len(self.records):
                self.progress.say(f"no trial has a score yet; the same call with save_path={str(self.path)!r} goes on with it", level=1)
            interruption.reraise()
        if trials_end is not None and self._ended_by == TIME_LIMIT:
            self._check_scored()
        again = f"the same call with save_path={str(self.path)!r} tries them again" if takes_first_points(self._settings) else ""
        self.records.raise_if_all_failed(again)
        return interruption

    def _check_scored(self) -> None:
        """Raises TimeLimitTooShort where nothing but the time limit kept every trial from a score."""
        trials = self.records.trials()
        if all(record.best is None and record.reason == TIME_LIMIT for record in trials):
            ran = max(record.ended - record.started for record in trials)
            raise TimeLimitTooShort(
                f"time_limit: none of {len(trials)} trials came to a first score, and the first of them had {ran:.0f} s; "
                f"the same call with save_path={str(self.path)!r} and more time goes on"
            )

    def close(self, interruption: Interruption, best: TrialRecord | None, had_time: bool = True, validated: float | None = None) -> None:
        """All is done that there was time for.

        Args:
            best: the trial that became of it; not the records' own best where that one's weights are damaged.
            had_time: also for what follows the trials.
            validated: the metric of what became of it all, where that is more than the best trial's.
        """
        self._ended_by = self._ended_by or (INTERRUPTED if interruption.signal is not None else "" if had_time else NO_TIME_AFTER)
        leaderboard(self.records.trials(), self._metric).to_csv(self.folder / "leaderboard.csv", index=False, errors="backslashreplace")
        write_outcome(self.folder, Outcome(self._ended_by or COMPLETE, self._identity.limits))
        if self._tracker:
            self._tracker.close("KILLED" if interruption.signal is not None else "FINISHED", best, self.deadline, validated)

    def say_goodbye(self, saved: str, also: str = "") -> None:
        """Tells what was found, where it lies, and how to go on where there was no end.

        Args:
            saved: what now lies where.
            also: another way to go on than the same call.
        """
        self.progress.summary(self.records)
        self.progress.say(saved, level=1)
        cause = self._ended_by or ("the searcher has nothing more to propose" if len(self.records) < self._num_trials else "")
        on = f"; the same call with save_path={str(self.path)!r} goes on with it{also}" if cause in (INTERRUPTED, TIME_LIMIT, NO_ROOM, NO_TIME_AFTER) else ""
        if cause:
            self.progress.say(f"ended early ({cause}){on}", level=1)


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


def run_trials(task: TrialTask, job: SearchJob | None, monitor: SearchMonitor, cluster: Cluster | None, progress: Progress) -> Interruption:
    """Runs the trials that are left; what they leave is in the records, and why it ended is in ``monitor.over``, empty for a whole search.

    Args:
        job: None runs the one trial on record, in this process.
        cluster: None: nothing is left to search.

    Raises:
        TimeLimitTooShort: there is no time left, and nothing to show.
    """
    if task.deadline is not None and job and not job.in_process and time.time() > task.deadline and monitor.records.best() is None:
        late = time.time() - task.deadline
        raise TimeLimitTooShort(f"time_limit: reading the data and starting Ray took it all; at least {late:.1f} s more are needed, {AND_A_TRIAL}")

    if monitor.records.have_all_failed():
        monitor.records.reopen_all()
    # also where nothing is left to run: what has ended must not be taken for what was cut short. A fit of one trial that failed tries again
    if job is not None or not any(record.status == FAILED for record in monitor.records.trials()):
        monitor.resume()

    def end_soon() -> None:
        monitor.ending = INTERRUPTED
        (task.search_folder / STOP_FILE).touch()
        progress.say("ending: the trials under way are validated where they are, and kept; a second interrupt ends at once", level=1)

    interruption = Interruption()
    try:
        with interruptible(end_soon) as interruption:
            if job is None:
                run_here(task, 0, monitor)
            elif cluster is not None and not monitor.over:
                set_ray_environment()
                from .hpo.search import run_search  # Ray is imported in that environment

                run_search(job, task, monitor, cluster, progress.say)
    except KeyboardInterrupt:
        interruption.signal = interruption.signal or signal.SIGINT
    reason = monitor.over or (INTERRUPTED if interruption.signal is not None else TIME_LIMIT)
    monitor.close_open(reason)
    if monitor.ending or interruption.signal is not None or not all(record.has_ended for record in monitor.records.trials()):
        monitor.over = reason
    return interruption
