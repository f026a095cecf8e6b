"""The kinds of space: draws, corners, inverse, text, and which ones are refused."""

import dataclasses
import functools
import json

import numpy as np
import pandas as pd
import pytest

from automm_hpo import space as words
from automm_hpo.errors import InvalidSpace
from automm_hpo.space import Choice, Computed, Float, Int, Normal, point_of
from automm_hpo.space.kinds import same_value, text_of

SPACES = {
    "float": Float(0.1, 0.7),
    "float from a negative": Float(-2, 3),
    "log": Float(1e-5, 1e-1, log=True),
    "steps": Float(0.0, 0.3, step=0.1),
    "steps off the ends": Float(0.05, 0.97, step=0.1),
    "log steps": Float(1e-4, 1e-1, log=True, step=1e-4),
    "one step": Float(0.55, 0.65, step=0.1),
    "integers": Int(1, 5),
    "one integer": Int(3, 3),
    "negative integers": Int(-3, 2),
    "integer steps": Int(8, 32, step=8),
    "integer steps off the ends": Int(1, 10, step=3),
    "log integers": Int(1, 100, log=True),
    "log integer steps": Int(1, 64, log=True, step=16),
    "normal": Normal(0.5, 0.1),
    "normal steps": Normal(0.5, 0.1, step=0.05),
    "lognormal": Normal(-2.0, 0.3, log=True),
    "lognormal steps": Normal(1.0, 0.3, step=0.5, log=True),
    "choice": Choice(("a", None, 3)),
    "choice of one": Choice((("a", "b"),)),
}
STEPPED = {name: space for name, space in SPACES.items() if getattr(space, "step", None)}


def finished(space, num_draws=2_000, seed=0):
    rng = np.random.default_rng(seed)
    return [space.finish(space.draw(rng)) for _ in range(num_draws)]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_draws_stay_between_the_corners(space):
    values = finished(space)
    if isinstance(space, Choice):
        assert set(values) == set(space.options) == set(space.corners())
        return
    low, high = space.corners()
    assert low <= high
    assert all(low <= value <= high for value in values)
    assert all(type(value) is (int if isinstance(space, Int) else float) for value in [*values, low, high])
    if isinstance(space, (Float, Int)):
        assert space.lower <= low
        assert high <= space.upper


@pytest.mark.parametrize("space", STEPPED.values(), ids=STEPPED)
def test_steps_are_multiples_without_rounding_noise(space):
    for value in {*finished(space), *space.corners()}:
        assert value / space.step == pytest.approx(round(value / space.step), abs=1e-6)
        assert len(repr(value)) <= 7  # 0.3, not 0.30000000000000004


@pytest.mark.parametrize("name", ["steps", "steps off the ends", "one step", "integers", "one integer", "negative integers", "integer steps", "log integers"])
def test_both_ends_are_reached(name):
    space = SPACES[name]
    values = finished(space)
    assert [min(values), max(values)] == space.corners()


def test_ends_that_are_multiples_are_kept():
    assert Float(0.1, 0.3, step=0.1).corners() == [0.1, 0.3]
    assert Float(0.05, 0.97, step=0.1).corners() == [0.1, 0.9]
    assert Int(1, 10, step=3).corners() == [3, 9]
    assert Int(1, 64, log=True, step=16).corners() == [16, 64]
    assert Normal(0.0, 1.0).corners() == [-4.0, 4.0]


@pytest.mark.parametrize("space", [Int(1, 4), Int(8, 32, step=8), Int(-1, 2), Choice(tuple("abcd"))], ids=repr)
def test_whole_values_are_drawn_alike(space):
    counts = np.unique([str(value) for value in finished(space, 8_000)], return_counts=True)[1]
    assert len(counts) == 4
    assert counts.min() > 1_800  # six standard deviations below 2,000 is 1,768
    assert counts.max() < 2_240


def test_log_ranges_spread_over_the_orders_of_magnitude():
    floats = np.log10(finished(Float(1e-4, 1e-1, log=True)))
    assert np.histogram(floats, bins=3, range=(-4, -1))[0].min() > 550
    integers = np.array(finished(Int(1, 1_000, log=True)))
    assert 0.25 < (integers < 10).mean() < 0.45


