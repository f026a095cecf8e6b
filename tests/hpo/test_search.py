"""Small real searches on a real Ray."""

import math
import shutil
import time
from pathlib import Path

import pytest
from ray import tune

from automm_hpo import MultiModalPredictor, load_search
from automm_hpo.errors import AllTrialsFailed, TimeLimitTooShort
from automm_hpo.hpo.records import COMPLETED, DIVERGED, FAILED, STOPPED, SearchRecords
from automm_hpo.space import Choice, Float, draw_space

pytestmark = pytest.mark.usefixtures("ray_session")


def search(train, hyperparameters, path, tune_kwargs, **options):
    predictor = MultiModalPredictor(label="label", verbosity=0)
    options = {"tracking": None, "seed": 0} | options
    return predictor.fit(train, hyperparameters=hyperparameters, save_path=path, hyperparameter_tune_kwargs=tune_kwargs, **options)


SPACE = {"optim.lr": tune.loguniform(1e-4, 1e-2), "optim.max_epochs": tune.choice(["1", "2"])}
KWARGS = {"searcher": "random", "scheduler": "FIFO", "num_trials": 3, "num_to_keep": 1, "resources_per_trial": {"cpu": 0.5}}  # two at a time


@pytest.fixture(scope="module")
def finished(small, always_fast, ray_session, tmp_path_factory):
    """A search that has ended. Tests may copy its folder but not change it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return search(small[0], always_fast | SPACE, folder / "run", KWARGS)


def test_random_and_fifo(finished, here, ray_session):
    predictor = finished
    table = predictor.leaderboard()
    assert sorted(table["trial"]) == [0, 1, 2]
    assert set(table["status"]) == {COMPLETED}
    assert (table["epochs"] == table["optim.max_epochs"]).all()
    assert table["score"].is_monotonic_decreasing
    assert predictor.fit_summary()["val_accuracy"] == table.loc[0, "score"]
    # trial n depends only on (seed, n)
    ours = {"optim.lr": Float(1e-4, 1e-2, log=True), "optim.max_epochs": Choice((1, 2))}
    for number, row in table.set_index("trial").iterrows():
        expected = {key: ours[key].finish(raw) for key, raw in draw_space(ours, 0, number).items()}
        assert {key: row[key] for key in expected} == expected
    assert ray_session.is_initialized()  # the user's Ray is never shut down
    assert not Path(predictor.path, "search", "cache").exists()
    assert MultiModalPredictor.load(predictor.path).leaderboard().equals(table)


def test_an_ensemble_is_made_of_a_finished_search(finished, small, here, fast):
    """Nothing is trained for it, and the search remains finished."""
    shutil.copytree(finished.path, here / "run")
    predictor, before = MultiModalPredictor(label="label", verbosity=0), finished.leaderboard()
    first = finished.fit_summary()["training_time"]

    def fit():
        call = {"save_path": "run", "hyperparameter_tune_kwargs": KWARGS, "tracking": None, "seed": 0}
        return predictor.fit(small[0], hyperparameters=fast | SPACE, ensemble_size=2, **call).leaderboard()

    assert fit().equals(before)
    assert "ensemble" in predictor.fit_summary()
    trained = predictor.fit_summary()["training_time"]
    assert trained > first  # the sum over all sessions
    assert fit().equals(before)
    assert predictor.fit_summary()["training_time"] == trained  # the search was finished, so nothing was done


def test_bayes_and_asha_stop_weak_trials_and_the_predictor_is_whole(small, here, fast):
    space = {"optim.lr": tune.loguniform(1e-6, 1e-2), "optim.max_epochs": 4}
    kwargs = {"searcher": "bayes", "scheduler": "ASHA", "num_trials": 5, "num_to_keep": 1, "deterministic": True}
    kwargs["points_to_evaluate"] = [{"optim.lr": 1e-2}, {"optim.lr": 1e-6}]  # one that learns and one that cannot
    predictor = search(small[0], fast | space, here / "run", kwargs)
    table = predictor.leaderboard()
    assert len(table) == 5
    stopped = table[table["status"] == STOPPED]
    assert len(stopped)
    assert (stopped["epochs"] < 4).all()
    assert set(stopped["reason"]) == {"scheduler"}
    assert predictor.predict(small[1]).notna().all()

    again = search(small[0], fast | space, here / "again", kwargs | {"num_trials": 3}).leaderboard()
    columns = ["score", "epochs", "optim.lr"]
    first, second = (each.set_index("trial").sort_index()[columns] for each in (table, again))
    assert second.equals(first.head(3))  # deterministic: the same trials, the same results


@pytest.mark.slow  # test_objective.py has this for an objective, test_tracking.py with MLflow
def test_a_trial_that_raises_is_a_row_and_the_others_go_on(small, here, fast):
    # batch norm fails on a batch of one row
    space = {"env.batch_size": tune.choice([1, 32]), "optim.max_epochs": 1, "optim.lr": tune.choice([1e-3, 1e30])}
    predictor = search(small[0], fast | space, here / "run", {"searcher": "random", "scheduler": "FIFO", "num_trials": 6}, seed=2)
    table = predictor.leaderboard().set_index("trial")
    broken = table["env.batch_size"] == 1
    assert 0 < broken.sum() < 6
    assert set(table[broken]["status"]) == {FAILED}
    assert table[broken]["reason"].str.contains("Expected more than 1 value per channel").all()
    assert set(table[~broken & (table["optim.lr"] < 1)]["status"]) == {COMPLETED}
    assert set(table[~broken & (table["optim.lr"] > 1)]["status"]) <= {DIVERGED}
    number = int(table[broken].index[0])
    assert "Traceback" in SearchRecords(here / "run" / "search").folder_of(number).error


@pytest.mark.slow  # test_objective.py has this for an objective
def test_all_trials_failing_raises_with_the_first_cause_and_counts(small, here, fast):
    space = {"env.batch_size": 1, "optim.lr": tune.uniform(1e-3, 1e-2)}
    with pytest.raises(AllTrialsFailed, match=r"none of 2 trials has a score: 2 x ValueError: Expected more than 1 value.*\n.*\nTraceback"):
        search(small[0], fast | space, here / "run", {"searcher": "random", "scheduler": "FIFO", "num_trials": 2})
    assert len(SearchRecords(here / "run" / "search").trials()) == 2
    assert load_search("run").metric.name == "accuracy"


def test_a_time_limit_keeps_the_best_so_far(small, here, fast):
    space = {"optim.lr": tune.loguniform(1e-4, 1e-2), "optim.max_epochs": 500, "optim.patience": 500}
    kwargs = {"searcher": "random", "scheduler": "FIFO", "num_trials": 50}
    for limit in (15, 45):  # on a busy machine a trial's process needs 20 s to start
        started = time.time()
        try:
            predictor = search(small[0], fast | space, here / str(limit), kwargs, time_limit=limit)
        except TimeLimitTooShort:
            assert limit == 15
        else:
            break
        finally:
            assert time.time() - started < limit + 5
    table = predictor.leaderboard()
    assert set(table["reason"].str.slice(0, 10)) == {"time limit"}
    assert len(table) < 50
    assert predictor.predict(small[1]).notna().all()


@pytest.mark.slow
def test_the_winner_is_chosen_by_a_metric_to_minimise(small, here, fast):
    predictor = MultiModalPredictor(label="label", validation_metric="log_loss", verbosity=0)
    predictor.fit(
        small[0],
        hyperparameters=fast | {"optim.lr": tune.loguniform(1e-5, 3e-2), "optim.max_epochs": 4, "optim.calibrate": False},
        hyperparameter_tune_kwargs={"searcher": "random", "scheduler": "FIFO", "num_trials": 4, "num_to_keep": 1},
        save_path=here / "run",
        tracking=None,
    )
    records = SearchRecords(here / "run" / "search").trials()
    lowest = min(result.metric for record in records for result in record.results)
    assert predictor.fit_summary()["val_log_loss"] == lowest
    assert predictor.leaderboard().loc[0, "log_loss"] == lowest
    valid = predictor.evaluate(small[0], metrics="log_loss")["log_loss"]
    assert math.isfinite(valid)


@pytest.mark.slow
def test_what_is_kept_on_disk_is_bounded(small, here, fast):
    space = {"optim.lr": tune.loguniform(1e-4, 1e-2), "optim.max_epochs": 3}
    kwargs = {"searcher": "random", "scheduler": "FIFO", "num_trials": 5, "num_to_keep": 2, "keep_trials": 2}
    search(small[0], fast | space, here / "run", kwargs)
    weights = list((here / "run" / "search").rglob("model.safetensors"))
    assert len(weights) == 2
    assert not list((here / "run" / "search").rglob("train_state.safetensors"))


@pytest.mark.slow
def test_sizes_tuned_together_share_one_cache(small, here, fast):
    space = {"model.timm_image.image_size": tune.choice([24, 32]), "model.timm_image.checkpoint_name": tune.choice(["test_resnet", "mobilenetv3_small_050"])}
    predictor = search(small[0], fast | space | {"optim.max_epochs": 1}, here / "run", {"searcher": "random", "scheduler": "FIFO", "num_trials": 3}, seed=1)
    assert predictor.leaderboard()["model.timm_image.image_size"].nunique() == 2
    assert predictor.predict(small[1]).notna().all()


def test_a_time_limit_that_starting_takes_is_said_at_once(small, here, fast):
    started = time.time()
    with pytest.raises(TimeLimitTooShort, match=r"^time_limit: 3\.5 s are reserved for the end of a search; give at least 3\.\d s more"):  # Ray already runs
        search(small[0], fast | SPACE, here / "run", KWARGS, time_limit=0.1)
    assert time.time() - started < 3
    assert not (here / "run").exists()


def test_a_silent_worker_cannot_hold_up_the_fit(small, here, fast, ray_session):
    """Another actor holds all CPUs, so no trial ever starts."""
    blocker = ray_session.remote(num_cpus=1)(type("Blocker", (), {"ready": lambda self: True})).remote()
    ray_session.get(blocker.ready.remote())
    started = time.time()
    with pytest.raises(TimeLimitTooShort, match=r"none of 1 trials reached a score, and the longest ran for \d+ s; the same call"):
        search(small[0], fast | {"optim.lr": tune.loguniform(1e-4, 1e-2)}, here / "run", {"num_trials": 2}, time_limit=8)
    ray_session.kill(blocker)
    assert time.time() - started < 8 + 5
