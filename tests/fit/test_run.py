"""A fit decodes images once for all searches, reports it if it takes long, and stops at a time limit or an interrupt."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from ray import tune

from automm_hpo import MultiModalPredictor
from automm_hpo.data import decoding
from automm_hpo.data.images import decode_image
from automm_hpo.errors import BadImages, InvalidArgument, TimeLimitTooShort
from automm_hpo.fit.call import FitCall, plan_fit
from automm_hpo.fit.plan import Target
from automm_hpo.fit.run import _notes
from automm_hpo.hpo.records import SearchRecords, Segment


@pytest.fixture(autouse=True)
def machine(here, monkeypatch):
    """The machine's folder of decoded images, private to one test."""
    monkeypatch.setenv("AUTOMM_HPO_CACHE_DIR", str(here / "machine"))
    return here / "machine"


@pytest.fixture
def decoded(monkeypatch):
    """The sources of the images that are decoded from now on."""
    seen = []
    monkeypatch.setattr(decoding, "decode_image", lambda source, geometry: seen.append(source) or decode_image(source, geometry))
    return seen


def fit(table, hyperparameters, path="run", verbosity=0, **options):
    return MultiModalPredictor("label", verbosity=verbosity).fit(table, hyperparameters=hyperparameters, save_path=path, tracking=None, **options)


def test_the_second_search_on_the_same_images_decodes_none(small, here, fast, decoded):
    fit(small[0], fast, "first")
    assert len(set(decoded)) == len(decoded) == len(small[0])
    decoded.clear()
    other = small[0].assign(number=np.arange(len(small[0])), label=small[0]["label"].eq("Bag").map({True: "bag", False: "other"}))
    fit(other, fast | {"optim.lr": 1e-3}, "second", seed=5, holdout_frac=0.3)
    assert not decoded
    assert not (here / "first" / "search" / "cache").exists()


@pytest.mark.parametrize("strategy", [pytest.param("raise", marks=pytest.mark.slow), "skip"])
def test_a_fit_without_room_for_its_images_is_the_same_to_the_bit(small, here, fast, monkeypatch, capsys, strategy):
    table, hyperparameters = small[0].head(120), fast | {"data.image.missing_value_strategy": strategy, "optim.top_k_average_method": "greedy_soup"}
    if strategy == "skip":
        table = table.assign(image=["nowhere.png", *table["image"].iloc[1:]])
    through_cache = fit(table, hyperparameters, "cached", refit=True)
    monkeypatch.setenv("AUTOMM_HPO_CACHE_GB", "0")
    monkeypatch.setenv("AUTOMM_HPO_CACHE_DIR", str(here / "small"))
    capsys.readouterr()
    streamed = fit(table, hyperparameters, "streamed", verbosity=2, refit=True)
    assert not list((here / "small").glob("*.pixels"))
    assert capsys.readouterr().out.count("images are decoded again for each batch") == 1
    figures = ["status", "score", "best_epoch", "epochs"]
    assert streamed.leaderboard()[figures].equals(through_cache.leaderboard()[figures])
    assert streamed.predict_proba(small[1]).equals(through_cache.predict_proba(small[1]))
    (here / "bad.png").write_bytes(b"<html>")
    with pytest.raises(BadImages, match=r"bad\.png\): not an image"):
        fit(table.assign(image=[str(here / "bad.png"), *table["image"].iloc[1:]]), fast, "refused")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("limit", [{"PREDICT_ROWS": 32}, {"PREDICT_BYTES": 300_000}, {"PREDICT_BYTES": 1}], ids=["rows", "bytes", "no room"])
def test_predictions_of_many_rows_are_those_of_few(small, here, fast, monkeypatch, device, limit):
    """On a GPU, the next rows are decoded while the model computes."""
    predictor = fit(small[0], fast | {"data.image.missing_value_strategy": "skip", "optim.max_epochs": 1})
    test = small[1].assign(image=[*small[1]["image"].iloc[:-1], "nowhere.png"])
    expected = predictor.predict_proba(test)
    assert expected.iloc[-1].isna().all()
    for name, value in limit.items():
        monkeypatch.setattr(f"automm_hpo.predictor.{name}", value)
    monkeypatch.setattr("automm_hpo.predictor.pick_device", lambda env: torch.device(device))  # the model stays where it is
    found = predictor.predict_proba(test)
    assert np.allclose(found, expected, atol=1e-6, equal_nan=True)


def test_ctrl_c_ends_a_decoding_at_once_and_leaves_what_is_decoded_to_the_next(small, here, fast, monkeypatch, machine, capsys):
    decoded = []

    def decode(source, geometry):
        decoded.append(source)  # called from several threads
        if decoded[19:20] == [source]:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)
        return decode_image(source, geometry)

    monkeypatch.setattr(decoding, "decode_image", decode)
    with pytest.raises(KeyboardInterrupt):
        fit(small[0], fast, verbosity=2)
    assert len(decoded) < 100
    assert not (here / "run").exists()
    assert sorted(path.suffix for path in machine.iterdir()) == ["", ".part"]
    assert " of 200 images that were decoded: the next call continues from there" in capsys.readouterr().out
    monkeypatch.setattr(decoding, "decode_image", lambda source, geometry: decoded.append(source) or decode_image(source, geometry))
    fit(small[0], fast | {"optim.max_epochs": 1})
    assert len(set(decoded)) == len(decoded) == 200


