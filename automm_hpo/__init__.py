"""AutoML for tables with images, text and other columns, in the style of AutoGluon's MultiModalPredictor: ``fit`` tunes on Ray Tune and keeps the best.

>>> from automm_hpo import MultiModalPredictor
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import errors, space

if TYPE_CHECKING:
    from .objective import tune_objective
    from .predictor import MultiModalPredictor
    from .results import load_search

__version__ = "0.1.0"
__all__ = ["MultiModalPredictor", "tune_objective", "load_search", "space", "errors", "__version__"]

LAZY = {"MultiModalPredictor": "predictor", "tune_objective": "objective", "load_search": "results"}


def __getattr__(name: str):  # PEP 562: pandas and torch are imported with the predictor's first use, not with the package
    if name in LAZY:
        with _short_spins():
            return getattr(importlib.import_module(f".{LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextmanager
def _short_spins() -> Iterator[None]:
    """Limits how long torch's threads wait for each other without giving up their core, unless the user has set it or torch is imported already.

    By default that is milliseconds (GNU OpenMP's GOMP_SPINCOUNT), in which a thread whose core another program uses cannot go on: on a busy machine, a training
    takes twice as long. OpenMP reads the environment once, when torch is imported.
    """
    if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "2000"  # some ten microseconds; measured in benchmarks/RESULTS.md
    try:
        yield
    finally:
        os.environ.pop("GOMP_SPINCOUNT", None)


def __dir__() -> list[str]:  # for tab completion
    return __all__
