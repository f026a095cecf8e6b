"""After the search: what is built from its trials, which of it wins, and that the best trial is never lost."""

import functools
import os
import shutil
import time
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from ray import tune
from sklearn.metrics import make_scorer

from automm_hpo import MultiModalPredictor
from automm_hpo.artifact import load_artifact, save_artifact
from automm_hpo.config import Config, Optim
from automm_hpo.data.cache import open_cache, store_caches
from automm_hpo.data.encoders import fit_encoders
from automm_hpo.data.images import cover
from automm_hpo.errors import AutoMMHPOError, CorruptFile, InvalidArgument, InvalidInput
from automm_hpo.files import MANIFEST, manifest_of, read_json, write_json
from automm_hpo.fit import finishing
from automm_hpo.fit.data_plan import plan_task, split_rows
from automm_hpo.fit.finishing import run_after_search
from automm_hpo.fit.plan import FitPlan, SearchPlan, Target
from automm_hpo.fit.run import _best_artifact
from automm_hpo.hpo.identity import SearchIdentity
from automm_hpo.hpo.progress import Progress
from automm_hpo.hpo.records import COMPLETED, SearchRecords, Segment
from automm_hpo.hpo.settings import TuneSettings
from automm_hpo.hpo.table import number_text
from automm_hpo.metrics import find_metric
from automm_hpo.models import architecture, image_spec
from automm_hpo.space import Float
from automm_hpo.training.calibration import fit_temperature
from automm_hpo.training.checkpoint import save_checkpoint
from automm_hpo.training.checkpoint_folder import PREDICTIONS, WEIGHTS, list_checkpoints, prune_checkpoints
from automm_hpo.training.ensemble import combine_logits, selection_metric
from automm_hpo.training.evaluate import predict_logits, validate
from automm_hpo.training.loop import train_epochs
from automm_hpo.training.state import TrialData

# at a constant rate, epochs wander around the floor of their valley, where their average lies
WANDERING = {"optim.lr_schedule": "constant", "optim.lr": 1e-2, "optim.max_epochs": 6, "optim.top_k_average_method": "greedy_soup"}


UNCALIBRATED = {"optim.calibrate": False}  # so that a soup's or an ensemble's value is the predictor's


class Searched:
    """A search in this process, without Ray: trials are trained, recorded and pruned as in a real search, and the best is committed."""

    def __init__(self, folder: Path, train: pd.DataFrame, valid: pd.DataFrame, trials: list[dict], metric: str | None = None) -> None:
        self.valid, self.configs = valid, [Config.from_flat(trial) for trial in trials]
        data = split_rows(plan_task(Target("label", None, metric, None), train, valid, None), seed=0)
        encoders = fit_encoders(data.columns, data.train.table, self.configs[0].data, cover([image_spec(config) for config in self.configs]))
        search = SearchPlan(self.configs[0], {}, {"optim.lr": Float(1e-5, 1.0)}, TuneSettings(keep_trials=5))
        self.plan = FitPlan(
            path=folder, data=data, search=search, encoders=encoders, seed=0, identity=SearchIdentity({}, {}, {}), resuming=False, deadline=None
        )
        store_caches(folder / "search" / "cache", {name: data.encode(split, encoders) for name, split in data.splits.items()}, encoders.geometry)
        self.lies_in(folder)
        for config in self.configs:
            self.run_trial(config)

    def lies_in(self, folder: Path) -> None:
        self.folder, self.plan, self.records = folder, replace(self.plan, path=folder), SearchRecords(folder / "search")

    def copied(self, folder: Path) -> "Searched":
        """A copy of the search in another folder, with its best trial committed there. Neither affects the other."""
        other = copy(self)
        shutil.copytree(self.folder, folder)
        other.lies_in(folder)
        other.said = []
        other.progress = Progress(self.plan.data.validation_metric, 2, len(self.configs), None, write=other.said.append)
        other.best, artifact = _best_artifact(other.plan, other.records, other.progress)
        other.artifact = artifact.with_summary(training_time=0.0)
        save_artifact(other.artifact, folder)
        return other

    def run_trial(self, config: Config) -> None:
        data = self.plan.data
        train, valid = (open_cache(self.folder / "search" / "cache", name) for name in ("train", "valid"))
        trial_data = TrialData.of(train, valid, data.problem, data.validation_metric)
        state = self.plan.models.state(config, 0, torch.device("cpu"))
        number = self.records.open_trial({}, {"optim.lr": config.optim.lr}, config.flat()).number
        folder = self.records.folder_of(number)
        for result in train_epochs(state, trial_data, config, 0, lambda epoch, ahead: None):
            save_checkpoint(folder.checkpoints, state, result)
            folder.append(result)
        prune_checkpoints(folder.checkpoints, num_best=3, num_states=0)
        self.records.close_trial(number, COMPLETED, "")

    def finish(self, deadline=None, **options):
        artifact, self.had_time = self.run_after_search(deadline, **options)
        stored = load_artifact(self.folder)
        assert stored.summary == artifact.summary
        assert [member.weight for member in stored.members] == [member.weight for member in artifact.members]
        return artifact

    def run_after_search(self, deadline=None, **options):
        commit = functools.partial(save_artifact, folder=self.folder)
        return run_after_search(replace(self.plan, **options), self.records, self.progress, self.best, self.artifact, deadline, commit)

    def metric_of(self, artifact) -> float:
        """An artifact's metric on the validation rows, computed from its members."""
        data, valid = self.plan.data, open_cache(self.folder / "search" / "cache", "valid")
        return validate(data.validation_metric, data.problem, artifact.logits(valid), valid.target.numpy()).metric

    def weights_of(self, artifact) -> list[dict]:
        return [{key: value.clone() for key, value in member.model.state_dict().items()} for member in artifact.members]


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def files_of(folder: Path) -> dict[str, str]:
    return manifest_of(folder, [path.name for path in folder.iterdir() if path.is_file()])


