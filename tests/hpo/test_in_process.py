"""The first trials of a search run in this process, with the same results as on Ray, which takes over when that pays."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from ray.tune.search import Searcher

from automm_hpo import MultiModalPredictor, space
from automm_hpo.errors import AllTrialsFailed
from automm_hpo.fit import venue
from automm_hpo.hpo import cluster, in_process
from automm_hpo.hpo.in_process import Forecast, SoonerOnRay
from automm_hpo.hpo.job import ray_pays
from automm_hpo.hpo.recording import RecordingSearcher
from automm_hpo.hpo.records import SearchRecords
from automm_hpo.hpo.training_trial import Training

ONE = {"env.batch_size": 32, "optim.max_epochs": 4, "optim.top_k_average_method": "best", "model.real_mlp.num_members": 1}
SPACE = {"optim.lr": space.loguniform(1e-3, 1e-1)}


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, 4)), columns=list("abcd"))
    return frame.assign(y=(frame["a"] * frame["b"] + frame["c"] > 0).astype(int))


@pytest.fixture
def no_ray(monkeypatch):
    """Pretends that no Ray runs; the list records what was started on one."""
    started = []
    monkeypatch.setattr(venue, "least_start_seconds", lambda: 2.0)
    monkeypatch.setattr("automm_hpo.hpo.search.Cluster.start", lambda self: started.append(1) or {"CPU": 1.0})
    monkeypatch.setattr("automm_hpo.hpo.search.run_on_ray", lambda *args: started.append("trials"))
    return started


def fit(table, path, tune_kwargs, **options):
    options = {"tracking": None, "hyperparameters": ONE | SPACE} | options
    predictor = MultiModalPredictor("y", verbosity=options.pop("verbosity", 0))
    return predictor.fit(table, save_path=path, hyperparameter_tune_kwargs=tune_kwargs, **options)


def rows_of(path):
    """Each trial's tuned values, status and results without seconds."""
    found = []
    for record in SearchRecords(Path(path) / "search").trials():
        log = Path(path) / "search" / "trials" / f"{record.number:04d}" / "metrics.jsonl"  # absent before the first result
        results = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        found.append((dict(record.tuned), record.status, [{key: value for key, value in row.items() if key != "seconds"} for row in results]))
    return found


# ------------------------------------------------------------------------------------------------------------ when Ray pays


