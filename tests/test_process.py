"""The caller's process, and where a warning points."""

import contextlib
import gc
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest

from automm_hpo.hpo.cluster import ray_cluster
from automm_hpo.hpo.search import RAY_FILES, remove_orphans
from automm_hpo.process import process_unchanged
from automm_hpo.tracking import MlflowTracker


@pytest.mark.parametrize("around", [lambda call: call, contextlib.contextmanager(lambda: iter([None]))()], ids=["called", "called through a decorator"])
def test_a_warning_points_at_the_users_line(around, here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    tracker = MlflowTracker(here, "run", {}, {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        around(tracker.close)("FINISHED")
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


def test_what_killed_searches_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {f"{RAY_FILES}{dead.pid}_x": False, f"{RAY_FILES}{os.getpid()}_x": True, f"{RAY_FILES}x": True}
    for name in names:
        (tmp_path / name).mkdir()
    remove_orphans()
    assert {name: (tmp_path / name).exists() for name in names} == names


class PretendRay:
    """What ``ray_cluster`` asks of Ray."""

    def __init__(self):
        self.runs, self.seen = False, []

    def is_initialized(self):
        return self.runs

    def init(self, **options):
        assert not self.runs, "a process has one Ray at a time"
        self.runs = True

    def shutdown(self):
        self.seen.append(gc.isenabled())
        self.runs = False

    def cluster_resources(self):
        return {"CPU": 2.0}


@pytest.fixture
def pretended(monkeypatch):
    import ray

    pretended = PretendRay()
    for name in ("is_initialized", "init", "shutdown", "cluster_resources"):
        monkeypatch.setattr(ray, name, getattr(pretended, name))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return pretended


def test_nothing_is_collected_while_ray_ends(pretended):
    """A handle of Ray's that is collected then, by any thread, ends the process."""
    with process_unchanged(), ray_cluster():
        assert gc.isenabled()
    assert pretended.seen == [False]
    assert gc.isenabled()


def test_threads_have_a_ray_of_their_own_one_after_the_other(pretended):
    said, order, holds, may_end = [], [], threading.Event(), threading.Event()

    def search(name):
        with process_unchanged(), ray_cluster(report=said.append):
            order.append(name)
            holds.set()
            may_end.wait(10)

    threads = [threading.Thread(target=search, args=(name,)) for name in "ab"]
    threads[0].start()
    assert holds.wait(10)
    threads[1].start()
    while not said:
        time.sleep(0.01)
    assert order == ["a"]
    may_end.set()
    for thread in threads:
        thread.join(10)
    assert order == ["a", "b"]
    assert len(said) == 1
    assert not pretended.runs


def test_a_search_within_a_ray_of_its_own_thread_uses_that_one(pretended):
    """Not one more, nor does it wait for itself."""
    said = []
    with process_unchanged(), ray_cluster(report=said.append):
        with ray_cluster(report=said.append):
            assert pretended.runs
        assert pretended.runs
    assert not pretended.runs
    assert not said


def test_the_last_thread_to_leave_puts_the_process_back(monkeypatch):
    monkeypatch.delenv("WORDS", raising=False)
    first, second = process_unchanged(), process_unchanged()
    first.__enter__()
    os.environ["WORDS"] = "of the first"
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.environ["WORDS"] == "of the first"
    second.__exit__(None, None, None)
    assert "WORDS" not in os.environ


MANY = """
from ray import tune
from sklearn.datasets import load_wine
from automm_hpo import MultiModalPredictor

table, space = load_wine(as_frame=True).frame, {"optim.lr": tune.loguniform(1e-4, 1e-2), "optim.max_epochs": 4}
for number in range(4):
    kwargs = {"searcher": "random", "scheduler": "FIFO", "num_trials": 3}
    MultiModalPredictor("target", verbosity=0).fit(table, hyperparameters=space, hyperparameter_tune_kwargs=kwargs, save_path=f"run{number}")
    print("done", number, flush=True)
"""


@pytest.mark.slow
def test_a_process_searches_many_times(here):
    """With MLflow, whose thread is at work while Ray ends."""
    ended = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, timeout=240, cwd=here)
    assert ended.stdout.split("\n")[-2] == "done 3", ended.stderr[-2_000:]
    assert ended.returncode == 0
