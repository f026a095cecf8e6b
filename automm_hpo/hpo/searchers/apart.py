"""Isolates third-party libraries: their seeding, printing, logging and warnings do not reach the rest of the process."""

from __future__ import annotations

import functools
import logging
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

_lock = threading.RLock()  # generators, logging and stdout are process-wide: one thread at a time replaces them


class OthersOnly:
    """A stream that drops what its creating thread writes. Other threads still write, because Ray prints the output of trials on its own thread."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread or self._stream is None else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Apart:
    """Replaces the process's random generators by its own inside ``with apart():``.

    The same seed thus gives the same proposals even from a library that draws from ``np.random``, and the user's own draws do not change.
    """

    def __init__(self, seed: int) -> None:
        self._numpy = np.random.RandomState(seed % 2**32).get_state()
        self._python = random.Random(seed).getstate()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with _lock, self._lent():
            yield

    @contextmanager
    def _lent(self) -> Iterator[None]:
        numpy_state, python_state, log_level = np.random.get_state(), random.getstate(), logging.root.manager.disable
        np.random.set_state(self._numpy)
        random.setstate(self._python)
        logging.disable(logging.CRITICAL)
        try:
            # one thread: the matrices of 100 trials are small, and synchronising threads made Gaussian processes four times slower
            with warnings.catch_warnings(), redirect_stdout(OthersOnly(sys.stdout)), _thread_pools(len(sys.modules)).limit(limits=1):
                warnings.simplefilter("ignore")
                yield
        finally:
            self._numpy, self._python = np.random.get_state(), random.getstate()
            np.random.set_state(numpy_state)
            random.setstate(python_state)
            logging.disable(log_level)


@functools.lru_cache(maxsize=1)
def _thread_pools(num_modules: int) -> ThreadpoolController:
    """The thread pools of all loaded libraries. Finding them takes 2 ms, so they are looked up again only if ``num_modules`` has changed."""
    return ThreadpoolController()
