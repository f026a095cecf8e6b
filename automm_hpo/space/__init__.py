"""Search spaces, all of them.

A hyperparameter's value is replaced by a space, and ``fit`` tries values of it::

    from automm_hpo import space

    hyperparameters = {
        "env.batch_size": 64,
        "optim.lr": space.loguniform(1e-4, 1e-1),
        "optim.optim_type": space.choice(["adamw", "sgd"]),
    }

The words are Ray Tune's, and so are their bounds; objects of ``ray.tune``, of ``autogluon.common.space`` and of
``optuna.distributions`` mean the same where they stand in such a dict, and all may be mixed.

=============================================  ===============================================================================
``uniform(lower, upper)``                      a float, evenly
``loguniform(lower, upper)``                   a float, its logarithm evenly
``randn(mean, sd)``                            a float, normally distributed, within four standard deviations
``lognormal(mean, sd)``                        exp of such a float
``randint(lower, upper)``                      an integer below ``upper``, evenly
``lograndint(lower, upper)``                   an integer below ``upper``, its logarithm evenly
``quniform``, ``qloguniform``, ``qrandn``,     the same in multiples of a last argument ``q``, within the bounds; here ``upper``
``qlognormal``, ``qrandint``, ``qlograndint``  belongs to the range (with Ray's exception: not where an integer ``q`` is 1)
``choice([...])``                              one of some options; also ``choice(16, 32)`` and ``choice(range(1, 5))``
``grid_search([...])``                         every option, with every option of every other ``grid_search``
``sample_from(function)``                      computed from the trial's other values: ``lambda config: config["env.batch_size"] / 1e5``
``Real``, ``Int``, ``Categorical``, ``Bool``   AutoGluon's; ``upper`` belongs to the range, and the default is tried first
``space.hyperdrive``                           a module of HyperDrive's words with HyperDrive's own meaning (its ``loguniform`` takes exponents)
=============================================  ===============================================================================

**Conditional spaces.** A group of hyperparameters may hold a choice (or a grid) of dicts, each with values and spaces of its own::

    "optim": space.choice([
        {"optim_type": "sgd", "lr": space.loguniform(1e-3, 1e-1), "momentum": space.uniform(0.8, 0.99)},
        {"optim_type": "adamw", "lr": space.loguniform(1e-5, 1e-3)},
    ])

Trials of the second branch have no tuned momentum: it is what it would be without a search. A choice of a single hyperparameter
may hold spaces too: ``"optim.momentum": space.choice([0, space.uniform(0.8, 0.99)])``.

A range that ends before it begins, an empty choice and the like are refused where they are written; what a hyperparameter or a
searcher does not allow is refused by ``fit``, before anything starts.
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
    # what they become, and what searchers do with it
    "Float", "Normal", "Choice", "Computed", "Branch", "Branches", "Space", "SearchSpace",
    "RawProposal", "propose", "finish_proposal", "draw_space", "to_raw", "raw_at", "default_point",
    "Point", "point_of", "spaces_within", "computed_keys",
    "grid_size", "grid_point", "exhaustive_size", "exhaustive_point", "exhaustive_keys", "tuned_keys", "range_scales",
    "describe_space", "space_to_json", "space_from_json",
]
# fmt: on


def uniform(lower: float, upper: float) -> Float:
    return Float(lower, upper)


def quniform(lower: float, upper: float, q: float) -> Float:
    return Float(lower, upper, step=q)


def loguniform(lower: float, upper: float) -> Float:
    return Float(lower, upper, log=True)


def qloguniform(lower: float, upper: float, q: float) -> Float:
    return Float(lower, upper, log=True, step=q)


def randn(mean: float = 0.0, sd: float = 1.0) -> Normal:
    return Normal(mean, sd)


def qrandn(mean: float, sd: float, q: float) -> Normal:
    return Normal(mean, sd, step=q)


def lognormal(mean: float = 0.0, sd: float = 1.0) -> Normal:
    """exp of a normally distributed float.

    Args:
        mean, sd: of the value's natural logarithm.
    """
    return Normal(mean, sd, log=True)


def qlognormal(mean: float, sd: float, q: float) -> Normal:
    """The same in multiples of ``q``.

    Args:
        mean, sd: of the value's natural logarithm.
    """
    return Normal(mean, sd, log=True, step=q)


def randint(lower: int, upper: int) -> Int:
    return int_below(lower, upper)


def qrandint(lower: int, upper: int, q: int = 1) -> Int:
    return int_below(lower, upper, step=q)


def lograndint(lower: int, upper: int) -> Int:
    return int_below(lower, upper, log=True)


def qlograndint(lower: int, upper: int, q: int) -> Int:
    return int_below(lower, upper, log=True, step=q)


def choice(*options: Any) -> Choice:
    """One of some options: a list (or range, or array) of them, or each as an argument.

    An option may be a space, and where the choice stands for a group of hyperparameters it is a dict of values and spaces.
    """
    return choice_of(*options)


def grid_search(values: Iterable[Any]) -> Choice:
    """Every value, with every one of every other ``grid_search``; for the searchers "grid" and "random"."""
    return grid_of(values)


def sample_from(function: Callable[..., Any]) -> Computed:
    """A value computed from the trial's other values; see ``Computed``."""
    return Computed(function)


Real = Float
"""AutoGluon's ``Real(lower, upper, default=None, log=False)``."""


def Categorical(*data: Any) -> Choice:
    """AutoGluon's choice: each option is an argument, and the first is tried first."""
    return Choice(data, default=0)


def Bool() -> Choice:
    """AutoGluon's choice of True and False."""
    return Choice((True, False))
