"""The decision threshold, from a fit by F1 to predictions: of rows of which one in eight is positive."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from automm_hpo import MultiModalPredictor
from automm_hpo.errors import InvalidArgument, NotFitted
from automm_hpo.hpo.table import number_text

FAST = {"model.real_mlp.hidden_size": 16, "model.real_mlp.num_members": 2, "optim.max_epochs": 8, "optim.lr": 1e-2, "env.batch_size": 32}


def make_rows(num_rows, seed):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(num_rows, 3)), columns=["a", "b", "c"])
    return table.assign(label=np.where(2 * table["a"] + rng.logistic(size=num_rows) > 3.5, "bad", "fine"))


TRAIN, VALID, NEW = make_rows(400, 0), make_rows(300, 1), make_rows(2_000, 2)


def fit(folder, *, hyperparameters=None, verbosity=0, eval_metric="f1", validation_metric=None, **more):
    predictor = MultiModalPredictor("label", eval_metric=eval_metric, validation_metric=validation_metric, verbosity=verbosity)
    own = {"data.pos_label": "bad", **FAST, **(hyperparameters or {})}
    return predictor.fit(TRAIN, tuning_data=VALID, hyperparameters=own, save_path=folder, tracking=None, **more)


@pytest.fixture(scope="module")
def by_f1(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("by_f1") / "predictor")


def share(predictor, rows):
    return predictor.predict_proba(rows)["bad"]


def test_fit_finds_it_and_predictions_heed_it(by_f1):
    assert 0.1 < by_f1.decision_threshold < 0.45
    assert ((by_f1.predict(NEW) == "bad") == (share(by_f1, NEW) > by_f1.decision_threshold)).all()
    assert by_f1.predict_proba(NEW).sum(axis=1).round(6).eq(1).all()
    at_half = by_f1.evaluate(NEW, decision_threshold=0.5)["f1"]
    assert at_half == pytest.approx(f1_score(NEW["label"], by_f1.predict(NEW, decision_threshold=0.5), pos_label="bad"))
    assert by_f1.evaluate(NEW)["f1"] > at_half


def test_validation_and_predictor_have_one_threshold(by_f1):
    """Also after a temperature has changed the probabilities."""
    assert by_f1.evaluate(VALID)["f1"] == pytest.approx(by_f1.fit_summary()["val_f1"])


def test_other_metrics_are_computed_at_it(by_f1):
    scores, predicted = by_f1.evaluate(NEW, ["accuracy", "recall", "roc_auc"], return_pred=True)
    assert scores["accuracy"] == pytest.approx((predicted == NEW["label"]).mean())
    assert scores["recall"] == pytest.approx((predicted == "bad")[NEW["label"] == "bad"].mean())
    assert scores["roc_auc"] == by_f1.evaluate(NEW, ["roc_auc"], decision_threshold=0.9)["roc_auc"]


def test_it_is_saved(by_f1, tmp_path):
    assert MultiModalPredictor.load(by_f1.path, verbosity=0).decision_threshold == by_f1.decision_threshold
    other = MultiModalPredictor.load(by_f1.path, verbosity=0)
    other.set_decision_threshold(0.7)
    other.save(tmp_path / "copy")
    copied = MultiModalPredictor.load(tmp_path / "copy", verbosity=0)
    assert copied.decision_threshold == 0.7
    assert ((copied.predict(NEW) == "bad") == (share(copied, NEW) > 0.7)).all()
    assert MultiModalPredictor.load(by_f1.path, verbosity=0).decision_threshold == by_f1.decision_threshold


def test_it_can_be_found_on_other_rows(by_f1):
    found = by_f1.calibrate_decision_threshold(NEW, "balanced_accuracy")
    assert found < by_f1.decision_threshold  # bad rows count seven times as much
    better, before = (by_f1.evaluate(NEW, "balanced_accuracy", decision_threshold=at)["balanced_accuracy"] for at in (found, None))
    assert better > before


def test_a_metric_that_nothing_else_was_chosen_by(tmp_path):
    predictor = fit(tmp_path / "predictor", validation_metric="roc_auc")
    found = predictor.calibrate_decision_threshold(VALID, "f1")
    assert predictor.decision_threshold == pytest.approx(found, abs=1e-4)
    assert found < 0.45


def test_another_eval_metric_of_a_finished_search_has_its_threshold(tmp_path):
    """The same call with another ``eval_metric`` finds the search finished."""
    before = fit(tmp_path / "predictor", eval_metric="roc_auc")
    assert before.decision_threshold == 0.5
    found = fit(tmp_path / "predictor", eval_metric="f1", validation_metric="roc_auc")
    assert found.decision_threshold == pytest.approx(before.calibrate_decision_threshold(metric="f1"))
    loaded = MultiModalPredictor.load(tmp_path / "predictor", verbosity=0)
    assert (loaded.decision_threshold, loaded.eval_metric) == (found.decision_threshold, "f1")
    assert loaded.calibrate_decision_threshold() == found.decision_threshold


def test_metrics_that_need_none_leave_a_half(tmp_path, capsys):
    predictor = fit(tmp_path / "predictor", eval_metric="accuracy", verbosity=1)
    assert predictor.decision_threshold == 0.5
    assert (predictor.predict(NEW) == predictor.predict_proba(NEW).idxmax(axis=1)).all()
    assert "decision threshold" not in capsys.readouterr().out


@pytest.mark.parametrize("after", [{"ensemble_size": 2}, {"refit": True}])
def test_what_follows_a_search_keeps_it(tmp_path, capsys, after):
    from ray import tune

    space = {"optim.lr": tune.choice([1e-2, 3e-3])}
    settings = {"num_trials": 2, "searcher": "random", "scheduler": "FIFO"}
    predictor = fit(tmp_path / "predictor", hyperparameters=space, hyperparameter_tune_kwargs=settings, verbosity=1, seed=1, **after)
    assert 0.1 < predictor.decision_threshold < 0.45
    assert f"decision threshold {number_text(predictor.decision_threshold)}" in capsys.readouterr().out
    if "refit" not in after:
        assert predictor.evaluate(VALID)["f1"] == pytest.approx(predictor.fit_summary()["val_f1"])
    board = predictor.leaderboard().set_index("trial")
    for number in board.index:
        trial = predictor.load_trial(number)
        assert trial.evaluate(VALID)["f1"] == pytest.approx(board.loc[number, "score"], abs=1e-6)


def test_what_is_refused(by_f1, tmp_path):
    for wrong in (-0.1, 1.5, True, "0.5", float("nan")):
        with pytest.raises(InvalidArgument, match="decision_threshold: expected a number from 0 to 1, got"):
            by_f1.predict(NEW, decision_threshold=wrong)
        with pytest.raises(InvalidArgument, match="decision_threshold: expected a number from 0 to 1, got"):
            by_f1.set_decision_threshold(wrong)
    with pytest.raises(InvalidArgument, match=r"a threshold can be found for f1, .*, got roc_auc"):
        by_f1.calibrate_decision_threshold(VALID, "roc_auc")
    with pytest.raises(NotFitted):
        _ = MultiModalPredictor("label").decision_threshold
    three = MultiModalPredictor("label", verbosity=0).fit(
        TRAIN.assign(label=np.arange(400) % 3), hyperparameters={**FAST, "optim.max_epochs": 1}, save_path=tmp_path / "three", tracking=None
    )
    with pytest.raises(InvalidArgument, match="two classes has a threshold, this one is multiclass"):
        three.predict(NEW, decision_threshold=0.5)
    with pytest.raises(InvalidArgument, match="two classes"):
        _ = three.decision_threshold
