"""The number of threads that torch computes with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_num_within, _own = 0, 0


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Inside the block, this thread's operators use ``count`` threads. Afterwards, this thread and new ones use the process's own number again.

    Torch keeps one number for each thread that has computed, and one for new threads, so every thread has to restore its own.
    """
    global _num_within, _own
    with _lock:
        _own = _own if _num_within else torch.get_num_threads()
        _num_within += 1
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(_own)
        with _lock:
            _num_within -= 1
