"""What every searcher guarantees, in a loop that stands in for Ray: no cluster, no training, a quadratic to search."""

import json
import logging
import math
import random
import subprocess
import sys
import threading
import tomllib
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, Repeater, Searcher
from ray.tune.search.hyperopt import HyperOptSearch
from ray.tune.search.optuna import OptunaSearch

from automm_hpo import space as spaces
from automm_hpo.errors import InvalidInput, InvalidTuneSettings, NotSupported
from automm_hpo.hpo.foreign_spaces import to_space
from automm_hpo.hpo.result_keys import METRIC
from automm_hpo.hpo.searcher_args import (
    NOT_OFFERED,
    PACKAGES,
    SEARCHER_ALIASES,
    SEARCHER_ARGS,
    check_package,
    check_searcher,
    check_space,
    find_searcher,
    plain_spaces,
)
from automm_hpo.hpo.searchers import SEARCHERS, build_searcher, can_be_told
from automm_hpo.hpo.searchers.given import ray_domain
from automm_hpo.hpo.searchers.libraries import Density
from automm_hpo.space import Branch, Branches, Choice, Computed, Float, Int, Normal, finish_proposal, grid_point

MIXED = {
    "optim.lr": spaces.loguniform(1e-5, 1e-1),
    "optim.momentum": spaces.uniform(0, 1),
    "env.batch_size": spaces.randint(1, 9),
    "optim.optim_type": spaces.choice(["adamw", "sgd", "lion"]),
}
FINITE = {
    "optim.lr": spaces.grid_search([1e-3, 1e-2]),
    "optim.momentum": spaces.quniform(0, 1, 0.25),
    "env.batch_size": spaces.randint(1, 5),
    "optim.optim_type": spaces.choice(["adamw", "sgd", "lion"]),
}
ODD = {
    "normal": spaces.randn(3, 2),
    "lognormal": spaces.lognormal(0, 1),
    "stepped": spaces.qloguniform(1e-2, 1, 1e-2),
    "counted": spaces.qlograndint(4, 64, 4),
    "one": spaces.choice(["only"]),
    "computed": spaces.sample_from(lambda config: config["stepped"] * 2),
    "lists": spaces.choice([["a"], ["a", "b"], None]),
}
CONDITIONAL = {
    "env.batch_size": spaces.randint(1, 5),
    "optim": Branches(
        (
            Branch({"optim.optim_type": "sgd"}, {"optim.lr": spaces.choice([0.1, 0.01]), "optim.momentum": spaces.quniform(0, 1, 0.5)}),
            Branch({"optim.optim_type": "adamw"}, {"optim.lr": spaces.choice([1e-3, 1e-4])}),
        )
    ),
}
NAMES = list(SEARCHERS)
GUIDED = [name for name in NAMES if name not in ("random", "grid", "qmc")]
NUM_SEEDS = {"ax": 1, "bayesopt": 3, "gp": 1}  # those that take a good part of a second per proposal


def but_slow(names, *slow):
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


def space_for(name):
    return FINITE if name == "grid" else MIXED


def length(name, number):
    return number // 2 if name == "ax" else number


def few(name, number, enough):
    """Number of proposals: ``enough`` for searchers that take a good part of a second for each, else ``length(name, number)``."""
    return enough if name in NUM_SEEDS else length(name, number)


def make(name, space, seed=0, first_points=(), **args):
    return build_searcher(SimpleNamespace(searcher=name, searcher_init_args=args), space, seed, list(first_points))


def quadratic(values):
    """Has its maximum of 0 inside MIXED."""
    away = [
        2 * (values["optim.momentum"] - 0.3),
        (math.log10(values["optim.lr"]) + 3) / 2,
        (values["env.batch_size"] - 6) / 4,
        0.7 * (values["optim.optim_type"] != "sgd"),
    ]
    return -sum(part**2 for part in away)


def run(searcher, space, number, at_a_time=1, fails=lambda trial: False, score=quadratic, waits=0):
    """Suggests and completes as Ray would; trials that run at a time end in any order.

    Args:
        waits: how often the searcher may have nothing to propose while nothing runs.

    Returns:
        Raw proposals and scores, in the order of the proposals.
    """
    order, running, proposals, scores = random.Random(5), [], [], []
    while len(proposals) < number or running:
        suggested = searcher.suggest(str(len(proposals))) if len(proposals) < number and len(running) < at_a_time else None
        if suggested is not None:
            assert suggested != Searcher.FINISHED
            running.append(len(proposals))
            proposals.append(suggested)
            scores.append(score(finish_proposal(space, suggested, {})))
            continue
        if not running:
            waits -= 1
            assert waits >= 0, "nothing runs, and the searcher waits"
            continue
        trial = running.pop(order.randrange(len(running)))
        if fails(trial):
            searcher.on_trial_complete(str(trial), error=True)
        else:
            searcher.on_trial_result(str(trial), {METRIC: scores[trial], "training_iteration": 1})
            searcher.on_trial_complete(str(trial), {METRIC: scores[trial], "training_iteration": 2})
    return proposals, scores


