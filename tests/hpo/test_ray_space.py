"""Ray's search-space objects become ours with exactly Ray's bounds, or are refused by name."""

import copy
import sys

import numpy as np
import optuna
import pytest
from ray import tune
from ray.tune.search.sample import Categorical

from automm_hpo.config import Config
from automm_hpo.errors import AutoMMHPOError, InvalidHyperparameter, InvalidInput, InvalidSpace, NotSupported, UnknownHyperparameter
from automm_hpo.hpo.ray_space import FIXED_IN_SEARCH, candidate_configs, split_hyperparameters, to_optuna, to_space, values_of
from automm_hpo.space import Choice, Float, Int, Normal, draw_space

CONVERSIONS = {
    "uniform": (lambda: tune.uniform(0.1, 0.7), Float(0.1, 0.7)),
    "quniform": (lambda: tune.quniform(0.1, 0.7, 0.2 / 2), Float(0.1, 0.7, step=0.1)),
    "loguniform": (lambda: tune.loguniform(1e-5, 1e-2), Float(1e-5, 1e-2, log=True)),
    "qloguniform": (lambda: tune.qloguniform(1e-4, 1e-1, 1e-4), Float(1e-4, 1e-1, log=True, step=1e-4)),
    "randint": (lambda: tune.randint(2, 6), Int(2, 5)),
    "randint of one": (lambda: tune.randint(5, 6), Int(5, 5)),
    "qrandint": (lambda: tune.qrandint(4, 12, 4), Int(4, 12, step=4)),
    "qrandint off the ends": (lambda: tune.qrandint(1, 11, 3), Int(1, 11, step=3)),
    "qrandint by 1": (lambda: tune.qrandint(1, 4), Int(1, 3)),
    "lograndint": (lambda: tune.lograndint(1, 5), Int(1, 4, log=True)),
    "qlograndint": (lambda: tune.qlograndint(2, 8, 2), Int(2, 8, log=True, step=2)),
    "qlograndint by 1": (lambda: tune.qlograndint(1, 4, 1), Int(1, 3, log=True)),
    "numpy bounds": (lambda: tune.randint(np.int64(2), np.int32(6)), Int(2, 5)),
    "numpy floats": (lambda: tune.uniform(np.float32(0.5), np.float64(0.75)), Float(0.5, 0.75)),
    "randn": (lambda: tune.randn(0.5, 0.1), Normal(0.5, 0.1)),
    "qrandn": (lambda: tune.qrandn(0.5, 0.1, 0.05), Normal(0.5, 0.1, step=0.05)),
    "choice": (lambda: tune.choice(["a", None, 3]), Choice(("a", None, 3))),
    "choice of lists": (lambda: tune.choice([["a"], []]), Choice((["a"], []))),
}


@pytest.mark.parametrize(("build", "space"), CONVERSIONS.values(), ids=CONVERSIONS)
def test_conversion(build, space):
    assert to_space("optim.lr", build()) == space
    assert to_space("optim.lr", space) is space


@pytest.mark.parametrize("name", [name for name, (_, space) in CONVERSIONS.items() if isinstance(space, Int)])
def test_integers_take_exactly_the_values_that_ray_draws(name):
    build, space = CONVERSIONS[name]
    domain, rng = build(), np.random.default_rng(0)
    assert {space.finish(space.draw(rng)) for _ in range(800)} == {domain.sample(random_state=rng) for _ in range(800)}


@pytest.mark.parametrize("name", [name for name, (_, space) in CONVERSIONS.items() if isinstance(space, (Float, Normal))])
def test_floats_have_the_range_and_the_spread_that_ray_draws(name):
    build, space = CONVERSIONS[name]
    domain, rng = build(), np.random.default_rng(0)
    ours = np.array([space.finish(space.draw(rng)) for _ in range(2_000)])
    rays = np.asarray(domain.sample(size=2_000, random_state=rng), dtype=float)
    low, high = space.corners()
    assert low <= ours.min() <= ours.max() <= high
    if isinstance(space, Float):
        assert low - 1e-9 <= rays.min() <= rays.max() <= high + 1e-9
    quantiles = np.linspace(0.1, 0.9, 9)
    near = max(0.1 * (np.quantile(rays, 0.95) - np.quantile(rays, 0.05)), 1.01 * (space.step or 0))
    assert np.quantile(ours, quantiles) == pytest.approx(np.quantile(rays, quantiles), abs=near)