def test_a_time_limit_that_decoding_takes_is_said(small, here, fast, monkeypatch, machine):
    monkeypatch.setattr(decoding, "decode_image", lambda source, geometry: time.sleep(0.2) or decode_image(source, geometry))
    started = time.time()
    with pytest.raises(TimeLimitTooShort, match=r"ran out while decoding the images \(\d+ of 200, the rest takes about \d+ s more\)"):
        fit(small[0], fast, time_limit=3)
    assert time.time() - started < 3 + 1
    assert not (here / "run").exists()
    assert sorted(path.suffix for path in machine.iterdir()) == ["", ".part"]


def test_a_long_decoding_tells_its_course(small, here, fast, monkeypatch, capsys):
    monkeypatch.setattr(decoding, "FIRST_LINE", 0.1)
    monkeypatch.setattr(decoding, "decode_image", lambda source, geometry: time.sleep(0.004) or decode_image(source, geometry))
    fit(small[0], fast | {"optim.max_epochs": 1, "env.num_workers": 1}, verbosity=2)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("decoding images")]
    assert " of 200, " in line
    assert line.endswith(" s left")


def test_a_cap_that_is_no_number_is_refused_at_fit(small, here, fast, monkeypatch):
    monkeypatch.setenv("AUTOMM_HPO_CACHE_GB", "plenty")
    with pytest.raises(InvalidArgument, match="AUTOMM_HPO_CACHE_GB='plenty'"):
        fit(small[0], fast)
    assert not (here / "run").exists()


def test_a_trial_that_changed_on_its_way_is_told_as_it_was_at_its_best_epoch(small, here, fast):
    """Population-based training may have changed it since."""
    predictor = fit(small[0].head(60), fast | {"optim.max_epochs": 1})
    folder = SearchRecords(here / "run" / "search").folder_of(0)
    record = folder.read()
    segments = tuple(Segment(number, None, 0.0, {"optim.lr": lr}) for number, lr in enumerate((1e-3, 2e-3, 4e-3)))
    folder.write(replace(record, tuned=segments[-1].tuned, config={**record.config, "optim.lr": 4e-3}, segments=segments))
    folder.rewrite_results([replace(result, segment=1) for result in record.results])
    folder.checkpoint(record.best).rename(folder.checkpoint(folder.read().best))
    best = predictor.load_trial(0)
    assert best.fit_summary()["hyperparameters"] == {"optim.lr": 2e-3}
    assert best._artifact.config.optim.lr == 2e-3


def test_a_metric_that_goes_by_the_order_of_texts_says_so(here, capsys):
    table = pd.DataFrame({"x": range(60), "grade": ["low", "medium", "high"] * 20})
    options = {"save_path": "run", "tracking": None, "hyperparameters": {"optim.max_epochs": 1}}
    MultiModalPredictor("grade", eval_metric="quadratic_kappa", verbosity=1).fit(table, **options)
    assert "alphabetical here: 'high' < 'low' < 'medium'" in " ".join(capsys.readouterr().out.split())
    ordered = table.astype({"grade": pd.CategoricalDtype(["low", "medium", "high"], ordered=True)})
    MultiModalPredictor("grade", eval_metric="quadratic_kappa", verbosity=1).fit(ordered, **options | {"save_path": "other"})
    assert "alphabet" not in capsys.readouterr().out


def plan(table, hyperparameters, problem_type=None, **options):
    return plan_fit(FitCall(hyperparameters=hyperparameters, **options), Target("label", problem_type, None, None), [], table, None)


def test_a_head_on_a_random_backbone_is_told(small, here, fast):
    assert not [*_notes(plan(small[0], fast))]
    for trainable, kwargs in (("head", None), (tune.choice(["all", "head"]), "auto")):
        [note] = _notes(plan(small[0], fast | {"model.timm_image.trainable": trainable}, hyperparameter_tune_kwargs=kwargs))
        assert "the backbone stays random" in note


@pytest.mark.parametrize(
    ("labels", "problem_type", "told"),
    [
        ([row % 40 for row in range(200)], None, "40 different whole numbers, treated as quantities; problem_type='multiclass' treats them as classes"),
        ([float(row % 3) for row in range(200)], None, "3 different whole numbers"),
        ([row % 40 for row in range(200)], "regression", ""),
        ([row % 40 for row in range(200)], "multiclass", ""),
        ([row % 40 + 0.5 for row in range(200)], None, ""),
        (list(range(200)), None, ""),
        ([1e9, *np.linspace(1, 2, 199)], None, "1e+09 in row 0 is 2,"),
        ([1e9, *np.linspace(1, 2, 199)], "regression", "1e+09 in row 0 is 2,"),
        (list(np.random.default_rng(0).lognormal(sigma=2, size=200)), None, ""),
        ([*np.linspace(1, 2, 19), *[0.0] * 181], None, ""),
        (["yes", "no ", "no", "no"] * 50, None, "'no', 'no ' are different classes, which differ only in case, blanks or type"),
        (["Yes", "yes"] * 100, None, "'Yes', 'yes' are different classes"),
        ([*["a", "b"] * 99, "c", "d"], None, "2 of 4 classes have a single row, too few to be both learned from and judged"),
        (["a", "b"] * 100, None, ""),
    ],
)
def test_labels_that_may_be_a_mistake_are_told(small, here, fast, labels, problem_type, told):
    note = plan(small[0].assign(label=labels), fast, problem_type=problem_type).data.label_note
    assert note.startswith(told) and bool(note) == bool(told)
