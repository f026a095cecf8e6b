"""The kinds of search space, small frozen values.

Searchers propose *raw* values, which JSON can hold; ``finish`` makes the value of them (rounds to the step, clips, picks the
option), whoever proposed, and ``raw_of`` is its inverse. ``corners`` are the values that validation must try.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidSpace
from ..sections import unwrapped
from .ranges import Float, Int, Normal, default_words


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
        return f"{'grid_search' if self.exhaustive else 'choice'}([{', '.join(map(text_of, self.options))}]{default_words(self.default)})"

    def corners(self) -> list[Any]:
        return list(self.options)

    def draw(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.options)))

    def finish(self, raw: int) -> Any:
        return self.options[int(raw)]

    def raw_of(self, value: Any) -> int:
        alike = [index for index, option in enumerate(self.options) if same_value(option, value)]
        if alike:  # 1 and 1.0 may be two options
            return next((index for index in alike if type(self.options[index]) is type(value)), alike[0])
        for index, option in enumerate(self.options):
            if isinstance(value, str) and not is_plain(option) and value == text_of(option):  # on record is its text
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
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in one)
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
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value)) + _digest_of(value)


def _digest_of(value: Any) -> str:
    """Of all that a large array or a table holds, for its text leaves the middle out; empty for anything else."""
    content = b""
    if isinstance(value, np.ndarray) and value.size > np.get_printoptions()["threshold"]:
        content = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
    elif (pandas := sys.modules.get("pandas")) and isinstance(value, (pandas.DataFrame, pandas.Series)):
        with contextlib.suppress(TypeError):  # cells with lists
            content = pandas.util.hash_pandas_object(value).to_numpy().tobytes()
    return f" sha256 {hashlib.sha256(content).hexdigest()[:16]}" if content else ""


def _branch_words(branch: Branch) -> str:
    given = {key: text_of(value) for key, value in branch.fixed.items()} | {key: str(domain) for key, domain in branch.space.items()}
    return f"{{{', '.join(f'{key}: {words}' for key, words in given.items())}}}"
