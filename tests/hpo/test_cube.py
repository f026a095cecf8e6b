import numpy as np
import pytest

from automm_hpo import space as spaces
from automm_hpo.hpo.searchers.cube import from_cube, to_cube
from automm_hpo.space import Int

KINDS = [
    spaces.uniform(-1, 3),
    spaces.loguniform(1e-5, 1),
    spaces.qloguniform(1e-2, 1, 1e-2),
    spaces.randint(1, 9),
    spaces.qlograndint(3, 64, 4),
    spaces.randn(3, 2),
    spaces.lognormal(0, 1),
    spaces.choice("abc"),
    spaces.choice(["only"]),
]


@pytest.mark.parametrize("space", KINDS, ids=str)
def test_even_places_are_distributed_as_draws_are(space):
    rng = np.random.default_rng(0)
    drawn = np.sort([space.draw(rng) for _ in range(4000)])
    placed = np.sort([from_cube(space, place) for place in np.linspace(0, 1, 4000)])
    spread = drawn.std() or 1
    for quantile in (400, 1000, 2000, 3000, 3600):
        assert placed[quantile] == pytest.approx(drawn[quantile], abs=0.1 * spread, rel=0.15)


@pytest.mark.parametrize("space", KINDS, ids=str)
def test_there_and_back(space):
    for place in np.linspace(0.001, 0.999, 50):
        raw = from_cube(space, place)
        assert from_cube(space, to_cube(space, raw)) == pytest.approx(raw)
        assert 0 <= to_cube(space, raw) <= 1


@pytest.mark.parametrize("space", KINDS, ids=str)
def test_the_cube_ends_where_the_space_does(space):
    corners = space.corners()
    for place, corner in ((0.0, corners[0]), (1.0, corners[-1])):
        assert space.finish(from_cube(space, place)) == (corner if isinstance(corner, str) else pytest.approx(corner, rel=1e-2))


def test_every_whole_number_owns_as_much():
    space = Int(2, 5)
    assert np.bincount([space.finish(from_cube(space, place)) for place in np.linspace(0, 1, 4001)[:-1]])[2:].tolist() == pytest.approx([1000] * 4, abs=2)
