import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from automm_hpo.hpo.records import COMPLETED, DIVERGED, FAILED, RUNNING, STOPPED, SearchRecords, Segment, TrialRecord
from automm_hpo.metrics import find_metric
from automm_hpo.results import SearchResults

ACCURACY, LOG_LOSS = find_metric("accuracy"), find_metric("log_loss")


@pytest.fixture
def results(tmp_path, store, curve, nasty):
    """Results with one trial of every status, ranked by log_loss."""
    tuned = {"optim.lr": 0.1, "word": nasty}
    segments = (*curve(LOG_LOSS, [0.9, 0.4]), *(replace(result, segment=1, extra={"f1": 0.5, "score": 7.0}) for result in curve(LOG_LOSS, [0.5, 0.7])))
    trials = [
        TrialRecord(0, tuned, {}, STOPPED, "scheduler", results=curve(LOG_LOSS, [1.0])),
        TrialRecord(1, tuned, {}, COMPLETED, results=segments),
        TrialRecord(2, tuned, {}, FAILED, f"ValueError: {nasty}"),
        TrialRecord(3, {"optim.lr": 5.0}, {}, DIVERGED, "loss became nan", results=curve(LOG_LOSS, [2.0, math.nan])),
        TrialRecord(4, tuned, {}, RUNNING, results=curve(LOG_LOSS, [3.0])),
    ]
    return SearchResults(store(tmp_path, trials), LOG_LOSS)


def test_curves_have_a_row_for_every_validation_in_the_metrics_natural_sign(results):
    curves = results.curves()
    assert list(curves.columns) == ["trial", "segment", "epoch", "score", "metric", "train_loss", "valid_loss", "lr", "seconds", "f1", "reported/score"]
    assert list(curves["trial"]) == [0, 1, 1, 1, 1, 3, 3, 4]
    assert not curves.duplicated(["trial", "segment", "epoch"]).any()
    one = curves[curves["trial"] == 1]
    assert list(one["segment"]) == [0, 0, 1, 1]
    assert list(one["metric"]) == [0.9, 0.4, 0.5, 0.7]
    assert (one["score"] == -one["metric"]).all()  # a value that the user reports as "score" has a column of its own
    assert one["reported/score"].dropna().tolist() == [7.0, 7.0]
    assert one["f1"].isna().tolist() == [True, True, False, False]


def test_the_losses_an_objective_reports_are_its_curves(tmp_path, store, curve):
    own = {"train_loss": 3.0, "valid_loss": 4.0, "lr": 0.5, "epoch": 70.0}
    results = tuple(replace(result, train_loss=math.nan, valid_loss=math.nan, lr=math.nan, extra=own) for result in curve(ACCURACY, [0.5]))
    curves = SearchResults(store(tmp_path, [TrialRecord(0, {}, {}, COMPLETED, results=results)]), ACCURACY).curves()
    assert curves.loc[0, ["train_loss", "valid_loss", "lr", "epoch", "reported/epoch"]].tolist() == [3, 4, 0.5, 1, 70]


def test_best_trials_and_leaderboard_agree(results):
    assert len(results) == 5
    assert [record.number for record in results.trials] == [0, 1, 2, 3, 4]
    assert (results.best.number, results.best.best.metric) == (1, 0.4)
    table = results.leaderboard()
    assert isinstance(table, pd.DataFrame)
    assert table.loc[0, "trial"] == 1


def test_none_is_a_value_and_no_value_is_another_thing(tmp_path, store):
    trials = [TrialRecord(0, {"word": None}, {}, COMPLETED), TrialRecord(1, {"word": "a"}, {}, COMPLETED), TrialRecord(2, {}, {}, COMPLETED)]
    words = SearchResults(store(tmp_path, trials), ACCURACY).leaderboard().set_index("trial")["word"]
    assert words[0] is None
    assert math.isnan(words[2])


def test_failures_have_their_causes(results):
    failures = results.failures()
    assert list(failures["trial"]) == [2, 3]
    assert list(failures["status"]) == [FAILED, DIVERGED]
    assert failures.loc[0, "reason"].startswith("ValueError")
    assert failures.loc[0, "traceback"].endswith("ValueError: too much")
    assert failures.loc[1, "traceback"] == ""


