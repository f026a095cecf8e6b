"""How many trials a search has, and how it is announced."""

import pytest
from ray.tune.search import Searcher

from automm_hpo.hpo.job import MOST_POINTS, resolve_settings, search_line
from automm_hpo.hpo.settings import TuneSettings
from automm_hpo.space import Branch, Branches, Choice, Computed, Float, Int

SIX = {"optim.lr": Choice((1e-4, 1e-3, 1e-2), exhaustive=True), "optim.max_epochs": Choice((1, 2), exhaustive=True)}
TWELVE = SIX | {"optim.patience": Choice((5, 6), exhaustive=True)}
DRAWN = {"optim.weight_decay": Float(0.0, 0.1)}
CHOICES = {"optim.optim_type": Choice(("adamw", "sgd"))}


@pytest.mark.parametrize(
    ("searcher", "space", "expected"),
    [
        ("random", DRAWN, 10),
        ("random", CHOICES, 2),
        ("random", SIX, 6),
        ("random", SIX | DRAWN, 12),  # a multiple of six, so that all grid points run equally often
        ("random", TWELVE | DRAWN, 12),
        ("grid", CHOICES, 2),
        ("grid", TWELVE | CHOICES, 24),
        ("bayes", DRAWN, 10),
    ],
)
def test_a_grid_is_tried_whole_unless_told_otherwise(searcher, space, expected):
    assert resolve_settings(TuneSettings(searcher=searcher), space).num_trials == expected
    assert resolve_settings(TuneSettings(searcher=searcher, num_trials=3), space).num_trials == (2 if space == CHOICES else 3)


def _num_trials(space, num_trials=50, **settings):
    return resolve_settings(TuneSettings(num_trials=num_trials, **settings), space).num_trials


def test_a_finite_space_is_tried_once():
    branches = Branches((Branch({"optim.optim_type": "sgd"}, {"optim.momentum": Choice((0.8, 0.9))}), Branch({"optim.optim_type": "adamw"}, {})))
    assert _num_trials(CHOICES) == 2
    assert _num_trials({"optim": branches}) == 3
    assert _num_trials({"optim.lr": Float(0.1, 0.3, step=0.1)}, searcher="qmc") == 3
    assert _num_trials({"env.batch_size": Int(1, MOST_POINTS)}) == 50


@pytest.mark.parametrize(
    ("space", "settings"),
    [
        (DRAWN, {}),
        (SIX, {"searcher": "random"}),  # grid_search repeats its options as often as needed
        (CHOICES | {"optim.lr": Computed(lambda config: 0.1)}, {}),  # a computed value may be random
        (CHOICES | {"env.batch_size": Int(1, MOST_POINTS)}, {}),
        ({"optim.lr": Choice((0.1, 0.2))}, {"scheduler": "PBT"}),  # a population may start with equal values
        (CHOICES, {"searcher": Searcher()}),
    ],
)
def test_but_for_those_who_may_want_a_point_again(space, settings):
    assert _num_trials(space, **settings) == 50


@pytest.mark.parametrize(
    ("searcher", "space", "num_trials", "expected"),
    [
        ("random", DRAWN, 1_000, "search: random + ASHA, 1,000 trials over optim.weight_decay"),
        ("random", SIX, 6, "search: random + ASHA, 6 trials over optim.lr, optim.max_epochs"),
        ("random", SIX, 4, "search: random + ASHA, 4 trials (the first 4 points of a grid of 6) over optim.lr, optim.max_epochs"),
        ("random", CHOICES, 2, "search: random + ASHA, 2 trials (all points of the space) over optim.optim_type"),
        ("grid", CHOICES, 1, "search: grid + ASHA, 1 trial (the first point of a grid of 2) over optim.optim_type"),
    ],
)
def test_a_part_of_a_grid_is_announced(searcher, space, num_trials, expected):
    assert search_line(TuneSettings(searcher=searcher), num_trials, space) == expected
