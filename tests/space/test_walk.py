"""The walk over a space, branches included: what is proposed, finished, enumerated and converted back."""

import json
import random

import numpy as np
import pytest

from automm_hpo.errors import InvalidInput, InvalidSpace
from automm_hpo.space import (
    Branch,
    Branches,
    Choice,
    Computed,
    Float,
    Int,
    Normal,
    default_point,
    draw_space,
    exhaustive_keys,
    exhaustive_size,
    finish_proposal,
    grid_point,
    grid_size,
    propose,
    range_scales,
    to_raw,
    tuned_keys,
)

PLAIN = {
    "a.float": Float(-2, 3),
    "a.log": Float(1e-5, 1e-1, log=True),
    "a.steps": Float(0.0, 0.3, step=0.1),
    "a.int": Int(1, 5),
    "b.log_int": Int(1, 64, log=True, step=16),
    "b.normal": Normal(0.5, 0.1),
    "b.normal_steps": Normal(0.5, 0.1, step=0.05),
    "b.choice": Choice(("a", None, 3)),
}
OPTIM = Branches(
    (
        Branch({"optim.type": "sgd"}, {"optim.lr": Float(1e-3, 1e-1, log=True), "optim.momentum": Choice((0.8, 0.9))}),
        Branch({"optim.type": "adamw", "optim.clip": 1.0}, {"optim.lr": Float(1e-5, 1e-3, log=True)}),
        Branch({}, {}),
    )
)
CONDITIONAL = {
    "batch": Choice((8, 16)),
    "optim": OPTIM,
    "optim.decay": Computed(lambda config: config["optim.lr"] / 10 if "optim.lr" in config else 0.0),
    "patience": Int(2, 4),
}
NESTED = {
    "model": Branches(
        (
            Branch({"model.name": "cnn"}, {"model.cnn": Branches((Branch({"model.cnn.depth": 3}, {}), Branch({}, {"model.cnn.depth": Int(4, 6)})))}),
            Branch({"model.name": "vit"}, {"model.vit.drop": Float(0.0, 0.2, step=0.1)}),
        )
    ),
    # the options of a single hyperparameter may be spaces as well
    "lr": Branches((Branch({"lr": 0.5}, {}), Branch({}, {"lr": Choice((1, 2))}), Branch({}, {"lr": Branches((Branch({"lr": 3}, {}), Branch({"lr": 4}, {})))}))),
}
SPACES = {"plain": PLAIN, "conditional": CONDITIONAL, "nested": NESTED, "empty": {}}


def draws(space, num_trials=200, seed=0):
    return [draw_space(space, seed, trial) for trial in range(num_trials)]


def test_the_draws_of_unconditional_spaces_never_change():
    """Recorded with version 0.1, so that a newer version resumes a search with the same trials."""
    assert draw_space(PLAIN, seed=7, trial=1) == {
        "a.float": 1.8507047550173708,
        "a.log": 2.8035543337067268e-05,
        "a.steps": 0.05672931998913826,
        "a.int": 1.2997763077952507,
        "b.log_int": 20.6677404875184,
        "b.normal": 0.5047695833955713,
        "b.normal_steps": 0.27558061438639736,
        "b.choice": 1,
    }
    assert finish_proposal(PLAIN, draw_space(PLAIN, 7, 1), {}) == {
        "a.float": 1.8507047550173708,
        "a.log": 2.8035543337067268e-05,
        "a.steps": 0.1,
        "a.int": 1,
        "b.log_int": 16,
        "b.normal": 0.5047695833955713,
        "b.normal_steps": 0.3,
        "b.choice": None,
    }


@pytest.mark.parametrize("space", [PLAIN, CONDITIONAL, NESTED], ids=["plain", "conditional", "nested"])
def test_a_draw_depends_on_seed_and_trial_only(space):
    drawn = draws(space, 5, seed=7)
    np.random.default_rng(0).random()
    assert [draw_space(space, seed=7, trial=trial) for trial in reversed(range(5))] == drawn[::-1]
    assert len({repr(draw_space(space, seed, trial)) for seed in range(5) for trial in range(5)}) > 10


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_values_are_told_back_as_a_proposal_of_them(space):
    for raw in draws(space):
        assert json.loads(json.dumps(raw)) == raw
        values = finish_proposal(space, raw, {})
        back = to_raw(space, values)
        assert list(back) == list(raw)  # the same branches
        assert finish_proposal(space, back, {}) == values
        assert to_raw(space, json.loads(json.dumps(values))) == back  # as in a record
        assert set(values) <= set(tuned_keys(space))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_each_path_is_asked_once_and_in_order(space):
    asked = []

    def ask(path, domain):
        asked.append(path)
        return domain.draw(rng)

    for trial in range(50):
        asked.clear()
        rng = np.random.default_rng(trial)
        raw = propose(space, ask)
        assert list(raw) == asked
        assert len(set(asked)) == len(asked)


