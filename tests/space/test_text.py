"""Spaces as JSON and text: the round trip is exact, and different spaces have different texts."""

import functools
import json
import subprocess
import sys

import pytest

from automm_hpo import space as words
from automm_hpo.errors import InvalidInput, InvalidSpace
from automm_hpo.space import Branch, Branches, Choice, Computed, Float, Int, Normal, describe_space, space_from_json, space_to_json

EVERYTHING = {
    "float": Float(0.1, 0.7, 0.5),
    "log steps": Float(1e-4, 1e-1, log=True, step=1e-4),
    "integer": Int(1, 64, 32, log=True, step=16),
    "normal": Normal(0.5, 0.1, 0.05, log=True, default=1.5),
    "choice": Choice(("a", None, 3, 0.5, True, ("b", ("c",)), [1, [2]], {"tuple": (1,), "kind": "Float"}, {})),
    "grid": Choice((1, 2), exhaustive=True, default=1),
    "optim": Branches((Branch({"optim.type": "sgd", "optim.betas": (0.9, 0.99)}, {"optim.lr": Float(1, 2)}), Branch({}, {})), exhaustive=True),
    "nested": Branches((Branch({}, {"nested.one": Branches((Branch({"nested.one.a": 1}, {}),))}),)),
}


def test_round_trip_through_json():
    again = space_from_json(json.loads(json.dumps(space_to_json(EVERYTHING))))
    assert again == EVERYTHING
    assert list(again) == list(EVERYTHING)
    assert repr(again) == repr(EVERYTHING)  # tells 1 from 1.0 and (1,) from [1]
    assert describe_space(again) == describe_space(EVERYTHING)


def test_what_no_file_holds_is_named():
    space = {
        "a": Computed(lambda: 1),
        "b": Choice((1, len)),
        "c": Choice(({1: 2},)),
        "optim": Branches((Branch({"optim.x": object()}, {"optim.y": Computed(len)}),)),
        "fine": Int(1, 2),
    }
    with pytest.raises(InvalidInput) as caught:
        space_to_json(space)
    assert [str(problem).split(":")[0] for problem in caught.value.problems] == ["a", "b", "c", "optim.x", "optim.y"]
    assert "sample_from holds a function" in str(caught.value)
    assert all(isinstance(problem, InvalidSpace) for problem in caught.value.problems)


def test_every_space_has_a_text_of_its_own():
    texts = describe_space(EVERYTHING)
    assert list(texts) == list(EVERYTHING)
    assert len(set(texts.values())) == len(texts)
    assert texts["optim"] == "grid_search([{optim.type: 'sgd', optim.betas: [0.9, 0.99], optim.lr: uniform(1, 2)}, {}])"
    assert texts["nested"] == "choice([{nested.one: choice([{nested.one.a: 1}])}])"


FACTOR = 3


def named(config):
    return config["a"] * 2


def closed_over(value):
    return lambda config: value


class Callable:
    def __call__(self, config):
        return 1


FUNCTIONS = [
    named,
    lambda config: config["a"] * 2,
    lambda config: config["a"] * 3,
    lambda config: config["b"] * 3,
    lambda config: config["a"] + 3,
    lambda config: config["a"] if config["a"] in {"x", "y"} else None,
    lambda config: [inner * 2 for inner in config["a"]],
    lambda config: [inner * 3 for inner in config["a"]],
    lambda config, factor=1: factor,
    lambda config, factor=2: factor,
    lambda config, *, factor=2: factor,
    closed_over(1),
    closed_over(2),
    functools.partial(named, {"a": 1}),
    functools.partial(named, {"a": 2}),
    Callable(),
    Callable().__call__,
    len,
    max,
]


def test_functions_are_told_apart_by_what_they_compute():
    texts = [describe_space({"a": Computed(function)})["a"] for function in FUNCTIONS]
    assert len(set(texts)) == len(texts)
    assert texts == [describe_space({"a": Computed(function)})["a"] for function in FUNCTIONS]
    assert describe_space({"a": Computed(closed_over(1))}) == describe_space({"a": Computed(closed_over(1))})
    assert texts[0].startswith("sample_from(named) ")


def test_texts_are_equal_in_every_process():
    """The order of a set of strings differs between processes."""
    code = (
        "from automm_hpo.space import *; f = lambda config: (config['a'] in {'x', 'y', 'zz', 'zzz'}, [i for i in 'ab'], lambda: 2); "
        "print(describe_space({'a': Computed(f), 'b': choice(len, object())}))"
    )
    seeds = ("1", "2", "3")
    run = functools.partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True)
    texts = {run(env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}).stdout for seed in seeds}
    assert len(texts) == 1
    assert "0x" not in texts.pop()


def test_the_words_and_the_texts_agree():
    assert describe_space({"lr": words.loguniform(1e-5, 1e-2)}) == {"lr": "loguniform(1e-05, 0.01)"}
