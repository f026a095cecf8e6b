"""``tune_objective`` with functions, generators and Trainables, end to end on a real Ray."""

import contextlib
import functools
import importlib.util
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray import tune
from scipy import stats

from automm_hpo import MultiModalPredictor, errors, load_search, tune_objective
from automm_hpo.hpo.objective_space import split_objective_space
from automm_hpo.hpo.objective_trial import Objective, sent_by_value
from automm_hpo.hpo.records import COMPLETED, SearchRecords, TrialFolder, TrialRecord
from automm_hpo.hpo.settings import TuneSettings
from automm_hpo.hpo.trial import TrialTask, run_trial
from automm_hpo.metrics import find_metric
from automm_hpo.objective import MOST_REPORTS, _unlimited
from automm_hpo.space import choice, sample_from
from automm_hpo.training.checkpoint_folder import list_checkpoints

pytestmark = pytest.mark.usefixtures("ray_session", "here")


class Falling(tune.Trainable):
    """Its loss falls towards ``x`` squared; its state is one number in a file, which has the name of one of ours."""

    def setup(self, config):
        self.goal, self.steps = config["x"] ** 2, 0

    def step(self):
        self.steps += 1
        return {"loss": self.goal + 1 / self.steps, "steps": self.steps}

    def save_checkpoint(self, checkpoint_dir):
        Path(checkpoint_dir, "train_state.json").write_text(json.dumps(self.steps))

    def load_checkpoint(self, checkpoint):
        self.steps = json.loads(Path(checkpoint, "train_state.json").read_text())


def falling(config):
    for epoch in range(1, 10):
        yield {"loss": config["x"] ** 2 + 1 / epoch, "note": "words are left out", "epoch_squared": epoch**2}


def search(objective, space=None, searcher="random", scheduler="FIFO", num_trials=6, **options):
    kwargs = {"searcher": searcher, "scheduler": scheduler, "num_trials": num_trials} | options.pop("kwargs", {})
    options = {"metric": "loss", "mode": "min", "save_path": "run", "tracking": None, "verbosity": 0} | options
    return tune_objective(objective, space or {"x": tune.uniform(-1, 1)}, kwargs, **options)


def test_a_function_that_returns_a_number_and_whose_names_are_not_the_searchs():
    space = {"x": tune.uniform(0, 1), "searcher": "random", "seed": 99}
    found = search(lambda config: config["x"] ** 2, space, "bayes", metric="loss")
    assert len(found) == 6
    assert found.best.metric == min(record.best.metric for record in found.trials)
    assert found.best.metric == found.best.tuned["x"] ** 2
    assert set(found.leaderboard()["status"]) == {"COMPLETED"}
    with pytest.raises(errors.SearchMismatch, match="searcher: was 'bayes', is 'random'"):
        search(lambda config: config["x"] ** 2, space | {"searcher": "bayes"}, "random", metric="loss")


# ------------------------------------------------------------------------------- what an objective may report, in one search


def fails(config):
    raise ValueError("one is too much")


def ends_in_a_report(config):
    yield {"loss": 2.0}
    yield {"loss": 1.0}
    return {"loss": -1.0, "test": 1}


def ends_in_a_history(config):
    yield {"loss": 2.0}
    yield {"loss": 1.0}
    return {"history": [2.0, 1.0]}


def asks_for_mlflow(config):
    assert importlib.util.find_spec("mlflow")  # asking for it must not import it
    return {"loss": 1.0, "loaded": float("mlflow" in sys.modules)}


def leaves_runs_open(config):
    """Leaves a run open in another experiment; the next trial must not log to it."""
    import mlflow

    mlflow.set_experiment("another")
    mlflow.start_run(nested=True)
    return 1.0


def logs_itself(config):
    import mlflow

    mlflow.log_metric("mine", len(config["case"]))
    mlflow.log_param("word", "said")
    return float(len(config["case"]))


def endless(config):
    while True:
        time.sleep(0.05)
        yield {"loss": 1.0}


CASES = {  # run in this order, in one process
    "a dict": lambda config: {"loss": 1.0, "loaded": float("mlflow" in sys.modules)},
    "asks for mlflow": asks_for_mlflow,
    "another metric": lambda config: {"accuracy": 1.0},
    "an empty dict": lambda config: {},
    "a word": lambda config: {"loss": "low"},
    "nothing": lambda config: None,
    "an error": fails,
    "inf": lambda config: {"loss": float("inf")},
    "nan": lambda config: float("nan"),
    "a report at the end": ends_in_a_report,
    "a history at the end": ends_in_a_history,
    "a relative path": lambda config: float(Path("offset.txt").read_text()),
    "endless": endless,
    "mlflow": logs_itself,
    "mlflow elsewhere": leaves_runs_open,
    "mlflow again": logs_itself,
}


@pytest.fixture(scope="module")
def said(ray_session, tmp_path_factory):
    """A search with one trial per entry of ``CASES``, called from a folder of its own."""
    folder = tmp_path_factory.mktemp("said")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("offset.txt").write_text("3")
        cases = {"case": tune.grid_search(list(CASES))}
        limits = {"trial_time_limit": 1.0}
        yield search(lambda config: CASES[config["case"]](config), cases, "grid", num_trials=len(CASES), tracking="mlflow", kwargs=limits)


