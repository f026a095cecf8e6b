"""The Ray that a search runs on: the user's where one is running, else one of our own for as long as the search takes."""

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
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

from ..errors import InvalidArgument, TimeLimitTooShort
from ..process import ProcessWide, handlers_unchanged, levels_of
from .settings import local_resources

# Quiet, and out of the user's home and signals; read by Ray when it is imported or started.
RAY_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that found no time reports no metric
    "TUNE_WARN_THRESHOLD_S": "3600",
    "PL_DISABLE_FORK": "1",  # what Tune would give each actor, see _lean_ray
}
LEAST_START_SECONDS = 2.0  # of a Ray of our own: 2.4 on a machine that does nothing else, by benchmarks/RESULTS.md
DEATH = "A worker died or was killed while executing a task"  # Ray's words, also for those that end themselves


def set_ray_environment() -> None:
    """To be called before Ray is imported."""
    for key, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def known_resources(num_gpus: int = -1) -> dict[str, float] | None:
    """``cpu`` and ``gpu`` that a search will have, by the names of ``resources_per_trial``; None before a cluster is connected to.

    Args:
        num_gpus: at most that many of this machine's, where there is no Ray yet; -1: all.
    """
    if (ray := _running_ray()) is not None:
        found = ray.cluster_resources()
        return {"cpu": found.get("CPU", 0.0), "gpu": found.get("GPU", 0.0)}
    return None if "RAY_ADDRESS" in os.environ else local_resources(num_gpus)


def least_start_seconds() -> float:
    """What a Ray takes to start, at the least; nothing where one runs."""
    return LEAST_START_SECONDS if _running_ray() is None and "RAY_ADDRESS" not in os.environ else 0.0


def _running_ray() -> Any:
    """Ray's module, if this process is connected to a Ray that this thread can use; one that another thread's search has started ends with that search."""
    ray = sys.modules.get("ray")
    return ray if ray is not None and ray.is_initialized() and _owner in (None, threading.get_ident()) else None


_quiet = levels_of("ray", "ray.tune", "ray.train", "ray.air")  # failures of trials are told in our words, once
_own_ray = threading.RLock()  # a process has one Ray at a time
_owner: int | None = None  # the thread whose search has started the Ray that runs


@contextmanager
def ray_cluster(
    num_gpus: int | None = None, report: Callable[[str], None] = lambda line: None, show_output: bool = False, deadline: float | None = None
) -> Iterator[Mapping[str, float]]:
    """The user's running Ray, or one of our own for the duration of the search. It sets variables and handlers: see ``process.py``.

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
        report("another search of this process runs on a Ray of its own: waiting for its end. After a ray.init() they would run side by side")
        if not _own_ray.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.time())):
            raise TimeLimitTooShort("time_limit: all of it went by while another thread's search was running on Ray; after a ray.init() they run side by side")
    own = not ray.is_initialized()
    if not own:  # the user's, or the one that this thread started around this
        _own_ray.release()
    address = os.environ.get("RAY_ADDRESS", "local") if own else "running"
    try:
        if own:
            _owner = threading.get_ident()
            sizes: dict[str, Any] = {"object_store_memory": 100_000_000} if address == "local" else {}  # nothing of ours goes through it
            if address == "local" and num_gpus is not None:
                sizes["num_gpus"] = int(local_resources(num_gpus)["gpu"])
            if address == "local":
                _give_token()
        shown = _all_output_shown if show_output and address == "local" else nullcontext
        untold = deaths_untold if own else nullcontext  # only our own workers run here, and we report their deaths ourselves
        with _quiet.be(logging.CRITICAL):
            if own:
                _start(address=address, include_dashboard=False if address == "local" else None, log_to_driver=show_output, **sizes)
            # without RAY_DEDUP_LOGS=False Ray shows what two trials print only once
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
    """A ``ray_cluster`` that is started when it is needed, if it ever is. A context manager, whose end stops it.

    Args:
        options: of ``ray_cluster``.
    """

    def __init__(self, **options: Any) -> None:
        self._options, self._stack, self._available = options, ExitStack(), dict[str, float]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        return bool(self._available)

    def start(self) -> Mapping[str, float]:
        """The cluster's resources."""
        if not self._available:
            set_ray_environment()
            self._available = dict(self._stack.enter_context(ray_cluster(**self._options)))
        return self._available

    def stop(self) -> None:
        self._available = {}
        self._stack.close()


