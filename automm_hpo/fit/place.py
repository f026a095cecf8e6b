"""The folder of the predictor of a fit. At any moment it holds the best predictor so far by the validation rows."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

from ..artifact import Artifact, load_artifact, save_artifact
from ..errors import CorruptFile, NotAPredictor
from ..files import is_predictor
from ..hpo.progress import Progress
from ..hpo.table import number_text
from .plan import FitPlan


class PredictorFolder:
    """The plan's folder.

    An earlier session of the same search may have left a predictor there that is better than anything this one finds, e.g. an average of checkpoints
    that have since been pruned. Then it is kept. The two can be compared, because the validation rows and the metric are the same.

    Args:
        alone: the predictor of the best trial, earlier sessions included.

    Attributes:
        committed: the last predictor that this session passed to ``commit``.
    """

    def __init__(self, plan: FitPlan, alone: Artifact) -> None:
        self.committed = alone
        self._path, self._metric, self._eval_metric = plan.path, plan.data.validation_metric, plan.data.eval_metric.name
        self._earlier = None if plan.refit or not plan.resuming else self._read()
        if self._earlier and (len(self._earlier.members) > plan.ensemble_size or not self._is_beaten(alone)):
            self._earlier = None

    def _read(self) -> Artifact | None:
        try:
            return replace(load_artifact(self._path), eval_metric=self._eval_metric) if is_predictor(self._path) else None
        except (CorruptFile, NotAPredictor):
            return None

    def _value(self, artifact: Artifact) -> float:
        return artifact.summary.get(f"val_{self._metric.name}", math.nan)  # nan is never better

    def _is_beaten(self, artifact: Artifact) -> bool:
        """Whether the earlier predictor is better."""
        return self._earlier is not None and self._metric.score(self._value(self._earlier)) > self._metric.score(self._value(artifact))

    def commit(self, artifact: Artifact) -> None:
        """Saves the predictor, unless the earlier one is better."""
        if not self._is_beaten(artifact):
            save_artifact(artifact, self._path)
        self.committed = artifact

    def settled(self, artifact: Artifact, progress: Progress) -> Artifact:
        """The predictor that the folder holds at the end: ``artifact``, or the earlier one if that is better."""
        if self._earlier is None or not self._is_beaten(artifact):
            return artifact
        before, found, name = number_text(self._value(self._earlier)), number_text(self._value(artifact)), self._metric.name
        progress.say(f"the earlier predictor stays: {name} {before} on the validation rows, where this call came to {found}", level=1)
        kept = self._earlier.with_summary(**{key: artifact.summary[key] for key in ("num_trials", "training_time")})
        with contextlib.suppress(OSError):  # e.g. a full disk: the saved one differs in these two values only
            save_artifact(kept, self._path)
        return kept