@pytest.fixture
def record_of(said):
    """Maps a case to its trial's record."""
    return {record.tuned["case"]: record for record in said.trials}.__getitem__


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("another metric", "not the metric 'loss'"),
        ("an empty dict", "the objective reported nothing, and not the metric 'loss'"),
        ("a word", "expected a number, got 'low'"),
        ("nothing", "expected a number, got None .* yield such a dict once an epoch, or give it to tune.report"),
        ("an error", "ValueError: one is too much"),
    ],
)
def test_what_is_no_metric_fails_its_trial_by_name_and_the_others_go_on(record_of, case, reason):
    assert record_of(case).status == "FAILED"
    assert re.search(reason, record_of(case).reason)
    assert (record_of("a dict").status, record_of("a dict").metric) == ("COMPLETED", 1.0)


@pytest.mark.parametrize("case", ["inf", "nan"])
def test_what_is_not_finite_is_a_row_that_diverged(record_of, case):
    assert (record_of(case).status, record_of(case).reason) == ("DIVERGED", "the objective reported nan or an infinite value")
    assert len(record_of(case).results) == 1


def test_what_a_generator_returns_is_its_last_report(said, record_of):
    assert record_of("a report at the end").metric == -1
    assert record_of("a history at the end").metric == 1
    rows = said.curves().groupby("trial").size()
    assert [rows[record_of(case).number] for case in ("a report at the end", "a history at the end")] == [3, 2]  # a history does not count as a report


def test_a_trial_has_its_own_time_limit(record_of):
    assert (record_of("endless").status, record_of("endless").reason) == ("STOPPED", "trial time limit")
    assert record_of("endless").seconds < 3.5


def test_relative_paths_are_the_callers(record_of):
    """Even though Ray was started earlier, from another folder."""
    assert record_of("a relative path").metric == 3


def test_mlflow_is_loaded_only_by_an_objective_that_uses_it(record_of):
    assert [record_of(case).results[-1].extra["loaded"] for case in ("a dict", "asks for mlflow")] == [0.0, 0.0]


def test_mlflow_inside_the_objective_lands_in_the_trials_run(said, record_of):
    import mlflow

    folder = Path(said.path)
    client = mlflow.MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    for case in ("mlflow", "mlflow again"):
        run = client.get_run(json.loads((folder / f"search/trials/{record_of(case).number:04d}/mlflow.json").read_text())["run_id"])
        assert run.data.metrics["mine"] == run.data.metrics["loss"] == len(case)
        assert run.data.params["word"] == "said"
        assert run.info.status == "FINISHED"


def test_a_search_is_read_from_its_folder_alone(said):
    again = load_search(said.path)
    assert again.leaderboard().equals(said.leaderboard())
    assert (again.metric.name, again.metric.higher_is_better, again.best_config) == ("loss", False, said.best_config)
    with pytest.raises(errors.NotAPredictor, match="holds no search"):
        load_search("elsewhere")


def test_no_predictor_goes_on_with_an_objectives_search(said):
    with pytest.raises(NotImplementedError, match="make the same tune_objective call again"):
        MultiModalPredictor.load(said.path, resume=True)


# ------------------------------------------------------------------------------------------------------------- whole searches


def test_a_generator_reports_once_an_epoch_and_is_stopped_early():
    found = search(falling, scheduler="ASHA", num_trials=8, max_epochs=9)
    table = found.leaderboard()
    assert set(table["status"]) == {"COMPLETED", "STOPPED"}
    assert table.loc[table["status"] == "COMPLETED", "epochs"].eq(9).all()
    curves = found.curves()
    assert curves.loc[curves["epoch"] == 3, "epoch_squared"].eq(9).all()


def test_a_finite_space_is_tried_once_and_the_search_is_over():
    found = search(lambda config: config["x"] + config["y"], {"x": choice([0, 1]), "y": tune.randint(0, 2)}, "bayes", num_trials=20)
    assert sorted(record.metric for record in found.trials) == [0, 1, 1, 2]
    assert len(search(lambda config: config["x"] + config["y"], {"x": choice([0, 1]), "y": tune.randint(0, 2)}, "bayes", num_trials=30)) == 4


def test_a_config_may_be_nested_hold_anything_and_be_conditional():
    def objective(config):
        assert config["fixed"]["thing"] is not None
        assert config["double"] == 2 * config["model"]["depth"]
        return {"loss": config["model"]["depth"] + config["kind"].get("width", 0) + 100 * (config["of"] is dict)}

    space = {
        "fixed": {"thing": ("a", frozenset({1}))},
        "model": {"depth": tune.randint(1, 5)},
        "kind": choice([{"name": "small"}, {"name": "wide", "width": tune.uniform(10, 20)}]),
        "double": sample_from(lambda config: 2 * config["model/depth"]),
        "of": choice([Counter, dict]),
    }
    found = search(objective, space, num_trials=8)
    assert {record.status for record in found.trials} == {"COMPLETED"}, [record.reason for record in found.trials]
    assert found.best_config["of"] is Counter  # the user's own object
    assert load_search("run").best_config["of"] == "collections.Counter"