class Clock:
    """The clock that ``Forecast`` reads."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        moment = SimpleNamespace(thread_time=lambda: self.now, perf_counter=lambda: self.now, time=lambda: self.now)
        monkeypatch.setattr(in_process, "time", moment)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def trial(forecast, clock, epochs, seconds, to_come, steps=10):
    """Runs a trial with ``to_come`` more to follow; ``seconds`` are per epoch. Returns the epoch at which it is left to Ray, or None."""
    forecast.check()
    forecast.begin(epochs, to_come)
    for epoch in range(epochs):
        try:
            for step in range(steps):
                clock.now += seconds / steps
                forecast.look(epoch + (step + 1) / steps)
        except SoonerOnRay:
            return epoch
    forecast.end(was_trained=True)
    return None


def test_a_search_that_is_over_before_ray_would_have_begun_stays(clock):
    forecast = Forecast(num_parallel=2, deadline=None)
    assert [trial(forecast, clock, epochs=10, seconds=0.2, to_come=to_come) for to_come in (3, 2, 1, 0)] == [None] * 4


@pytest.mark.parametrize(("seconds", "before"), [(0.5, 4), (5.0, 2), (600.0, 1)])
def test_a_long_one_is_left_to_ray_soon(clock, seconds, before):
    """After some seconds, or within the first epoch if that takes long."""
    left_at = trial(Forecast(num_parallel=2, deadline=None), clock, 50, seconds, to_come=19, steps=200)
    assert left_at is not None
    assert left_at <= before


def test_later_trials_may_be_longer(clock):
    forecast = Forecast(num_parallel=2, deadline=None)
    assert trial(forecast, clock, 4, 0.2, to_come=3) is None
    assert trial(forecast, clock, 40, 3.0, to_come=2) is not None
    assert forecast.seconds_left() > 60


def test_a_slow_start_is_no_slow_trial(clock):
    """The first steps of the first trial, and the imports meanwhile, take seconds, but only once."""
    forecast = Forecast(num_parallel=2, deadline=None)
    forecast.check()
    forecast.begin(10, num_to_come=7)
    clock.now += 1.0
    forecast.look(0.1)
    for _ in ("the first epoch", "its report"):
        clock.now += 0.6
        forecast.look(1.0)
    for epoch in range(2, 10):
        clock.now += 0.15
        forecast.look(float(epoch))
    forecast.end(was_trained=True)
    assert [trial(forecast, clock, 10, 0.15, to_come) for to_come in range(6, -1, -1)] == [None] * 7


def test_trials_on_record_say_nothing_of_those_to_come(clock):
    """Repeating them takes no time: after forty of them, twenty trials of 2 s to come are 40 s of work."""
    forecast = Forecast(num_parallel=2, deadline=None)
    for number in range(40):
        forecast.begin(10, num_to_come=59 - number)
        forecast.end(was_trained=False)
    assert trial(forecast, clock, 10, 0.2, to_come=19) is not None


def test_waiting_for_others_counts_only_when_it_lasts(monkeypatch):
    working, passing = [0.0], [0.0]
    moment = SimpleNamespace(thread_time=lambda: working[0], perf_counter=lambda: passing[0], time=lambda: passing[0])
    monkeypatch.setattr(in_process, "time", moment)
    forecast = Forecast(num_parallel=2, deadline=None)
    forecast.begin(10, num_to_come=9)
    forecast.look(0.25)
    passing[0] += 4.0  # another thread imports something
    forecast.look(0.5)
    working[0] += 0.1
    forecast.look(1.0)
    passing[0] += 100.0
    with pytest.raises(SoonerOnRay):
        forecast.look(1.25)


LEFT = [(15.0, 2, True), (35.0, 2, True), (40.0, 2, False), (19.0, 16, True), (22.0, 16, False), (50.0, 1, True), (70.0, 1, False)]


@pytest.mark.parametrize(("left", "parallel", "stays"), LEFT)
def test_by_what_a_time_limit_leaves_it_may_never_pay(clock, left, parallel, stays):
    forecast = Forecast(num_parallel=parallel, deadline=left)
    assert (trial(forecast, clock, 100, 0.1, to_come=99) is None) == stays or (stays and clock.now > left)
    assert ray_pays(math.inf, parallel, left) != stays


# -------------------------------------------------------------------------------------------------------------- real searches


@pytest.mark.parametrize(("searcher", "scheduler"), [("random", "FIFO"), ("bayes", "ASHA"), ("grid", "median")])
def test_a_short_search_needs_no_ray(table, here, no_ray, searcher, scheduler):
    hyperparameters = ONE | {"optim.lr": space.choice([1e-3, 3e-2, 3.0])} if searcher == "grid" else ONE | SPACE
    threads = torch.get_num_threads()
    predictor = fit(table, "run", {"searcher": searcher, "scheduler": scheduler, "num_trials": 3}, hyperparameters=hyperparameters)
    assert no_ray == []
    assert torch.get_num_threads() == threads
    found = predictor.leaderboard()
    assert sorted(found["trial"]) == [0, 1, 2]
    assert found["status"].isin(["COMPLETED", "STOPPED"]).all()
    before = rows_of("run")
    again = fit(table, "run", {"searcher": searcher, "scheduler": scheduler, "num_trials": 3}, hyperparameters=hyperparameters)
    assert again.leaderboard().equals(found)
    if searcher != "grid":  # a grid of three points has no fourth trial
        assert len(fit(table, "run", {"searcher": searcher, "scheduler": scheduler, "num_trials": 4}).leaderboard()) == 4
        assert rows_of("run")[:3] == before
    assert no_ray == []


@pytest.mark.parametrize(
    "asked",
    [
        {"max_concurrent_trials": 1},
        {"resources_per_trial": {"cpu": 1}},
        {"scheduler": "HyperBand"},
        {"scheduler": "PBT", "searcher": "random"},
        {"num_trials": 10_000},
    ],
)
def test_what_only_ray_has_begins_there(table, here, no_ray, asked, monkeypatch):
    monkeypatch.setattr("automm_hpo.hpo.search.run_on_ray", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fit(table, "run", {"searcher": "bayes", "scheduler": "ASHA", "num_trials": 3} | asked, hyperparameters=ONE | SPACE | {"optim.max_epochs": 1000})
    assert no_ray


def test_a_trial_that_fails_is_a_row(table, here, no_ray, monkeypatch):
    """The other trials are not affected."""
    real = Training.__call__

    def call(self, folder, should_stop):
        if folder.number == 1:
            raise ValueError("no such thing")
        return real(self, folder, should_stop)

    monkeypatch.setattr(Training, "__call__", call)
    found = fit(table, "run", {"searcher": "bayes", "scheduler": "ASHA", "num_trials": 3}).leaderboard()
    assert found.set_index("trial")["status"][1] == "FAILED"
    assert found["reason"].iloc[-1] == "ValueError: no such thing"


def test_a_computed_value_that_is_not_allowed_is_a_row(table, here, no_ray):
    """As on Ray, the trial fails with the reason and the others go on."""
    trials = here / "run" / "search" / "trials"
    rate = space.sample_from(lambda config: 7.0 if (trials / "0001").exists() and not (trials / "0002").exists() else 0.1)
    hyperparameters = ONE | SPACE | {"model.real_mlp.dropout": rate}
    found = fit(table, "run", {"searcher": "random", "scheduler": "FIFO", "num_trials": 4}, hyperparameters=hyperparameters).leaderboard()
    assert sorted(found["status"]) == ["COMPLETED"] * 3 + ["FAILED"]
    assert "dropout" in found["reason"].iloc[-1]


class Hesitant(Searcher):
    """Never has anything to propose."""

    def suggest(self, trial_id):
        return None

    def on_trial_complete(self, trial_id, result=None, error=False):
        pass


def test_a_searcher_that_has_nothing_yet_is_asked_again_on_ray(table, here, no_ray):
    with pytest.raises(AllTrialsFailed):  # the fake Ray runs no trials
        fit(table, "run", {"searcher": Hesitant(), "scheduler": "FIFO", "num_trials": 2})
    assert no_ray[-1] == "trials"


def test_a_search_that_was_cut_short_goes_on_where_it_began(table, here, no_ray):
    """A time limit that is too short for Ray is so in the second call, too."""
    kwargs, hyperparameters = {"searcher": "random", "scheduler": "FIFO", "num_trials": 300}, ONE | SPACE
    first = fit(table, "run", kwargs, time_limit=3, hyperparameters=hyperparameters).leaderboard()
    began = time.time()
    second = fit(table, "run", kwargs, time_limit=4, hyperparameters=hyperparameters).leaderboard()
    assert time.time() - began < 6
    assert len(second) > len(first)
    assert no_ray == []


def test_another_threads_ray_is_not_waited_for(table, here, no_ray, monkeypatch):
    """That Ray is gone when the other thread's search ends, and a short search needs none."""
    monkeypatch.setattr(venue, "least_start_seconds", cluster.least_start_seconds)
    monkeypatch.setattr(cluster, "_owner", -1)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster.least_start_seconds() == cluster.LEAST_START_SECONDS
    assert cluster.known_resources() == cluster.local_resources(-1)


