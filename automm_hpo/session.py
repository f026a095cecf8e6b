"""One call that searches, over models or a user's objective: locks the folder, runs the remaining trials, reports the outcome."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
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

SAVE_SECONDS, RAY_STOP_SECONDS = 1.0, 2.5  # reserved at the end of a time limit, to save the result and to stop Ray
NO_TIME_AFTER = "no time was left for what follows the trials"
AND_A_TRIAL = "and the time that a trial takes to its first score"


def trials_deadline(deadline: float | None, with_ray: bool) -> float | None:
    """time.time() at which trials must end for the whole call to end at ``deadline``."""
    return None if deadline is None else deadline - SAVE_SECONDS - (RAY_STOP_SECONDS if with_ray else 0.0)


class Session:
    """One call that searches. Its steps, in order: ``open``, ``tracked``, ``run``, ``close``, ``say_goodbye``.

    Args:
        path: the folder of the predictor or objective; the search uses its subfolder ``search``.
        resuming: whether the folder already holds this search.
        num_trials: trials of the whole search, earlier sessions included.
        deadline: time.time() at which the call must return; None: no limit.
        with_ray: whether trials may run on Ray.

    Attributes:
        records: the records of all trials; set by ``open``.
        goal: the score at which the search ends; None: no goal.
    """

    def __init__(
        self,
        path: Path,
        *,
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
        self._ended_by = ""  # why the search ended early; empty if it did not

    @contextlib.contextmanager
    def open(self) -> Iterator[Self]:
        """Locks the folder for this session, and restores the state of the process afterwards.

        Raises:
            SearchInUse: another process or thread is searching in the folder.
            SearchMismatch: the folder holds a different search.
            SavePathExists: another search has just begun in the folder.
            InvalidArgument: the folder cannot be created.
            TimeLimitTooShort: starting Ray and ending the search alone take longer than the time left.
        """
        with process_unchanged(), search_folder(self.path, self._identity, self._resuming):
            self.records = SearchRecords(self.folder)
            if self._settings.retry_failed:
                self.records.reopen_failed()
            self._check_time()
            yield self

    def _check_time(self) -> None:
        """Raises TimeLimitTooShort if no time would be left for a trial, before seconds are spent on starting Ray."""
        if self.deadline is None or not self._with_ray or not self.is_anything_left or self.records.best() is not None:
            return
        around, least = SAVE_SECONDS + RAY_STOP_SECONDS, least_start_seconds()
        if (late := time.time() + least + around - self.deadline) > 0:
            start = f"starting Ray takes {least:g} s at the least, and " if least else ""
            raise TimeLimitTooShort(f"time_limit: {start}{around:g} s are reserved for the end of a search; give at least {late:.1f} s more, {AND_A_TRIAL}")

    @property
    def is_finished(self) -> bool:
        """Whether an earlier session completed this search, so nothing is left to do."""
        return self._resuming and is_finished(self.folder, self._identity) and all(record.status != RUNNING for record in self.records.trials())

    @property
    def is_anything_left(self) -> bool:
        """Whether any trial still has to be proposed or continued."""
        trials, most_failed = self.records.trials(), self._settings.max_failed_trials
        if self.records.have_all_failed():
            return True  # all trials are tried again
        if any(reaches(record.best, self.goal) for record in trials):
            return False
        if most_failed is not None and sum(record.status == FAILED for record in trials) > most_failed:
            return False
        return len(trials) < self._num_trials or not all(record.has_ended for record in trials)

    @contextlib.contextmanager
    def tracked(self, tracking: str | None, params: Mapping[str, Any], space: SearchSpace, **tags: str) -> Iterator[None]:
        """Logs the session to MLflow. If the block raises, the MLflow run ends as FAILED, or as KILLED if it was interrupted.

        Args:
            tracking: None logs nothing.
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
        """Runs the remaining trials and stops Ray.

        Args:
            function: what a trial does.
            job: None runs the only trial, which is on record already, in this process.
            trials_end: time.time() at which trials end; None: never.
            keep_trials, keep_epochs: see ``SearchRecords.prune``.

        Raises:
            TimeLimitTooShort: the time did not suffice for any trial to get a score.
            AllTrialsFailed: no trial has a score.
            KeyboardInterrupt, SystemExit: the session was interrupted before any trial had a score.
        """
        listeners: list[Listener] = [self.progress, *([self._tracker] if self._tracker else [])]
        monitor = SearchMonitor(self.records, listeners, keep_trials, keep_epochs, self.goal, self._settings.max_failed_trials)
        task = TrialTask(self.folder, function, trials_end, self._settings.trial_time_limit)
        with deaths_untold(trials_end):
            with self.progress:
                interruption = run_trials(task, job, monitor, cluster if self.is_anything_left else None, self.progress)
            self._ended_by = monitor.over
            if self._tracker and job:
                self._tracker.log_figures(SearchResults(self.records, self._metric).each_figure)  # drawn on the tracker's thread while Ray stops
            cluster.stop()  # not in a background thread: if Ray's handles are garbage-collected while it stops, the process dies
        if interruption.signal is not None and self.records.best() is None:
            if len(self.records):
                self.progress.say(f"no trial has a score yet; the same call with save_path={str(self.path)!r} resumes the search", level=1)
            interruption.reraise()
        if trials_end is not None and self._ended_by == TIME_LIMIT:
            self._check_scored()
        again = f"the same call with save_path={str(self.path)!r} tries them again" if takes_first_points(self._settings) else ""
        lower = "" if self._identity.is_objective else "lower learning rates may help"
        self.records.raise_if_all_failed(f"load_search({str(self.path)!r}) shows them", again, lower)
        return interruption

    def _check_scored(self) -> None:
        """Raises TimeLimitTooShort if the time limit is the only reason why no trial has a score."""
        trials = self.records.trials()
        if all(record.best is None and record.reason == TIME_LIMIT for record in trials):
            ran = max(record.ended - record.started for record in trials)
            raise TimeLimitTooShort(
                f"time_limit: none of {len(trials)} trials reached a score, and the longest ran for {ran:.0f} s; "
                f"the same call with save_path={str(self.path)!r} and more time continues"
            )

    def close(self, interruption: Interruption, best: TrialRecord | None, had_time: bool = True, validated: float | None = None) -> None:
        """Writes the leaderboard and the outcome, and ends the MLflow run.

        Args:
            best: the trial that the result comes from; not the best on record if that one's weights are damaged.
            had_time: whether the time sufficed for everything that follows the trials.
            validated: the result's validation metric, which differs from the best trial's if it is an average or an ensemble; None: there is no predictor.
        """
        self._ended_by = self._ended_by or (INTERRUPTED if interruption.signal is not None else "" if had_time else NO_TIME_AFTER)
        try:
            leaderboard(self.records.trials(), self._metric).to_csv(self.folder / "leaderboard.csv", index=False, errors="backslashreplace")
            write_outcome(self.folder, Outcome(self._ended_by or COMPLETE, self._identity.limits))
        except OSError as problem:  # e.g. a full disk; what the search found is saved already
            self.progress.say(f"leaderboard.csv and outcome.json could not be written: {problem}", level=1)
        if self._tracker:
            self._tracker.close("KILLED" if interruption.signal is not None else "FINISHED", best, self.deadline, validated)

    def say_goodbye(self, saved: str, also: str = "") -> None:
        """Prints the best trials, what was saved where, and how to continue a search that ended early.

        Args:
            saved: a line that says what was saved where.
            also: another way to continue, appended to the hint.
        """
        self.progress.summary(self.records)
        if self._tracker and self._tracker.place:
            self.progress.say(f"tracked by MLflow in {self._tracker.place}")
        self.progress.say(saved, level=1)
        cause = self._ended_by or ("the searcher has nothing more to propose" if len(self.records) < self._num_trials else "")
        on = f"; the same call with save_path={str(self.path)!r} resumes it{also}" if cause in (INTERRUPTED, TIME_LIMIT, NO_ROOM, NO_TIME_AFTER) else ""
        if cause:
            self.progress.say(f"ended early ({cause}){on}", level=1)