def _start(**options: Any) -> None:
    import ray

    try:
        with handlers_unchanged():  # Ray would end the process at a SIGTERM, and a search that is under way could not be saved
            ray.init(logging_level=logging.CRITICAL, **options)
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise
        folder = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
        raise InvalidArgument(f"TMPDIR: {folder} is too long a path for the sockets that Ray keeps there ({error}); set RAY_TMPDIR to a shorter one") from None


_token = secrets.token_hex(16)  # of this process: Ray remembers the first


def _give_token() -> None:
    """Ray's processes know each other by a token, which Ray keeps in the home folder; where that cannot be written, in a container say, it is given one."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)  # as Ray would
        there = (folder / "auth_token").exists() or os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # no right to, or nobody's home
        there = False
    if not there:
        os.environ["RAY_AUTH_TOKEN"] = _token


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Collects garbage now, and none within.

    A handle of Ray's that is collected while Ray ends, by whichever thread happens to allocate then, ends the whole process without a word.
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
    """Leaves when all that Ray's processes printed has been shown here.

    Ray reads their output from files, some ten times a second, and at its end what it has not read is lost: the last words of the last trial.

    Args:
        patience: seconds to wait at most.
        at_first: the same where nothing was shown yet: on a busy machine the process that reads may not have begun.
    """
    from ray._private import ray_logging, worker

    # Ray's own affair, as in _replaced
    node, dispatcher = getattr(worker, "_global_node", None), getattr(ray_logging, "global_worker_stdstream_dispatcher", None)
    if node is None or dispatcher is None:
        yield
        return
    logs = Path(node.get_logs_dir_path())
    shown = 0

    def count(data: Mapping[str, Any]) -> None:
        nonlocal shown
        if str(data["pid"]).isdigit():  # not Ray's own
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
    """Spares a search two seconds, and 50 MB, of what Ray does for nobody here.

    Tune gives each actor some variables, for which Ray must start processes afresh, beside those that it holds ready. And it counts callbacks by
    kind for its telemetry, also where that is off, and imports mlflow, wandb and comet to tell them apart.

    Args:
        inherits: Ray's processes were started from this one, and have its variables.
    """
    own = _replaced("ray.tune.execution.class_cache", DEFAULT_ENV_VARS={}, ENV_VARS_TO_PROPAGATE=frozenset()) if inherits else nullcontext()
    with own, _replaced("ray.air._internal.usage", tag_callbacks=lambda callbacks: False):
        yield


@contextmanager
def _replaced(name: str, **values: Any) -> Iterator[None]:
    """Attributes of a module of Ray's are others, within. They are its own affair: those that a version does not have are left alone."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        yield
        return
    with _replaced_in(module, **values):
        yield


@contextmanager
def _replaced_in(owner: Any, **values: Any) -> Iterator[None]:
    """The same, of a module or a class. Of several threads the last one restores the original values."""
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
    """Within, Tune kills what it has at its end, and frees their places, where that comes so many seconds from now or later; None: never.

    It would wait up to 15 s for processes that hang or are only just starting, to end them as they should be.
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
    """Within, Ray does not tell the user, of its own accord, of processes that die from some moment on: we do, and it would guess at their memory.

    Args:
        after: time.time() of that moment; one that dies before is told. None: all are.
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
        ours = False  # another search's may have been put in its place, and put it back


def check_nodes(folder: Path) -> None:
    """Makes sure that every machine of the cluster reaches the search's folder: each leaves a marker there, and this one looks for it.

    Raises:
        InvalidArgument: names the machines that do not.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = {node["NodeID"]: node["NodeName"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return

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
        except Exception as error:  # whatever keeps a machine from answering
            why = f"{type(error).__name__}"
        if why or not markers[node].exists():
            failures.append(f"{nodes[node]} ({why or 'what it writes there does not arrive here'})")
        markers[node].unlink(missing_ok=True)
    if failures:
        raise InvalidArgument(f"save_path: {folder.parent} must be readable and writable from every machine of the Ray cluster; not from {', '.join(failures)}")
