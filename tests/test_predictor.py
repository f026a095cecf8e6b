"""End to end: fit, predict, evaluate, save, load."""

import functools
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from automm_hpo import MultiModalPredictor
from automm_hpo.data.split import choose_held_out
from automm_hpo.errors import InvalidArgument, NotAPredictor, NotSupported, SavePathExists, SearchMismatch
from automm_hpo.problem import infer_problem


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


def test_many_threads_get_the_same_bits(fitted, small):
    expected = fitted.predict_proba(small[1])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fitted.predict_proba(small[1]), range(16)))
    assert all(each.equals(expected) for each in found)


def test_what_predicts_is_a_folded_copy_and_what_is_told_and_saved_is_the_model(fitted, small, tmp_path):
    [member] = fitted._artifact.members
    kinds = {type(module).__name__ for module in member.predicting.modules()}
    assert not any("BatchNorm" in kind for kind in kinds)
    assert fitted.total_parameters == sum(parameter.numel() for parameter in member.model.parameters())
    fitted.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == Path(fitted.path, "model.safetensors").read_bytes()


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
    if kind != "str":  # a numeric column suffices, and is faster to learn from
        table = table.drop(columns="image").assign(number=is_bag + 0.1 * np.random.default_rng(0).normal(size=200))
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


def test_skipping_gives_a_missing_prediction_for_exactly_the_bad_rows(small, here, fast, capsys):
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
    predictor.set_verbosity(1)
    assert np.isfinite(predictor.evaluate(test)["accuracy"])
    assert "2 of 100 rows have no prediction and are left out of all metrics: " in capsys.readouterr().out


def test_the_random_state_of_the_process_is_left_alone(small, here, fast):
    import random

    import torch

    states = [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]
    quick_fit(small[0].head(60), here, fast | {"optim.max_epochs": 1})
    assert states == [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]


def test_tuning_data_and_its_limit(small, here, fast, capsys):
    predictor, valid = MultiModalPredictor(label="label", verbosity=1), pd.concat([small[1], small[0].head(20)]).tail(60)
    predictor.fit(small[0], tuning_data=valid, max_num_tuning_data=30, hyperparameters=fast, save_path=here / "run", tracking=None)
    both = valid.sample(30, random_state=0).index.isin(small[0].index[:20]).sum()
    assert f"{both} of the 30 rows to validate on also occur among the rows to train on" in capsys.readouterr().out
    assert round(predictor.fit_summary()["val_accuracy"] * 30, 6).is_integer()


def test_a_predictor_from_a_local_folder_does_without_it(small, here, fast):
    import json
    import shutil

    import timm
    from timm.models import save_for_hf

    save_for_hf(timm.create_model("test_resnet", num_classes=10), here / "weights", model_args={})
    hyperparameters = fast | {"model.timm_image.checkpoint_name": f"local-dir:{here / 'weights'}", "model.timm_image.pretrained": True}
    predictor = quick_fit(small[0].head(60), here, hyperparameters | {"optim.max_epochs": 1, "optim.calibrate": False})
    expected = predictor.predict_proba(small[1])
    described = json.loads((here / "weights" / "config.json").read_text())
    described["pretrained_cfg"]["mean"] = [0.0, 0.0, 0.0]  # as in another version of the model
    (here / "weights" / "config.json").write_text(json.dumps(described))
    assert np.allclose(MultiModalPredictor.load(here / "run").predict_proba(small[1]), expected)
    shutil.rmtree(here / "weights")
    loaded = MultiModalPredictor.load(here / "run")
    assert np.allclose(loaded.predict_proba(small[1]), expected)
    assert np.allclose(loaded.load_trial(0).predict_proba(small[1]), expected)
    with pytest.raises(InvalidArgument, match="there is no trial 9; the search has trials 0 to"):
        loaded.load_trial(9)
    loaded.save(here / "copy")
    copied = MultiModalPredictor.load(here / "copy")
    assert np.allclose(copied.predict_proba(small[1]), expected)
    with pytest.raises(InvalidArgument, match=r"copy has no trials' weights, because save\(\) does not copy them"):
        copied.load_trial(0)
    (here / "copy").rename(here / "moved")
    with pytest.raises(NotAPredictor, match="no longer exists"):
        copied.load_trial(0)


