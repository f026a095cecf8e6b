"""PB2: population-based training in which a Gaussian process chooses the new values. A separate module, because it imports scikit-learn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.schedulers.pb2 import PB2 as RayPB2
from ray.tune.schedulers.pbt import _PBTTrialState
from sklearn import config_context

from ...space import Normal, Space
from ..result_keys import SCORE, TIME_ATTR
from .population import Population, closest, number_of, segment_of, step


@dataclass(frozen=True)
class Member:
    """The attributes of a trial that Ray's PB2 reads."""

    name: str
    config: Mapping[str, float]

    def __str__(self) -> str:
        return self.name


class PB2(Population, RayPB2):
    """Parker-Holder et al. 2020, "Provably Efficient Online Hyperparameter Optimization with Population-Based Bandits"; Ray's PB2.

    The Gaussian process sees each range as [0, 1], on a log scale for log spaces. It learns about a value only once a trial has kept it from
    one meeting to the next; until then, values are perturbed as in PBT.
    """

    def __init__(self, space: Mapping[str, Any], seed: int, **arguments: Any) -> None:
        super().__init__(space, seed, hyperparam_bounds={key: [0.0, 1.0] for key in space}, **arguments)
        self._rows: list[dict[str, Any]] = []  # the rows of the table that Ray's PB2 reads

    def explored(self, trial: Trial, parent: Trial, rng: np.random.Generator) -> dict[str, Any]:
        rows = sorted(self._rows, key=lambda row: (row["Time"], row["Trial"]))  # independent of the order of arrival
        self.data = type(self.data)(rows)
        units = self._units(parent)
        state = np.random.get_state()
        np.random.seed(rng.integers(2**32))  # Ray's optimizer draws its starting points from np.random
        try:
            with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):  # Ray waits meanwhile
                warnings.simplefilter("ignore")  # about kernel parameters at their bounds
                chosen, _ = RayPB2._get_new_config(self, Member(_name(trial), {}), Member(_name(parent), units))  # type: ignore[arg-type]
        finally:
            np.random.set_state(state)
        if chosen == units:
            values = {key: step(domain, parent.config[key], (0.8, 1.2), rng) for key, domain in self.space.items()}
        else:
            values = {key: closest(domain, _from_unit(domain, chosen[key])) for key, domain in self.space.items()}
        parent_state = self._trial_state[parent]
        self._note(_name(trial), parent_state.last_train_time, values, parent_state.last_score)  # the start of its next interval
        return values

    def _save_trial_state(self, state: _PBTTrialState, time: Any, result: dict[str, Any], trial: Trial) -> None:
        PopulationBasedTraining._save_trial_state(self, state, time, result, trial)  # Ray's PB2 would also record the unscaled values
        if result.get("segment", segment_of(trial)) == segment_of(trial):  # otherwise it is a replayed row with earlier values
            self._note(_name(trial), result[TIME_ATTR], trial.config, result[SCORE])

    def _note(self, name: str, epoch: float, values: Mapping[str, Any], score: float | None) -> None:
        units = {key: _to_unit(domain, values[key]) for key, domain in self.space.items()}
        self._rows.append({"Trial": name, "Time": epoch, **units, "Reward": score})

    def _units(self, trial: Trial) -> dict[str, float]:
        return {key: _to_unit(domain, trial.config[key]) for key, domain in self.space.items()}


def _name(trial: Trial) -> str:
    return f"trial {number_of(trial)}"


def _ends(domain: Space) -> tuple[float, float]:
    if isinstance(domain, Normal):  # its corners may be rounded to 0, which has no logarithm
        return domain.mean - 4 * domain.sd, domain.mean + 4 * domain.sd
    low, high = domain.corners()
    return (math.log(low), math.log(high)) if _is_log(domain) else (low, high)


def _is_log(domain: Space) -> bool:
    return bool(getattr(domain, "log", False))


def _to_unit(domain: Space, value: float) -> float:
    low, high = _ends(domain)
    place = domain.raw_of(value) if isinstance(domain, Normal) else math.log(value) if _is_log(domain) else value
    return (place - low) / (high - low) if high > low else 0.0


def _from_unit(domain: Space, unit: float) -> float:
    low, high = _ends(domain)
    value = low + unit * (high - low)
    return math.exp(value) if _is_log(domain) else value
