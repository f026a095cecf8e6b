"""Search spaces: what they draw, where they end, and which cannot be."""

import dataclasses

import numpy as np
import pytest

from automm_hpo.errors import InvalidSpace
from automm_hpo.space import Choice, Float, Int, Normal, draw_space

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
    assert space.finish(low) == low
    assert space.finish(high) == high


def test_a_draw_depends_on_seed_and_trial_only():
    drawn = [draw_space(SPACES, seed=7, trial=trial) for trial in range(5)]
    np.random.default_rng(0).random()
    assert [draw_space(SPACES, seed=7, trial=trial) for trial in reversed(range(5))] == drawn[::-1]
    assert len({repr(draw_space(SPACES, seed, trial)) for seed in range(5) for trial in range(5)}) == 25
    assert list(drawn[0]) == list(SPACES)


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