def choice_of_groups():
    return tune.choice([{"optim_type": "sgd", "lr": tune.loguniform(1e-3, 1e-1)}, {"optim_type": "adamw"}])


@pytest.mark.parametrize(
    ("hyperparameters", "words"),
    [
        ({"optim.lr": tune.grid_search([1e-3, 1e-4])}, ["optim.lr", "grid_search", "tune.choice"]),
        ({"optim.lr": {"grid_search": [1e-3]}}, ["optim.lr", "grid_search"]),
        ({"optim": {"lr": {"grid_search": [1e-3]}}}, ["optim.lr", "grid_search"]),
        ({"optim.lr": Categorical([1e-3, 1e-4]).grid()}, ["optim.lr", "grid_search"]),
        ({"optim.lr": tune.sample_from(lambda config: 1e-3)}, ["optim.lr", "sample_from"]),
        ({"optim.lr": tune.choice([1e-3, tune.uniform(0.1, 0.2)])}, ["optim.lr", "inside a choice"]),
        ({"optim.lr": tune.choice([1e-3, {"grid_search": [1]}])}, ["optim.lr", "inside a choice"]),
        ({"optim.lr": tune.choice([tune.sample_from(lambda config: 1)])}, ["optim.lr", "inside a choice"]),
        ({"optim": choice_of_groups()}, ["optim:", "group", "single keys"]),
        ({"optimization": choice_of_groups()}, ["optim:", "group", "single keys"]),
        ({"model": {"timm_image": choice_of_groups()}}, ["model.timm_image:", "group", "single keys"]),
        ({"model.timm_image": {"grid_search": [{}]}}, ["model.timm_image:", "group"]),
    ],
)
def test_kinds_that_no_searcher_takes_are_refused_by_name(hyperparameters, words):
    with pytest.raises(NotSupported) as caught:
        split_hyperparameters(hyperparameters)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert isinstance(caught.value, NotImplementedError)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("optim.lr", tune.choice([]), ["at least one option"]),
        ("optim.lr", tune.uniform(0.2, 0.1), ["lower < upper", "0.2"]),
        ("optim.lr", tune.uniform(0.1, 0.1), ["lower < upper"]),
        ("optim.max_epochs", tune.randint(5, 5), ["no whole number"]),
        ("optim.max_epochs", tune.lograndint(5, 3), ["no whole number"]),
        ("optim.max_epochs", tune.qrandint(5, 7, 4), ["no multiple of 4"]),
        ("optim.max_epochs", tune.randint(1, 4.5), ["whole numbers", "4.5"]),
        ("optim.max_epochs", tune.randint("1", 4), ["whole numbers", "'1'"]),
        ("optim.max_epochs", tune.qrandint(1, 9, 2.5), ["whole numbers", "2.5"]),
        ("optim.max_epochs", tune.qrandint(1, 9, 0), ["step > 0"]),
        ("optim.lr", tune.uniform(0, 0.1), ["finite float > 0", "got 0.0"]),
        ("optim.lr", tune.uniform(-0.1, 0.1), ["finite float > 0", "-0.1"]),
        ("optim.lr", tune.randn(0, 1), ["finite float > 0", "-4"]),
        ("optim.momentum", tune.uniform(0.5, 1), ["[0, 1)", "got 1.0"]),
        ("optim.max_epochs", tune.randint(0, 4), ["integer >= 1", "got 0"]),
        ("optim.max_steps", tune.randint(-1, 4), ["or -1 for no limit", "got 0"]),
        ("model.timm_image.image_size", tune.qrandint(4, 64, 4), ["[8, 4096]", "got 4"]),
        ("optim.max_epochs", tune.uniform(1, 9), ["whole numbers", "randint"]),
        ("optim.max_epochs", tune.quniform(1, 9, 1), ["whole numbers", "randint"]),
        ("optim.max_epochs", tune.loguniform(1, 9), ["whole numbers", "randint"]),
        ("optim.max_epochs", tune.uniform(1.5, 9.5), ["integer >= 1", "got 1.5"]),
        ("optim.optim_type", tune.choice(["adamw", "sgdd"]), ["one of 'adamw', 'sgd'", "Did you mean sgd?"]),
        ("optim.optim_type", tune.uniform(0, 1), ["one of 'adamw', 'sgd'"]),
        ("model.timm_image.pretrained", tune.randint(0, 2), ["True or False"]),
        ("optim.lr", tune.choice([1e-3, True]), ["got True"]),
        ("optim.lr", tune.choice([1e-3, {"lr": 1}]), ["got {'lr': 1}"]),
        ("optim.lr", tune.choice([1e-3, float("nan")]), ["got nan"]),
        ("optim.lr", tune.choice([[1e-3]]), ["got [0.001]"]),
        *((key, tune.choice([0, 1]), [f"{key} cannot vary"]) for key in FIXED_IN_SEARCH),
    ],
)
def test_spaces_that_cannot_be_searched(key, value, words):
    with pytest.raises((InvalidSpace, InvalidInput)) as caught:
        split_hyperparameters({key: value})
    assert all(word in str(caught.value) for word in [key, *words]), str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_options_are_stored_as_their_field_stores_them():
    _, space = split_hyperparameters(
        {
            "optim.max_epochs": tune.choice(["4", 8.0, np.int64(16)]),
            "optim.lr": tune.choice(["1e-3", 1]),
            "model.timm_image.train_transforms": tune.choice([[], ["random_crop"]]),
            "model.timm_image.pretrained": tune.choice(np.array([True, False])),
            "model.timm_image.image_size": tune.choice([None, "32"]),
        }
    )
    assert {key: domain.options for key, domain in space.items()} == {
        "optim.max_epochs": (4, 8, 16),
        "optim.lr": (0.001, 1.0),
        "model.timm_image.train_transforms": ((), ("random_crop",)),
        "model.timm_image.pretrained": (True, False),
        "model.timm_image.image_size": (None, 32),
    }


