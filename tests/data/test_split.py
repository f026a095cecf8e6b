"""Held-out rows: each class has its share, and the same seed gives the same rows."""

import numpy as np
import pandas as pd
import pytest

from automm_hpo.data.split import choose_held_out, default_holdout_frac
from automm_hpo.errors import InvalidData
from automm_hpo.problem import infer_problem


def split(labels, frac=None, seed=0, problem_type=None):
    table = pd.DataFrame({"row": range(len(labels)), "label": labels}, index=[0] * len(labels))  # index labels need not be unique
    held_out = choose_held_out(table, infer_problem(table["label"], "label", problem_type), frac, seed)
    return table[~held_out], table[held_out]


@pytest.mark.parametrize(
    "num_rows, frac",
    [(1, 0.2), (100, 0.2), (2_500, 0.2), (4_000, 0.125), (4_999, 500 / 4_999), (5_000, 0.1), (25_000, 0.1), (50_000, 0.05), (1_000_000, 0.01)],
)
def test_default_fraction(num_rows, frac):
    assert default_holdout_frac(num_rows) == pytest.approx(frac)


def test_default_fraction_is_used():
    train, valid = split(["a", "b"] * 2_000)
    assert (len(train), len(valid)) == (3_500, 500)


def test_stratified_and_complete():
    labels = ["common"] * 800 + ["rare"] * 20 + ["pair"] * 2 + ["single"]
    train, valid = split(labels, 0.25)
    assert valid["label"].value_counts().to_dict() == {"common": 200, "rare": 5, "pair": 1}
    assert sorted([*train["row"], *valid["row"]]) == list(range(len(labels)))
    assert set(train["label"]) == set(labels)
    assert train["row"].is_monotonic_increasing  # in the caller's order


@pytest.mark.parametrize("frac", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("counts", [(2, 2), (1, 30), (3, 5, 7)])
def test_every_class_keeps_a_row_in_train(frac, counts):
    train, valid = split(np.repeat([f"class {i}" for i in range(len(counts))], counts), frac)
    assert train["label"].nunique() == len(counts)
    assert valid["label"].nunique() == sum(count > 1 for count in counts)


@pytest.mark.parametrize(("rows_each", "frac", "held_out"), [(2, 0.1, 20), (3, 0.1, 30), (5, 0.1, 100), (5, None, 100), (50, 0.1, 500)])
def test_many_small_classes_do_not_take_half_of_the_rows(rows_each, frac, held_out):
    train, valid = split([f"class {place % 100}" for place in range(100 * rows_each)], frac)
    assert len(valid) == held_out
    assert train["label"].nunique() == 100


def test_seeded():
    labels = ["a", "b", "c"] * 100
    rows = [split(labels, seed=seed)[1]["row"].tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_regression_is_not_stratified():
    train, valid = split(np.arange(100) / 7, 0.2)
    assert (len(train), len(valid)) == (80, 20)


def test_a_label_that_never_repeats_is_named():
    with pytest.raises(InvalidData, match=r"no two of the 12 rows are of one class.*is it a regression"):
        split(list("abcdefghijkl"), 0.2)


def test_too_few_rows():
    with pytest.raises(InvalidData, match="2 rows are too few to hold any out for validation; give tuning_data"):
        split(["a", "b"])


@pytest.mark.parametrize("frac", [None, 0.1, 0.5])
def test_what_is_known_is_not_held_out_and_half_of_the_rest_stays(frac):
    table = pd.DataFrame({"label": ["a", "b"] * 100, "row": range(200)})
    problem = infer_problem(table["label"], "label")
    known = (table["row"] < 160).to_numpy()
    held_out = choose_held_out(table, problem, frac, 0, known)
    train, valid = table[~held_out], table[held_out]
    assert len(train) + len(valid) == 200
    assert (valid["row"] >= 160).all()
    assert len(valid) == 20  # half of the 40 rows not known; the share of all 200 rows would be at least as large
    for all_alike in (np.zeros(200, bool), np.ones(200, bool), None):
        assert (choose_held_out(table, problem, frac, 0, all_alike) == choose_held_out(table, problem, frac, 0)).all()
    few = (table["row"] < 199).to_numpy()
    assert table["row"][choose_held_out(table, problem, frac, 0, few)].tolist() == [199]