@pytest.mark.parametrize("space", [space for space in SPACES.values() if not isinstance(space, Choice)], ids=repr)
def test_any_proposal_is_finished_into_the_range(space):
    low, high = space.corners()
    assert space.finish(-1e9) == low
    assert space.finish(1e9) == high
    assert low <= space.finish(np.float64((low + high) / 2)) <= high
    if not (isinstance(space, Normal) and space.log):  # a lognormal's raw values are logarithms
        assert space.finish(low) == low
        assert space.finish(high) == high


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_value_is_told_back_as_the_raw_proposal_that_gives_it(space):
    for value in {repr(value): value for value in [*finished(space, 200), *space.corners()]}.values():
        raw = space.raw_of(value)
        assert json.loads(json.dumps(raw)) == raw
        again = space.finish(raw)
        assert again == (pytest.approx(value, rel=1e-12) if isinstance(space, Normal) and space.log else value)
        assert type(again) is type(value)


@pytest.mark.parametrize("space", [space for space in SPACES.values() if not isinstance(space, Choice)], ids=repr)
def test_what_lies_outside_is_not_told_back(space):
    low, high = space.corners()
    beyond = 1 + abs(high)
    for value in (low - beyond, high + beyond, float("nan"), float("inf"), 10**400, "1", None, True, [low]):
        with pytest.raises(InvalidSpace, match="is not in"):
            space.raw_of(value)


def test_values_between_the_steps_are_not_told_back():
    for space, value in [(Float(0.0, 0.3, step=0.1), 0.15), (Int(8, 32, step=8), 12), (Int(1, 5), 2.5), (Normal(0.5, 0.1, step=0.05), 0.51)]:
        with pytest.raises(InvalidSpace, match=f"{value} is not in"):
            space.raw_of(value)


def test_options_are_told_apart_as_json_would():
    assert Choice((1, True, "1", None)).raw_of(True) == 1
    assert Choice((("a", ("b",)), ())).raw_of(["a", ["b"]]) == 0
    assert Choice((1, 2)).raw_of(2.0) == 1
    array = np.arange(2)
    assert Choice((np.arange(2), array)).raw_of(array) == 1
    for value in ("a", False, 0, [1]):
        with pytest.raises(InvalidSpace, match=r"is none of choice\(\[1, True, '1', None\]\)"):
            Choice((1, True, "1", None)).raw_of(value)
    assert same_value(float("nan"), float("nan")) is False


POINTS = {
    Int(1, 5): [1, 2, 3, 4, 5],
    Int(1, 10, step=3): [3, 6, 9],
    Int(-3, 2, step=2): [-2, 0, 2],
    Int(1, 64, log=True, step=32): [32, 64],
    Float(0.0, 0.3, step=0.1): [0.0, 0.1, 0.2, 0.3],
    Float(0.05, 0.37, step=0.1): [0.1, 0.2, 0.3],
    Choice(("a", None)): ["a", None],
}


@pytest.mark.parametrize(("space", "values"), POINTS.items(), ids=map(repr, POINTS))
def test_finite_spaces_are_counted_and_enumerated(space, values):
    assert space.num_points == len(values)
    assert [space.finish(space.point(index)) for index in range(len(values))] == values


@pytest.mark.parametrize("space", [Float(0, 1), Float(1, 2, log=True), Normal(0, 1), Normal(0, 1, step=0.5)], ids=repr)
def test_the_others_are_not_finite(space):
    assert space.num_points is None


def test_the_logarithm_of_a_lognormal_is_normal():
    space = Normal(-3.0, 0.5, log=True)
    logs = np.log(finished(space, 8_000))
    assert logs.mean() == pytest.approx(-3, abs=0.03)
    assert logs.std() == pytest.approx(0.5, abs=0.02)
    assert space.corners() == pytest.approx([np.exp(-5), np.exp(-1)])
    assert Normal(-3.0, 0.5, step=0.01, log=True).corners() == [0.01, 0.37]
    assert Normal(-8.0, 0.5, step=0.1, log=True).raw_of(0.0) == -10.0  # a value rounded to 0 has no logarithm


def test_defaults_lie_inside():
    assert Float(1, 2, 1.5).default == 1.5
    assert Int(1, 10, 5).default == 5  # the default is the third argument, as in AutoGluon
    for build in (lambda: Float(1, 2, 3), lambda: Int(1, 10, 11), lambda: Int(1, 10, True), lambda: Float(1e-5, 1e-2, True), lambda: Normal(0, 1, default=5)):
        with pytest.raises(InvalidSpace, match="default: expected a value inside the range, got"):
            build()
    for index in (-1, 2):
        with pytest.raises(InvalidSpace, match="default: expected the index of one of 2 options"):
            Choice((1, 2), default=index)


