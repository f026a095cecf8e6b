"""What a trial tells Ray after each validation: the words that searchers and schedulers go by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TIME_ATTR = "epoch"
SCORE = "score"  # of this validation; absent where it is not finite
METRIC = "best_score"  # of the trial so far, which is what it would contribute: what searchers are told
RESULT = "epoch_result"  # the whole ``EpochResult``
REPLAYED, WENT_ON = "replayed", "went_on"  # it was on record already; and the trial is known to have gone on after it
# the trial raised; and so would every other; for want of room. An objective's metric may be called "failed"
FAILED, HOPELESS, DISK_FULL = "automm_hpo/failed", "automm_hpo/hopeless", "automm_hpo/disk_full"


def went_on(report: Mapping[str, Any]) -> bool:
    """Whether a report tells of an earlier session, after which the trial went on: nothing is decided by it again.

    The last recorded one of a trial that has not ended is ``replayed`` too; where the trial says ``went_on=False`` of it, it is decided
    upon like a new one.
    """
    return bool(report.get(REPLAYED) and report.get(WENT_ON, True))
