"""The user's dicts become fixed values and checked spaces, or are refused with the key's name."""

import copy
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from ray import tune
from ray.tune.search.sample import Categorical

from automm_hpo import space as words
from automm_hpo.config import FIELDS, Config
from automm_hpo.errors import AutoMMHPOError, InvalidHyperparameter, InvalidInput, InvalidSpace, NotSupported, UnknownHyperparameter
from automm_hpo.hpo.hyperparameter_space import (
    candidate_configs,
    point_to_raw,
    split_hyperparameters,
    values_of,
)
from automm_hpo.space import Branch, Branches, Choice, Float, Int, draw_space, finish_proposal, sample_from
from automm_hpo.space import Categorical as CategoricalOf

BRANCHES = [
    {"optim_type": "sgd", "learning_rate": tune.loguniform(1e-3, 1e-1), "momentum": tune.choice(["0.8", 0.9])},
    {"optim_type": "adamw", "lr": tune.loguniform(1e-5, 1e-3)},
]
OPTIM = Branches(
    (
        Branch({"optim.optim_type": "sgd"}, {"optim.lr": Float(1e-3, 1e-1, log=True), "optim.momentum": Choice((0.8, 0.9))}),
        Branch({"optim.optim_type": "adamw"}, {"optim.lr": Float(1e-5, 1e-3, log=True)}),
    )
)


@pytest.mark.parametrize("choose", [tune.choice, words.choice, lambda options: words.choice(*options), lambda options: CategoricalOf(*options)])
@pytest.mark.parametrize("group", ["optim", "optimization"])
def test_a_group_may_hold_a_choice_of_dicts(choose, group):
    fixed, space = split_hyperparameters({"env.batch_size": 8, group: choose(BRANCHES)})
    assert (fixed, space) == ({"env.batch_size": 8}, {"optim": OPTIM})


def test_a_group_may_hold_a_grid_of_dicts():
    for grid in (tune.grid_search(BRANCHES), words.grid_search(BRANCHES), Categorical(BRANCHES).grid()):
        _, space = split_hyperparameters({"optim": grid})
        assert space == {"optim": Branches(OPTIM.options, exhaustive=True)}


def test_groups_within_groups():
    inner = tune.choice([{"drop_rate": tune.uniform(0, 0.5)}, {"drop_path_rate": 0.1}])
    expected = Branches((Branch({}, {"model.timm_image.drop_rate": Float(0, 0.5)}), Branch({"model.timm_image.drop_path_rate": 0.1}, {})))
    assert split_hyperparameters({"model": {"timm_image": inner}}) == ({}, {"model.timm_image": expected})
    _, space = split_hyperparameters({"model": tune.choice([{"timm_image": inner}, {"timm_image": {"image_size": 64}}, {"timm_image.image_size": 32}, {}])})
    options = space["model"].options
    assert options[0] == Branch({}, {"model.timm_image": expected})
    assert [dict(branch.fixed) for branch in options] == [{}, {"model.timm_image.image_size": 64}, {"model.timm_image.image_size": 32}, {}]
    assert "model[0].timm_image[0].drop_rate" in {path for trial in range(30) for path in draw_space(space, 0, trial)}


def test_a_choice_of_one_hyperparameter_may_hold_spaces():
    _, space = split_hyperparameters({"optim.momentum": tune.choice(["0", tune.uniform(0.8, 0.9), {"grid_search": [0.5]}])})
    assert space == {
        "optim.momentum": Branches(
            (
                Branch({"optim.momentum": 0.0}, {}),
                Branch({}, {"optim.momentum": Float(0.8, 0.9)}),
                Branch({}, {"optim.momentum": Choice((0.5,), exhaustive=True)}),
            )
        )
    }
    _, space = split_hyperparameters({"optim.momentum": tune.choice([0, tune.uniform(0.8, 0.9)])})
    values = [finish_proposal(space, draw_space(space, 0, trial), {})["optim.momentum"] for trial in range(40)]
    assert {value == 0.0 or 0.8 <= value <= 0.9 for value in values} == {True}
    assert 10 < values.count(0.0) < 30
    with pytest.raises(InvalidHyperparameter, match=r"optim.lr\[0\]: optim.lr: expected a finite float > 0, got 0"):
        split_hyperparameters({"optim.lr": tune.choice([0, tune.uniform(1, 2)])})