def test_a_second_fit_makes_a_folder_of_its_own(small, here, fast):
    predictor = MultiModalPredictor(label="label", verbosity=0)
    paths = [predictor.fit(small[0].head(60), hyperparameters=fast | {"optim.max_epochs": 1}, tracking=None).path for _ in range(2)]
    assert paths[0] != paths[1]


def test_a_finished_fit_is_evaluated_as_the_call_says(small, here, fast):
    train = small[0].head(60)
    fits = [quick_fit(train, here, fast | {"optim.max_epochs": 1}, eval_metric=name, validation_metric="accuracy") for name in ("f1_macro", "mcc")]
    assert [list(fitted.evaluate(train)) for fitted in fits] == [["f1_macro"], ["mcc"]]


def test_what_goes_on_by_its_folder_alone_goes_on_again(small, here, fast):
    """Also after a refused call, which does not discard the stored arguments."""
    quick_fit(small[0].head(60), here, fast | {"optim.max_epochs": 1})
    predictor = MultiModalPredictor.load(here / "run", resume=True, verbosity=0)
    with pytest.raises(FileNotFoundError):
        predictor.fit("absent.csv")
    for _ in range(2):
        predictor.fit(small[0].head(60), save_path=here / "run", tracking=None)
        assert predictor.fit_summary()["num_trials"] == 1
    for other in ({"save_path": here / "other"}, {"resume": False}):
        with pytest.raises(ValueError, match="make a new one for another fit"):
            predictor.fit(small[0].head(60), tracking=None, **other)
    MultiModalPredictor.load(here / "run", resume=True, verbosity=0).fit(small[0].head(60))
    assert not list(here.glob("mlflow*"))  # the search began without tracking


def test_a_reused_folder_holds_the_new_data(small, here, fast):
    """In one process, as in a notebook: nothing of the first fit may stay cached under the folder's name."""
    import shutil

    quick_fit(small[0], here, fast)
    shutil.rmtree(here / "run")
    rotated = dict(zip(sorted(small[0]["label"].unique()), [*sorted(small[0]["label"].unique())[1:], "Bag"], strict=True))
    other = small[0].assign(label=small[0]["label"].map(rotated).replace("Bag", "nothing"))
    predictor = quick_fit(other, here, fast | {"optim.max_epochs": 8})
    assert predictor.evaluate(other)["accuracy"] > 0.3
    with open("/proc/self/maps") as maps:
        assert ".pixels" not in maps.read()


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


def test_saving_over_another_search_loses_none(small, here, fast):
    one = {"optim.max_epochs": 1}
    predictor = quick_fit(small[0].head(60), here, fast | one)
    MultiModalPredictor("label", verbosity=0).fit(small[0].head(50), hyperparameters=fast | one, save_path=here / "other", tracking=None)
    with pytest.raises(SavePathExists, match="other already holds a predictor or a search"):
        predictor.save(here / "other")
    MultiModalPredictor.load(here / "other").load_trial(0)
    for _ in range(2):  # a copy has no trials' weights, so it may be overwritten
        predictor.save(here / "copy")


