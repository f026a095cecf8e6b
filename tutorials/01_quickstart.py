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
# You give `fit` a table with a column of image paths and a label column, and get back the best of several tuned models. This notebook runs on two
# CPU cores in about two minutes, without a network.

# %%
import tempfile
from pathlib import Path

from ray import tune

from automm_hpo import MultiModalPredictor
from automm_hpo.datasets import fashion_mnist

# %% [markdown]
# ## The data
#
# 2,000 photographs of clothes for training and 2,000 for testing: PNG files, and tables that list their paths and labels.

# %%
folder = Path(tempfile.mkdtemp())
train, test = fashion_mnist(folder / "fashion")
train.head(3)

# %% [markdown]
# ## One call
#
# Hyperparameters are dotted keys. Plain values are fixed, `tune.*` spaces are searched. Here a Bayesian searcher proposes the learning rate, the
# model and the augmentation, and from the fifth trial on it learns from the scores so far. ASHA stops weak trials early.

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
# The leaderboard has a row for every trial, including those that were stopped.

# %%
predictor.leaderboard()

# %%
predictor.fit_summary()

# %% [markdown]
# The predictor is the best epoch of the best trial, or an average of its best epochs if that does better on the validation rows. It predicts
# labels in their own dtype, and probabilities.

# %%
predictor.predict(test.head())

# %%
predictor.predict_proba(test.head(3)).round(3)

# %% [markdown]
# The folder holds everything, without pickle. You can move it and load it in another process.

# %%
loaded = MultiModalPredictor.load(folder / "predictor")
assert (loaded.predict(test.head(100)) == predictor.predict(test.head(100))).all()
scores = loaded.evaluate(test, metrics=["accuracy", "f1_macro", "log_loss"])
scores

# %% [markdown]
# The trials are in MLflow, too: run `mlflow ui` in the current folder to see their curves.

# %%
print(f"test accuracy: {scores['accuracy']:.3f}")