def test_every_draw_of_a_conditional_space_makes_a_valid_config():
    _, space = split_hyperparameters({"optim": tune.choice(BRANCHES), "optim.weight_decay": tune.sample_from(lambda config: config["optim"]["lr"] / 10)})
    for trial in range(40):
        values = finish_proposal(space, draw_space(space, 0, trial), {})
        config = Config().with_overrides(values)
        assert config.optim.weight_decay == config.optim.lr / 10
        assert config.optim.momentum == (values["optim.momentum"] if config.optim.optim_type == "sgd" else 0.9)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"optim": tune.choice(BRANCHES), "optim.lr": 1}, ["optim.lr", "by optim and by optim.lr"]),
        ({"optim.learning_rate": tune.uniform(1, 2), "optim": tune.choice(BRANCHES)}, ["optim.lr", "by optim.lr and by optim"]),
        ({"optim": tune.choice(BRANCHES), "optimization": {"momentum": 0.5}}, ["optim.momentum", "by optim and by optim.momentum"]),
        (
            {"model": tune.choice([{"timm_image": {"drop_rate": 0}}]), "model.timm_image": tune.choice([{"drop_rate": 0}, {}])},
            ["model.timm_image.drop_rate", "by model and by model.timm_image"],
        ),
        ({"optim": tune.choice([{"lr": 1, "learning_rate": 2}])}, ["optim[0]: ", "optim.lr and optim.learning_rate are the same"]),
        (
            {"model": tune.choice([{"timm_image": tune.choice([{"drop_rate": 0}]), "timm_image.drop_rate": 0}])},
            ["model[0]: model.timm_image.drop_rate", "by model.timm_image and by model.timm_image.drop_rate"],
        ),
    ],
)
def test_a_key_inside_and_outside_of_branches_is_a_conflict(given, named):
    with pytest.raises(InvalidHyperparameter) as caught:
        split_hyperparameters(given)
    assert all(word in str(caught.value) for word in named), str(caught.value)


