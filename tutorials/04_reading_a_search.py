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
# A search tells you more than which trial is best: what mattered, what was wasted, what went wrong, and whether it is worth searching on. All
# records of all trials are kept. Only weights are deleted.

# %%
import tempfile
from pathlib import Path

import mlflow
from ray import tune

from automm_hpo import MultiModalPredictor
from automm_hpo.datasets import fashion_mnist

folder = Path(tempfile.mkdtemp())
mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")  # or your MLflow server; without this line, ./mlflow.db
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
# One row per trial, best first, including those that failed. `status` is COMPLETED, STOPPED (by the scheduler or a limit), DIVERGED (the loss or
# the predictions became nan or infinite) or FAILED (an exception was raised), and `reason` gives the details. The score is that of the trial's
# best epoch, not of its last.

# %%
predictor.leaderboard()

# %% [markdown]
# ## `predictor.search`
#
# This object answers those questions, also after `MultiModalPredictor.load`. In a notebook it displays itself as a table:

# %%
search = predictor.search
search

# %% [markdown]
# Every validation of every trial, for your own plots and questions:

# %%
search.curves().tail()

# %% [markdown]
# The trials that failed or diverged, with a traceback if there is one. If one end of a range always diverges, the range is too wide:

# %%
search.failures()

# %% [markdown]
# Where the time went. The row STOPPED is what was spent on trials that were ended early:

# %%
search.costs_by_status()

# %% [markdown]
# What mattered: the share of each hyperparameter in the differences between the trials' scores. With twelve trials this is a hint, not a
# measurement.

# %%
search.importance()

# %% [markdown]
# ## Plots
#
# **Curves.** Were the stopped trials (dashed) really hopeless? Is the best trial still improving at its end, so that more epochs would help?

# %%
search.plot_curves()

# %% [markdown]
# **Slice.** Each hyperparameter against the score. If the best trial lies at the edge of a range, widen the range. If all good trials lie in one
# part of it, narrow it.

# %%
search.plot_slice()

# %% [markdown]
# **Parallel coordinates.** What do the good (dark) lines have in common?

# %%
search.plot_parallel_coordinates()

# %% [markdown]
# **Importance**, as a plot:

# %%
search.plot_importance()

# %% [markdown]
# **Timeline.** Was the machine busy all the time? Which trials were expensive?

# %%
search.plot_timeline()

# %% [markdown]
# ## A single trial
#
# The best trials keep their weights: three (`keep_trials`), or twice as many as an ensemble may have. Each of them loads as a predictor of its own:

# %%
runner_up = predictor.leaderboard()["trial"].iloc[1]
predictor.load_trial(runner_up).evaluate(test, metrics=["accuracy"])

# %% [markdown]
# ## What the predictor is made of
#
# The predictor can be an average of weights (a soup) of the best trial's best epochs and of other trials, and an ensemble of several models
# (`ensemble_size`). A soup is used only if it scores better on the validation rows, or the same at a lower loss; an ensemble, if the metric is
# accuracy or an area under a curve, if its log loss is lower, which so few rows tell more reliably. `fit_summary` shows what was tried and what was
# used.

# %%
predictor.fit_summary()

# %% [markdown]
# ## In MLflow
#
# The same search for a team: one run for the fit, with the plots, and a nested run for each trial, with its parameters, curves and status.
# `mlflow ui` shows them in a browser. Here they are read back:

# %%
runs = mlflow.search_runs(search_all_experiments=True)
trials = runs[runs["tags.mlflow.parentRunId"].notna()].sort_values("metrics.best_score", ascending=False)
trials[["tags.mlflow.runName", "tags.automm_hpo.status", "metrics.best_score", "metrics.best_epoch", "params.optim.lr", "params.optim.optim_type"]].head()

# %%
[parent] = runs[runs["tags.mlflow.parentRunId"].isna()]["run_id"]
[artifact.path for artifact in mlflow.MlflowClient().list_artifacts(parent)]

# %%
print(f"test accuracy: {predictor.evaluate(test)['accuracy']:.3f}")
