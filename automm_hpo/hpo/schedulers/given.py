"""Schedulers that the user gave as objects: any of Ray's that works in a search that is resumed by replay."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import HyperBandForBOHB, PopulationBasedTraining, PopulationBasedTrainingReplay, ResourceChangingScheduler, TrialScheduler

from ...errors import InvalidTuneSettings, NotSupported
from ..result_keys import METRIC, SCORE, TIME_ATTR, went_on
from ..searchers.given import own_copy

REFUSED = {
    PopulationBasedTraining: "it copies checkpoints of Ray's, and refuses searchers; scheduler='PBT' or 'PB2' does the same on a search that can be resumed",
    PopulationBasedTrainingReplay: "it replaces the configurations of trials, which are on record here; give the values of its policy as fixed ones",
    ResourceChangingScheduler: "it starts a trial's process anew for other resources, and processes stay warm from trial to trial here",
    HyperBandForBOHB: "it speaks to Ray's own BOHB searcher only; scheduler='BOHB' with searcher='bohb' is the same",
}


def check_given_scheduler(scheduler: TrialScheduler, metric: str, mode: str) -> None:
    """Refuses a scheduler object that cannot work here.

    Args:
        metric, mode: the metric of the search, and whether higher (``max``) or lower (``min``) values of it are better.

    Raises:
        NotSupported: schedulers of its kind cannot work here; the message says why.
        InvalidTuneSettings: its metric or time is one that trials do not report, it has a mode without a metric, or a mode that stops the best trials.
    """
    for kind, reason in REFUSED.items():
        if isinstance(scheduler, kind):
            raise NotSupported(f"scheduler: {type(scheduler).__name__} cannot be used here: {reason}")
    reported = (METRIC, SCORE, metric, TIME_ATTR, "training_iteration", "time_total_s")
    for attribute, value in (("metric", scheduler.metric), ("time_attr", getattr(scheduler, "_time_attr", None))):
        if value is not None and value not in reported:
            raise InvalidTuneSettings(f"scheduler: {type(scheduler).__name__} has {attribute}={value!r}, and trials report {', '.join(reported)}")
    own, given = {METRIC: "max", SCORE: "max", metric: mode}.get(scheduler.metric or ""), getattr(scheduler, "_mode", None)
    if given is not None and scheduler.metric is None:
        raise InvalidTuneSettings(f"scheduler: {type(scheduler).__name__} has mode={given!r} and no metric; give it metric={metric!r} too, or neither")
    if own is not None and given not in (None, own):
        better = "higher" if own == "max" else "lower"
        raise InvalidTuneSettings(f"scheduler: {type(scheduler).__name__} has mode={given!r}, but {better} {scheduler.metric} is better: {own!r}")


def wrap_given_scheduler(scheduler: TrialScheduler) -> TrialScheduler:
    """A copy of the scheduler, wrapped. If it was made without a metric, it compares the best score so far."""
    scheduler = own_copy(scheduler)
    if scheduler.metric is None:
        scheduler.set_search_properties(METRIC, "max")
    return GivenScheduler(scheduler)


class GivenScheduler(TrialScheduler):
    """Passes everything on to the user's scheduler, with three exceptions.

    - If the scheduler stops a trial at a recorded row after which the trial went on, the trial goes on again. The scheduler is told that it
      has ended, and hears no more of it.
    - An objective's metric may have the name of one of our scores, where higher is always better. A scheduler that minimises it gets the
      score negated, which is the objective's own value.
    - If only paused trials are left, one of them goes on, whatever the scheduler waits for: Ray's HyperBand, for one, waits for trials that
      have ended by themselves.
    """

    def __init__(self, inner: TrialScheduler) -> None:
        super().__init__()
        self.inner = inner
        self._free: set[Trial] = set()
        self._turned = inner.metric if inner.metric in (METRIC, SCORE) and getattr(inner, "_mode", None) == "min" else None

    def _told(self, result: dict[str, Any]) -> dict[str, Any]:
        return {**result, self._turned: -result[self._turned]} if self._turned in result else result

    @property
    def metric(self) -> str | None:
        return self.inner.metric

    @property
    def supports_buffered_results(self) -> bool:
        return self.inner.supports_buffered_results

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True  # both are set already

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        if trial not in self._free:
            self.inner.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if trial in self._free:
            return TrialScheduler.CONTINUE
        action = self.inner.on_trial_result(tune_controller, trial, self._told(result))
        if action == TrialScheduler.STOP and went_on(result):
            self.inner.on_trial_complete(tune_controller, trial, self._told(result))
            self._free.add(trial)
            return TrialScheduler.CONTINUE
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        if trial not in self._free:
            self.inner.on_trial_complete(tune_controller, trial, self._told(result))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if trial not in self._free:
            self.inner.on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        if trial not in self._free:
            self.inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        chosen = self.inner.choose_trial_to_run(tune_controller)
        live = [trial for trial in tune_controller.get_trials() if not trial.is_finished()]
        if chosen is None and live and all(trial.status == Trial.PAUSED for trial in live):
            return live[0]
        return chosen

    def debug_string(self) -> str:
        return self.inner.debug_string()