def test_fixed_values_and_spaces_are_told_apart_under_their_one_name():
    lr = tune.loguniform(1e-4, 1e-2)
    fixed, space = split_hyperparameters(
        {"optimization": {"learning_rate": lr, "max_epochs": "4"}, "env.precision": 32, "optim.momentum": tune.uniform(0.5, 0.9)}
    )
    assert fixed == {"optim.max_epochs": 4, "env.precision": "32"}
    assert list(space.items()) == [("optim.lr", Float(1e-4, 1e-2, log=True)), ("optim.momentum", Float(0.5, 0.9))]


def test_automms_own_tutorial_is_understood():
    fixed, space = split_hyperparameters(
        {
            "optimization.learning_rate": tune.uniform(0.00005, 0.001),
            "model.timm_image.checkpoint_name": tune.choice(["ghostnet_100", "mobilenetv3_large_100"]),
            "optimization.optim_type": tune.choice(["adamw", "sgd"]),
            "optimization.max_epochs": tune.choice(["10", "20"]),
        }
    )
    assert not fixed
    assert space == {
        "optim.lr": Float(0.00005, 0.001),
        "model.timm_image.checkpoint_name": Choice(("ghostnet_100", "mobilenetv3_large_100")),
        "optim.optim_type": Choice(("adamw", "sgd")),
        "optim.max_epochs": Choice((10, 20)),
    }


def test_all_problems_are_reported_together():
    with pytest.raises(InvalidInput) as caught:
        split_hyperparameters(
            {
                "optim": {"learning_rate": tune.uniform(-1, 1), "max_epochs": "ten"},
                "optimization.momentum": 2,
                "lr": 1,
                "env": 5,
                "optim.patience": tune.sample_from(lambda config: 1),
                "data.image": tune.choice([{}]),
                "optim.optim_type": tune.choice(["adam", "sgdd"]),
            }
        )
    found = {(type(problem).__name__, str(problem).removeprefix("search space of ").split(":")[0]) for problem in caught.value.problems}
    assert found == {
        ("InvalidSpace", "optim.lr"),
        ("InvalidHyperparameter", "optim.max_epochs"),
        ("InvalidHyperparameter", "optim.momentum"),
        ("UnknownHyperparameter", "lr"),
        ("InvalidHyperparameter", "env"),
        ("NotSupported", "optim.patience"),
        ("NotSupported", "data.image"),
        ("InvalidSpace", "optim.optim_type"),
    }


@pytest.mark.parametrize("value", [5, None, "sgd", [("lr", 1)], True])
def test_a_group_takes_a_dict(value):
    with pytest.raises(InvalidHyperparameter, match=r"^optim: is a group .* expected a dict of them, got "):
        split_hyperparameters({"optim": value})


@pytest.mark.parametrize("value", [5, "abc", ["optim.lr"]])
def test_hyperparameters_must_be_a_dict(value):
    with pytest.raises(InvalidHyperparameter, match="expected a dict of dotted keys"):
        split_hyperparameters(value)


