"""Leaves the caller's process as it was: Ray sets signal handlers and environment variables, and libraries draw from the global random generators."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TAKEN = (*SIGNALS, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))  # signals that we or Ray set handlers for
# prefixes of the environment variables that Ray, scikit-learn and MLflow set, and that we set for Ray
CHANGED_VARIABLES = ("RAY_", "TUNE_", "PL_DISABLE_FORK", "PYTHONBREAKPOINT", "KMP_", "_MLFLOW_")


def usable_cores() -> int:
    """The number of CPU cores that this process may use. In a container or a batch job that can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def process_unchanged() -> Iterator[None]:
    """Restores what a search changes: environment variables, the current folder, signal handlers, and the generators of Python and numpy.

    If several threads are inside, the last one to leave restores the variables and the folder. Other variables are left alone, because another thread may
    have set them for good. Handlers and generators are restored by the main thread only: handlers can only be set there, and rewinding the generators
    while other threads run would make those draw the same numbers twice. Torch has its own ``generators_unchanged``.
    """
    with _variables_and_folder.be(KEEP), handlers_unchanged():
        states = (random.getstate(), np.random.get_state()) if threading.current_thread() is threading.main_thread() else None
        try:
            yield
        finally:
            if states is not None:
                random.setstate(states[0])
                np.random.set_state(states[1])


@contextmanager
def handlers_unchanged() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in TAKEN}
    try:
        yield
    finally:
        _set_handlers(handlers)


KEEP: Any = object()


class ProcessWide:
    """A process-wide setting that several threads may override at once. The original value is restored when the last of them leaves."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], object]) -> None:
        self._read, self._write, self._lock = read, write, threading.Lock()
        self._own: Any = None
        self._within: dict[object, Any] = {}

    @contextmanager
    def be(self, value: Any) -> Iterator[None]:
        """Overrides the setting within the block.

        Args:
            value: the new value. KEEP sets nothing, and only makes sure that what others change in the meantime is restored.
        """
        mark = object()
        with self._lock:
            self._own = self._own if self._within else self._read()
            self._within[mark] = value
        try:
            with self._lock:
                self._set(value)
            yield
        finally:
            with self._lock:
                del self._within[mark]
                self._set(next(reversed(self._within.values()), self._own))

    def _set(self, value: Any) -> None:
        if value is not KEEP:
            self._write(value)


def _read_variables_and_folder() -> tuple[dict[str, str], str]:
    variables = {name: value for name, value in os.environ.items() if name.startswith(CHANGED_VARIABLES)}
    try:
        return variables, os.getcwd()
    except FileNotFoundError:  # the folder was removed
        return variables, ""


def _write_variables_and_folder(before: tuple[dict[str, str], str]) -> None:
    variables, folder = before
    for name in [name for name in os.environ if name.startswith(CHANGED_VARIABLES) and name not in variables]:
        del os.environ[name]
    os.environ.update(variables)
    with contextlib.suppress(OSError):  # the folder may have been removed since
        os.chdir(folder)


_variables_and_folder = ProcessWide(_read_variables_and_folder, _write_variables_and_folder)


def levels_of(*names: str) -> ProcessWide:
    """The levels of the named loggers as one setting: overriding it gives all of them the same level."""
    loggers = [logging.getLogger(name) for name in names]

    def write(levels: int | list[int]) -> None:
        for logger, level in zip(loggers, [levels] * len(loggers) if isinstance(levels, int) else levels, strict=True):
            logger.setLevel(level)

    return ProcessWide(lambda: [logger.level for logger in loggers], write)


class Interruption:
    """A request to end, by Ctrl-C or SIGTERM.

    Attributes:
        signal: the number of the first signal received; None: there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def reraise(self) -> None:
        """Ends as without our handlers: Ctrl-C raises KeyboardInterrupt; SIGTERM is sent again, or exits with status 143 if nothing handles it."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            handler = signal.getsignal(self.signal)
            if handler in (signal.SIG_DFL, None):
                raise SystemExit(128 + self.signal)
            os.kill(os.getpid(), self.signal)


@contextmanager
def interruptible(on_request: Callable[[], None]) -> Iterator[Interruption]:
    """Makes the first Ctrl-C or SIGTERM call ``on_request`` instead of interrupting; a second one raises KeyboardInterrupt.

    Has no effect outside the main thread, where handlers cannot be set.
    """
    request = Interruption()

    def handle(number: int, frame: Any) -> None:
        if request.signal is not None:
            raise KeyboardInterrupt
        request.signal = number
        on_request()

    handlers = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not signal.SIG_IGN}  # e.g. by nohup
    _set_handlers(dict.fromkeys(handlers, handle))
    try:
        yield request
    finally:
        _set_handlers(handlers)


def _set_handlers(handlers: dict[Any, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None:  # None: installed from C, so Python cannot restore it
                signal.signal(number, handler)


def callers_level() -> int:
    """The ``stacklevel`` at which a warning points at the first line outside this package: the user's call."""
    passed, level = (str(Path(__file__).parent) + os.sep, contextlib.__file__), 0  # contextlib's decorators add frames of their own
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(passed):
        level, frame = level + 1, frame.f_back
    return level + 1
