"""Optimizers of other packages, and BOHB's model, behind one small interface. They see only the unit cube, never a search space.

To add one: a class here, its arguments in ``hpo/searcher_args.py``, its line in ``LIBRARIES``, its extra in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

Dimensions = Mapping[str, int | None]
"""Key -> number of options of a choice; None: a number in [0, 1]."""
Point = dict[str, Any]
"""Key -> option index of a choice, or a number in [0, 1]."""


class Library(Protocol):
    """An optimizer with an ask-and-tell interface. Scores: higher is better.

    Built as ``(dimensions, args, seed, first_points)``. The searcher adopts all of ``first_points`` before it first calls ``ask``.
    """

    def ask(self) -> tuple[Point, Any] | None:
        """A point and the token for telling its score; None: it needs more scores first."""

    def adopt(self, point: Point) -> Any:
        """The token of a point that did not come from ``ask``."""

    def tell(self, token: Any, score: float) -> None: ...


class Hyperopt:
    def __init__(self, dimensions: Dimensions, args: Mapping[str, Any], seed: int, first_points: list[Point]) -> None:
        from hyperopt import Domain, Trials, hp

        edges = {key: hp.uniform(key, 0, 1) if options is None else hp.choice(key, list(range(options))) for key, options in dimensions.items()}
        names = {"n_initial_points": "n_startup_jobs", "n_ei_candidates": "n_EI_candidates"}
        self.args = {names.get(name, name): value for name, value in args.items()}
        self.domain, self.trials, self.rng = Domain(lambda point: 0.0, edges), Trials(), np.random.default_rng(seed)

    def ask(self) -> tuple[Point, Any]:
        from hyperopt import tpe

        [trial] = tpe.suggest(self.trials.new_trial_ids(1), self.domain, self.trials, int(self.rng.integers(2**31 - 1)), **self.args)
        return {key: values[0] for key, values in trial["misc"]["vals"].items()}, self._insert(trial)

    def adopt(self, point: Point) -> Any:
        from hyperopt.fmin import generate_trial

        return self._insert(generate_trial(self.trials.new_trial_ids(1)[0], point))

    def _insert(self, trial: dict) -> dict:
        self.trials.insert_trial_doc(trial)
        self.trials.refresh()
        return self.trials.trials[-1]  # hyperopt keeps a copy of the document; ``tell`` must change that copy

    def tell(self, token: Any, score: float) -> None:
        from hyperopt import JOB_STATE_DONE, STATUS_OK

        token["state"], token["result"] = JOB_STATE_DONE, {"status": STATUS_OK, "loss": -score}
        self.trials.refresh()


class Nevergrad:
    def __init__(self, dimensions: Dimensions, args: Mapping[str, Any], seed: int, first_points: list[Point]) -> None:
        import nevergrad

        edges = {key: nevergrad.p.Scalar(lower=0, upper=1) if options is None else nevergrad.p.Choice(range(options)) for key, options in dimensions.items()}
        parametrization = nevergrad.p.Dict(**edges)
        parametrization.random_state = np.random.RandomState(seed % 2**32)
        # NGOpt, which Nevergrad recommends, was no better than random search in 40 trials on a quadratic; OnePlusOne needs no generations
        self.optimizer = nevergrad.optimizers.registry[args.get("optimizer", "OnePlusOne")](parametrization, budget=args.get("budget", 100))

    def ask(self) -> tuple[Point, Any]:
        candidate = self.optimizer.ask()
        return dict(candidate.value), candidate

    def adopt(self, point: Point) -> Any:
        self.optimizer.suggest(point)
        return self.optimizer.ask()  # returns the point just suggested: not every optimizer can be told a point that it was not asked for

    def tell(self, token: Any, score: float) -> None:
        self.optimizer.tell(token, -score)


class Bayesopt:
    """A choice is encoded as one number per option; the option with the largest number is chosen."""

    def __init__(self, dimensions: Dimensions, args: Mapping[str, Any], seed: int, first_points: list[Point]) -> None:
        from bayes_opt import UtilityFunction

        self.dimensions = dimensions
        self.num_random = args.get("random_search_steps", 10)
        self.utility = UtilityFunction(**{"kind": "ucb", "kappa": 2.576, "xi": 0.0} | {name: args[name] for name in ("kind", "kappa", "xi") if name in args})
        self.slots = [(key, option) for key, options in dimensions.items() for option in (range(options) if options else [None])]
        self.rng = np.random.RandomState(seed % 2**32)
        self.scores: dict[tuple[float, ...], float | None] = {}  # None: still running

    def ask(self) -> tuple[Point, Any]:
        from bayes_opt import BayesianOptimization

        if len(self.scores) < self.num_random:
            position = self.rng.uniform(size=len(self.slots))
        else:
            # zero-padded names, because BayesianOptimization sorts them
            model = BayesianOptimization(None, {f"{number:06d}": (0, 1) for number in range(len(self.slots))}, random_state=self.rng, verbose=0)
            told = [score for score in self.scores.values() if score is not None]
            for place, score in self.scores.items():
                # a running trial counts as the worst so far, which keeps the next proposal away from it
                model.register(np.array(place), min(told, default=0.0) if score is None else score)
            position = np.array(list(model.suggest(self.utility).values()))
        numbers: dict[str, list[float]] = {}
        for (key, _), number in zip(self.slots, position.tolist(), strict=True):
            numbers.setdefault(key, []).append(number)
        point = {key: found[0] if self.dimensions[key] is None else found.index(max(found)) for key, found in numbers.items()}
        return point, self._running(tuple(position.tolist()))

    def adopt(self, point: Point) -> Any:
        return self._running(tuple(point[key] if option is None else float(point[key] == option) for key, option in self.slots))

    def _running(self, place: tuple[float, ...]) -> tuple[float, ...]:
        self.scores.setdefault(place, None)
        return place

    def tell(self, token: Any, score: float) -> None:
        self.scores[token] = score


class Zoopt:
    """SRacos: learns to tell good regions from bad ones, starting from a few random trials."""

    def __init__(self, dimensions: Dimensions, args: Mapping[str, Any], seed: int, first_points: list[Point]) -> None:
        from zoopt import Dimension2, Parameter, ValueType
        from zoopt.algos.opt_algorithms.racos.sracos import SRacosTune

        self.keys = list(dimensions)
        edges = [(ValueType.CONTINUOUS, [0, 1], 1e-12) if options is None else (ValueType.DISCRETE, [0, options - 1], False) for options in dimensions.values()]
        parameter = Parameter(budget=args.get("budget", 50), exploration_rate=args.get("exploration_rate", 0.01))
        self.num_random = parameter.get_train_size()
        self.optimizer = SRacosTune(Dimension2(edges), parameter, parallel_num=10**9)  # it must not limit the trials at a time

    def ask(self) -> tuple[Point, Any] | None:
        if self.optimizer.init_num >= self.num_random > self.optimizer.complete_num:
            return None
        if self.optimizer.init_num == self.num_random:
            # suggest() would wait here for the last random trial to complete, but that one has completed already
            self.optimizer.init_num += 1
        solution = self.optimizer.suggest()
        if not solution or solution == "FINISHED":  # it finds only points that were tried already
            return None
        return dict(zip(self.keys, solution.get_x(), strict=True)), solution

    def adopt(self, point: Point) -> Any:
        from zoopt import Solution

        self.optimizer.init_num += 1
        self.optimizer.live_num += 1
        return Solution(x=[point[key] for key in self.keys])

    def tell(self, token: Any, score: float) -> None:
        self.optimizer.complete(token, -score)


class Ax:
    def __init__(self, dimensions: Dimensions, args: Mapping[str, Any], seed: int, first_points: list[Point]) -> None:
        from ax.api.client import Client
        from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

        self.client = Client(random_seed=seed % 2**32)
        self.client.configure_experiment(
            [
                RangeParameterConfig(name=key, parameter_type="float", bounds=(0.0, 1.0))
                if options is None
                else ChoiceParameterConfig(name=key, parameter_type="int", values=list(range(options)), is_ordered=False)
                for key, options in dimensions.items()
            ]
        )
        self.client.configure_optimization(objective="score")
        self.client.configure_generation_strategy(initialization_random_seed=seed % 2**32, allow_exceeding_initialization_budget=True, **args)

    def ask(self) -> tuple[Point, Any] | None:
        from ax.exceptions.core import DataRequiredError
        from ax.exceptions.generation_strategy import MaxParallelismReachedException

        try:
            [(index, point)] = self.client.get_next_trials(max_trials=1).items()
        except (DataRequiredError, MaxParallelismReachedException):
            return None
        return dict(point), index

    def adopt(self, point: Point) -> Any:
        return self.client.attach_trial(point)

    def tell(self, token: Any, score: float) -> None:
        self.client.complete_trial(token, raw_data={"score": score})


class Flaml:
    """FLAML's BlendSearch and CFO, which are Ray Searchers themselves."""

    algorithm = "BlendSearch"

    def __init__(self, dimensions: Dimensions, args: Mapping[str, Any], seed: int, first_points: list[Point]) -> None:
        from flaml.tune.searcher import blendsearch
        from ray import tune

        # options as strings, because FLAML would assume an order among numbers
        edges = {key: tune.uniform(0, 1) if options is None else tune.choice(list(map(str, range(options)))) for key, options in dimensions.items()}
        self.choices = {key for key, options in dimensions.items() if options is not None}
        self.points_left = len(first_points)
        searcher = getattr(blendsearch, self.algorithm)
        self.searcher = searcher("score", "max", space=edges, seed=seed % 2**31, points_to_evaluate=list(map(self._to_flaml, first_points)))
        self.num_asked = 0

    def ask(self) -> tuple[Point, Any] | None:
        for _ in range(20):  # None often means a duplicate of an earlier point; the next one may be new
            name = self._next_name()
            values = self.searcher.suggest(name)
            if values is not None:
                return {key: int(value) if key in self.choices else value for key, value in values.items()}, (name, values)
        return None

    def adopt(self, point: Point) -> Any:
        name = self._next_name()
        if self.points_left:
            self.points_left -= 1
            return name, self.searcher.suggest(name) or self._to_flaml(point)  # None: this first point is a duplicate
        return name, self._to_flaml(point)

    def tell(self, token: Any, score: float) -> None:
        name, values = token
        self.searcher.on_trial_complete(name, {"score": score} | {f"config/{key}": value for key, value in values.items()})

    def _next_name(self) -> str:
        self.num_asked += 1
        return str(self.num_asked)

    def _to_flaml(self, point: Point) -> Point:
        return {key: str(value) if key in self.choices else value for key, value in point.items()}