def test_every_branch_is_checked_whole_and_named():
    with pytest.raises(InvalidInput) as caught:
        split_hyperparameters(
            {
                "optim": tune.choice(
                    [
                        {"optim_type": "sgdd", "lr": tune.uniform(0, 1)},
                        {"momentun": 0.5, "max_epochs": tune.choice([1, 0])},
                        {"patience": tune.randint(5, 5), "lr": tune.choice([1, tune.uniform(0, 1)])},
                    ]
                ),
                "env": tune.choice([{"num_gpus": 1}, {"num_gpus": tune.choice([0, 1])}]),
                "model": tune.choice([{"timm_image": tune.choice([{}, {"drop_rate": 2}])}]),
                "optim.weight_decay": -1,
            }
        )
    found = sorted((type(problem).__name__, str(problem).replace("search space of ", "").split(" ")[0:2]) for problem in caught.value.problems)
    assert found == [
        ("InvalidHyperparameter", ["model[0]:", "model.timm_image[1]:"]),
        ("InvalidHyperparameter", ["optim.weight_decay:", "expected"]),
        ("InvalidHyperparameter", ["optim[0]:", "optim.optim_type:"]),
        ("InvalidSpace", ["env[0]:", "env.num_gpus"]),
        ("InvalidSpace", ["env[1]:", "env.num_gpus"]),
        ("InvalidSpace", ["optim[0]:", "optim.lr:"]),
        ("InvalidSpace", ["optim[1]:", "optim.max_epochs:"]),
        ("InvalidSpace", ["optim[2]:", "optim.lr[1]:"]),
        ("InvalidSpace", ["optim[2]:", "optim.patience:"]),
        ("UnknownHyperparameter", ["optim[1]:", "optim.momentun:"]),
    ]
    assert "Did you mean optim.momentum?" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (tune.uniform(0, 1), ["expected a choice of dicts", "got uniform(0, 1)"]),
        (tune.sample_from(lambda config: {}), ["expected a choice of dicts", "sample_from"]),
        (tune.choice([{"lr": 1}, 5]), ["expected dicts", "got 5"]),
        (tune.choice([{"lr": 1}, None]), ["expected dicts", "got None"]),
        (tune.choice([{"grid_search": [{"lr": 1}]}]), ["expected dicts", "got {'grid_search'"]),
        (tune.choice([{}, {}]), ["only empty dicts"]),
        (tune.choice([]), ["at least one option"]),
        ({"grid_search": 5}, ["expected a list of values, got 5"]),
    ],
)
def test_a_group_takes_no_other_space(value, words):
    with pytest.raises(InvalidSpace) as caught:
        split_hyperparameters({"optim": value})
    assert str(caught.value).startswith("optim: ")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_later_layers_win_over_branches_and_branches_over_earlier_layers():
    sgd, adamw = OPTIM.options
    # a value replaces the branches' values of its key
    fixed, space = split_hyperparameters({"optim": tune.choice(BRANCHES)}, {"optim.lr": 1})
    assert fixed == {"optim.lr": 1.0}
    assert space == {"optim": Branches((replace(sgd, space={"optim.momentum": Choice((0.8, 0.9))}), replace(adamw, space={})))}
    # branches replace a fixed value if each of them sets its key; otherwise it stays, for the branches without the key
    fixed, space = split_hyperparameters({"optim.lr": "wrong", "optim.momentum": 0.5, "optim.patience": 3}, {"optim": tune.choice(BRANCHES)})
    assert (fixed, space) == ({"optim.momentum": 0.5, "optim.patience": 3}, {"optim": OPTIM})
    _, space = split_hyperparameters({"optim.momentum": tune.uniform(0.1, 0.2)}, {"optim": tune.choice(BRANCHES)})
    assert space == {"optim": OPTIM}
    # branches replace earlier branches of the same group; branches without any keys left are dropped
    _, space = split_hyperparameters({"optim": tune.choice([{"lr": 1, "patience": 2}])}, {"optim": tune.choice(BRANCHES)})
    assert space == {"optim": OPTIM}
    fixed, space = split_hyperparameters({"optim": tune.choice([{"lr": 1}, {"lr": 2}])}, {"optim.lr": 3})
    assert (fixed, space) == ({"optim.lr": 3.0}, {})
    fixed, space = split_hyperparameters({"optim.momentum": tune.choice([0, tune.uniform(0.8, 0.9)])}, {"optim.momentum": 0.5})
    assert (fixed, space) == ({"optim.momentum": 0.5}, {})


@pytest.mark.parametrize(
    "given",
    [
        {"optim": tune.choice(BRANCHES), "env.batch_size": 8},
        {"optim": tune.grid_search(BRANCHES)},
        {"model": tune.choice([{"timm_image": tune.choice([{"drop_rate": tune.uniform(0, 0.5)}, {}])}, {}])},
        {"optim.momentum": tune.choice([0, tune.uniform(0.8, 0.9)])},
    ],
)
def test_a_stored_conditional_space_is_taken_back(given):
    """As ``load(path, resume=True)`` does, with the fixed values in the layer below."""
    fixed, space = split_hyperparameters(given)
    stored = words.space_from_json(json.loads(json.dumps(words.space_to_json(space))))
    assert split_hyperparameters(fixed, stored) == (fixed, space)
    assert split_hyperparameters(stored, {"optim.momentum": 0.5})[0] == {"optim.momentum": 0.5}  # like the user's own branches, they can be overridden


def test_a_later_layer_keeps_the_order():
    """Values are drawn in the order of the keys."""
    _, space = split_hyperparameters({"optim.lr": tune.uniform(1, 2), "optim.momentum": tune.uniform(0, 0.5)}, {"optim.lr": tune.uniform(2, 3)})
    assert list(space) == ["optim.lr", "optim.momentum"]


# -------------------------------------------------------------------------------------------------------------- computed values


