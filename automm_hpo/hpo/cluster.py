"""The Ray that a search runs on: the user's if one is running, otherwise one of our own for the duration of the search."""

from __future__ import annotations

import functools
import gc
import importlib
import logging
import math
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

from ..errors import InvalidArgument, InvalidTuneSettings, TimeLimitTooShort
from ..process import ProcessWide, handlers_unchanged, levels_of
from .settings import local_resources

# Keeps Ray quiet, and away from the user's home folder and signal handlers. Ray reads these when it is imported or started.
RAY_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that had no time reports no metric
    "TUNE_WARN_THRESHOLD_S": "3600",
    "PL_DISABLE_FORK": "1",  # Tune would set it for each actor, see _lean_ray
}
LEAST_START_SECONDS = 2.0  # to start a Ray of our own; benchmarks/RESULTS.md has 2.4 s on an idle machine
DEATH = "A worker died or was killed while executing a task"  # Ray's message, also for workers that exit by themselves


def set_ray_environment() -> None:
    """Sets the variables of ``RAY_ENVIRONMENT`` that the user has not set. To be called before Ray is imported."""
    for key, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def known_resources(num_gpus: int = -1) -> dict[str, float] | None:
    """The ``cpu`` and ``gpu`` that a search will have, named as in ``resources_per_trial``; None for a cluster that is not connected yet.

    Args:
        num_gpus: limits the GPUs counted on this machine if no Ray is running; -1: all.
    """
    if (ray := _running_ray()) is not None:
        found = ray.cluster_resources()
        return {"cpu": found.get("CPU", 0.0), "gpu": found.get("GPU", 0.0)}
    return None if "RAY_ADDRESS" in os.environ else local_resources(num_gpus)


def least_start_seconds() -> float:
    """The least time that starting Ray takes; 0 if one is running, or ``RAY_ADDRESS`` names one."""
    return LEAST_START_SECONDS if _running_ray() is None and "RAY_ADDRESS" not in os.environ else 0.0


def _running_ray() -> Any:
    """The ``ray`` module if this thread can use a running Ray, else None. One that another thread's search started does not count: it ends with that search."""
    ray = sys.modules.get("ray")
    return ray if ray is not None and ray.is_initialized() and _owner in (None, threading.get_ident()) else None


_quiet = levels_of("ray", "ray.tune", "ray.train", "ray.air")  # we report failures of trials ourselves
_own_ray = threading.RLock()  # a process can have only one Ray at a time
_owner: int | None = None  # id of the thread whose search started the running Ray; None: the user did, or none is running


@contextmanager
def ray_cluster(
    num_gpus: int | None = None, report: Callable[[str], None] = lambda line: None, show_output: bool = False, deadline: float | None = None
) -> Iterator[Mapping[str, float]]:
    """The user's running Ray, or one of our own for the duration of the search. Sets environment variables, which ``process_unchanged`` restores.

    If another thread is searching on a Ray of our own, waits for that search to end. Nested calls in one thread share the outer Ray.

    Args:
        num_gpus: limits how many of this machine's GPUs a Ray of our own gets, counting only those that torch can use (Ray also counts GPUs whose
            driver is too old); -1: all of them. None: as many as Ray counts.
        report: is called with a line if it has to wait.
        show_output: show what the trials' processes print, if this is a Ray of our own.
        deadline: time.time() until which to wait; None: as long as it takes.

    Yields:
        The cluster's resources.

    Raises:
        TimeLimitTooShort: the other thread's search has not ended by then.
    """
    global _owner
    set_ray_environment()
    import ray

    if not _own_ray.acquire(blocking=False):
        report("waiting for another search in this process, which runs on a Ray of its own; after a ray.init() of yours they would run side by side")
        if not _own_ray.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.time())):
            raise TimeLimitTooShort("time_limit: it passed while another thread's search was running on Ray; after a ray.init() of yours they run side by side")
    own = not ray.is_initialized()
    if not own:  # the user's Ray, or that of an outer call in this thread
        _own_ray.release()
    address = os.environ.get("RAY_ADDRESS", "local") if own else "running"
    try:
        if own:
            _owner = threading.get_ident()
            sizes: dict[str, Any] = {"object_store_memory": 100_000_000} if address == "local" else {}  # we store next to nothing in it
            if address == "local" and num_gpus is not None:
                sizes["num_gpus"] = int(local_resources(num_gpus)["gpu"])
            if address == "local":
                _give_token()
        shown = _all_output_shown if show_output and address == "local" else nullcontext
        untold = deaths_untold if own else nullcontext  # only our own workers run here, and we report their deaths ourselves
        with _quiet.be(logging.CRITICAL):
            if own:
                _start(address=address, include_dashboard=False if address == "local" else None, log_to_driver=show_output, **sizes)
            # with RAY_DEDUP_LOGS on, Ray shows a line that two trials print only once
            with _lean_ray(inherits=address == "local"), _replaced("ray._private.ray_logging", RAY_DEDUP_LOGS=False), untold(0.0), shown():
                yield ray.cluster_resources()
    finally:
        if own:
            try:
                with _nothing_collected():
                    ray.shutdown()
            finally:
                _owner = None
                _own_ray.release()


