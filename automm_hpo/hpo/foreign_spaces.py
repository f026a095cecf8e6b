"""Converts search spaces of Ray, AutoGluon and Optuna to our own, without importing any of the three."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import InvalidSpace, NotSupported
from ..sections import unwrapped
from ..space import Choice, Computed, Float, Int, Normal, Space
from ..space.kinds import grid_of, int_below

MAX_VALUES = 1_000  # of a stepped range that has to be converted to a choice among its values


def is_space(value: Any) -> bool:
    if isinstance(value, (Float, Int, Normal, Choice, Computed)) or _autogluon_kind(value):
        return True
    if isinstance(value, Mapping) and set(value) == {"grid_search"}:
        return True
    # objects of Ray or Optuna exist only if the library is already loaded, so it need not be imported here
    sample, distributions = sys.modules.get("ray.tune.search.sample"), sys.modules.get("optuna.distributions")
    return (sample is not None and isinstance(value, sample.Domain)) or (distributions is not None and isinstance(value, distributions.BaseDistribution))


def to_space(key: str, value: Any) -> Space | Computed:
    """Converts a space of Ray, AutoGluon or Optuna to ours; one of ours is returned as it is. The options of a choice are not converted.

    Raises:
        InvalidSpace: the range is invalid.
        NotSupported: the space has no counterpart here.
    """
    try:
        return _to_space(value)
    except (InvalidSpace, NotSupported) as problem:
        raise type(problem)(f"{key}: {problem}") from None


def _to_space(value: Any) -> Space | Computed:
    if isinstance(value, (Float, Int, Normal, Choice, Computed)):
        return value
    if isinstance(value, Mapping):
        return grid_of(value["grid_search"])
    if kind := _autogluon_kind(value):
        return _from_autogluon(kind, value)
    distributions = sys.modules.get("optuna.distributions")
    if distributions is not None and isinstance(value, distributions.BaseDistribution):
        return _from_optuna(value)
    return _from_ray(value)


def _from_ray(value: Any) -> Space | Computed:
    from ray.tune.search import sample

    if isinstance(value, sample.Function):
        return Computed(value.func)
    sampler: Any = value.get_sampler()
    step = None
    if isinstance(sampler, sample.Quantized):
        sampler, step = sampler.sampler, unwrapped(sampler.q)
    log = isinstance(sampler, sample.LogUniform)
    if isinstance(value, sample.Categorical):
        return Choice(tuple(value.categories), exhaustive=value.is_grid())
    if isinstance(sampler, sample.Normal):
        return Normal(unwrapped(sampler.mean), unwrapped(sampler.sd), step)
    lower, upper = unwrapped(value.lower), unwrapped(value.upper)
    if isinstance(value, sample.Integer):
        return int_below(lower, upper, log=log, step=1 if step is None else step)
    return Float(lower, upper, log=log, step=step)


def _autogluon_kind(value: Any) -> str | None:
    """The name of AutoGluon's space class, None for other values. Goes by class names, so that AutoGluon need not be installed."""
    classes = [base.__name__ for base in type(value).__mro__ if base.__module__.startswith("autogluon.")]
    return next((name for name in classes if name in ("Real", "Bool", "Int", "Categorical")), None)


def _from_autogluon(kind: str, value: Any) -> Space:
    if kind == "Bool":
        return Choice((True, False))
    if kind == "Categorical":
        options = Choice(tuple(value.data))
        return options if is_space(value.default) else replace(options, default=options.raw_of(value.default))
    lower, upper = unwrapped(value.lower), unwrapped(value.upper)
    # AutoGluon stores the lower end if no default was given; the hyperparameter's own default is the better choice then
    default = None if value.default == lower else unwrapped(value.default)
    return Int(lower, upper, default) if kind == "Int" else Float(lower, upper, default, log=bool(value.log))


def _from_optuna(value: Any) -> Space:
    if hasattr(value, "choices"):
        return Choice(tuple(value.choices))
    if value.low == value.high:
        return Choice((value.low,))
    whole = isinstance(value.low, int)
    ours: Float | Int = (Int if whole else Float)(value.low, value.high, log=value.log, step=value.step)
    if not value.step or value.log or ours.corners()[0] == value.low:
        return ours
    # Optuna counts steps from the lower end, we from 0
    count = int((value.high - value.low) / value.step + 1e-9) + 1
    if count > MAX_VALUES:
        raise NotSupported(f"{value}: the lower end must be a multiple of the step")
    values = [value.low + index * value.step for index in range(count)]
    return Choice(tuple(values if whole else (float(f"{one:.12g}") for one in values)))
