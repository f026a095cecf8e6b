"""The caller's process, left as it was found: Ray sets signal handlers and variables, libraries draw from the random generators."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TAKEN = (*SIGNALS, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))  # by Ray, too


def usable_cores() -> int:
    """Those that this process may run on: in a container or under a batch system not all that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def process_unchanged() -> Iterator[None]:
    """Puts back the environment, the current folder, signal handlers and the random states of Python and numpy.

    Of several threads that are within, the last to leave puts back what is the whole process's. Torch's random states are apart
    (``generators_unchanged``). Handlers can be set in the main thread only, and are left alone elsewhere.
    """
    handlers = {number: signal.getsignal(number) for number in TAKEN}
    with _lock:
        if not _within:
            _before[:] = dict(os.environ), os.getcwd(), random.getstate(), np.random.get_state()
        _within.append(threading.current_thread())
    try:
        yield
    finally:
        _set_handlers(handlers)
        with _lock:
            _within.remove(threading.current_thread())
            if not _within:
                _put_back(*_before)


_lock = threading.Lock()
_within: list[threading.Thread] = []
_before: list[Any] = []


def _put_back(environment: Mapping[str, str], folder: str, python_state: Any, numpy_state: Any) -> None:
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    os.chdir(folder)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


class ProcessWide:
    """A setting of the process that threads change, each within a block; the last of several puts it back."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], object]) -> None:
        self._read, self._write, self._lock = read, write, threading.Lock()
        self._own: Any = None
        self._within: dict[object, Any] = {}

    @contextmanager
    def be(self, value: Any) -> Iterator[None]:
        mark = object()
        with self._lock:
            self._own = self._own if self._within else self._read()
            self._within[mark] = value
            self._write(value)
        try:
            yield
        finally:
            with self._lock:
                del self._within[mark]
                self._write(next(reversed(self._within.values()), self._own))


def levels_of(*names: str) -> ProcessWide:
    """The levels of some loggers, all set to one."""
    loggers = [logging.getLogger(name) for name in names]

    def write(levels: int | list[int]) -> None:
        for logger, level in zip(loggers, [levels] * len(loggers) if isinstance(levels, int) else levels, strict=True):
            logger.setLevel(level)

    return ProcessWide(lambda: [logger.level for logger in loggers], write)


class Interruption:
    """A request to end, by Ctrl-C or SIGTERM.

    Attributes:
        signal: the number of the first one; None: there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def reraise(self) -> None:
        """Ends as the caller would have ended without our handlers: KeyboardInterrupt, or exit with 143 where nobody handles SIGTERM."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            handler = signal.getsignal(self.signal)
            if handler in (signal.SIG_DFL, None):
                raise SystemExit(128 + self.signal)
            os.kill(os.getpid(), self.signal)


@contextmanager
def interruptible(on_request: Callable[[], None]) -> Iterator[Interruption]:
    """Within, the first Ctrl-C or SIGTERM calls ``on_request`` and work goes on to its end; a second one interrupts at once.

    Outside the main thread, where no handler can be set, nothing changes.
    """
    request = Interruption()

    def handle(number: int, frame: Any) -> None:
        if request.signal is not None:
            raise KeyboardInterrupt
        request.signal = number
        on_request()

    handlers = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not signal.SIG_IGN}  # nohup's, say
    _set_handlers(dict.fromkeys(handlers, handle))
    try:
        yield request
    finally:
        _set_handlers(handlers)


def _set_handlers(handlers: dict[Any, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None:  # None: set by something that is not Python, and so not ours to put back
                signal.signal(number, handler)


def callers_level() -> int:
    """The ``stacklevel`` at which a warning points at the first line outside this package: the user's call."""
    passed, level = (str(Path(__file__).parent) + os.sep, contextlib.__file__), 0  # a decorator of contextlib's lies between
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(passed):
        level, frame = level + 1, frame.f_back
    return level + 1