@pytest.mark.slow
def test_a_metric_that_is_not_reported_costs_one_trial_not_all(here):
    def objective(config):
        return {"los": 1.0}

    with pytest.raises(errors.AllTrialsFailed, match=r"(?s)InvalidReport: the objective reported 'los', and not the metric 'loss'"):
        search(objective, num_trials=40, save_path="s")
    statuses = Counter(record.status for record in SearchRecords(here / "s/search").trials())
    assert 1 <= statuses["FAILED"] < 10


def falling_with_checkpoints(config):
    """``Falling`` as a function. It saves every second step."""
    steps = 0
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as folder:
            steps = json.loads(Path(folder, "steps.json").read_text())
    while True:
        steps += 1
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "steps.json").write_text(json.dumps(steps))
            saved = tune.Checkpoint.from_directory(folder) if steps % 2 == 0 else None
            tune.report({"loss": config["x"] ** 2 + 1 / steps, "steps": steps, "x": config["x"]}, checkpoint=saved)


@pytest.mark.parametrize(("interval", "num_trials"), [(2, 4), pytest.param(3, 4, marks=pytest.mark.slow)])
def test_functions_that_save_exchange_their_checkpoints(interval, num_trials):
    arguments = {"scheduler_init_args": {"perturbation_interval": interval}}
    found = search(falling_with_checkpoints, {"x": tune.uniform(0, 1)}, scheduler="PBT", num_trials=num_trials, max_epochs=12, kwargs=arguments)
    assert [record.status for record in found.trials] == ["COMPLETED"] * num_trials
    assert any(len(record.segments) > 1 for record in found.trials)
    for record in found.trials:
        places = [(result.segment, result.epoch) for result in record.results]
        assert len(places) == len(set(places))
        assert record.results[-1].epoch == 12
        for result in record.results:
            assert result.extra["steps"] == result.epoch
            assert result.extra["x"] == record.segments[result.segment].tuned["x"]


@pytest.mark.parametrize("kind", ["reports", "yields"])
def test_a_population_of_what_saves_nothing_ends_at_its_first_exchange(kind, here):
    def yielding(config):
        for epoch in range(50):
            yield {"loss": config["x"] + 1 / (1 + epoch)}

    def reporting(config):
        for values in yielding(config):
            tune.report(values)

    objective = reporting if kind == "reports" else lambda config: yielding(config)
    arguments = {"scheduler_init_args": {"perturbation_interval": 2}}
    with contextlib.suppress(errors.AllTrialsFailed):
        search(objective, {"x": tune.uniform(0, 1)}, scheduler="PBT", max_epochs=12, kwargs=arguments)
    trials = load_search("run").trials
    assert "for the first time after 2 reports, and the objective has saved none; give one to tune.report" in str(trials[0].reason)
    assert max(record.epochs for record in trials) == 1


def test_population_based_training_takes_over_the_better_states():
    arguments = {"scheduler_init_args": {"perturbation_interval": 2}}
    found = search(Falling, {"x": tune.uniform(0, 1)}, scheduler="PBT", num_trials=4, max_epochs=12, kwargs=arguments)
    assert len(found) == 4
    assert any(len(record.segments) > 1 for record in found.trials)
    for record in found.trials:
        places = [(result.segment, result.epoch) for result in record.results]
        assert len(places) == len(set(places))
        for segment in record.segments[1:]:
            assert segment.parent != record.number
            assert 0 <= segment.tuned["x"] <= 1
        for result in record.results:  # a takeover neither loses nor repeats a step
            assert result.extra["steps"] == result.epoch
    with pytest.raises(errors.InvalidTuneSettings, match="PBT changes the tuned hyperparameters while a model trains"):
        search(falling, {"x": tune.uniform(0, 1)}, scheduler="PBT", save_path="other")
    with pytest.raises(errors.InvalidTuneSettings, match="PBT stores changed values as JSON, but options of f are not numbers"):
        search(Falling, {"f": tune.choice([abs, len])}, scheduler="PBT", max_epochs=4, save_path="other")


@pytest.mark.timeout(120)
def test_a_killed_process_is_replaced_and_the_trial_goes_on_from_its_state(tmp_path):
    """A trial whose process always dies fails. Reports and states may hold nan or inf, because a metric may be undefined in an epoch."""
    marker = tmp_path / "killed"

    class Mortal(Falling):
        def setup(self, config):
            super().setup(config)
            self.always = config["x"] == 1

        def step(self):
            if self.always or (self.steps == 4 and not marker.exists()):
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().step() | {"f1": float("nan"), "largest": float("inf")}

    found = search(Mortal, {"x": tune.grid_search([0, 1])}, "grid", num_trials=2, max_epochs=8)
    assert [record.status for record in found.trials] == ["COMPLETED", "FAILED"]
    assert [result.extra["steps"] for result in found.trials[0].results] == list(range(1, 9))
    assert found.curves()[["f1", "largest"]].isna().all(axis=None)
    assert "its process died 3 times" in found.trials[1].reason


