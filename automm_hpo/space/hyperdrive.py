"""HyperDrive's parameter expressions, with HyperDrive's own meaning: ``from automm_hpo.space.hyperdrive import choice, loguniform``.

They differ from Ray Tune's words of the same name: ``loguniform`` and ``qloguniform`` take exponents, ``randint`` takes only the upper bound.
Three differences from HyperDrive itself: rounded values stay within the bounds, normal values are clipped at four standard deviations, and the
integers at both ends of a range are as likely as the others.
"""

from __future__ import annotations

import math
from typing import Any

from ..errors import InvalidSpace
from .kinds import Choice, Float, Int, Normal, choice_of, int_below


def choice(*options: Any) -> Choice:
    """One of the options, each equally likely: ``choice(1, 2)``, ``choice([1, 2])``, ``choice(range(1, 5))``."""
    return choice_of(*options)


def randint(upper: int) -> Int:
    """An integer in [0, upper)."""
    return int_below(0, upper)


def uniform(min_value: float, max_value: float) -> Float:
    """A uniformly distributed float between ``min_value`` and ``max_value``."""
    return Float(min_value, max_value)


def quniform(min_value: float, max_value: float, q: float) -> Float | Int:
    """round(uniform(min_value, max_value) / q) * q; an integer if all three arguments are integers."""
    if all(isinstance(number, int) for number in (min_value, max_value, q)):
        return Int(int(min_value), int(max_value), step=int(q))
    return Float(min_value, max_value, step=q)


def loguniform(min_value: float, max_value: float) -> Float:
    """exp(uniform(min_value, max_value)): from exp(min_value) to exp(max_value)."""
    return Float(_exp(min_value), _exp(max_value), log=True)


def qloguniform(min_value: float, max_value: float, q: float) -> Float:
    """round(exp(uniform(min_value, max_value)) / q) * q."""
    return Float(_exp(min_value), _exp(max_value), log=True, step=q)


def _exp(exponent: float) -> float:
    if not isinstance(exponent, (int, float)) or not -700 < exponent < 700:
        raise InvalidSpace(f"expected exponents between -700 and 700, got {exponent!r}; -6 stands for exp(-6), {math.exp(-6):.2g}")
    return math.exp(exponent)


def normal(mu: float, sigma: float) -> Normal:
    """A normally distributed float with mean ``mu`` and standard deviation ``sigma``, clipped at four standard deviations."""
    return Normal(mu, sigma)


def qnormal(mu: float, sigma: float, q: float) -> Normal:
    """round(normal(mu, sigma) / q) * q."""
    return Normal(mu, sigma, step=q)


def lognormal(mu: float, sigma: float) -> Normal:
    """exp(normal(mu, sigma))."""
    return Normal(mu, sigma, log=True)


def qlognormal(mu: float, sigma: float, q: float) -> Normal:
    """round(exp(normal(mu, sigma)) / q) * q."""
    return Normal(mu, sigma, log=True, step=q)