def assert_inside(space, raw):
    json.dumps(raw)
    assert raw.keys() == {key for key, domain in space.items() if not isinstance(domain, Computed)}
    for key, domain in space.items():
        if isinstance(domain, Choice):
            assert isinstance(raw[key], int) and 0 <= raw[key] < len(domain.options)
        elif isinstance(domain, (Float, Int, Normal)):
            value, (low, high) = domain.finish(raw[key]), domain.corners()
            assert low <= value <= high
            assert isinstance(value, int) == isinstance(domain, Int)


@pytest.fixture
def untouched(capfd, caplog):
    """A context that asserts that it changes nothing in the process, and that nothing is printed or logged."""
    caplog.set_level(logging.INFO)
    np.random.seed(7), random.seed(7), torch.manual_seed(7)

    def look():
        return (
            np.random.get_state()[1].tolist(),
            random.getstate(),
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            logging.root.manager.disable,
            logging.root.handlers[:],
            optuna.logging.get_verbosity(),
            warnings.filters[:],
            sys.stdout,
        )

    @contextmanager
    def context():
        before = look()
        yield
        assert look() == before
        assert capfd.readouterr() == ("", "")
        assert not caplog.records

    return context


# --- every searcher ---


@pytest.mark.parametrize("name", NAMES)
def test_proposes_inside_the_space_four_at_a_time_whatever_fails_and_leaves_the_process_alone(name, untouched):
    space = space_for(name)
    make(name, space)  # imports first, because they add warning filters
    with untouched():
        proposals, _ = run(make(name, space), space, length(name, 20), at_a_time=4, fails=lambda trial: trial < 5 or trial % 3 == 0)
    for raw in proposals:
        assert_inside(space, raw)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_space_is_searched(name):
    space = {key: domain for key, domain in ODD.items() if not isinstance(domain, Normal)} if name == "grid" else ODD
    proposals, _ = run(make(name, space), space, length(name, 14), score=lambda values: values["computed"])
    for raw in proposals:
        assert_inside(space, raw)
    assert len({raw["lists"] for raw in proposals}) > 1


@pytest.mark.parametrize("name", but_slow(NAMES, "ax"))
def test_first_points_come_first_and_exactly(name):
    space = space_for(name)
    first = [grid_point(FINITE, 5), grid_point(FINITE, 117), grid_point(FINITE, 5)]
    if name != "grid":
        first = [
            {"optim.lr": 1e-5, "optim.momentum": 0.123456789, "env.batch_size": 3.2, "optim.optim_type": 2},
            *(point | {"optim.lr": 1e-1} for point in first),
        ]
    proposals, _ = run(make(name, space, first_points=first), space, 10, at_a_time=2)
    assert proposals[: len(first)] == first
    assert all(point not in first for point in proposals[len(first) :])


