"""Maps spaces to edges of the unit cube: uniform positions give the distribution of the space. For searchers without log scales, steps or normals."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

from ...space import Choice, Float, Int, Normal, Space


def from_cube(space: Space, position: float) -> Any:
    """Position in [0, 1] -> raw value, by the quantiles of what ``space.draw`` draws."""
    match space:
        case Choice():
            return min(int(position * len(space.options)), len(space.options) - 1)
        case Normal():
            # the space ends at four standard deviations; 0.006 % lies beyond
            return NormalDist(space.mean, space.sd).inv_cdf(min(max(position, 3.2e-5), 1 - 3.2e-5))
        case Float() | Int():
            lower, upper = _ends(space)
            inner = lower + position * (upper - lower)
            return math.exp(inner) if space.log else inner


def to_cube(space: Space, raw: Any) -> float:
    """Raw value -> position in [0, 1]; an option is placed in the middle of its interval."""
    match space:
        case Choice():
            return (int(raw) + 0.5) / len(space.options)
        case Normal():
            return NormalDist(space.mean, space.sd).cdf(float(raw))
        case Float() | Int():
            lower, upper = _ends(space)
            inner = math.log(raw) if space.log else float(raw)
            return min(max((inner - lower) / (upper - lower), 0.0), 1.0)


def _ends(space: Float | Int) -> tuple[float, float]:
    """The ends of the range on the scale of the cube, logarithmic for log spaces. Every integer point owns half a step on either side."""
    lower, upper = space.lower, space.upper
    if isinstance(space, Int):
        lower, upper = space.point(0) - space.step / 2, space.point(space.num_points - 1) + space.step / 2
    return (math.log(lower), math.log(upper)) if space.log else (lower, upper)
