"""The whole way: fit, predict, evaluate, save, load."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from automm_hpo import MultiModalPredictor


@pytest.fixture(scope="module")
def fitted(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted") / "predictor"
    hyperparameters = {
        "model.timm_image.checkpoint_name": "test_resnet",
        "model.timm_image.pretrained": False,
        "model.timm_image.image_size": 32,
        "env.batch_size": 32,
        "optim.lr": 3e-3,
        "optim.max_epochs": 3,
    }
    return MultiModalPredictor(label="label", verbosity=0).fit(small[0], hyperparameters=hyperparameters, save_path=folder, tracking=None)


def test_predictions_keep_index_name_and_dtype(fitted, small):
    test = small[1].set_index(np.arange(100, 200))
    predicted = fitted.predict(test)
    assert predicted.name == "label"
    assert predicted.dtype == test["label"].dtype
    assert list(predicted.index) == list(test.index)
    assert set(predicted) <= set(fitted.class_labels)


def test_probabilities_agree_with_predictions(fitted, small):
    probabilities = fitted.predict_proba(small[1])
    assert list(probabilities.columns) == list(fitted.class_labels)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.idxmax(axis=1) == fitted.predict(small[1])).all()


def test_row_i_depends_on_row_i_only(fitted, small):
    whole = fitted.predict_proba(small[1])
    alone = fitted.predict_proba(small[1].iloc[[7]])
    assert np.allclose(whole.iloc[7], alone.iloc[0], atol=1e-5)


def test_columns_are_matched_by_name(fitted, small):
    shuffled = small[1].assign(extra=1)[["extra", "label", "image"]]
    assert (fitted.predict(shuffled) == fitted.predict(small[1])).all()


def test_an_empty_table_gives_an_empty_result(fitted, small):
    nothing = fitted.predict(small[1].head(0))
    assert len(nothing) == 0
    assert nothing.dtype == small[1]["label"].dtype
    assert fitted.predict_proba(small[1].head(0)).shape == (0, 10)


def test_evaluate_gives_each_metric_in_its_natural_sign(fitted, small):
    found = fitted.evaluate(small[1], metrics=["accuracy", "f1_macro", "log_loss"])
    assert found["accuracy"] == pytest.approx((fitted.predict(small[1]) == small[1]["label"]).mean())
    assert found["log_loss"] > 0
    assert list(fitted.evaluate(small[1])) == ["accuracy"]


def test_load_in_a_new_process_gives_the_same_predictions(fitted, small, tmp_path):
    moved = tmp_path / "elsewhere"
    fitted.save(moved)
    small[1].to_csv(tmp_path / "test.csv", index=False)
    code = (
        "import sys; from automm_hpo import MultiModalPredictor; "
        "p = MultiModalPredictor.load(sys.argv[1]); p.predict_proba(sys.argv[2]).to_csv(sys.argv[3], index=False); print(len(p.leaderboard()))"
    )
    done = subprocess.run([sys.executable, "-c", code, moved, tmp_path / "test.csv", tmp_path / "out.csv"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert np.allclose(pd.read_csv(tmp_path / "out.csv"), fitted.predict_proba(small[1]), atol=1e-6)


def test_fit_summary_is_the_same_after_load(fitted):
    assert MultiModalPredictor.load(fitted.path).fit_summary() == fitted.fit_summary()
    assert fitted.fit_summary()["val_accuracy"] == fitted.leaderboard().loc[0, "score"]


def test_the_callers_frame_is_not_changed(small, here, fast):
    train = small[0].head(60).copy()
    before = train.copy(deep=True)
    MultiModalPredictor(label="label", verbosity=0).fit(train, hyperparameters=fast | {"optim.max_epochs": 1}, tracking=None)
    pd.testing.assert_frame_equal(train, before)
