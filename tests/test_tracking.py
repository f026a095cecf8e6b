"""MLflow as a user finds it after a fit, in a real sqlite database."""

import json
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from ray import tune

from automm_hpo import MultiModalPredictor
from automm_hpo.files import read_json
from automm_hpo.hpo.records import COMPLETED, STOPPED, TIME_LIMIT, SearchRecords, Segment, TrialRecord
from automm_hpo.metrics import find_metric
from automm_hpo.tracking import MlflowTracker, _name, active_run

# a batch of one row fails
SPACE = {"optim.lr": tune.loguniform(1e-4, 1e-2), "env.batch_size": tune.grid_search([1, 32]), "optim.max_epochs": 2}
KWARGS = {"searcher": "random", "scheduler": "FIFO", "num_trials": 2, "num_to_keep": 1}


@pytest.fixture(autouse=True)
def _no_uri(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    mlflow.set_tracking_uri(None)


def test_a_parent_run_and_one_child_a_trial(small, here, fast, ray_session):
    predictor = MultiModalPredictor(label="label", verbosity=0)
    predictor.fit(small[0], hyperparameters=fast | SPACE, hyperparameter_tune_kwargs=KWARGS, save_path=here / "run", seed=2)
    client = MlflowClient(tracking_uri=f"sqlite:///{here / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("automm_hpo")
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {int(run.data.tags["automm_hpo.trial"]): run for run in runs if run is not parent}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "run"
    assert parent.data.params["model.timm_image.checkpoint_name"] == "test_resnet"
    assert parent.data.params["optim.lr"] == "loguniform(0.0001, 0.01)"
    assert {name: parent.data.tags[f"automm_hpo.{name}"] for name in ("num_trials", "seed")} == {"num_trials": str(len(runs) - 1), "seed": "2"}
    assert " + " in parent.data.tags["automm_hpo.searched_by"]
    assert {key.split(".")[1] for key in parent.data.params if key.startswith("model.")} == {"names", "timm_image"}
    assert {frozenset(run.data.params) for run in runs} == {frozenset(parent.data.params)}
    assert parent.data.metrics["best_score"] == predictor.fit_summary()["val_accuracy"]
    table = predictor.leaderboard().set_index("trial")
    assert set(children) == set(table.index)
    for number, run in children.items():
        row = table.loc[number]
        assert run.data.params["optim.lr"] == str(row["optim.lr"])
        assert run.data.tags["automm_hpo.status"] == row["status"]
        assert run.info.status == ("FAILED" if row["status"] == "FAILED" else "FINISHED")
        if row["status"] == "COMPLETED":
            assert run.data.metrics["best_score"] == row["score"]
            history = client.get_metric_history(run.info.run_id, "accuracy")
            assert len(history) == row["epochs"]
    assert table["status"].tolist() == table["env.batch_size"].map({1: "FAILED", 32: "COMPLETED"}).tolist()
    [failed] = table[table["status"] == "FAILED"].index
    assert "Expected more than 1 value per channel" in table.loc[failed, "reason"]
    assert "Traceback" in SearchRecords(here / "run" / "search").folder_of(failed).error
    assert mlflow.active_run() is None


@pytest.fixture(scope="session")
def new_database(tmp_path_factory):
    """An MLflow database without runs. Creating one takes a second, so ``database`` copies this one, as if left by an earlier fit."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def database(here, new_database):
    """The database that a fit in the current folder uses, without runs."""
    return shutil.copy(new_database, here / "mlflow.db")


@pytest.fixture
def opened(here, database, curve):
    """(tuned) -> a tracker, which the test closes, and a client of its database."""

    def start(tuned=()):
        (here / "search" / "trials" / "0000").mkdir(parents=True, exist_ok=True)
        tracker = MlflowTracker(here / "search", "run", {"a": 1}, {"automm_hpo.metric": "mae"}, tuned)
        return tracker, MlflowClient(tracking_uri=f"sqlite:///{here / 'mlflow.db'}")

    return start


def runs_of(client, experiment="automm_hpo"):
    """Returns the parent run and its children."""
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    [parent] = [run for run in runs if run.info.run_name == "run"]
    return parent, [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]


def test_a_trial_can_be_ranked_by_its_best_epoch(opened, curve):
    tracker, client = opened()
    record = TrialRecord(0, {}, {"a": 1}, COMPLETED, results=curve(find_metric("mae"), [0.9, 0.4, 0.7]))
    tracker.trial_started(replace(record, results=()))
    for result in record.results:
        tracker.trial_reported(record, result)
    tracker.trial_ended(record)
    tracker.close("FINISHED", record)
    parent, [trial] = runs_of(client)
    for run in (parent, trial):
        found = {name: value for name, value in run.data.metrics.items() if name.startswith("best_")}
        assert found == {"best_score": -0.4, "best_mae": 0.4, "best_epoch": 2.0}
    assert trial.data.metrics["mae"] == 0.7
    assert "val_mae" not in parent.data.metrics


def test_a_fit_can_be_ranked_by_what_was_made_of_its_trials(opened, curve):
    """A resumed search may find other values."""
    for lr, value in ((0.5, 0.3), (0.25, 0.2)):
        tracker, client = opened()
        record = TrialRecord(7, {"optim.lr": lr}, {}, COMPLETED, results=curve(find_metric("mae"), [0.4]))
        tracker.close("FINISHED", record, validated=value)
        parent, _ = runs_of(client)
        assert (parent.data.metrics["val_mae"], parent.data.metrics["best_mae"]) == (value, 0.4)
        assert (parent.data.tags["best/optim.lr"], parent.data.tags["automm_hpo.best_trial"]) == (str(lr), "7")


def test_a_trial_that_begins_again_has_its_validations_again(opened, curve):
    tracker, client = opened()
    results = curve(find_metric("mae"), [0.9, 0.4, 0.7])
    record = TrialRecord(0, {}, {"a": 1}, COMPLETED, results=results)
    tracker.trial_started(replace(record, results=()))
    for result in (*results[:2], *results):
        tracker.trial_reported(record, result)
    tracker.trial_ended(record)
    tracker.close("FINISHED", record)
    _, [trial] = runs_of(client)
    history = client.get_metric_history(trial.info.run_id, "epoch")
    assert {(metric.step, metric.value) for metric in history} == {(1, 1.0), (2, 2.0), (3, 3.0)}


def test_what_other_trials_tune_is_told_of_all(opened):
    """A trial whose branch does not tune a hyperparameter logs its default."""
    tracker, client = opened(tuned=["optim.lr", "optim.optim_type"])
    config = {"a": 1, "optim.lr": 1e-3, "optim.optim_type": "adamw", "never.told": 3}
    tracker.trial_ended(TrialRecord(0, {"optim.optim_type": "adamw"}, config, STOPPED, TIME_LIMIT))
    tracker.close("FINISHED")
    _, [trial] = runs_of(client)
    assert trial.data.params == {"a": "1", "optim.lr": "0.001", "optim.optim_type": "adamw"}


def test_a_takeover_is_told(opened):
    tracker, client = opened()
    record = TrialRecord(0, {"optim.lr": 0.1}, {"a": 1})
    tracker.trial_started(record)
    tracker.trial_took_over(replace(record, segments=(Segment(0, None, 0.0, {"optim.lr": 0.1}), Segment(1, 3, 2.0, {"optim.lr": 0.2}))))
    tracker.close("FINISHED")
    _, [trial] = runs_of(client)
    assert trial.data.tags["automm_hpo.segment_1"] == "from trial 3 at epoch 2: optim.lr=0.2"


def test_what_won_is_told_beside_what_it_began_with(opened, curve):
    tracker, client = opened(tuned=["optim.lr"])
    results = curve(find_metric("mae"), [0.9, 0.4])
    segments = (Segment(0, None, 0.0, {"optim.lr": 0.1}), Segment(1, 3, 1.0, {"optim.lr": 0.2}))
    record = TrialRecord(0, {"optim.lr": 0.1}, {"a": 1, "optim.lr": 0.1}, segments=segments[:1])
    tracker.trial_started(record)
    tracker.trial_ended(replace(record, status=COMPLETED, results=(results[0], replace(results[1], segment=1)), segments=segments))
    tracker.close("FINISHED")
    _, [trial] = runs_of(client)
    assert trial.data.params == {"a": "1", "optim.lr": "0.1", "best/optim.lr": "0.2"}


def test_what_won_is_told_when_nothing_better_can_come(opened, curve):
    """MLflow does not accept a second value of a parameter."""
    tracker, client = opened(tuned=["optim.lr"])
    results = curve(find_metric("mae"), [0.9, 0.4, 0.2])
    segments = tuple(Segment(number, number, float(number), {"optim.lr": lr}) for number, lr in enumerate((0.1, 0.2, 0.3)))
    rows = tuple(replace(result, segment=number) for number, result in enumerate(results))
    record = TrialRecord(0, {"optim.lr": 0.1}, {"a": 1, "optim.lr": 0.1}, segments=segments[:1])
    tracker.trial_started(record)
    cut = replace(record, status=STOPPED, reason=TIME_LIMIT, results=rows[:2], segments=segments[:2])
    tracker.trial_ended(cut)
    tracker.trial_resumed(cut)
    tracker.trial_ended(replace(record, status=COMPLETED, results=rows, segments=segments))
    tracker.close("FINISHED")
    _, [trial] = runs_of(client)
    assert trial.data.params == {"a": "1", "optim.lr": "0.1", "best/optim.lr": "0.3"}
    assert trial.info.status == "FINISHED"


def test_what_an_objective_reports_takes_no_name_of_ours(opened, curve):
    tracker, client = opened()
    [result] = curve(find_metric("mae"), [0.5])
    record = TrialRecord(0, {}, {"a": 1})
    tracker.trial_started(record)
    tracker.trial_reported(record, replace(result, extra={"epoch": 103.0, "score": 7.0, "lr": 0.3}))
    tracker.close("FINISHED")
    _, [trial] = runs_of(client)
    told = {"epoch": 1.0, "reported/epoch": 103.0, "score": -0.5, "reported/score": 7.0, "lr": 0.3}
    assert {name: trial.data.metrics[name] for name in told} == told


def test_the_users_experiment_and_run_are_honoured(opened, here, monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{here / 'mlflow.db'}")
    mlflow.set_experiment("mine")
    try:
        with mlflow.start_run() as around:
            tracker, client = opened()
            tracker.close("FINISHED")
        parent, _ = runs_of(client, "mine")
        assert parent.data.tags["mlflow.parentRunId"] == around.info.run_id
        tracker = MlflowTracker(here / "other", "other", {}, {})
        (here / "other").mkdir()
        tracker.close("FINISHED")
        assert "other" in {run.info.run_name for run in client.search_runs([parent.info.experiment_id])}
    finally:
        del os.environ["MLFLOW_EXPERIMENT_ID"]
        mlflow.tracking.fluent._active_experiment_id = None


def test_the_users_uri_is_honoured(small, here, fast):
    mlflow.set_tracking_uri(f"sqlite:///{here / 'mine.db'}")
    MultiModalPredictor(label="label", verbosity=0).fit(small[0].head(60), hyperparameters=fast | {"optim.max_epochs": 1}, save_path=here / "run")
    assert (here / "mine.db").exists()
    assert not (here / "mlflow.db").exists()
    assert len(MlflowClient().search_runs([MlflowClient().get_experiment_by_name("automm_hpo").experiment_id])) == 2


def test_a_broken_server_costs_one_warning(small, here, fast, monkeypatch):
    (here / "broken.db").write_text("this is no database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here / 'broken.db'}")
    predictor = MultiModalPredictor(label="label", verbosity=0)
    with pytest.warns(UserWarning, match="MLflow tracking is incomplete.*the fit is unaffected") as caught:
        predictor.fit(small[0].head(60), hyperparameters=fast | {"optim.max_epochs": 1}, save_path=here / "run")
    assert len([warning for warning in caught if "MLflow tracking" in str(warning.message)]) == 1  # importing MLflow may warn, too
    assert len(predictor.predict(small[1])) == 100


def test_a_server_that_never_answered_is_not_waited_for(here, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(MlflowTracker, "_open", lambda *arguments: answer.wait(30))
    tracker = MlflowTracker(here / "search", "run", {}, {})
    tracker._started -= 60
    started = time.time()
    with pytest.warns(UserWarning, match="not done after 2 s"):
        tracker.close("FINISHED")
    assert time.time() - started < 10
    answer.set()


def test_a_fit_that_raises_closes_its_runs(small, here, database, fast):
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        MultiModalPredictor(label="label", verbosity=0).fit(small[0].head(60), hyperparameters=fast | {"env.batch_size": 1}, save_path=here / "run")
    client = MlflowClient(tracking_uri=f"sqlite:///{here / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("automm_hpo").experiment_id])
    assert {run.info.status for run in runs} == {"FAILED"}
    assert len(runs) == 2


def test_a_trial_that_never_had_a_place_is_there_too(here, database):
    records = SearchRecords(here)
    number = records.open_trial({}, {"x": 1}, {"x": 1}).number
    tracker = MlflowTracker(here, "run", {}, {})
    tracker.trial_ended(records.close_trial(number, STOPPED, TIME_LIMIT))
    tracker.close("FINISHED")  # without a warning
    client = MlflowClient(tracking_uri=f"sqlite:///{here / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("automm_hpo").experiment_id])
    assert {run.data.tags.get("automm_hpo.reason"): run.info.status for run in runs} == {None: "FINISHED", TIME_LIMIT: "FINISHED"}


def test_pictures_lie_beside_the_database(here, tmp_path_factory, monkeypatch):
    """Whatever the current folder is when they are drawn or viewed."""
    import mlflow

    tracker = MlflowTracker(here, "run", {}, {})
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    tracker.close("FINISHED")
    experiment = mlflow.MlflowClient(f"sqlite:///{here / 'mlflow.db'}").get_experiment_by_name("automm_hpo")
    assert experiment.artifact_location.startswith((here / "mlruns").as_uri())


def test_any_name_of_an_objectives_own_is_logged(here, database, curve):
    """MLflow would refuse most special characters, and with them everything in the same batch."""
    [result] = curve(find_metric("accuracy"), [0.5])
    record = TrialRecord(0, {"drop %": 5, "größe": 1}, {"drop %": 5, "größe": 1, "told of nowhere": 2})
    (here / "trials" / "0000").mkdir(parents=True)
    tracker = MlflowTracker(here, "run", {}, {"automm_hpo.metric": "recall@5"})
    tracker.trial_started(record)
    tracker.trial_reported(record, replace(result, extra={"f1 (macro)": 0.25, "model/größe": 2.0}))
    tracker.close("FINISHED")
    run = MlflowClient(f"sqlite:///{here / 'mlflow.db'}").get_run(read_json(here / "trials" / "0000" / "mlflow.json")["run_id"])
    assert run.data.params == {"drop _": "5", "größe": "1"}
    assert {name: run.data.metrics[name] for name in ("recall_5", "f1 _macro_", "model/größe")} == {"recall_5": 0.5, "f1 _macro_": 0.25, "model/größe": 2.0}


def test_a_relative_uri_is_noted_whole(here):
    mlflow.set_tracking_uri("sqlite:///mine.db")
    MlflowTracker(here, "run", {}, {}).close("FINISHED")
    assert read_json(here / "mlflow.json")["uri"] == f"sqlite:///{here / 'mine.db'}"


def test_a_folder_that_no_uri_can_hold(here, monkeypatch):
    """The part after a question mark would be options, and the database would be created outside the folder."""
    (here / "what?").mkdir()
    monkeypatch.chdir(here / "what?")
    tracker = MlflowTracker(Path.cwd(), "run", {}, {})
    with pytest.warns(UserWarning, match="question mark"):
        tracker.close("FINISHED")
    assert [path.name for path in here.rglob("*")] == ["what?"]


@pytest.mark.parametrize("uri", [None, "sqlite:///mlflow.db"])
def test_a_percent_sign_in_a_folders_name_is_one(here, monkeypatch, uri):
    (here / "a%20b").mkdir()
    (here / "a b").mkdir()
    monkeypatch.chdir(here / "a%20b")
    if uri:
        mlflow.set_tracking_uri(uri)
    MlflowTracker(Path.cwd(), "run", {}, {}).close("FINISHED")
    assert (here / "a%20b" / "mlflow.db").is_file()
    assert not [*(here / "a b").iterdir()]


def test_a_folder_that_cannot_be_written_is_named_at_once(here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    tracker, started = MlflowTracker(here, "run", {}, {}), time.time()
    with pytest.warns(UserWarning, match=r"PermissionError: .*mlflow.db cannot be written; set a tracking URI"):
        tracker.close("FINISHED")
    assert time.time() - started < 10


def test_a_trial_waits_for_no_server_twice_and_fails_with_none(here, database):
    trials = [here / "trials" / name for name in ("0000", "0001", "0002")]
    for trial in trials:
        trial.mkdir(parents=True)
    started = time.time()
    for trial in trials[:2]:
        with active_run(trial, timeout=0.5):
            assert mlflow.active_run() is None
    assert 0.5 < time.time() - started < 0.9
    (trials[2] / "mlflow.json").write_text(json.dumps({"uri": f"sqlite:///{here}/absent.db", "run_id": "0" * 32}))
    with active_run(trials[2]):
        assert mlflow.active_run() is None


def test_names_that_become_one_are_kept_apart(opened, curve):
    """And the search's own metric keeps its name."""
    tracker, client = opened()
    tracker._metric = "acc@1"
    record = TrialRecord(0, {}, {"a": 1, "a@": 2, "a#": 3}, COMPLETED, results=curve(find_metric("accuracy"), [0.5]))
    tracker._told = frozenset(record.config)
    tracker.trial_started(replace(record, results=()))
    tracker.trial_reported(record, replace(record.results[0], extra={"acc_1": 5.0}))
    tracker.trial_ended(record)
    tracker.close("FINISHED", record)
    parent, [trial] = runs_of(client)
    assert trial.data.params == {"a": "1", "a_": "2", "a__2": "3"}
    assert (trial.data.metrics["acc_1"], trial.data.metrics["acc_1_2"]) == (0.5, 5.0)
    assert parent.info.status == "FINISHED"


def test_a_search_that_goes_on_says_what_is_asked_for_now(opened, here):
    for asked in ("4", "6"):
        begun, client = opened()
        begun.close("FINISHED")
        MlflowTracker(here / "search", "run", {"a": 1}, {"automm_hpo.num_trials": asked, "automm_hpo.seed": "0"}).close("FINISHED")
        parent, _ = runs_of(client)
        assert (parent.data.tags["automm_hpo.num_trials"], parent.data.tags["automm_hpo.seed"]) == (asked, "0")


def test_what_ended_long_ago_still_did_when_the_search_goes_on(opened, curve):
    tracker, client = opened()
    record = TrialRecord(0, {}, {"a": 1}, COMPLETED, results=curve(find_metric("mae"), [0.4]), ended=time.time() - 3600)
    tracker.trial_started(replace(record, results=()))
    tracker.trial_reported(record, record.results[0])
    tracker.trial_ended(record)
    tracker.close("FINISHED", record)
    again, client = opened()
    again.trial_resumed(record)
    again.close("FINISHED", record)
    _, [trial] = runs_of(client)
    assert (trial.info.status, trial.info.end_time) == ("FINISHED", int(record.ended * 1000))


@pytest.mark.parametrize("name", [".", "..", "a//b", "/x", "a/../b", "x" * 300, "@", ""])
def test_every_name_becomes_one_that_mlflow_takes(name):
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(_name(name))
    assert len(_name(name)) <= 250