def test_costs_add_up(results):
    folder = results.records.folder_of(1)
    folder.checkpoints.mkdir()
    (folder.checkpoints / "weights").write_bytes(bytes(3_000_000))
    (folder.checkpoints / "the same").hardlink_to(folder.checkpoints / "weights")  # as checkpoints share frozen weights
    costs = results.costs()
    assert list(costs.columns) == ["trial", "status", "epochs", "seconds", "share", "disk_mb"]
    failed_after = results.trials[2].ended - results.trials[2].started  # seconds: it failed before its first validation
    assert list(costs["seconds"]) == [0.5, 1.0, failed_after, 1.0, 0.5]
    assert costs["share"].sum() == pytest.approx(1)
    assert costs.loc[1, "disk_mb"] == pytest.approx(3, abs=0.1)
    totals = results.costs_by_status()
    assert list(totals.index) == [COMPLETED, DIVERGED, FAILED, RUNNING, STOPPED, "total"]
    assert totals.loc[STOPPED, "seconds"] == 0.5
    assert totals.loc["total", ["trials", "epochs", "seconds", "share"]].tolist() == pytest.approx([5, 6.0, 3.0 + failed_after, 1.0])
    assert totals.loc["total", "disk_mb"] == pytest.approx(costs["disk_mb"].sum())


def test_it_tells_itself_in_one_line(results):
    assert repr(results) == "SearchResults(5 trials: 1 running, 1 completed, 1 stopped, 1 diverged, 1 failed; best: trial 1, log_loss 0.4000 at epoch 2)"


def test_its_page_holds_no_markup_but_ours(results, tmp_path, store, make_trials):
    page = results._repr_html_()
    assert re.findall(r"<(?!/?(?:div|table|thead|tbody|tr|th|td|span)\b)", page) == []
    assert "&lt;script&gt;" in page
    assert page.count("<tr") == 6
    assert page.index(">1<") < page.index(">0<")  # the best trial comes first
    many = SearchResults(store(tmp_path / "many", make_trials(30)), ACCURACY)._repr_html_()
    assert many.count("<tr") == 21
    assert "the best 20 are shown; leaderboard() has all 30" in many


def test_all_that_is_told_of_a_search_is_of_one_moment(tmp_path, store, curve):
    """The search may go on meanwhile; only new results show that."""
    store(tmp_path, [TrialRecord(0, {"optim.lr": 0.1}, {}, RUNNING)])
    before = SearchResults(SearchRecords(tmp_path), ACCURACY)
    store(tmp_path, [TrialRecord(1, {"optim.lr": 0.2}, {}, COMPLETED, results=curve(ACCURACY, [0.9]))])
    after = SearchResults(SearchRecords(tmp_path), ACCURACY)
    assert (len(before), before.best, len(before.curves()), before.leaderboard()["trial"].tolist()) == (1, None, 0, [0])
    assert (len(after), after.best.number, len(after.curves()), after.leaderboard()["trial"].tolist()) == (2, 1, 1, [1, 0])


def test_a_search_without_trials_has_empty_tables(tmp_path):
    empty = SearchResults(SearchRecords(tmp_path), ACCURACY)
    assert (len(empty), empty.best) == (0, None)
    assert repr(empty) == "SearchResults(0 trials; no score)"
    for table in (empty.curves(), empty.failures(), empty.costs()):
        assert table.empty
        assert "trial" in table.columns
    assert empty.costs_by_status().loc["total", "trials"] == 0
    assert "0 trials" in empty._repr_html_()
    assert empty.figures() == {}


def test_every_picture_has_a_method(tmp_path, store, make_trials):
    results = SearchResults(store(tmp_path, make_trials(12)), ACCURACY)
    figures = results.figures()
    assert len(figures) == 5
    for name in figures:
        figure = getattr(results, f"plot_{name.removesuffix('.png')}")()
        assert [axes.get_xlabel() for axes in figure.axes] == [axes.get_xlabel() for axes in figures[name].axes]
    assert "PED-ANOVA" in results.plot_importance("ped_anova").axes[0].get_xlabel()
    assert results.importance().index[0] == "optim.lr"


def test_the_best_config_is_what_an_objective_is_called_with(curve):
    segments = (Segment(0, None, 0.0, {"model/lr": 0.1}), Segment(1, 0, 1.0, {"model/lr": 0.2}))
    results = tuple(replace(result, segment=index) for index, result in enumerate(curve(ACCURACY, [0.9, 0.5])))
    record = TrialRecord(0, {"model/lr": 0.2}, {"model/lr": 0.2, "model/depth": 3, "seed": 1}, COMPLETED, results=results, segments=segments)
    assert SearchResults(SimpleNamespace(trials=lambda: [record]), ACCURACY).best_config == {"model": {"lr": 0.1, "depth": 3}, "seed": 1}
    assert SearchResults(SimpleNamespace(trials=lambda: [TrialRecord(0, {}, {}, FAILED)]), ACCURACY).best_config is None
