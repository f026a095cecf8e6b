"""``hyperparameter_tune_kwargs``: what is accepted, what is refused, and with which message."""

import copy
import os
from enum import Enum

import pytest

from automm_hpo.config import Config
from automm_hpo.errors import AutoMMHPOError, InvalidInput, InvalidTuneSettings, NotSupported
from automm_hpo.hpo.job import resolve_settings
from automm_hpo.hpo.scheduler_args import SCHEDULER_ARGS
from automm_hpo.hpo.schedulers import SCHEDULERS, build_scheduler
from automm_hpo.hpo.searcher_args import SEARCHER_ARGS
from automm_hpo.hpo.searchers import SEARCHERS
from automm_hpo.hpo.settings import FIELDS, TuneSettings, check_resources, local_resources, parse_tune_settings
from automm_hpo.presets import TUNE_PRESETS
from automm_hpo.space import Choice, Float

COUNTS = ["num_trials", "num_to_keep", "keep_trials", "max_concurrent_trials"]
INIT_ARGS = SEARCHER_ARGS | SCHEDULER_ARGS
SPACE = {"optim.lr": Float(1e-4, 1e-2, log=True), "optim.optim_type": Choice(("adamw", "sgd"))}


def refused(given):
    """The message of the refusal."""
    with pytest.raises((InvalidTuneSettings, InvalidInput)) as caught:
        parse_tune_settings(given)
    assert isinstance(caught.value, AutoMMHPOError)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


def test_none_is_no_choice_of_a_searcher_and_a_scheduler_that_ends_no_trial():
    assert parse_tune_settings({"searcher": None, "scheduler": None}) == parse_tune_settings({"scheduler": "FIFO"})


@pytest.mark.parametrize(
    ("given", "searcher"),
    [("auto", "random"), ({"searcher": None}, "random"), ({"searcher": "grid"}, "grid")],
)
def test_a_grid_is_gone_through_unless_a_searcher_is_named_that_cannot(given, searcher):
    space = {"optim.lr": Choice((0.1, 0.2), exhaustive=True)}
    assert resolve_settings(parse_tune_settings(given), space).searcher == searcher
    assert resolve_settings(parse_tune_settings("auto"), SPACE).searcher == "bayes"
    for named in ("bayes", {"searcher_init_args": {"multivariate": True}}):
        with pytest.raises(NotSupported, match="cannot take grid_search"):
            resolve_settings(parse_tune_settings(named), space)


@pytest.mark.parametrize("key", FIELDS)
def test_every_setting_is_documented_and_says_what_it_expects(key):
    assert len(FIELDS[key].description) > 10
    assert FIELDS[key].expected


@pytest.mark.parametrize("key", [key for args in INIT_ARGS.values() for key in args])
def test_every_argument_is_documented_and_says_what_it_expects(key):
    field = next(args[key] for args in INIT_ARGS.values() if key in args)
    assert len(field.description) > 10
    assert field.expected


def test_an_empty_dict_has_the_defaults():
    assert parse_tune_settings({}) == TuneSettings()
    assert (TuneSettings().num_to_keep, TuneSettings().resources, TuneSettings().concurrency) == (3, {}, None)


@pytest.mark.parametrize("name", TUNE_PRESETS)
def test_presets_are_settings_by_name(name):
    assert parse_tune_settings(name) == parse_tune_settings(name.upper()) == parse_tune_settings(TUNE_PRESETS[name])


@pytest.mark.parametrize(("given", "words"), [("rando", "Did you mean random?"), ("", "auto, bayes, random"), ("hpo", "auto, bayes, random")])
def test_misspelt_presets(given, words):
    assert words in refused(given)


@pytest.mark.parametrize("given", [None, 5, [], ["auto"], True, {"num_trials"}])
def test_settings_are_a_dict_or_a_name(given):
    assert refused(given).startswith("hyperparameter_tune_kwargs: expected a dict or a preset's name, got ")


