"""AutoML for tables with images, text and other columns, in the style of AutoGluon's MultiModalPredictor: ``fit`` tunes on Ray Tune and keeps the best.

>>> from automm_hpo import MultiModalPredictor
"""

from __future__ import annotations

import importlib
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
        return getattr(importlib.import_module(f".{LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:  # for tab completion
    return __all__