def test_paths_are_unique_to_their_branch():
    paths = {path for raw in draws(NESTED) for path in raw}
    assert paths == {"lr", "lr[1]", "lr[2]", "model", "model[0].cnn", "model[0].cnn[1].depth", "model[1].vit.drop"}
    seen = {}
    for raw in draws(CONDITIONAL):
        for path in raw:
            seen.setdefault(path, set()).add(raw["optim"])
    assert seen == {
        "batch": {0, 1, 2},
        "optim": {0, 1, 2},
        "optim[0].lr": {0},
        "optim[0].momentum": {0},
        "optim[1].lr": {1},
        "patience": {0, 1, 2},
    }


def test_branches_are_asked_for_as_a_choice_of_their_indices():
    raw = propose(CONDITIONAL, lambda path, domain: domain.options[-1] if path == "optim" else domain.corners()[0] if isinstance(domain, Int) else 0)
    assert raw == {"batch": 0, "optim": 2, "patience": 2}
    assert OPTIM.index == Choice((0, 1, 2))


def test_a_branch_gives_its_fixed_values_and_leaves_the_keys_of_the_others_out():
    raw = {"batch": 1, "optim": 1, "optim[1].lr": 1e-4, "patience": 3.2}
    assert finish_proposal(CONDITIONAL, raw, {}) == {
        "batch": 16,
        "optim.type": "adamw",
        "optim.clip": 1.0,
        "optim.lr": 1e-4,
        "patience": 3,
        "optim.decay": 1e-5,
    }
    assert finish_proposal(CONDITIONAL, {"batch": 0, "optim": 2, "patience": 2}, {}) == {"batch": 8, "patience": 2, "optim.decay": 0.0}


def test_paths_of_other_branches_and_unknown_ones_are_ignored():
    raw = {"batch": 1, "optim": 1, "optim[0].lr": 5e-2, "optim[1].lr": 1e-4, "patience": 3, "something": "else"}
    assert finish_proposal(CONDITIONAL, raw, {})["optim.lr"] == 1e-4


def test_all_tuned_keys_are_named_in_the_users_order():
    assert tuned_keys(PLAIN) == tuple(PLAIN)
    assert tuned_keys(CONDITIONAL) == ("batch", "optim.type", "optim.lr", "optim.momentum", "optim.clip", "optim.decay", "patience")
    assert tuned_keys(NESTED) == ("model.name", "model.cnn.depth", "model.vit.drop", "lr")


def test_ranges_tell_their_scale():
    linear, log = ["a.float", "a.steps", "a.int", "b.normal", "b.normal_steps"], ["a.log", "b.log_int"]
    assert range_scales(PLAIN) == dict.fromkeys(linear, "linear") | dict.fromkeys(log, "log")
    assert range_scales(CONDITIONAL) == {"optim.lr": "log", "patience": "linear"}
    assert range_scales(NESTED) == {"model.cnn.depth": "linear", "model.vit.drop": "linear"}
    either = Branches((Branch({}, {"lr": Float(1e-3, 1e-1, log=True)}), Branch({}, {"lr": Float(0.1, 0.2)})))
    assert range_scales({"optim": either}) == {"lr": "log"}


def test_values_are_computed_last_and_in_their_order():
    space = {
        "sum": Computed(lambda config: config["one"] + config["three"] + config["fixed"]),
        "one": Choice((1,)),
        "twice": Computed(lambda spec: spec.config.sum * 2),
        "three": Choice((3,)),
    }
    assert finish_proposal(space, {"one": 0, "three": 0}, {"fixed": 10, "one": "hidden"}) == {"one": 1, "three": 3, "sum": 14, "twice": 28}
    assert list(propose(space, lambda path, domain: 0)) == ["one", "three"]


def test_a_function_that_raises_is_named():
    space = {"a": Choice((1,)), "b": Computed(lambda config: config["c"]), "c": Computed(lambda: 1)}
    with pytest.raises(
        InvalidSpace, match=r"^b: the function of sample_from\(<lambda>\) raised KeyError: 'c'\. It can use d, a, and values computed before it"
    ):
        finish_proposal(space, {"a": 0}, {"d": 4})


def test_computed_numbers_are_plain():
    value = finish_proposal({"a": Computed(lambda: np.int64(3))}, {}, {})["a"]
    assert type(value) is int