@pytest.mark.parametrize("key", COUNTS)
def test_counts(key):
    for value in (1, "3", 7.0, 10**6):
        assert getattr(parse_tune_settings({key: value}), key) == int(value)
    for value in (0, -1, 2.5, "many", True, float("nan"), float("inf"), [1], {}):
        assert refused({key: value}).startswith(f"{key}: expected an integer >= 1")


@pytest.mark.parametrize(
    ("key", "here"),
    [
        ("max_total_runs", "num_trials"),
        ("primary_metric_goal", "mode"),
        ("search_alg", "searcher"),
        ("time_limit", "time_limit, in seconds, an argument of the call itself"),  # not trial_time_limit
        ("seed", "seed, an argument of the call itself"),
    ],
)
def test_what_others_call_it(key, here):
    assert f"unknown key {key!r}. Here that is {here}. Known: " in refused({key: 1})


@pytest.mark.parametrize(
    ("key", "given", "ours"),
    [
        ("searcher", "RandomParameterSampling", "random"),
        ("searcher", "BayesianParameterSampling", "bayes"),
        ("searcher", "grid search", "grid"),
        ("scheduler", "NoTerminationPolicy", "FIFO"),
    ],
)
def test_hyperdrives_classes_by_name(key, given, ours):
    assert getattr(parse_tune_settings({key: given}), key) == ours


def test_what_is_known_is_listed_once():
    assert refused({"max_total_runs": 1, "policy": 1, "num_trails": 1}).count("Known: ") == 1


@pytest.mark.parametrize("mode", ["MAXIMIZE", "maximize", "max", Enum("PrimaryMetricGoal", ["MAXIMIZE"]).MAXIMIZE])
def test_hyperdrives_goal_in_any_form(mode):
    assert parse_tune_settings({"mode": mode}).mode == "max"


def test_deterministic_means_one_trial_at_a_time():
    assert parse_tune_settings({"deterministic": True, "max_concurrent_trials": 4}).concurrency == 1
    assert parse_tune_settings({"max_concurrent_trials": 4}).concurrency == 4
    assert parse_tune_settings({"max_concurrent_trials": None}).concurrency is None
    assert "True or False" in refused({"deterministic": 1})


@pytest.mark.parametrize("key", ["searcher", "scheduler"])
def test_names_in_any_case_and_the_nearest_where_misspelt(key):
    for option in FIELDS[key].options:
        assert getattr(parse_tune_settings({key: option.upper()}), key) == option
        assert getattr(parse_tune_settings({key: option.lower()}), key) == option
        said = refused({key: option + "x"})
        assert all(f"{other!r}" in said for other in FIELDS[key].options)
        assert f"Did you mean {option}?" in said
    for value in (5, True, [], object()):
        assert refused({key: value}).startswith(f"{key}: expected one of")


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("num_trails", "num_trials"),
        ("num_trial", "num_trials"),
        ("Searcher", "searcher"),
        ("num_samples", "num_trials, "),
        ("resources", "resources_per_trial"),
        (5, "Known:"),
    ],
)
def test_unknown_keys_come_with_a_suggestion(key, suggestion):
    said = refused({key: 1})
    assert f"unknown key {key!r}" in said
    assert suggestion in said


@pytest.mark.parametrize(
    ("given", "resources"),
    [
        (None, {}),
        ({}, {}),
        ({"cpu": 1, "gpu": 0.5}, {"cpu": 1.0, "gpu": 0.5}),
        ({"num_cpus": 2, "num_gpus": 0}, {"cpu": 2.0, "gpu": 0.0}),
        ({"num_cpus": "0.5"}, {"cpu": 0.5}),
        ({"gpu": 0.25}, {"gpu": 0.25}),
    ],
)
def test_resources(given, resources):
    assert parse_tune_settings({"resources_per_trial": given}).resources == resources


