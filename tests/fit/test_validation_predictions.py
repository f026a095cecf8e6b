"""What a predictor tells of the rows that it was validated on."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, root_mean_squared_error

from automm_hpo import MultiModalPredictor
from automm_hpo.artifact import VALIDATED
from automm_hpo.errors import CorruptFile, NotSupported
from automm_hpo.files import MANIFEST, read_json, write_json

FAST = {"model.real_mlp.hidden_size": 16, "optim.max_epochs": 4, "env.batch_size": 64}


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(200, 3)), columns=["a", "b", "c"], index=rng.permutation(1_000)[:200])
    return rows.assign(label=np.where(rows["a"] + rng.normal(size=200) > 1, "yes", "no"))


def fit(table, folder, **more):
    predictor = MultiModalPredictor("label", verbosity=0)
    return predictor.fit(table, hyperparameters=FAST | more.pop("hyperparameters", {}), save_path=folder, tracking=None, **more)


def test_with_folds_it_is_all_rows(table, tmp_path):
    predictor = fit(table, tmp_path / "predictor")
    found = predictor.validation_predictions()
    assert found.index.name == "row"
    assert found.index.tolist() == list(range(200))
    assert found.columns.tolist() == ["target", "prediction", "probability_no", "probability_yes"]
    assert found["target"].tolist() == table["label"].tolist()
    assert np.allclose(found.filter(like="probability").sum(axis=1), 1)
    assert ((found["probability_yes"] > 0.5) == (found["prediction"] == "yes")).all()
    honest = roc_auc_score(found["target"] == "yes", found["probability_yes"])
    assert honest == pytest.approx(predictor.fit_summary()["val_roc_auc"])
    assert honest < predictor.evaluate(table)["roc_auc"]  # rows that it has learned from
    pd.testing.assert_frame_equal(MultiModalPredictor.load(predictor.path, verbosity=0).validation_predictions(), found)
    predictor.save(tmp_path / "copy")
    pd.testing.assert_frame_equal(MultiModalPredictor.load(tmp_path / "copy", verbosity=0).validation_predictions(), found)


def test_rows_that_were_held_out_are_found_again(table, tmp_path):
    predictor = fit(table, tmp_path / "predictor", holdout_frac=0.3)
    found = predictor.validation_predictions()
    assert len(found) == 60
    assert found["target"].tolist() == table.iloc[found.index]["label"].tolist()
    again = predictor.predict_proba(table.iloc[found.index])
    assert np.allclose(again, found.filter(like="probability"), atol=1e-6)


@pytest.mark.parametrize("most", [None, 50])
def test_rows_of_tuning_data(table, tmp_path, most):
    predictor = fit(table[:100], tmp_path / "predictor", tuning_data=table[100:], max_num_tuning_data=most)
    found = predictor.validation_predictions()
    assert len(found) == (most or 100)
    assert found["target"].tolist() == table[100:].iloc[found.index]["label"].tolist()
    assert np.allclose(predictor.predict_proba(table[100:].iloc[found.index]), found.filter(like="probability"), atol=1e-6)


def test_of_an_ensemble_and_of_a_single_trial(table, tmp_path):
    from ray import tune

    searched = {"model.real_mlp.frequency_scale": tune.choice([0.05, 0.3, 2.0]), "model.real_mlp.num_members": 1, "optim.lr": 1e-2, "optim.max_epochs": 8}
    settings = {"num_trials": 3, "searcher": "grid", "scheduler": "FIFO"}
    predictor = fit(table, tmp_path / "predictor", hyperparameters=searched, hyperparameter_tune_kwargs=settings, ensemble_size=3, holdout_frac=0.3)
    assert len(predictor._fitted.members) > 1
    for each in (predictor, *(predictor.load_trial(number) for number in range(3))):
        found = each.validation_predictions()
        assert np.allclose(each.predict_proba(table.iloc[found.index]), found.filter(like="probability"), atol=1e-6)
        assert roc_auc_score(found["target"] == "yes", found["probability_yes"]) == pytest.approx(each.fit_summary()["val_roc_auc"])


def test_a_regression_is_in_the_labels_own_unit(table, tmp_path):
    predictor = fit(table.assign(label=100 + 20 * table["a"]), tmp_path / "predictor")
    found = predictor.validation_predictions()
    assert found.columns.tolist() == ["target", "prediction"]
    assert np.allclose(found["target"], 100 + 20 * table["a"].to_numpy())
    assert root_mean_squared_error(found["target"], found["prediction"]) == pytest.approx(predictor.fit_summary()["val_rmse"], rel=1e-5)


def test_rows_whose_images_cannot_be_read_are_left_out(small, tmp_path):
    valid = small[1][:30].copy()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    valid.iloc[[3, 7], valid.columns.get_loc("image")] = str(tmp_path / "broken.png")
    image = {"checkpoint_name": "test_resnet", "pretrained": False, "image_size": 32}
    own = {**{f"model.timm_image.{name}": value for name, value in image.items()}, "optim.max_epochs": 1, "data.image.missing_value_strategy": "skip"}
    predictor = MultiModalPredictor("label", verbosity=0).fit(small[0], tuning_data=valid, hyperparameters=own, save_path=tmp_path / "predictor", tracking=None)
    found = predictor.validation_predictions()
    assert found.index.tolist() == [row for row in range(30) if row not in (3, 7)]
    assert found["target"].tolist() == valid.iloc[found.index]["label"].tolist()


def test_a_refit_has_those_of_the_best_trial(table, tmp_path):
    predictor = fit(table, tmp_path / "predictor", refit=True, holdout_frac=0.3)
    found = predictor.validation_predictions()
    assert roc_auc_score(found["target"] == "yes", found["probability_yes"]) == pytest.approx(predictor.fit_summary()["val_roc_auc"])


def test_a_predictor_of_before_has_none(table, tmp_path):
    folder = tmp_path / "predictor"
    fit(table, folder)
    (folder / VALIDATED).unlink()
    with pytest.raises(CorruptFile, match=VALIDATED):
        MultiModalPredictor.load(folder)
    write_json(folder / MANIFEST, {name: digest for name, digest in read_json(folder / MANIFEST).items() if name != VALIDATED})
    predictor = MultiModalPredictor.load(folder, verbosity=0)
    assert len(predictor.predict(table)) == 200
    with pytest.raises(NotSupported, match="were not kept"):
        predictor.validation_predictions()
