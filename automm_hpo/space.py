"""Search spaces as small frozen values; what the user writes with ``tune.*`` becomes these (``hpo/ray_space.py``).

Every space can draw a raw proposal, name its corners (the values its validation must try), and finish a raw proposal, its own or
another searcher's, into a value (quantise, clip, pick the option).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InvalidSpace


@dataclass(frozen=True)
class Float:
    """A float between ``low`` and ``high``, uniform or log-uniform, rounded to multiples of ``step`` where one is given."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log, self.step)

    def corners(self) -> list[Any]:
        return [self.finish(self.low), self.finish(self.high)]

    def draw(self, rng: np.random.Generator) -> float:
        if self.log:
            return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return rng.uniform(self.low, self.high)

    def finish(self, raw: float) -> float:
        if self.step:
            # 12 digits: 0.3 rather than 3 * 0.1, which is 0.30000000000000004
            raw = float(f"{_nearest_multiple(raw, self.low, self.high, self.step) * self.step:.12g}")
        return float(min(max(raw, self.low), self.high))


@dataclass(frozen=True)
class Int:
    """An integer between ``low`` and ``high``, both included, uniform or log-uniform, a multiple of ``step``."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, self.log, self.step, whole=True)

    def corners(self) -> list[Any]:
        return [self.finish(self.low), self.finish(self.high)]

    def draw(self, rng: np.random.Generator) -> float:
        # each value owns the interval half a step below to half a step above it, so all are drawn alike
        low = (_nearest_multiple(self.low, self.low, self.high, self.step) - 0.5) * self.step
        high = (_nearest_multiple(self.high, self.low, self.high, self.step) + 0.5) * self.step
        return math.exp(rng.uniform(math.log(low), math.log(high))) if self.log else rng.uniform(low, high)

    def finish(self, raw: float) -> int:
        return _nearest_multiple(raw, self.low, self.high, self.step) * self.step


@dataclass(frozen=True)
class Normal:
    """A normally distributed float, clipped at four standard deviations, rounded to multiples of ``step`` where one is given."""

    mean: float
    sd: float
    step: float | None = None

    def __post_init__(self) -> None:
        _check_numbers(mean=self.mean, sd=self.sd)
        if self.sd <= 0:
            raise InvalidSpace(f"expected a standard deviation > 0, got {self.sd!r}")
        _check_step(self.step)

    def corners(self) -> list[Any]:
        # values are clipped at four standard deviations, so that the ends can be validated
        return [self.finish(self.mean - 4 * self.sd), self.finish(self.mean + 4 * self.sd)]

    def draw(self, rng: np.random.Generator) -> float:
        return rng.normal(self.mean, self.sd)

    def finish(self, raw: float) -> float:
        value = min(max(float(raw), self.mean - 4 * self.sd), self.mean + 4 * self.sd)
        return float(f"{round(value / self.step) * self.step:.12g}") if self.step else value


@dataclass(frozen=True)
class Choice:
    """One of ``options``, each equally likely. A searcher proposes the index."""

    options: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise InvalidSpace("expected at least one option, got an empty choice")

    def corners(self) -> list[Any]:
        return list(self.options)

    def draw(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.options)))

    def finish(self, raw: int) -> Any:
        return self.options[int(raw)]


Space = Float | Int | Normal | Choice
SearchSpace = Mapping[str, Space]
"""Dotted key -> space. Keys keep the user's order, which is the order of the leaderboard's columns."""


def _check_numbers(whole: bool = False, **values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not math.isfinite(value):
            raise InvalidSpace(f"expected {'whole' if whole else 'finite'} numbers, got {name}={value!r}")


def _check_step(step: float | None, whole: bool = False) -> None:
    if step is not None:
        _check_numbers(whole, step=step)
        if step <= 0:
            raise InvalidSpace(f"expected a step > 0, got {step!r}")


def _check_range(low: float, high: float, log: bool, step: float | None, whole: bool = False) -> None:
    _check_numbers(whole, lower=low, upper=high)
    _check_step(step, whole)
    if whole and low > high:
        raise InvalidSpace(f"no whole number lies in the range, got lower={low!r}, upper={high!r} (included)")
    if not whole and low >= high:
        raise InvalidSpace(f"expected lower < upper, got lower={low!r}, upper={high!r}")
    if log and low <= 0:
        raise InvalidSpace(f"a logarithmic range must start above 0, got lower={low!r}")
    if step is not None and math.ceil(low / step - 1e-9) > math.floor(high / step + 1e-9):
        raise InvalidSpace(f"there is no multiple of {step!r} between {low!r} and {high!r}")


def _nearest_multiple(raw: float, low: float, high: float, step: float) -> int:
    """How many steps the nearest multiple of ``step`` inside [low, high] is (1e-9: 0.3 / 0.1 is 2.9999999999999996)."""
    return min(max(round(float(raw) / step), math.ceil(low / step - 1e-9)), math.floor(high / step + 1e-9))


def draw_space(space: SearchSpace, seed: int, trial: int) -> dict[str, Any]:
    """The raw proposal of one trial of a random search; it depends on ``(seed, trial)`` and nothing else."""
    rng = np.random.default_rng([seed, trial])
    return {key: domain.draw(rng) for key, domain in space.items()}
