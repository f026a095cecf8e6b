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
# # Quickstart: tune an image model in one call
#
# A table with a column of image paths and a label column goes in; the best of several tuned models comes out. Everything here runs
# on two CPU cores in about two minutes, without network.

# %%
import tempfile
from pathlib import Path

from ray import tune

from automm_hpo import MultiModalPredictor
from automm_hpo.datasets import fashion_mnist

# %% [markdown]
# ## The data
#
# 2,000 photographs of clothes to learn from and 2,000 to test on, as PNG files, with their names in a table.

# %%
folder = Path(tempfile.mkdtemp())
train, test = fashion_mnist(folder / "fashion")
train.head(3)

# %% [markdown]
# ## One call
#
# Hyperparameters are dotted keys. A plain value is fixed; a `tune.*` space is searched. Here a Bayesian searcher proposes the learning
# rate, the model and the augmentation, from the fifth trial on by the scores so far, and ASHA ends weak trials early.

# %%
predictor = MultiModalPredictor(label="label")
predictor.fit(
    train_data=train,
    hyperparameters={
        "optim.lr": tune.loguniform(1e-3, 1e-2),
        "model.timm_image.checkpoint_name": tune.choice(["test_resnet", "mobilenetv3_small_050"]),
        "model.timm_image.train_transforms": tune.choice([[], ["random_horizontal_flip"]]),
        "model.timm_image.pretrained": False,
        "model.timm_image.image_size": 64,
        "optim.max_epochs": 10,
        "env.batch_size": 32,
    },
    hyperparameter_tune_kwargs={"searcher": "bayes", "scheduler": "ASHA", "num_trials": 8, "num_to_keep": 2},
    time_limit=110,
    seed=0,
    save_path=folder / "predictor",
)

# %% [markdown]
# ## What came back
#
# Every trial has its row, also those that were stopped.

# %%
predictor.leaderboard()

# %%
predictor.fit_summary()

# %% [markdown]
# The predictor is the best epoch of the best trial, or the average of its best epochs where that is better. It predicts labels in their own dtype, and
# probabilities.

# %%
predictor.predict(test.head())

# %%
predictor.predict_proba(test.head(3)).round(3)

# %% [markdown]
# The folder holds everything, without pickle; it can be moved, and loads in another process.

# %%
loaded = MultiModalPredictor.load(folder / "predictor")
assert (loaded.predict(test.head(100)) == predictor.predict(test.head(100))).all()
scores = loaded.evaluate(test, metrics=["accuracy", "f1_macro", "log_loss"])
scores

# %% [markdown]
# The trials are in MLflow too: `mlflow ui` in this folder shows their curves.

# %%
print(f"test accuracy: {scores['accuracy']:.3f}")
