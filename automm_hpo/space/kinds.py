"""The kinds of search space, small frozen values.

Searchers propose *raw* values, which JSON can hold; ``finish`` makes the value of them (rounds to the step, clips, picks the
option), whoever proposed, and ``raw_of`` is its inverse. ``corners`` are the values that validation must try.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import InvalidSpace
from ..sections import unwrapped


@dataclass(frozen=True)
class Float:
    """A float between ``lower`` and ``upper``, uniform or log-uniform; AutoGluon's ``Real``.

    Attributes:
        default: tried first; None: the hyperparameter's own default, where it lies inside.
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
            # 12 digits: 0.3 rather than 3 * 0.1, which is 0.30000000000000004
            raw = float(f"{_nearest_multiple(raw, self.lower, self.upper, self.step) * self.step:.12g}")
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
        default: tried first; None: the hyperparameter's own default, where it lies inside.
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
        # each value owns the interval half a step below to half a step above it, so all are drawn alike
        low = (_nearest_multiple(self.lower, self.lower, self.upper, self.step) - 0.5) * self.step
        high = (_nearest_multiple(self.upper, self.lower, self.upper, self.step) + 0.5) * self.step
        return math.exp(rng.uniform(math.log(low), math.log(high))) if self.log else rng.uniform(low, high)

    def finish(self, raw: float) -> int:
        return _nearest_multiple(raw, self.lower, self.upper, self.step) * self.step

    def raw_of(self, value: Any) -> int:
        return int(_inside(self, value, value))

    @property
    def num_points(self) -> int:
        return _num_multiples(self.lower, self.upper, self.step)

    def point(self, index: int) -> int:
        return (_first_multiple(self.lower, self.step) + index) * self.step


@dataclass(frozen=True)
class Normal:
    """A normally distributed float, or with ``log`` one whose logarithm is, clipped at four standard deviations.

    Attributes:
        mean, sd: of the value, or with ``log`` of its natural logarithm.
        step: values are rounded to multiples of it.
        default: tried first; None: the hyperparameter's own default, where it lies inside.

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
        # values are clipped at four standard deviations, so that the ends can be validated
        return [self.finish(self.mean - 4 * self.sd), self.finish(self.mean + 4 * self.sd)]

    def draw(self, rng: np.random.Generator) -> float:
        return rng.normal(self.mean, self.sd)

    def finish(self, raw: float) -> float:
        value = min(max(float(raw), self.mean - 4 * self.sd), self.mean + 4 * self.sd)
        if self.log:
            value = math.exp(value)
        return float(f"{round(value / self.step) * self.step:.12g}") if self.step else value

    def raw_of(self, value: Any) -> float:
        if self.log and isinstance(value, (int, float)):
            # a rounded value of 0 has no logarithm; any raw value so low finishes to it
            return float(_inside(self, value, math.log(value) if value > 0 else self.mean - 4 * self.sd))
        return float(_inside(self, value, value))

    num_points = None

    def point(self, index: int) -> float:
        raise NotImplementedError("a normal distribution is no grid")


@dataclass(frozen=True)
class Choice:
    """One of ``options``, each equally likely. A raw proposal is the index.

    Attributes:
        exhaustive: every option is tried with every other such choice, Ray's ``grid_search``.
        default: index of the option to try first; None: the hyperparameter's own default, where it is among them.
    """

    options: tuple[Any, ...]
    exhaustive: bool = False
    default: int | None = None

    def __post_init__(self) -> None:
        if not self.options:
            raise InvalidSpace("expected at least one option, got an empty choice")
        if self.default is not None and not 0 <= self.default < len(self.options):
            raise InvalidSpace(f"default: expected the index of one of {len(self.options)} options, got {self.default!r}")

    def __str__(self) -> str:
        return f"{'grid_search' if self.exhaustive else 'choice'}([{', '.join(map(text_of, self.options))}]{_default_words(self)})"

    def corners(self) -> list[Any]:
        return list(self.options)

    def draw(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.options)))

    def finish(self, raw: int) -> Any:
        return self.options[int(raw)]

    def raw_of(self, value: Any) -> int:
        for index, option in enumerate(self.options):
            if same_value(option, value) or (isinstance(value, str) and not is_plain(option) and value == text_of(option)):  # on record is its text
                return index
        raise InvalidSpace(f"{value!r} is none of {self}")

    @property
    def num_points(self) -> int:
        return len(self.options)

    def point(self, index: int) -> int:
        return index


Space = Float | Int | Normal | Choice


@dataclass(frozen=True)
class Computed:
    """A value computed from the trial's other values, Ray's ``sample_from``; no searcher sees it.

    Attributes:
        function: takes the trial's values, or nothing. They are reached as ``config["optim.lr"]``, ``config["optim"]["lr"]``,
            ``config.optim.lr``, and after Ray's older way as ``spec.config.optim.lr``.
    """

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InvalidSpace(f"sample_from: expected a function of the trial's values, got {self.function!r}")

    def __str__(self) -> str:
        return f"sample_from({getattr(self.function, '__name__', type(self.function).__name__)})"

    def value(self, values: Mapping[str, Any]) -> Any:
        try:
            inspect.signature(self.function).bind(values)
        except TypeError:
            return self.function()
        except ValueError:  # some functions written in C do not say what they take
            pass
        return self.function(TrialValues(values))


class TrialValues(dict[str, Any]):
    """Flat values that also answer to the names of their groups, as items or attributes."""

    def __missing__(self, name: str) -> Any:
        inside = {key[len(name) + 1 :]: value for key, value in self.items() if key.startswith((f"{name}.", f"{name}/"))}
        if inside:
            return TrialValues(inside)
        if name == "config":  # spec.config
            return self
        raise KeyError(name)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class Branch:
    """One way that a conditional space can go: values and spaces by full key."""

    fixed: Mapping[str, Any]
    space: SearchSpace


@dataclass(frozen=True)
class Branches:
    """One of several branches, each equally likely, under the key of their group. A raw proposal is the index.

    Attributes:
        exhaustive: every branch is tried, Ray's ``grid_search``.
    """

    options: tuple[Branch, ...]
    exhaustive: bool = False

    def __post_init__(self) -> None:
        if not self.options:
            raise InvalidSpace("expected at least one option, got an empty choice")

    def __str__(self) -> str:
        return f"{'grid_search' if self.exhaustive else 'choice'}([{', '.join(map(_branch_words, self.options))}])"

    @property
    def index(self) -> Choice:
        """What a searcher is asked for."""
        return Choice(tuple(range(len(self.options))), self.exhaustive)


SearchSpace = Mapping[str, "Space | Branches | Computed"]
"""Key -> space. Keys keep the user's order, which is the order of the leaderboard's columns."""


def int_below(lower: int, upper: int, log: bool = False, step: int = 1) -> Int:
    """As Ray documents it: the upper bound is outside the range, except where a step larger than 1 is given."""
    upper = unwrapped(upper)
    return Int(lower, upper - 1 if step == 1 and isinstance(upper, int) else upper, log=log, step=step)


def choice_of(*options: Any) -> Choice:
    """HyperDrive's ``choice``: options as arguments, ranges among them; Ray's: one iterable."""
    if len(options) == 1 and isinstance(options[0], Iterable) and not isinstance(options[0], (str, bytes, Mapping)):
        return Choice(_in_order(options[0]))
    return Choice(tuple(inner for option in options for inner in (option if isinstance(option, range) else [option])))


def grid_of(values: Any) -> Choice:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InvalidSpace(f"grid_search: expected a list of values, got {values!r}")
    return Choice(_in_order(values), exhaustive=True)


def _in_order(values: Iterable[Any]) -> tuple[Any, ...]:
    """Those of a set sorted: it has another order in every process, and a search that is resumed would be another one."""
    return tuple(sorted(values, key=text_of) if isinstance(values, (set, frozenset)) else values)


def same_value(one: Any, other: Any) -> bool:
    """Equal, where lists and tuples are alike and booleans are no numbers."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same_value, one, other))
    if one is other:
        return True
    equal = isinstance(one, bool) == isinstance(other, bool) and one == other
    return isinstance(equal, (bool, np.bool_)) and bool(equal)  # arrays answer with an array


