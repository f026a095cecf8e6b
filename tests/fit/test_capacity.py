"""What a search is announced to need, before it starts."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from pretend_gpu import pretend_gpu
from ray import tune

from automm_hpo import MultiModalPredictor
from automm_hpo.errors import DiskFull, InvalidTuneSettings
from automm_hpo.fit.capacity import largest_configs, most_parallel, num_parallel
from automm_hpo.fit.search_plan import plan_search

NUMBERS = {"model.names": ["numerical_mlp"], "optim.max_epochs": 2}
SEARCH = {"searcher": "random", "scheduler": "FIFO", "num_trials": 4, "max_concurrent_trials": 1}


def numbers(num_rows=400, num_classes=2):
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.normal(size=(num_rows, 5)), columns=list("abcde")).assign(label=rng.permutation(num_rows) % num_classes).astype({"label": str})


def plan(table, hyperparameters, **options):
    return MultiModalPredictor("label").plan(table, hyperparameters=NUMBERS | hyperparameters, **options)


def test_the_largest_of_lists_and_of_batches_is_among_what_is_built():
    space = {"model.fusion_mlp.hidden_sizes": tune.choice([[300, 300], [512]]), "env.batch_size": tune.choice([64, 1024]), "optim.lr": tune.uniform(0.1, 0.2)}
    configs = largest_configs(plan_search([{"model.names": ["numerical_mlp", "fusion_mlp"]} | space], {"searcher": "random"}))
    assert {config.model.fusion_mlp.hidden_sizes for config in configs} == {(300, 300), (512,)}
    assert {config.env.batch_size for config in configs} == {1024}


def test_the_room_that_is_planned_is_that_of_the_largest_model_and_what_is_allowed(here):
    space = {"model.numerical_mlp.hidden_size": tune.choice([16, 512]), "optim.lr": tune.loguniform(1e-3, 1e-2)}
    small, large = ({"model.numerical_mlp.hidden_size": size, "optim.lr": tune.loguniform(1e-3, 1e-2)} for size in (16, 512))
    bytes_of = [plan(numbers(), given, hyperparameter_tune_kwargs=SEARCH | {"searcher": "bayes"}).disk_bytes for given in (small, space, large)]
    assert bytes_of[0] < bytes_of[1] == bytes_of[2]
    plan(numbers(), space, hyperparameter_tune_kwargs=SEARCH | {"disk_quota_mb": 1.01 * bytes_of[1] / 1e6})
    with pytest.raises(InvalidTuneSettings, match="disk_quota_mb"):
        plan(numbers(), space, hyperparameter_tune_kwargs=SEARCH | {"disk_quota_mb": 0.99 * bytes_of[1] / 1e6})


def test_a_disk_that_holds_no_set_of_weights_is_refused(here, monkeypatch):
    monkeypatch.setattr("automm_hpo.fit.capacity.free_bytes", lambda folder: 10_000)
    with pytest.raises(DiskFull, match=r"^save_path: no room in .*: [\d.]+ MB needed for one set of weights, 0\.01 MB free$"):
        plan(numbers(), {"model.numerical_mlp.hidden_size": 512}, save_path="run")
    plan(numbers(), {"model.numerical_mlp.hidden_size": tune.choice([1, 512])}, save_path="run", hyperparameter_tune_kwargs=SEARCH)  # some of them fit
    monkeypatch.setattr("automm_hpo.fit.capacity.free_bytes", lambda folder: None)
    plan(numbers(), {"model.numerical_mlp.hidden_size": 512}, save_path="run")


def test_frozen_weights_count_once_a_trial(small, here):
    given = {"model.names": ["timm_image"], "model.timm_image.checkpoint_name": "resnet18", "model.timm_image.pretrained": False}
    given |= {"optim.lr": tune.loguniform(1e-3, 1e-2), "model.timm_image.image_size": 32}
    whole, frozen = (
        MultiModalPredictor("label").plan(small[0], hyperparameters=given | more, hyperparameter_tune_kwargs=SEARCH).disk_bytes
        for more in ({}, {"model.timm_image.trainable": "head"})
    )
    assert frozen < whole / 3


def test_predictions_that_checkpoints_keep_take_room(here):
    space = {"model.numerical_mlp.hidden_size": 64, "optim.lr": tune.loguniform(1e-3, 1e-2)}
    few, many = (plan(numbers(40), space, tuning_data=numbers(count), hyperparameter_tune_kwargs=SEARCH).disk_bytes for count in (40, 400))
    num_checkpoints = SEARCH["num_trials"] + 6  # running trial: best epochs and two states; ended trials: the best three, and the best epochs of the best
    assert 0 < many - few <= num_checkpoints * 360 * 2 * 4


@pytest.mark.parametrize("key", ["optim.val_check_interval", "optim.optim_type", "model.numerical_mlp.hidden_size", "optim.lr", "optim.max_epochs"])
def test_epochs_are_timed_for_every_value_that_takes_time(here, monkeypatch, key):
    values = {
        "optim.val_check_interval": [1.0, 0.1], "optim.optim_type": ["adamw", "sgd"], "model.numerical_mlp.hidden_size": [8, 16],
        "optim.lr": [1e-3, 1e-2], "optim.max_epochs": [1, 2],
    }[key]  # fmt: skip
    measured = []
    monkeypatch.setattr("automm_hpo.fit.preview._measure", lambda plan, config: float(measured.append(config.flat()[key]) or len(measured)))
    found = plan(numbers(), {key: tune.grid_search(values)}, hyperparameter_tune_kwargs={"searcher": "grid", "max_concurrent_trials": 1})
    assert len(measured) == (1 if key in ("optim.lr", "optim.max_epochs") else 2)
    assert found.num_trials == len(found.trials) == 2
    assert found.seconds == pytest.approx(found.trials["seconds"].sum())


def test_what_is_done_is_not_planned_again(here):
    predictor = MultiModalPredictor("label", verbosity=0).fit(numbers(), hyperparameters=NUMBERS, save_path="run", tracking=None)
    found = plan(numbers(), {}, save_path="run", tracking=None)
    assert (found.num_trials, found.num_ended, found.seconds) == (1, 1, 0.0)
    assert "1 of them done" in found.summary
    assert len(predictor.leaderboard()) == 1


@pytest.mark.parametrize(("num_trials", "words"), [(4, "enough for about 0 of 4)"), (1, "its schedule would end sooner)")])
def test_a_plan_says_what_the_time_limit_is_enough_for(here, num_trials, words):
    long = {"optim.max_epochs": 100_000, "optim.lr": tune.loguniform(1e-4, 1e-2)}
    found = plan(numbers(), long, hyperparameter_tune_kwargs=SEARCH | {"num_trials": num_trials}, time_limit=60)
    assert 50 < found.time_limit <= 60
    assert "(time_limit leaves " in found.summary
    assert words in found.summary
    assert "time_limit" not in replace(found, time_limit=None).summary


def test_as_many_checkpoints_are_reckoned_with_as_trials_may_share_a_gpu(monkeypatch):
    for module in ("capacity", "search_plan"):
        monkeypatch.setattr(f"automm_hpo.fit.{module}.known_resources", lambda num_gpus=-1: {"cpu": 16.0, "gpu": 1.0})
    space = NUMBERS | {"optim.lr": tune.loguniform(1e-3, 1e-2)}
    found = []
    for settings in ({}, {"resources_per_trial": {"gpu": 1}}, {"max_concurrent_trials": 2}):
        with pretend_gpu():
            search = plan_search([space], {"num_trials": 20} | settings)
            found.append((num_parallel(search), most_parallel(search)))
    assert found == [(1, 8), (1, 1), (1, 2)]
