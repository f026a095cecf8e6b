import math
from dataclasses import replace

import numpy as np
import pytest

from automm_hpo.hpo.axes import metric_axis, tuned_axes
from automm_hpo.hpo.records import COMPLETED, Segment, TrialRecord
from automm_hpo.hpo.table import TrialRow
from automm_hpo.metrics import find_metric


def axis_of(values):
    """The axis of one hyperparameter; None stands for a trial without it."""
    return next(iter(tuned_axes([TrialRecord(number, {} if value is None else {"a.b": value}, {}) for number, value in enumerate(values)])), None)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (list(np.linspace(0.01, 0.3, 12)), "linear"),
        (list(np.geomspace(1e-5, 1e-1, 12)), "log"),
        (list(np.linspace(-1, 1, 12)), "linear"),
        ([0.0, *np.geomspace(1e-5, 1e-1, 12)], "linear"),  # zero has no logarithm
        ([16, 32, 64] * 4, "options"),
        (list(range(10, 40)), "linear"),
        (["adamw", "sgd"] * 4, "options"),
        ([True, False] * 4, "options"),
        ([["flip"], []] * 4, "options"),
        ([0.1], "linear"),
        ([math.inf, 1.0], "options"),
    ],
)
def test_the_kind_of_an_axis_follows_from_its_values(values, kind):
    axis = axis_of(values)
    assert (axis.kind, axis.name) == (kind, "b")
    assert ((axis.unit_positions >= 0) & (axis.unit_positions <= 1)).all()


@pytest.mark.parametrize(
    ("values", "scale", "kind"),
    [
        ([1e-3, 5e-3, 1e-2], "log", "log"),  # too few values to tell by themselves
        ([1e-4, 1e-3, 1e-1, 1e-4], "linear", "linear"),
        ([0.0, 1e-3, 1e-1], "log", "linear"),  # rounded to zero, which has no logarithm
        ([1e-4, 1e-3, 1e-1, 2e-4], None, "log"),
    ],
)
def test_a_range_is_shown_on_its_own_scale(values, scale, kind):
    scales = {} if scale is None else {"lr": scale}
    [axis] = tuned_axes([TrialRecord(number, {"lr": value}, {}, scales=scales) for number, value in enumerate(values)])
    assert axis.kind == kind


def test_numbers_of_a_choice_stand_in_their_order_at_equal_distances():
    axis = axis_of([128, 16, 32, 16, 128, 32])
    assert axis.options == ("16", "32", "128")
    np.testing.assert_allclose(axis.unit_positions, [5 / 6, 1 / 6, 3 / 6, 1 / 6, 5 / 6, 3 / 6])


def test_a_trial_without_the_hyperparameter_has_no_position():
    np.testing.assert_array_equal(np.isnan(axis_of([0.1, None, 0.3]).positions), [False, True, False])
    np.testing.assert_array_equal(np.isnan(axis_of(["x", None]).positions), [False, True])
    assert axis_of([None]) is None


def test_a_loss_over_orders_of_magnitude_is_shown_by_its_logarithm():
    loss, accuracy = find_metric("log_loss"), find_metric("accuracy")
    assert metric_axis([0.5, 1.0, 30.0], loss).is_log
    assert not metric_axis([0.5, 1.0, 3.0], loss).is_log
    assert not metric_axis([0.0, 1.0, 30.0], loss).is_log  # zero has no logarithm
    assert not metric_axis([0.01, 0.9], accuracy).is_log
    axis = metric_axis([1.0, 10.0, 100.0], loss)
    np.testing.assert_allclose(axis.unit_positions(np.array([1.0, 10.0, 100.0, 1e9])), [0, 0.5, 1, 1])


def test_what_runs_away_is_cut_off_on_the_bad_side_only():
    r2, rmse = find_metric("r2"), find_metric("rmse")
    assert metric_axis([0.9, 0.8, 0.7, -1e6], r2) == metric_axis([0.7, 0.8, 0.9, -1e6], r2)
    axis = metric_axis([0.9, 0.8, 0.7, -1e6], r2)
    assert (axis.low, axis.high, axis.num_beyond) == (0.7, 0.9, 1)
    axis = metric_axis([0.0, 1.0, 2.0, 1e6], rmse)
    assert (axis.is_log, axis.low, axis.high, axis.num_beyond) == (False, 0.0, 2.0, 1)
    assert metric_axis([0.9034, 0.9032, 0.9030, 0.86, 0.70], r2).num_beyond == 0  # two of five are no outliers
    same = metric_axis([0.5, 0.5], r2)
    np.testing.assert_allclose(same.unit_positions(np.array([0.5])), [0.5])


def test_a_narrow_range_is_no_choice_of_its_rounded_values():
    assert axis_of(list(np.linspace(100.5, 104.5, 40))).kind == "linear"


def test_a_trial_stands_where_it_was_at_its_best(curve):
    """Population-based training has changed its values since."""
    segments = (Segment(0, None, 0.0, {"lr": 0.1}), Segment(1, 1, 2.0, {"lr": 0.5}))
    results = curve(find_metric("accuracy"), [0.5, 0.9, 0.4])
    record = TrialRecord(0, {"lr": 0.5}, {}, results=(*results[:2], replace(results[2], segment=1)), segments=segments)
    assert tuned_axes([record])[0].positions == [0.1]
    assert TrialRow.of(replace(record, status=COMPLETED)).tuned == {"lr": 0.1}
    assert TrialRow.of(record).tuned == {"lr": 0.5}  # while it runs


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ([[0.9, 0.9995], [0.9, 0.9999], [0.9, 0.9995]], ("0.9, 0.9995", "0.9, 0.9999")),
        ([1001.0, None, 1001.4, "none"] * 2, ("1001", "1001.4", "none")),  # None is absent, see axis_of
        ([20, "auto", 5, 10.0, True], ("5", "10", "20", "True", "auto")),
        ([1, "1", 1.0], ("1", "'1'")),
    ],
)
def test_what_is_written_alike_is_not_one_option(values, options):
    axis = axis_of(values)
    assert (axis.kind, axis.options) == ("options", options)
    assert set(axis.positions[~np.isnan(axis.positions)]) == set(range(len(options)))
