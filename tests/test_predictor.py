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


def quick_fit(table, here, hyperparameters, **options):
    return MultiModalPredictor(label="label", verbosity=0, **options).fit(table, hyperparameters=hyperparameters, save_path=here / "run", tracking=None)


@pytest.mark.parametrize("kind", ["str", "int", "bool", "category"])
def test_binary_labels_come_back_in_their_own_dtype(fashion, here, fast, kind):
    table = pd.concat(list(fashion)).reset_index(drop=True)
    table = table[table["label"].isin(["Trouser", "Bag"])].head(200)
    is_bag = table["label"] == "Bag"
    labels = {"str": table["label"], "int": is_bag.astype(int) + 5, "bool": is_bag, "category": table["label"].astype("category")}[kind]
    table = table.assign(label=labels)
    predictor = quick_fit(table.head(150), here, fast | {"optim.max_epochs": 12, "env.batch_size": 16})
    assert predictor.problem_type == "binary"
    assert predictor.eval_metric == "roc_auc"
    loaded = MultiModalPredictor.load(here / "run")
    predicted = loaded.predict(table.tail(50))
    assert predicted.dtype == labels.dtype
    assert (predicted == labels.tail(50)).mean() > 0.9
    assert loaded.evaluate(table.tail(50))["roc_auc"] > 0.95
    assert loaded.positive_class == sorted(labels.unique())[1]
    positive = loaded.predict_proba(table.tail(50), as_multiclass=False)
    assert np.allclose(positive, loaded.predict_proba(table.tail(50))[loaded.positive_class])


def test_regression_predicts_in_the_labels_own_unit(fashion, here, fast):
    from PIL import Image

    table = fashion[0].head(400)
    brightness = [1000 + 10 * float(np.asarray(Image.open(path)).mean()) for path in table["image"]]
    table = table.assign(label=brightness)
    predictor = quick_fit(table.head(300), here, fast | {"optim.max_epochs": 8})
    assert predictor.problem_type == "regression"
    found = MultiModalPredictor.load(here / "run").evaluate(table.tail(100), metrics=["rmse", "r2"])
    assert found["r2"] > 0.5
    assert 0 < found["rmse"] < np.std(brightness)
    assert predictor.fit_summary()["val_rmse"] > 0
    assert predictor.leaderboard().loc[0, "score"] < 0
    with pytest.raises(ValueError, match="regression has no classes"):
        predictor.predict_proba(table)


def test_two_image_columns_of_which_one_may_be_missing(small, here, fast):
    table = small[0].assign(other=small[0]["image"].iloc[::-1].to_numpy())
    predictor = quick_fit(table, here, fast)
    assert predictor.column_types == {"image": "image_path", "other": "image_path"}
    assert len(predictor.predict(table.head(5))) == 5


def test_skipping_gives_a_missing_prediction_for_exactly_the_bad_rows(small, here, fast):
    table = small[0].copy()
    table.loc[table.index[3], "image"] = "nowhere.png"
    predictor = quick_fit(table, here, fast | {"data.image.missing_value_strategy": "skip"})
    test = small[1].copy()
    test.loc[test.index[[2, 5]], "image"] = ["nowhere.png", None]
    predicted = predictor.predict(test)
    assert list(predicted.index[predicted.isna()]) == list(test.index[[2, 5]])
    rest = test.drop(index=test.index[[2, 5]])
    assert (predicted.dropna() == predictor.predict(rest)).all()
    assert predictor.predict_proba(test).isna().all(axis=1).sum() == 2
    assert np.isfinite(predictor.evaluate(test)["accuracy"])


def test_the_random_state_of_the_process_is_left_alone(small, here, fast):
    import random

    import torch

    states = [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]
    quick_fit(small[0].head(60), here, fast | {"optim.max_epochs": 1})
    assert states == [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]


