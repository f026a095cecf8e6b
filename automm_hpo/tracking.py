"""MLflow tracking: one parent run per search, one child run per trial. No other module imports mlflow.

Everything, the slow import included, happens on a separate thread. A search never fails because of MLflow, and waits for it only at its end and
within bounds.
"""

from __future__ import annotations

import functools
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

from .errors import NotSupported, first_line
from .files import read_json, write_json
from .process import callers_level, levels_of

EXPERIMENT = "automm_hpo"
RUN_ID = "MLFLOW_RUN_ID"  # environment variable with the run that MLflow continues when the next one would begin
MLFLOW_STATUS = {"COMPLETED": "FINISHED", "STOPPED": "FINISHED", "DIVERGED": "FAILED", "FAILED": "FAILED"}
_quiet = levels_of("mlflow.store.db.utils", "alembic")
MOST_LETTERS = 250  # MLflow's limit for a name
SQLITE = "sqlite:///"  # followed by a path
CLOSE_TIMEOUT = 20.0  # seconds that the end of a fit waits for the last records to be written
OPEN_TIMEOUT = 60.0  # seconds from the start, after which the end of a fit no longer waits for a server that has not answered yet


class MlflowTracker:
    """A listener of the search that stores it in MLflow.

    The tracking URI is the one the user set (``mlflow.set_tracking_uri`` or ``MLFLOW_TRACKING_URI``), else ``mlflow.db`` in the
    current folder, where ``mlflow ui`` looks. The experiment is the active one (``mlflow.set_experiment``), else
    ``MLFLOW_EXPERIMENT_NAME``, else ``automm_hpo``. If the caller has an active run, the parent run is nested in it.
    """

    def __init__(self, folder: Path, name: str, params: Mapping[str, Any], tags: Mapping[str, str], tuned: Iterable[str] = ()) -> None:
        """Starts the thread, whose first job is to open the parent run.

        Args:
            folder: the search's own; the ids of the runs are stored there.
            name: of the parent run.
            params: of the parent run: fixed hyperparameters and spaces, by dotted key. A trial's run has the same keys, and those that it tunes.
            tags: of the parent run.
            tuned: the keys that any trial tunes. Trials that do not tune them have their values logged too.
        """
        self._folder, self._here = folder, Path.cwd()
        self._pictures = (self._here / "mlruns").as_uri()  # MLflow's default place, but absolute: beside the database, wherever it is read
        self._told = frozenset(params) | frozenset(tuned)
        self._metric = tags.get("automm_hpo.metric", "metric")  # logged under its own name besides ``score``
        self._client: Any = None
        self._experiment, around = _callers()  # called here because active runs belong to the caller's thread
        tags = {**tags, "mlflow.parentRunId": around} if around else tags
        self._parent = ""
        self._runs: dict[int, str] = {}
        self._logged: dict[int, list[tuple[int, float]]] = {}  # trial -> (segment, epoch) of each validation that was logged
        self._failure: Exception | None = None
        self._quieted = ExitStack()
        self._ending: tuple[str, Any, float | None] = ("KILLED", None, None)
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._started = time.time()
        self.place = ""  # where the runs are: a database's file or a server's URI; empty until it is known
        self._thread = threading.Thread(target=self._work, name="mlflow-tracker", daemon=True)
        self._thread.start()
        self._jobs.put(lambda: self._open(name, params, tags))

    def trial_resumed(self, record: Any) -> None:
        """Logs what an earlier session, which was cut short, had no time to log."""
        self._logged[record.number] = [(result.segment, result.epoch) for result in record.results]
        self._jobs.put(lambda: self._resume_trial(record))

    def trial_retried(self, record: Any, cause: str) -> None:
        self._jobs.put(lambda: record.number in self._runs and self._client.set_tag(self._runs[record.number], "automm_hpo.retried", cause))

    def trial_took_over(self, record: Any) -> None:
        """Logs the new values as a tag, because the parameters of a run cannot change."""
        now = record.segments[-1]
        words = f"from trial {now.parent} at epoch {now.epoch:g}: " + ", ".join(f"{key}={value}" for key, value in now.tuned.items())
        self._jobs.put(lambda: self._client.set_tag(self._runs[record.number], f"automm_hpo.segment_{now.number}", words))

    def trial_started(self, record: Any) -> None:
        self._jobs.put(lambda: self._start_trial(record))

    def trial_reported(self, record: Any, result: Any) -> None:
        now, values = _now(), self._values(result)
        # MLflow's steps are integers, so validations are counted (there is often one per epoch). A trial that begins again counts from there again
        place, logged = (result.segment, result.epoch), self._logged.setdefault(record.number, [])
        while logged and logged[-1] >= place:
            logged.pop()
        logged.append(place)
        validation = len(logged)
        self._jobs.put(lambda: self._log_metrics(self._runs[record.number], values, validation, now))

    def trial_ended(self, record: Any) -> None:
        self._jobs.put(lambda: self._end_trial(record))

    def log_figures(self, draw: Callable[[], Iterable[tuple[str, Any]]]) -> None:
        """Logs figures to the parent run.

        Args:
            draw: gives (file name, figure) one after another; called on the tracker's thread.
        """
        self._jobs.put(lambda: [self._client.log_figure(self._parent, figure, name) for name, figure in draw()])

    def close(self, status: str, best: Any = None, deadline: float | None = None, validated: float | None = None) -> None:
        """Ends the parent run and waits, within bounds, until everything is written.

        Args:
            status: FINISHED, FAILED or KILLED.
            best: the winning trial's record.
            deadline: time.time() after which it waits at most two seconds.
            validated: validation metric of the predictor, which differs from the best trial's if it is an average or an ensemble.
        """
        self._ending = (status, best, validated)
        self._jobs.put(None)
        until = [time.time() + CLOSE_TIMEOUT] + ([] if deadline is None else [deadline]) + ([] if self._parent else [self._started + OPEN_TIMEOUT])
        timeout = max(2.0, min(until) - time.time())
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._failure = TimeoutError(f"not done after {timeout:.0f} s")
        if self._failure is not None:
            what = first_line(self._failure)  # databases append their SQL
            warnings.warn(f"MLflow tracking is incomplete ({type(self._failure).__name__}: {what}); the fit is unaffected", stacklevel=callers_level())

    def _values(self, result: Any) -> dict[str, float]:
        names = ("score", "train_loss", "valid_loss", "lr", "epoch", "step", "seconds")
        others = result.named(names)
        others.pop(self._metric, None)
        return {self._metric: result.metric, **others}  # first, so that it keeps its name if another one becomes the same

    def _best_values(self, best: Any) -> dict[str, float]:
        """The values to rank trials by: of a metric that is logged epoch by epoch, MLflow's tables show only the last value."""
        return {"best_score": best.score, "best_epoch": best.epoch, f"best_{self._metric}": best.metric}

    # everything below runs on the tracker's thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._failure is None:
                self._attempt(job)
        if self._parent:  # even after a failure, or the run would be shown as RUNNING for ever
            self._attempt(lambda: self._close(*self._ending))
        self._quieted.close()

    def _attempt(self, job: Callable[[], object]) -> None:
        try:
            job()
        except Exception as error:  # nothing that a tracking server does may fail a fit
            self._failure = self._failure or error

    def _open(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        import mlflow
        from sqlalchemy import make_url

        self._quieted.enter_context(_quiet.be(logging.WARNING))  # after the import, because some versions set these levels during it
        here = self._here
        if make_url("sqlite:////%25").database == "/%":  # some versions of SQLAlchemy read escapes in the path, others do not
            here = Path(str(here).replace("%", "%25"))
        default = f"{SQLITE}{here / 'mlflow.db'}"
        uri = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else default
        if uri == default and "?" in uri:  # the path would end at the question mark
            raise NotSupported(f"a sqlite URI allows no question mark in the folder's name, {self._here}; set a tracking URI")
        database = self._here / "mlflow.db"
        if uri == default and not os.access(database if database.exists() else self._here, os.W_OK):  # or MLflow would retry for a long time
            raise PermissionError(f"{database} cannot be written; set a tracking URI, or tracking=None")
        if uri.startswith(SQLITE):  # absolute, because the trials' processes may be in another folder
            uri = f"{SQLITE}{here / uri.removeprefix(SQLITE)}"
        self._client, known = mlflow.MlflowClient(tracking_uri=uri), None
        with suppress(mlflow.MlflowException):  # the id is another server's
            known = self._experiment and self._client.get_experiment(self._experiment)
        if not known:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            found = self._client.get_experiment_by_name(experiment)
            try:
                pictures = self._pictures if uri == default else None  # a server has its own place for artifacts
                self._experiment = found.experiment_id if found else self._client.create_experiment(experiment, artifact_location=pictures)
            except mlflow.MlflowException:  # another fit has created it meanwhile
                self._experiment = self._client.get_experiment_by_name(experiment).experiment_id
        self._parent = self._open_run(name, params, tags, self._folder / "mlflow.json")
        self.place = re.sub("//[^/@]*@", "//", uri.removeprefix(SQLITE).removeprefix(f"{self._here}/"))  # without a password

    def _open_run(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], note: Path) -> str:
        """The id of the run that an earlier session noted, set to RUNNING again; if it is gone, of a new run."""
        import mlflow

        if note.exists():
            run_id = read_json(note)["run_id"]
            try:
                run = self._client.get_run(run_id)
                if run.info.lifecycle_stage == "active":
                    self._client.update_run(run_id, status="RUNNING")
                    for tag, value in tags.items():  # num_trials may have been raised, say; the enclosing run stays as it was
                        if tag.startswith("automm_hpo.") and run.data.tags.get(tag) != value:
                            self._client.set_tag(run_id, tag, value)
                    return run_id
            except mlflow.MlflowException:  # another server, or a database that is gone
                pass
        run_id = self._client.create_run(self._experiment, run_name=name, tags=dict(tags)).info.run_id
        write_json(note, {"run_id": run_id, "uri": self._client.tracking_uri})
        self._attempt(lambda: self._log_params(run_id, params))  # a failure here must not lose the run, which is still to be ended
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
        if record.number not in self._runs:  # the search was over before the trial could start
            self._start_trial(record)
        run_id = self._runs.pop(record.number)
        if record.best:
            self._log_metrics(run_id, self._best_values(record.best), 0, _now())
            changed = {key: value for key, value in record.best_tuned.items() if value != record.segments[0].tuned.get(key)}
            if record.has_ended:  # parameters cannot change, and a trial that goes on may find a better epoch
                self._log_params(run_id, {f"best/{key}": value for key, value in changed.items()})
        for tag, value in (("automm_hpo.status", record.status), ("automm_hpo.reason", record.reason)):
            self._client.set_tag(run_id, tag, value)
        self._client.set_terminated(run_id, MLFLOW_STATUS[record.status], end_time=int(record.ended * 1000) or None)  # may be in an earlier session

    def _close(self, status: str, best: Any, validated: float | None) -> None:
        if best is not None:
            values = self._best_values(best.best) | ({} if validated is None else {f"val_{self._metric}": validated})
            self._log_metrics(self._parent, values, 0, _now())
            # as tags, because parameters cannot change and a resumed search may find a better trial
            for tag, value in {"automm_hpo.best_trial": best.number, **{f"best/{key}": value for key, value in best.best_tuned.items()}}.items():
                self._client.set_tag(self._parent, _name(tag), str(value)[:5000])
        for run_id in self._runs.values():  # trials that were under way when the search was cut short
            self._client.set_terminated(run_id, "KILLED")
        self._client.set_terminated(self._parent, status)