@pytest.mark.parametrize("name", but_slow(NAMES, "ax"))
def test_the_seed_decides(name):
    space, number = space_for(name), few(name, 16, 12)
    once, again, other = (run(make(name, space, seed), space, count)[0] for seed, count in ((3, number), (3, number), (4, number // 4)))
    assert once == again
    assert (once[: number // 4] != other) == (name != "grid")


@pytest.mark.parametrize("name", but_slow(GUIDED, "ax"))
def test_first_points_are_learned_from(name):
    """The same points with opposite scores lead to other proposals."""
    points, scores = run(make("random", MIXED), MIXED, 24)
    after = []
    for sign in (1, -1):
        searcher = make(name, MIXED, first_points=points)
        for trial, score in enumerate(scores):
            searcher.suggest(str(trial))
            searcher.on_trial_complete(str(trial), {METRIC: sign * score})
        after.append(run(searcher, MIXED, few(name, 4, 2))[0])
    assert after[0] != after[1]


@pytest.mark.parametrize("name", but_slow(GUIDED, "ax"))
def test_what_is_known_from_elsewhere_is_learned_from_and_not_proposed(name):
    points, scores = run(make("random", MIXED), MIXED, 24)
    first = [points[3] | {"optim.lr": 1e-1}]
    after = []
    for sign in (1, -1):
        known = [(point, sign * score) for point, score in zip(points, scores, strict=True)]
        searcher = build_searcher(SimpleNamespace(searcher=name, searcher_init_args={}), MIXED, 0, first, known)
        proposals, _ = run(searcher, MIXED, few(name, 5, 3))
        assert proposals[:1] == first
        assert all(point not in points for point in proposals)
        after.append(proposals)
    assert after[0] != after[1]


SAMPLER = optuna.samplers.TPESampler(seed=3)


@pytest.mark.parametrize("given", [*but_slow(GUIDED, "ax"), SAMPLER])
def test_a_session_that_goes_on_draws_no_trial_again(given):
    settings = SimpleNamespace(searcher=given, searcher_init_args={})
    before, _ = run(build_searcher(settings, MIXED, 0, []), MIXED, 4)
    after, _ = run(build_searcher(settings, MIXED, 0, before, num_recorded=4), MIXED, 8)
    assert after[:4] == before
    assert sum(point in before for point in after[4:]) <= (given == "cfo")  # cfo now and then returns to a place, even within a session


@pytest.mark.parametrize("name", ["random", "qmc"])
def test_what_goes_by_the_number_of_a_trial_goes_on_as_if_nothing_had_been(name):
    settings = SimpleNamespace(searcher=name, searcher_init_args={})
    whole, _ = run(build_searcher(settings, MIXED, 0, []), MIXED, 8)
    assert run(build_searcher(settings, MIXED, 0, whole[:4], num_recorded=4), MIXED, 8)[0] == whole


def late(name, seed):
    return np.mean(run(make(name, MIXED, seed), MIXED, length(name, 40))[1][-length(name, 12) :])


@pytest.fixture(scope="module")
def by_chance():
    return [late("random", seed) for seed in range(40)]


@pytest.mark.parametrize("name", but_slow(GUIDED, "bayesopt", "ax"))
def test_learns_more_than_chance_would(name, by_chance):
    seeds = range(NUM_SEEDS.get(name, 4))
    assert np.mean([late(name, seed) for seed in seeds]) > np.mean(by_chance) + 0.35


@pytest.mark.parametrize("name", but_slow(GUIDED, "ax"))
def test_what_fails_is_left_alone(name):
    """Scores point beyond 0.7, where every trial fails."""
    number, failures = length(name, 24), []
    searcher = make(name, MIXED)
    for trial in range(number):
        values = finish_proposal(MIXED, searcher.suggest(str(trial)), {})
        fails = values["optim.momentum"] > 0.7
        failures.append(fails)
        searcher.on_trial_complete(str(trial), {METRIC: 2 * values["optim.momentum"] - abs(math.log10(values["optim.lr"]) + 3) / 4}, error=fails)
    assert np.mean(failures[number // 2 :]) < 0.6


def test_failures_count_as_the_worst():
    searcher = make("bayes", MIXED)
    _, scores = run(searcher, MIXED, 6, fails=lambda trial: trial in (0, 1, 3))
    told = [trial.value for trial in searcher.study.trials]
    assert told == [scores[trial] for trial in (2, 2, 2, 2, 4, 5)]


@pytest.mark.parametrize("name", GUIDED)
def test_nothing_but_failures_is_no_end(name):
    assert len(run(make(name, MIXED), MIXED, 12, at_a_time=2, fails=lambda trial: True)[0]) == 12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [2**32 + 5, 2**31])
def test_any_seed(name, seed):
    make(name, space_for(name), seed).suggest("0")


# --- random, qmc, grid: trial n follows from (seed, n) ---


@pytest.mark.parametrize("name", ["random", "qmc", "grid"])
def test_a_resumed_search_goes_on_where_it_was(name):
    space = space_for(name)
    whole = run(make(name, space, 1, [grid_point(space, 30)] if name == "grid" else []), space, 20)[0]
    resumed = run(make(name, space, 1, whole[:8]), space, 20)[0]
    assert resumed == whole


def test_grid_tries_all_once_and_ends():
    first = [grid_point(FINITE, 7), {**grid_point(FINITE, 9), "optim.momentum": 0.2500001}, {**grid_point(FINITE, 0), "optim.lr": 1}]
    searcher = make("grid", FINITE, first_points=first)
    proposals = run(searcher, FINITE, 120)[0]
    assert len({json.dumps(finish_proposal(FINITE, raw, {})) for raw in proposals}) == 120 == 2 * 5 * 4 * 3
    assert proposals[3:6] == [grid_point(FINITE, index) for index in range(3)]
    assert searcher.suggest("more") == Searcher.FINISHED
    assert searcher.suggest("even more") == Searcher.FINISHED


def test_random_goes_round_the_grid():
    space = {"a": spaces.grid_search([1, 2, 3]), "b": spaces.uniform(0, 1)}
    proposals = run(make("random", space), space, 7, score=lambda values: 0.0)[0]
    assert [raw["a"] for raw in proposals] == [0, 1, 2, 0, 1, 2, 0]
    assert len({raw["b"] for raw in proposals}) == 7


@pytest.mark.parametrize(("first", "order"), [([1], [1, 0, 2, 0, 1, 2]), ([2, 2], [2, 2, 0, 1, 0, 1, 0, 1, 2]), ([], [0, 1, 2, 0])])
def test_a_first_point_is_one_of_the_grid(first, order):
    """Such as the defaults: three trials try three options, and a resumed search keeps the order."""
    space = {"a": spaces.grid_search([1, 2, 3]), "b": spaces.uniform(0, 1)}

    def proposals(points):
        return run(make("random", space, first_points=points), space, len(order), score=lambda values: 0.0)[0]

    whole = proposals([{"a": option, "b": 0.5} for option in first])
    assert [raw["a"] for raw in whole] == order
    assert all(proposals(whole[:count]) == whole for count in range(len(first), len(order)))


def test_a_first_point_may_lie_in_another_branch():
    branches = spaces.Branches((spaces.Branch({}, {"c.a": spaces.grid_search([1, 2])}), spaces.Branch({}, {"c.b": spaces.uniform(0, 1)})))
    proposals = run(make("random", {"c": branches}, first_points=[{"c": 1, "c[1].b": 0.5}]), {"c": branches}, 5, score=lambda values: 0.0)[0]
    assert [raw.get("c[0].a") for raw in proposals] == [None, 0, 1, 0, 1]


def test_qmc_is_more_even_than_chance():
    for args in ({}, {"qmc_type": "halton"}):
        proposals = run(make("qmc", MIXED, **args), MIXED, 64)[0]
        assert np.histogram([raw["optim.momentum"] for raw in proposals], 8, (0, 1))[0].tolist() == pytest.approx([8] * 8, abs=1)
        assert {raw["optim.optim_type"] for raw in proposals} == {0, 1, 2}


# --- spaces that only some searchers take ---


@pytest.mark.parametrize("name", ["random", "grid", "bayes", optuna.samplers.TPESampler(seed=0)])
def test_conditional_spaces_are_searched(name):
    check_space(name, CONDITIONAL)
    first = [{"env.batch_size": 4, "optim": 0, "optim[0].lr": 0, "optim[0].momentum": 1.0}, {"env.batch_size": 2, "optim": 1, "optim[1].lr": 0}]
    proposals, scores = run(make(name, CONDITIONAL, first_points=first), CONDITIONAL, 30, score=lambda values: -abs(values["optim.lr"] - 1e-3))
    assert proposals[:2] == first
    for raw in proposals:
        inside = {0: ["optim[0].lr", "optim[0].momentum"], 1: ["optim[1].lr"]}[raw["optim"]]
        assert list(raw) == ["env.batch_size", "optim", *inside]
    if name not in ("random", "grid"):
        assert np.mean(scores[-10:]) > np.mean(scores[:10])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("random", "grid", "bayes")])
def test_conditional_spaces_are_refused_by_name(name):
    with pytest.raises(NotSupported, match=f"optim: the searcher '{name}' cannot take a conditional space") as caught:
        check_space(name, CONDITIONAL | {"optim.warmup_steps": spaces.uniform(0, 0.5), "optim.label_smoothing": spaces.uniform(0, 0.5)})
    assert "random" in str(caught.value)


@pytest.mark.parametrize("name", [*(name for name in NAMES if name not in ("random", "grid")), optuna.samplers.RandomSampler()])
def test_grid_search_is_refused_by_name(name):
    with pytest.raises(NotSupported, match=r"optim\.lr: the searcher '\w+' cannot take grid_search"):
        check_space(name, FINITE)


def test_grid_needs_an_end():
    check_space("grid", FINITE | CONDITIONAL)
    with pytest.raises(InvalidInput) as caught:
        check_space("grid", MIXED | {"group": Branches((Branch({}, {"deep": spaces.randn(0, 1)}),))})
    assert [str(problem).split(":")[0] for problem in caught.value.problems] == ["optim.lr", "optim.momentum", "deep"]
    assert "got loguniform(1e-05, 0.1); use choice, randint or quniform" in str(caught.value)


def test_cmaes_needs_two_ranges():
    with pytest.raises(NotSupported, match="at least two numeric ranges"):
        check_space("cmaes", {"a": spaces.uniform(0, 1), "b": spaces.choice([1, 2]), "c": spaces.randint(1, 2)})
    check_space("cmaes", {"a": spaces.uniform(0, 1), "b": spaces.randint(1, 3)})


# --- names, arguments, packages ---


def test_names_and_aliases():
    assert SEARCHER_ARGS.keys() == SEARCHERS.keys()
    assert all(target in SEARCHERS for target in SEARCHER_ALIASES.values())
    assert [find_searcher(given) for given in ("Random", "TPE", "CMA-ES", "NSGA2", "BayesOpt", "cfo")] == [
        "random",
        "bayes",
        "cmaes",
        "evolution",
        "bayesopt",
        "cfo",
    ]


@pytest.mark.parametrize("name", [*NOT_OFFERED, "DragonflySearch", "HEBOSearch", "SkOptSearch"])
def test_what_is_gone_says_why_and_what_serves(name):
    with pytest.raises(NotSupported, match=f"searcher: '{name}' is not offered: .* 'gp' serves instead"):
        find_searcher(name)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("hyperop", r"got 'hyperop'\. Did you mean hyperopt"),
        (3, r"got 3 \(int\)"),
        (OptunaSearch, r"got the class OptunaSearch; make an object of it: OptunaSearch\(\)"),
    ],
)
def test_what_is_no_searcher(given, words):
    with pytest.raises(InvalidTuneSettings, match=words):
        find_searcher(given)


EVERY_ARG = {
    "bayes": {"n_startup_trials": 0, "n_ei_candidates": 5, "multivariate": True, "group": True, "constant_liar": True},
    "gp": {"n_startup_trials": 4, "deterministic_objective": True},
    "cmaes": {"n_startup_trials": 0, "popsize": 4, "use_separable_cma": True},
    "evolution": {"population_size": 4, "mutation_prob": 0.5, "crossover_prob": 1, "swapping_prob": 0},
    "qmc": {"qmc_type": "halton", "scramble": False},
    "hyperopt": {"n_initial_points": 0, "gamma": 0.5, "n_ei_candidates": 5},
    "nevergrad": {"optimizer": "TwoPointsDE", "budget": 10},
    "bohb": {"min_points_in_model": 6, "top_n_percent": 30, "num_samples": 5, "random_fraction": 0, "bandwidth_factor": 2, "min_bandwidth": 0.01},
    "bayesopt": {"kind": "ei", "kappa": 1, "xi": 0.1, "random_search_steps": 3},
    "zoopt": {"budget": 60, "exploration_rate": 0.5},
    "ax": {"initialization_budget": 3},
}


@pytest.mark.parametrize("name", but_slow(NAMES, "ax"))
def test_every_argument_arrives(name):
    given = EVERY_ARG.get(name, {})
    assert {key.removeprefix("searcher_init_args.") for key in SEARCHER_ARGS[name]} == set(given)
    args = {key: SEARCHER_ARGS[name][f"searcher_init_args.{key}"].check(key, value) for key, value in given.items()}
    check_searcher(name, args, space_for(name))
    with_args, without = (run(make(name, space_for(name), **chosen), space_for(name), length(name, 12))[0] for chosen in (args, {}))
    assert (with_args != without) == bool(given)


def test_an_unknown_optimizer_of_nevergrad():
    with pytest.raises(InvalidTuneSettings, match=r"no optimizer 'OnePlusTwo'.*Did you mean"):
        check_searcher("nevergrad", {"optimizer": "OnePlusTwo"}, MIXED)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_said_with_the_remedy(name, monkeypatch):
    check_package(name)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert project[name][0].startswith(PACKAGES[name][0])
    assert name in project["searchers"][0]
    assert "searchers" in project["test"][0]

    def missing(package):
        raise searchers_metadata.PackageNotFoundError(package)

    import importlib.metadata as searchers_metadata

    monkeypatch.setattr(searchers_metadata, "version", missing)
    with pytest.raises(
        NotSupported, match=rf"searcher: '{name}' needs the package {PACKAGES[name][0]}, which is not installed: pip install 'automm-hpo\[{name}\]'"
    ):
        check_searcher(name, {}, MIXED)
    monkeypatch.setattr(searchers_metadata, "version", lambda package: "0.0.1")
    if PACKAGES[name][1]:
        with pytest.raises(NotSupported, match=r"found 0\.0\.1"):
            check_package(name)


def test_checks_load_no_heavy_library():
    code = (
        "import sys; from automm_hpo.hpo.searcher_args import check_package, find_searcher; check_package(find_searcher('ax')); "
        "print({'ray', 'torch', 'optuna', 'ax'} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


# --- Optuna ---


def test_optuna_is_told_of_points_and_scores():
    first = [{"optim.lr": 1e-3, "optim.momentum": 0.25, "env.batch_size": 3.4, "optim.optim_type": 1}]
    searcher = make("bayes", MIXED, first_points=first)
    run(searcher, MIXED, 3)
    told = searcher.study.trials
    assert told[0].params == {"optim.lr": 1e-3, "optim.momentum": 0.25, "env.batch_size": 3, "optim.optim_type": "sgd"}
    assert told[0].value == quadratic(told[0].params) and searcher.study.direction.name == "MAXIMIZE"


def test_a_grid_sampler_of_the_user_ends_the_search():
    sampler = optuna.samplers.GridSampler({"optim.momentum": [0.2, 0.4], "optim.optim_type": ["sgd", "lion"]}, seed=0)
    space = {key: MIXED[key] for key in ("optim.momentum", "optim.optim_type")}
    searcher = make(sampler, space)
    proposals = run(searcher, space, 4, score=lambda values: values["optim.momentum"])[0]
    assert sorted((raw["optim.momentum"], raw["optim.optim_type"]) for raw in proposals) == [(0.2, 1), (0.2, 2), (0.4, 1), (0.4, 2)]
    assert searcher.suggest("more") == Searcher.FINISHED


def test_a_sampler_of_the_user_is_not_used_up():
    sampler = optuna.samplers.RandomSampler(seed=3)
    assert find_searcher(sampler) is sampler
    check_searcher(sampler, {}, MIXED)
    assert run(make(sampler, MIXED), MIXED, 5)[0] == run(make(sampler, MIXED), MIXED, 5)[0]


# --- BOHB ---


def test_bohb_models_the_largest_budget_that_has_enough():
    points = [{"a": float(place)} for place in np.linspace(0, 1, 41)]

    def proposals(budgets):
        searcher = make("bohb", {"a": spaces.uniform(0, 1)}, first_points=points, random_fraction=0.0)
        for trial, point in enumerate(points):
            searcher.suggest(str(trial))
            # short runs mislead: they prefer low values, long ones high values
            for budget in budgets[: 1 + trial % 2]:
                score = -point["a"] if budget == 1 else point["a"]
                searcher.on_trial_result(str(trial), {METRIC: score, "training_iteration": budget, "hyperband_info": {"budget": budget}})
            searcher.on_trial_complete(str(trial), {METRIC: point["a"]})  # no news if there were rungs
        return [searcher.suggest(f"next {trial}")["a"] for trial in range(10)]

    assert np.mean(proposals([1])) < 0.3
    assert np.mean(proposals([1, 3])) > 0.7
    assert np.mean(proposals([])) > 0.7


def test_densities_are_densities():
    rng = np.random.default_rng(0)
    places = np.column_stack([rng.uniform(0.3, 0.6, 30), rng.integers(0, 3, 30)])
    density = Density(places, np.array([0, 3]), 1e-3)
    line = np.linspace(-2, 3, 5001)
    total = sum(np.exp(density.log_density(np.column_stack([line, np.full_like(line, option)]))).sum() * (line[1] - line[0]) for option in range(3))
    assert total == pytest.approx(1, abs=1e-3)
    drawn = density.draw(rng, 4000, 1.0)
    assert drawn[:, 0].mean() == pytest.approx(places[:, 0].mean(), abs=0.01) and set(drawn[:, 1]) == {0, 1, 2}


# --- the user's own Ray Searchers ---


class Counting(Searcher):
    """Takes no domains, and records what it is told."""

    def __init__(self, metric=None, mode=None):
        super().__init__(metric, mode)
        self.told, self.results, self.count = {}, {}, 0

    def suggest(self, trial_id):
        self.count += 1
        return {"optim.momentum": np.float64(self.count / 100), "optim.optim_type": "lion"}

    def on_trial_result(self, trial_id, result):
        self.results[trial_id] = result

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.told[trial_id] = (result, error)


class Telling(Counting):
    def add_evaluated_point(self, parameters, value, error=False, pruned=False, intermediate_values=None):
        self.told[tuple(parameters.items())] = (value, error)


TWO = {"optim.momentum": spaces.quniform(0, 1, 0.01), "optim.optim_type": MIXED["optim.optim_type"], "twice": Computed(lambda config: 2)}


def test_a_searcher_of_the_user_hears_its_own_metric():
    searcher = make(Counting("loss", "min"), TWO)
    proposals, _ = run(searcher, TWO, 3, fails=lambda trial: trial == 1, score=lambda values: values["optim.momentum"])
    assert proposals == [{"optim.momentum": count / 100, "optim.optim_type": 2} for count in (1, 2, 3)]
    assert searcher.inner.told["0"][0]["loss"] == -0.01 and searcher.inner.results["0"]["loss"] == -0.01
    assert searcher.inner.told["0"][0]["config"] == {"optim.momentum": 0.01, "optim.optim_type": "lion"}
    assert searcher.inner.told["1"] == (None, True)


def test_first_points_only_where_they_can_be_told():
    point = {"optim.momentum": 0.5, "optim.optim_type": 1}
    assert can_be_told(optuna.samplers.RandomSampler())
    assert can_be_told(Telling()) and can_be_told(ConcurrencyLimiter(OptunaSearch(), 2)) and not can_be_told(Counting())
    with pytest.raises(NotSupported, match="Counting has no add_evaluated_point"):
        make(Counting(), TWO, first_points=[point])
    searcher = make(Telling("loss", "min"), TWO, first_points=[point, point | {"optim.momentum": 0.7}])
    assert run(searcher, TWO, 3, fails=lambda trial: trial == 1, score=lambda values: 4.0)[0][:2] == [point, point | {"optim.momentum": 0.7}]
    assert searcher.inner.told[("optim.momentum", 0.5), ("optim.optim_type", "sgd")] == (-4.0, False)
    assert searcher.inner.told[("optim.momentum", 0.7), ("optim.optim_type", "sgd")] == (None, True)


@pytest.mark.parametrize("wrap", [lambda searcher: searcher, lambda searcher: ConcurrencyLimiter(searcher, 2)])
def test_rays_own_searchers_search(wrap):
    given = wrap(OptunaSearch(metric="loss", mode="min", seed=0))
    assert find_searcher(given) is given
    check_searcher(given, {}, MIXED)
    points, scores = run(make("random", MIXED), MIXED, 3)
    for _ in range(2):  # the first search leaves the object as it was
        searcher = make(given, MIXED, first_points=points)
        proposals, scores = run(searcher, MIXED, 40, at_a_time=3)
        assert proposals[:3] == points
        for raw in proposals:
            assert_inside(MIXED, raw)
        assert np.mean(scores[-12:]) > np.mean(scores[:12]) + 0.3


def test_points_of_an_object_are_values():
    """They were taken for the indices of options: other configurations were tried, and nothing was said."""
    space = {"optim.optim_type": spaces.choice(["sgd", "adamw", "lion"]), "optim.top_k": spaces.choice([2, 1, 0]), "optim.momentum": spaces.uniform(0, 1)}
    points = [{"optim.optim_type": "lion", "optim.top_k": 2, "optim.momentum": 0.25}, {"optim.optim_type": "sgd", "optim.top_k": 0, "optim.momentum": 0.5}]
    for kind in (OptunaSearch, HyperOptSearch):
        given = ConcurrencyLimiter(kind(metric="m", mode="max", points_to_evaluate=points), 2)
        for _ in range(2):  # the first search leaves the object as it was
            searcher = make(given, space)
            found = [finish_proposal(space, searcher.suggest(str(trial)), {}, (0, trial)) for trial in range(2)]
            assert sorted(found, key=str) == sorted(points, key=str)
    with pytest.raises(InvalidTuneSettings, match=r"OptunaSearch has points_to_evaluate with optim\.top_k=7: 7 is none of choice"):
        make(OptunaSearch(points_to_evaluate=[{"optim.top_k": 7}]), space)
    with pytest.raises(InvalidTuneSettings, match=r"points_to_evaluate with 'lr', and the search space is of optim\.optim_type"):
        make(OptunaSearch(points_to_evaluate=[{"lr": 7}]), space)
    with pytest.raises(InvalidTuneSettings, match=r"evaluated_rewards; give it metric and mode too"):
        make(OptunaSearch(points_to_evaluate=points, evaluated_rewards=[1, 2]), space)


def test_flamls_objects_search():
    from flaml import BlendSearch

    searcher = make(BlendSearch(metric="loss", mode="min", seed=1), MIXED)
    assert np.mean(run(searcher, MIXED, 40, waits=20)[1][-12:]) > -1.2


def test_objects_that_cannot_search():
    with pytest.raises(InvalidTuneSettings, match="OptunaSearch has a space of its own; leave it out"):
        make(OptunaSearch(space={"optim.momentum": optuna.distributions.FloatDistribution(0, 1)}, metric="m", mode="max"), TWO)
    with pytest.raises(NotSupported, match=r"a Repeater is not supported; pass the searcher that it wraps. .* tune.grid_search"):
        find_searcher(ConcurrencyLimiter(Repeater(Counting("m", "max"), repeat=2), 2))
    with pytest.raises(InvalidTuneSettings, match="BasicVariantGenerator is searcher='random' here"):
        find_searcher(BasicVariantGenerator())
    with pytest.raises(NotSupported, match="Counting has several metrics"):
        find_searcher(Counting(["a", "b"], ["min", "max"]))
    with pytest.raises(InvalidTuneSettings, match=r"Counting proposes values of optim\.momentum, optim\.optim_type; the search space is of optim\.lr"):
        make(Counting(), MIXED).suggest("0")
    with pytest.raises(InvalidTuneSettings, match=r"Counting proposes 'lion' for optim\.optim_type"):
        make(Counting(), TWO | {"optim.optim_type": spaces.choice(["adamw"])}).suggest("0")
    with pytest.raises(InvalidTuneSettings, match=r"OptunaSearch does not take this search space"):
        make(OptunaSearch(), {"normal": spaces.randn(0, 1)})


def test_one_that_cannot_be_copied_searches_itself():
    given = Counting()
    given.lock = threading.Lock()
    assert make(given, TWO).inner is given


RANGES = {
    "log": Float(1e-4, 1e-1, log=True),
    "linear": Float(0, 1),
    "stepped": Float(0, 1, step=0.25),
    "int": Int(-3, 2),
    "log int": Int(1, 100, log=True),
    "multiples": Int(8, 64, step=8),
    "choice": Choice(("adamw", "sgd")),
    "normal": Normal(0.5, 0.1, step=0.05),
    "log normal": Normal(0.5, 0.1, log=True),
}


@pytest.mark.parametrize("space", RANGES.values(), ids=RANGES)
def test_rays_domains_propose_raw_values(space):
    rng, domain = np.random.default_rng(0), ray_domain(space)
    values = [space.finish(domain.sample(random_state=rng)) for _ in range(400)]
    if isinstance(space, Choice):
        assert set(values) == set(space.options)
    else:
        low, high = space.corners()
        assert all(low <= value <= high for value in values)
    if space.num_points and space.num_points < 10:
        assert len(set(values)) == space.num_points


def test_rays_domains_are_what_the_user_wrote():
    assert to_space("key", ray_domain(RANGES["log"])) == RANGES["log"]
    assert to_space("key", ray_domain(RANGES["int"])) == RANGES["int"]
    assert to_space("key", ray_domain(RANGES["choice"])) == Choice((0, 1))


def test_the_outer_multiples_get_their_share():
    domain = ray_domain(Int(8, 32, step=8))
    rng = np.random.default_rng(0)
    counts = np.unique([Int(8, 32, step=8).finish(domain.sample(random_state=rng)) for _ in range(4_000)], return_counts=True)[1]
    assert len(counts) == 4
    assert counts.min() > 750


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"optim": CONDITIONAL["optim"]}, ["optim: ", "'hyperopt'", "conditional"]),
        ({"optim.lr": Choice((1, 2), exhaustive=True)}, ["optim.lr: ", "'hyperopt'", "grid_search", "tune.choice"]),
    ],
)
def test_searchers_that_take_less_refuse_by_name(space, words):
    with pytest.raises(NotSupported) as caught:
        plain_spaces(space, "hyperopt")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert list(plain_spaces(RANGES | {"computed": Computed(lambda: 1)}, "hyperopt")) == list(RANGES)


def test_a_seeded_object_begins_no_search_anew():
    """It would propose the points of the session before, and train them twice."""
    space = {"optim.lr": spaces.uniform(0, 1)}

    def propose(first_points, number):
        searcher = make(OptunaSearch(seed=3), space, first_points=first_points)
        found = []
        for trial in range(number):
            found.append(searcher.suggest(str(trial)))
            searcher.on_trial_complete(str(trial), {METRIC: found[-1]["optim.lr"]})
        return [point["optim.lr"] for point in found]

    first = propose([], 3)
    again = propose([{"optim.lr": value} for value in first], 6)
    assert again[:3] == first
    assert len(set(again)) == 6


@pytest.mark.parametrize("domain", [spaces.randint(0, 2**32), spaces.randint(0, 2**62), spaces.lograndint(1, 10**8)])
def test_gaussian_processes_take_any_range_of_integers(domain):
    """Optuna's would enumerate all of them."""
    searcher = make("gp", {"seed": domain}, n_startup_trials=2)
    for trial in range(4):
        value = domain.finish(searcher.suggest(str(trial))["seed"])
        assert isinstance(value, int) and domain.lower <= value <= domain.upper
        searcher.on_trial_complete(str(trial), {METRIC: float(trial)})
