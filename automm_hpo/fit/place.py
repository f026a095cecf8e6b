"""The folder of the predictor of a fit. At any moment it holds the best predictor so far by the validation rows.

Two predictors are compared by the validation metric; by log loss, if one of them is an ensemble that was selected by log loss.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

from ..artifact import Artifact, load_artifact, save_artifact
from ..errors import CorruptFile, NotAPredictor
from ..files import is_predictor
from ..hpo.progress import Progress
from ..hpo.table import number_text
from ..metrics import Metric, find_metric
from .finishing import decided
from .plan import FitPlan


def stored_predictor(plan: FitPlan) -> Artifact | None:
    """The predictor that the plan's folder holds; None: there is none, or it is damaged. It is saved anew if its ``eval_metric`` is not the plan's.

    Raises:
        NotAPredictor: it has another format version.
    """
    try:
        found = load_artifact(plan.path) if is_predictor(plan.path) else None
        if found is None or found.eval_metric == plan.data.eval_metric.name:
            return found
        changed = decided(replace(found, eval_metric=plan.data.eval_metric.name), plan.data.validation_metric, plan.data.eval_metric)
        with contextlib.suppress(OSError):  # e.g. a full disk: the saved one differs in these two values only
            save_artifact(changed, plan.path)
        return changed
    except CorruptFile:
        return None


def _is_refit_of(artifact: Artifact, alone: Artifact) -> bool:
    names = ("best_trial", "best_epoch")
    return "refit" in artifact.summary and all(artifact.summary.get(name) == alone.summary[name] for name in names)


def _value(artifact: Artifact, metric: Metric) -> float:
    return artifact.summary.get(f"val_{metric.name}", math.nan)  # nan is never better


class PredictorFolder:
    """The plan's folder.

    An earlier session of the same search may have left a predictor there that is better than anything this one finds, e.g. an average of checkpoints
    that have since been pruned. Then it is kept. The two can be compared, because the validation rows and the metric are the same. A refit has no score
    of its own. It is kept as long as the trial's epoch that it repeats is the best.

    Args:
        alone: the predictor of the best trial, earlier sessions included.

    Attributes:
        committed: the last predictor that this session passed to ``commit``.
        is_refitted: whether a refit is wanted, and the folder holds that of the best trial's best epoch already.
    """

    def __init__(self, plan: FitPlan, alone: Artifact) -> None:
        self.committed = alone
        self._path, self._metric = plan.path, plan.data.validation_metric
        self._earlier: Artifact | None = None
        if plan.resuming:
            with contextlib.suppress(NotAPredictor):
                self._earlier = stored_predictor(plan)
        self.is_refitted = plan.refit and self._earlier is not None and _is_refit_of(self._earlier, alone)
        if self._earlier is None or self.is_refitted:
            return
        if plan.refit or len(self._earlier.members) > plan.ensemble_size or not self._is_beaten(alone):
            self._earlier = None

    def _is_beaten(self, artifact: Artifact) -> bool:
        """Whether the earlier predictor is better."""
        if self._earlier is None:
            return False
        by = self._compared_by(self._earlier, artifact)
        return self.is_refitted or by.score(_value(self._earlier, by)) > by.score(_value(artifact, by))

    def _compared_by(self, *artifacts: Artifact) -> Metric:
        selected = {each.summary.get("ensemble", {}).get("selected_by", self._metric.name) for each in artifacts if len(each.members) > 1}
        return find_metric("log_loss") if "log_loss" in selected else self._metric

    def commit(self, artifact: Artifact) -> None:
        """Saves the predictor, unless the earlier one is better."""
        if not self._is_beaten(artifact):
            save_artifact(artifact, self._path)
        self.committed = artifact

    def settled(self, artifact: Artifact, progress: Progress) -> Artifact:
        """The predictor that the folder holds at the end: ``artifact``, or the earlier one if that is better."""
        if self._earlier is None or not self._is_beaten(artifact):
            return artifact
        by = self._compared_by(self._earlier, artifact)
        before, found = number_text(_value(self._earlier, by)), number_text(_value(artifact, by))
        why = f"{by.name} {before} on the validation rows, where this call came to {found}"
        why = "it is the best trial, trained again on all rows" if self.is_refitted else why
        progress.say(f"the earlier predictor stays: {why}", level=1)
        kept = self._earlier.with_summary(**{key: artifact.summary[key] for key in ("num_trials", "training_time")})
        with contextlib.suppress(OSError):  # e.g. a full disk: the saved one differs in these two values only
            save_artifact(kept, self._path)
        return kept
