"""Ray's search-space objects -> ours, and ours -> Optuna's distributions. The user writes ``tune.*`` and never sees this."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..config import GROUPS, Config, check_value, resolve_keys, unwrapped
from ..errors import InvalidHyperparameter, InvalidSpace, NotSupported, Problems
from ..space import Branch, Branches, Choice, Computed, Float, Int, Normal, SearchSpace, Space
from ..space.kinds import int_below


def split_hyperparameters(*layers: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Space]]:
    """Takes the user's dicts apart into fixed values and search spaces, both by canonical key, both checked.

    Args:
        layers: the defaults of a predictor, the arguments of a call; where two give the same hyperparameter, the later wins.

    Raises:
        AutoMMHPOError: all problems together.
    """
    problems = Problems()
    fixed: dict[str, Any] = {}
    space: dict[str, Space] = {}
    resolved: dict[str, Any] = {}
    for layer in layers:
        resolved |= resolve_keys(layer, problems)
    for key, value in resolved.items():
        with problems.gather():
            if key in GROUPS and is_space(value):
                raise NotSupported(f"{key}: a space over a whole group (a conditional space) is not offered by this version; tune the single keys")
            if key in GROUPS:
                raise InvalidHyperparameter(f"{key}: is a group of hyperparameters; expected a dict of them, got {value!r} ({type(value).__name__})")
            if is_space(value):
                space[key] = checked_space(key, to_space(key, value))
            else:
                fixed[key] = check_value(key, value)
    problems.raise_any()
    return fixed, space


def is_space(value: Any) -> bool:
    if isinstance(value, (Float, Int, Normal, Choice)):
        return True
    if isinstance(value, Mapping) and set(value) == {"grid_search"}:
        return True
    # a Ray object exists only where Ray is loaded already: no need to load it here
    sample = sys.modules.get("ray.tune.search.sample")
    return sample is not None and isinstance(value, (sample.Domain, sample.Function))


def to_space(key: str, value: Any) -> Space:
    """A Ray domain as one of our spaces.

    Raises:
        InvalidSpace: a range that cannot be.
        NotSupported: a kind that no searcher of this version takes; named.
    """
    try:
        return _to_space(value)
    except (InvalidSpace, NotSupported) as problem:
        raise type(problem)(f"{key}: {problem}") from None


def _to_space(value: Any) -> Space:
    if isinstance(value, (Float, Int, Normal, Choice)):
        return value
    if isinstance(value, Mapping) or value.is_grid():
        raise NotSupported("grid_search is not offered by this version's searchers (random, bayes); tune.choice samples the same options")
    from ray.tune.search import sample

    if isinstance(value, sample.Function):
        raise NotSupported("sample_from runs code that no searcher can see into; give a tune.* range or choice")
    sampler: Any = value.get_sampler()
    step = None
    if isinstance(sampler, sample.Quantized):
        sampler, step = sampler.sampler, unwrapped(sampler.q)
    log = isinstance(sampler, sample.LogUniform)
    if isinstance(value, sample.Categorical):
        options = tuple(value.categories)
        if any(is_space(option) for option in options):
            raise NotSupported("a search space inside a choice (a conditional space) is not offered by this version")
        return Choice(options)
    if isinstance(sampler, sample.Normal):
        return Normal(unwrapped(sampler.mean), unwrapped(sampler.sd), step)
    lower, upper = unwrapped(value.lower), unwrapped(value.upper)
    if isinstance(value, sample.Integer):
        return int_below(lower, upper, log=log, step=1 if step is None else step)
    return Float(lower, upper, log=log, step=step)


def checked_space(key: str, space: Space) -> Space:
    """The space with its options as the field stores them ("10" becomes 10); every option, and of a range both ends, must be valid.

    Raises:
        InvalidSpace
    """
    if key in FIXED_IN_SEARCH:
        raise InvalidSpace(f"{key} cannot vary between the trials of one search: {FIXED_IN_SEARCH[key]}")
    problems = Problems()
    tried, checked = space.corners(), []
    if not isinstance(space, Choice) and (centre := space.finish(0)) not in tried:
        tried.append(centre)  # a key with a hole (-1: no limit, 0: refused) has it there
    for value in tried:
        try:
            checked.append(check_value(key, value))
        except InvalidHyperparameter as problem:
            problems.add(InvalidSpace(f"search space of {problem}"))
    if isinstance(space, (Float, Normal)) and any(isinstance(value, int) for value in checked):
        problems.add(InvalidSpace(f"search space of {key}: it takes whole numbers, and this is a range of fractions; use tune.randint, qrandint, lograndint"))
    problems.raise_any()
    return Choice(tuple(checked)) if isinstance(space, Choice) else space


FIXED_IN_SEARCH = {
    "data.image.missing_value_strategy": "the images are decoded once for all trials",
    "env.num_gpus": "it counts the GPUs of the whole search",
    "env.num_workers": "the images are decoded once for all trials",
    "env.accelerator": "all trials run on one kind of device",
}


def values_of(key: str, config: Config, space: SearchSpace) -> list[Any]:
    """The values a hyperparameter can take in this search; of a range, its ends."""
    return [one.flat()[key] for one in candidate_configs(config, space, (key,))]


def candidate_configs(config: Config, space: SearchSpace, keys: tuple[str, ...]) -> list[Config]:
    """The configs of a search as far as they differ in ``keys``: every option of a choice, both ends of a range."""
    return [config.with_overrides(values) for values in _candidates(space, keys)]


def _candidates(space: SearchSpace, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The values that ``keys`` can take together; in a branch, those it fixes besides those it tunes."""
    found: list[dict[str, Any]] = [{}]
    for key, domain in space.items():
        if isinstance(domain, Branches):
            choices = [_fixed_among(branch, keys) | values for branch in domain.options for values in _candidates(branch.space, keys)]
        elif key not in keys:
            continue
        elif isinstance(domain, Computed):
            raise NotSupported(f"{key}: cannot be computed by sample_from: what it can be must be known before the search; use a choice")
        else:
            choices = [{key: value} for value in domain.corners()]
        distinct = [values for index, values in enumerate(choices) if values not in choices[:index]]
        found = [one | other for one in found for other in distinct]
    return found


def _fixed_among(branch: Branch, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in branch.fixed.items() if key in keys}


def optuna_distribution(space: Space) -> Any:
    """Optuna's distribution of one space's raw values; steps are left to ``finish``, which quantises what comes back.

    Raises:
        NotSupported: Optuna has no such distribution.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match space:
        case Float():
            return FloatDistribution(space.lower, space.upper, log=space.log)
        case Int():
            return IntDistribution(space.lower, space.upper, log=space.log)
        case Choice():
            return CategoricalDistribution(tuple(range(len(space.options))))
    raise NotSupported("Optuna's searchers cannot take a normal distribution; use searcher='random', or a uniform range")


def to_optuna(space: SearchSpace) -> dict[str, Any]:
    """Optuna's distributions by key.

    Raises:
        NotSupported, InvalidInput: all that Optuna has not, by key.
    """
    problems = Problems()
    distributions: dict[str, Any] = {}
    for key, domain in space.items():
        with problems.gather():
            if isinstance(domain, (Branches, Computed)):
                raise NotSupported(f"{key}: the searcher 'bayes' cannot take a conditional or computed space; use searcher='random'")
            try:
                distributions[key] = optuna_distribution(domain)
            except NotSupported as problem:
                raise NotSupported(f"{key}: {problem}") from None
    problems.raise_any()
    return distributions
