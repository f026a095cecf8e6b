"""HyperDrive's early termination policies as Ray schedulers: bandit, truncation and median stopping.

The definitions are those of Azure's documentation ("Tune hyperparameters for your model with Azure Machine Learning", section "Early
termination"; the classes ``BanditPolicy``, ``TruncationSelectionPolicy`` and ``MedianStoppingPolicy`` of azureml-train-core):

- A policy is applied at every multiple of ``evaluation_interval`` that is at least ``delay_evaluation``. In Azure an interval is one
  report of the metric; here it is an epoch, so that trials that validate more often are not judged more often.
- A run's performance at interval N is the best of its primary metric up to N.
- It is compared with what other runs had up to N, whatever they have by now: "its performance is only compared with the performance
  of other runs up to interval N even if they reported metrics for intervals greater than N". Other runs are those that have reached N,
  or ended before it.

A trial ahead of the others is judged before they get there. So at every look, its best is also compared with what the others had at the
previous look.

Scores are signed so that higher is better; those of errors are negative.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ..result_keys import METRIC, SCORE, TIME_ATTR, went_on
from .plan import NEARLY


class Curve:
    """What one trial has reported, as of any epoch."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.best: list[float] = []
        self.means: list[float] = []
        self.ended = False

    def add(self, epoch: float, score: float) -> None:
        at = bisect_left(self.epochs, epoch - NEARLY)  # a trial whose process died reports some epochs twice
        del self.epochs[at:], self.best[at:], self.means[at:]
        best, mean = (max(score, self.best[-1]), (self.means[-1] * at + score) / (at + 1)) if at else (score, score)
        self.epochs.append(epoch)
        self.best.append(best)
        self.means.append(min(mean, best))  # rounding must not lift the mean above the best, or equal scores would lie below the median

    @property
    def epoch(self) -> float:
        return self.epochs[-1] if self.epochs else 0.0

    def rows_up_to(self, epoch: float) -> int:
        return bisect_right(self.epochs, epoch + NEARLY)


@dataclass(frozen=True)
class Peer:
    """A trial as of some epoch: the best and the mean of its scores up to there."""

    best: float
    mean: float


class Policy(FIFOScheduler):
    """Judges each trial at every multiple of an interval. Trials run in the order in which they were proposed."""

    counts_ended = True  # whether trials that ended earlier are compared with

    def __init__(self, evaluation_interval: float, delay_evaluation: float) -> None:
        """Takes the arguments that all policies share.

        Args:
            evaluation_interval, delay_evaluation: in epochs.
        """
        super().__init__()
        self._metric = METRIC
        self.evaluation_interval, self.delay_evaluation = evaluation_interval, delay_evaluation
        self.curves: dict[str, Curve] = {}

    def ends(self, own: Peer, others: list[Peer]) -> bool:
        """Whether to end a trial.

        Args:
            own: its best score so far, and its mean up to the epoch that is compared.
            others: the other trials as of that epoch.
        """
        raise NotImplementedError

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self.curves.setdefault(trial.trial_id, Curve()).ended = False  # a trial whose process died is added again

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        curve = self.curves[trial.trial_id]
        before = curve.epoch
        if not self._note(curve, result) or went_on(result):
            return TrialScheduler.CONTINUE
        looks = self.looks(before, curve.epoch)
        return TrialScheduler.STOP if any(self._ends_by(curve, epoch) for epoch in looks) else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._note(self.curves[trial.trial_id], result)  # if a trial ends by itself, Ray passes its last result only to this method
        self.curves[trial.trial_id].ended = True

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self.curves[trial.trial_id].ended = True

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.curves[trial.trial_id].ended = True

    @staticmethod
    def _note(curve: Curve, result: dict[str, Any]) -> bool:
        score = result.get(SCORE, math.nan)
        if not math.isfinite(score):
            return False
        curve.add(result[TIME_ATTR], score)
        return True

    def looks(self, before: float, epoch: float) -> list[float]:
        """The epochs at which to compare a trial that went from ``before`` to ``epoch``: none, ``epoch`` alone, or also the previous look's."""
        count = math.floor(epoch / self.evaluation_interval + NEARLY)
        last = (count - 1) * self.evaluation_interval
        if count <= math.floor(before / self.evaluation_interval + NEARLY) or last + self.evaluation_interval < self.delay_evaluation - NEARLY:
            return []
        return [epoch, last] if last >= max(self.delay_evaluation, self.evaluation_interval) - NEARLY else [epoch]

    def _ends_by(self, curve: Curve, epoch: float) -> bool:
        own = curve.rows_up_to(epoch)
        return own > 0 and self.ends(Peer(curve.best[-1], curve.means[own - 1]), self._others(curve, epoch))

    def _others(self, own: Curve, epoch: float) -> list[Peer]:
        """The other trials that have reached the epoch or, if ``counts_ended``, ended before it."""
        curves = [curve for curve in self.curves.values() if curve is not own and (curve.epoch >= epoch - NEARLY or (curve.ended and self.counts_ended))]
        return [Peer(curve.best[rows - 1], curve.means[rows - 1]) for curve in curves if (rows := curve.rows_up_to(epoch))]


