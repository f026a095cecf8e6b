"""A fit that starts from another predictor's weights."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from ray import tune
from sklearn.metrics import make_scorer, mean_absolute_error

from automm_hpo import MultiModalPredictor, errors
from automm_hpo.artifact import Member, load_artifact, save_artifact
from automm_hpo.config import Config
from automm_hpo.data.features import Features
from automm_hpo.files import sha256
from automm_hpo.fit.call import FitCall, plan_fit
from automm_hpo.fit.plan import Target
from automm_hpo.fit.start import START_FOLDER, read_start
from automm_hpo.hpo.records import SearchRecords
from automm_hpo.models import architecture
from automm_hpo.training.building import ModelBuilder
from automm_hpo.training.checkpoint import digest_weights

QUICK = {"model.real_mlp.num_members": 1, "model.real_mlp.hidden_size": 16, "env.batch_size": 32, "optim.max_epochs": 3, "optim.lr": 3e-3}
MORE = {"optim.max_epochs": 10, "optim.lr": 1e-2}
STILL = {"optim.lr": 1e-30}  # training changes no weights


def table(rows=120, seed=0, shift=0.0):
    """Towns and prices; ``shift`` makes them the prices of another year."""
    rng = np.random.default_rng(seed)
    first, second, town = rng.normal(size=rows), rng.normal(size=rows), rng.choice(["Utrecht", "Gent", "Lille"], rows)
    price = 100 + 30 * first + 10 * second + 20 * (town == "Gent") + shift
    kind = np.select([price > 110 + shift, price > 90 + shift], ["dear", "fair"], "cheap")
    return pd.DataFrame({"first": first, "second": second, "town": town, "price": price, "kind": kind})


def fit(data, label, save_path, hyperparameters=None, verbosity=0, **options):
    return MultiModalPredictor(label, verbosity=verbosity).fit(data, hyperparameters=hyperparameters, save_path=save_path, tracking=None, **options)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """label -> folder of a regression or classification predictor."""
    made = {}
    for label, other in (("price", "kind"), ("kind", "price")):
        made[label] = tmp_path_factory.mktemp("old") / label
        fit(table().drop(columns=other), label, made[label], QUICK)
    return made


def trials(path):
    return SearchRecords(path / "search").trials()


@pytest.mark.parametrize("label", ["price", "kind"])
def test_epoch_0_is_what_it_scores_on_the_new_rows(old, here, label):
    new, held_out = table(seed=1, shift=50), table(seed=2, shift=50)  # a few more epochs learn something from these
    before = {path: sha256(path) for path in old[label].iterdir() if path.is_file()}
    predictor = fit(new, None, here / "new", MORE, start_from=old[label], tuning_data=held_out)
    first = trials(here / "new")[0].results[0]
    expected = MultiModalPredictor.load(old[label], verbosity=0).evaluate(held_out)
    assert first.epoch == 0
    assert first.metric == pytest.approx(next(iter(expected.values())), rel=1e-5)
    assert predictor.label == label
    assert predictor.eval_metric == next(iter(expected))
    assert predictor.fit_summary()["start_from"] == str(old[label])
    assert predictor.fit_summary()["best_epoch"] > 0
    assert {path: sha256(path) for path in old[label].iterdir() if path.is_file()} == before
    again = MultiModalPredictor.load(here / "new", verbosity=0)
    assert again.predict(new).equals(predictor.predict(new))
    assert again.column_types == MultiModalPredictor.load(old[label], verbosity=0).column_types


@pytest.mark.parametrize("label", ["price", "kind"])
def test_what_learns_nothing_predicts_as_before(old, here, label):
    """The label's scale and the columns' encoding stay, although the new rows have others."""
    new = table(seed=1, shift=500).assign(first=lambda rows: 10 * rows["first"])
    predictor = fit(new, None, here / "new", STILL | {"optim.weight_decay": 0.0}, start_from=old[label])
    assert predictor.fit_summary()["best_epoch"] == 0
    expected = MultiModalPredictor.load(old[label], verbosity=0).predict(new)
    pd.testing.assert_series_equal(predictor.predict(new), expected)


def test_its_hyperparameters_are_the_defaults_and_a_presets_where_one_is_named(old, here):
    own = load_artifact(old["kind"]).config
    config = fit(table(), "kind", here / "a", {"optim.max_epochs": 1}, start_from=old["kind"])._artifact.config
    assert (config.optim.lr, config.env.batch_size, config.optim.max_epochs) == (own.optim.lr, own.env.batch_size, 1)
    named = fit(table(), "kind", here / "b", {"optim.max_epochs": 1}, presets="medium_quality", start_from=old["kind"])._artifact.config
    assert named.optim.lr != own.optim.lr
    assert named.model.real_mlp.hidden_size == own.model.real_mlp.hidden_size


def test_every_kind_of_column(small, reader_folder, here):
    """The encoder's folder may be gone, a category may be new, and words keep the meaning that was learned for them."""
    shutil.copytree(reader_folder, here / "encoder")
    rows = small[0].head(60).reset_index(drop=True)
    rows["age"], rows["color"] = range(60), ["red", "blue", "green"] * 20
    rows["title"] = [f"the good bag {label}" for label in rows["label"]]
    fast = {"model.timm_image.checkpoint_name": "test_resnet", "model.timm_image.pretrained": False, "model.timm_image.image_size": 32}
    fast |= {"model.hf_text.checkpoint_name": str(here / "encoder"), "optim.max_epochs": 1, "env.batch_size": 32}
    before = fit(rows, "label", here / "old", fast)
    shutil.rmtree(here / "encoder")
    new = rows.assign(color="violet")
    predictor = fit(new, None, here / "new", STILL, start_from=here / "old")
    pd.testing.assert_series_equal(predictor.predict(new), before.predict(new))
    assert predictor._artifact.encoders.to_json() == before._artifact.encoders.to_json()