def test_computed_values_follow_the_others():
    fixed, space = split_hyperparameters(
        {
            "env.batch_size": tune.choice([32, 64]),
            "optim.lr": tune.sample_from(lambda spec: spec.config.env.batch_size * 1e-5),
            "optim.weight_decay": tune.sample_from(lambda config: config["optim.lr"] / config["optim.patience"]),
            "optim.patience": 5,
        }
    )
    assert fixed == {"optim.patience": 5}
    assert finish_proposal(space, {"env.batch_size": 1}, Config.from_flat(fixed).flat()) == {
        "env.batch_size": 64,
        "optim.lr": pytest.approx(64e-5),
        "optim.weight_decay": pytest.approx(64e-5 / 5),
    }


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda config: config["lr"], ["raised KeyError: 'lr'", "optim.momentum"]),
        (lambda config: 1 / 0, ["raised ZeroDivisionError"]),
        (lambda one, two: 1, ["raised TypeError"]),
        (lambda config: -1, ["expected a finite float > 0, got -1 (int)", "optim.momentum="]),
        (lambda config: config["optim.momentum"] - 0.2, ["expected a finite float > 0, got -0."]),
        (lambda config: tune.uniform(0, 1), ["expected a finite float > 0", "ray.tune"]),
        (lambda config: None, ["got None"]),
    ],
)
def test_functions_that_go_wrong_are_refused(function, words):
    with pytest.raises(InvalidSpace) as caught:
        split_hyperparameters({"optim.momentum": tune.uniform(0.1, 0.5), "optim.lr": sample_from(function)})
    assert "optim.lr" in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_function_within_a_branch_is_tried_too():
    branches = [{"lr": 1}, {"momentum": tune.uniform(0.1, 0.2), "lr": tune.sample_from(lambda config: config["optim.momentum"] * -1)}]
    with pytest.raises(InvalidSpace, match=r"optim.lr: expected"):
        split_hyperparameters({"optim": tune.choice(branches)})


def test_a_function_sees_its_later_neighbours_not():
    given = {"optim.lr": tune.sample_from(lambda config: config["optim.momentum"]), "optim.momentum": tune.sample_from(lambda: 0.5)}
    assert split_hyperparameters(given)[1]  # does not raise: the configured momentum is always available
    assert finish_proposal(split_hyperparameters(given)[1], {}, Config().flat()) == {"optim.lr": 0.9, "optim.momentum": 0.5}


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
        ("optim.optim_type", tune.choice(["adamw", "sgdd"]), ["one of 'adamw', 'adam'", "Did you mean sgd?"]),
        ("optim.optim_type", tune.uniform(0, 1), ["one of 'adamw', 'adam'"]),
        ("model.timm_image.pretrained", tune.randint(0, 2), ["True or False"]),
        ("optim.lr", tune.choice([1e-3, True]), ["got True"]),
        ("optim.lr", tune.choice([1e-3, {"lr": 1}]), ["got {'lr': 1}"]),
        ("optim.lr", tune.choice([1e-3, float("nan")]), ["got nan"]),
        ("optim.lr", tune.choice([[1e-3]]), ["got [0.001]"]),
        ("optim.lr", tune.choice([1e-3, tune.uniform(-1, 1)]), ["optim.lr[1]: ", "finite float > 0"]),
        ("optim.lr", {"grid_search": [0]}, ["got 0"]),
        ("optim.lr", {"grid_search": 5}, ["expected a list of values"]),
        *((key, tune.choice([0, 1]), [f"{key} cannot vary"]) for key in FIELDS if FIELDS[key].fixed),
        *((key, tune.sample_from(lambda: 0), [f"{key} cannot vary"]) for key in FIELDS if FIELDS[key].fixed),
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
                "optim.patience": tune.randint(3, 3),
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
        ("InvalidSpace", "optim.patience"),
        ("InvalidSpace", "data.image"),
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


def test_every_random_draw_makes_a_valid_config():
    for trial in range(50):
        drawn = draw_space(SEARCHABLE, seed=0, trial=trial)
        Config().with_overrides({key: SEARCHABLE[key].finish(raw) for key, raw in drawn.items()})


def test_candidates_are_all_options_and_both_ends():
    space = {"model.timm_image.checkpoint_name": Choice(("a", "b")), "model.timm_image.image_size": Int(32, 64, step=8), "optim.lr": Float(0.1, 0.2)}
    found = candidate_configs(Config(), space, ("model.timm_image.checkpoint_name", "model.timm_image.image_size"))
    assert [(one.model.timm_image.checkpoint_name, one.model.timm_image.image_size) for one in found] == [("a", 32), ("a", 64), ("b", 32), ("b", 64)]
    assert values_of("optim.lr", Config(), space) == [0.1, 0.2]
    assert values_of("optim.max_epochs", Config(), space) == [20]