class Cfo(Flaml):
    algorithm = "CFO"


class Bohb:
    """The model of BOHB (Falkner, Klein and Hutter 2018, arXiv:1807.01774, section 4.1): kernel densities of the good trials and of the rest.

    Each score has the budget at which it was reached; the model uses the largest budget with enough scores. A score told without a budget is
    that of a trial that ran to its end.
    """

    def __init__(self, dimensions: Dimensions, args: Mapping[str, Any], seed: int, first_points: list[Point]) -> None:
        self.dimensions = dimensions
        self.num_options = np.array([options or 0 for options in dimensions.values()])
        self.num_good = max(args.get("min_points_in_model", 0), len(dimensions) + 1)
        self.good_share = args.get("top_n_percent", 15) / 100
        self.num_candidates = args.get("num_samples", 64)
        self.random_fraction = args.get("random_fraction", 1 / 3)
        self.bandwidth_factor = args.get("bandwidth_factor", 3.0)
        self.min_bandwidth = args.get("min_bandwidth", 1e-3)
        self.rng = np.random.default_rng(seed)
        self.places: list[np.ndarray] = []
        self.scores: dict[float, dict[int, float]] = {}  # budget -> index into ``places`` -> score

    def ask(self) -> tuple[Point, Any]:
        told = next((self.scores[budget] for budget in sorted(self.scores, reverse=True) if len(self.scores[budget]) >= 2 * self.num_good), None)
        if told is None or self.rng.random() < self.random_fraction:
            place = self.rng.uniform(size=len(self.dimensions))
            place = np.where(self.num_options > 0, np.floor(place * self.num_options), place)
        else:
            places = np.array([self.places[number] for number in sorted(told, key=told.__getitem__, reverse=True)])
            num_good = max(self.num_good, int(self.good_share * len(places)))
            good, rest = self._density(places[:num_good]), self._density(places[num_good:])
            candidates = good.draw(self.rng, self.num_candidates, self.bandwidth_factor)
            place = candidates[np.argmax(good.log_density(candidates) - rest.log_density(candidates))]
        point = dict(zip(self.dimensions, place.tolist(), strict=True))
        return point, self.adopt(point)

    def _density(self, places: np.ndarray) -> Density:
        return Density(places, self.num_options, self.min_bandwidth)

    def adopt(self, point: Point) -> Any:
        self.places.append(np.array([point[key] for key in self.dimensions], dtype=float))
        return len(self.places) - 1

    def tell(self, token: Any, score: float, budget: float | None = None) -> None:
        if budget is None:
            if any(token in told for told in self.scores.values()):
                return  # the trial was stopped at a budget whose score is known already
            budget = max(self.scores, default=1.0)
        self.scores.setdefault(budget, {})[token] = score