def test_tuning_data_and_its_limit(small, here, fast):
    predictor = MultiModalPredictor(label="label", verbosity=0)
    predictor.fit(small[0], tuning_data=small[1], max_num_tuning_data=30, hyperparameters=fast, save_path=here / "run", tracking=None)
    assert round(predictor.fit_summary()["val_accuracy"] * 30, 6).is_integer()


def test_a_predictor_from_a_local_folder_does_without_it(small, here, fast, monkeypatch):
    import shutil

    import timm
    from timm.models import save_for_hf

    from automm_hpo.models import timm_image

    save_for_hf(timm.create_model("test_resnet", num_classes=10), here / "weights", model_args={})
    hyperparameters = fast | {"model.timm_image.checkpoint_name": f"local-dir:{here / 'weights'}", "model.timm_image.pretrained": True}
    predictor = quick_fit(small[0].head(60), here, hyperparameters | {"optim.max_epochs": 1})
    expected = predictor.predict_proba(small[1])
    shutil.rmtree(here / "weights")
    monkeypatch.setattr(timm_image, "_remembered", {})  # as in a new process
    assert np.allclose(MultiModalPredictor.load(here / "run").predict_proba(small[1]), expected)


def test_a_second_fit_makes_a_folder_of_its_own(small, here, fast):
    predictor = MultiModalPredictor(label="label", verbosity=0)
    paths = [predictor.fit(small[0].head(60), hyperparameters=fast | {"optim.max_epochs": 1}, tracking=None).path for _ in range(2)]
    assert paths[0] != paths[1]


def test_a_reused_folder_holds_the_new_data(small, here, fast):
    """In one process, as in a notebook: nothing of the first fit may be remembered under the folder's name."""
    import shutil

    quick_fit(small[0], here, fast)
    shutil.rmtree(here / "run")
    rotated = dict(zip(sorted(small[0]["label"].unique()), [*sorted(small[0]["label"].unique())[1:], "Bag"], strict=True))
    other = small[0].assign(label=small[0]["label"].map(rotated).replace("Bag", "nothing"))
    predictor = quick_fit(other, here, fast | {"optim.max_epochs": 8})
    assert predictor.evaluate(other)["accuracy"] > 0.3
    with open("/proc/self/maps") as maps:
        assert "cache/train.npy" not in maps.read()


@pytest.mark.parametrize("spelling", ["run/../run", "link", "run/search/deeper"])
def test_saving_a_predictor_onto_itself_loses_nothing(small, here, fast, spelling):
    predictor = quick_fit(small[0].head(60), here, fast | {"optim.max_epochs": 1})
    (here / "link").symlink_to(here / "run")
    if "search" in spelling:
        with pytest.raises(ValueError, match="lies inside"):
            predictor.save(here / spelling)
    else:
        predictor.save(here / spelling)
    assert len(MultiModalPredictor.load(here / "run").leaderboard()) == 1


def test_an_interrupt_keeps_the_best_so_far(small, here, fast, monkeypatch):
    from automm_hpo.hpo.progress import Progress

    seen = []

    def interrupt_later(self, record, result):
        seen.append(result)
        if len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "trial_reported", interrupt_later)
    with pytest.raises(KeyboardInterrupt):
        quick_fit(small[0], here, fast | {"optim.max_epochs": 50})
    predictor = MultiModalPredictor.load(here / "run")
    assert predictor.leaderboard().loc[0, ["status", "reason", "epochs"]].tolist() == ["STOPPED", "interrupted", 3]
    assert not (here / "run" / "search" / "cache").exists()
    assert len(predictor.predict(small[1])) == 100


def test_skipped_rows_of_an_integer_label_stay_integers(small, here, fast):
    table = small[0].assign(label=small[0]["label"].astype("category").cat.codes.astype("int64"))
    predictor = quick_fit(table.head(100), here, fast | {"data.image.missing_value_strategy": "skip", "optim.max_epochs": 1})
    test = table.tail(5).assign(image=["nowhere.png", *table["image"].tail(4)])
    assert predictor.predict(test).dtype == "Int64"
