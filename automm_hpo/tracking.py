"""MLflow: one parent run a fit, one child run a trial. The only ``import mlflow``.

Everything happens on a thread of its own, which also pays for the import; a search neither waits for MLflow nor fails with it.
"""

from __future__ import annotations

import importlib.abc
import logging
import math
import os
import posixpath
import queue
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import NotSupported
from .files import read_json, write_json
from .process import callers_level, levels_of

EXPERIMENT = "automm_hpo"
RUN_ID = "MLFLOW_RUN_ID"  # which MLflow reads when a run begins
MLFLOW_STATUS = {"COMPLETED": "FINISHED", "STOPPED": "FINISHED", "DIVERGED": "FAILED", "FAILED": "FAILED"}
_quiet = levels_of("mlflow.store.db.utils", "alembic")
MOST_LETTERS = 250  # of a name, by MLflow's own count
SQLITE = "sqlite:///"  # and a path
CLOSE_TIMEOUT = 20.0  # seconds that the end of a fit waits for the last records to be written
OPEN_TIMEOUT = 60.0  # after which it is not waited for a server that has not answered yet


class MlflowTracker:
    """A listener of the search that stores it in MLflow.

    The tracking URI is the one the user set (``mlflow.set_tracking_uri`` or ``MLFLOW_TRACKING_URI``), else ``mlflow.db`` in the
    current folder, where ``mlflow ui`` looks. The experiment is the one that is active (``mlflow.set_experiment``), else
    ``MLFLOW_EXPERIMENT_NAME``, else ``automm_hpo``; where a run of the caller's is active, the parent run lies within it.
    """

    def __init__(self, folder: Path, name: str, params: Mapping[str, Any], tags: Mapping[str, str], tuned: Iterable[str] = ()) -> None:
        """Begins the thread, which opens the parent run first of all.

        Args:
            folder: the search's; run ids are noted there.
            name: of the parent run.
            params: what the search is described by: fixed hyperparameters, and spaces, by dotted key. A trial has the same ones, and what it tunes.
            tuned: all that some trial tunes; one that does not has its value told all the same.
        """
        self._folder, self._here = folder, Path.cwd()
        self._pictures = (self._here / "mlruns").as_uri()  # MLflow's own default, but where the database is, whatever folder a reader is in
        self._told = frozenset(params) | frozenset(tuned)
        self._metric = tags.get("automm_hpo.metric", "metric")  # logged under its own name too
        self._client: Any = None
        self._experiment, around = _callers()  # in the caller's thread, which its runs are of
        tags = {**tags, "mlflow.parentRunId": around} if around else tags
        self._parent = ""
        self._runs: dict[int, str] = {}
        self._logged: dict[int, list[tuple[int, float]]] = {}  # of each trial, where its validations are
        self._failure: Exception | None = None
        self._quieted = ExitStack()
        self._ending: tuple[str, Any, float | None] = ("KILLED", None, None)
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._started = time.time()
        self._thread = threading.Thread(target=self._work, name="mlflow-tracker", daemon=True)
        self._thread.start()
        self._jobs.put(lambda: self._open(name, params, tags))

    def trial_resumed(self, record: Any) -> None:
        """Completes what an earlier session, cut short, did not get to log."""
        self._logged[record.number] = [(result.segment, result.epoch) for result in record.results]
        self._jobs.put(lambda: self._resume_trial(record))

    def trial_retried(self, record: Any, cause: str) -> None:
        self._jobs.put(lambda: record.number in self._runs and self._client.set_tag(self._runs[record.number], "automm_hpo.retried", cause))

    def trial_took_over(self, record: Any) -> None:
        """Parameters of a run cannot change: what it goes on with is a tag."""
        now = record.segments[-1]
        words = f"from trial {now.parent} at epoch {now.epoch:g}: " + ", ".join(f"{key}={value}" for key, value in now.tuned.items())
        self._jobs.put(lambda: self._client.set_tag(self._runs[record.number], f"automm_hpo.segment_{now.number}", words))

    def trial_started(self, record: Any) -> None:
        self._jobs.put(lambda: self._start_trial(record))

    def trial_reported(self, record: Any, result: Any) -> None:
        now, values = _now(), self._values(result)
        # MLflow's axis is whole numbers: validations, which are the epochs where there is one an epoch. A trial that begins again has them again
        place, logged = (result.segment, result.epoch), self._logged.setdefault(record.number, [])
        while logged and logged[-1] >= place:
            logged.pop()
        logged.append(place)
        validation = len(logged)
        self._jobs.put(lambda: self._log_metrics(self._runs[record.number], values, validation, now))

    def trial_ended(self, record: Any) -> None:
        self._jobs.put(lambda: self._end_trial(record))

    def log_figures(self, draw: Callable[[], Iterable[tuple[str, Any]]]) -> None:
        """Puts pictures on the parent run's page.

        Args:
            draw: gives them one after another, with the names of their files; called on the thread.
        """
        self._jobs.put(lambda: [self._client.log_figure(self._parent, figure, name) for name, figure in draw()])

    def close(self, status: str, best: Any = None, deadline: float | None = None, validated: float | None = None) -> None:
        """Ends the parent run and waits, within bounds, until all is written.

        Args:
            status: FINISHED, FAILED or KILLED.
            best: the winning trial's record.
            deadline: time.time() after which it waits two seconds at most.
            validated: the metric of the predictor, which may be more than the best trial.
        """
        self._ending = (status, best, validated)
        self._jobs.put(None)
        until = [time.time() + CLOSE_TIMEOUT] + ([] if deadline is None else [deadline]) + ([] if self._parent else [self._started + OPEN_TIMEOUT])
        timeout = max(2.0, min(until) - time.time())
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._failure = TimeoutError(f"not done after {timeout:.0f} s")
        if self._failure is not None:
            what = str(self._failure).partition("\n")[0]  # databases add their statements
            warnings.warn(f"MLflow tracking is incomplete ({type(self._failure).__name__}: {what}); the fit is unaffected", stacklevel=callers_level())

    def _values(self, result: Any) -> dict[str, float]:
        names = ("score", "train_loss", "valid_loss", "lr", "epoch", "step", "seconds")
        others = result.named(names)
        others.pop(self._metric, None)
        return {self._metric: result.metric, **others}  # first: where two names become one, it keeps its own

    def _best_values(self, best: Any) -> dict[str, float]:
        """A metric that is logged epoch by epoch shows its last value in MLflow's tables; trials are ranked by these."""
        return {"best_score": best.score, "best_epoch": best.epoch, f"best_{self._metric}": best.metric}

    # everything below runs on the thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._failure is None:
                self._attempt(job)
        if self._parent:  # even after a failure: a run left RUNNING would run for ever
            self._attempt(lambda: self._close(*self._ending))
        self._quieted.close()

    def _attempt(self, job: Callable[[], object]) -> None:
        try:
            job()
        except Exception as error:  # whatever a tracking server can do, it cannot fail a fit
            self._failure = self._failure or error

    def _open(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        import mlflow

        self._quieted.enter_context(_quiet.be(logging.WARNING))  # now, for some versions set these levels as they are imported
        default = f"{SQLITE}{self._here / 'mlflow.db'}"
        uri = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else default
        if uri == default and "?" in uri:  # it would lie in another folder
            raise NotSupported(f"no sqlite database can lie in a folder with a question mark in its name, {self._here}; set a tracking URI")
        database = self._here / "mlflow.db"
        if uri == default and not os.access(database if database.exists() else self._here, os.W_OK):  # or it would try for a long while
            raise PermissionError(f"{database} cannot be written; set a tracking URI, or tracking=None")
        if uri.startswith(SQLITE):  # the processes of trials may be in another folder
            uri = f"{SQLITE}{self._here / uri.removeprefix(SQLITE)}"
        self._client, known = mlflow.MlflowClient(tracking_uri=uri), None
        with suppress(mlflow.MlflowException):  # it is of another server
            known = self._experiment and self._client.get_experiment(self._experiment)
        if not known:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            found = self._client.get_experiment_by_name(experiment)
            try:
                pictures = self._pictures if uri == default else None  # a server knows its own place for them
                self._experiment = found.experiment_id if found else self._client.create_experiment(experiment, artifact_location=pictures)
            except mlflow.MlflowException:  # another fit was quicker
                self._experiment = self._client.get_experiment_by_name(experiment).experiment_id
        self._parent = self._open_run(name, params, tags, self._folder / "mlflow.json")

    def _open_run(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], note: Path) -> str:
        """The run that an earlier session noted, running again where it is still there; else a new one."""
        import mlflow

        if note.exists():
            run_id = read_json(note)["run_id"]
            try:
                run = self._client.get_run(run_id)
                if run.info.lifecycle_stage == "active":
                    self._client.update_run(run_id, status="RUNNING")
                    for tag, value in tags.items():  # more trials may be asked for now; what it lies in stays as it was
                        if tag.startswith("automm_hpo.") and run.data.tags.get(tag) != value:
                            self._client.set_tag(run_id, tag, value)
                    return run_id
            except mlflow.MlflowException:  # another server, or a database that is gone
                pass
        run_id = self._client.create_run(self._experiment, run_name=name, tags=dict(tags)).info.run_id
        write_json(note, {"run_id": run_id, "uri": self._client.tracking_uri})
        self._attempt(lambda: self._log_params(run_id, params))  # a run that is there is ended, whatever becomes of these
        return run_id

    def _start_trial(self, record: Any) -> None:
        note = self._folder / "trials" / f"{record.number:04d}" / "mlflow.json"
        tags = {"mlflow.parentRunId": self._parent, "automm_hpo.trial": str(record.number)}
        params = {key: value for key, value in record.config.items() if key in self._told or key in record.tuned}
        self._runs[record.number] = self._open_run(f"trial {record.number}", params, tags, note)

    def _resume_trial(self, record: Any) -> None:
        self._start_trial(record)
        run_id = self._runs[record.number]
        logged = {metric.step for metric in self._client.get_metric_history(run_id, "epoch")}
        for validation, result in enumerate(record.results, 1):
            if validation not in logged:
                self._log_metrics(run_id, self._values(result), validation, _now())
        if record.has_ended:
            self._end_trial(record)

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(key, str(value)[:6000]) for key, value in _named(params).items()])

    def _log_metrics(self, run_id: str, values: Mapping[str, float], step: int, timestamp: int) -> None:
        from mlflow.entities import Metric

        finite = {key: value for key, value in _named(values).items() if math.isfinite(value)}
        self._client.log_batch(run_id, metrics=[Metric(key, float(value), timestamp, step) for key, value in finite.items()])

    def _end_trial(self, record: Any) -> None:
        if record.number not in self._runs:  # the search was over before it got a place
            self._start_trial(record)
        run_id = self._runs.pop(record.number)
        if record.best:
            self._log_metrics(run_id, self._best_values(record.best), 0, _now())
            changed = {key: value for key, value in record.best_tuned.items() if value != record.segments[0].tuned.get(key)}
            if record.has_ended:  # a parameter keeps what it was at first, and a trial that goes on may find a better one
                self._log_params(run_id, {f"best/{key}": value for key, value in changed.items()})
        for tag, value in (("automm_hpo.status", record.status), ("automm_hpo.reason", record.reason)):
            self._client.set_tag(run_id, tag, value)
        self._client.set_terminated(run_id, MLFLOW_STATUS[record.status], end_time=int(record.ended * 1000) or None)  # one of an earlier session ended then

    def _close(self, status: str, best: Any, validated: float | None) -> None:
        if best is not None:
            values = self._best_values(best.best) | ({} if validated is None else {f"val_{self._metric}": validated})
            self._log_metrics(self._parent, values, 0, _now())
            # tags: a parameter keeps its first value, and a search that goes on may find a better one
            for tag, value in {"automm_hpo.best_trial": best.number, **{f"best/{key}": value for key, value in best.best_tuned.items()}}.items():
                self._client.set_tag(self._parent, _name(tag), str(value)[:5000])
        for run_id in self._runs.values():  # trials that were under way when the search was cut short
            self._client.set_terminated(run_id, "KILLED")
        self._client.set_terminated(self._parent, status)


