"""Splits ``hyperparameters`` into fixed values and checked search spaces, and lists the configs that a space allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ..config import FIELDS, GROUPS, Config, check_value, check_values, resolve_keys
from ..errors import AutoMMHPOError, InvalidHyperparameter, InvalidSpace, NotSupported, Problems
from ..space import (
    Branch,
    Branches,
    Choice,
    Computed,
    Float,
    Normal,
    RawProposal,
    SearchSpace,
    Space,
    computed_keys,
    draw_space,
    finish_proposal,
    to_raw,
)
from .foreign_spaces import is_space, to_space

NUM_TRIED = 100  # draws whose computed values are checked before a search starts

# ---------------------------------------------------------------------------------------------------- hyperparameters -> space


@dataclass(frozen=True)
class _Alternatives:
    """A choice whose options are dicts with values and spaces of their own. Their keys are resolved; nothing is checked yet."""

    options: tuple[Mapping[str, Any], ...]
    exhaustive: bool

    def keys(self) -> set[str]:
        return {key for option in self.options for key in _keys_of(option)}

    def without(self, keys: set[str]) -> _Alternatives:
        return replace(self, options=tuple(_without(option, keys) for option in self.options))


def split_hyperparameters(*layers: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Space | Branches | Computed]]:
    """Splits the user's dicts into fixed values and search spaces, both checked and by canonical key.

    Args:
        layers: the defaults of a predictor, the arguments of a call. If two of them give the same hyperparameter, the later one wins. If only
            some branches of a conditional space give it, the other branches keep an earlier layer's fixed value.

    Raises:
        AutoMMHPOError: all problems together.
    """
    problems = Problems()
    resolved: dict[str, Any] = {}
    for layer in layers:
        later = _resolve(layer, problems)
        kept = _without(resolved, _keys_of(later)) | _fallbacks(resolved, later)
        resolved = {key: later.get(key, kept.get(key)) for key in resolved if key in kept or key in later} | later
    fixed, space = _split(resolved, problems)
    problems.raise_any()
    check_computed(space, Config.from_flat(fixed).flat(), check_value)
    return fixed, space


def _resolve(hyperparameters: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """``resolve_keys`` that also resolves the options of conditional spaces."""
    resolved = resolve_keys(hyperparameters, problems)
    owner: dict[str, str] = {}
    for key, value in list(resolved.items()):
        try:
            resolved[key] = _conditional(key, value, problems)
        except AutoMMHPOError as problem:
            problems.add(problem)
            del resolved[key]
            continue
        for leaf in _keys_of({key: resolved[key]}):
            if leaf in owner:
                problems.add(InvalidHyperparameter(f"{leaf}: is given by {owner[leaf]} and by {key}; give it in one of them"))
            owner[leaf] = key
    return resolved


def _conditional(key: str, value: Any, problems: Problems) -> Any:
    """Turns a choice among dicts of a group, or with spaces among its options, into ``_Alternatives``. Other values and spaces are kept."""
    if isinstance(value, Branches):  # read from the folder of a search
        return _Alternatives(tuple(_resolve_again(branch, problems) for branch in value.options), value.exhaustive)
    if not is_space(value):
        return value
    if key in GROUPS:
        space = to_space(key, value)
        if not isinstance(space, Choice):
            raise InvalidSpace(f"{key}: is a group of hyperparameters; expected a choice of dicts, or spaces of the single keys, got {space}")
        if others := [option for option in space.options if not isinstance(option, Mapping) or is_space(option)]:
            raise InvalidSpace(f"{key}: is a group of hyperparameters; expected dicts of them as options, got {others[0]!r}")
        if not any(space.options):
            raise InvalidSpace(f"{key}: expected options with values or spaces in them, got only empty dicts")
        return _Alternatives(tuple(_resolve_branches(key, space.options, problems)), space.exhaustive)
    try:
        space = to_space(key, value)
    except AutoMMHPOError:
        return value  # a later layer may replace it; if none does, ``_split`` reports it together with other problems
    if isinstance(space, Choice) and any(map(is_space, space.options)):
        return _Alternatives(tuple(_resolve_branches(key, space.options, problems)), space.exhaustive)
    return space


def _resolve_branches(key: str, options: Iterable[Any], problems: Problems) -> Iterator[dict[str, Any]]:
    for index, option in enumerate(options):
        with in_branch(key, index, problems) as inner:
            yield _resolve({key: option}, inner)


def _resolve_again(branch: Branch, problems: Problems) -> dict[str, Any]:
    return {**branch.fixed, **{key: _conditional(key, domain, problems) for key, domain in branch.space.items()}}


@contextmanager
def in_branch(group: str, index: int, problems: Problems) -> Iterator[Problems]:
    """Collects problems and passes them on, prefixed with the name of the branch."""
    inner = Problems()
    yield inner
    for problem in inner.found:
        problems.add(type(problem)(f"{group}[{index}]: {problem}"))


def _keys_of(resolved: Mapping[str, Any]) -> set[str]:
    return {leaf for key, value in resolved.items() for leaf in (value.keys() if isinstance(value, _Alternatives) else [key])}


def _keys_in_all(resolved: Mapping[str, Any]) -> set[str]:
    """The keys that have a value whichever branches are chosen."""
    return {
        leaf for key, value in resolved.items() for leaf in (set.intersection(*map(_keys_in_all, value.options)) if isinstance(value, _Alternatives) else [key])
    }


def _fallbacks(resolved: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """The fixed values of earlier layers for keys that only some branches of the later layer give."""
    some = _keys_of(later) - _keys_in_all(later)
    return {key: value for key, value in resolved.items() if key in some and not isinstance(value, _Alternatives) and not is_space(value)}


def _without(resolved: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    left: dict[str, Any] = {}
    for key, value in resolved.items():
        if isinstance(value, _Alternatives):
            if (fewer := value.without(keys)).keys():
                left[key] = fewer
        elif key not in keys:
            left[key] = value
    return left


def _split(resolved: Mapping[str, Any], problems: Problems) -> tuple[dict[str, Any], dict[str, Space | Branches | Computed]]:
    fixed: dict[str, Any] = {}
    space: dict[str, Space | Branches | Computed] = {}
    for key, value in resolved.items():
        with problems.gather():
            if isinstance(value, _Alternatives):
                space[key] = Branches(tuple(_split_branches(key, value.options, problems)), value.exhaustive)
            elif key in GROUPS:
                raise InvalidHyperparameter(f"{key}: is a group of hyperparameters; expected a dict of them, got {value!r} ({type(value).__name__})")
            elif is_space(value):
                space[key] = checked_space(key, to_space(key, value))
            else:
                fixed[key] = check_value(key, value)
    return fixed, space


def _split_branches(key: str, options: Iterable[Mapping[str, Any]], problems: Problems) -> Iterator[Branch]:
    for index, option in enumerate(options):
        with in_branch(key, index, problems) as inner:
            fixed, space = _split(option, inner)
            for varying in fixed:
                with inner.gather():
                    _check_may_vary(varying)
            yield Branch(fixed, space)


def checked_space(key: str, space: Space | Computed) -> Space | Computed:
    """The space with its options as the field stores them ("10" becomes 10). Every option, or both ends of a range, must be valid.

    Raises:
        InvalidSpace, InvalidInput: an option or end is not valid, or the key cannot vary; all problems together.
    """
    _check_may_vary(key)
    if isinstance(space, Computed):
        return space
    problems = Problems()
    tried, checked = space.corners(), []
    if not isinstance(space, Choice) and (centre := space.finish(0)) not in tried:
        tried.append(centre)  # some keys take -1 (no limit) and numbers >= 1, but refuse 0
    for value in tried:
        try:
            checked.append(check_value(key, value))
        except InvalidHyperparameter as problem:
            draws = f" {space} draws from mean - 4 sd to mean + 4 sd; tune.loguniform and lognormal are of numbers > 0" if isinstance(space, Normal) else ""
            problems.add(InvalidSpace(f"search space of {problem}{draws}"))
            if draws:
                break  # the other end would only repeat this
    if isinstance(space, (Float, Normal)) and any(isinstance(value, int) for value in checked):
        problems.add(InvalidSpace(f"search space of {key}: it takes whole numbers, and this is a range of fractions; use tune.randint, qrandint, lograndint"))
    problems.raise_any()
    return replace(space, options=tuple(checked)) if isinstance(space, Choice) else space


def _check_may_vary(key: str) -> None:
    field = FIELDS.get(key)  # None: a group whose value is not a dict, which is refused elsewhere
    if field is not None and field.fixed:
        raise InvalidSpace(f"{key} cannot vary between the trials of one search: {field.fixed}")


def check_computed(space: SearchSpace, fixed: Mapping[str, Any], check: Callable[[str, Any], Any]) -> None:
    """Tries the functions of computed values on some random draws of ``draw_space``.

    Raises:
        InvalidSpace, InvalidInput: a function raised, or returned a value that its key does not allow.
    """
    computed = computed_keys(space)
    if not computed:
        return
    problems: dict[str, InvalidSpace] = {}
    for values in _tried(space, fixed):
        for key in computed & values.keys():
            try:
                check(key, values[key])
            except InvalidHyperparameter as problem:
                others = ", ".join(f"{name}={value!r}" for name, value in values.items() if name not in computed)
                problems.setdefault(key, InvalidSpace(f"search space of {problem} sample_from gave it for {others or 'no other values'}"))
    found = Problems()
    for one in problems.values():
        found.add(one)
    found.raise_any()


def _tried(space: SearchSpace, fixed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The values that some trials of a random search would have."""
    return (finish_proposal(space, draw_space(space, 0, trial), fixed, draw=(0, trial)) for trial in range(NUM_TRIED))


