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
# # Reading a search
#
# A search answers more than "which is best": what mattered, what was wasted, what went wrong, whether it is worth searching on. Nothing that a
# trial did is thrown away but weights.

# %%
import tempfile
from pathlib import Path

import mlflow
from ray import tune

from automm_hpo import MultiModalPredictor
from automm_hpo.datasets import fashion_mnist

folder = Path(tempfile.mkdtemp())
mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")  # or the server you have; without this line, ./mlflow.db
train, test = fashion_mnist(folder / "fashion")

predictor = MultiModalPredictor(label="label", verbosity=1)
predictor.fit(
    train_data=train.head(700),
    hyperparameters={
        "optim.lr": tune.loguniform(1e-4, 1e6),  # far too wide, on purpose
        "optim.optim_type": tune.choice(["adamw", "sgd"]),
        "model.timm_image.drop_rate": tune.uniform(0.0, 0.5),
        "model.timm_image.checkpoint_name": "test_resnet",
        "model.timm_image.pretrained": False,
        "model.timm_image.image_size": 32,
        "optim.max_epochs": 6,
        "env.batch_size": 32,
    },
    hyperparameter_tune_kwargs={"searcher": "bayes", "scheduler": "ASHA", "num_trials": 12},
    ensemble_size=3,
    seed=0,
    save_path=folder / "predictor",
)

# %% [markdown]
# ## The leaderboard
#
# One row a trial, best first, those that failed too. `status` is COMPLETED, STOPPED (by the scheduler or a limit), DIVERGED (the loss became nan)
# or FAILED (it raised); `reason` says why. The score is that of the trial's best epoch, not of its last.

# %%
predictor.leaderboard()

# %% [markdown]
# ## `predictor.search`
#
# The same after `MultiModalPredictor.load`. In a notebook the object shows itself:

# %%
search = predictor.search
search

# %% [markdown]
# Every validation of every trial, for pictures and questions of your own:

# %%
search.curves().tail()

# %% [markdown]
# What failed or diverged, with its traceback where there is one. A range whose one end always diverges is too wide:

# %%
search.failures()

# %% [markdown]
# Where the time went. The row STOPPED is what was spent on trials that were given up:

# %%
search.costs_by_status()

# %% [markdown]
# What mattered: the share of each hyperparameter in the differences between trials. Of twelve trials it is a hint, not a measurement.

# %%
search.importance()

# %% [markdown]
# ## Pictures
#
# **Curves.** Do the stopped trials (dashed) look lost? Does the best still rise at its end, so that it wants more epochs?

# %%
search.plot_curves()

# %% [markdown]
# **Slice.** Each hyperparameter against the score. If the best sits at the edge of a range, widen it; if it sits in a corner of it, narrow it.

# %%
search.plot_slice()

# %% [markdown]
# **Parallel coordinates.** What the good (dark) lines have in common.

# %%
search.plot_parallel_coordinates()

# %% [markdown]
# **Importance**, as a picture:

# %%
search.plot_importance()

# %% [markdown]
# **Timeline.** Were all places busy? Which trials were dear?

# %%
search.plot_timeline()

# %% [markdown]
# ## A single trial
#
# The best three trials keep their weights (`keep_trials`). Each is a predictor of its own:

# %%
runner_up = predictor.leaderboard()["trial"].iloc[1]
predictor.load_trial(runner_up).evaluate(test, metrics=["accuracy"])

# %% [markdown]
# ## What the predictor is made of
#
# The best epochs of a trial can be averaged (a soup), several trials' weights too, and several models can vote (`ensemble_size`). Each is kept
# only where it scores better on the validation rows, or the same at a lower loss; `fit_summary` tells what was tried and what was taken.

# %%
predictor.fit_summary()

# %% [markdown]
# ## In MLflow
#
# The same search for a team: one run for the fit with the pictures, one under it for each trial, with parameters, curves and status. `mlflow ui`
# shows them in a browser; here they are read back.

# %%
runs = mlflow.search_runs(search_all_experiments=True)
trials = runs[runs["tags.mlflow.parentRunId"].notna()].sort_values("metrics.best_score", ascending=False)
trials[["tags.mlflow.runName", "tags.automm_hpo.status", "metrics.best_score", "metrics.best_epoch", "params.optim.lr", "params.optim.optim_type"]].head()

# %%
[parent] = runs[runs["tags.mlflow.parentRunId"].isna()]["run_id"]
[artifact.path for artifact in mlflow.MlflowClient().list_artifacts(parent)]

# %%
print(f"test accuracy: {predictor.evaluate(test)['accuracy']:.3f}")
