"""Names for whole settings: plain data, every value of which the user could have written."""

from __future__ import annotations

from typing import Any

TUNE_PRESETS: dict[str, dict[str, Any]] = {
    "auto": {"searcher": "bayes", "scheduler": "ASHA"},
    "bayes": {"searcher": "bayes", "scheduler": "ASHA"},
    "random": {"searcher": "random", "scheduler": "FIFO"},
}
"""``hyperparameter_tune_kwargs`` by name."""