@pytest.fixture(scope="module")
def trained():
    """The searches trained so far, for reuse: most tests look at the same two."""
    return {}


@pytest.fixture
def searched(small, tmp_path, tmp_path_factory, fast, trained):
    def search(*trials: dict, metric: str | None = "log_loss", label=lambda table: table["label"]):
        key = repr((trials, metric, label.__name__))
        if key not in trained:
            train, valid = (table.assign(label=label(table)) for table in small)
            trained[key] = Searched(tmp_path_factory.mktemp("searched") / "predictor", train, valid, [fast | UNCALIBRATED | trial for trial in trials], metric)
        return trained[key].copied(tmp_path / "predictor")

    return search


def brightness(table):
    """A regression label in a unit of its own."""
    return [1000 + 10 * float(np.asarray(Image.open(path)).mean()) for path in table["image"]]


# ---------------------------------------------------------------------------------------------------------------------- a soup


def test_a_soup_of_kept_epochs_becomes_the_predictor_where_it_is_better(searched):
    search = searched(WANDERING)
    artifact = search.finish()
    soup = artifact.summary["soup"]
    assert soup["val_log_loss"] < soup["val_log_loss_of_best"] == search.best.best.metric
    assert artifact.summary["val_log_loss"] == soup["val_log_loss"]
    assert search.metric_of(load_artifact(search.folder)) == pytest.approx(soup["val_log_loss"])
    kept = [path.name for path in list_checkpoints(search.records.folder_of(0).checkpoints)]
    assert 2 <= len(soup["ingredients"]) <= len(kept) == 3
    assert {f"000-{epoch:08.3f}" for trial, epoch in soup["ingredients"]} <= set(kept)
    assert soup["tried"] == 2
    assert not equal(search.weights_of(search.artifact)[0], search.weights_of(artifact)[0])
    assert any("soup of trial 0 epoch" in line and "best trial alone" in line for line in search.said)
    assert artifact.summary["training_time"] >= search.artifact.summary["training_time"]


def test_a_uniform_soup_is_of_the_best_trials_epochs(searched):
    search = searched(WANDERING | {"optim.top_k_average_method": "uniform_soup"}, WANDERING | {"optim.lr": 2e-3})
    soup = search.finish().summary["soup"]
    assert (soup["method"], soup["tried"]) == ("uniform_soup", 1)
    assert {trial for trial, _ in soup["ingredients"]} == {search.best.number}


def test_a_greedy_soup_tries_trials_that_began_alike(searched, monkeypatch):
    """It includes epochs of other trials that began with the same weights, but not of a model of another size."""
    alike, other = WANDERING | {"optim.lr": 3e-3, "model.timm_image.train_transforms": []}, WANDERING | {"model.timm_image.image_size": 24}
    search = searched(WANDERING, alike, other)
    seen = []

    def soup(paths, best, validate):
        seen.extend(Path(path).parent.parent.name for path in paths)
        validate(search.artifact.members[0].model.state_dict())

    monkeypatch.setitem(finishing.SOUPS, "greedy_soup", soup)
    search.finish()
    best, same = search.best.number, {0: 1, 1: 0}.get(search.best.number)
    assert seen.count(f"{best:04d}") == 3
    assert len(seen) == (4 if same is not None else 3)
    assert same is None or f"{same:04d}" in seen


def test_where_no_average_is_better_the_best_stays(searched, monkeypatch):
    search = searched(WANDERING)
    before = search.weights_of(search.artifact)
    monkeypatch.setattr(finishing._Finish, "_validate", lambda self, model, config: replace(self._validation(self.first), score=-9.0))
    artifact = search.finish()
    soup = artifact.summary["soup"]
    assert soup["ingredients"] == [[0, search.best.best.epoch]]
    assert soup["val_log_loss"] == soup["val_log_loss_of_best"] == artifact.summary["val_log_loss"]
    assert soup["tried"] == 2
    assert equal(search.weights_of(load_artifact(search.folder))[0], before[0])
    assert any("no average of 3 checkpoints beats" in line for line in search.said)


def test_best_leaves_everything_as_it_was(searched):
    search = searched(WANDERING | {"optim.top_k_average_method": "best"})
    before = files_of(search.folder)
    assert search.finish() is search.artifact
    assert files_of(search.folder) == before


def test_a_damaged_ingredient_is_left_out(searched):
    search = searched(WANDERING)
    folder = search.records.folder_of(0)
    damaged = next(path for path in list_checkpoints(folder.checkpoints) if path != folder.checkpoint(search.best.best))
    (damaged / WEIGHTS).write_bytes(b"torn")
    soup = search.finish().summary["soup"]
    assert soup["tried"] == 1
    assert any("is unusable and left out" in line for line in search.said)


# ----------------------------------------------------------------------------------------------------------------- an ensemble