@pytest.mark.slow
def test_a_search_goes_on_though_the_predictor_is_gone(old, here, ray_session):
    shutil.copytree(old["kind"], here / "old")
    space, data = {"optim.lr": tune.loguniform(1e-4, 1e-2)}, table(seed=1)
    kwargs = {"searcher": "random", "scheduler": "FIFO", "num_trials": 2}

    def call(start_from=here / "old", **changed):
        return fit(data, None, here / "new", space, hyperparameter_tune_kwargs=kwargs | changed, start_from=start_from)

    predictor = call()
    scores = {trial.results[0].metric for trial in trials(here / "new")}
    assert len(scores) == 1
    assert trials(here / "new")[0].tuned["optim.lr"] == pytest.approx(3e-3)  # the predictor's own lr comes first
    shutil.rmtree(here / "old")
    call(num_trials=3)
    MultiModalPredictor.load(here / "new", resume=True, verbosity=0).fit(data, hyperparameter_tune_kwargs={"num_trials": 4})
    assert {trial.results[0].metric for trial in trials(here / "new")} == scores
    assert len(trials(here / "new")) == 4
    shutil.copytree(here / "new", here / "another")
    with pytest.raises(errors.SearchMismatch, match="start_from"):
        call(here / "another")
    with pytest.raises(errors.SearchMismatch, match="start_from"):
        fit(data, "kind", here / "new", QUICK | space, hyperparameter_tune_kwargs=kwargs)
    predictor.save(here / "copy")  # a copy can be resumed as well
    again = MultiModalPredictor.load(here / "copy", resume=True, verbosity=0).fit(data, hyperparameter_tune_kwargs={"num_trials": 5})
    assert {trial.results[0].metric for trial in trials(here / "copy")} == scores
    assert again.fit_summary()["start_from"] == str(here / "old")
    with pytest.raises(errors.NotAPredictor, match="start_from: no such folder"):
        call(here / "odl")
    copy = here / "new" / "search" / START_FOLDER / "model.safetensors"
    copy.write_bytes(copy.read_bytes()[:-1] + b"x")
    shutil.copytree(here / "copy" / "search" / START_FOLDER, here / "old")
    call(num_trials=5)
    assert {trial.results[0].metric for trial in trials(here / "new")} == scores


