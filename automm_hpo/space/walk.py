"""The traversal of a search space, shared by the random, grid and Optuna searchers.

A raw proposal maps each *path* to the JSON value proposed there. The path of a space is its key. A choice among branches has the
key of its group as its path, and the branch's index as its value. Inside branch ``i`` of the group ``optim``, the key ``optim.lr`` has
the path ``optim[i].lr``. Only the paths of the chosen branch are present::

    {"env.batch_size": 64, "optim": 1, "optim[1].lr": 0.003}
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InvalidSpace, Problems
from ..sections import unwrapped
from .kinds import Branch, Branches, Choice, Computed, Float, Int, Normal, SearchSpace, Space, same_value, text_of

RawProposal = dict[str, Any]
Point = tuple[tuple[str, Any], ...]
"""A hashable key for a point of the space, see ``point_of``."""


def propose(space: SearchSpace, ask: Callable[[str, Space], Any]) -> RawProposal:
    """Builds a raw proposal by asking for one raw value after the other, descending into chosen branches only.

    Args:
        ask: (path, space) -> raw value. A choice among branches is passed as a ``Choice`` of their indices.
    """
    raw: RawProposal = {}
    for path, _, domain in _walk(space, raw):
        if not isinstance(domain, Computed):
            raw[path] = ask(path, domain.index if isinstance(domain, Branches) else domain)
    return raw


def finish_proposal(space: SearchSpace, raw: Mapping[str, Any], fixed: Mapping[str, Any], draw: tuple[int, int] | None = None) -> dict[str, Any]:
    """The values of a trial by key, including those that its branches fix. Paths that the space does not have are ignored.

    Args:
        fixed: the values that the search does not change; only the functions of computed values read them.
        draw: (seed, trial), which seeds numpy's and Python's global generators for the functions of computed values; the generators'
            states are restored afterwards. None: they are not seeded.

    Raises:
        InvalidSpace: the function of a computed value raised.
    """
    values: dict[str, Any] = {}
    computed: dict[str, Computed] = {}
    for path, key, domain in _walk(space, raw):
        if isinstance(domain, Computed):
            computed[key] = domain
        elif isinstance(domain, Branches):
            values |= domain.options[int(raw[path])].fixed
        else:
            values[key] = domain.finish(raw[path])
    if computed:
        with _seeded(draw):
            for key, domain in computed.items():
                values[key] = _compute(key, domain, {**fixed, **values})
    return values


def _compute(key: str, computed: Computed, values: Mapping[str, Any]) -> Any:
    try:
        value = computed.value(values)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise InvalidSpace(f"{key}: the function of {computed} raised {why}. It can use {', '.join(values)}, and values computed before it") from error
    return unwrapped(value)


@contextmanager
def _seeded(draw: tuple[int, int] | None) -> Iterator[None]:
    if draw is None:
        yield
        return
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(f"{draw}")
    np.random.seed(np.random.SeedSequence(draw).generate_state(4))
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def draw_space(space: SearchSpace, seed: int, trial: int, point: int | None = None) -> RawProposal:
    """The raw proposal of one trial of a random search; the random values depend on ``(seed, trial)`` alone.

    Args:
        point: index of the ``exhaustive_point`` that the exhaustive choices (``grid_search``) take; None: successive trials cycle through all points.
    """
    rng = np.random.default_rng([seed, trial])
    gridded = exhaustive_point(space, trial % exhaustive_size(space) if point is None else point)
    return propose(space, lambda path, domain: gridded[path] if path in gridded else domain.draw(rng))


def grid_size(space: SearchSpace) -> int | None:
    """Number of points in the whole space, over all branches; None if some part of it is not finite."""
    return _grid_size(space, exhaustive_only=False)


def grid_point(space: SearchSpace, index: int) -> RawProposal:
    """Point ``index`` of the grid over a finite space; the last key changes fastest."""
    return _grid_point(space, index, exhaustive_only=False)


def point_of(space: SearchSpace, raw: Mapping[str, Any]) -> Point:
    """A hashable key that is equal for all raw proposals that finish to the same values."""

    def place(path: str, domain: Space) -> Any:
        value = domain.finish(raw[path])
        return domain.raw_of(value) if isinstance(domain, Choice) else value

    return tuple(propose(space, place).items())


def exhaustive_size(space: SearchSpace) -> int:
    """Number of points in the grid over the exhaustive choices (``grid_search``); 1 if there are none."""
    return _grid_size(space, exhaustive_only=True) or 1


def exhaustive_point(space: SearchSpace, index: int) -> RawProposal:
    """Point ``index`` of the grid over the exhaustive choices: their raw values, and those of the branches around them."""
    return _grid_point(space, index, exhaustive_only=True)


def spaces_within(space: SearchSpace) -> Iterator[tuple[str, Space | Branches | Computed]]:
    """(key, space) of every space, nested ones included. A choice among branches comes before their contents; a key comes once per branch that has it."""
    for key, domain in space.items():
        yield key, domain
        if isinstance(domain, Branches):
            for branch in domain.options:
                yield from spaces_within(branch.space)


def exhaustive_keys(space: SearchSpace) -> tuple[str, ...]:
    """The keys of exhaustive choices, including those inside branches."""
    return tuple(dict.fromkeys(key for key, domain in spaces_within(space) if isinstance(domain, (Choice, Branches)) and domain.exhaustive))


def computed_keys(space: SearchSpace) -> set[str]:
    """The keys of computed values, which may differ between trials of the same proposal."""
    return {key for key, domain in spaces_within(space) if isinstance(domain, Computed)}


def tuned_keys(space: SearchSpace) -> tuple[str, ...]:
    """All keys that can differ between trials, in the user's order, including every key that some branch fixes or tunes."""
    found: dict[str, None] = {}
    for key, domain in space.items():
        if isinstance(domain, Branches):
            found |= dict.fromkeys(inner for branch in domain.options for inner in (*branch.fixed, *tuned_keys(branch.space)))
        else:
            found[key] = None
    return tuple(found)