@pytest.mark.slow
def test_an_objective_that_blocks_does_not_keep_the_call_beyond_its_limit(here, ray_session):
    def objective(config):
        time.sleep(60 if config["x"] == 1 else 0.01)
        return config["x"]

    started = time.time()
    space, kwargs = {"x": tune.grid_search([0, 1])}, {"searcher": "grid", "scheduler": "FIFO", "num_trials": 2}
    found = tune_objective(objective, space, kwargs, mode="max", time_limit=14, save_path=here / "blocked", tracking=None, verbosity=0)
    assert time.time() - started < 14 + 5
    assert [(record.status, record.reason) for record in found.trials] == [("COMPLETED", ""), ("STOPPED", "time limit")]
    while ray_session.available_resources().get("CPU") != ray_session.cluster_resources()["CPU"]:  # until the user's Ray has its CPU back
        assert time.time() - started < 14 + 10
        time.sleep(0.1)


def test_a_goal_ends_the_search_and_one_that_is_tightened_lets_it_go_on():
    def objective(config):
        for epoch in range(1, 51):
            time.sleep(0.02)
            yield {"loss": 1 / epoch}

    limits = {"max_concurrent_trials": 1}
    first = search(objective, num_trials=8, kwargs={"goal": 0.5} | limits)
    assert (first.trials[0].status, first.trials[0].reason) == ("STOPPED", "goal reached")
    assert len(first) <= 3
    assert first.trials[0].epochs < 30
    same = search(objective, num_trials=8, kwargs={"goal": 0.5} | limits)  # nothing is left to do
    assert [record.epochs for record in same.trials] == [record.epochs for record in first.trials]
    again = search(objective, num_trials=8, kwargs={"goal": 1 / 40} | limits)
    assert again.best.reason == "goal reached" and again.best.metric <= 1 / 40
    assert again.trials[0].epochs > first.trials[0].epochs


def test_where_all_trials_failed_the_same_call_tries_them_again():
    bug = Path("bug")

    def objective(config):
        for epoch in range(2):
            if bug.exists():
                raise {"key": KeyError("mistyped"), "memory": MemoryError("and then")}[bug.read_text()]
            yield {"loss": config["x"] + epoch}

    bug.write_text("key")
    with pytest.raises(
        errors.AllTrialsFailed, match=r"(?s)2 x KeyError: 'mistyped'; the same call with save_path='.*run' tries them again; load_search\('.*run'\) shows them"
    ) as caught:
        search(objective, num_trials=2)
    assert "automm_hpo" not in str(caught.value).partition("Traceback")[2]  # only the user's frames
    for number in (0, 1):  # as after a kill: a resumed trial that fails again gets the new reason
        folder = TrialFolder(Path("run/search"), number)
        folder.write(replace(folder.read(), status="RUNNING"))
    bug.write_text("memory")
    with pytest.raises(errors.AllTrialsFailed, match="2 x MemoryError: and then"):
        search(objective, num_trials=2)
    bug.unlink()
    found = search(objective, num_trials=2)
    assert [(record.status, len(record.results)) for record in found.trials] == [("COMPLETED", 2)] * 2
    assert found.failures().empty


def test_too_many_failures_end_the_search():
    def objective(config):
        if config["x"] < 3:
            raise RuntimeError("no")
        return config["x"]

    with pytest.raises(errors.AllTrialsFailed, match="RuntimeError: no"):
        search(objective, {"x": tune.grid_search([0, 1, 2, 3, 4, 5])}, "grid", num_trials=6, kwargs={"max_failed_trials": 1, "max_concurrent_trials": 1})


def test_the_same_call_goes_on_and_another_one_is_refused(here):
    def objective(config):
        with open(here / "runs", "a") as file:
            file.write("x")
        yield from falling(config)

    points = {"points_to_evaluate": [{"x": 0.25}, {"x": -0.5}]}  # they run first, and count towards num_trials
    first = search(objective, num_trials=3, max_epochs=9, kwargs=points)
    assert [record.tuned["x"] for record in first.trials[:2]] == [0.25, -0.5]
    assert len(first) == 3
    again = search(objective, num_trials=3, max_epochs=9, kwargs=points)
    assert [record.started for record in again.trials] == [record.started for record in first.trials]
    folder = TrialFolder(Path("run/search"), 0)
    folder.write(replace(folder.read(), status="RUNNING"))  # as if it had been killed after its last report
    Path("run/search/outcome.json").unlink()
    more = search(objective, num_trials=5, max_epochs=9, kwargs=points)
    assert [record.tuned for record in more.trials[:3]] == [record.tuned for record in first.trials]
    assert [(record.status, len(record.results)) for record in more.trials] == [("COMPLETED", 9)] * 5
    assert (here / "runs").read_text() == "x" * 5  # no trial ran again
    with pytest.raises(errors.SearchMismatch) as caught:
        search(objective, {"x": tune.uniform(-2, 1)}, searcher="bayes", num_trials=3, max_epochs=9, kwargs=points)
    assert all(word in str(caught.value) for word in ("x: was 'uniform(-1, 1)'", "searcher: was 'random', is 'bayes'", "num_trials: was 5, is 3"))
    with pytest.raises(errors.SavePathExists):
        search(objective, num_trials=5, max_epochs=9, kwargs=points, resume=False)