def test_the_scale_of_a_regression_is_the_training_rows(here, fast):
    table = pd.DataFrame({"x": np.arange(100.0), "y": np.arange(100.0) * 3})
    train, held_out = table.head(80), table.tail(20).assign(y=1e6)
    predictor = MultiModalPredictor("y", "regression", verbosity=0)
    predictor.fit(train, tuning_data=held_out, hyperparameters=fast | {"optim.max_epochs": 1}, save_path=here / "run", tracking=None)
    assert predictor._fitted.problem.mean == pytest.approx(train["y"].mean())
    predictor = MultiModalPredictor("y", "regression", verbosity=0)
    whole = pd.concat([train, held_out], ignore_index=True)
    predictor.fit(whole, hyperparameters=fast | {"optim.max_epochs": 1, "data.num_folds": 0}, save_path=here / "held", tracking=None, seed=3)
    trained = whole[~choose_held_out(whole, predictor._fitted.problem, None, 3)]
    assert predictor._fitted.problem.mean == pytest.approx(trained["y"].mean())


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


# ------------------------------------------------------------------------------------------------------- every kind of column


@pytest.fixture(scope="module")
def mixed(fashion) -> pd.DataFrame:
    """300 rows; the image, the numbers, a category and the words each carry a little of the label."""
    rng = np.random.default_rng(0)
    table = pd.concat(list(fashion)).reset_index(drop=True)
    table = table[table["label"].isin(["Trouser", "Bag"])].head(300).reset_index(drop=True)
    is_bag = (table["label"] == "Bag").to_numpy()
    table["age"] = np.where(rng.random(300) < 0.1, np.nan, rng.normal(size=300) + is_bag)
    table["weight"] = pd.Series(rng.integers(0, 5, 300) + is_bag, dtype="Int64")
    table["color"] = np.where(rng.random(300) < 0.7, np.where(is_bag, "red", "blue"), "green")
    table["color"] = table["color"].astype("string[pyarrow]").mask(rng.random(300) < 0.1)
    table["new"] = rng.random(300) < 0.5
    table["when"] = pd.date_range("2024-01-01", periods=300, freq="5h")
    table["title"] = [f"this is a very {'good' if each else 'bad'} {rng.choice(['bag', 'boot'])} {i}" for i, each in enumerate(is_bag)]
    table["body"] = [f"the {word} {word} {i} is red" for i, word in enumerate(table["label"].str.lower())]
    table.loc[5, ["title", "body"]] = None
    table["constant"] = 1
    return table


def fast_tables(fast, reader_folder) -> dict:
    return fast | {"model.hf_text.checkpoint_name": reader_folder, "model.hf_text.max_text_len": 16, "optim.max_epochs": 4}


GROUPS = {
    "numbers": ["age", "weight"],
    "categories": ["color", "new"],
    "dates": ["when"],
    "text": ["title", "body"],
    "all": ["image", "age", "weight", "color", "new", "when", "title", "body", "constant"],
}


@pytest.mark.parametrize("group", GROUPS)
def test_any_kind_of_column_alone_and_all_together(mixed, here, fast, reader_folder, group):
    table = mixed[[*GROUPS[group], "label"]]
    predictor = quick_fit(table.head(250), here, fast_tables(fast, reader_folder))
    loaded = MultiModalPredictor.load(here / "run")
    test = table.tail(50).drop(columns="label").sample(frac=1, axis=1, random_state=0)
    expected = predictor.predict_proba(test)
    assert np.allclose(loaded.predict_proba(test), expected, atol=1e-6)
    assert np.allclose(loaded.predict_proba(test.iloc[[7]]), expected.iloc[[7]], atol=1e-5)
    assert loaded.predict(test.head(0)).dtype == table["label"].dtype
    if group != "dates":
        assert loaded.evaluate(table.tail(50))["roc_auc"] > 0.6
    if group == "all":
        assert loaded.column_types == {
            "image": "image_path", "age": "numerical", "weight": "numerical", "color": "categorical", "new": "categorical", "when": "datetime",
            "title": "text", "body": "text", "constant": "null",
        }  # fmt: skip
    embedding = loaded.extract_embedding(test)
    assert embedding.dtype == np.float32
    assert embedding.shape[0] == 50
    assert np.array_equal(loaded.extract_embedding(test, as_pandas=True).index, test.index)
    assert loaded.extract_embedding(test.head(0)).shape == (0, embedding.shape[1])