def test_what_a_function_draws_depends_on_seed_and_trial_and_leaves_no_trace():
    space = {"a": Computed(lambda: np.random.uniform()), "b": Computed(lambda config: random.random())}
    states = random.getstate(), np.random.get_state()[1].tolist()
    drawn = [finish_proposal(space, {}, {}, draw=(seed, trial)) for seed in (0, 2**40) for trial in (0, 1)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert finish_proposal(space, {}, {}, draw=(2**40, 0)) == drawn[2]
    assert len({repr(values) for values in drawn}) == 4
    failing = {"a": Computed(lambda: np.random.uniform() + 1 / 0)}
    with pytest.raises(InvalidSpace, match="ZeroDivisionError"):
        finish_proposal(failing, {}, {}, draw=(0, 0))
    assert np.random.get_state()[1].tolist() == states[1]


# ---------------------------------------------------------------------------------------------------------------------- grids


def points(space):
    return [finish_proposal(space, grid_point(space, index), {}) for index in range(grid_size(space))]


def test_the_last_key_of_a_grid_changes_fastest():
    space = {"a": Choice((1, 2)), "b": Int(1, 3), "c": Float(0.0, 0.1, step=0.1)}
    assert grid_size(space) == 12
    found = [tuple(values.values()) for values in points(space)]
    assert found[:7] == [(1, 1, 0.0), (1, 1, 0.1), (1, 2, 0.0), (1, 2, 0.1), (1, 3, 0.0), (1, 3, 0.1), (2, 1, 0.0)]
    assert len(set(found)) == 12


def test_a_grid_goes_through_every_branch():
    space = {"a": Choice((1, 2)), "optim": Branches((Branch({"optim.x": 1}, {"optim.y": Int(1, 2)}), Branch({"optim.z": 1}, {}))), "b": Choice((5, 6))}
    assert grid_size(space) == 2 * 3 * 2
    found = [list(values.values()) for values in points(space)]
    assert found[:7] == [[1, 1, 1, 5], [1, 1, 1, 6], [1, 1, 2, 5], [1, 1, 2, 6], [1, 1, 5], [1, 1, 6], [2, 1, 1, 5]]
    assert grid_size(NESTED) == (1 + 3 + 3) * (1 + 2 + 2)
    assert len({repr(values) for values in points(NESTED)}) == 35
    assert all(to_raw(NESTED, values) == grid_point(NESTED, index) for index, values in enumerate(points(NESTED)))


def test_grids_that_are_not_finite():
    for space in (PLAIN, CONDITIONAL, {"a": Choice((1,)), "b": Normal(0, 1, step=1)}):
        assert grid_size(space) is None
        with pytest.raises(IndexError, match="no points"):
            grid_point(space, 0)


def test_the_ends_of_a_grid():
    assert grid_size({}) == 1
    assert grid_size({"a": Computed(lambda: 1)}) == 1
    assert grid_point({"a": Computed(lambda: 1)}, 0) == {}
    for index in (-1, 2):
        with pytest.raises(IndexError, match="2 points"):
            grid_point({"a": Choice((1, 2))}, index)
    huge = {str(key): Int(0, 10**6) for key in range(5)}
    assert grid_size(huge) == (10**6 + 1) ** 5
    assert list(grid_point(huge, grid_size(huge) - 1).values()) == [10**6] * 5


def test_random_takes_grid_search_keys_in_turn_and_draws_the_rest():
    space = {"a": Choice((1, 2), exhaustive=True), "lr": Float(0, 1), "b": Choice(("x", "y", "z"), exhaustive=True), "c": Choice(tuple(range(50)))}
    assert exhaustive_size(space) == 6
    assert exhaustive_keys(space) == ("a", "b")
    trials = [finish_proposal(space, raw, {}) for raw in draws(space, 12)]
    pairs = [(values["a"], values["b"]) for values in trials]
    assert pairs == [(1, "x"), (1, "y"), (1, "z"), (2, "x"), (2, "y"), (2, "z")] * 2
    assert len({values["lr"] for values in trials}) == 12
    assert len({values["c"] for values in trials}) > 6
    assert exhaustive_size(CONDITIONAL) == 1
    assert exhaustive_keys(CONDITIONAL) == ()


def test_an_exhaustive_choice_among_branches():
    space = {"optim": Branches(OPTIM.options, exhaustive=True)}
    assert exhaustive_size(space) == 3
    assert exhaustive_keys(space) == ("optim",)
    assert [raw["optim"] for raw in draws(space, 6)] == [0, 1, 2, 0, 1, 2]
    assert len({raw["optim[0].lr"] for raw in draws(space, 30) if raw["optim"] == 0}) == 10


def test_an_exhaustive_choice_within_a_branch_makes_the_branches_exhaustive():
    space = {"optim": Branches((Branch({}, {"optim.a": Choice((1, 2), exhaustive=True), "optim.b": Float(0, 1)}), Branch({"optim.a": 9}, {})))}
    assert exhaustive_size(space) == 3
    assert exhaustive_keys(space) == ("optim.a",)
    assert [finish_proposal(space, raw, {})["optim.a"] for raw in draws(space, 6)] == [1, 2, 9, 1, 2, 9]


# -------------------------------------------------------------------------------------------------- configurations to try first


def test_what_does_not_fit_is_named_all_together():
    with pytest.raises(InvalidInput) as caught:
        to_raw(PLAIN, {"a.float": 9, "a.log": 1e-3, "a.int": 2.5, "a.steps": 0.1, "b.choice": "b", "b.normal": 0.5, "b.normal_steps": 0.5, "c": 1})
    assert [str(problem).split(":")[0] for problem in caught.value.problems] == ["a.float", "a.int", "b.log_int", "b.choice", "c"]
    assert all(isinstance(problem, InvalidSpace) for problem in caught.value.problems)
    words = str(caught.value)
    assert all(part in words for part in ("9 is not in uniform(-2, 3)", "2.5 is not in int(1, 5)", "is absent", "'b' is none of choice(['a', None, 3])"))


BASE = {"batch": 8, "patience": 2}


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ({"optim.type": "sgd", "optim.lr": 1e-2, "optim.momentum": 0.9}, 0),
        ({"optim.type": "adamw", "optim.lr": 1e-4, "optim.clip": 1}, 1),
        ({}, 2),
        ({"optim.decay": "not looked at"}, 2),
    ],
)
def test_the_branch_is_found_that_the_values_are_of(values, chosen):
    assert to_raw(CONDITIONAL, BASE | values)["optim"] == chosen


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optim.type": "sgd", "optim.lr": 0.5, "optim.momentum": 0.9}, ["optim.lr: 0.5 is not in loguniform(0.001, 0.1)"]),
        ({"optim.type": "sgd", "optim.lr": 1e-2}, ["optim.momentum: is absent"]),
        ({"optim.type": "adamw", "optim.lr": 1e-4}, ["optim.clip: is absent; this branch has 1.0"]),
        ({"optim.type": "adamw", "optim.lr": 1e-4, "optim.clip": 1.0, "optim.momentum": 0.9}, ["optim.momentum: is not searched, or not in the branch"]),
    ],
)
def test_values_of_no_branch_are_named(values, words):
    with pytest.raises(InvalidSpace) as caught:
        to_raw({"optim": Branches(OPTIM.options[:2])}, values)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_of_branches_that_fit_the_one_that_explains_most_is_meant():
    space = {"g": Branches((Branch({}, {"g.a": Int(1, 9)}), Branch({}, {"g.a": Int(1, 5), "g.b": Int(1, 5)}), Branch({}, {"g.a": Int(1, 3)})))}
    assert to_raw(space, {"g.a": 2, "g.b": 2}) == {"g": 1, "g[1].a": 2, "g[1].b": 2}
    assert to_raw(space, {"g.a": 2}) == {"g": 0, "g[0].a": 2}