class Soon(float):
    """A deadline two seconds after the trial's process unpickles it, because that process may take twenty seconds to start."""

    def __reduce__(self):
        return eval, ("__import__('time').time() + 2",)


def test_a_limit_ends_a_search_that_says_how_it_goes_on(here, capsys, monkeypatch):
    monkeypatch.setattr("automm_hpo.objective.trials_deadline", lambda deadline, with_ray: deadline and Soon(deadline))

    def call(**options):
        return search(endless, num_trials=2, verbosity=2, tracking="mlflow", **options), capsys.readouterr().out

    found, said = call(time_limit=100, kwargs={"resources_per_trial": {"cpu": 0.5}})  # no warning: each trial ended once, in MLflow too
    assert {record.reason for record in found.trials} == {"time limit"}
    assert said.count(" ends ") == 2
    assert f"saved in {here / 'run'}" in said
    assert f"ended early (time limit); the same call with save_path='{here / 'run'}' resumes it" in said
    _, said = call(kwargs={"trial_time_limit": 0.5})
    assert f"resuming {here / 'run'}: 0 trials are kept, 2 go on" in said


def test_a_partial_is_its_function_and_a_fixed_object_is_the_same_in_another_call():
    """Fixed objects are compared by class, not by memory address."""

    class Thing:
        factor = 2

    def objective(config, power):
        return config["thing"].factor * config["x"] ** power

    for _ in range(2):  # the second call finds the trial done
        space = {"x": tune.uniform(-1, 1), "thing": Thing()}
        found = search(functools.partial(functools.partial(objective), power=2), space, num_trials=1)
        assert [record.metric for record in found.trials] == [2 * record.tuned["x"] ** 2 for record in found.trials]
        assert len(found) == 1


@pytest.mark.slow
def test_a_warm_start_knows_what_earlier_searches_found(capsys):
    coarse = search(falling, {"x": tune.uniform(-1, 1), "k": tune.choice(["a", "b"])}, num_trials=12, save_path="coarse")
    fine = {"searcher": "bayes", "kwargs": {"warm_start": coarse.path}, "save_path": "fine", "verbosity": 2}
    found = search(falling, {"x": tune.uniform(-0.9, 0.9), "k": "a"}, num_trials=2, **fine)
    inside = [record for record in coarse.trials if record.tuned["k"] == "a" and abs(record.tuned["x"]) <= 0.9]
    assert 0 < len(inside) < 12
    assert found.trials[0].tuned["x"] == min((record.tuned["x"] for record in inside), key=abs)
    said = capsys.readouterr().out
    assert f"warm start: {len(inside)} earlier trials are known, {12 - len(inside)} more lie outside this space; the best of them" in said
    found = search(falling, {"x": tune.uniform(-0.9, 0.9), "k": "a"}, num_trials=4, **fine)
    assert len({record.tuned["x"] for record in found.trials}) == len(found) == 4

    for change, words in [
        ({"space": {"x": tune.uniform(5, 6)}}, "coarse: none of its 12 scored trials lies in this search space"),
        ({"space": {"x": tune.uniform(-1, 1), "k": "c"}}, "none of its 12 scored trials"),
        ({"metric": "epoch_squared"}, r"used loss \(min\), this one uses epoch_squared \(min\): their scores cannot be compared"),
        ({"kwargs": {"warm_start": ["coarse", "nowhere"]}}, "nowhere holds no search; expected the save_path of an earlier one"),
        ({"kwargs": {"warm_start": 5}}, "warm_start: expected a folder's path, or a list of them, got 5"),
        ({"searcher": "random"}, "warm_start: random learns from no trial, neither its own nor an earlier one"),
        ({"searcher": Counting()}, "warm_start: Counting cannot be told of earlier trials"),
    ]:
        with pytest.raises((errors.AutoMMHPOError, ValueError), match=words):
            search(falling, **{**fine, "space": {"x": tune.uniform(-1, 1), "k": "a"}, "save_path": "other"} | change)
    assert not Path("other").exists()


class Counting(tune.search.Searcher):
    def __init__(self):
        super().__init__(metric="loss", mode="min")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"mode": None}, "mode: expected 'max' or 'min'"),
        ({"mode": "least"}, "mode: expected 'max' or 'min'"),
        ({"objective": 5}, "objective: expected a function of a config"),
        ({"objective": Falling}, "max_epochs: a Trainable needs it"),
        ({"space": {"x": 1}, "num_trials": None}, "space: contains only fixed values"),
        ({"kwargs": {"metric": "other"}}, "metric: is 'loss' in the call and 'other'"),
        ({"max_epochs": 0}, "max_epochs: expected an integer >= 1"),
        ({"scheduler": tune.schedulers.ASHAScheduler(metric="los", mode="min")}, "metric='los', and trials report"),
        ({"scheduler": tune.schedulers.ASHAScheduler(metric="loss", mode="max")}, "lower loss is better"),
    ],
)
def test_bad_calls_are_refused_before_anything_starts(here, call, words):
    with pytest.raises((errors.AutoMMHPOError, ValueError), match=words):
        search(call.pop("objective", falling), call.pop("space", None), **call)
    assert not list(here.iterdir())


