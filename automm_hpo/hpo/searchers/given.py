"""Searchers that the user gave as objects."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ray.tune.search import Searcher

from ...errors import InvalidSpace, InvalidTuneSettings, NotSupported
from ...sections import unwrapped
from ...space import Choice, Float, Int, Normal, RawProposal, SearchSpace, Space
from ..result_keys import METRIC
from ..searcher_args import is_sampler, plain_spaces
from .own import Args, OwnSearcher, Points, score_of


class RaySearcher(OwnSearcher):
    """Wraps a Ray Searcher of the user. It receives scores under the name of its own metric, negated if its mode is "min".

    It gets Ray domains of the raw values (for a choice, of the index). A searcher that accepts no domains proposes final values.

    Args:
        searcher: a copy of it searches, so it is not changed; if it cannot be copied, it searches itself.

    Raises:
        InvalidTuneSettings: it brings a space of its own, or refuses ours.
        NotSupported: there are first points, but it cannot learn from configurations that it did not propose.
    """

    def __init__(self, space: SearchSpace, args: Args, seed: int, first_points: Points, searcher: Searcher) -> None:
        super().__init__(space, args, seed, first_points)
        self.name = type(_core(searcher)).__name__
        if first_points and not can_be_told(searcher):
            raise NotSupported(f"searcher: {self.name} has no add_evaluated_point, and cannot learn from configurations that it did not propose")
        self.plain = plain_spaces(space, self.name)
        self.inner = own_copy(searcher)
        core = _core(self.inner)
        self.told_as, self.sign = core.metric or METRIC, -1 if core.mode == "min" else 1
        self.takes_domains = type(core).set_search_properties is not Searcher.set_search_properties
        if self.takes_domains:
            self._translate_points(core)
            try:
                accepted = self.inner.set_search_properties(self.told_as, core.mode or "max", {key: ray_domain(one) for key, one in self.plain.items()})
            except Exception as error:
                raise InvalidTuneSettings(f"searcher: {self.name} does not take this search space: {error}") from error
            if not accepted:
                raise InvalidTuneSettings(f"searcher: {self.name} has a space of its own; leave it out, the space is that of the hyperparameters")
        self.proposed: dict[str, dict[str, Any]] = {}
        self.given: dict[str, RawProposal] = {}
        self.earlier = list(first_points)
        self.names: dict[str, str] = {}  # trial -> the name under which the inner searcher knows it

    def _translate_points(self, core: Any) -> None:
        """Gives the searcher the points that it was made with as it will know them: the option of a choice by its index."""
        if getattr(core, "_evaluated_rewards", None) and core.mode is None:
            raise InvalidTuneSettings(f"searcher: {self.name} has evaluated_rewards; give it metric and mode too, which say whether more is better")
        if points := getattr(core, "_points_to_evaluate", None):
            core._points_to_evaluate = [{key: self._inner(key, value) for key, value in point.items()} for point in points]

    def _inner(self, key: str, value: Any) -> Any:
        if key not in self.plain:
            raise InvalidTuneSettings(f"searcher: {self.name} has points_to_evaluate with {key!r}, and the search space is of {', '.join(self.plain)}")
        try:
            return self._value(key, self.plain[key].raw_of(value))
        except (InvalidSpace, TypeError, ValueError) as problem:
            raise InvalidTuneSettings(f"searcher: {self.name} has points_to_evaluate with {key}={value!r}: {problem}") from None

    def _propose(self, trial_id: str, given: RawProposal | None) -> RawProposal | str | None:
        if given is not None:
            self.given[trial_id] = given
            return given
        name = trial_id
        while True:
            values = self.inner.suggest(name)
            if not isinstance(values, dict):
                return values
            if values.keys() != self.plain.keys():
                raise InvalidTuneSettings(f"searcher: {self.name} proposes values of {', '.join(values)}; the search space is of {', '.join(self.plain)}")
            raw = {key: self._raw(key, unwrapped(value)) for key, value in values.items()}
            if raw not in self.earlier:
                self.proposed[trial_id], self.names[trial_id] = values, name
                return raw
            self.earlier.remove(raw)  # a seeded searcher repeats its proposals of the earlier session
            self.inner.on_trial_complete(name, None, error=True)
            name += "'"

    def _raw(self, key: str, value: Any) -> Any:
        space = self.plain[key]
        try:
            if self.takes_domains:
                space.finish(value)
                return value
            return space.raw_of(value)
        except (InvalidSpace, TypeError, ValueError, IndexError) as problem:
            raise InvalidTuneSettings(f"searcher: {self.name} proposes {value!r} for {key}: {problem}") from None

    def _value(self, key: str, raw: Any) -> Any:
        """The inverse of ``_raw``."""
        space = self.plain[key]
        if self.takes_domains and isinstance(space, (Choice, Normal)):
            return raw
        return space.finish(raw)

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        score = score_of(result)
        if trial_id in self.proposed and score is not None:
            self.inner.on_trial_result(self.names[trial_id], self._result(trial_id, score, result))

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        score = None if error else score_of(result)
        if trial_id in self.given:
            raw = self.given.pop(trial_id)
            told: Any = None if score is None else self.sign * score
            self.inner.add_evaluated_point({key: self._value(key, raw[key]) for key in self.plain}, told, error=score is None)
        elif score is None:
            self.inner.on_trial_complete(self.names[trial_id], None, error=True)
        else:
            self.inner.on_trial_complete(self.names[trial_id], self._result(trial_id, score, result or {}))

    def _result(self, trial_id: str, score: float, result: Mapping[str, Any]) -> dict[str, Any]:
        """A result in Ray's format, which includes the configuration."""
        values = self.proposed[trial_id]
        return {**result, "config": values, **{f"config/{key}": value for key, value in values.items()}, self.told_as: self.sign * score}


def ray_domain(space: Space) -> Any:
    """The Ray domain of the raw values of a space."""
    from ray import tune

    match space:
        case Float():
            return (tune.loguniform if space.log else tune.uniform)(space.lower, space.upper)
        case Int():
            # half a step wider at both ends, so that after rounding the outermost multiples are as likely as the others
            lower, upper = space.corners()
            half = (space.step - 1) // 2
            return tune.lograndint(max(1, lower - half), upper + half + 1) if space.log else tune.randint(lower - half, upper + half + 1)
        case Normal():
            return tune.randn(space.mean, space.sd)
        case Choice():
            return tune.choice(list(range(len(space.options))))


def own_copy(given: Any) -> Any:
    """A copy to search with, so that the user's object is not changed; the object itself if it cannot be copied, e.g. because it holds a connection."""
    try:
        return copy.deepcopy(given)
    except Exception:
        return given


def can_be_told(searcher: Any) -> bool:
    """Whether a sampler or searcher can learn from configurations that it did not propose: recorded ones, the defaults, points_to_evaluate."""
    return is_sampler(searcher) or type(_core(searcher)).add_evaluated_point is not Searcher.add_evaluated_point


def _core(searcher: Searcher) -> Searcher:
    """The searcher itself, inside any ConcurrencyLimiter."""
    inner = getattr(searcher, "searcher", None)
    return _core(inner) if isinstance(inner, Searcher) else searcher
