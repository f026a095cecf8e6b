"""What a user sees in a fresh process with its own Ray: nothing from Ray, few lines from us, none when quiet."""

import subprocess
import sys

import pytest

SEARCH = """
import os, random, signal, sys
import numpy as np, torch
from ray import tune
from automm_hpo import MultiModalPredictor

def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    rng = [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]
    return dict(os.environ), os.getcwd(), handlers, torch.get_num_threads(), rng

before = state()
predictor = MultiModalPredictor(label="label", verbosity=int(sys.argv[2])).fit(
    sys.argv[1],
    hyperparameters={fast!r} | {{"optim.lr": tune.loguniform(1e-4, 1e-2), "optim.max_epochs": 1}},
    hyperparameter_tune_kwargs={{"searcher": "bayes", "scheduler": "ASHA", "num_trials": 3}},
    save_path="run", time_limit=400,
)
import ray
assert not ray.is_initialized()
names = ("environment", "cwd", "signal handlers", "torch threads", "random states")
changed = [name for name, was, now in zip(names, before, state()) if was != now]
assert not changed, (changed, dict(os.environ).items() ^ before[0].items())
"""


@pytest.mark.parametrize("verbosity", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_search_says_little_and_leaves_the_process_as_it_was(small, here, fast, verbosity):
    small[0].head(100).to_csv("train.csv", index=False)
    done = subprocess.run([sys.executable, "-c", SEARCH.format(fast=fast), "train.csv", str(verbosity)], capture_output=True, text=True, check=False, cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    if verbosity == 0:
        assert lines == []
    else:
        assert len(lines) < 40
        assert sum("starts" in line for line in lines) == 3
        assert sum("ends" in line for line in lines) == 3
        assert "s left" in done.stdout
        assert lines[-1].startswith("best: trial")
    assert sorted(path.name for path in here.iterdir()) == ["mlflow.db", "mlruns", "run", "train.csv"]


OBJECTIVE = """
import os, sys, ray
from ray import tune
from automm_hpo import tune_objective

def objective(config):
    print("hello from", config["x"])
    assert "PL_DISABLE_FORK" in os.environ and os.environ["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
    return {"loss": config["x"], "env": len(ray.get_runtime_context().runtime_env)}

before = dict(os.environ)
found = tune_objective(objective, {"x": tune.choice([1, 2])}, {"num_trials": 2}, metric="loss", mode="min", save_path="run", tracking=None)
print("env", [record.results[-1].extra["env"] for record in found.trials], "mlflow" in sys.modules, os.environ == before)
"""


def test_what_an_objective_prints_is_shown_and_its_search_starts_nothing_twice_and_loads_no_mlflow(here):
    """Tune's actors use the idle workers that Ray holds ready, with this process's environment; Tune's telemetry would import mlflow."""
    done = subprocess.run([sys.executable, "-c", OBJECTIVE], capture_output=True, text=True, check=False, cwd=here)
    assert done.returncode == 0, done.stderr
    said = (done.stdout + done.stderr).splitlines()
    assert sum("hello from" in line for line in said) == 2  # Ray would deduplicate two similar lines
    assert not any("Checkpoint" in line for line in said)
    assert done.stdout.splitlines()[-1] == "env [0.0, 0.0] False True"
