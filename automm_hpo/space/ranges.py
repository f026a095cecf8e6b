"""Numeric ranges as search spaces; see ``kinds.py``."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import InvalidSpace
from ..sections import unwrapped


@dataclass(frozen=True)
class Float:
    """A float between ``lower`` and ``upper``, uniform or log-uniform; AutoGluon's ``Real``.

    Attributes:
        default: tried first; None: the hyperparameter's own default, if it lies inside.
        step: values are rounded to multiples of it.
    """

    lower: float
    upper: float
    default: float | None = None
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _make_plain(self)
        _check_range(self.lower, self.upper, self.log, self.step)
        _check_default(self)

    def __str__(self) -> str:
        return _words("uniform", self, self.lower, self.upper)

    def corners(self) -> list[Any]:
        return [self.finish(self.lower), self.finish(self.upper)]

    def draw(self, rng: np.random.Generator) -> float:
        if self.log:
            return math.exp(rng.uniform(math.log(self.lower), math.log(self.upper)))
        return rng.uniform(self.lower, self.upper)

    def finish(self, raw: float) -> float:
        if self.step:
            # rounded to 15 digits: 0.3 rather than 3 * 0.1, which is 0.30000000000000004
            raw = float(f"{_nearest_multiple(raw, self.lower, self.upper, self.step) * self.step:.15g}")
        return float(min(max(raw, self.lower), self.upper))

    def raw_of(self, value: Any) -> float:
        return float(_inside(self, value, value))

    @property
    def num_points(self) -> int | None:
        return _num_multiples(self.lower, self.upper, self.step) if self.step else None

    def point(self, index: int) -> float:
        return self.finish((_first_multiple(self.lower, self.step or 1) + index) * (self.step or 1))


@dataclass(frozen=True)
class Int:
    """An integer between ``lower`` and ``upper``, both included, uniform or log-uniform, a multiple of ``step``.

    The first three arguments are those of AutoGluon's ``Int``.

    Attributes:
        default: tried first; None: the hyperparameter's own default, if it lies inside.
    """

    lower: int
    upper: int
    default: int | None = None
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        _make_plain(self)
        _check_range(self.lower, self.upper, self.log, self.step, whole=True)
        _check_default(self)

    def __str__(self) -> str:
        return _words("int", self, self.lower, self.upper)

    def corners(self) -> list[Any]:
        return [self.finish(self.lower), self.finish(self.upper)]

    def draw(self, rng: np.random.Generator) -> float:
        # each value owns the interval from half a step below to half a step above it, so the two ends are not drawn less often
        low = (_nearest_multiple(self.lower, self.lower, self.upper, self.step) - 0.5) * self.step
        high = (_nearest_multiple(self.upper, self.lower, self.upper, self.step) + 0.5) * self.step
        return math.exp(rng.uniform(math.log(low), math.log(high))) if self.log else rng.uniform(low, high)

    def finish(self, raw: float) -> int:
        value = _nearest_multiple(raw, self.lower, self.upper, self.step) * self.step
        return min(max(value, -(-self.lower // self.step) * self.step), self.upper // self.step * self.step)  # clamp integers: beyond 2^53 floats skip some

    def raw_of(self, value: Any) -> int:
        return int(_inside(self, value, value))

    @property
    def num_points(self) -> int:
        return _num_multiples(self.lower, self.upper, self.step)

    def point(self, index: int) -> int:
        return (_first_multiple(self.lower, self.step) + index) * self.step


@dataclass(frozen=True)
class Normal:
    """A normally distributed float, or with ``log`` exp of one, clipped at four standard deviations.

    Attributes:
        mean, sd: mean and standard deviation of the value, or with ``log`` of its natural logarithm.
        step: values are rounded to multiples of it, after the clipping.
        default: tried first; None: the hyperparameter's own default, if it lies inside.

    A raw proposal is the normal draw itself, before exp.
    """

    mean: float
    sd: float
    step: float | None = None
    log: bool = False
    default: float | None = None

    def __post_init__(self) -> None:
        _make_plain(self)
        _check_numbers(mean=self.mean, sd=self.sd)
        if self.sd <= 0:
            raise InvalidSpace(f"expected a standard deviation > 0, got {self.sd!r}")
        if self.log and abs(self.mean) + 4 * self.sd > 700:
            raise InvalidSpace(f"exp(normal) leaves the range of floats; the mean and deviation are of the logarithm, got {self.mean!r} and {self.sd!r}")
        _check_step(self.step)
        _check_default(self)

    def __str__(self) -> str:
        return _words("normal", self, self.mean, self.sd)

    def corners(self) -> list[Any]:
        # the reason for the clipping: only values with bounds can be validated before the search
        return [self.finish(self.mean - 4 * self.sd), self.finish(self.mean + 4 * self.sd)]

    def draw(self, rng: np.random.Generator) -> float:
        return rng.normal(self.mean, self.sd)

    def finish(self, raw: float) -> float:
        value = min(max(float(raw), self.mean - 4 * self.sd), self.mean + 4 * self.sd)
        if self.log:
            value = math.exp(value)
        return float(f"{round(value / self.step) * self.step:.15g}") if self.step else value

    def raw_of(self, value: Any) -> float:
        value = unwrapped(value)
        if self.log and isinstance(value, (int, float)):
            # a value rounded to 0 has no logarithm; the lowest raw value finishes to it
            return float(_inside(self, value, math.log(value) if value > 0 else self.mean - 4 * self.sd))
        return float(_inside(self, value, value))

    num_points = None

    def point(self, index: int) -> float:
        raise NotImplementedError("a normal distribution is no grid")


def _words(kind: str, space: Float | Int | Normal, *ends: float) -> str:
    name = ("q" if space.step and (kind != "int" or space.step != 1) else "") + ("log" if space.log else "") + kind
    step = f", {space.step!r}" if name.startswith("q") else ""
    return f"{name}({', '.join(map(repr, ends))}{step}{default_words(space.default)})"


def default_words(default: Any) -> str:
    return "" if default is None else f", default={default!r}"


def _make_plain(space: Float | Int | Normal) -> None:
    for one in fields(space):
        object.__setattr__(space, one.name, unwrapped(getattr(space, one.name)))


def _inside(space: Float | Int | Normal, value: Any, raw: float) -> float:
    """Returns ``raw`` if it finishes to ``value`` (as an int or a float), else raises InvalidSpace."""
    value = unwrapped(value)
    if not _is_finite(value) or not math.isclose(space.finish(raw), value, rel_tol=1e-9):
        raise InvalidSpace(f"{value!r} is not in {space}")
    return raw


def _check_default(space: Float | Int | Normal) -> None:
    if space.default is not None:
        try:
            space.raw_of(space.default)
        except InvalidSpace:
            raise InvalidSpace(f"default: expected a value inside the range, got {space.default!r}") from None


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _check_numbers(whole: bool = False, **values: Any) -> None:
    for name, value in values.items():
        if not _is_finite(value) or (whole and not isinstance(value, int)):
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
    if step is not None and _num_multiples(low, high, step) < 1:
        raise InvalidSpace(f"there is no multiple of {step!r} between {low!r} and {high!r}")


def _first_multiple(low: float, step: float) -> int:
    """The smallest k with k * step >= low. The 1e-9 absorbs rounding: 0.3 / 0.1 is 2.9999999999999996."""
    return math.ceil(low / step - 1e-9)


def _num_multiples(low: float, high: float, step: float) -> int:
    return math.floor(high / step + 1e-9) - _first_multiple(low, step) + 1


def _nearest_multiple(raw: float, low: float, high: float, step: float) -> int:
    """The k for which k * step is the multiple nearest to ``raw`` inside [low, high]."""
    first = _first_multiple(low, step)
    return min(max(round(float(raw) / step), first), first + _num_multiples(low, high, step) - 1)
