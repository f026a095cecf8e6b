# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Limits, failures, resuming
#
# A search runs for hours, on machines that are shared, fail and get switched off. So it has to end when you say, lose nothing if a trial or the
# whole process dies, and continue where it was.

# %%
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import ray
from ray import tune

from automm_hpo import MultiModalPredictor, tune_objective
from automm_hpo.datasets import fashion_mnist

folder = Path(tempfile.mkdtemp())
# one Ray for all searches below; without this line each search starts and stops its own
_ = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")

# %% [markdown]
# ## Limits
#
# - `time_limit`: seconds for the whole call, including saving. The best model so far is returned.
# - `trial_time_limit`: seconds for one trial, which then ends with its best epoch so far.
# - `goal`: a value of the metric that is good enough.
# - `num_trials`, `max_concurrent_trials`, `resources_per_trial`: how many trials, how many at a time, and the CPUs and GPUs of each.
#
# Here the slow trials hit their own limit, and the first trial to reach 0.88 ends the search.


# %%
def train_slowly(config):
    import math
    import time

    for epoch in range(1, 31):
        time.sleep(config["pace"])
        yield {"accuracy": config["start"] + 0.3 * (1 - math.exp(-epoch / 8))}


limited = tune_objective(
    train_slowly,
    {"start": tune.uniform(0.3, 0.65), "pace": tune.choice([0.01, 0.02, 0.5])},
    {"searcher": "random", "scheduler": "FIFO", "num_trials": 14, "trial_time_limit": 2, "goal": 0.88},
    metric="accuracy",
    mode="max",
    time_limit=90,
    save_path=folder / "limited",
    tracking=None,
    verbosity=0,
)
limited.leaderboard().drop(columns=["best_epoch", "size_mb"], errors="ignore")

# %% [markdown]
# ## Failures
#
# A trial that raises gets a row with the reason, and the search continues. A trial whose metric becomes nan or infinite has the status DIVERGED.


# %%
def fragile(config):
    if config["depth"] > 5:
        raise MemoryError(f"a model of depth {config['depth']} does not fit")
    return float("nan") if config["depth"] == 1 else 1 / config["depth"]


settings = {"searcher": "grid", "scheduler": "FIFO"}
failing = tune_objective(fragile, {"depth": tune.choice([1, 2, 4, 8])}, settings, mode="max", save_path=folder / "failing", tracking=None, verbosity=0)
failing

# %%
failing.failures()[["trial", "status", "reason"]]  # the fourth column is the traceback

# %% [markdown]
# If trials should never fail, set `max_failed_trials`: it ends the search instead of spending the budget on the same mistake again and again. If
# no trial has a score, the call raises an error that counts the causes. After you have fixed the cause, the same call with `"retry_failed": True`
# continues the failed trials.

# %%
from automm_hpo.errors import AllTrialsFailed

try:
    tune_objective(
        fragile,
        {"depth": tune.randint(6, 100)},
        {"searcher": "random", "scheduler": "FIFO", "num_trials": 50, "max_failed_trials": 2},
        mode="max",
        save_path=folder / "hopeless",
        tracking=None,
        verbosity=0,
    )
except AllTrialsFailed as error:
    print(str(error).splitlines()[0])  # the first traceback follows

# %% [markdown]
# Mistakes in the call itself are found before anything starts, and reported all at once.

# %%
from automm_hpo.errors import InvalidInput

try:
    MultiModalPredictor(label="label").fit(
        train_data={"image": ["a.png"], "label": [0]},
        hyperparameters={"optim.learning_rat": tune.loguniform(1e-4, 1e-2), "optim.max_epochs": "ten"},
        hyperparameter_tune_kwargs={"searcher": "bays", "num_trails": 8},
    )
except InvalidInput as error:
    print(error)

# %% [markdown]
# ## Killed, and resumed by the same call
#
# This search runs in a process of its own, from a script like one of yours. At the end it prints its result.

# %%
script = folder / "search.py"
script.write_text('''
import sys, time
from ray import tune
from automm_hpo import tune_objective

def train(config):
    for epoch in range(1, 7):
        time.sleep(0.3)
        yield {"accuracy": config["quality"] * epoch / 6}

search = tune_objective(
    train, {"quality": tune.uniform(0, 1)}, {"searcher": "random", "scheduler": "FIFO", "num_trials": 6},
    metric="accuracy", mode="max", save_path=sys.argv[1], tracking=None, verbosity=2,
)
print(search)
''')