ALIKE = {"optim.max_epochs": 6, "optim.lr": 1e-2, "model.timm_image.train_transforms": []}
MIXED = [  # equally good, so they are better together
    ALIKE | {"model.timm_image.image_size": 24},
    ALIKE | {"model.timm_image.checkpoint_name": "test_byobnet"},
    ALIKE | {"model.timm_image.checkpoint_name": "test_convnext"},
]


def test_an_ensemble_of_different_models_is_one_predictor(searched, tmp_path):
    search = searched(*MIXED)
    artifact = search.finish(ensemble_size=3)
    ensemble = artifact.summary["ensemble"]
    assert ensemble["val_log_loss"] < ensemble["val_log_loss_of_best"] == search.best.best.metric
    assert artifact.summary["val_log_loss"] == ensemble["val_log_loss"] == pytest.approx(search.metric_of(artifact))
    assert sum(weight for _, weight in ensemble["members"]) == pytest.approx(1)
    assert len(ensemble["members"]) == len(artifact.members) > 1

    predictor = MultiModalPredictor.load(search.folder)
    assert predictor.fit_summary() == artifact.summary
    assert predictor.evaluate(search.valid, metrics="log_loss")["log_loss"] == pytest.approx(ensemble["val_log_loss"], rel=1e-5)
    table = search.valid.head(20)
    together = predictor.predict_proba(table)
    assert np.allclose(together.sum(axis=1), 1)
    assert (predictor.predict(table) == together.idxmax(axis=1)).all()
    # each trial's own predictions, weighted
    alone = 0.0
    for trial, weight in ensemble["members"]:
        [member] = [member for member in artifact.members if member.config.flat() == search.records.folder_of(trial).read().config]
        assert member.weight == weight
        predictor._artifact = replace(artifact, members=(replace(member, weight=1.0),))
        alone = alone + weight * predictor.predict_proba(table)
    assert np.allclose(together, alone, atol=1e-9)

    predictor = MultiModalPredictor.load(search.folder)
    assert predictor.total_parameters == sum(sum(value.numel() for value in member.model.parameters()) for member in artifact.members)
    files = list(search.folder.glob("model*.safetensors"))
    assert len(files) == len(artifact.members)
    assert predictor.model_size == pytest.approx(sum(file.stat().st_size for file in files) / 1e6, rel=0.05)
    predictor.save(tmp_path / "moved")
    assert MultiModalPredictor.load(tmp_path / "moved").predict_proba(table).equals(together)


def test_an_ensemble_has_at_most_so_many_models(searched):
    search = searched(*MIXED)
    assert len(search.finish(ensemble_size=2).members) == 2


def test_an_ensemble_for_accuracy_is_selected_by_log_loss(searched):
    """Whether or not it is also more accurate on the validation rows."""
    search = searched(*MIXED, metric="accuracy")
    artifact = search.finish(ensemble_size=3)
    ensemble, valid = artifact.summary["ensemble"], open_cache(search.folder / "search" / "cache", "valid")
    assert ensemble["selected_by"] == "log_loss"
    assert artifact.summary["val_accuracy"] == ensemble["val_accuracy"] == pytest.approx(search.metric_of(artifact))
    losses = [
        validate(find_metric("log_loss"), search.plan.data.problem, each.logits(valid), valid.target.numpy()).loss for each in (artifact, search.artifact)
    ]
    assert losses[0] < losses[1]
    assert any(f"log_loss {number_text(losses[0])}, of the best model alone" in line for line in search.said)


def test_without_a_lower_log_loss_the_best_trial_stays(searched, monkeypatch):
    """Even if another single trial has a lower one."""
    monkeypatch.setattr(finishing, "select_members", lambda problem, logits, judge, most, late: ({1: 1.0}, replace(judge(logits[1]), score=0.0)))
    search = searched(*MIXED, metric="accuracy")
    artifact = search.finish(ensemble_size=3)
    assert [trial for trial, _ in artifact.summary["ensemble"]["members"]] in ([search.best.number], ["soup"])
    assert len(artifact.members) == 1


@pytest.mark.parametrize(
    ("metric", "by"), [("roc_auc", "log_loss"), ("log_loss", "log_loss"), ("f1", "f1"), ("rmse", "rmse"), ("neg_log_loss", "neg_log_loss")]
)
def test_by_what_an_ensemble_is_selected(metric, by):
    assert selection_metric(find_metric(metric), Optim()).name == by
    assert selection_metric(find_metric(metric), Optim(class_weights="balanced")).name == metric


def test_an_ensemble_of_regressions_averages_values(searched):
    search = searched(*MIXED[:2], metric="rmse", label=brightness)
    artifact = search.finish(ensemble_size=2)
    ensemble = artifact.summary["ensemble"]
    assert ensemble["val_rmse"] <= ensemble["val_rmse_of_best"]
    assert len(artifact.members) == len(ensemble["members"])
    predictor = MultiModalPredictor.load(search.folder)
    assert predictor.evaluate(search.valid)["rmse"] == pytest.approx(artifact.summary["val_rmse"], rel=1e-4)


def test_a_metric_that_needs_classes(searched):
    search = searched(*MIXED[:2], metric="f1_macro")
    artifact = search.finish(ensemble_size=2)
    predictor = MultiModalPredictor.load(search.folder)
    assert predictor.evaluate(search.valid)["f1_macro"] == pytest.approx(artifact.summary["val_f1_macro"])
    assert artifact.summary["val_f1_macro"] >= search.best.best.metric