def test_numpy_numbers_become_plain_ones():
    assert Int(np.int64(1), np.int32(4)) == Int(1, 4)
    assert type(Float(np.float32(0.5), np.float64(0.75)).lower) is float
    assert Normal(np.float32(0.5), 1).mean == 0.5


TEXTS = {
    "uniform(0.1, 0.7)": Float(0.1, 0.7),
    "quniform(0.0, 0.3, 0.1)": Float(0.0, 0.3, step=0.1),
    "loguniform(1e-05, 0.1)": Float(1e-5, 1e-1, log=True),
    "qloguniform(0.1, 1, 0.1, default=0.5)": Float(0.1, 1, 0.5, log=True, step=0.1),
    "int(1, 5)": Int(1, 5),
    "qint(8, 32, 8)": Int(8, 32, step=8),
    "logint(1, 100, default=10)": Int(1, 100, 10, log=True),
    "normal(0.5, 0.1)": Normal(0.5, 0.1),
    "qlognormal(0, 1, 2)": Normal(0, 1, 2, log=True),
    "choice(['a', None, [1, 2]])": Choice(("a", None, (1, 2))),
    "grid_search([1, 2], default=0)": Choice((1, 2), exhaustive=True, default=0),
    "sample_from(<lambda>)": Computed(lambda: 1),
}


@pytest.mark.parametrize(("text", "space"), TEXTS.items(), ids=TEXTS)
def test_spaces_read_as_people_write_them(text, space):
    assert str(space) == text


def test_texts_hold_no_addresses():
    class Thing:
        pass

    assert text_of([len, Thing, (Thing(), {"a": np.mean})]).count("0x") == 0
    assert "Thing" in text_of(Thing)
    assert text_of(Thing()) == text_of(Thing())
    assert text_of({"b", "a", "c"}) == text_of(frozenset("abc")) == "{'a', 'b', 'c'}"  # the same in every process
    assert Choice((len, Thing())).raw_of(text_of(len)) == 0  # as a record has it


VALUES = {"optim.lr": 0.1, "optim.max_epochs": 3, "model/depth": 4, "seed": 5}
READERS = [
    (lambda config: config["optim.lr"], 0.1),
    (lambda config: config["optim"]["lr"], 0.1),
    (lambda config: config.optim.lr, 0.1),
    (lambda config: config["model"]["depth"], 4),
    (lambda config: config["seed"], 5),
    (lambda config: config.get("patience", 7), 7),
    (lambda config: sorted(config["optim"]), ["lr", "max_epochs"]),
    (lambda spec: spec.config.optim.lr, 0.1),
    (lambda spec: spec.config["optim.lr"], 0.1),
    (lambda spec: spec["config"]["model"].depth, 4),
    (lambda: 9, 9),
    (lambda *values: len(values), 1),
    (lambda values, factor=2: values.seed * factor, 10),
    (functools.partial(lambda factor, config: config.seed * factor, 3), 15),
    (len, 4),
]


@pytest.mark.parametrize(("function", "value"), READERS)
def test_functions_reach_the_values_in_every_way_of_rays(function, value):
    assert Computed(function).value(VALUES) == value


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda config: config["lr"], KeyError),
        (lambda config: config["opt"], KeyError),  # not a group, although a key begins with it
        (lambda config: config.lr, AttributeError),
        (lambda spec: spec.config.config.lr, AttributeError),
        (lambda one, two: 1, TypeError),
    ],
)
def test_what_is_not_there_is_an_error_of_the_function(function, error):
    with pytest.raises(error):
        Computed(function).value(VALUES)


