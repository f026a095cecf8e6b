"""The functions and classes with which users write spaces: Ray's, AutoGluon's and HyperDrive's."""

import inspect
import math

import numpy as np
import pytest
from ray import tune

from automm_hpo import space
from automm_hpo.errors import InvalidSpace
from automm_hpo.hpo.foreign_spaces import to_space
from automm_hpo.space import Choice, Computed, Float, Int, Normal, hyperdrive

ARGUMENTS = {
    "uniform": (0.1, 0.7),
    "quniform": (0.1, 0.7, 0.1),
    "loguniform": (1e-5, 1e-2),
    "qloguniform": (1e-4, 1e-1, 1e-4),
    "randn": (0.5, 0.1),
    "qrandn": (0.5, 0.1, 0.05),
    "randint": (2, 6),
    "qrandint": (4, 12, 4),
    "lograndint": (1, 5),
    "qlograndint": (2, 8, 2),
    "choice": (["a", None, 3],),
    "grid_search": ([1, 2],),
}


@pytest.mark.parametrize("word", ARGUMENTS)
def test_rays_words_mean_what_they_mean_in_ray(word):
    arguments = ARGUMENTS[word]
    assert getattr(space, word)(*arguments) == to_space("key", getattr(tune, word)(*arguments))
    if word != "choice":  # choice also takes HyperDrive's arguments
        names = list(inspect.signature(getattr(tune, word)).parameters)
        assert list(inspect.signature(getattr(space, word)).parameters) == [name for name in names if name != "base"]


def test_all_of_rays_words_are_there():
    from ray.tune.search import sample

    public = {name for name, value in vars(sample).items() if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == sample.__name__}
    assert public <= set(space.__all__)
    assert {"grid_search", "choice"} <= set(space.__all__)


def test_rays_shorter_forms():
    assert space.randn() == Normal(0.0, 1.0)
    assert space.qrandint(1, 4) == Int(1, 3) == space.qrandint(1, 4, 1)  # as in Ray: with step 1 the upper bound is excluded
    assert space.lognormal(0, 0.5) == Normal(0, 0.5, log=True)
    assert space.qlognormal(0, 0.5, 2) == Normal(0, 0.5, step=2, log=True)
    function = lambda config: 1  # noqa: E731
    assert space.sample_from(function) == Computed(function)
    assert space.randint(np.int64(2), np.int64(6)) == Int(2, 5)


@pytest.mark.parametrize("choice", [space.choice, hyperdrive.choice])
def test_choices_take_lists_ranges_and_arguments(choice):
    assert choice([16, 32]) == choice(16, 32) == choice((16, 32)) == choice(np.array([16, 32])) == Choice((16, 32))
    assert choice(range(1, 5)) == Choice((1, 2, 3, 4))
    assert choice(range(1, 3), range(8, 10), 20) == Choice((1, 2, 8, 9, 20))
    assert choice("adamw") == Choice(("adamw",))
    assert choice("adamw", "sgd") == Choice(("adamw", "sgd"))
    assert choice([64, 64], [128]) == Choice(([64, 64], [128]))
    assert choice({"lr": 1}, {"lr": 2}) == Choice(({"lr": 1}, {"lr": 2}))
    assert choice({"lr": 1}) == Choice(({"lr": 1},))
    assert choice(None) == Choice((None,))
    for empty in ([], range(0)):
        with pytest.raises(InvalidSpace, match="at least one option"):
            choice(empty)
    with pytest.raises(InvalidSpace, match="at least one option"):
        choice()


def test_autogluons_words():
    assert space.Real(0.01, 0.1) == Float(0.01, 0.1)
    assert space.Real(lower=0.01, upper=0.1, default=0.05, log=True) == Float(0.01, 0.1, 0.05, log=True) == space.Real(0.01, 0.1, 0.05, True)
    assert space.Int(1, 100, 10) == space.Int(lower=1, upper=100, default=10)
    assert space.Int(1, 100).corners() == [1, 100]
    assert space.Categorical("a", "b") == Choice(("a", "b"), default=0)
    assert set(space.Bool().options) == {True, False}
    with pytest.raises(InvalidSpace, match="at least one option"):
        space.Categorical()
    with pytest.raises(InvalidSpace, match="default"):
        space.Int(1, 100, True)  # our Int has more arguments, which must not be passed by mistake


def test_hyperdrives_words():
    assert hyperdrive.uniform(0.05, 0.1) == Float(0.05, 0.1)
    assert hyperdrive.quniform(0.5, 2, 0.5) == Float(0.5, 2, step=0.5)
    assert hyperdrive.quniform(16, 128, 16) == Int(16, 128, step=16)  # integers, for keys that take nothing else
    assert hyperdrive.loguniform(-6, -1) == Float(math.exp(-6), math.exp(-1), log=True)
    assert hyperdrive.qloguniform(0, 3, 2) == Float(1.0, math.exp(3), log=True, step=2)
    assert hyperdrive.normal(10, 3) == Normal(10, 3)
    assert hyperdrive.qnormal(10, 3, 2) == Normal(10, 3, step=2)
    assert hyperdrive.lognormal(-5, 1) == Normal(-5, 1, log=True)
    assert hyperdrive.qlognormal(2, 1, 4) == Normal(2, 1, step=4, log=True)
    assert hyperdrive.randint(5).corners() == [0, 4]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: hyperdrive.loguniform(1e-5, 1000), "exponents between -700 and 700, got 1000"),
        (lambda: hyperdrive.loguniform(-1, -6), "lower < upper"),
        (lambda: hyperdrive.loguniform("-6", -1), "got '-6'"),
        (lambda: hyperdrive.randint(0), "no whole number"),
        (lambda: hyperdrive.randint(2.5), "whole numbers, got upper=2.5"),
        (lambda: hyperdrive.quniform(17, 18, 5), "no multiple of 5"),
        (lambda: space.loguniform(0, 1), "must start above 0"),
        (lambda: space.randint(5, 5), "no whole number"),
        (lambda: space.randint(1, 2.5), "whole numbers, got upper=2.5"),
        (lambda: space.uniform("a", 1), "lower='a'"),
        (lambda: space.grid_search([]), "at least one option"),
        (lambda: space.grid_search(5), "expected a list of values, got 5"),
        (lambda: space.grid_search("abc"), "expected a list of values, got 'abc'"),
        (lambda: space.sample_from(5), "expected a function"),
    ],
)
def test_words_that_make_no_space(build, words):
    with pytest.raises(InvalidSpace) as caught:
        build()
    assert words in str(caught.value)


def test_one_module_documents_every_word():
    words = space.__all__[: space.__all__.index("Float")]
    assert {"uniform", "sample_from", "Real", "hyperdrive"} <= set(words)
    assert [word for word in words if f"``{word}" not in space.__doc__ and f"``space.{word}" not in space.__doc__] == []
    assert all(hasattr(space, name) for name in space.__all__)