def test_the_same_model_twice_is_no_ensemble(searched):
    search = searched({}, {})
    before = search.weights_of(search.artifact)
    artifact = search.finish(ensemble_size=2)
    assert artifact.summary["ensemble"]["members"] == [[search.best.number, 1.0]]
    assert artifact.summary["val_log_loss"] == search.best.best.metric
    assert equal(search.weights_of(load_artifact(search.folder))[0], before[0])
    assert any("no combination of 2 models beats" in line for line in search.said)


def test_a_soup_can_be_a_member(searched, monkeypatch):
    def the_soup_and_its_best_epoch(problem, logits, judge, max_members, late):
        assert len(logits) == 2
        return {1: 0.75, 0: 0.25}, replace(judge(combine_logits(problem, [logits[1], logits[0]], [0.75, 0.25])), score=0.0)

    search = searched(WANDERING)
    monkeypatch.setattr(finishing, "select_members", the_soup_and_its_best_epoch)
    artifact = search.finish(ensemble_size=3)
    assert artifact.summary["ensemble"]["members"] == [["soup", 0.75], [0, 0.25]]
    soup, epoch = search.weights_of(artifact)
    assert equal(epoch, search.weights_of(search.artifact)[0])
    assert not equal(soup, epoch)
    assert search.metric_of(load_artifact(search.folder)) == pytest.approx(artifact.summary["val_log_loss"])


def test_predictions_that_were_not_stored_are_made_again(searched):
    search = searched(*MIXED[:2])
    expected = search.finish(ensemble_size=2).summary["ensemble"]
    for number in (0, 1):
        for checkpoint in list_checkpoints(search.records.folder_of(number).checkpoints):
            (checkpoint / PREDICTIONS).unlink()
            write_json(checkpoint / MANIFEST, {name: digest for name, digest in read_json(checkpoint / MANIFEST).items() if name != PREDICTIONS})
    again = search.finish(ensemble_size=2).summary["ensemble"]
    assert again["members"] == expected["members"]
    assert again["val_log_loss"] == pytest.approx(expected["val_log_loss"])


def test_a_damaged_trial_is_no_candidate(searched):
    search = searched(*MIXED)
    damaged = next(number for number in (0, 1, 2) if number != search.best.number)
    (search.records.folder_of(damaged).checkpoint(search.records.trials()[damaged].best) / PREDICTIONS).write_bytes(b"torn")
    artifact = search.finish(ensemble_size=3)
    assert damaged not in [trial for trial, _ in artifact.summary["ensemble"]["members"]]
    assert any(f"a checkpoint of trial {damaged} is unusable and left out" in line for line in search.said)


# ------------------------------------------------------------------------------------------------------------------ calibration


def noisy(table: pd.DataFrame) -> pd.Series:
    """Labels a third of which are wrong, and which a network can only learn by heart."""
    rng = np.random.default_rng(0)
    return table["label"].where(rng.random(len(table)) > 0.3, rng.permutation(table["label"]))


SURE = ALIKE | {"optim.calibrate": True, "optim.max_epochs": 20, "optim.top_k_average_method": "best"}


def test_a_predictor_that_is_too_sure_is_calibrated(searched, tmp_path):
    search = searched(SURE, metric="accuracy", label=noisy)
    raw = MultiModalPredictor.load(search.folder)
    artifact = search.finish()
    predictor, found = MultiModalPredictor.load(search.folder), artifact.summary["calibration"]
    assert predictor._artifact.temperature == artifact.temperature == found["temperature"] > 1.2
    assert found["val_log_loss"] < 0.97 * found["val_log_loss_before"]
    losses = [each.evaluate(search.valid, metrics="log_loss")["log_loss"] for each in (predictor, raw)]
    assert losses == pytest.approx([found["val_log_loss"], found["val_log_loss_before"]], rel=1e-4)
    assert predictor.predict(search.valid).equals(raw.predict(search.valid))
    assert np.allclose(predictor.predict_proba(search.valid).sum(axis=1), 1)
    assert artifact.summary["val_accuracy"] == search.best.best.metric
    assert any("probabilities softened" in line for line in search.said)
    assert predictor.load_trial(0).predict_proba(search.valid).equals(predictor.predict_proba(search.valid))
    predictor.save(tmp_path / "copy")
    assert MultiModalPredictor.load(tmp_path / "copy").predict_proba(search.valid).equals(predictor.predict_proba(search.valid))


def test_a_calibrated_predictors_log_loss_is_its_validation_metric(searched):
    search = searched(SURE | {"optim.lr": 1e-9, "optim.max_epochs": 1})  # random weights, which are right by chance
    artifact = search.finish()
    assert artifact.temperature == 10
    assert artifact.summary["val_log_loss"] == pytest.approx(search.metric_of(artifact))
    assert artifact.summary["val_log_loss"] == pytest.approx(artifact.summary["calibration"]["val_log_loss"])


def test_a_refit_is_calibrated_like_its_trial(searched):
    search = searched(SURE, metric="accuracy", label=noisy)
    expected = search.finish().temperature
    again = search.finish(refit=True)
    assert again.temperature == expected
    assert again.summary["val_accuracy"] == search.best.best.metric