def test_only_functions_compute():
    with pytest.raises(InvalidSpace, match="expected a function of the trial's values, got 5"):
        Computed(5)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Choice(()), "at least one option"),
        (lambda: Float(1, 1), "lower < upper, got lower=1, upper=1"),
        (lambda: Float(2, 1), "lower < upper"),
        (lambda: Float(0, 1, log=True), "must start above 0, got lower=0"),
        (lambda: Float(-1, 1, log=True), "must start above 0"),
        (lambda: Float(0.11, 0.19, step=0.1), "no multiple of 0.1 between 0.11 and 0.19"),
        (lambda: Float(0, 1, step=0), "step > 0"),
        (lambda: Float(0, 1, step=-0.1), "step > 0"),
        (lambda: Float(0, 1, step=float("nan")), "step=nan"),
        (lambda: Float(0, 1, step="0.1"), "step='0.1'"),
        (lambda: Float(float("nan"), 1), "lower=nan"),
        (lambda: Float(0, float("inf")), "upper=inf"),
        (lambda: Float("0", 1), "lower='0'"),
        (lambda: Float(False, True), "lower=False"),
        (lambda: Float(None, 1), "lower=None"),
        (lambda: Int(2, 1), "no whole number lies in the range"),
        (lambda: Int(1.5, 3), "whole numbers, got lower=1.5"),
        (lambda: Int(1, 4, step=1.5), "whole numbers, got step=1.5"),
        (lambda: Int(1, 4, step=0), "step > 0"),
        (lambda: Int(0, 4, log=True), "must start above 0"),
        (lambda: Int(5, 7, step=4), "no multiple of 4 between 5 and 7"),
        (lambda: Int(True, 4), "lower=True"),
        (lambda: Normal(0, 0), "standard deviation > 0"),
        (lambda: Normal(0, -1), "standard deviation > 0"),
        (lambda: Normal(float("inf"), 1), "mean=inf"),
        (lambda: Normal("0", 1), "mean='0'"),
        (lambda: Normal(0, 1, step=0), "step > 0"),
        (lambda: Normal(1e3, 1, log=True), "of the logarithm, got 1000.0 and 1"),
        (lambda: Normal(0, 200, log=True), "leaves the range of floats"),
        (lambda: Float(0, 10**400), "upper=1000"),
    ],
)
def test_spaces_that_cannot_be(build, words):
    with pytest.raises(InvalidSpace) as caught:
        build()
    assert words in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_spaces_are_frozen(space):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(space, dataclasses.fields(space)[0].name, 1)


@pytest.mark.parametrize("write", [words.choice, words.grid_search])
def test_a_set_has_an_order(write):
    """Its own order differs between processes."""
    assert write({f"option {number}" for number in range(9)}).options == tuple(f"option {number}" for number in range(9))
    assert write(frozenset({3, 1, 2})).options == (1, 2, 3)


def test_numbers_of_two_types_are_two_options():
    """To scikit-learn, max_features=1 is one column and 1.0 is all of them."""
    both = Choice((1, 1.0, [1, 2]))
    assert [both.raw_of(value) for value in (1, 1.0, [1, 2], (1, 2))] == [0, 1, 2, 2]
    assert Choice((1.0, 2.0)).raw_of(1) == 0
    assert len({point_of({"x": both}, {"x": index}) for index in range(3)}) == 3


def test_a_large_array_is_told_by_all_that_it_holds():
    """Its repr omits the middle, so a search could be resumed with other data."""
    one, other = np.zeros(5000), np.zeros(5000)
    other[2500] = 1
    frame = pd.DataFrame({"a": one})
    for first, second in ((one, other), (frame, pd.DataFrame({"a": other})), (frame["a"], pd.Series(other)), (one.astype(object), other.astype(object))):
        assert text_of(first) == text_of(first.copy()) != text_of(second)
        assert text_of([first]) != text_of([second])
    assert "sha256" not in text_of(np.zeros(3))


def test_options_from_a_file_are_those_of_the_call():
    """JSON has lists where the call had tuples."""
    assert same_value({"layers": (64, 64), "rate": 0.1}, {"layers": [64, 64], "rate": 0.1})
    assert not same_value({"layers": (64, 64)}, {"layers": [64, 32]})
    assert not same_value({"layers": 1}, {"layer": 1})


@pytest.mark.parametrize(("domain", "value"), [(Int(1, 8), np.int64(5)), (Float(0, 1), np.float32(0.5)), (Normal(0, 1), np.float64(0.5))])
def test_points_may_be_numpys(domain, value):
    assert domain.finish(domain.raw_of(value)) == value


def test_long_numbers_are_multiples_too():
    assert Float(1e13, 1e13 + 100, step=1).finish(1e13 + 37) == 1e13 + 37
    assert Float(1e6, 2e6, step=1e-6).finish(1234567.123456) == 1234567.123456
    assert Float(0, 1, step=0.1).finish(0.3) == 0.3