def test_the_copy_is_the_predictor_and_of_an_ensemble_the_heaviest(old, here):
    start = read_start(old["kind"], here / "search")
    kept = start.kept_in(here / "search")
    assert kept.weights.parent == here / "search" / START_FOLDER
    assert read_start(here / "search" / START_FOLDER, here / "search").digest == start.digest == kept.digest
    builder = ModelBuilder(start.artifact.encoders.features, 3)
    models = [builder.state(start.artifact.config, seed, torch.device("cpu")).model for seed in range(3)]
    members = tuple(Member(start.artifact.config, model, weight) for model, weight in zip(models, (0.2, 0.5, 0.3), strict=True))
    save_artifact(replace(start.artifact, members=members), here / "ensemble")
    heaviest = read_start(here / "ensemble", here / "none")
    assert heaviest.digest == digest_weights(models[1])
    assert heaviest.line.startswith("begins with the heaviest of the 3 models of")


@pytest.mark.parametrize("options", [{"refit": True}, {"hyperparameters": {"optim.ema_decay": 0.9}}, {"hyperparameters": {"optim.lr_choice": "two_stages"}}])
def test_with_what_else_there_is(old, here, options):
    new, held_out = table(seed=1), table(seed=2)
    options["hyperparameters"] = MORE | options.get("hyperparameters", {})
    predictor = fit(new, "kind", here / "new", tuning_data=held_out, start_from=old["kind"], **options)
    assert trials(here / "new")[0].results[0].metric == pytest.approx(MultiModalPredictor.load(old["kind"], verbosity=0).evaluate(held_out)["accuracy"])
    assert ("refit" in predictor.fit_summary()) == options.get("refit", False)


def test_a_plan_writes_nothing(old, here):
    found = MultiModalPredictor(verbosity=0).plan(table(), start_from=old["kind"], save_path=here / "new")
    assert found.num_trials == 1
    assert not any(here.iterdir())


def test_a_fitted_predictor_says_that_its_fit_begins_anew(old, here, capsys):
    predictor = MultiModalPredictor.load(old["kind"])
    said = f"this fit begins anew; start_from='{old['kind']}' would go on from this predictor's weights"
    predictor.fit(table(), save_path=here / "a", hyperparameters=QUICK, tracking=None)
    assert said in capsys.readouterr().out
    MultiModalPredictor.load(old["kind"]).fit(table(), start_from=old["kind"], save_path=here / "b", tracking=None)
    out = capsys.readouterr().out
    assert "begins anew" not in out
    assert f"begins with the weights of {old['kind']}; epoch 0 is what they score on the validation rows" in out


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"start_from": "nowhere"}, errors.NotAPredictor, "no such folder"),
        ({"start_from": 3}, errors.InvalidArgument, "start_from: expected a folder's path, got 3"),
        ({"label": "price"}, errors.InvalidArgument, "label: is 'price', and 'kind' of the predictor in start_from"),
        ({"problem_type": "regression"}, errors.InvalidArgument, "problem_type: is 'regression', and 'multiclass' of"),
        ({"data": table().drop(columns="town")}, errors.InvalidData, "lacks the columns 'town', which the predictor in start_from reads"),
        (
            {"data": table().replace("dear", "free")},
            errors.InvalidData,
            "label column 'kind': classes that the rows of the predictor in start_from do not have: 'free'",
        ),
        ({"data": table().assign(kind="dear")}, errors.InvalidData, "expected at least 2 different values, got only 'dear' in 120 rows"),
        ({"save_path": "old", "start_from": "old"}, errors.InvalidArgument, "is save_path, too"),
        ({"column_types": {"nosuch": "text"}}, errors.InvalidArgument, "'nosuch' is unknown to the predictor in start_from, got text"),
        (
            {"sample_weight": "second", "data": table().assign(second=1.0)},
            errors.InvalidArgument,
            "start_from learned from the column 'second'",
        ),
        ({"data": table().assign(first="far")}, errors.InvalidInput, "column 'first': expected numbers"),
        ({"column_types": {"town": "text"}}, errors.InvalidArgument, "column_types: 'town' is categorical to the predictor in start_from, got text"),
        ({"hyperparameters": {"model.real_mlp.hidden_size": 32}}, errors.InvalidHyperparameter, "hidden_size: expected 16, as the predictor in start_from"),
        ({"hyperparameters": {"data.numerical.scaling": "robust"}}, errors.InvalidHyperparameter, "scaling: expected 'quantile'"),
        ({"hyperparameters": {"optim.linear_probe": "on"}}, errors.InvalidHyperparameter, "'on' would replace the head that start_from brings"),
        ({"hyperparameters": {"model.names": ["ft_transformer"]}}, errors.InvalidHyperparameter, "model.names: expected"),
        (
            {"hyperparameters": {"model.real_mlp.num_layers": tune.choice([3, 4])}, "hyperparameter_tune_kwargs": "auto"},
            errors.InvalidHyperparameter,
            "num_layers: expected 3, as the predictor in start_from has it, got 4",
        ),
    ],
)
def test_what_cannot_begin_is_refused_before_anything_is_written(old, here, change, error, words):
    change = {"start_from": old["kind"], "data": table(), "save_path": here / "new"} | change
    own = {name: change.pop(name, None) for name in ("label", "problem_type", "sample_weight")}
    with pytest.raises(error, match=words):
        MultiModalPredictor(**own, verbosity=0).fit(change.pop("data"), tracking=None, **change)
    assert not any(here.iterdir())