def test_an_interrupt_while_ray_starts_begins_nothing_there(table, here, no_ray, monkeypatch):
    def leave(self):
        if self._took:
            raise SoonerOnRay

    monkeypatch.setattr(Forecast, "check", leave)
    monkeypatch.setattr("automm_hpo.hpo.search.Cluster.start", lambda self: os.kill(os.getpid(), signal.SIGINT) or {"CPU": 1.0})
    with pytest.raises(KeyboardInterrupt):
        fit(table, "run", {"searcher": "random", "scheduler": "FIFO", "num_trials": 3})
    assert no_ray == []
    assert math.isfinite(MultiModalPredictor.load("run").fit_summary()["val_roc_auc"])


def test_a_goal_ends_it(table, here, no_ray):
    found = fit(table, "run", {"searcher": "random", "scheduler": "FIFO", "num_trials": 5, "goal": 0.1})
    assert len(found.leaderboard()) == 1
    assert found.leaderboard()["reason"].iloc[0] == "goal reached"


@pytest.mark.parametrize("seconds", [0.2, 2.5])
def test_a_time_limit_too_short_for_ray_is_enough_for_a_predictor(table, here, no_ray, seconds, capsys):
    started = time.time()
    predictor = fit(table, "run", {"num_trials": 1000}, time_limit=seconds, verbosity=1, hyperparameters=ONE | SPACE | {"optim.max_epochs": 20})
    assert time.time() - started < seconds + 5
    assert math.isfinite(predictor.fit_summary()["val_roc_auc"])
    assert "ended early (time limit)" in capsys.readouterr().out
    assert no_ray == []


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("scheduler", [pytest.param("FIFO", marks=pytest.mark.slow), "ASHA"])
def test_what_is_left_to_ray_goes_on_there(table, here, monkeypatch, scheduler):
    """Left after the second trial's first epoch: results equal those of a whole search, and the searcher hears of each end once."""
    kwargs = {"searcher": "bayes", "scheduler": scheduler, "num_trials": 4, "searcher_init_args": {"n_startup_trials": 2}}
    whole = fit(table, "whole", kwargs | {"max_concurrent_trials": 1})

    told, look = [], in_process.Forecast.look

    def left(self, epoch):
        look(self, epoch)
        if self._num_to_come == 2 and epoch > 1.0:
            raise SoonerOnRay

    tell = RecordingSearcher._tell_end
    monkeypatch.setattr(RecordingSearcher, "_tell_end", lambda self, number, result: told.append((number, number in self.told)) or tell(self, number, result))
    monkeypatch.setattr(in_process.Forecast, "look", left)
    monkeypatch.setattr(venue, "least_start_seconds", lambda: 2.0)
    both = fit(table, "both", kwargs)
    assert rows_of("both") == rows_of("whole")
    assert [number for number, known in told if not known] == [0, 1, 2, 3]
    assert both.leaderboard()["score"].tolist() == whole.leaderboard()["score"].tolist()