def is_plain(value: Any) -> bool:
    """Whether it is what JSON has for a single value."""
    return value is None or isinstance(value, (bool, int, float, str))


def text_of(value: Any) -> str:
    """A value for people and fingerprints: without memory addresses."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(text_of, value))}]"
    if isinstance(value, (set, frozenset)):  # whose order is another in each process
        return f"{{{', '.join(sorted(map(text_of, value)))}}}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{text_of(key)}: {text_of(inner)}' for key, inner in value.items())}}}"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _branch_words(branch: Branch) -> str:
    given = {key: text_of(value) for key, value in branch.fixed.items()} | {key: str(domain) for key, domain in branch.space.items()}
    return f"{{{', '.join(f'{key}: {words}' for key, words in given.items())}}}"


def _words(kind: str, space: Float | Int | Normal, *ends: float) -> str:
    name = ("q" if space.step and (kind != "int" or space.step != 1) else "") + ("log" if space.log else "") + kind
    step = f", {space.step!r}" if name.startswith("q") else ""
    return f"{name}({', '.join(map(repr, ends))}{step}{_default_words(space)})"


def _default_words(space: Space) -> str:
    return "" if space.default is None else f", default={space.default!r}"


def _make_plain(space: Float | Int | Normal) -> None:
    for one in fields(space):
        object.__setattr__(space, one.name, unwrapped(getattr(space, one.name)))


def _inside(space: Float | Int | Normal, value: Any, raw: float) -> float:
    """The raw value where it finishes to the value, whole or not."""
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
    """How many steps the first multiple of ``step`` from ``low`` on is (1e-9: 0.3 / 0.1 is 2.9999999999999996)."""
    return math.ceil(low / step - 1e-9)


def _num_multiples(low: float, high: float, step: float) -> int:
    return math.floor(high / step + 1e-9) - _first_multiple(low, step) + 1


def _nearest_multiple(raw: float, low: float, high: float, step: float) -> int:
    """How many steps the nearest multiple of ``step`` inside [low, high] is."""
    first = _first_multiple(low, step)
    return min(max(round(float(raw) / step), first), first + _num_multiples(low, high, step) - 1)