def test_later_layers_win_under_any_name():
    fixed, space = split_hyperparameters(
        {"optim.lr": 1, "env.batch_size": 8, "optim.momentum": 0.5}, {"optimization": {"learning_rate": 2}}, {"optim.momentum": tune.uniform(0.1, 0.2)}
    )
    assert fixed == {"optim.lr": 2.0, "env.batch_size": 8}
    assert list(space) == ["optim.momentum"]
    with pytest.raises(UnknownHyperparameter, match="batchsize"):
        split_hyperparameters({"env.batchsize": 8}, {})


def test_the_callers_dict_is_not_changed():
    given = {"optim": {"learning_rate": "1e-3", "max_epochs": tune.choice(["4"])}, "model.timm_image.train_transforms": ["random_crop"]}
    before, options = copy.copy(given), given["optim"]["max_epochs"].categories
    split_hyperparameters(given)
    assert given == before
    assert given["optim"]["learning_rate"] == "1e-3"
    assert options == ["4"]


SEARCHABLE = {
    "optim.lr": Float(1e-5, 1e-2, log=True),
    "optim.momentum": Float(0.0, 0.3, step=0.1),
    "optim.weight_decay": Float(0, 1),
    "optim.max_epochs": Int(1, 7),
    "optim.patience": Int(1, 10, step=3),
    "env.batch_size": Int(1, 64, log=True, step=16),
    "optim.optim_type": Choice(("adamw", "sgd")),
    "model.timm_image.train_transforms": Choice(((), ("random_crop",))),
}


def test_optunas_proposals_finish_within_the_space():
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=60))
    seen = {key: set() for key in SEARCHABLE}
    for _ in range(70):
        trial = study.ask(to_optuna(SEARCHABLE))
        values = {key: SEARCHABLE[key].finish(raw) for key, raw in trial.params.items()}
        Config().with_overrides(values)
        for key, value in values.items():
            corners = SEARCHABLE[key].corners()
            assert value in corners if isinstance(SEARCHABLE[key], Choice) else corners[0] <= value <= corners[1]
            seen[key].add(value)
        study.tell(trial, values["optim.lr"])
    assert seen["optim.max_epochs"] == set(range(1, 8))
    assert seen["optim.momentum"] == {0.0, 0.1, 0.2, 0.3}
    assert seen["optim.patience"] == {3, 6, 9}
    assert seen["env.batch_size"] == {16, 32, 48, 64}


def test_every_random_draw_makes_a_valid_config():
    for trial in range(50):
        drawn = draw_space(SEARCHABLE, seed=0, trial=trial)
        Config().with_overrides({key: SEARCHABLE[key].finish(raw) for key, raw in drawn.items()})


def test_optuna_has_no_normal_distribution():
    with pytest.raises(InvalidInput) as caught:
        to_optuna({"optim.lr": Normal(1, 0.1), "optim.momentum": Normal(0.5, 0.1), "optim.max_epochs": Int(1, 3)})
    assert [type(problem) for problem in caught.value.problems] == [NotSupported, NotSupported]
    assert all(word in str(caught.value) for word in ("optim.lr", "optim.momentum", "searcher='random'"))


def test_candidates_are_all_options_and_both_ends():
    space = {"model.timm_image.checkpoint_name": Choice(("a", "b")), "model.timm_image.image_size": Int(32, 64, step=8), "optim.lr": Float(0.1, 0.2)}
    found = candidate_configs(Config(), space, ("model.timm_image.checkpoint_name", "model.timm_image.image_size"))
    assert [(one.model.timm_image.checkpoint_name, one.model.timm_image.image_size) for one in found] == [("a", 32), ("a", 64), ("b", 32), ("b", 64)]
    assert values_of("optim.lr", Config(), space) == [0.1, 0.2]
    assert values_of("optim.max_epochs", Config(), space) == [20]


def test_without_a_space_nothing_of_ray_is_needed(monkeypatch):
    monkeypatch.delitem(sys.modules, "ray.tune.search.sample")
    assert split_hyperparameters({"optim": {"lr": 1}}) == ({"optim.lr": 1.0}, {})
    with pytest.raises(NotSupported, match="grid_search"):
        split_hyperparameters({"optim.lr": {"grid_search": [1]}})
    assert "ray.tune.search.sample" not in sys.modules


@pytest.mark.parametrize("error", [InvalidSpace, NotSupported])
def test_the_errors_are_ours(error):
    assert issubclass(error, AutoMMHPOError)