class Cluster:
    """A ``ray_cluster`` that is started on demand. A context manager: leaving it stops the cluster.

    Args:
        ray: a call of ``ray_cluster``, which does nothing until it is entered.
    """

    def __init__(self, ray: AbstractContextManager[Mapping[str, float]]) -> None:
        self._ray, self._stack, self._available = ray, ExitStack(), dict[str, float]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> Mapping[str, float]:
        """Starts the cluster unless it is running, and returns its resources."""
        if not self._available:
            self._available = dict(self._stack.enter_context(self._ray))
        return self._available

    def stop(self) -> None:
        self._available = {}
        self._stack.close()


def _start(**options: Any) -> None:
    import ray

    try:
        with handlers_unchanged():  # Ray's SIGTERM handler exits at once, so the running search could not be saved
            ray.init(logging_level=logging.CRITICAL, **options)
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise
        folder = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
        raise InvalidArgument(f"TMPDIR: {folder} is too long a path for the sockets that Ray keeps there ({error}); set RAY_TMPDIR to a shorter one") from None


_token = secrets.token_hex(16)  # one for the whole process, because Ray keeps using the first


def _give_token() -> None:
    """Gives Ray a token for its processes to authenticate with, if it cannot store one in the home folder, for example in a container."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)  # as Ray does
        there = (folder / "auth_token").exists() or os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # no permission, or the user has no home folder
        there = False
    if not there:
        os.environ["RAY_AUTH_TOKEN"] = _token


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Collects garbage now, and turns the collector off within the block.

    If any thread garbage-collects one of Ray's handles while Ray shuts down, the whole process dies without a message.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _all_output_shown(patience: float = 3.0, at_first: float = 30.0) -> Iterator[None]:
    """Waits at its end until everything that Ray's processes printed has been shown here.

    Ray reads their output from files about ten times a second. What it has not read when it shuts down is lost: the last lines of the last trial.

    Args:
        patience: longest wait, in seconds.
        at_first: longest wait if nothing was shown yet; on a busy machine the process that reads the files may not have started.
    """
    from ray._private import ray_logging, worker

    # private to Ray, as in _replaced: another version may not have them
    node, dispatcher = getattr(worker, "_global_node", None), getattr(ray_logging, "global_worker_stdstream_dispatcher", None)
    if node is None or dispatcher is None:
        yield
        return
    logs = Path(node.get_logs_dir_path())
    shown = 0

    def count(data: Mapping[str, Any]) -> None:
        nonlocal shown
        if str(data["pid"]).isdigit():  # not one of Ray's own processes
            shown += sum(map(len, data["lines"]))

    def printed() -> int:
        files = [path for kind in ("out", "err") for path in logs.glob(f"worker*.{kind}")]
        lines = [line.rstrip("\r") for path in files for line in path.read_bytes().decode("utf-8", "replace").split("\n")]
        return sum(len(line) for line in lines if not line.startswith((":job_id:", ":actor_name:", ":task_name:")))

    dispatcher.add_handler("automm_hpo", count)
    try:
        yield
        began = time.monotonic()
        while shown < printed() and time.monotonic() - began < (patience if shown else at_first):
            time.sleep(0.05)
    finally:
        dispatcher.remove_handler("automm_hpo")


@contextmanager
def _lean_ray(inherits: bool) -> Iterator[None]:
    """Saves a search two seconds and 50 MB that Ray spends on things that nobody needs here.

    Tune sets environment variables for each actor, so Ray has to start new processes instead of using those it holds ready. It also counts
    callbacks by kind for its telemetry, even if that is off, and imports mlflow, wandb and comet to tell the kinds apart.

    Args:
        inherits: whether Ray's processes were started by this one, and so have its environment variables.
    """
    own = _replaced("ray.tune.execution.class_cache", DEFAULT_ENV_VARS={}, ENV_VARS_TO_PROPAGATE=frozenset()) if inherits else nullcontext()
    with own, _replaced("ray.air._internal.usage", tag_callbacks=lambda callbacks: False):
        yield


@contextmanager
def _replaced(name: str, **values: Any) -> Iterator[None]:
    """Replaces attributes of one of Ray's modules within the block. They are private to Ray: those that its version does not have are skipped."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        yield
        return
    with _replaced_in(module, **values):
        yield