@pytest.mark.parametrize(
    "given",
    [
        {"cpu": True},
        {"gpu": False},
        {"cpu": -1},
        {"cpu": 0},
        {"num_cpus": 0.0},
        {"gpu": -0.5},
        {"cpu": float("nan")},
        {"cpu": float("inf")},
        {"cpu": "one"},
        {"cpu": None},
        {"cpu": 1, "num_cpus": 1},
        {"cpus": 1},
        {"GPU": 1},
        {"tpu": 1},
        {1: 1},
        5,
        "cpu",
        ["cpu"],
    ],
    ids=repr,
)
def test_resources_that_cannot_be(given):
    said = refused({"resources_per_trial": given})
    assert said.startswith("resources_per_trial: expected a dict like {'cpu': 1, 'gpu': 0.5}")
    assert repr(given) in said


def test_more_resources_than_exist_are_refused():
    available = {"cpu": 4.0, "gpu": 2.0}
    for fits in ({}, {"cpu": 4}, {"gpu": 2, "cpu": 0.1}, {"num_gpus": 0.5}):
        check_resources(parse_tune_settings({"resources_per_trial": fits}), available)
    for given, words in (
        ({"cpu": 4.5}, "needs 4.5 cpu, but only 4 are"),
        ({"num_gpus": 3}, "needs 3 gpu, but only 2 are"),
        ({"cpu": 5, "gpu": 3}, "2 problems"),
    ):
        with pytest.raises((InvalidTuneSettings, InvalidInput)) as caught:
            check_resources(parse_tune_settings({"resources_per_trial": given}), available)
        assert words in str(caught.value)
    with pytest.raises(InvalidTuneSettings, match="needs 1 cpu, but only 0 are"):
        check_resources(TuneSettings(), {"cpu": 0.0, "gpu": 0.0})
    with pytest.raises(InvalidTuneSettings, match="only 0 are"):
        check_resources(parse_tune_settings({"resources_per_trial": {"gpu": 0.1}}), {"cpu": 1.0, "gpu": 0.0})


def test_the_resources_of_this_machine_are_counted():
    found = local_resources()
    assert set(found) == {"cpu", "gpu"}
    assert 1 <= found["cpu"] <= os.cpu_count()


# ------------------------------------------------------------------------------------------- searcher and scheduler arguments


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"searcher_init_args": {"n_startup_trial": 3}}, ["bayes takes n_startup_trials", "Did you mean n_startup_trials?"]),
        ({"searcher": "random", "searcher_init_args": {"n_startup_trials": 3}}, ["random takes no arguments", "'n_startup_trials'"]),
        ({"searcher_init_args": {"seed": 3}}, ["'seed'"]),
        ({"searcher_init_args": {"n_startup_trials": -1}}, ["searcher_init_args.n_startup_trials: expected an integer >= 0"]),
        ({"searcher_init_args": {"n_startup_trials": "ten"}}, ["searcher_init_args.n_startup_trials", "'ten'"]),
        ({"searcher_init_args": {"n_ei_candidates": 0}}, ["n_ei_candidates: expected an integer >= 1"]),
        ({"searcher_init_args": {"multivariate": "yes"}}, ["multivariate: expected True or False"]),
        ({"searcher_init_args": {"group": True, "multivariate": False}}, ["group", "multivariate"]),
        ({"searcher_init_args": [("group", True)]}, ["searcher_init_args: expected a dict"]),
        ({"searcher_init_args": None}, ["searcher_init_args: expected a dict"]),
        ({"searcher_init_args": {1: 2}}, ["searcher_init_args: expected a dict"]),
        ({"scheduler_init_args": {"max_time": 3}}, ["ASHA takes max_t, grace_period", "Did you mean max_t"]),
        ({"scheduler_init_args": {"metric": "x"}}, ["'metric'"]),
        ({"scheduler": "fifo", "scheduler_init_args": {"max_t": 3}}, ["FIFO takes no arguments", "'max_t'"]),
        ({"scheduler_init_args": {"max_t": 2, "grace_period": 3}}, ["grace_period <= max_t", "grace_period=3", "max_t=2"]),
        ({"scheduler_init_args": {"max_t": "2", "grace_period": "10"}}, ["grace_period <= max_t"]),
        ({"scheduler_init_args": {"max_t": 0}}, ["scheduler_init_args.max_t: expected a number >= 1"]),
        ({"scheduler_init_args": {"max_t": float("inf")}}, ["max_t: expected a number >= 1"]),
        ({"scheduler_init_args": {"grace_period": True}}, ["grace_period: expected a number >= 1"]),
        ({"scheduler_init_args": {"grace_period": None}}, ["grace_period: expected a number >= 1"]),
        ({"scheduler_init_args": {"reduction_factor": 1}}, ["reduction_factor: expected a number > 1"]),
        ({"scheduler_init_args": {"brackets": 1.5}}, ["brackets: expected an integer >= 1"]),
    ],
)
def test_arguments_that_cannot_be(given, words):
    said = refused(given)
    assert all(word in said for word in words), said


