"""AutoML for tables with images, in the style of AutoGluon's MultiModalPredictor: ``fit`` tunes on Ray Tune and keeps the best.

>>> from automm_hpo import MultiModalPredictor
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import errors

if TYPE_CHECKING:
    from .predictor import MultiModalPredictor

__version__ = "0.1.0"
__all__ = ["MultiModalPredictor", "__version__", "errors"]


def __getattr__(name: str):  # PEP 562: pandas and torch load when the predictor is first asked for, not with the package
    if name == "MultiModalPredictor":
        from .predictor import MultiModalPredictor

        return MultiModalPredictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