def test_where_weights_once_came_from_is_no_matter(old, here):
    new = table(seed=1)
    predictor = MultiModalPredictor(pretrained=False, verbosity=0).fit(new, start_from=old["kind"], save_path=here / "a", tracking=None)
    assert predictor._artifact.config.model == load_artifact(old["kind"]).config.model
    gone = {"model.timm_image.checkpoint_path": "/gone.safetensors", "model.hf_text.max_text_len": 9, "optim.linear_probe": "auto"}
    fit(new, "kind", here / "b", gone, start_from=old["kind"])  # settings of unused models do not matter


def test_lora_leaves_alone_what_is_frozen(old, here):
    """What is frozen therefore decides which LoRA tensors exist."""
    start = read_start(old["kind"], here)
    for peft, refused in ((None, False), ("lora", True)):
        config = Config.from_flat({"optim.peft": peft, "model.names": ["timm_image"], "data.text.words": "off"})
        image = replace(start.artifact, members=(replace(start.artifact.members[0], config=config),), encoders=PictureEncoders())
        begun = replace(start, artifact=image)
        frozen = config.with_overrides({"model.timm_image.trainable": "head"})
        if refused:
            with pytest.raises(errors.InvalidHyperparameter, match="trainable: expected 'all'"):
                begun.check(frozen, {})
        else:
            begun.check(frozen, {})
        assert (architecture(config) == architecture(frozen)) is not refused


class PictureEncoders:
    features = Features(num_images=1)


@pytest.mark.parametrize(
    ("told", "kwargs", "searched_by"),
    [
        ({}, {}, "accuracy"),
        ({"eval_metric": "log_loss"}, {}, "log_loss"),
        ({"validation_metric": "log_loss"}, {}, "log_loss"),
        ({}, {"metric": "log_loss"}, "log_loss"),
        ({"eval_metric": "f1_macro"}, {"metric": "log_loss"}, "log_loss"),
    ],
)
def test_what_it_is_searched_by(old, here, told, kwargs, searched_by):
    space = {"optim.lr": tune.loguniform(1e-4, 1e-2)}
    call = FitCall(save_path=here / "new", hyperparameters=space, hyperparameter_tune_kwargs={"num_trials": 2} | kwargs, start_from=old["kind"])
    target = Target(None, None, told.get("eval_metric"), told.get("validation_metric"))
    data = plan_fit(call, target, [], table(), None).data
    assert (data.eval_metric.name, data.validation_metric.name) == (told.get("eval_metric", "accuracy"), searched_by)