def test_an_ensemble_is_calibrated_as_one(searched):
    search = searched(*({**trial, **SURE} for trial in MIXED), metric="accuracy", label=noisy)
    ensemble = search.finish(ensemble_size=3)
    valid = open_cache(search.folder / "search" / "cache", "valid")
    alone = replace(ensemble, temperature=1.0).logits(valid)
    assert len(ensemble.members) > 1
    assert torch.equal(ensemble.logits(valid), alone / ensemble.temperature)


def test_an_ensemble_combines_calibrated_models(searched):
    """A model that is too sure would outvote the others, and seem worse than it is."""
    search = searched(*({**trial, **SURE} for trial in MIXED), metric="accuracy", label=noisy)
    ensemble = search.finish(ensemble_size=3)
    valid = open_cache(search.folder / "search" / "cache", "valid")
    assert len(ensemble.members) > 1
    for member in (*ensemble.members, *load_artifact(search.folder).members):
        logits = predict_logits(member.model, valid, member.config.env)
        assert member.temperature == pytest.approx(fit_temperature(logits, valid.target), abs=0.011)
    assert max(member.temperature for member in ensemble.members) > 1.2
    found = validate(find_metric("log_loss"), search.plan.data.problem, ensemble.logits(valid), valid.target.numpy())
    assert ensemble.summary["val_log_loss"] == pytest.approx(found.loss)
    assert ensemble.validated.rows.tolist() == list(range(len(valid)))
    assert torch.allclose(ensemble.validated.logits / ensemble.temperature, ensemble.logits(valid), atol=1e-4)


def test_a_trial_that_is_better_calibrated_becomes_the_predictor(searched, monkeypatch):
    """No combination beats it, and uncalibrated it was not the best."""
    search = searched({**MIXED[0], **SURE, "optim.max_epochs": 1}, {**MIXED[1], **SURE})
    valid = open_cache(search.folder / "search" / "cache", "valid")
    other = next(number for number in (0, 1) if number != search.best.number)
    good = 40 * torch.nn.functional.one_hot(valid.target, 10).float()
    good[:20] = good[:20].roll(1, 1)  # too sure of a fifth of the rows
    own = finishing._Finish._validation

    def predicted(self, epoch):
        return self._judge(good) if epoch.trial == other else own(self, epoch)

    monkeypatch.setattr(finishing._Finish, "_validation", predicted)
    monkeypatch.setattr(finishing, "select_members", lambda problem, logits, judge, most, late: ({0: 1.0}, judge(logits[0])))
    artifact = search.finish(ensemble_size=2)
    assert artifact.summary["ensemble"]["members"] == [[other, 1.0]]
    assert artifact.members[0].config.flat() == search.records.folder_of(other).read().config


@pytest.mark.parametrize(("seconds_left", "is_calibrated"), [(60, True), (-1, False)])
def test_calibration_may_use_the_time_that_saving_has(searched, seconds_left, is_calibrated):
    search = searched(SURE, metric="accuracy", label=noisy)
    search.plan = replace(search.plan, deadline=time.time() + seconds_left)
    assert (search.finish(deadline=time.time() - 1).temperature > 1.2) is is_calibrated
    assert search.had_time is is_calibrated


@pytest.mark.parametrize("trial", [{"optim.calibrate": False}, {"optim.label_smoothing": 0.5}], ids=["switched off", "unsure"])
def test_without_need_or_wish_probabilities_stay(searched, trial):
    artifact = searched(SURE | trial, metric="accuracy").finish()
    assert artifact.temperature == 1
    assert "calibration" not in artifact.summary


def test_the_metric_does_not_pay_for_it(searched):
    """Of a metric that likes extreme probabilities."""
    sure = make_scorer(lambda target, found: float(np.max(found, axis=1).mean()), response_method="predict_proba")
    search = searched(SURE, metric=sure, label=noisy)
    assert search.finish().temperature == 1


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(sharpness):
    logits = torch.randn(20_000, 5, generator=torch.Generator().manual_seed(0))
    target = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(1)).squeeze(1)
    assert fit_temperature(logits * sharpness, target) == pytest.approx(max(1.0, sharpness), rel=0.05)


def test_certainty_is_never_made_and_error_only_so_far_doubted():
    logits, right = torch.eye(4).repeat(10, 1), torch.arange(4).repeat(10)
    assert fit_temperature(logits, right) == 1
    assert fit_temperature(logits, right.flip(0)) == 10


# -------------------------------------------------------------------------------------------------------------------- a refit