def _callers() -> tuple[str, str]:
    """(id of the caller's active experiment, id of the caller's active run), each an empty string if there is none."""
    run = None
    if "mlflow" in sys.modules:
        import mlflow

        run = mlflow.active_run()
    return (run.info.experiment_id, run.info.run_id) if run else (os.environ.get("MLFLOW_EXPERIMENT_ID", ""), "")  # set by set_experiment


@contextmanager
def active_run(trial_folder: Path, timeout: float = 20.0) -> Iterator[None]:
    """Makes a trial's run the active one in the trial's process, so that ``mlflow.log_metric`` and autologging write to it.

    It takes effect when the objective imports MLflow: most objectives never do, and the import would cost them seconds.

    Args:
        timeout: seconds to wait for the tracker to open the run; after that, the trial goes on untracked.
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
            mlflow.set_tracking_uri = mlflow.tracking.set_tracking_uri
            with suppress(Exception):  # a server that is gone must not fail the trial
                while mlflow.active_run() is not None:  # runs that the objective left open, too: the next trial's would be nested in them
                    mlflow.end_run(status)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function once a module has been imported. Merely looking for the module, as some libraries do, does not count."""

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


_untracked: set[Path] = set()  # folders of searches for whose tracker this process has waited in vain


def _start_run(trial_folder: Path, timeout: float, in_its_thread: bool) -> bool:
    """Makes the trial's run the active one; returns whether it is now.

    Args:
        in_its_thread: this is the trial's thread. Active runs belong to a thread: in another one, the run is started by the first call that logs.
    """
    note, search = trial_folder / "mlflow.json", trial_folder.parent.parent
    deadline = time.time() + (0.0 if search in _untracked else timeout)
    while not note.exists() and time.time() < deadline:
        time.sleep(0.01)
    if not note.exists():
        _untracked.add(search)  # so that its other trials do not wait
        return False
    import mlflow

    try:
        stored = read_json(note)
        mlflow.set_tracking_uri(stored["uri"])
        run = mlflow.MlflowClient().get_run(stored["run_id"])
        mlflow.set_experiment(experiment_id=run.info.experiment_id)  # the last trial may have set another; nested runs go there, too
        if in_its_thread:
            mlflow.start_run(run_id=run.info.run_id)
        else:
            os.environ[RUN_ID] = run.info.run_id
        mlflow.set_tracking_uri = functools.partial(_set_uri, stored["uri"])
    except Exception:  # the tracker fails likewise, and warns of it
        return False
    return True


def _set_uri(own: str, uri: Any = None) -> None:
    """In a trial, the default URI is that of its run. Ray's ``setup_mlflow`` resets the URI to the default."""
    import mlflow

    mlflow.tracking.set_tracking_uri(uri or own)


def _name(key: str) -> str:
    """A name that MLflow accepts: ``recall@5`` becomes ``recall_5``. It has at most 250 characters and is not a path that leads elsewhere."""
    name = re.sub(r"[^\w.\- :/]", "_", key)[:MOST_LETTERS]
    return name if name not in ("", ".") and posixpath.normpath(name) == name and not name.startswith(("..", "/")) else re.sub(r"[/.]", "_", name) or "_"


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values under names that MLflow accepts. If two names become the same, the later one gets a number."""
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