@pytest.mark.parametrize(("value", "installed"), [(functools.partial(json.dumps, 5), True), (falling, False), (functools.partial(falling), False), (len, True)])
def test_what_every_process_has_is_not_sent(value, installed):
    from ray import cloudpickle

    with sent_by_value(value):
        assert (__name__ in cloudpickle.list_registry_pickle_by_value()) != installed
        assert "functools" not in cloudpickle.list_registry_pickle_by_value()


def test_the_last_of_several_searches_takes_the_module_off_the_list():
    from ray import cloudpickle

    with sent_by_value(falling):
        with sent_by_value(falling):
            pass
        assert __name__ in cloudpickle.list_registry_pickle_by_value()
    assert __name__ not in cloudpickle.list_registry_pickle_by_value()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        with sent_by_value(falling):
            pass
        assert __name__ in cloudpickle.list_registry_pickle_by_value()  # the user's own
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_searches_side_by_side_keep_their_trials_apart():
    """Ray looks up what a trial runs by name, so each search needs its own."""
    found = {}

    def run(which):
        def objective(config):
            for _ in range(3):
                yield {"loss": which}

        found[which] = search(objective, num_trials=3, kwargs={"max_concurrent_trials": 1}, save_path=f"run{which}")

    threads = [threading.Thread(target=run, args=(which,)) for which in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {which: {record.best.metric for record in results.trials} for which, results in found.items()} == {1: {1.0}, 2: {2.0}}


def test_a_trial_that_goes_on_beyond_the_guessed_end_is_left_to():
    def objective(config):
        for _ in range(MOST_REPORTS + 20):
            yield {"failed": config["x"]}  # a metric may have this name

    found = search(objective, scheduler="ASHA", num_trials=1, metric="failed")
    assert [(record.status, len(record.results)) for record in found.trials] == [("COMPLETED", MOST_REPORTS + 20)]


def test_names_that_are_no_unicode_end_no_search():
    """As os.listdir returns for files whose names are not UTF-8."""

    def objective(config):
        if config["name"] == "b\udcff":
            raise ValueError(f"cannot read {config['name']}")
        return {"loss": 1.0}

    found = search(objective, {"name": tune.choice(["a", "b\udcff"])}, "grid", num_trials=2)
    assert sorted(record.status for record in found.trials) == ["COMPLETED", "FAILED"]
    assert [record.reason for record in found.trials if record.status == "FAILED"] == ["ValueError: cannot read b\\udcff"]


@pytest.mark.parametrize("objective", [lambda config, data: 0.0, lambda: 0.0])
def test_a_function_that_does_not_take_a_config_alone_is_refused(objective):
    with pytest.raises(errors.InvalidArgument, match=r"objective: expected a function of a config alone, got .*<lambda>"):
        search(objective)


@pytest.mark.parametrize("values", [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3])])
def test_a_list_in_place_of_a_space_is_pointed_at(values):
    with pytest.raises(errors.InvalidTuneSettings, match=r"To search among the values of 'x': tune.choice\(\[1, 2, 3\]\)"):
        tune_objective(lambda config: 0.0, {"x": values}, mode="min")


def test_a_distribution_of_scipys_is_no_fixed_value():
    with pytest.raises(errors.InvalidSpace, match=r"x/y: scipy's distributions are not supported; use tune\.uniform"):
        tune_objective(lambda config: 0.0, {"x": {"y": stats.norm(0, 1)}, "z": tune.uniform(0, 1)}, mode="min")


def test_settings_that_are_wrong_say_nothing_of_the_metric():
    """No complaint about a missing mode: the user gave it, under HyperDrive's name."""
    with pytest.raises(
        errors.InvalidTuneSettings, match=r"^hyperparameter_tune_kwargs: unknown key 'primary_metric_goal'\. Here that is mode\. Known: [^\n]*$"
    ):
        tune_objective(lambda config: 0.0, {"x": tune.uniform(0, 1)}, {"primary_metric_goal": "MAXIMIZE"})


def test_a_limit_that_trials_could_not_hear_of_is_told(store, curve, here):
    trials = [
        TrialRecord(0, {}, {}, COMPLETED, results=tuple(replace(result, seconds=9.0) for result in curve(find_metric("mse"), values)))
        for values in ([1.0], [1.0, 2.0])
    ]
    plan = SimpleNamespace(settings=TuneSettings(trial_time_limit=4))
    assert _unlimited(plan, trials).startswith("trial_time_limit: 1 trial took longer than 4 s; the limit is checked at reports")
    assert _unlimited(plan, trials[1:]) == _unlimited(SimpleNamespace(settings=TuneSettings()), trials) == ""


