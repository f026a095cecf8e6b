"""A trial that starts from a linear probe of a pretrained backbone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from automm_hpo import MultiModalPredictor
from automm_hpo.data.batch import TensorCache
from automm_hpo.training import probe
from automm_hpo.training.evaluate import predict_logits
from automm_hpo.training.probe import start_from_probe, wants_probe
from automm_hpo.training.state import TrainState


@pytest.fixture
def weights(trial, tmp_path):
    """A file of weights that count as pretrained."""
    path = tmp_path / "weights.safetensors"
    backbone = trial().state().model.backbones["timm_image"].backbone
    save_file({name: value.contiguous() for name, value in backbone.state_dict().items()}, path)
    return str(path)


@pytest.fixture
def probed(trial, weights, tmp_path):
    """(trial, its state after the probe)."""
    one = trial(model__timm_image__checkpoint_path=weights)
    state: TrainState = one.state()
    start_from_probe(state, one.data, one.config, tmp_path / "cache", lambda epoch, ahead: None)
    return one, state


def test_the_head_is_the_best_linear_model_of_the_features(probed):
    one, state = probed
    untrained = one.state()
    before, after = (predict_logits(each.model, one.data.valid, one.config.env) for each in (untrained, state))
    target = one.data.valid.target
    assert (after.argmax(1) == target).float().mean() > max(0.8, (before.argmax(1) == target).float().mean())
    assert all(torch.equal(value, untrained.model.state_dict()[name]) for name, value in state.model.state_dict().items() if not name.startswith("head"))


def test_a_probe_is_of_weighted_classes_where_training_is(probed, tmp_path):
    """The probe may be the best epoch, and trials that search the class weights each need their own head."""
    one, _ = probed
    for split in (one.data.train, one.data.valid):
        split.target[::3] = split.target[::3].roll(1)  # otherwise all weights would give the same result
    found = []
    for weight in (None, (1.0, 1.0, 1.0), (20.0, 1.0, 1.0), "balanced"):
        state = one.state()
        config = one.config.with_overrides({"optim.class_weights": weight})
        start_from_probe(state, one.data, config, tmp_path / "cache of noisy rows", lambda epoch, ahead: None)
        found.append(float(predict_logits(state.model, one.data.valid, one.config.env).softmax(1)[:, 0].mean()))
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert found[2] > 1.5 * found[0]


def test_epoch_0_is_the_probe_and_training_goes_on_from_it(probed):
    one, state = probed
    results = list(one.epochs(state))
    assert [result.epoch for result in results] == [0, 1, 2, 3, 4]
    assert math.isnan(results[0].train_loss)
    assert results[0].score > 0.8
    assert math.isfinite(results[1].train_loss)


def test_a_search_fits_a_probe_once(probed, tmp_path, monkeypatch):
    one, state = probed
    monkeypatch.setattr("automm_hpo.training.probe.fit_head", None)  # would raise
    again = one.state()
    start_from_probe(
        again, one.data, one.config.with_overrides({"optim.lr": 1.0, "model.timm_image.drop_rate": 0.3}), tmp_path / "cache", lambda epoch, ahead: None
    )
    assert torch.equal(again.model.head.weight, state.model.head.weight)


def test_who_gets_one(trial, weights):
    pretrained, random = trial(model__timm_image__checkpoint_path=weights), trial()
    on, off = (pretrained.config.optim.model_copy(update={"linear_probe": value}) for value in ("on", "off"))
    model = pretrained.state().model
    assert wants_probe(model, pretrained.config.optim, 20_000)
    assert not wants_probe(model, pretrained.config.optim, 20_001)
    assert wants_probe(model, on, 10**6)
    assert not wants_probe(model, off, 10)
    assert not wants_probe(random.state().model, on, 10)


def test_a_fit_has_its_answer_at_epoch_0_and_resumes_behind_it(small, here, fast, weights):
    hyperparameters = fast | {"model.timm_image.checkpoint_path": weights}
    predictor = MultiModalPredictor("label", verbosity=0).fit(small[0], hyperparameters=hyperparameters, save_path="run", tracking=None)
    curves = predictor.search.curves()
    assert curves["epoch"].tolist() == [0, 1, 2]
    assert predictor.fit_summary()["val_accuracy"] == curves["metric"].max() >= curves["metric"][0]


def test_regression_has_a_probe_too(small, here, fast, weights):
    table = small[0].assign(label=[float(len(label)) for label in small[0]["label"]])
    predictor = MultiModalPredictor("label", verbosity=0).fit(
        table, hyperparameters=fast | {"model.timm_image.checkpoint_path": weights}, save_path="run", tracking=None
    )
    curves = predictor.search.curves()
    assert curves["epoch"].tolist() == [0, 1, 2]
    assert curves["metric"][0] < 1.2 * table["label"].std()  # random features: hardly better than the mean, but not worse


def test_a_probe_does_not_depend_on_the_unit_of_the_label(small, here, fast, weights):
    """The penalty is chosen on the labels as they are learned, not as they are in the table."""
    values = [float(ord(label[0]) % 7) for label in small[0]["label"]]
    found = []
    for place, (scale, shift) in enumerate([(1.0, 0.0), (0.01, 0.0), (3.0, 1e4)]):
        table = small[0].assign(label=[scale * value + shift for value in values])
        hyperparameters = fast | {"model.timm_image.checkpoint_path": weights, "optim.max_epochs": 1}
        predictor = MultiModalPredictor("label", problem_type="regression", verbosity=0)
        predictor.fit(table, hyperparameters=hyperparameters, save_path=f"run{place}", tracking=None)
        found.append(predictor.search.curves()["metric"][0] / scale)
    assert found == pytest.approx([found[0]] * 3, rel=1e-3)


def test_without_time_for_it_training_begins_without(trial, weights, tmp_path):
    one = trial(model__timm_image__checkpoint_path=weights)
    state = one.state()
    start_from_probe(state, one.data, one.config, tmp_path / "cache", lambda epoch, ahead: "time_limit" if ahead > 0 else None)
    assert not state.is_unscored
    assert next(one.epochs(state)).epoch == 1


@pytest.mark.parametrize("lr", [3e-3, 1e-12])
def test_a_refit_begins_where_the_trial_did(small, here, fast, weights, lr):
    hyperparameters = fast | {"model.timm_image.checkpoint_path": weights, "optim.lr": lr, "optim.max_epochs": 3}
    predictor = MultiModalPredictor("label", validation_metric="log_loss", verbosity=0)
    predictor.fit(small[0], hyperparameters=hyperparameters, save_path="run", tracking=None, refit=True)
    summary = predictor.fit_summary()
    if summary["best_epoch"] == 0:
        assert "refit" not in summary
    else:
        assert summary["refit"]["rows"] == 200
    if lr < 1e-9:  # only the probe has learned anything
        assert predictor.evaluate(small[0], metrics="accuracy")["accuracy"] > 0.5


def test_of_several_models_it_is_a_linear_model_of_pictures_and_columns(small, here, fast, weights):
    """The other weights of the fusion start at zero and are learned from there."""
    table = small[0].assign(number=np.arange(200.0) % 7, color=["red", "blue"] * 100)
    table["label"] = np.where(table["number"] > 3, table["color"], "none")
    hyperparameters = fast | {"model.timm_image.checkpoint_path": weights, "optim.max_epochs": 1, "optim.lr": 1e-12}
    predictor = MultiModalPredictor("label", verbosity=0).fit(table, hyperparameters=hyperparameters, save_path="run", tracking=None)
    curves, model = predictor.search.curves(), predictor._artifact.members[0].model
    assert curves["epoch"].tolist() == [0, 1]
    assert curves["metric"][0] > 0.9
    assert model.fusion.num_new == 128
    assert not model.head.weight[:, :128].abs().gt(1e-6).any()


@pytest.mark.parametrize("left", [(0, 2), (1,)])
def test_a_class_may_have_lost_all_its_rows(trial, weights, tmp_path, left):
    """As if they were dropped for their images."""
    one = trial(model__timm_image__checkpoint_path=weights)
    train = one.data.train
    rows = torch.isin(train.target, torch.tensor(left))
    one.data = replace(one.data, train=TensorCache(train.images[rows], train.image_mask[rows], train.target[rows]))
    state = one.state()
    start_from_probe(state, one.data, one.config, tmp_path / "cache", lambda epoch, ahead: None)
    found = predict_logits(state.model, one.data.valid, one.config.env).softmax(1)
    assert found.shape == (20, 3)
    assert found.isfinite().all()
    if len(left) > 1:
        assert found[one.data.valid.target == 0][:, 0].mean() > 0.7
        assert set(found.argmax(1).tolist()) <= set(left)


def test_what_a_gpu_takes_to_start_does_not_count_for_every_row(trial, monkeypatch):
    one, now, calls = trial(), [0.0], []

    def predict(model, rows, env, function):
        now[0] += 3.0 if not calls else 0.01 * len(rows)
        calls.append(len(rows))

    monkeypatch.setattr(probe, "predict_logits", predict)
    monkeypatch.setattr(probe.time, "perf_counter", lambda: now[0])
    assert probe._feature_seconds(one.state().model, one.data, one.config) == pytest.approx(0.01 * 60)
