"""Population-based training: weak trials copy the weights and hyperparameters of strong ones, and change the tuned values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler
from ray.tune.schedulers.pbt import _PBTTrialState

from ...space import Choice, Normal, Space
from ..result_keys import SCORE, TIME_ATTR, went_on
from .plan import NEARLY
from .synchronous import Synchronous


class Population(Synchronous):
    """The base of PBT and PB2. Ray's classes, which come after it in the MRO, copy checkpoints and keep the scores.

    The whole population meets at every multiple of the interval. All scores of that epoch are known then, so the exchange depends only on
    the seed and the scores, not on the order of arrival or on how many trials run at a time. Scores are those of the epoch itself, not the
    best so far, because the current weights are copied. A trial copies only from one with a better score.

    Recorded trials never exchange again: a row of any trial after a meeting shows that the meeting is over, and then no trial waits for it.
    New trials thus catch up with a resumed population.
    """

    # attributes of Ray's class
    _trial_state: dict[Trial, _PBTTrialState]
    _perturbation_interval: float
    _burn_in_period: float

    def __init__(self, space: Mapping[str, Any], seed: int, burn_in_period: float, **arguments: Any) -> None:
        super().__init__(time_attr=TIME_ATTR, metric=SCORE, mode="max", synch=True, require_attrs=False, log_config=False, **arguments)
        self.space, self.seed, self._burn_in_period = space, seed, burn_in_period
        self._came: set[Trial] = set()  # trials that have reached their next meeting
        self._last_meeting = 0.0  # epoch of the last meeting that is over
        self._heirs: dict[Trial, set[Trial]] = {}  # parent -> trials that copy its state, until they have it

    def explored(self, trial: Trial, parent: Trial, rng: np.random.Generator) -> dict[str, Any]:
        """New values for the tuned hyperparameters."""
        raise NotImplementedError

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        if trial not in self._trial_state:  # otherwise the trial goes on after its process died
            self._trial_state[trial] = _PBTTrialState(trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if SCORE not in result:
            return TrialScheduler.CONTINUE  # the trial diverged and ends by itself
        state, passed, epoch = self._trial_state[trial], went_on(result), result[TIME_ATTR]
        if passed and trial in self._came:
            self._leave(trial)
        if epoch < self._next_meeting(state) - NEARLY:
            return TrialScheduler.CONTINUE
        if trial not in self._came:
            self._came.add(trial)
            self._save_trial_state(state, epoch, result, trial)  # type: ignore[attr-defined]
        if result.get("segment", segment_of(trial)) < segment_of(trial):
            self._leave(trial)  # the records show that it copied another trial's weights at this meeting
            return TrialScheduler.CONTINUE
        return TrialScheduler.CONTINUE if passed else self.wait(trial)

    def _next_meeting(self, state: _PBTTrialState) -> float:
        count = math.floor(state.last_perturbation_time / self._perturbation_interval + NEARLY) + 1
        return self._perturbation_interval * max(count, math.ceil(self._burn_in_period / self._perturbation_interval - NEARLY))

    def _leave(self, trial: Trial) -> None:
        state = self._trial_state[trial]
        self._last_meeting = max(self._last_meeting, self._next_meeting(state))
        state.last_perturbation_time = state.last_train_time
        self._came.discard(trial)

    def forget(self, trial: Trial) -> None:
        super().forget(trial)
        self._came.discard(trial)

    def meet(self, tune_controller: Any) -> None:
        for parent, heirs in list(self._heirs.items()):
            heirs -= {heir for heir in heirs if heir not in self._live or (heir.status == Trial.RUNNING and not heir.is_restoring)}
            if not heirs:
                del self._heirs[parent]
                self.release(tune_controller, parent)
        for trial in self._live:
            if self.has_come(trial) and self._next_meeting(self._trial_state[trial]) < self._last_meeting + NEARLY:
                self._leave(trial)
                self.release(tune_controller, trial)
        if self._live and tune_controller.search_alg.is_finished() and not self._heirs and all(self.has_come(trial) for trial in self._live):
            self._exchange(tune_controller)

    def _paused(self) -> list[Trial]:
        heirs = {heir for group in self._heirs.values() for heir in group}
        return sorted(super()._paused(), key=lambda trial: trial not in heirs)  # heirs first, because others wait for them

    def _exchange(self, tune_controller: Any) -> None:
        population = sorted(self._live, key=number_of)
        for trial in population:
            self._leave(trial)
        losers, winners = self._quantiles()  # type: ignore[attr-defined]
        checkpoints: dict[Trial, Any] = {}
        for trial in sorted(losers, key=number_of):
            rng = np.random.default_rng([self.seed, number_of(trial), segment_of(trial)])
            parent = sorted(winners, key=number_of)[rng.integers(len(winners))]
            if self._score(parent) > self._score(trial):
                if parent not in checkpoints:
                    checkpoints[parent] = self._checkpoint(tune_controller, parent)
                if checkpoints[parent] is not None:  # otherwise its process has just died
                    self._take_over(tune_controller, trial, parent, checkpoints[parent], rng)
        for trial in population:
            if trial not in self._heirs:  # heirs copy a parent's newest state, so it must not train on before they have it
                self.release(tune_controller, trial)

    def _score(self, trial: Trial) -> float:
        score = self._trial_state[trial].last_score
        return -math.inf if score is None else score

    def _checkpoint(self, tune_controller: Any, trial: Trial) -> Any:
        if trial.status == Trial.PAUSED:
            return trial.checkpoint
        saved = tune_controller._schedule_trial_save(trial, result=self._trial_state[trial].last_result).resolve()
        return saved and saved.checkpoint

    def _take_over(self, tune_controller: Any, trial: Trial, parent: Trial, checkpoint: Any, rng: np.random.Generator) -> None:
        self._heirs.setdefault(parent, set()).add(trial)
        self._trial_state[parent].last_checkpoint = checkpoint
        values = self.explored(trial, parent, rng)
        own = {"trial": number_of(trial), "segment": segment_of(trial) + 1, "parent": number_of(parent)}
        self._new_config = {**parent.config, **values, **own}
        if trial.status == Trial.RUNNING:
            self.reserve_process(tune_controller, trial)  # _exploit pauses it
        self._exploit(tune_controller, trial, parent)  # type: ignore[attr-defined]

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._new_config, {}  # for Ray's _exploit, which calls this


def number_of(trial: Trial) -> int:
    return trial.config["trial"]


def segment_of(trial: Trial) -> int:
    return trial.config.get("segment", 0)


class PBT(Population, PopulationBasedTraining):
    """Jaderberg et al. 2017, "Population Based Training of Neural Networks": truncation selection, and perturbation or resampling."""

    def __init__(self, space: Mapping[str, Any], seed: int, resample_probability: float, perturbation_factors: tuple[float, float], **arguments: Any) -> None:
        super().__init__(space, seed, hyperparam_mutations={key: [] for key in space}, **arguments)
        self._resample_probability, self._perturbation_factors = resample_probability, perturbation_factors

    def explored(self, trial: Trial, parent: Trial, rng: np.random.Generator) -> dict[str, Any]:
        return {
            key: drawn(domain, rng) if rng.random() < self._resample_probability else step(domain, parent.config[key], self._perturbation_factors, rng)
            for key, domain in self.space.items()
        }


def drawn(domain: Any, rng: np.random.Generator) -> Any:
    return domain.finish(domain.draw(rng))


def step(domain: Space, value: Any, factors: tuple[float, float], rng: np.random.Generator) -> Any:
    """A value next to the given one: an option before or after it, or the value times a factor."""
    if isinstance(domain, Choice):
        index = domain.raw_of(value) + (1 if rng.random() < 0.5 else -1)
        return domain.options[min(max(index, 0), len(domain.options) - 1)]
    return closest(domain, value * factors[rng.integers(len(factors))])


def closest(domain: Any, value: float) -> Any:
    """The value of the domain that is closest to a number."""
    low, high = domain.corners()
    value = min(max(value, low), high)
    if isinstance(domain, Normal) and domain.log:
        return domain.finish(math.log(value) if value > 0 else -math.inf)  # finish() clips it
    return domain.finish(value)
