"""Searches leave the caller's process as it was, and warnings point at the user's line."""

import contextlib
import gc
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from pathlib import Path

import pytest
import ray

from automm_hpo.errors import TimeLimitTooShort
from automm_hpo.hpo.cluster import _replaced_in, known_resources, local_resources, ray_cluster
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
    """The part of Ray that ``ray_cluster`` uses."""

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
    pretended = PretendRay()
    for name in ("is_initialized", "init", "shutdown", "cluster_resources"):
        monkeypatch.setattr(ray, name, getattr(pretended, name))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return pretended


def test_nothing_is_collected_while_ray_ends(pretended):
    """If any thread garbage-collects a Ray handle then, the process dies."""
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
    """It neither starts another Ray nor waits for its own."""
    said = []
    with process_unchanged(), ray_cluster(report=said.append):
        with ray_cluster(report=said.append):
            assert pretended.runs
        assert pretended.runs
    assert not pretended.runs
    assert not said


def test_the_last_thread_to_leave_puts_the_process_back(monkeypatch):
    monkeypatch.delenv("RAY_WORDS", raising=False)
    monkeypatch.setenv("TOKEN", "old")
    first, second = process_unchanged(), process_unchanged()
    first.__enter__()
    os.environ["RAY_WORDS"] = "of the first"
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.environ["RAY_WORDS"] == "of the first"
    os.environ["TOKEN"] = "another thread's"
    second.__exit__(None, None, None)
    assert "RAY_WORDS" not in os.environ
    assert os.environ["TOKEN"] == "another thread's"


def test_a_folder_that_is_removed_meanwhile_ends_nothing(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    with process_unchanged():
        gone.rmdir()
    with process_unchanged():
        os.environ["RAY_WORDS"] = "some"
    assert "RAY_WORDS" not in os.environ


def test_generators_are_not_rewound_while_other_threads_draw():
    drawn = []

    def fit():
        with process_unchanged():
            drawn.append(random.random())

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
    drawn.append(random.random())
    assert drawn[0] != drawn[1]
    with process_unchanged():
        drawn.append(random.random())
    assert random.random() == drawn[-1]


def test_a_setting_of_rays_that_threads_replace_is_put_back():
    """Whatever the order in which they leave."""
    owner = types.ModuleType("owner")
    owner.shown = True
    first, second = _replaced_in(owner, shown=False), _replaced_in(owner, shown=False)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not owner.shown
    second.__exit__(None, None, None)
    assert owner.shown


def test_starting_a_ray_leaves_the_users_handlers_and_levels(pretended, monkeypatch):
    """Ray's handler for SIGTERM would end the process, and a running search with it."""
    monkeypatch.setattr(ray, "init", lambda **options: signal.signal(signal.SIGTERM, lambda *_: sys.exit(15)) and pretended.init(**options))
    logging.getLogger("ray").setLevel(logging.INFO)
    before = signal.getsignal(signal.SIGTERM)
    with ray_cluster():
        assert signal.getsignal(signal.SIGTERM) is before
    assert logging.getLogger("ray").level == logging.INFO


def test_another_threads_ray_is_waited_for_as_long_as_there_is_time(pretended):
    holds, may_end = threading.Event(), threading.Event()

    def search():
        with ray_cluster():
            holds.set()
            may_end.wait(10)

    thread = threading.Thread(target=search)
    thread.start()
    assert holds.wait(10)
    assert known_resources() == local_resources(-1)
    with pytest.raises(TimeLimitTooShort, match="another thread"), ray_cluster(deadline=time.time() + 0.1):
        pass
    may_end.set()
    thread.join(10)


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
    """With MLflow, whose thread is running while Ray shuts down."""
    ended = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, timeout=240, cwd=here)
    assert ended.stdout.split("\n")[-2] == "done 3", ended.stderr[-2_000:]
    assert ended.returncode == 0
