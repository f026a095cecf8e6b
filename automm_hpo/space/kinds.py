"""The kinds of search space: small, frozen value objects.

Searchers propose *raw* values, which JSON can hold. ``finish`` turns a raw value into the final one (rounds to the step, clips, picks the
option), whichever searcher proposed it; ``raw_of`` is its inverse. ``corners`` are the values that validation must check.
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
    """One of ``options``, each equally likely. A raw proposal is the option's index.

    Attributes:
        exhaustive: every option is tried, crossed with all other exhaustive choices (Ray's ``grid_search``).
        default: index of the option to try first; None: the hyperparameter's own default, if it is among the options.
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
        if alike:  # 1 and 1.0 are equal but may both be options: prefer the one of the same type
            return next((index for index in alike if type(self.options[index]) is type(value)), alike[0])
        for index, option in enumerate(self.options):
            if isinstance(value, str) and not is_plain(option) and value == text_of(option):  # records store such an option as its text
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
    """A value computed from the trial's other values (Ray's ``sample_from``). Searchers never see it.

    Attributes:
        function: called with the trial's values, or without arguments if it takes none. Values can be read as ``config["optim.lr"]``,
            ``config["optim"]["lr"]``, ``config.optim.lr`` and, in Ray's older style, ``spec.config.optim.lr``.
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
        except ValueError:  # some functions written in C have no signature to inspect
            pass
        return self.function(TrialValues(values))


class TrialValues(dict[str, Any]):
    """A flat dict of values whose groups can also be read by name, as items or attributes."""

    def __missing__(self, name: str) -> Any:
        inside = {key[len(name) + 1 :]: value for key, value in self.items() if key.startswith((f"{name}.", f"{name}/"))}
        if inside:
            return TrialValues(inside)
        if name == "config":  # ``spec.config`` is the whole dict
            return self
        raise KeyError(name)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class Branch:
    """One branch of a conditional space: fixed values and spaces, both by full key."""

    fixed: Mapping[str, Any]
    space: SearchSpace


@dataclass(frozen=True)
class Branches:
    """A choice among branches, each equally likely, stored under the key of their group. A raw proposal is the branch's index.

    Attributes:
        exhaustive: every branch is tried (Ray's ``grid_search``).
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
        """The choice among branch indices that searchers see."""
        return Choice(tuple(range(len(self.options))), self.exhaustive)


SearchSpace = Mapping[str, "Space | Branches | Computed"]
"""Key -> space. Keys keep the user's order, which is the order of the leaderboard's columns."""


def int_below(lower: int, upper: int, log: bool = False, step: int = 1) -> Int:
    """An integer range with Ray's bounds: ``upper`` is excluded, unless the step is larger than 1."""
    upper = unwrapped(upper)
    return Int(lower, upper - 1 if step == 1 and isinstance(upper, int) else upper, log=log, step=step)


def choice_of(*options: Any) -> Choice:
    """Accepts the arguments of Ray's ``choice`` (one iterable) and of HyperDrive's (one argument per option, ranges expanded)."""
    if len(options) == 1 and isinstance(options[0], Iterable) and not isinstance(options[0], (str, bytes, Mapping)):
        return Choice(_in_order(options[0]))
    return Choice(tuple(inner for option in options for inner in (option if isinstance(option, range) else [option])))


def grid_of(values: Any) -> Choice:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InvalidSpace(f"grid_search: expected a list of values, got {values!r}")
    return Choice(_in_order(values), exhaustive=True)


def _in_order(values: Iterable[Any]) -> tuple[Any, ...]:
    """The values as a tuple. A set is sorted: its order differs between processes, so a resumed search would look like a different one."""
    return tuple(sorted(values, key=text_of) if isinstance(values, (set, frozenset)) else values)


def same_value(one: Any, other: Any) -> bool:
    """Whether two values are equal. A list equals a tuple of the same items; a boolean never equals a number."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same_value, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_value(one[key], other[key]) for key in one)
    if one is other:
        return True
    equal = isinstance(one, bool) == isinstance(other, bool) and one == other
    return isinstance(equal, (bool, np.bool_)) and bool(equal)  # comparing arrays gives an array


def is_plain(value: Any) -> bool:
    """Whether JSON can hold the value as a scalar."""
    return value is None or isinstance(value, (bool, int, float, str))


def text_of(value: Any) -> str:
    """A value as text for people and fingerprints, without memory addresses."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(text_of, value))}]"
    if isinstance(value, (set, frozenset)):  # their order differs between processes
        return f"{{{', '.join(sorted(map(text_of, value)))}}}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{text_of(key)}: {text_of(inner)}' for key, inner in value.items())}}}"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value)) + _digest_of(value)


def _digest_of(value: Any) -> str:
    """A digest of the whole content of a large array or a table, since its repr omits the middle; empty for anything else."""
    content = b""
    if isinstance(value, np.ndarray) and value.size > np.get_printoptions()["threshold"]:
        content = repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
    elif (pandas := sys.modules.get("pandas")) and isinstance(value, (pandas.DataFrame, pandas.Series)):
        with contextlib.suppress(TypeError):  # cells with lists cannot be hashed
            content = pandas.util.hash_pandas_object(value).to_numpy().tobytes()
    return f" sha256 {hashlib.sha256(content).hexdigest()[:16]}" if content else ""


def _branch_words(branch: Branch) -> str:
    given = {key: text_of(value) for key, value in branch.fixed.items()} | {key: str(domain) for key, domain in branch.space.items()}
    return f"{{{', '.join(f'{key}: {words}' for key, words in given.items())}}}"
