"""The keys of the report that a trial makes after each validation, which searchers and schedulers read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TIME_ATTR = "epoch"
SCORE = "score"  # of this validation; absent if it is not finite
METRIC = "best_score"  # of the trial so far, which is what the trial would contribute; searchers learn from it
RESULT = "epoch_result"  # the whole ``EpochResult``
REPLAYED, WENT_ON = "replayed", "went_on"  # whether it was on record already; whether the trial is known to have continued after it
# the trial raised; every other trial would, too; the disk is full. Prefixed, because an objective's metric may be called "failed"
FAILED, HOPELESS, DISK_FULL = "automm_hpo/failed", "automm_hpo/hopeless", "automm_hpo/disk_full"


def went_on(report: Mapping[str, Any]) -> bool:
    """Whether a report was replayed and the trial is known to have continued after it, so that schedulers must not decide on it again.

    The last report on record of an unfinished trial is ``replayed`` too, but has ``went_on=False``: schedulers decide on it as on a new one.
    """
    return bool(report.get(REPLAYED) and report.get(WENT_ON, True))
