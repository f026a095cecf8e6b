"""Names, arguments and combinations of schedulers: what is accepted, what is refused, and with which message."""

import subprocess
import sys

import pytest

from automm_hpo.errors import AutoMMHPOError, InvalidInput, InvalidTuneSettings, Problems
from automm_hpo.hpo.scheduler_args import (
    LIVE_KEYS,
    SCHEDULER_ALIASES,
    SCHEDULER_ARGS,
    canonical_scheduler,
    check_scheduler,
    check_scheduler_args,
)
from automm_hpo.space import Choice, Float, Normal

NAMES = tuple(SCHEDULER_ARGS)
LIVE_SPACE = {"optim.lr": Float(1e-4, 1e-1, log=True), "optim.weight_decay": Float(0, 0.1)}


def refused(function, *arguments) -> str:
    with pytest.raises((InvalidTuneSettings, InvalidInput)) as caught:
        function(*arguments)
    assert isinstance(caught.value, AutoMMHPOError)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_names_in_any_case(name):
    assert {canonical_scheduler(spelling) for spelling in (name, name.lower(), name.upper(), f" {name} ")} == {name}


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("none", "FIFO"),
        ("FIFOScheduler", "FIFO"),
        ("asynchyperband", "ASHA"),
        ("async_hyperband", "ASHA"),
        ("Async HyperBand", "ASHA"),
        ("AsyncHyperBandScheduler", "ASHA"),
        ("hyper-band", "HyperBand"),
        ("hb_bohb", "BOHB"),
        ("HyperBandForBOHB", "BOHB"),
        ("median_stopping", "median"),
        ("MedianStoppingRule", "median"),
        ("median_stopping_policy", "median"),
        ("population_based_training", "PBT"),
        ("BanditPolicy", "bandit"),
        ("truncation_selection", "truncation"),
        ("TruncationSelectionPolicy", "truncation"),
    ],
)
def test_other_peoples_names(alias, name):
    assert canonical_scheduler(alias) == name


@pytest.mark.parametrize("other", ["ashaa", "", "random", 5, None, True, [], Ellipsis], ids=repr)
def test_what_is_no_name_is_left_for_the_error(other):
    assert canonical_scheduler(other) is other


def test_aliases_are_written_as_they_are_looked_up():
    assert all(alias.isalnum() and alias.islower() for alias in SCHEDULER_ALIASES)
    assert set(SCHEDULER_ALIASES.values()) == set(NAMES) == set(SCHEDULER_ARGS)


@pytest.mark.parametrize("key", sorted({key for args in SCHEDULER_ARGS.values() for key in args}))
def test_every_argument_is_documented_and_says_what_it_expects(key):
    field = next(args[key] for args in SCHEDULER_ARGS.values() if key in args)
    assert key.startswith("scheduler_init_args.")
    assert len(field.description) > 10
    assert field.expected