def curves_so_far():
    return {path.parent.name: len(path.read_text().splitlines()) for path in sorted((folder / "killed").rglob("metrics.jsonl"))}


process = subprocess.Popen([sys.executable, script, folder / "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while sum(curves_so_far().values()) < 15:  # two trials have ended, others are running
    time.sleep(0.1)
process.kill()  # SIGKILL, so it cannot save anything
process.wait()
curves_so_far()

# %% [markdown]
# Run the same command again. It finds its search in the folder: trials that had ended are kept, the others start over, and the remaining ones
# follow. (A `Trainable` class, and every trial of `MultiModalPredictor`, continues from its last saved state instead of starting over.)

# %%
again = subprocess.run([sys.executable, script, folder / "killed"], capture_output=True, text=True, check=True)
print(again.stdout)

# %%
curves_so_far()

# %% [markdown]
# If you run it a third time, nothing is left to do. A different search in the same folder is refused, and the error lists the differences. More
# trials, longer limits or other resources do not make it a different search: it continues with them.

# %%
subprocess.run([sys.executable, script, folder / "killed"], capture_output=True, text=True, check=True).stdout.splitlines()

# %% [markdown]
# ## Ctrl-C, and `load(path, resume=True)`
#
# Ctrl-C (the stop button of a notebook) ends the running epochs where they are, validates them, keeps the best model so far, and then raises
# `KeyboardInterrupt`. A second Ctrl-C ends at once. Here a thread sends it when two trials have begun.

# %%
train, test = fashion_mnist(folder / "fashion")
predictor = MultiModalPredictor(label="label", path=folder / "predictor", verbosity=1)


def press():
    while not list((folder / "predictor" / "search" / "trials").glob("0001/metrics.jsonl")):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)


threading.Thread(target=press, daemon=True).start()
try:
    predictor.fit(
        train_data=train.head(500),
        hyperparameters={
            "optim.lr": tune.loguniform(1e-3, 1e-1),
            "optim.max_epochs": 6,
            "model.timm_image.checkpoint_name": "test_resnet",
            "model.timm_image.pretrained": False,
            "model.timm_image.image_size": 32,
            "env.batch_size": 32,
        },
        hyperparameter_tune_kwargs={"searcher": "random", "scheduler": "ASHA", "num_trials": 4},
        tracking=None,
    )
except KeyboardInterrupt:
    print("interrupted; the predictor is the best so far:", predictor)

# %%
predictor.leaderboard()[["trial", "status", "reason", "score", "epochs"]]

# %% [markdown]
# Days later you can resume the stored call, in another process, even if the folder was moved. You only pass the data again, which must be the
# same.

# %%
resumed = MultiModalPredictor.load(folder / "predictor", resume=True, verbosity=1).fit(train.head(500), tracking=None)
resumed.leaderboard()[["trial", "status", "reason", "score", "epochs"]]

# %% [markdown]
# ## More rows, next month
#
# `start_from` continues training from a predictor's weights, on new rows, in one trial or in a search. Epoch 0 is the old predictor's score on the
# new validation rows, so the result is never worse there. Its columns, classes and model stay the same.

# %%
monthly = MultiModalPredictor(path=folder / "monthly", verbosity=1)
monthly.fit(train.iloc[500:1_000], start_from=folder / "predictor", hyperparameters={"optim.max_epochs": 4, "optim.lr": 3e-3}, tracking=None)
monthly.search.curves()[["epoch", "metric", "train_loss", "valid_loss"]]

# %%
print(f"test accuracy: {resumed.evaluate(test)['accuracy']:.3f} before, {monthly.evaluate(test)['accuracy']:.3f} with the new rows")

# %% [markdown]
# ## Disk
#
# Weights take most of a search's disk space. A running trial keeps its best `num_to_keep` epochs and its newest two, and only the best
# `keep_trials` of the ended trials keep weights. Rows and curves of all trials stay. `disk_quota_mb` refuses a search that could need more space,
# before it starts.

# %%
resumed.search.costs()

# %%
ray.shutdown()