def test_arguments_are_stored_as_numbers():
    args = {"max_t": "8", "grace_period": "2", "reduction_factor": "2.5", "brackets": "1"}
    assert parse_tune_settings({"scheduler_init_args": args}).scheduler_init_args == {"max_t": 8, "grace_period": 2, "reduction_factor": 2.5, "brackets": 1}
    assert args["max_t"] == "8"
    assert parse_tune_settings({"searcher_init_args": {"n_startup_trials": 4.0}}).searcher_init_args == {"n_startup_trials": 4}


@pytest.mark.parametrize(("max_epochs", "warmup_epochs"), [(1, 0.0), (5, 0.5), (5, 2.5)])
@pytest.mark.parametrize(
    "args",
    [{}, {"max_t": 4, "grace_period": 4}, {"max_t": 4}, {"grace_period": 1}, {"reduction_factor": 1.1, "brackets": 5}, {"max_t": 1}, {"grace_period": 9}],
    ids=repr,
)
def test_the_library_takes_the_schedulers_arguments(args, max_epochs, warmup_epochs):
    build_scheduler(parse_tune_settings({"scheduler_init_args": args}), SPACE, max_epochs, warmup_epochs, 0)


def test_every_name_has_its_arguments_and_its_builder():
    assert set(SEARCHER_ARGS) == set(SEARCHERS)
    assert set(SCHEDULER_ARGS) == set(SCHEDULERS)


# ---------------------------------------------------------------------------------------------------------------- the whole dict


def test_all_problems_are_reported_together():
    with pytest.raises(InvalidInput) as caught:
        parse_tune_settings(
            {
                "num_trails": 5,
                "num_to_keep": 0,
                "scheduler": "ASHAA",
                "scheduler_init_args": {"whose": 1},
                "searcher_init_args": {"n_startup_trial": 3, "group": 5},
                "resources_per_trial": {"cpu": 0},
            }
        )
    found = [str(problem).split(":")[0] for problem in caught.value.problems]
    assert sorted(found) == sorted(
        ["hyperparameter_tune_kwargs", "num_to_keep", "scheduler", "resources_per_trial", "searcher_init_args", "searcher_init_args.group"]
    )


def test_the_callers_dict_and_the_presets_are_not_changed():
    given = {"searcher": "BAYES", "scheduler_init_args": {"max_t": "3"}, "resources_per_trial": {"num_cpus": 1}}
    before, presets = copy.deepcopy(given), copy.deepcopy(TUNE_PRESETS)
    settings = parse_tune_settings(given)
    assert given == before
    assert settings.scheduler_init_args is not given["scheduler_init_args"]
    parse_tune_settings("auto")
    assert presets == TUNE_PRESETS


def test_the_time_limit_and_the_seed_are_fits():
    for key in ("seed", "time_limit"):
        assert "unknown key" in refused({key: 1})
    assert not FIELDS.keys() & Config().flat().keys()
