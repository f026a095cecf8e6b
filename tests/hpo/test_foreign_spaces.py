"""Ray's, AutoGluon's and Optuna's objects become ours with exactly the same bounds."""

import sys
import types
import warnings

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from ray import tune
from ray.tune.search.sample import Categorical

from automm_hpo.errors import InvalidSpace, NotSupported
from automm_hpo.hpo.foreign_spaces import is_space, to_space
from automm_hpo.hpo.hyperparameter_space import split_hyperparameters
from automm_hpo.space import Choice, Computed, Float, Int, Normal

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
    "grid_search": (lambda: tune.grid_search(["a", None, 3]), Choice(("a", None, 3), exhaustive=True)),
    "grid": (lambda: Categorical([1, 2]).grid(), Choice((1, 2), exhaustive=True)),
    "grid_search over an array": (lambda: tune.grid_search(np.array([1, 2])), Choice((1, 2), exhaustive=True)),
}


@pytest.mark.parametrize(("build", "space"), CONVERSIONS.values(), ids=CONVERSIONS)
def test_conversion(build, space):
    assert is_space(build())
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


def test_sample_from_keeps_its_function():
    def function(config):
        return 1

    assert to_space("optim.lr", tune.sample_from(function)) == Computed(function)


@pytest.mark.parametrize("value", [5, "uniform(0, 1)", [1, 2], {"lower": 1}, {}, None, {"grid_search": [1], "more": 1}, Float, len])
def test_what_is_no_space(value):
    assert not is_space(value)


def test_a_grid_wants_a_list():
    for options in (5, None, "abc", {"a": 1}):
        with pytest.raises(InvalidSpace, match=r"^optim.lr: grid_search: expected a list of values"):
            to_space("optim.lr", {"grid_search": options})


@pytest.fixture
def autogluon(monkeypatch):
    """A module with the names, class hierarchy and attributes of autogluon.common.space."""
    source = """
class Space: pass
class SimpleSpace(Space):
    def __init__(self, default): self._default = default
    @property
    def default(self): return self._default
    @default.setter
    def default(self, value): self._default = value
class Categorical(SimpleSpace):
    def __init__(self, *data):
        self.data = [*data]
        super().__init__(self.data[0])
class Real(SimpleSpace):
    def __init__(self, lower, upper, default=None, log=False):
        super().__init__(lower if default is None else default)
        self.lower, self.upper, self.log = lower, upper, log
class Int(SimpleSpace):
    def __init__(self, lower, upper, default=None):
        super().__init__(lower if default is None else default)
        self.lower, self.upper = lower, upper
class Bool(Int):
    def __init__(self): super().__init__(0, 1)
"""
    module = types.ModuleType("autogluon.common.space")
    exec(source, vars(module))
    monkeypatch.setitem(sys.modules, "autogluon.common.space", module)
    return module


def test_autogluons_objects(autogluon):
    pairs = [
        (autogluon.Real(0.01, 0.1), Float(0.01, 0.1)),
        (autogluon.Real(1e-5, 1e-2, default=1e-3, log=True), Float(1e-5, 1e-2, 1e-3, log=True)),
        (autogluon.Int(1, 100), Int(1, 100)),
        (autogluon.Int(1, 100, default=10), Int(1, 100, 10)),
        (autogluon.Int(np.int64(1), np.int64(3), np.int64(2)), Int(1, 3, 2)),
        (autogluon.Categorical("a", "b", None), Choice(("a", "b", None), default=0)),
        (autogluon.Bool(), Choice((True, False))),
    ]
    for given, ours in pairs:
        assert is_space(given)
        assert to_space("key", given) == ours
    assert not is_space(autogluon.Space())
    changed = autogluon.Categorical("a", "b")
    changed.default = "b"
    assert to_space("key", changed) == Choice(("a", "b"), default=1)
    with pytest.raises(InvalidSpace, match=r"^key: default: expected a value inside the range, got 9"):
        to_space("key", autogluon.Int(1, 5, default=9))


