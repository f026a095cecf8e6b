"""Successive halving: ASHA, which never waits, and HyperBand and BOHB, whose trials wait for each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ..result_keys import METRIC, SCORE, TIME_ATTR, went_on
from .plan import NEARLY
from .synchronous import Synchronous


class ASHA(ASHAScheduler):
    """Ray's ASHA with brackets drawn from (seed, trial), and without stopping trials at recorded rows after which they went on.

    Rungs compare the best score so far, which is what a trial would contribute if it ended there.
    """

    def __init__(self, seed: int, is_open_ended: bool = False, **arguments: Any) -> None:
        """Takes Ray's arguments, and one more.

        Args:
            is_open_ended: ``max_t`` only places the rungs; trials that run longer are not stopped there.
        """
        super().__init__(time_attr=TIME_ATTR, metric=METRIC, mode="max", **arguments)
        self.seed, self.is_open_ended = seed, is_open_ended

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        odds = np.exp(np.array([float(len(bracket._rungs)) for bracket in self._brackets]))
        drawn = np.random.default_rng([self.seed, trial.config["trial"]]).choice(len(odds), p=odds / odds.sum())
        self._trial_info[trial.trial_id] = self._brackets[drawn]

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        action = super().on_trial_result(tune_controller, trial, result)
        is_beyond = self.is_open_ended and result[TIME_ATTR] >= self._max_t
        return TrialScheduler.CONTINUE if went_on(result) or is_beyond else action


@dataclass(frozen=True)
class Bracket:
    """A group of trials that are halved together.

    Attributes:
        size: number of trials that begin in it.
        milestones: epochs at which they are compared; at the last one they end.
    """

    size: int
    milestones: tuple[float, ...]


def hyperband_brackets(max_t: float, grace_period: float, reduction_factor: float) -> list[Bracket]:
    """The brackets of one round, the most eager one first.

    Li et al. 2018, "Hyperband", algorithm 1: bracket s of s_max..0 begins with ceil((s_max + 1) / (s + 1) * eta^s) trials, which get
    R * eta^-s of the resource R each.

    >>> [(bracket.size, [round(epochs, 1) for epochs in bracket.milestones]) for bracket in hyperband_brackets(20, 1, 3)]
    [(9, [2.2, 6.7, 20.0]), (5, [6.7, 20.0]), (3, [20.0])]
    """
    last = int(math.log(max(max_t / grace_period, 1), reduction_factor) + NEARLY)
    return [
        Bracket(
            math.ceil((last + 1) / (s + 1) * reduction_factor**s - NEARLY),
            tuple(max_t * reduction_factor ** -(s - rung) for rung in range(s + 1)),
        )
        for s in range(last, -1, -1)
    ]


Rung = tuple[int, int, int]
"""Round, bracket within the round, milestone within the bracket."""


@dataclass
class Climber:
    """The position of a trial: its round and bracket, and its next milestone there."""

    number: int
    place: tuple[int, int]
    bracket: Bracket
    rung: int = 0
    told: int = -1  # the last milestone that BOHB's searcher was told of

    @property
    def milestone(self) -> float:
        return self.bracket.milestones[self.rung]

    @property
    def is_last(self) -> bool:
        return self.rung == len(self.bracket.milestones) - 1


class HyperBand(Synchronous):
    """Successive halving in brackets that trade the number of trials against their length.

    The number of a trial alone decides its bracket, round after round, so that a resumed search has the same brackets. The trials of a
    bracket wait for each other at its milestones; one in ``reduction_factor`` goes on, chosen by the best score so far. A bracket that the
    search does not fill is halved all the same, and its best trial always reaches the end.

    Recorded trials do not wait: a row after a milestone shows that the trial passed it. They are still ranked among those that wait.

    Ray's class of this name is not used: when trials are proposed one by one, it halves brackets before they are full; with 20 epochs,
    which is no power of 3, it ends the best trial at 18; and it hangs when a trial ends by itself while others wait for it.
    """

    def __init__(self, max_t: float, grace_period: float, reduction_factor: float) -> None:
        super().__init__()
        self._metric = METRIC
        self.reduction_factor = reduction_factor
        self.brackets = hyperband_brackets(max_t, grace_period, reduction_factor)
        self._climbers: dict[Trial, Climber] = {}
        self._entered: dict[Rung, set[int]] = {}  # all trials that ever headed for the rung
        self._scores: dict[Rung, dict[int, float]] = {}  # trials that reached the rung and have not ended there

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        if trial not in self._climbers:  # otherwise the trial goes on after its process died
            number = trial.config["trial"]
            cycle, index = divmod(number, sum(bracket.size for bracket in self.brackets))
            place = 0
            while index >= self.brackets[place].size:
                index -= self.brackets[place].size
                place += 1
            self._climbers[trial] = climber = Climber(number, (cycle, place), self.brackets[place])
            self._entered.setdefault((*climber.place, 0), set()).add(number)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        climber, passed = self._climbers[trial], went_on(result)
        if passed and self._came(climber) and not climber.is_last:
            self._advance(climber)
        if result[TIME_ATTR] < climber.milestone - NEARLY:
            return TrialScheduler.CONTINUE
        if not self._came(climber):
            self._scores.setdefault(self._rung(climber), {})[climber.number] = result.get(METRIC, -math.inf)
        if passed:
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP if climber.is_last else self.wait(trial)

    def meet(self, tune_controller: Any) -> None:
        groups: dict[Rung, list[Trial]] = {}
        for trial in self._live:
            if self.has_come(trial):
                groups.setdefault(self._rung(self._climbers[trial]), []).append(trial)
        for rung, trials in groups.items():
            if self._is_complete(rung, tune_controller):
                self._halve(rung, trials, tune_controller)

    def _is_complete(self, rung: Rung, tune_controller: Any) -> bool:
        """Whether all trials that can reach the rung have reached it."""
        cycle, bracket, height = rung
        all_begun = len(self._entered[cycle, bracket, 0]) == self.brackets[bracket].size or tune_controller.search_alg.is_finished()
        fellows = (trial for trial in self._live if self._climbers[trial].place == (cycle, bracket) and self._climbers[trial].rung <= height)
        return all_begun and all(self.has_come(trial) for trial in fellows)

    def _halve(self, rung: Rung, trials: list[Trial], tune_controller: Any) -> None:
        num_passing = max(1, int(len(self._entered[rung]) / self.reduction_factor + NEARLY))
        scores = self._scores[rung]
        passing = sorted(scores, key=lambda number: (-scores[number], number))[:num_passing]
        for trial in trials:
            if self._climbers[trial].number in passing:
                self._advance(self._climbers[trial])
                self.release(tune_controller, trial)
            else:
                self.dismiss(tune_controller, trial)

    def forget(self, trial: Trial) -> None:
        super().forget(trial)
        climber = self._climbers[trial]
        self._scores.get(self._rung(climber), {}).pop(climber.number, None)

    @staticmethod
    def _rung(climber: Climber) -> Rung:
        return (*climber.place, climber.rung)

    def _came(self, climber: Climber) -> bool:
        return climber.number in self._scores.get(self._rung(climber), {})

    def _advance(self, climber: Climber) -> None:
        climber.rung += 1
        self._entered.setdefault(self._rung(climber), set()).add(climber.number)


class BOHB(HyperBand):
    """HyperBand that tells the searcher ``bohb`` the score of each trial at each milestone, with the budget.

    Falkner et al. 2018, "BOHB": the searcher models the scores at the largest budget that has enough of them.
    """

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        action = super().on_trial_result(tune_controller, trial, result)
        climber = self._climbers[trial]
        news = self._came(climber) and climber.told < climber.rung and action != TrialScheduler.STOP  # Ray does not pass a stopping result on
        if news:
            climber.told = climber.rung
        result["hyperband_info"] = {"budget": climber.milestone} if news else {}  # what Ray's TuneBOHB reads
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        climber = self._climbers[trial]
        if climber.told < climber.rung and SCORE in result:
            tune_controller.search_alg.on_trial_result(trial.trial_id, result | {"hyperband_info": {"budget": climber.milestone}})
        super().on_trial_complete(tune_controller, trial, result)