def range_scales(space: SearchSpace) -> dict[str, str]:
    """Key -> ``log`` or ``linear``, for each range; ``log`` if branches disagree."""
    found: dict[str, str] = {}
    for key, domain in spaces_within(space):
        if isinstance(domain, (Float, Int, Normal)):
            found[key] = "log" if domain.log or found.get(key) == "log" else "linear"
    return found


def to_raw(space: SearchSpace, values: Mapping[str, Any]) -> RawProposal:
    """The raw proposal that finishes to these values, the inverse of ``finish_proposal``.

    Args:
        values: by key: one for every unconditional space, and all that one branch fixes and tunes. Computed values may be included and are ignored.

    Raises:
        InvalidSpace, InvalidInput: keys are missing or unknown, or values lie outside their space; all problems together.
    """
    found = _invert(space, values, defaults_first=False)
    problems = Problems()
    for message in [*found.wrong, *(f"{key}: is not searched, or not in the branch that the other values select" for key in values if key not in found.used)]:
        problems.add(InvalidSpace(message))
    problems.raise_any()
    return found.raw


def raw_at(space: SearchSpace, config: Mapping[str, Any]) -> RawProposal | None:
    """The raw proposal of a trial with these hyperparameters, and possibly others; None if they lie outside the space."""
    found = _invert(space, config, defaults_first=False)
    return None if found.wrong else found.raw


def default_point(space: SearchSpace, defaults: Mapping[str, Any]) -> RawProposal | None:
    """The configuration to try first: each space's own default if it has one, else the hyperparameter's.

    Args:
        defaults: the values of a trial that tunes nothing, by key.

    Returns:
        A raw proposal; None if some default is missing or lies outside its space.
    """
    found = _invert(space, defaults, defaults_first=True)
    return None if found.wrong else found.raw


def _below(path: str, group: str, index: int) -> Callable[[str], str]:
    """A function from key to path inside branch ``index`` of the group whose path is ``path``."""
    return lambda key: f"{path}[{index}]{key.removeprefix(group)}"