def test_a_quota_that_nothing_could_hold_an_objective_to_is_refused():
    with pytest.raises(errors.InvalidTuneSettings, match="disk_quota_mb: not supported here, because the size of the checkpoints is not known"):
        tune_objective(lambda config: 0.0, {"x": tune.uniform(0, 1)}, {"disk_quota_mb": 10}, mode="min")


@pytest.mark.parametrize("stopping", [False, True], ids=["", "while it is asked to end"])
def test_a_kill_between_the_last_state_and_its_row_adds_no_step(here, monkeypatch, stopping):
    """Found by benchmarks/kills.py: the last state was not marked as the last, so the resumed trial went on."""
    records = SearchRecords(here)
    number = records.open_trial({"x": 0.5}, {"x": 0.5}, {}).number
    _, space = split_objective_space({"x": tune.uniform(-1, 1)})
    task = TrialTask(here, Objective(Falling, space, {}, "loss", False, num_to_keep=2, seed=0, max_epochs=3))
    append = TrialFolder.append

    def killed(folder, result):
        if result.step == 3:
            raise KeyboardInterrupt
        append(folder, result)

    if stopping:
        monkeypatch.setattr("automm_hpo.hpo.trial._ShouldStop.__call__", lambda *_: "time_limit" if len(records.folder_of(number).results()) == 2 else None)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrialFolder, "append", killed)
        list(run_trial(task, number))
    monkeypatch.undo()
    steps = list(run_trial(task, number))
    assert [(step.result.step, step.result.end) for step in steps if step.result] == [(1, None), (2, None), (3, "max_epochs")]


@pytest.mark.parametrize("damage", ["a file of the user's is torn", "a file of the user's is gone", "not complete", "its row is torn"])
def test_a_damaged_state_gives_way_to_the_one_before(here, damage):
    records = SearchRecords(here)
    number = records.open_trial({"x": 0.5}, {"x": 0.5}, {}).number
    _, space = split_objective_space({"x": tune.uniform(-1, 1)})
    task = TrialTask(here, Objective(Falling, space, {}, "loss", False, num_to_keep=2, seed=0, max_epochs=6))
    steps = run_trial(task, number)
    while len(records.folder_of(number).results()) < 4:
        next(steps)
    steps.close()
    newest = list_checkpoints(records.folder_of(number).checkpoints)[-1]
    match damage:
        case "a file of the user's is torn":
            (newest / "saved" / "train_state.json").write_text("")
        case "a file of the user's is gone":
            (newest / "saved" / "train_state.json").unlink()
        case "its row is torn":
            log = newest.parent.parent / "metrics.jsonl"
            *rows, last = log.read_bytes().splitlines(keepends=True)
            log.write_bytes(b"".join([*rows, b"\0" * len(last) + b"\n"]))
        case _:
            (newest / "MANIFEST.json").unlink()
    resumed = run_trial(task, number)
    next(resumed)  # what is on record comes first
    kept = [1, 2, 3, 4] if damage == "its row is torn" else [1, 2, 3]
    assert [result.step for result in records.folder_of(number).results()] == kept
    list(resumed)
    results = records.folder_of(number).results()
    assert [result.step for result in results] == [1, 2, 3, 4, 5, 6]
    assert [result.extra["steps"] for result in results] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("form", ["generator", "class that saves nothing"])
def test_what_was_found_stays_until_a_trial_that_starts_over_has_a_result(here, form):
    begun = []

    class Unsaved(Falling):
        save_checkpoint = tune.Trainable.save_checkpoint

        def setup(self, config):
            super().setup(config)
            self.start()

        def start(self):
            begun.append(1)
            if len(begun) == 2:
                raise KeyboardInterrupt

    def generator(config):
        Unsaved.start(None)
        yield from falling(config)

    records = SearchRecords(here)
    number = records.open_trial({"x": 0.5}, {"x": 0.5}, {}).number
    _, space = split_objective_space({"x": tune.uniform(-1, 1)})
    objective = generator if form == "generator" else Unsaved
    task = TrialTask(here, Objective(objective, space, {}, "loss", False, num_to_keep=2, seed=0, max_epochs=5))
    steps = run_trial(task, number)
    for _ in range(3):
        next(steps)
    steps.close()
    with pytest.raises(KeyboardInterrupt):
        list(run_trial(task, number))
    before = records.folder_of(number).results()
    assert [result.step for result in before] == [1, 2, 3]
    again = run_trial(task, number)
    assert next(again).result.step == 1
    assert [result.step for result in records.folder_of(number).results()] == [1]
    list(again)
    results = records.folder_of(number).results()
    assert [result.step for result in results] == [1, 2, 3, 4, 5]
    assert results[-1].seconds < before[-1].seconds + 60