def test_candidates_go_into_branches():
    images = [{"checkpoint_name": "a", "image_size": tune.randint(32, 65)}, {"checkpoint_name": tune.choice(["b", "c"])}, {"drop_rate": 0.5}, {"drop_rate": 0}]
    _, space = split_hyperparameters(
        {
            "model.timm_image": tune.choice(images),
            "model.timm_image.pretrained": tune.choice([True, False]),
            "optim": tune.choice([{"max_epochs": 3, "lr": tune.uniform(1, 2)}, {"max_epochs": tune.randint(5, 8)}, {}]),
        }
    )
    name, size, pretrained = (f"model.timm_image.{field}" for field in ("checkpoint_name", "image_size", "pretrained"))
    default = Config().model.timm_image.checkpoint_name
    found = [(one.flat()[name], one.flat()[size]) for one in candidate_configs(Config(), space, (name, size))]
    assert found == [("a", 32), ("a", 64), ("b", None), ("c", None), (default, None)]
    assert len(candidate_configs(Config(), space, (name, size, pretrained))) == 10
    assert candidate_configs(Config(), space, ("env.batch_size",)) == [Config()]
    assert values_of("optim.max_epochs", Config(), space) == [3, 5, 7, 20]
    assert values_of("optim.lr", Config(), space) == [1.0, 2.0, 1e-4]


def test_candidates_go_into_nested_branches():
    inner = [{"image_size": 32}, {"image_size": tune.choice([64, 128])}]
    _, space = split_hyperparameters({"model": tune.choice([{"timm_image": tune.choice(inner)}, {"timm_image.image_size": 256}])})
    assert values_of("model.timm_image.image_size", Config(), space) == [32, 64, 128, 256]


def test_what_must_be_known_before_cannot_be_computed():
    _, space = split_hyperparameters({"model.timm_image.image_size": tune.sample_from(lambda: 32), "optim.max_epochs": tune.sample_from(lambda: "7")})
    with pytest.raises(NotSupported, match=r"model.timm_image.image_size: sample_from cannot .* known before the search; use a choice"):
        candidate_configs(Config(), space, ("model.timm_image.image_size",))
    assert max(values_of("optim.max_epochs", Config.from_flat({"optim.max_epochs": 2}), space)) == 7


def test_points_may_be_written_under_any_name():
    _, space = split_hyperparameters({"optim": tune.choice(BRANCHES), "env.batch_size": tune.choice(["8", "16"])})
    point = {"optimization": {"optim_type": "sgd", "learning_rate": "1e-2", "momentum": 0.8}, "env.batch_size": "16"}
    assert point_to_raw(space, point) == {"optim": 0, "optim[0].lr": 0.01, "optim[0].momentum": 0, "env.batch_size": 1}
    with pytest.raises(InvalidSpace, match=r"env.batch_size: 32 is none of"):
        point_to_raw(space, point | {"env.batch_size": 32})
    with pytest.raises(UnknownHyperparameter, match="momentun"):
        point_to_raw(space, {"optim.momentun": 1})
    with pytest.raises(InvalidHyperparameter, match="got 'many'"):
        point_to_raw(space, point | {"env.batch_size": "many"})


def test_without_a_space_nothing_of_ray_is_needed(monkeypatch):
    monkeypatch.delitem(sys.modules, "ray.tune.search.sample")
    assert split_hyperparameters({"optim": {"lr": 1}}) == ({"optim.lr": 1.0}, {})
    assert split_hyperparameters({"optim.lr": {"grid_search": [1]}}) == ({}, {"optim.lr": Choice((1.0,), exhaustive=True)})
    assert "ray.tune.search.sample" not in sys.modules


@pytest.mark.parametrize("error", [InvalidSpace, NotSupported])
def test_the_errors_are_ours(error):
    assert issubclass(error, AutoMMHPOError)