def _walk(space: SearchSpace, raw: Mapping[str, Any], path_of: Callable[[str], str] = str) -> Iterator[tuple[str, str, Any]]:
    """(path, key, space) in order. ``raw`` is read only when the walk resumes after a choice, so the caller may fill it in on the way."""
    for key, domain in space.items():
        path = path_of(key)
        yield path, key, domain
        if isinstance(domain, Branches):
            chosen = int(raw[path])
            yield from _walk(domain.options[chosen].space, raw, _below(path, key, chosen))


def _grid_size(space: SearchSpace, exhaustive_only: bool) -> int | None:
    sizes = [_num_points(domain, exhaustive_only) for domain in space.values()]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def _num_points(domain: Space | Branches | Computed, exhaustive_only: bool) -> int | None:
    if isinstance(domain, Computed) or (exhaustive_only and not _holds_exhaustive(domain)):
        return 1
    if isinstance(domain, Branches):
        sizes = [_grid_size(branch.space, exhaustive_only) for branch in domain.options]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    return domain.num_points


def _holds_exhaustive(domain: Space | Branches | Computed) -> bool:
    return bool(exhaustive_keys({"": domain}))


def _grid_point(space: SearchSpace, index: int, exhaustive_only: bool, path_of: Callable[[str], str] = str) -> RawProposal:
    rest = _grid_size(space, exhaustive_only)
    if rest is None or not 0 <= index < rest:
        raise IndexError(f"the grid has {rest or 'no'} points, asked for number {index}")
    raw: RawProposal = {}
    for key, domain in space.items():
        rest //= _num_points(domain, exhaustive_only) or 1
        digit, index = divmod(index, rest)
        path = path_of(key)
        if isinstance(domain, Computed) or (exhaustive_only and not _holds_exhaustive(domain)):
            continue
        if isinstance(domain, Branches):
            for chosen, branch in enumerate(domain.options):
                inside = _grid_size(branch.space, exhaustive_only) or 1
                if digit < inside:
                    raw[path] = chosen
                    raw |= _grid_point(branch.space, digit, exhaustive_only, _below(path, key, chosen))
                    break
                digit -= inside
        else:
            raw[path] = domain.point(digit)
    return raw


@dataclass
class _Inverted:
    """The raw proposal behind some values, as far as it can be reconstructed.

    Attributes:
        used: keys of the space and of the branches that fit best.
        others: how many fixed values of a branch the given values contradict.
        wrong: messages about what does not fit.
    """

    raw: RawProposal = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    others: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, inner: _Inverted) -> None:
        self.raw |= inner.raw
        self.used |= inner.used
        self.wrong += inner.wrong


def _invert(space: SearchSpace, values: Mapping[str, Any], defaults_first: bool, path_of: Callable[[str], str] = str) -> _Inverted:
    found = _Inverted()
    for key, domain in space.items():
        path = path_of(key)
        if isinstance(domain, Branches):
            tries = [_invert_branch(branch, values, defaults_first, _below(path, key, index)) for index, branch in enumerate(domain.options)]
            # several branches may fit: take the one that explains most of the values
            chosen = min(range(len(tries)), key=lambda index: (tries[index].others, len(tries[index].wrong), -len(tries[index].used & values.keys())))
            found.raw[path] = chosen
            found.add(tries[chosen])
            continue
        found.used.add(key)
        if isinstance(domain, Computed):
            continue
        if defaults_first and domain.default is not None:
            found.raw[path] = domain.default if isinstance(domain, Choice) else domain.raw_of(domain.default)
        elif key not in values:
            found.wrong.append(f"{key}: is absent; expected one value of {domain}")
        else:
            try:
                found.raw[path] = domain.raw_of(values[key])
            except InvalidSpace as problem:
                found.wrong.append(f"{key}: {problem}")
    return found


def _invert_branch(branch: Branch, values: Mapping[str, Any], defaults_first: bool, path_of: Callable[[str], str]) -> _Inverted:
    found = _invert(branch.space, values, defaults_first, path_of)
    for key, value in branch.fixed.items():
        found.used.add(key)
        if key not in values:
            found.wrong.append(f"{key}: is absent; this branch has {text_of(value)}")
        elif not same_value(value, values[key]):
            found.others += 1
            found.wrong.append(f"{key}: {values[key]!r} is in no branch; the nearest has {text_of(value)}")
    return found