class Density:
    """A density of product kernels: normal ones for numbers, Aitchison and Aitken's for choices (Racine and Li 2004)."""

    def __init__(self, places: np.ndarray, num_options: np.ndarray, min_bandwidth: float) -> None:
        self.places, self.num_options = places, num_options  # (N, D), (D,)
        num_places, num_dimensions = places.shape
        rule_of_thumb = 1.06 * places.std(axis=0) * num_places ** (-1 / (4 + num_dimensions))
        widest = np.where(num_options > 0, 1 - 1 / np.maximum(num_options, 2), np.inf)  # of choices: there all options are equally likely
        self.bandwidth = np.clip(rule_of_thumb, min_bandwidth, widest)

    def log_density(self, at: np.ndarray) -> np.ndarray:
        distance = at[:, None] - self.places[None]  # (M, N, D)
        number = np.exp(-0.5 * (distance / self.bandwidth) ** 2) / (self.bandwidth * np.sqrt(2 * np.pi))
        choice = np.where(distance == 0, 1 - self.bandwidth, self.bandwidth / np.maximum(self.num_options - 1, 1))
        kernels = np.where(self.num_options > 0, choice, number).prod(axis=2)
        return np.log(np.maximum(kernels.mean(axis=1), 1e-32))

    def draw(self, rng: np.random.Generator, number: int, bandwidth_factor: float) -> np.ndarray:
        around = self.places[rng.integers(len(self.places), size=number)]
        numbers = _truncated_normal(rng, around, self.bandwidth * bandwidth_factor)
        others = np.floor(rng.uniform(size=around.shape) * self.num_options)
        choices = np.where(rng.uniform(size=around.shape) < self.bandwidth, others, around)
        return np.where(self.num_options > 0, choices, numbers)


def _truncated_normal(rng: np.random.Generator, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Draws from normal distributions truncated to [0, 1]."""
    from scipy.special import ndtr, ndtri

    low, high = ndtr(-mean / sd), ndtr((1 - mean) / sd)
    return np.clip(mean + sd * ndtri(low + rng.uniform(size=mean.shape) * (high - low)), 0, 1)


LIBRARIES: dict[str, type] = {
    "hyperopt": Hyperopt,
    "nevergrad": Nevergrad,
    "bayesopt": Bayesopt,
    "zoopt": Zoopt,
    "ax": Ax,
    "blendsearch": Flaml,
    "cfo": Cfo,
    "bohb": Bohb,
}