@contextlib.contextmanager
def search_folder(path: Path, identity: SearchIdentity, resuming: bool) -> Iterator[None]:
    """Creates, locks and labels the folder of a search. If the search fails before its first trial, the folder is removed again.

    Raises:
        SearchInUse, SearchMismatch, SavePathExists: see ``Session.open``.
        InvalidArgument: the folder cannot be created.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    search = path / "search"
    try:
        search.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InvalidArgument(f"save_path: {path} cannot be made: {problem}; give a folder that can be written to") from None
    with search_lock(search):
        if resuming:
            check_same_search(read_identity(search), identity, search)  # checked again, now that nobody else can change it
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
                with contextlib.suppress(OSError):  # another fit may have created its own folder next to this one
                    for folder in made:
                        folder.rmdir()
            raise
        finally:
            shutil.rmtree(search / "cache", ignore_errors=True)


def run_trials(task: TrialTask, job: SearchJob | None, monitor: SearchMonitor, cluster: Cluster | None, progress: Progress) -> Interruption:
    """Runs the remaining trials. Results go to the records; ``monitor.over`` says why the search ended early, and is empty if it did not.

    Args:
        job: None runs the only trial, which is on record already, in this process.
        cluster: None: nothing is left to search.

    Raises:
        TimeLimitTooShort: no time is left, and no trial has a score.
    """
    if task.deadline is not None and job and not job.in_process and time.time() > task.deadline and monitor.records.best() is None:
        late = time.time() - task.deadline
        raise TimeLimitTooShort(f"time_limit: it passed while the data were read and Ray started; give at least {late:.1f} s more, {AND_A_TRIAL}")

    if monitor.records.have_all_failed():
        monitor.records.reopen_all()
    # even if nothing is left to run, or close_open would mark ended trials as cut short. A single trial that failed is not resumed but tried again
    if job is not None or not any(record.status == FAILED for record in monitor.records.trials()):
        monitor.resume()

    def end_soon() -> None:
        monitor.ending = INTERRUPTED
        (task.search_folder / STOP_FILE).touch()
        progress.say("stopping: the running trials are validated and saved first; interrupt again to stop at once", level=1)

    interruption = Interruption()
    try:
        with interruptible(end_soon) as interruption:
            if job is None:
                run_here(replace(task, look=progress.training_at), 0, monitor)
            elif cluster is not None and not monitor.over:
                set_ray_environment()
                from .hpo.search import run_search  # imports Ray, so only after its environment is set

                run_search(job, task, monitor, cluster, progress.say)
    except KeyboardInterrupt:
        interruption.signal = interruption.signal or signal.SIGINT
    reason = monitor.over or (INTERRUPTED if interruption.signal is not None else TIME_LIMIT)
    monitor.close_open(reason)
    if monitor.ending or interruption.signal is not None or not all(record.has_ended for record in monitor.records.trials()):
        monitor.over = reason
    return interruption