class Bandit(Policy):
    """Ends a trial whose best score falls short of the best trial's by more than the slack.

    Azure: with a slack factor of 0.2 and a best run of 0.8, "any training jobs whose best metric at interval 10 is less than 0.66
    (0.8/(1+slack_factor)) will be terminated"; with a slack amount of 0.2, those with less than 0.6.

    Azure's ratio assumes positive scores. For negative scores the ratio applies to the distance to zero: with a best error of 0.8 (a score
    of -0.8), trials with errors up to 0.8 * (1 + slack_factor) go on. A best score of zero leaves no slack.
    """

    def __init__(self, evaluation_interval: float, delay_evaluation: float, slack_factor: float | None = None, slack_amount: float = 0.0) -> None:
        super().__init__(evaluation_interval, delay_evaluation)
        self.slack_factor, self.slack_amount = slack_factor, slack_amount

    def ends(self, own: Peer, others: list[Peer]) -> bool:
        return own.best < self.least(max(peer.best for peer in [own, *others]))

    def least(self, best: float) -> float:
        """The lowest score with which a trial goes on.

        >>> round(Bandit(1, 0, slack_factor=0.2).least(0.8), 4), round(Bandit(1, 0, slack_factor=0.2).least(-0.8), 4)
        (0.6667, -0.96)
        >>> round(Bandit(1, 0, slack_amount=0.2).least(0.8), 4)
        0.6
        """
        if self.slack_factor is None:
            return best - self.slack_amount
        return best / (1 + self.slack_factor) if best >= 0 else best * (1 + self.slack_factor)


class Truncation(Policy):
    """Ends a trial whose best score is in the lowest ``truncation_percentage`` percent.

    Azure: "A job terminates at interval 5 if its performance at interval 5 is in the lowest 20% of performance of all jobs at
    interval 5". The number of trials to cut is rounded down. Trials with equal scores are cut together or not at all.
    """

    def __init__(self, evaluation_interval: float, delay_evaluation: float, truncation_percentage: int, exclude_finished_jobs: bool = False) -> None:
        super().__init__(evaluation_interval, delay_evaluation)
        self.truncation_percentage, self.counts_ended = truncation_percentage, not exclude_finished_jobs

    def ends(self, own: Peer, others: list[Peer]) -> bool:
        num_cut = (len(others) + 1) * self.truncation_percentage // 100
        return sum(peer.best <= own.best for peer in others) < num_cut


class Median(Policy):
    """Ends a trial whose best score is below the median of the running averages of all trials.

    Azure: "a run will be canceled at interval N if its best primary metric reported up to interval N is worse than the median of the
    running averages for intervals 1:N across all runs", after Golovin et al. 2017, "Google Vizier", section 3.2.1, and that is the
    rule of Ray's ``MedianStoppingRule``. Ray's averages only from its grace period on, has no interval, leaves the trial itself
    out of the median, and pauses trials that it cannot judge yet; this class follows Azure. It takes ``min_samples_required`` from Ray,
    without which the second trial of a search would be judged by the first alone.
    """

    def __init__(self, evaluation_interval: float, delay_evaluation: float, min_samples_required: int) -> None:
        super().__init__(evaluation_interval, delay_evaluation)
        self.min_samples_required = min_samples_required

    def ends(self, own: Peer, others: list[Peer]) -> bool:
        return len(others) >= self.min_samples_required and own.best < statistics.median([own.mean, *(peer.mean for peer in others)])