@pytest.mark.parametrize(
    "overrides",
    [{}, {"optim.max_steps": 13}, pytest.param({"optim.val_check_interval": 0.5}, marks=pytest.mark.slow)],
    ids=["epochs", "steps", "half epochs"],
)
def test_a_refit_trains_the_best_configuration_on_all_rows(searched, monkeypatch, overrides):
    search = searched({"optim.max_epochs": 4} | overrides)
    best, train = search.best.best, len(search.plan.data.train.table)
    results, seen = [], []

    def watched(state, data, config, seed, should_stop):
        seen.append((len(data.train), config))
        for result in train_epochs(state, data, config, seed, should_stop):
            results.append(result)
            yield result

    monkeypatch.setattr(finishing, "train_epochs", watched)
    artifact = search.finish(refit=True)
    [(num_rows, config)] = seen
    assert num_rows == train + len(search.valid) == artifact.summary["refit"]["rows"]
    # up to the trial's best epoch, with the same learning rate there
    assert results[-1].epoch == pytest.approx(best.epoch, abs=1 / (num_rows // config.env.batch_size))
    assert results[-1].lr == pytest.approx(best.lr, abs=0.15 * config.optim.lr)
    assert artifact.config == search.artifact.config
    assert artifact.summary["refit"] == {"trial": 0, "epochs": results[-1].epoch, "rows": num_rows, "validated": False}
    assert artifact.summary["val_log_loss"] == best.metric  # as in the search
    assert not equal(*search.weights_of(search.artifact), *search.weights_of(artifact))
    assert any("none is left to validate it" in line for line in search.said)
    # it has learned the former validation rows
    assert search.metric_of(load_artifact(search.folder)) < best.metric


def test_a_compiled_refit_predicts_uncompiled(searched):
    """Like every loaded predictor."""
    artifact = searched({"optim.max_epochs": 1, "env.compile.turn_on": True, "env.compile.backend": "eager"}).finish(refit=True)
    assert "refit" in artifact.summary
    assert all(network._compiled_call_impl is None for network in artifact.members[0].model.networks())


def test_a_refit_of_a_trial_that_changed_on_its_way(searched, monkeypatch):
    """It takes the values at the best epoch, which population-based training may have changed since."""
    search = searched({})
    record = replace(search.best, segments=tuple(Segment(number, None, 0.0, {"optim.lr": lr}) for number, lr in enumerate((1e-3, 2e-3, 4e-3))))
    search.best = replace(record, results=tuple(replace(result, segment=1) for result in record.results))
    search.records.folder_of(0).checkpoint(record.best).rename(search.records.folder_of(0).checkpoint(search.best.best))
    seen = []
    monkeypatch.setattr(finishing, "train_epochs", lambda state, data, config, *rest: seen.append(config) or iter([replace(record.best, end="best epoch")]))
    assert search.finish(refit=True).config.optim.lr == seen[0].optim.lr == 2e-3


def test_a_refit_that_goes_wrong_leaves_the_best(searched, monkeypatch):
    search = searched({})
    before = files_of(search.folder)
    monkeypatch.setattr(finishing, "train_epochs", lambda *args: iter([replace(search.best.best, end="diverged")]))
    assert search.finish(refit=True) is search.artifact
    assert files_of(search.folder) == before
    assert any("diverged" in line for line in search.said)


def test_a_refit_ends_at_the_deadline_and_leaves_the_best(searched, monkeypatch):
    search = searched({"optim.max_epochs": 3})
    before = files_of(search.folder)
    late = iter([False] * 6)
    monkeypatch.setattr(finishing._Finish, "_late", lambda self, ahead=0.0: next(late, True))
    assert search.finish(refit=True) is search.artifact
    assert files_of(search.folder) == before
    assert any("(time limit)" in line for line in search.said)
    assert not search.had_time


def test_a_refit_under_a_time_limit_keeps_the_rate_of_its_trial(searched, monkeypatch):
    """Its schedule is that of a full training, for most of which there is no time."""
    search, rates = searched({"optim.max_epochs": 4, "optim.lr_schedule": "linear_decay"}), []

    def watched(*arguments):
        for result in train_epochs(*arguments):
            rates.append(result.lr)
            yield result

    search.best = replace(search.best, results=search.best.results[:2])
    monkeypatch.setattr(finishing, "train_epochs", watched)
    search.finish(refit=True)
    monkeypatch.setattr(finishing._Finish, "_late", lambda self, ahead=0.0: ahead > 1.5 * self.first.result.seconds)
    search.finish(refit=True)
    assert rates[-1] == rates[len(rates) // 2 - 1]
    assert search.had_time


# --------------------------------------------------------------------------------------------------- whatever happens meanwhile


WAYS = pytest.mark.parametrize("options", [{}, {"ensemble_size": 3}, {"refit": True}], ids=["soup", "ensemble", "refit"])


@WAYS
def test_without_time_left_the_best_stays(searched, options):
    search = searched(WANDERING, WANDERING | {"model.timm_image.image_size": 24})
    before = files_of(search.folder)
    assert search.finish(deadline=1.0, **options) is search.artifact
    assert files_of(search.folder) == before
    assert all("no time is left" in line for line in search.said)
    assert search.said
    assert not search.had_time


@WAYS
@pytest.mark.parametrize(("step", "error"), [("replace", "OSError"), ("fsync", "DiskFull")])
def test_a_full_disk_leaves_the_best(searched, monkeypatch, options, step, error):
    search = searched(WANDERING, WANDERING | {"model.timm_image.image_size": 24})
    before = search.weights_of(search.artifact)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        artifact, _ = search.run_after_search(**options)
    assert artifact is search.artifact
    assert load_artifact(search.folder).summary == artifact.summary
    assert equal(search.weights_of(load_artifact(search.folder))[0], before[0])
    assert any(f"failed with {error}, the predictor stays as it is" in line for line in search.said)


def test_a_soup_is_kept_where_the_ensemble_fails(searched, monkeypatch):
    search = searched(WANDERING)

    def too_large(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(finishing, "select_members", too_large)
    artifact = search.finish(ensemble_size=2)
    assert artifact.summary["val_log_loss"] == artifact.summary["soup"]["val_log_loss"] < search.best.best.metric
    assert "ensemble" not in artifact.summary
    assert any("OutOfMemoryError" in line for line in search.said)


@WAYS
def test_an_interrupt_leaves_the_best(searched, monkeypatch, options):
    search = searched(WANDERING, WANDERING | {"model.timm_image.image_size": 24})
    before = files_of(search.folder)

    def interrupt(*args):
        raise KeyboardInterrupt

    for name in ("train_epochs", "predict_logits", "select_members"):
        monkeypatch.setattr(finishing, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        search.finish(**options)
    assert files_of(search.folder) == before


# ------------------------------------------------------------------------------------------------------------- through fit


def fit(train, here, hyperparameters, **options):
    predictor = MultiModalPredictor(label="label", eval_metric="log_loss", verbosity=0)
    return predictor.fit(train, hyperparameters=hyperparameters, save_path=here / "run", tracking=None, **options)


def test_a_fit_without_a_search_averages_its_epochs(small, here, fast):
    predictor = fit(small[0], here, fast | WANDERING, tuning_data=small[1])
    summary = predictor.fit_summary()
    assert summary["val_log_loss"] < predictor.leaderboard().loc[0, "log_loss"] == summary["soup"]["val_log_loss_of_best"]
    assert predictor.evaluate(small[1])["log_loss"] == pytest.approx(summary["val_log_loss"], rel=1e-5)
    loaded = MultiModalPredictor.load(here / "run")
    assert loaded.predict_proba(small[1]).equals(predictor.predict_proba(small[1]))


def test_a_time_limit_leaves_time_for_the_soup(small, here, fast, monkeypatch):
    monkeypatch.setattr(finishing, "RESERVED_SHARE", 0.4)  # large, because the limit is short and the machine may be busy
    predictor = fit(small[0], here, fast | WANDERING | {"optim.max_epochs": 10_000, "optim.patience": 10_000}, time_limit=7)
    assert predictor.leaderboard().loc[0, "seconds"] < 0.6 * 7
    assert predictor.fit_summary()["soup"]["tried"] > 0
    assert predictor.fit_summary()["training_time"] < 7 + 5


def test_a_refit_may_follow_a_fit_that_has_ended(small, here, fast, monkeypatch, capsys):
    """Its trial is not trained again, and without time for the refit the next call does it. A copy suffices: a refit needs no trial's weights."""
    alone = fit(small[0], here, fast)
    alone.save(here / "copy")
    trials = manifest_of(here / "run" / "search" / "trials" / "0000", ["metrics.jsonl"])
    with monkeypatch.context() as patch:
        patch.setattr(finishing._Finish, "_late", lambda self, ahead=0.0: True)
        assert "refit" not in fit(small[0], here, fast, refit=True).fit_summary()
    again = fit(small[0], here, fast, refit=True)
    assert again.fit_summary()["refit"]["rows"] == len(small[0])
    assert again.fit_summary()["best_epoch"] == alone.fit_summary()["best_epoch"]
    assert manifest_of(here / "run" / "search" / "trials" / "0000", ["metrics.jsonl"]) == trials
    copy = MultiModalPredictor.load(here / "copy", verbosity=1, resume=True).fit(small[0], refit=True)
    assert "failed" not in capsys.readouterr().out
    assert copy.predict_proba(small[1]).equals(again.predict_proba(small[1]))


def test_a_refit_stays_while_its_trial_is_the_best(small, here, fast, monkeypatch, capsys):
    """It used to be replaced by its trial, and lost if the next refit was cut short."""
    space = fast | {"optim.lr": tune.choice([1e-2, 1e-12]), "optim.max_epochs": 1}

    def predictor(num_trials, verbosity=0):
        settings = {"searcher": "random", "num_trials": num_trials, "points_to_evaluate": [{"optim.lr": 1e-2}]}
        found = MultiModalPredictor("label", eval_metric="log_loss", verbosity=verbosity)
        return found.fit(small[0], hyperparameters=space, hyperparameter_tune_kwargs=settings, save_path="run", tracking=None, refit=True)

    first = predictor(1)
    assert first.fit_summary()["refit"]["trial"] == 0
    with monkeypatch.context() as patch:
        patch.setattr(finishing._Finish, "refit", None)
        again = predictor(2, verbosity=1)
    assert "the earlier predictor stays: it is the best trial, trained again on all rows" in " ".join(capsys.readouterr().out.split())
    assert again.fit_summary()["refit"] == first.fit_summary()["refit"]
    assert again.fit_summary()["num_trials"] == 2
    assert again.predict_proba(small[1]).equals(first.predict_proba(small[1]))
    assert MultiModalPredictor.load("run").predict_proba(small[1]).equals(first.predict_proba(small[1]))


def test_a_damaged_predictor_is_made_again_from_its_trials(small, here, fast, capsys):
    first = fit(small[0], here, fast)
    weights = here / "run" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CorruptFile):
        MultiModalPredictor.load("run")
    again = MultiModalPredictor("label", eval_metric="log_loss", verbosity=1).fit(small[0], hyperparameters=fast, save_path="run", tracking=None)
    assert "is damaged, and is made again from its trials" in " ".join(capsys.readouterr().out.split())
    assert again.predict_proba(small[1]).equals(first.predict_proba(small[1]))
    assert MultiModalPredictor.load("run").predict_proba(small[1]).equals(first.predict_proba(small[1]))


def test_a_fit_with_a_refit(small, here, fast):
    predictor = fit(small[0], here, fast, refit=True)
    assert predictor.fit_summary()["refit"]["rows"] == len(small[0])
    assert predictor.fit_summary()["val_log_loss"] == predictor.leaderboard().loc[0, "log_loss"]
    assert MultiModalPredictor.load(here / "run").predict(small[1]).notna().all()
    with open("/proc/self/maps") as maps:
        assert ".pixels" not in maps.read()


@pytest.mark.slow
def test_a_search_with_an_ensemble(small, here, fast, ray_session):
    space = {"model.timm_image.image_size": tune.choice([32, 48]), "model.timm_image.checkpoint_name": tune.choice(["test_resnet", "test_vit"])}
    kwargs = {"searcher": "random", "scheduler": "FIFO", "num_trials": 5, "num_to_keep": 2}
    # with other seeds a single trial may be best
    predictor = fit(small[0], here, fast | space | UNCALIBRATED | {"optim.max_epochs": 3}, ensemble_size=4, hyperparameter_tune_kwargs=kwargs, seed=2)
    summary = predictor.fit_summary()
    assert 1 < len(summary["ensemble"]["members"]) <= 4
    assert summary["val_log_loss"] == summary["ensemble"]["val_log_loss"] < predictor.leaderboard().loc[0, "log_loss"]
    assert len(list((here / "run" / "search").rglob("model.safetensors"))) == 4  # every point of the space: up to eight trials keep their weights
    assert MultiModalPredictor.load(here / "run").predict_proba(small[1]).equals(predictor.predict_proba(small[1]))


@pytest.mark.slow
def test_a_search_keeps_the_epochs_of_its_best_trial_for_the_soup(small, here, fast, ray_session):
    kwargs = {"searcher": "random", "scheduler": "FIFO", "num_trials": 4, "num_to_keep": 3, "keep_trials": 2}
    predictor = fit(small[0], here, fast | WANDERING | {"optim.lr": tune.loguniform(1e-3, 1e-2)}, hyperparameter_tune_kwargs=kwargs)
    kept = [len(list_checkpoints(here / "run" / "search" / "trials" / f"{trial:04d}" / "checkpoints")) for trial in predictor.leaderboard()["trial"]]
    assert kept == [3, 1, 0, 0]
    assert predictor.fit_summary()["soup"]["tried"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ensemble_size": 0}, r"ensemble_size: expected an integer >= 1, or None, got 0"),
        ({"ensemble_size": -3}, r"ensemble_size: expected an integer >= 1, or None, got -3"),
        ({"ensemble_size": "3"}, r"ensemble_size: expected an integer >= 1, or None, got '3'"),
        ({"ensemble_size": 2.0}, r"ensemble_size: expected an integer >= 1, or None, got 2\.0"),
        ({"ensemble_size": True}, r"ensemble_size: expected an integer >= 1, or None, got True"),
        ({"refit": 1}, r"refit: expected True or False, got 1"),
        ({"ensemble_size": 2}, r"without a search space there is one trial"),
    ],
)
def test_what_cannot_follow_a_search_is_refused_before_it(small, here, fast, options, words):
    with pytest.raises(InvalidArgument, match=words):
        fit(small[0], here, fast, **options)
    assert not (here / "run").exists()


def test_an_ensemble_cannot_be_refitted(small, here, fast):
    space, kwargs = fast | {"optim.lr": tune.loguniform(1e-4, 1e-2)}, {"num_trials": 2}
    with pytest.raises(InvalidArgument, match=r"refit=True, ensemble_size=3: cannot be combined"):
        fit(small[0], here, space, hyperparameter_tune_kwargs=kwargs, ensemble_size=3, refit=True)
    with pytest.raises(InvalidArgument, match=r"ensemble_size: 5 models .* only 4 trials keep their weights; raise keep_trials"):
        fit(small[0], here, space, hyperparameter_tune_kwargs=kwargs | {"keep_trials": 4}, ensemble_size=5)
    with pytest.raises(InvalidInput, match=r"(?s)refit: expected.*optim\.lr: expected"):
        fit(small[0], here, fast | {"optim.lr": -1}, refit="yes")
    with pytest.raises(AutoMMHPOError, match="top_k_average_method cannot vary"):
        fit(small[0], here, space | {"optim.top_k_average_method": tune.choice(["best", "greedy_soup"])}, hyperparameter_tune_kwargs=kwargs)
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("key", "value", "alike", "alike_with_lora"),
    [
        ("optim.lr", 0.5, True, True),
        ("model.real_mlp.dropout", 0.5, True, True),
        ("model.timm_image.frozen_norm_stats", True, True, True),
        ("optim.peft", None, True, False),
        ("optim.peft", "lora", False, True),
        ("optim.lora.r", 3, True, False),  # there is no rank without LoRA
        ("model.timm_image.trainable", "head", True, False),  # LoRA leaves frozen layers alone
        ("model.real_mlp.num_members", 2, False, False),
        ("model.timm_image.pretrained", False, False, False),  # other initial weights
    ],
)
def test_only_weights_of_one_architecture_are_averaged(key, value, alike, alike_with_lora):
    for config, expected in ((Config(), alike), (Config.from_flat({"optim.peft": "lora"}), alike_with_lora)):
        assert (architecture(config.with_overrides({key: value})) == architecture(config)) == expected