INTERRUPTED = """
    import pandas as pd
    from automm_hpo import MultiModalPredictor, space
    from automm_hpo.hpo import in_process

    def left_after_one(self):
        if {on_ray} and self._took:
            raise in_process.SoonerOnRay

    if __name__ == "__main__":
        in_process.Forecast.check = left_after_one
        hyperparameters = {{"env.batch_size": 8, "optim.max_epochs": {epochs}, "optim.patience": 1000, "optim.lr": space.loguniform(1e-3, 1e-1)}}
        MultiModalPredictor("y", verbosity=1).fit(
            pd.read_csv("train.csv"), hyperparameters=hyperparameters, hyperparameter_tune_kwargs={{"num_trials": 3}}, save_path="run", tracking=None
        )
"""


@pytest.mark.parametrize(
    ("number", "on_ray"),
    [pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow), pytest.param(signal.SIGTERM, True, marks=pytest.mark.slow), (signal.SIGKILL, False)],
)
def test_a_search_that_is_ended_goes_on(table, here, number, on_ray):
    """SIGKILL on Ray is left out: there the trial itself may have killed its process."""
    table.to_csv("train.csv", index=False)
    code, log = textwrap.dedent(INTERRUPTED.format(epochs=60 if on_ray else 12, on_ray=on_ray)), here / "run" / "search" / "trials" / "0001" / "metrics.jsonl"
    with subprocess.Popen([sys.executable, "-c", code], text=True, stdout=-1, stderr=-1) as process:
        until = time.time() + 150
        while not log.exists() or len(log.read_text().splitlines()) < 2:
            assert process.poll() is None, process.communicate()
            assert time.time() < until
            time.sleep(0.01)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    before = rows_of("run")
    assert ("resumes it" in printed) == (number == signal.SIGTERM)
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    after = rows_of("run")
    assert len(after) == 3
    assert after[0] == before[0]
    epochs = [[row["epoch"] for row in rows] for _, _, rows in after]
    assert all(len(set(each)) == len(each) for each in epochs)