@pytest.mark.parametrize(
    ("name", "key", "good", "bad"),
    [
        ("ASHA", "max_t", ["8", 1, 2.5], [0, 0.5, "many", None, True, float("inf")]),
        ("HyperBand", "reduction_factor", ["2", 3, 2.5], [1, 0, -3, None, float("nan")]),
        ("HyperBand", "grace_period", [1, 2.5], [0, 0.5]),
        ("bandit", "slack_factor", [0, "0.1", 2], [-0.1, None, "a", float("nan")]),
        ("bandit", "slack_amount", [0, 0.1], [-0.1]),
        ("bandit", "evaluation_interval", [1, "2", 0.5], [0, -1, None]),
        ("bandit", "delay_evaluation", [0, 5, 0.5], [-1, None]),
        ("truncation", "truncation_percentage", [1, "20", 99, 20.0], [0, 100, 20.5, None, "a", True]),
        ("truncation", "exclude_finished_jobs", [True, False], [1, "true", None]),
        ("median", "min_samples_required", [1, "3"], [0, 1.5]),
        ("PBT", "quantile_fraction", [0.25, 0.5, "0.1"], [0, 0.51, -1]),
        ("PBT", "resample_probability", [0, 1, 0.25], [-0.1, 1.1]),
        ("PBT", "perturbation_factors", [(0.8, 1.2), ["0.5", 2]], [(0.8,), 1.2, (0, 1), (-1, 2), (1, 2, 3), None]),
        ("PB2", "perturbation_interval", [1, 0.5, "4"], [0, -1]),
    ],
)
def test_values(name, key, good, bad):
    key = f"scheduler_init_args.{key}"
    for value in good:
        SCHEDULER_ARGS[name][key].check(key, value, InvalidTuneSettings)
    for value in bad:
        assert refused(SCHEDULER_ARGS[name][key].check, key, value, InvalidTuneSettings).startswith(f"{key}: expected ")


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("ASHA", {"max_t": 2.0, "grace_period": 3.0}, ["grace_period <= max_t", "grace_period=3", "max_t=2"]),
        ("HyperBand", {"max_t": 2.0, "grace_period": 3.0}, ["grace_period <= max_t"]),
        ("bandit", {}, ["slack_factor", "slack_amount", "got neither"]),
        ("bandit", {"slack_factor": 0.1, "slack_amount": 0.1}, ["slack_factor", "slack_amount", "got both"]),
        ("truncation", {"evaluation_interval": 1.0}, ["needs truncation_percentage", "[1, 99]"]),
        ("median", {"delay_evaluation": 1.0, "grace_period": 1.0}, ["are the same"]),
    ],
)
def test_arguments_that_do_not_go_together(name, args, words):
    problems = Problems()
    check_scheduler_args(name, args, problems)
    said = refused(problems.raise_any)
    assert said.startswith("scheduler_init_args: ")
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("ASHA", {"max_t": 3.0, "grace_period": 3.0}),
        ("bandit", {"slack_amount": 0.0}),
        ("bandit", {"slack_factor": 0.1, "delay_evaluation": 5.0}),
        ("truncation", {"truncation_percentage": 20}),
        ("median", {}),
        ("median", {"grace_period": 5.0}),
        ("PBT", {}),
    ],
)
def test_arguments_that_go_together(name, args):
    problems = Problems()
    check_scheduler_args(name, args, problems)
    problems.raise_any()


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_together(name):
    check_scheduler(name, "bohb" if name == "BOHB" else "random", LIVE_SPACE)


def test_bohb_goes_with_bohb_only():
    assert "BOHB needs searcher='bohb', got 'bayes'" in refused(check_scheduler, "BOHB", "bayes", LIVE_SPACE)
    for name in set(NAMES) - {"BOHB"}:
        said = refused(check_scheduler, name, "bohb", LIVE_SPACE)
        assert "bohb needs scheduler='BOHB'" in said
        assert repr(name) in said


def test_names_that_populations_use_themselves_are_refused():
    said = refused(check_scheduler, "PBT", "random", {"trial": Float(0, 1), "x": Float(0, 1)}, ("trial", "x"))
    assert "PBT reserves the name trial; rename the hyperparameter" in said
    check_scheduler("ASHA", "random", {"trial": Float(0, 1)}, ("trial",))


@pytest.mark.parametrize("name", ["PBT", "PB2"])
def test_populations_change_live_hyperparameters_only(name):
    space = LIVE_SPACE | {"optim.optim_type": Choice(("adamw", "sgd")), "env.batch_size": Choice((16, 32))}
    said = refused(check_scheduler, name, "random", space)
    assert name in said
    assert "cannot change optim.optim_type, env.batch_size." in said
    assert all(key in said for key in LIVE_KEYS)
    assert set(LIVE_KEYS) >= {"optim.lr", "optim.weight_decay"}
    assert "those of a function or class that saves checkpoints, and this one yields" in refused(check_scheduler, name, "random", space, ())
    check_scheduler(name, "random", {"own": Float(0, 1)}, ("own",))


def test_pb2_takes_ranges_only():
    space = {"optim.lr": Choice((1e-3, 1e-2)), "optim.weight_decay": Float(0, 1)}
    assert "optim.lr is a choice" in refused(check_scheduler, "PB2", "random", space)
    check_scheduler("PBT", "random", space)
    check_scheduler("PB2", "random", {"optim.lr": Normal(0.1, 0.01)})


def test_a_space_without_values_of_its_own_is_refused():
    assert "optim.lr is neither" in refused(check_scheduler, "PBT", "random", {"optim.lr": object()})


def test_all_problems_are_told_together():
    said = refused(check_scheduler, "PB2", "bohb", {"optim.lr": Choice((1e-3, 1e-2)), "optim.optim_type": Choice(("adamw", "sgd"))})
    assert said.startswith("3 problems")


def test_needs_neither_ray_nor_torch():
    code = "import sys, automm_hpo.hpo.scheduler_args; print([name for name in ('torch', 'ray') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
