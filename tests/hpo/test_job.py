"""How many trials a search has, and how it is announced."""

import pytest

from automm_hpo.hpo.job import resolve_settings, search_line
from automm_hpo.hpo.settings import TuneSettings
from automm_hpo.space import Choice, Float

SIX = {"optim.lr": Choice((1e-4, 1e-3, 1e-2), exhaustive=True), "optim.max_epochs": Choice((1, 2), exhaustive=True)}
TWELVE = SIX | {"optim.patience": Choice((5, 6), exhaustive=True)}
DRAWN = {"optim.weight_decay": Float(0.0, 0.1)}
CHOICES = {"optim.optim_type": Choice(("adamw", "sgd"))}


@pytest.mark.parametrize(
    ("searcher", "space", "expected"),
    [
        ("random", DRAWN, 10),
        ("random", CHOICES, 10),
        ("random", SIX, 6),
        ("random", SIX | DRAWN, 10),
        ("random", TWELVE | DRAWN, 12),
        ("grid", CHOICES, 2),
        ("grid", TWELVE | CHOICES, 24),
        ("bayes", DRAWN, 10),
    ],
)
def test_a_grid_is_tried_whole_unless_told_otherwise(searcher, space, expected):
    assert resolve_settings(TuneSettings(searcher=searcher), space).num_trials == expected
    assert resolve_settings(TuneSettings(searcher=searcher, num_trials=3), space).num_trials == 3


@pytest.mark.parametrize(
    ("searcher", "space", "num_trials", "expected"),
    [
        ("random", DRAWN, 1_000, "search: random + ASHA, 1,000 trials over optim.weight_decay"),
        ("random", SIX, 6, "search: random + ASHA, 6 trials over optim.lr, optim.max_epochs"),
        ("random", SIX, 4, "search: random + ASHA, 4 trials (the first 4 points of a grid of 6) over optim.lr, optim.max_epochs"),
        ("random", CHOICES, 2, "search: random + ASHA, 2 trials over optim.optim_type"),
        ("random", CHOICES, 3, "search: random + ASHA, 3 trials (the space has 2 points: some are tried again) over optim.optim_type"),
        ("grid", CHOICES, 1, "search: grid + ASHA, 1 trial (the first point of a grid of 2) over optim.optim_type"),
    ],
)
def test_a_part_of_a_grid_is_announced(searcher, space, num_trials, expected):
    assert search_line(TuneSettings(searcher=searcher), num_trials, space) == expected
