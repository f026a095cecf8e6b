"""Ray's search-space objects -> ours, and ours -> Optuna's distributions. The user writes ``tune.*`` and never sees this."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..config import GROUPS, Config, check_value, resolve_keys, unwrapped
from ..errors import InvalidHyperparameter, InvalidSpace, NotSupported, Problems
from ..space import Choice, Float, Int, Normal, SearchSpace, Space


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
        step = 1 if step is None else step
        # as Ray documents it: the upper bound is outside the range, except where a step larger than 1 is given
        included = upper - 1 if step == 1 and isinstance(upper, int) else upper
        return Int(lower, included, log, step)
    return Float(lower, upper, log, step)


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
    "optim.top_k_average_method": "it is applied once, after the last trial",
    "env.num_gpus": "it counts the GPUs of the whole search",
    "env.num_workers": "the images are decoded once for all trials",
    "env.accelerator": "all trials run on one kind of device",
}


def values_of(key: str, config: Config, space: SearchSpace) -> list[Any]:
    """The values a hyperparameter can take in this search; of a range, its ends."""
    return space[key].corners() if key in space else [config.flat()[key]]


def candidate_configs(config: Config, space: SearchSpace, keys: tuple[str, ...]) -> list[Config]:
    """The configs of a search as far as they differ in ``keys``: every option of a choice, both ends of a range."""
    configs = [config]
    for key in keys:
        if key in space:
            configs = [one.with_overrides({key: value}) for one in configs for value in space[key].corners()]
    return configs


def to_optuna(space: Mapping[str, Space]) -> dict[str, Any]:
    """Optuna's distributions; steps are left to ``Space.finish``, which quantises what comes back.

    Raises:
        NotSupported: Optuna has no such distribution.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    problems = Problems()
    distributions: dict[str, Any] = {}
    for key, domain in space.items():
        match domain:
            case Float():
                distributions[key] = FloatDistribution(domain.low, domain.high, log=domain.log)
            case Int():
                distributions[key] = IntDistribution(domain.low, domain.high, log=domain.log)
            case Choice():
                distributions[key] = CategoricalDistribution(tuple(range(len(domain.options))))
            case Normal():
                problems.add(NotSupported(f"{key}: the searcher 'bayes' cannot take a normal distribution; use searcher='random', or a uniform range"))
    problems.raise_any()
    return distributions
