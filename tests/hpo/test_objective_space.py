"""The config of a user's own objective: any names, nested or not, without our hyperparameters."""

import numpy as np
import pytest
from ray import tune

from automm_hpo.errors import InvalidInput, InvalidSpace
from automm_hpo.hpo.objective_space import nest, objective_point_to_raw, split_objective_space
from automm_hpo.space import Branch, Branches, Choice, Computed, Float, Int, draw_space, finish_proposal


def test_values_and_spaces_are_told_apart():
    thing = object()
    fixed, space = split_objective_space({"x": tune.uniform(0, 1), "optim.lr": 5, "any name": thing, "steps": [1, 2], "empty": {}, "none": None})
    assert fixed == {"optim.lr": 5, "any name": thing, "steps": [1, 2], "empty": {}, "none": None}
    assert space == {"x": Float(0, 1)}


def test_nested_dicts_are_taken_apart_and_rebuilt():
    given = {"model": {"depth": tune.randint(1, 4), "head": {"width": 8, "bias": {"grid_search": [True, False]}}, "opts": {}}, "seed": 1}
    fixed, space = split_objective_space(given)
    assert fixed == {"model/head/width": 8, "model/opts": {}, "seed": 1}
    assert space == {"model/depth": Int(1, 3), "model/head/bias": Choice((True, False), exhaustive=True)}
    assert nest({**fixed, "model/depth": 2, "model/head/bias": True}) == {"model": {"head": {"width": 8, "bias": True}, "opts": {}, "depth": 2}, "seed": 1}
    assert nest({}) == {}


def test_choices_of_plain_dicts_and_objects_stay_choices():
    options = [{"a": 1, "b": [1]}, {}, "text", len, np.int64(3), (1, 2)]
    _, space = split_objective_space({"x": tune.choice(options)})
    assert space == {"x": Choice((*options[:4], 3, (1, 2)))}


def test_choices_with_spaces_in_them_are_conditional():
    fixed, space = split_objective_space(
        {
            "model": tune.choice(
                [
                    {"kind": "svm", "C": tune.loguniform(1e-3, 1e3), "kernel": {"gamma": tune.uniform(0, 1), "shrink": True}},
                    {"kind": "tree", "depth": tune.choice([2, tune.randint(5, 9)])},
                    {},
                    "constant",
                    tune.randint(0, 3),
                ]
            )
        }
    )
    assert not fixed
    depth = Branches((Branch({"model/depth": 2}, {}), Branch({}, {"model/depth": Int(5, 8)})))
    assert space == {
        "model": Branches(
            (
                Branch({"model/kind": "svm", "model/kernel/shrink": True}, {"model/C": Float(1e-3, 1e3, log=True), "model/kernel/gamma": Float(0, 1)}),
                Branch({"model/kind": "tree"}, {"model/depth": depth}),
                Branch({"model": {}}, {}),
                Branch({"model": "constant"}, {}),
                Branch({}, {"model": Int(0, 2)}),
            )
        )
    }
    paths, configs = set(), []
    for trial in range(60):
        raw = draw_space(space, 0, trial)
        paths |= raw.keys()
        configs.append(nest(finish_proposal(space, raw, {}))["model"])
    assert paths == {"model", "model[0]/C", "model[0]/kernel/gamma", "model[1]/depth", "model[1]/depth[1]", "model[4]"}
    assert {config["kind"] for config in configs if isinstance(config, dict) and config} == {"svm", "tree"}
    assert all(config["kernel"]["shrink"] for config in configs if isinstance(config, dict) and config.get("kind") == "svm")
    assert {} in configs
    assert "constant" in configs


def test_functions_read_nested_names():
    fixed, space = split_objective_space({"net": {"width": tune.choice([8, 16]), "scale": 2}, "size": tune.sample_from(lambda spec: spec.config.net.width * 2)})
    assert finish_proposal(space, {"net/width": 1}, fixed) == {"net/width": 16, "size": 32}
    assert isinstance(space["size"], Computed)
    _, space = split_objective_space({"net": {"width": 4}, "size": tune.sample_from(lambda config: config["net"]["width"])})
    assert list(space) == ["size"]


def test_points_are_written_as_the_config_is():
    plain = tune.choice([{"w": 1}, {"w": 2}])
    _, space = split_objective_space({"net": {"width": tune.randint(1, 9)}, "x": plain, "model": tune.choice([{"kind": tune.choice("ab")}, {}, "none"])})
    assert objective_point_to_raw(space, {"net": {"width": 3}, "x": {"w": 2}, "model": {"kind": "b"}}) == {
        "net/width": 3,
        "x": 1,
        "model": 0,
        "model[0]/kind": 1,
    }
    assert objective_point_to_raw(space, {"net/width": 3, "x": {"w": 1}, "model": {}})["model"] == 1
    assert objective_point_to_raw(space, {"net/width": 3, "x": {"w": 1}, "model": "none"})["model"] == 2
    for trial in range(20):
        config = nest(finish_proposal(space, draw_space(space, 0, trial), {}))
        assert nest(finish_proposal(space, objective_point_to_raw(space, config), {})) == config
    with pytest.raises(InvalidInput, match=r"net/width: 20 is not in int\(1, 8\)"):
        objective_point_to_raw(space, {"net": {"width": 20, "depth": 1}, "x": {"w": 1}, "model": {}})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, ["expected a dict of values and search spaces, got 5"]),
        ({"a/b": 1}, ["a/b", "without '/'"]),
        ({"a": {"b/c": 1}}, ["a/b/c", "got 'b/c'"]),
        ({3: 1}, ["got 3"]),
        ({"": 1}, ["got ''"]),
        ({"a": [1, tune.uniform(0, 1)]}, ["a: a search space within", "a name of its own"]),
        ({"a": {"b": (tune.uniform(0, 1),)}}, ["a/b: a search space within"]),
        ({"a": tune.choice([[tune.uniform(0, 1)], 2])}, ["a: a search space within"]),
        ({"a": tune.choice([{"b": [tune.uniform(0, 1)]}, 2])}, ["a[0]: a/b: a search space within"]),
        ({"a": tune.choice([{"b/c": tune.uniform(0, 1)}, 2])}, ["a[0]: ", "got 'b/c'"]),
        ({"a": tune.uniform(2, 1)}, ["a: expected lower < upper"]),
        ({"a": tune.choice([])}, ["a: expected at least one option"]),
        ({"a": {"grid_search": 1}}, ["a: grid_search: expected a list"]),
        ({"a": tune.sample_from(lambda config: config["b"])}, ["a: the function of sample_from(<lambda>) raised KeyError"]),
        ({"a": tune.sample_from(lambda config: [tune.uniform(0, 1)])}, ["a: a search space within"]),
    ],
)
def test_what_is_refused(given, words):
    with pytest.raises(InvalidSpace) as caught:
        split_objective_space(given)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_all_problems_come_together():
    with pytest.raises(InvalidInput) as caught:
        split_objective_space({"a/b": 1, "c": tune.uniform(2, 1), "d": {"e": [tune.uniform(0, 1)]}, "f": tune.choice([{"g": tune.randint(1, 1)}])})
    assert len(caught.value.problems) == 4


def test_the_callers_dict_is_not_changed():
    inner = {"b": tune.choice([np.int64(1)])}
    given = {"a": inner}
    split_objective_space(given)
    assert given == {"a": inner}
    assert list(inner) == ["b"]
