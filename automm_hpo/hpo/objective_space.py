"""The config of a user's objective: values and search spaces under arbitrary names."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..errors import InvalidSpace, Problems
from ..sections import unwrapped
from ..space import Branch, Branches, Choice, Computed, RawProposal, SearchSpace, Space, to_raw, tuned_keys
from .foreign_spaces import is_space, to_space
from .hyperparameter_space import check_computed, in_branch

SEPARATOR = "/"  # joins the names of nested dicts


def split_objective_space(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Space | Branches | Computed]]:
    """Splits the config of a user's objective into fixed values and search spaces.

    Args:
        given: values and spaces under arbitrary names; nested dicts are flattened, ``{"model": {"depth": 3}}`` to the key ``model/depth``.
            A choice whose options are dicts with spaces in them is a conditional space.

    Raises:
        AutoMMHPOError: all problems together.
    """
    if not isinstance(given, Mapping):
        raise InvalidSpace(f"space: expected a dict of values and search spaces, got {given!r} ({type(given).__name__})")
    problems = Problems()
    fixed, space = _split(_flat_items(given, problems), problems)
    problems.raise_any()
    check_computed(space, fixed, _refuse_space)
    return fixed, space


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nests flat values to the config that the objective gets: ``{"model/depth": 3}`` becomes ``{"model": {"depth": 3}}`` again."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *groups, leaf = key.split(SEPARATOR)
        functools.reduce(lambda inside, group: inside.setdefault(group, {}), groups, nested)[leaf] = value
    return nested


def objective_point_to_raw(space: SearchSpace, point: Mapping[str, Any]) -> RawProposal:
    """Converts a config that the user wants tried to a raw proposal.

    Args:
        point: nested or flat, with a value for each name that has a space.

    Raises:
        InvalidSpace, InvalidInput: names are missing or unknown, or values lie outside their space; all problems together.
    """
    keys = tuned_keys(space)
    dicts = {key for key in keys if not any(other.startswith(key + SEPARATOR) for other in keys)}  # a dict there is an option, not to be flattened
    return to_raw(space, dict(_flat_point(point, dicts)))


def _flat_point(point: Mapping[str, Any], whole: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in point.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and key not in whole:
            yield from _flat_point(value, whole, key + SEPARATOR)
        else:
            yield key, value


def _split(pairs: Iterable[tuple[str, Any]], problems: Problems) -> tuple[dict[str, Any], dict[str, Space | Branches | Computed]]:
    fixed: dict[str, Any] = {}
    space: dict[str, Space | Branches | Computed] = {}
    for key, value in pairs:
        with problems.gather():
            if is_space(value):
                space[key] = _space(key, to_space(key, value), problems)
            else:
                _refuse_space(key, value)
                fixed[key] = value
    return fixed, space


def _space(key: str, space: Space | Computed, problems: Problems) -> Space | Branches | Computed:
    if not isinstance(space, Choice):
        return space
    if not any(is_space(option) or (isinstance(option, Mapping) and _holds_space(option)) for option in space.options):
        for option in space.options:
            _refuse_space(key, option)
        return replace(space, options=tuple(map(unwrapped, space.options)))
    return Branches(tuple(_branches(key, space.options, problems)), space.exhaustive)


def _branches(key: str, options: Iterable[Any], problems: Problems) -> Iterator[Branch]:
    for index, option in enumerate(options):
        with in_branch(key, index, problems) as inner:
            yield Branch(*_split(_flat(key, option, inner), inner))


def _flat(key: str, value: Any, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Yields (flat key, value), with nested dicts flattened; an empty dict counts as a value."""
    if isinstance(value, Mapping) and value and not is_space(value):
        yield from _flat_items(value, problems, key + SEPARATOR)
    else:
        yield key, value


def _flat_items(given: Mapping[str, Any], problems: Problems, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        if isinstance(name, str) and name and SEPARATOR not in name:
            yield from _flat(prefix + name, value, problems)
        else:
            problems.add(InvalidSpace(f"{prefix}{name}: expected names without {SEPARATOR!r}, which stands between those of nested dicts, got {name!r}"))


def _holds_space(value: Any) -> bool:
    if is_space(value):
        return True
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return any(map(_holds_space, inner))


def _refuse_space(key: str, value: Any) -> None:
    if callable(getattr(value, "rvs", None)):
        raise InvalidSpace(f"{key}: scipy's distributions are not supported; use tune.uniform, tune.loguniform, tune.randn or tune.randint")
    if _holds_space(value):
        raise InvalidSpace(f"{key}: a search space within {value!r}: give each space a name of its own, in a dict")