def test_all_kinds_may_stand_in_one_dict(autogluon):
    from automm_hpo.space import hyperdrive

    fixed, space = split_hyperparameters(
        {
            "optim.lr": autogluon.Real(1e-5, 1e-2, default=1e-3, log=True),
            "optim.momentum": hyperdrive.uniform(0.8, 0.99),
            "optim.max_epochs": IntDistribution(2, 8, step=2),
            "optim.weight_decay": tune.loguniform(1e-6, 1e-2),
            "model.timm_image.pretrained": autogluon.Bool(),
            "env.batch_size": {"grid_search": ["16", 32]},
            "optim": autogluon.Categorical({"patience": 3}, {"patience": CategoricalDistribution([4, 5])}),
        }
    )
    assert not fixed
    assert [type(domain).__name__ for domain in space.values()] == ["Float", "Float", "Int", "Float", "Choice", "Choice", "Branches"]
    assert space["env.batch_size"] == Choice((16, 32), exhaustive=True)
    assert space["optim"].options[1].space == {"optim.patience": Choice((4, 5))}


def test_autogluons_nested_choice(autogluon):
    _, space = split_hyperparameters({"optim.momentum": autogluon.Categorical(autogluon.Real(0.8, 0.9), 0)})
    assert [dict(branch.fixed) for branch in space["optim.momentum"].options] == [{}, {"optim.momentum": 0.0}]


OPTUNA = {
    "float": (lambda: FloatDistribution(0.1, 0.7), Float(0.1, 0.7)),
    "log": (lambda: FloatDistribution(1e-5, 1e-2, log=True), Float(1e-5, 1e-2, log=True)),
    "steps": (lambda: FloatDistribution(0.1, 0.7, step=0.2 / 2), Float(0.1, 0.7, step=0.1)),
    "steps from elsewhere": (lambda: FloatDistribution(0.05, 0.25, step=0.1), Choice((0.05, 0.15, 0.25))),
    "one float": (lambda: FloatDistribution(0.5, 0.5), Choice((0.5,))),
    "integer": (lambda: IntDistribution(1, 5), Int(1, 5)),
    "log integer": (lambda: IntDistribution(1, 64, log=True), Int(1, 64, log=True)),
    "integer steps": (lambda: IntDistribution(32, 512, step=32), Int(32, 512, step=32)),
    "integer steps from elsewhere": (lambda: IntDistribution(1, 10, step=3), Choice((1, 4, 7, 10))),
    "one integer": (lambda: IntDistribution(5, 5, step=4), Choice((5,))),
    "categories": (lambda: CategoricalDistribution(["a", None, 3]), Choice(("a", None, 3))),
}


@pytest.mark.parametrize(("build", "space"), OPTUNA.values(), ids=OPTUNA)
def test_optunas_distributions(build, space):
    ours = to_space("key", build())
    assert ours == space
    if isinstance(ours, Choice):
        assert all(build()._contains(build().to_internal_repr(option)) for option in ours.options)


def test_optunas_older_names():
    from optuna.distributions import IntUniformDistribution, LogUniformDistribution

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Optuna deprecates these names
        assert to_space("key", LogUniformDistribution(1e-3, 1)) == Float(1e-3, 1, log=True)
        assert to_space("key", IntUniformDistribution(1, 3)) == Int(1, 3)


def test_a_long_list_of_steps_is_refused():
    with pytest.raises(NotSupported, match=r"^key: .*must be a multiple of the step"):
        to_space("key", FloatDistribution(0.0005, 10.0005, step=0.001))


def test_only_what_is_loaded_is_asked(monkeypatch):
    for name in ("ray.tune.search.sample", "optuna.distributions"):
        monkeypatch.delitem(sys.modules, name)
    assert not is_space(5)
    assert to_space("key", {"grid_search": [1]}) == Choice((1,), exhaustive=True)
    assert not {"ray.tune.search.sample", "optuna.distributions"} & set(sys.modules)