def test_the_defaults_come_first_where_they_lie_inside():
    defaults = {"batch": 16, "patience": 3, "optim.type": "sgd", "optim.lr": 1e-2, "optim.momentum": 0.9, "other": 5}
    assert default_point(CONDITIONAL, defaults) == {"batch": 1, "optim": 0, "optim[0].lr": 1e-2, "optim[0].momentum": 1, "patience": 3}
    assert default_point(CONDITIONAL, defaults | {"optim.type": "adamw"})["optim"] == 2  # lr lies outside adamw's range, and this branch leaves it alone
    for changed in ({"batch": 32}, {"patience": 9}):
        assert default_point(CONDITIONAL, defaults | changed) is None
    assert default_point({"optim": Branches(OPTIM.options[:2])}, defaults | {"optim.lr": 1}) is None
    assert default_point({"a": Int(1, 2)}, {}) is None
    assert default_point({}, defaults) == {}


def test_a_spaces_own_default_wins():
    space = {"a": Int(1, 9, 4), "b": Float(0, 1, 0.5), "c": Choice(("x", "y"), default=1), "d": Normal(0, 1, log=True, default=1.0), "e": Int(1, 9)}
    assert finish_proposal(space, default_point(space, {"a": 2, "c": "x", "e": 7}), {}) == {"a": 4, "b": 0.5, "c": "y", "d": 1.0, "e": 7}