@contextmanager
def _replaced_in(owner: Any, **values: Any) -> Iterator[None]:
    """Replaces attributes of a module or class within the block. Of several threads, the last one to leave restores the original values."""
    with ExitStack() as stack:
        for attribute, value in values.items():
            if hasattr(owner, attribute):
                stack.enter_context(_attribute(owner, attribute).be(value))
        yield


@functools.cache
def _attribute(owner: Any, name: str) -> ProcessWide:
    return ProcessWide(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


@contextmanager
def killed_when_late(seconds: float | None) -> Iterator[None]:
    """Makes Tune kill its remaining actors and free their resources if it finishes ``seconds`` from now or later; None: never.

    Tune would wait up to 15 s for actors that hang, or are only just starting, to end in an orderly way.
    """
    from ray.tune.execution.tune_controller import TuneController

    clean_up, latest, ours = getattr(TuneController, "_cleanup_trials", None), math.inf if seconds is None else time.monotonic() + seconds, True

    def clean_up_in_time(controller: Any) -> None:
        if not ours or time.monotonic() < latest:
            clean_up(controller)  # type: ignore[misc]
        else:
            controller._actor_manager.cleanup()

    try:
        with _replaced_in(TuneController, _cleanup_trials=clean_up_in_time):
            yield
    finally:
        ours = False  # see deaths_untold


@contextmanager
def deaths_untold(after: float | None) -> Iterator[None]:
    """Suppresses Ray's messages about workers that die after ``after``. We report those ourselves; Ray would blame a lack of memory.

    Args:
        after: time.time() from which messages are suppressed; None: none is.
    """
    if after is None or "ray" not in sys.modules:
        yield
        return
    from ray._private import worker

    tell, ours = getattr(worker, "print_to_stdstream", None), True

    def tell_others(data: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        is_death = data.get("pid") == "raylet" and any(DEATH in line for line in data.get("lines", ()))
        if not (ours and is_death and time.time() > after):
            tell(data, *args, **kwargs)  # type: ignore[misc]

    try:
        with _replaced("ray._private.worker", print_to_stdstream=tell_others):
            yield
    finally:
        ours = False  # a function that another search has put in its place may still call this one


def check_nodes(folder: Path, wanted: Mapping[str, float]) -> None:
    """Checks that a trial fits on a machine of the cluster, and that every machine can write to the search's folder.

    Each machine leaves a marker file in the folder, and this process looks for it.

    Args:
        wanted: ``cpu`` and ``gpu`` of a trial.

    Raises:
        InvalidTuneSettings: the cluster has the resources of a trial, but no single machine of it does. Ray would let the trials wait for ever.
        InvalidArgument: some machines cannot write to the folder; the message names them.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = {node["NodeID"]: node["NodeName"] for node in alive}
    if len(nodes) < 2:
        return
    if not any(all(node["Resources"].get(kind.upper(), 0.0) >= amount for kind, amount in wanted.items()) for node in alive):
        needs = " and ".join(f"{amount:g} {kind}" for kind, amount in wanted.items() if amount)
        raise InvalidTuneSettings(f"resources_per_trial: a trial needs {needs}, which no machine of the cluster has")

    @ray.remote(num_cpus=0, max_retries=0)
    def mark(path: str) -> str:
        try:
            Path(path).touch()
        except OSError as error:
            return str(error)
        return ""

    markers = {node: folder / f"reached-{node[:12]}" for node in nodes}
    answers = {node: mark.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(str(path)) for node, path in markers.items()}
    failures = []
    for node, answer in answers.items():
        try:
            why = ray.get(answer, timeout=60)
        except Exception as error:  # anything that keeps a machine from answering
            why = f"{type(error).__name__}"
        if why or not markers[node].exists():
            failures.append(f"{nodes[node]} ({why or 'what it writes there does not arrive here'})")
        markers[node].unlink(missing_ok=True)
    if failures:
        raise InvalidArgument(f"save_path: {folder.parent} must be readable and writable from every machine of the Ray cluster; not from {', '.join(failures)}")