def point_to_raw(space: SearchSpace, point: Mapping[str, Any]) -> RawProposal:
    """Converts a configuration that the user wants tried to a raw proposal.

    Args:
        point: a value for each hyperparameter that has a space, under any of its names, nested or dotted.

    Raises:
        AutoMMHPOError: all problems together.
    """
    problems = Problems()
    values = resolve_keys(point, problems)
    problems.raise_any()
    return to_raw(space, check_values(values))


# ------------------------------------------------------------------------------------------------------- what a space allows


def values_of(key: str, config: Config, space: SearchSpace) -> list[Any]:
    """The values a hyperparameter can take in this search: only the ends of a range, and a sample of computed values."""
    if key in computed_keys(space):
        return [config.flat()[key], *(check_value(key, values[key]) for values in _tried(space, config.flat()) if key in values)]
    return [one.flat()[key] for one in candidate_configs(config, space, (key,))]


def candidate_configs(config: Config, space: SearchSpace, keys: tuple[str, ...]) -> list[Config]:
    """The configs of a search that differ in ``keys``: every option of a choice, both ends of a range. Other hyperparameters keep their fixed values."""
    return [config.with_overrides(values) for values in _candidates(space, keys)]


def _candidates(space: SearchSpace, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The combinations of values that ``keys`` can take, including values that a branch fixes."""
    found: list[dict[str, Any]] = [{}]
    for key, domain in space.items():
        if isinstance(domain, Branches):
            choices = [_fixed_among(branch, keys) | values for branch in domain.options for values in _candidates(branch.space, keys)]
        elif key not in keys:
            continue
        elif isinstance(domain, Computed):
            raise NotSupported(f"{key}: sample_from cannot compute it, since all its values must be known before the search; use a choice, or one of dicts")
        else:
            choices = [{key: value} for value in domain.corners()]
        distinct = [values for index, values in enumerate(choices) if values not in choices[:index]]
        found = [one | other for one in found for other in distinct]
    return found


def _fixed_among(branch: Branch, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in branch.fixed.items() if key in keys}