def test_a_table_without_images_starts_no_decoding_thread(mixed, here, fast, reader_folder, monkeypatch):
    from automm_hpo.data import decoding

    monkeypatch.setattr(decoding, "ThreadPoolExecutor", None)  # calling it would fail
    predictor = quick_fit(mixed[["age", "color", "title", "label"]].head(100), here, fast_tables(fast, reader_folder) | {"optim.max_epochs": 1})
    predictor.predict(mixed.tail(5))


def test_a_predictor_of_texts_needs_neither_its_folder_nor_transformers_tokenizers(mixed, here, fast, reader_folder):
    import shutil

    shutil.copytree(reader_folder, here / "reader")
    hyperparameters = fast_tables(fast, str(here / "reader")) | {"optim.max_epochs": 1}
    expected = quick_fit(mixed[["title", "label"]].head(100), here, hyperparameters).predict_proba(mixed.tail(20))
    shutil.rmtree(here / "reader")
    assert np.allclose(MultiModalPredictor.load(here / "run").predict_proba(mixed.tail(20)), expected)


@pytest.fixture
def without_transformers(monkeypatch):
    """Makes transformers look uninstalled."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "transformers" else find_spec(name, *rest))


@pytest.mark.parametrize("columns", [["title"], ["age", "body", "title"]])
def test_texts_are_read_by_their_words_where_there_is_no_transformers(mixed, here, fast, without_transformers, columns, capsys):
    predictor = MultiModalPredictor("label").fit(mixed[[*columns, "label"]].head(250), save_path="run", tracking=None, hyperparameters={"optim.max_epochs": 4})
    assert "names=" in capsys.readouterr().out
    assert list(predictor._artifact.members[0].model.backbones) == ["real_mlp"]
    test = mixed.tail(50).assign(title=lambda rows: rows["title"].where(rows.index != 299))
    assert predictor.evaluate(test)["roc_auc"] > 0.9
    assert predictor.predict_proba(test).equals(MultiModalPredictor.load("run").predict_proba(test))
    assert predictor.predict_proba(test.iloc[[3]]).iloc[0, 0] == pytest.approx(predictor.predict_proba(test).iloc[3, 0], abs=1e-5)


@pytest.mark.parametrize(
    "hyperparameters",
    [{"data.text.words": "off"}, {"model.names": ["hf_text"]}, {"model.hf_text.checkpoint_name": "owner/name"}, {"model.names": ["hf_text", "fusion_mlp"]}],
    ids=str,
)
def test_an_encoder_that_is_asked_for_needs_transformers(mixed, here, fast, without_transformers, hyperparameters):
    with pytest.raises(NotSupported, match="need the transformers library"):
        quick_fit(mixed[["title", "label"]], here, hyperparameters)
    assert not (here / "run").exists()


def test_words_stand_beside_an_encoder_where_a_model_reads_numbers(mixed, here, fast, reader_folder):
    table, hyperparameters = mixed[["title", "label"]].head(100), fast_tables(fast, reader_folder) | {"optim.max_epochs": 1}
    names = {"words": ["hf_text", "real_mlp", "fusion_mlp"], "encoder": ["hf_text"], "neither joined": ["hf_text", "real_mlp"]}
    used = {}
    for case, named in names.items():
        predictor = MultiModalPredictor("label", verbosity=0)
        predictor.fit(table, hyperparameters={**hyperparameters, "model.names": named}, save_path=here / case, tracking=None)
        used[case] = list(predictor._artifact.members[0].model.backbones)
        if case == "words":
            assert predictor.search.curves()["metric"][0] > 0.95  # the probe's score, from the words: the encoder's weights are random
    assert used == {"words": ["hf_text", "real_mlp"], "encoder": ["hf_text"], "neither joined": ["hf_text"]}


@pytest.mark.parametrize("kind", ["bytes", "base64", "pil", "array"])
def test_pictures_that_are_no_files(small, here, fast, kind):
    import base64
    from pathlib import Path

    from PIL import Image

    makers = {
        "bytes": lambda path: Path(path).read_bytes(),
        "base64": lambda path: base64.b64encode(Path(path).read_bytes()).decode(),
        "pil": lambda path: Image.open(path).copy(),
        "array": lambda path: np.asarray(Image.open(path)),
    }
    table = small[0].head(80)
    expected = quick_fit(table, here, fast | {"optim.max_epochs": 1}).predict_proba(table)
    other = table.assign(image=pd.Series(table["image"].map(makers[kind]).tolist(), index=table.index, dtype=object))
    predictor = MultiModalPredictor("label", verbosity=0)
    predictor.fit(other, hyperparameters=fast | {"optim.max_epochs": 1}, save_path=here / "other", tracking=None)
    assert predictor.column_types == {"image": "image_base64_str" if kind == "base64" else "image_bytearray"}
    assert np.allclose(predictor.predict_proba(other), expected, atol=1e-6)


def test_a_row_may_do_without_a_picture_where_the_user_says_so(mixed, here, fast):
    table = mixed[["image", "age", "label"]].head(120).copy()
    table.loc[3, "image"] = None
    predictor = quick_fit(table, here, fast | {"data.image.missing_value_strategy": "zero"})
    found = predictor.predict_proba(table)
    assert np.isfinite(found.to_numpy()).all()
    with pytest.raises(ValueError, match=r"nowhere\.png"):
        predictor.predict(table.assign(image="nowhere.png"))


def test_sample_weights_are_learned_by_and_not_from(mixed, here, fast):
    """Every row occurs twice, once with each label; the weights say which label is right."""
    twice = pd.concat([mixed.assign(label=label, trust=np.where(mixed["label"] == label, 1.0, 0.01)) for label in ("Bag", "Trouser")])
    twice = twice[["age", "color", "title", "label", "trust"]].drop(columns="title").sample(frac=1, random_state=0).reset_index(drop=True)
    hyperparameters = fast | {"optim.max_epochs": 8}
    predictor = quick_fit(twice, here, hyperparameters, sample_weight="trust")
    assert "trust" not in predictor.column_types
    assert predictor.evaluate(mixed)["roc_auc"] > 0.7
    with pytest.raises(ValueError, match=r"no sample_weight column 'trusst'.*Did you mean trust"):
        MultiModalPredictor("label", sample_weight="trusst").fit(twice, hyperparameters=hyperparameters)


def test_rows_held_out_may_all_weigh_nothing(mixed, here, fast):
    table = mixed[["age", "label"]].assign(trust=0.0)
    held_out = table.index[choose_held_out(table, infer_problem(table["label"], "label"), None, 0)]
    table["trust"] = (table.index == table.index.difference(held_out)[0]).astype(float)
    predictor = quick_fit(table, here, fast, sample_weight="trust")
    assert np.isfinite(predictor.predict_proba(table).to_numpy()).all()


def test_another_order_of_the_classes_is_another_search(mixed, here, fast):
    table = mixed[["age", "label"]].assign(label=mixed["label"].astype("category"))
    other = table.assign(label=table["label"].cat.reorder_categories(["Trouser", "Bag"]))
    call = {"hyperparameters": fast, "save_path": here / "run", "tracking": None}
    MultiModalPredictor("label", verbosity=0).fit(table[:200], tuning_data=table[200:], **call)
    with pytest.raises(SearchMismatch, match=r"classes: was \['Bag', 'Trouser'\], is \['Trouser', 'Bag'\]"):
        MultiModalPredictor("label", verbosity=0).fit(other[:200], tuning_data=other[200:], **call)


def test_classes_of_several_kinds_keep_them(mixed, here, fast):
    predictor = quick_fit(mixed[["age"]].assign(label=[1, "two", 2.5] * 100), here, fast)
    assert predictor.class_labels.tolist() == [1, 2.5, "two"] == list(predictor.predict_proba(mixed).columns)
    assert set(predictor.predict(mixed)) <= {1, 2.5, "two"}


def test_class_weights_move_the_balance(mixed, here, fast):
    table = mixed[["age", "label"]]
    table = pd.concat([table[table["label"] == "Bag"], table[table["label"] == "Trouser"].head(25)])
    shares = []
    for number, weights in enumerate((None, "balanced", [1, 100])):
        predictor = MultiModalPredictor("label", verbosity=0)
        hyperparameters = fast | {"optim.class_weights": weights, "optim.max_epochs": 6}
        predictor.fit(table, hyperparameters=hyperparameters, save_path=here / str(number), tracking=None)
        shares.append(float(predictor.predict_proba(table)["Trouser"].mean()))
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 0.5


def test_any_scorer_of_scikit_learn(mixed, here, fast):
    from sklearn.metrics import fbeta_score, make_scorer

    table, scorer = mixed[["age", "color", "label"]], make_scorer(fbeta_score, beta=2, pos_label="Trouser")
    predictor = quick_fit(table, here, fast, eval_metric=scorer, validation_metric="neg_brier_score")
    assert (predictor.eval_metric, predictor.validation_metric) == ("scorer.fbeta_score", "neg_brier_score")
    expected = fbeta_score(table["label"], predictor.predict(table), beta=2, pos_label="Trouser")
    assert predictor.evaluate(table) == {"scorer.fbeta_score": pytest.approx(expected)}
    assert predictor.evaluate(table, metrics=[scorer, "jaccard_macro"])["scorer.fbeta_score"] == pytest.approx(expected)
    assert predictor.load_trial(0).evaluate(table) == predictor.evaluate(table)  # this process still has the scorer object
    loaded = MultiModalPredictor.load(here / "run")
    with pytest.raises(ValueError, match="pass metrics"):
        loaded.evaluate(table)
    assert loaded.evaluate(table, metrics=scorer)["scorer.fbeta_score"] == pytest.approx(expected)
    assert loaded.leaderboard().loc[0, "score"] <= 0
    with pytest.raises(NotImplementedError, match="its metric fbeta_score is a scorer object"):
        MultiModalPredictor.load(here / "run", resume=True).fit(table)


def test_a_search_by_a_scorer_object_is_resumed_with_the_same_one(mixed, here, fast):
    from sklearn.metrics import fbeta_score, make_scorer

    def mean_hit(target, predicted):
        return float(np.mean(target == predicted))

    def mean_hit_changed(target, predicted):
        return float(np.mean(target != predicted))

    mean_hit_changed.__name__ = "mean_hit"

    def fit(path, scorer):
        options = fast | {"optim.max_epochs": 1}
        return quick_fit(mixed[["age", "label"]].head(60), here / path, options, validation_metric=scorer)

    (here / "a").mkdir()
    (here / "b").mkdir()
    for path, same, other in (
        ("a", {"score_func": fbeta_score, "beta": 2, "pos_label": "Bag"}, {"score_func": fbeta_score, "beta": 3, "pos_label": "Bag"}),
        ("b", {"score_func": mean_hit}, {"score_func": mean_hit_changed}),
    ):
        first, again = fit(path, make_scorer(**same)), fit(path, make_scorer(**same))
        assert again.fit_summary() == first.fit_summary()
        with pytest.raises(SearchMismatch, match="validation_metric: a scorer with other arguments or other code than before"):
            fit(path, make_scorer(**other))
    with pytest.raises(NotSupported, match=r"resume: the metric scorer\.partial is a scorer object whose function is a closure, a partial or an object"):
        fit("b", make_scorer(functools.partial(mean_hit)))


def test_embeddings_without_a_fit(mixed, here, fast, reader_folder, capsys):
    hyperparameters = fast_tables(fast, reader_folder)
    mixed = mixed[["image", "title", "body", "age"]]
    predictor = MultiModalPredictor(problem_type="feature_extraction", hyperparameters=hyperparameters, verbosity=0)
    both = predictor.extract_embedding(mixed.head(20))
    assert both.dtype == np.float32
    images = MultiModalPredictor(problem_type="feature_extraction", hyperparameters=hyperparameters).extract_embedding(mixed[["image"]].head(20))
    texts = MultiModalPredictor(problem_type="feature_extraction", hyperparameters=hyperparameters).extract_embedding(mixed[["title", "body"]].head(20))
    assert np.allclose(both, np.concatenate([images, texts], 1), atol=1e-5)
    assert np.allclose(predictor.extract_embedding(mixed.iloc[[7]]), both[[7]], atol=1e-5)
    assert predictor.extract_embedding(mixed.head(0)).shape == (0, both.shape[1])
    assert predictor.extract_embedding(mixed.head(3), as_pandas=True).index.tolist() == [0, 1, 2]
    assert not list(here.iterdir())
    first = MultiModalPredictor(problem_type="feature_extraction", hyperparameters=hyperparameters)
    assert np.allclose(first.extract_embedding(mixed[["title", "body", "age"]].head(1)), texts[[0]], atol=1e-5)  # in a single row, every column is constant
    assert "'age'    null              constant" in capsys.readouterr().out
    assert np.allclose(first.extract_embedding(mixed.head(5)), texts[:5], atol=1e-5)
    pictures_alone = MultiModalPredictor(problem_type="feature_extraction", hyperparameters=hyperparameters | {"model.names": ["timm_image"]})
    assert np.allclose(pictures_alone.extract_embedding(mixed[["image", "title"]].head(5)), images[:5], atol=1e-5)
    assert "null              text, for which model.names has no model" in capsys.readouterr().out
    with pytest.raises(ValueError, match="expected images or texts, got 'age' "):
        MultiModalPredictor(problem_type="feature_extraction").extract_embedding(mixed[["age"]])
    with pytest.raises(NotImplementedError, match="call extract_embedding"):
        predictor.fit(mixed)
    with pytest.raises(RuntimeError, match="has not been fitted"):
        MultiModalPredictor("label").extract_embedding(mixed)
    with pytest.raises(RuntimeError, match="is for feature_extraction: it gives extract_embedding"):
        predictor.predict(mixed)
    assert repr(predictor) == "MultiModalPredictor(problem_type='feature_extraction')"


def test_an_embedding_that_failed_decides_nothing(mixed, reader_folder, here):
    hyperparameters = {"model.timm_image.checkpoint_name": "test_resnet", "model.timm_image.pretrained": False, "model.hf_text.checkpoint_name": reader_folder}
    predictor = MultiModalPredictor(problem_type="feature_extraction", hyperparameters=hyperparameters, verbosity=0)
    with pytest.raises(ValueError, match="no such file"):
        predictor.extract_embedding(mixed[["image"]].head(3).assign(image=["nowhere.png"] * 3))
    assert len(predictor.extract_embedding(mixed[["title"]].head(5))) == 5


def test_unknown_categories_and_missing_numbers_are_told(mixed, here, fast, capsys):
    predictor = quick_fit(mixed[["weight", "color", "label"]].head(100), here, fast | {"optim.max_epochs": 1})
    odd = pd.DataFrame({"color": ["mauve", "red"], "weight": [1.0, np.nan]})
    predictor.predict(odd)
    assert capsys.readouterr().out == ""
    predictor.verbosity = 1
    predictor.predict(odd)
    said = capsys.readouterr().out
    assert "'color' in 1 of 2 rows (first 'mauve')" in said
    assert "'weight' in 1 of 2 rows" in said
    predictor.predict_proba(odd)
    assert capsys.readouterr().out == ""  # each note is logged once


def test_a_search_over_a_table_encodes_it_once(mixed, here, fast, reader_folder, ray_session):
    """Workers get the features, tokens of the greatest length, and a metric that is a scorer object."""
    from ray import tune
    from sklearn.metrics import fbeta_score, make_scorer

    hyperparameters = fast_tables(fast, reader_folder) | {"model.hf_text.max_text_len": tune.grid_search([4, 16]), "optim.max_epochs": 1}
    predictor = MultiModalPredictor("label", validation_metric=make_scorer(fbeta_score, beta=2, pos_label="Bag"), sample_weight="trust", verbosity=0)
    table = mixed[["age", "color", "when", "title", "body", "label"]].head(100).assign(trust=1.0)
    tune_kwargs = {"searcher": "random", "num_trials": 2}
    predictor.fit(table, hyperparameters=hyperparameters, hyperparameter_tune_kwargs=tune_kwargs, save_path=here / "run", tracking=None)
    board = predictor.leaderboard()
    assert board["status"].tolist() == ["COMPLETED"] * 2
    assert sorted(board["model.hf_text.max_text_len"]) == [4, 16]
    assert len(MultiModalPredictor.load(here / "run").predict(table)) == 100


def test_a_refit_joins_the_splits_of_every_kind_of_column(mixed, here, fast, reader_folder):
    predictor = MultiModalPredictor("label", verbosity=0, sample_weight="trust")
    table = mixed.assign(trust=np.linspace(0.5, 1.5, 300))[[*GROUPS["all"], "label", "trust"]].head(120)
    predictor.fit(table, hyperparameters=fast_tables(fast, reader_folder), save_path=here / "run", tracking=None, refit=True)
    assert predictor.fit_summary()["refit"]["rows"] == 120
    assert np.allclose(MultiModalPredictor.load(here / "run").predict_proba(table), predictor.predict_proba(table), atol=1e-6)


def test_a_preview_of_a_table_without_images(mixed, here, fast, reader_folder):
    preview = MultiModalPredictor("label").plan(mixed[["age", "color", "title", "label"]], hyperparameters=fast_tables(fast, reader_folder), tracking=None)
    assert preview.num_trials == 1
    assert preview.seconds > 0
    assert not list(here.iterdir())


def test_a_preview_of_a_single_step(mixed, here, fast):
    table = mixed[["age", "label"]]
    preview = MultiModalPredictor("label").plan(table, hyperparameters=fast | {"optim.max_steps": 1, "optim.max_epochs": 30, "env.batch_size": 8})
    assert 0 < preview.trials.loc[0, "epochs"] < 1
    assert preview.seconds >= 0


@pytest.mark.slow
def test_a_real_encoder_tells_texts_apart(minilm, here, fast):
    predictor = MultiModalPredictor(problem_type="feature_extraction", hyperparameters={"model.hf_text.checkpoint_name": minilm}, verbosity=0)
    texts = ["A dog runs over the green grass.", "A puppy is running across a lawn.", "Interest rates were raised by half a percent."]
    found = predictor.extract_embedding(pd.DataFrame({"x": texts}))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    assert found[0] @ found[1] > 0.6 > 0.3 > found[0] @ found[2]


def test_a_finished_search_learns_no_words_again(mixed, here, fast, reader_folder, monkeypatch):
    call = {"hyperparameters": fast_tables(fast, reader_folder), "save_path": here / "predictor", "tracking": None}
    table = mixed[["title", "age", "label"]]
    expected = MultiModalPredictor("label", verbosity=0).fit(table, **call).predict_proba(table)
    monkeypatch.setattr("automm_hpo.fit.plan.fit_ngrams", None)  # calling it would fail
    assert MultiModalPredictor("label", verbosity=0).fit(table, **call).predict_proba(table).equals(expected)