def test_a_metric_that_no_file_holds_is_asked_for(old, here):
    scorer = make_scorer(mean_absolute_error, greater_is_better=False)
    predictor = MultiModalPredictor("price", eval_metric=scorer, verbosity=0)
    predictor.fit(table(), hyperparameters=QUICK, save_path=here / "a", tracking=None)
    with pytest.raises(errors.InvalidArgument, match="eval_metric: the predictor in start_from used a scorer object"):
        fit(table(), None, here / "b", start_from=here / "a")
    MultiModalPredictor(eval_metric="mae", verbosity=0).fit(table(), start_from=here / "a", save_path=here / "b", tracking=None)


def test_it_can_be_fitted_again_for_the_same_problem(old, here):
    predictor = fit(table(), None, here / "a", start_from=old["kind"])
    assert predictor.fit(table(), hyperparameters=QUICK, save_path=here / "b", tracking=None).label == "kind"


def test_several_things_are_refused_together(old, here):
    with pytest.raises(errors.InvalidInput) as refused:
        fit(table(), "kind", here / "new", {"model.real_mlp.hidden_size": 32, "optim.peft": "lora"}, start_from=old["kind"], column_types={"town": "text"})
    assert all(word in str(refused.value) for word in ("hidden_size", "optim.peft", "column_types"))


@pytest.mark.slow
def test_a_copy_that_goes_on_keeps_its_predictor_until_a_trial_is_better(here, ray_session):
    """Of the trials' weights, it has only those that became the predictor."""
    data, kwargs = table(), {"searcher": "grid", "scheduler": "FIFO", "num_trials": 1}
    space = QUICK | {"optim.lr": tune.grid_search([1e-2, 1e-9])}
    predictor = fit(data, "kind", here / "run", space, hyperparameter_tune_kwargs=kwargs)
    predictor.save(here / "copy")
    copy = MultiModalPredictor.load(here / "copy", resume=True, verbosity=0).fit(data, hyperparameter_tune_kwargs={"num_trials": 2})
    assert len(trials(here / "copy")) == 2
    assert (copy.fit_summary()["best_trial"], copy.fit_summary()["num_trials"]) == (0, 2)
    pd.testing.assert_series_equal(copy.predict(data), predictor.predict(data))


def test_rows_that_it_has_learned_from_do_not_validate(old, here, capsys):
    """A typical table has this month's rows below those of earlier months."""
    own, new = table(), table(rows=40, seed=1)
    fit(pd.concat([own, new], ignore_index=True), "kind", here / "new", start_from=old["kind"], verbosity=2)
    told = "it has learned from 96 of the 129 rows to train on; it does not know the column 'price', and leaves it out\n"
    assert told in capsys.readouterr().out  # 24 of 120 had been held out
    artifact = load_artifact(here / "new")
    assert len(np.unique(artifact.seen)) == 129
    again = read_start(here / "new", here / "none")
    assert again.knows(own, here).sum() > 96
    assert again.knows(new, here).sum() >= 20
    fit(new, "kind", here / "other", start_from=here / "new", tuning_data=own.head(50), verbosity=1)
    said = capsys.readouterr().out
    assert f"{again.knows(own.head(50), here).sum()} of the 50 to validate on, so its scores are too optimistic: give tuning_data that it has not seen" in said
    fit(new.assign(first=9.0, later=1.0, last=2), "kind", here / "none", start_from=old["kind"], verbosity=2)
    said = capsys.readouterr().out
    assert "it has learned from" not in said
    assert "it does not know the columns 'price', 'later', 'last', and leaves them out" in said


def test_a_refit_has_learned_from_all_rows(here):
    own = table()
    fit(own, "kind", here / "whole", QUICK, refit=True)
    assert read_start(here / "whole", here / "none").knows(own, here).all()
    fit(own, None, here / "again", MORE, start_from=here / "whole")  # no other rows are left to validate on
