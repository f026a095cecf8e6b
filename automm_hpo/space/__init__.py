"""Search spaces.

Give a space in place of a hyperparameter's value, and ``fit`` tries values from it::

    from automm_hpo import space

    hyperparameters = {
        "env.batch_size": 64,
        "optim.lr": space.loguniform(1e-4, 1e-1),
        "optim.optim_type": space.choice(["adamw", "sgd"]),
    }

Names and bounds are Ray Tune's. Objects of ``ray.tune``, ``autogluon.common.space`` and ``optuna.distributions`` are accepted too,
and all may be mixed in one dict.

=============================================  ===============================================================================
``uniform(lower, upper)``                      a float, uniform
``loguniform(lower, upper)``                   a float, log-uniform
``randn(mean, sd)``                            a float, normal, clipped at four standard deviations
``lognormal(mean, sd)``                        exp of such a float
``randint(lower, upper)``                      an integer, uniform; ``upper`` is excluded
``lograndint(lower, upper)``                   an integer, log-uniform; ``upper`` is excluded
``quniform``, ``qloguniform``, ``qrandn``,     the same, rounded to a multiple of the last argument ``q``; ``upper`` is included
``qlognormal``, ``qrandint``, ``qlograndint``  (as in Ray, not for integers with ``q=1``)
``choice([...])``                              one of the options; also ``choice(16, 32)`` and ``choice(range(1, 5))``
``grid_search([...])``                         every option, crossed with the options of all other ``grid_search`` spaces
``sample_from(function)``                      computed from the trial's other values: ``lambda config: config["env.batch_size"] / 1e5``
``Real``, ``Int``, ``Categorical``, ``Bool``   AutoGluon's; ``upper`` is included, and the default is tried first
``space.hyperdrive``                           a module of HyperDrive's words with HyperDrive's own meaning (its ``loguniform`` takes exponents)
=============================================  ===============================================================================

**Conditional spaces.** The value of a group may be a choice (or ``grid_search``) among dicts, each with its own values and spaces::

    "optim": space.choice([
        {"optim_type": "sgd", "lr": space.loguniform(1e-3, 1e-1), "momentum": space.uniform(0.8, 0.99)},
        {"optim_type": "adamw", "lr": space.loguniform(1e-5, 1e-3)},
    ])

Trials of the second branch do not tune momentum: it keeps the value it would have without a search. The options of a single
hyperparameter may be spaces too: ``"optim.momentum": space.choice([0, space.uniform(0.8, 0.99)])``.

A malformed space, such as an empty range or choice, raises ``InvalidSpace`` when it is constructed. ``fit`` refuses, before anything
starts, values that a hyperparameter forbids and spaces that the searcher cannot handle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from . import hyperdrive
from .kinds import Branch, Branches, Choice, Computed, Float, Int, Normal, SearchSpace, Space, choice_of, grid_of, int_below
from .text import describe_space, space_from_json, space_to_json
from .walk import (
    Point,
    RawProposal,
    computed_keys,
    default_point,
    draw_space,
    exhaustive_keys,
    exhaustive_point,
    exhaustive_size,
    finish_proposal,
    grid_point,
    grid_size,
    point_of,
    propose,
    range_scales,
    raw_at,
    spaces_within,
    to_raw,
    tuned_keys,
)

# fmt: off
__all__ = [
    "uniform", "quniform", "loguniform", "qloguniform", "randn", "qrandn", "lognormal", "qlognormal", "randint", "qrandint", "lograndint", "qlograndint",
    "choice", "grid_search", "sample_from",
    "Real", "Int", "Categorical", "Bool",
    "hyperdrive",
    # the classes behind these words, and what searchers do with them
    "Float", "Normal", "Choice", "Computed", "Branch", "Branches", "Space", "SearchSpace",
    "RawProposal", "propose", "finish_proposal", "draw_space", "to_raw", "raw_at", "default_point",
    "Point", "point_of", "spaces_within", "computed_keys",
    "grid_size", "grid_point", "exhaustive_size", "exhaustive_point", "exhaustive_keys", "tuned_keys", "range_scales",
    "describe_space", "space_to_json", "space_from_json",
]
# fmt: on


def uniform(lower: float, upper: float) -> Float:
    """A uniformly distributed float between ``lower`` and ``upper``."""
    return Float(lower, upper)


def quniform(lower: float, upper: float, q: float) -> Float:
    """A uniformly distributed float between ``lower`` and ``upper``, both included, rounded to a multiple of ``q``."""
    return Float(lower, upper, step=q)


def loguniform(lower: float, upper: float) -> Float:
    """A log-uniformly distributed float between ``lower`` > 0 and ``upper``."""
    return Float(lower, upper, log=True)


def qloguniform(lower: float, upper: float, q: float) -> Float:
    """A log-uniformly distributed float between ``lower`` > 0 and ``upper``, both included, rounded to a multiple of ``q``."""
    return Float(lower, upper, log=True, step=q)


def randn(mean: float = 0.0, sd: float = 1.0) -> Normal:
    """A normally distributed float, clipped at four standard deviations from the mean."""
    return Normal(mean, sd)


def qrandn(mean: float, sd: float, q: float) -> Normal:
    """A normally distributed float, clipped as in ``randn`` and then rounded to a multiple of ``q``."""
    return Normal(mean, sd, step=q)


def lognormal(mean: float = 0.0, sd: float = 1.0) -> Normal:
    """exp of a normally distributed float, which is clipped as in ``randn``.

    Args:
        mean, sd: mean and standard deviation of the value's natural logarithm.
    """
    return Normal(mean, sd, log=True)


def qlognormal(mean: float, sd: float, q: float) -> Normal:
    """``lognormal``, rounded to a multiple of ``q``.

    Args:
        mean, sd: mean and standard deviation of the value's natural logarithm.
    """
    return Normal(mean, sd, log=True, step=q)


def randint(lower: int, upper: int) -> Int:
    """An integer from ``lower`` to ``upper - 1``, each equally likely; ``upper`` itself is excluded."""
    return int_below(lower, upper)


def qrandint(lower: int, upper: int, q: int = 1) -> Int:
    """A multiple of ``q`` between ``lower`` and ``upper``, both included, each equally likely. With ``q=1``, as in Ray, ``upper`` is excluded."""
    return int_below(lower, upper, step=q)


def lograndint(lower: int, upper: int) -> Int:
    """A log-uniformly distributed integer from ``lower`` >= 1 to ``upper - 1``; ``upper`` itself is excluded."""
    return int_below(lower, upper, log=True)


def qlograndint(lower: int, upper: int, q: int) -> Int:
    """A log-uniformly distributed multiple of ``q`` between ``lower`` >= 1 and ``upper``, both included. With ``q=1``, as in Ray, ``upper`` is excluded."""
    return int_below(lower, upper, log=True, step=q)


def choice(*options: Any) -> Choice:
    """One of several options, each equally likely, given as one list (or range, or array) or as separate arguments.

    An option may itself be a space. For a group of hyperparameters, each option is a dict of values and spaces.
    """
    return choice_of(*options)


def grid_search(values: Iterable[Any]) -> Choice:
    """Every value, crossed with the values of all other ``grid_search`` spaces; for the searchers "grid" and "random" only."""
    return grid_of(values)


def sample_from(function: Callable[..., Any]) -> Computed:
    """A value computed from the trial's other values by ``function(config)``; see ``Computed``."""
    return Computed(function)


Real = Float
"""AutoGluon's ``Real(lower, upper, default=None, log=False)``."""


def Categorical(*data: Any) -> Choice:
    """AutoGluon's choice: each option is an argument, and the first option is tried first."""
    return Choice(data, default=0)


def Bool() -> Choice:
    """AutoGluon's choice of True and False."""
    return Choice((True, False))