def _callers() -> tuple[str, str]:
    """(id of the experiment that the caller has made active, id of the active run), empty where there is none."""
    run = None
    if "mlflow" in sys.modules:
        import mlflow

        run = mlflow.active_run()
    return (run.info.experiment_id, run.info.run_id) if run else (os.environ.get("MLFLOW_EXPERIMENT_ID", ""), "")  # which set_experiment sets


@contextmanager
def active_run(trial_folder: Path, timeout: float = 20.0) -> Iterator[None]:
    """Makes a trial's run the active one, so that ``mlflow.log_metric`` and autologging land there. In the process of the trial.

    It begins when MLflow is imported, for most objectives never do that, and it would take them seconds.

    Args:
        timeout: seconds to wait for the tracker to open the run; without it, the trial goes on untracked.
    """
    has_begun, thread = False, threading.get_ident()

    def begin() -> None:
        nonlocal has_begun
        has_begun = _start_run(trial_folder, timeout, threading.get_ident() == thread)

    import_hook = _AfterImport("mlflow", begin)
    if "mlflow" in sys.modules:
        begin()
    else:
        sys.meta_path.insert(0, import_hook)
    status = "FINISHED"  # also of a trial that the scheduler stops
    try:
        yield
    except Exception:
        status = "FAILED"
        raise
    finally:
        with suppress(ValueError):
            sys.meta_path.remove(import_hook)
        if has_begun:
            import mlflow

            os.environ.pop(RUN_ID, None)
            with suppress(Exception):  # a server that is gone fails no trial
                while mlflow.active_run() is not None:  # the objective may have left some of its own open, in which the next trial's would be
                    mlflow.end_run(status)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Does something when a module has been imported; asking whether there is one, as libraries do, is no import."""

    def __init__(self, module: str, action: Callable[[], None]) -> None:
        self._module, self._action = module, action

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != self._module:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                del loader.exec_module
                execute(module)
                self._action()

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_untracked: set[Path] = set()  # searches that this process has waited for in vain


def _start_run(trial_folder: Path, timeout: float, in_its_thread: bool) -> bool:
    """Whether the trial's run is now the active one.

    Args:
        in_its_thread: of the trial, which is where MLflow takes it for active. Elsewhere it is left to whoever logs first.
    """
    note, search = trial_folder / "mlflow.json", trial_folder.parent.parent
    deadline = time.time() + (0.0 if search in _untracked else timeout)
    while not note.exists() and time.time() < deadline:
        time.sleep(0.01)
    if not note.exists():
        _untracked.add(search)  # its other trials need not wait
        return False
    import mlflow

    try:
        stored = read_json(note)
        mlflow.set_tracking_uri(stored["uri"])
        run = mlflow.MlflowClient().get_run(stored["run_id"])
        mlflow.set_experiment(experiment_id=run.info.experiment_id)  # the last trial may have set another; it is also that of runs nested in this one
        if in_its_thread:
            mlflow.start_run(run_id=run.info.run_id)
        else:
            os.environ[RUN_ID] = run.info.run_id
    except Exception:  # as in the tracker, which tells of it
        return False
    return True


def _name(key: str) -> str:
    """A name that MLflow takes: ``recall@5`` becomes ``recall_5``. It may not read as a path to somewhere else, and has 250 characters at most."""
    name = re.sub(r"[^\w.\- :/]", "_", key)[:MOST_LETTERS]
    return name if name not in ("", ".") and posixpath.normpath(name) == name and not name.startswith(("..", "/")) else re.sub(r"[/.]", "_", name) or "_"


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values under names that MLflow takes; of two that become one, the later has a number."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        name, count = _name(key), 2
        while name in named:
            name, count = f"{_name(key)}_{count}", count + 1
        named[name] = value
    return named


def _now() -> int:
    """Milliseconds since 1970, MLflow's unit."""
    return int(time.time() * 1000)
