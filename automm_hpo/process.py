"""The caller's process, left as it was found: Ray sets signal handlers and variables, libraries draw from the random generators."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def process_unchanged() -> Iterator[None]:
    """Puts back the environment, the current folder, signal handlers and the random states of Python and numpy.

    Torch keeps its own (``torch.random.fork_rng``). Handlers can be set in the main thread only, and are left alone elsewhere.
    """
    environment, folder = dict(os.environ), os.getcwd()
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if in_main_thread:
            for number, handler in handlers.items():
                if handler is not None:  # None: set by something that is not Python, and so not ours to put back
                    signal.signal(number, handler)
        os.chdir(folder)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