def test_what_rays_examples_do_is_understood(here, capsys):
    """Nested metrics, a scheduler that names the metric, None for no searcher, and lists and texts that may have been meant as spaces."""

    def objective(config):
        (Path(tune.get_context().get_trial_dir()) / "note.txt").write_text("mine")
        for epoch in range(1, 4):
            tune.report({"valid": {"score": config["x"] * epoch, "deep": {"er": 1}}})

    space = {"x": tune.grid_search([1, 2]), "layers": [8, 8], "lr": "loguniform[1e-4:1e-1]", "init": "uniform"}
    scheduler = tune.schedulers.AsyncHyperBandScheduler(metric="valid/score", mode="max", max_t=3)
    found = tune_objective(objective, space, {"searcher": None, "scheduler": scheduler}, save_path="run", tracking=None, verbosity=1)
    assert (found.metric.name, found.metric.higher_is_better, found.best_config["x"]) == ("valid/score", True, 2)
    assert found.best.results[-1].extra == {"valid/deep/er": 1.0}
    assert [Path(found.trial_dir(trial), "note.txt").read_text() for trial in (None, 0, 1)] == ["mine"] * 3
    assert found.trial_dir(9) is None
    said = " ".join(capsys.readouterr().out.split())
    assert "fixed: layers=[8, 8]; tune.choice([8, 8]) would search among these" in said
    assert "fixed: lr='loguniform[1e-4:1e-1]', a text; tune.loguniform(...) would be a search space" in said
    assert "init=" not in said


def test_another_code_of_the_objective_is_told(here, capsys):
    def first(config):
        return config["x"]

    def second(config):
        return 2 * config["x"]

    second.__name__, second.__qualname__ = first.__name__, first.__qualname__
    said = []
    for objective, num_trials in ((first, 2), (first, 3), (second, 3), (second, 4), (second, 4)):
        search(objective, num_trials=num_trials, verbosity=1)
        said.append("the objective's code has changed since this search began; trials on record keep their scores" in " ".join(capsys.readouterr().out.split()))
    assert said == [False, False, True, True, True]


def test_numpys_numbers_are_numbers(here):
    found = search(falling, num_trials=1, seed=np.int64(3), kwargs={"goal": np.float32(-1e9)}, time_limit=np.int64(100))
    assert len(found) == 1
    assert len(search(falling, num_trials=1, seed=3, kwargs={"goal": -1e9})) == 1


def test_a_failed_trial_goes_on_where_that_is_asked_for(here):
    def objective(config):
        for epoch in range(1, 4):
            if config["x"] == 2 and epoch == 3 and not (here / "mended").exists():
                raise MemoryError("too large")
            with open(here / "runs", "a") as file:
                file.write(str(config["x"]))
            yield {"loss": config["x"] + 1 / epoch}

    def found(**kwargs):
        trials = search(objective, {"x": tune.grid_search([1, 2])}, "grid", num_trials=2, kwargs=kwargs).trials
        return [(record.status, record.epochs) for record in trials]

    failed = [("COMPLETED", 3), ("FAILED", 2)]
    assert [found(), found()] == [failed] * 2
    (here / "mended").touch()
    assert found(retry_failed=True) == [("COMPLETED", 3)] * 2
    assert (here / "runs").read_text() == "111" + "22" + "222"  # a function has no state to resume from
    assert found() == found(retry_failed=True) == [("COMPLETED", 3)] * 2


def test_a_search_that_reached_its_goal_is_finished(capsys):
    for _ in range(2):
        search(falling, num_trials=2, kwargs={"goal": 1e9}, verbosity=1)
    assert "finished: nothing is left to do" in capsys.readouterr().out


def test_a_trial_begins_where_the_caller_is_wherever_the_last_one_went(here):
    def objective(config):
        found = Path("input.txt").read_text()
        os.chdir("/")
        return float(found) + config["x"]

    Path("input.txt").write_text("1")
    found = search(objective, num_trials=3, metric="objective", kwargs={"max_concurrent_trials": 1})
    assert found.leaderboard()["status"].tolist() == [COMPLETED] * 3


def test_values_alone_are_tried_as_often_as_they_are_to_be(here):
    """As in Ray's own first example: the objective draws different random numbers in each trial."""

    def objective(config):
        assert tune.get_context().get_trial_resources().required_resources == {"CPU": 0.5}
        return config["a"] + np.random.rand()

    kwargs = {"resources_per_trial": {"cpu": 0.5}}
    found = search(objective, {"a": 2, "b": 4}, "bayes", "ASHA", 3, metric="objective", kwargs=kwargs)
    assert found.leaderboard()["score"].nunique() == 3
    assert found.best_config == {"a": 2, "b": 4}
    assert len(search(objective, {"a": 2, "b": 4}, "bayes", "ASHA", 5, metric="objective", kwargs=kwargs).leaderboard()) == 5
    with pytest.raises(errors.InvalidTuneSettings, match=r"no search space.*num_trials says how often"):
        tune_objective(objective, {"a": 2}, {"searcher": "random"}, mode="max", tracking=None)


def test_what_a_class_asks_for_in_rays_way_is_not_passed_over():
    class Asking(Falling):
        @classmethod
        def default_resource_request(cls, config):
            return tune.PlacementGroupFactory([{"CPU": 2}])

    with pytest.raises(errors.InvalidArgument, match="default_resource_request is not read here; give resources_per_trial"):
        search(Asking, max_epochs=2)
