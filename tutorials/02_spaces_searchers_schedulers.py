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
# # Spaces, searchers, schedulers
#
# A search has three parts. The *space* says what may be tried, the *searcher* proposes what is tried next, and the *scheduler* ends what is
# not worth going on with. Each is chosen on its own.

# %%
import json
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import ray
from ray import tune

from automm_hpo import MultiModalPredictor, space, tune_objective
from automm_hpo.datasets import fashion_mnist

# %matplotlib inline

folder = Path(tempfile.mkdtemp())
# one Ray for all searches below; without this line each starts its own, for its time
_ = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")

# %% [markdown]
# ## Spaces
#
# A hyperparameter is a plain value, which stays, or a space, which is searched. The words are Ray Tune's; `automm_hpo.space` has the same
# ones, and AutoGluon's and Optuna's objects are understood too. They may be mixed.
#
# `plan` takes the arguments of `fit` and only tells what it would try, so that a space can be seen before it costs anything. A random searcher
# does not look at results: all its trials are known.

# %%
train_data, _ = fashion_mnist(folder / "fashion")
fixed = {"model.timm_image.checkpoint_name": "test_resnet", "model.timm_image.pretrained": False, "model.timm_image.image_size": 32, "optim.max_epochs": 4}


def proposals(searched):
    """Six random configurations of a space."""
    settings = {"searcher": "random", "num_trials": 6, "default_first": False}
    plan = MultiModalPredictor(label="label").plan(train_data.head(200), hyperparameters=fixed | searched, hyperparameter_tune_kwargs=settings)
    return plan.trials.drop(columns=["epochs", "seconds"])


proposals(
    {
        "optim.lr": tune.loguniform(1e-4, 1e-1),  # evenly by orders of magnitude: right for rates
        "optim.label_smoothing": space.quniform(0.0, 0.3, 0.1),  # in steps
        "optim.patience": space.randint(1, 5),  # 1 to 4: as in Ray, the upper end is out
        "optim.optim_type": space.choice(["adamw", "sgd"]),
        "env.batch_size": 64,  # fixed: no column
    }
)

# %% [markdown]
# **Conditional spaces.** Momentum means nothing to AdamW, and the two want different rates. A choice of dicts says so: each branch brings
# its own spaces, and no trial is spent on values that do nothing.

# %%
proposals(
    {
        "optim": space.choice(
            [
                {"optim_type": "sgd", "lr": space.loguniform(1e-3, 1e-1), "momentum": space.uniform(0.8, 0.99)},
                {"optim_type": "adamw", "lr": space.loguniform(1e-5, 1e-3)},
            ]
        )
    }
)

# %% [markdown]
# **Computed values** follow from the others: here a learning rate that grows with the batch.

# %%
proposals({"env.batch_size": space.choice([16, 32, 64]), "optim.lr": space.sample_from(lambda config: config["env.batch_size"] / 1e5)})

# %% [markdown]
# **HyperDrive's words** are in a module of their own, because some mean something else there: its `loguniform` takes exponents, its
# `randint` one bound.

# %%
from automm_hpo.space import hyperdrive

proposals(
    {
        "optim.lr": hyperdrive.loguniform(-9, -2),  # exp(-9) to exp(-2)
        "model.timm_image.drop_rate": hyperdrive.uniform(0.05, 0.1),
        "optim.patience": hyperdrive.choice(range(1, 5)),
    }
)

# %% [markdown]
# ## Searchers
#
# To see what searchers and schedulers do, the models from here on are formulas that take milliseconds, tuned with `tune_objective`. The words
# are those of `fit`.
#
# The same two hyperparameters, the same sixteen trials; only the searcher differs. The shade is the score, which the searcher does not know
# beforehand: darker is better.


# %%
def quality(log_lr, width):
    return math.exp(-((log_lr + 2.3) ** 2) / 0.8 - (width - 0.65) ** 2 / 0.08)


def accuracy(config):
    return quality(math.log10(config["lr"]), config["width"])


def sample(searcher, lr, width):
    settings = {"searcher": searcher, "scheduler": "FIFO", "num_trials": 16, "deterministic": True}
    searched = {"lr": lr, "width": width}
    return tune_objective(accuracy, searched, settings, metric="accuracy", mode="max", save_path=folder / searcher, tracking=None, verbosity=0)


ranges = tune.loguniform(1e-4, 1e-1), tune.uniform(0.0, 1.0)
searches = {searcher: sample(searcher, *ranges) for searcher in ("random", "qmc", "bayes")}
searches["grid"] = sample("grid", tune.choice([1e-4, 1e-3, 1e-2, 1e-1]), tune.choice([0.0, 0.33, 0.67, 1.0]))

# %%
rates, widths = np.linspace(-4, -1, 80), np.linspace(0, 1, 80)
shade = np.array([[quality(rate, width) for rate in rates] for width in widths])
figure, grid = plt.subplots(1, 4, figsize=(12, 3.4), sharey=True, layout="constrained")
for axes, (name, search) in zip(grid, searches.items(), strict=True):
    axes.contourf(rates, widths, shade, levels=12, cmap="Blues", alpha=0.8)
    tried = pd.DataFrame([trial.tuned for trial in search.trials])
    axes.plot(np.log10(tried["lr"]), tried["width"], "o", color="#C44E00", markeredgecolor="white", markersize=7)
    for number, (lr, width) in enumerate(zip(tried["lr"], tried["width"], strict=True)):
        axes.annotate(str(number), (math.log10(lr), width), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set(title=f"{name}: best {search.best.metric:.2f}", xlabel="log10 lr", xlim=(-4.2, -0.7), ylim=(-0.06, 1.1))
grid[0].set_ylabel("width")
plt.show()

# %% [markdown]
# - **random** leaves holes and heaps. It needs no results, so any number of trials can run at once.
# - **qmc** (quasi-random) is as independent, and even.
# - **grid** tries every combination: sixteen trials, but only four different rates. For small spaces that must be covered.
# - **bayes** (Optuna's TPE), the default, begins with four random trials and then looks where the good ones were. It is worth it when
#   trials are dear and there are more than a few of them. `gp` models more closely, for a few numeric ranges.
#
# Eleven more go by name: `cmaes`, `evolution`, `hyperopt`, `nevergrad`, `bohb`, `bayesopt`, `zoopt`, `ax`, `blendsearch`, `cfo`, and `gp`.
# An Optuna sampler or a Ray `Searcher` object is taken as well. What you know goes into `points_to_evaluate`: it is tried first.

# %% [markdown]
# ## Schedulers
#
# Most trials show early that they will not win. The objective now yields its accuracy once an epoch, so that it can be stopped. Some trials
# begin fast and end low, some begin slowly and end high: that is what makes stopping hard.
#
# The random searcher with one seed proposes the same twelve configurations to each scheduler. Dashed curves were stopped.

# %%
MAX_EPOCHS = 16


def train(config):
    log_lr = math.log10(config["lr"])
    final, speed = 0.5 + 0.45 * quality(log_lr, config["width"]), 0.12 + 0.1 * (log_lr + 4)
    for epoch in range(1, MAX_EPOCHS + 1):
        yield {"accuracy": 0.1 + (final - 0.1) * (1 - math.exp(-speed * epoch))}


def schedule(scheduler, **scheduler_init_args):
    settings = {"searcher": "random", "num_trials": 12, "scheduler": scheduler, "scheduler_init_args": scheduler_init_args}
    call = {"metric": "accuracy", "mode": "max", "max_epochs": MAX_EPOCHS, "tracking": None, "verbosity": 0}
    return tune_objective(train, dict(zip(("lr", "width"), ranges, strict=True)), settings, save_path=folder / scheduler, **call)


stopped = {"FIFO": schedule("FIFO")}
stopped["FIFO"].plot_curves()

# %% [markdown]
# **FIFO** stops nobody: the price of knowing everything.
#
# **ASHA** has rungs, here after 4 and 12 epochs. Who is among the best third of those that have come so far goes on. It waits for nobody,
# so that the first to arrive pass easily.

# %%
stopped["ASHA"] = schedule("ASHA", grace_period=4, reduction_factor=3)
stopped["ASHA"].plot_curves()

# %% [markdown]
# **HyperBand** holds trials at a rung until all have come, then compares them with each other. Fairer, and slower where trials wait. Some
# brackets judge early, some late.

# %%
stopped["HyperBand"] = schedule("HyperBand", grace_period=2)
stopped["HyperBand"].plot_curves()

# %% [markdown]
# The other three are HyperDrive's policies, with its words. **median** stops a trial whose best is below the median of the others' running
# averages: conservative.

# %%
stopped["median"] = schedule("median", evaluation_interval=1, delay_evaluation=5)
stopped["median"].plot_curves()

# %% [markdown]
# **bandit** stops who is too far behind the best at the same epoch. `slack_factor=0.15` lets those go on that have at least 1 / 1.15 of it.

# %%
stopped["bandit"] = schedule("bandit", slack_factor=0.15, evaluation_interval=1, delay_evaluation=5)
stopped["bandit"].plot_curves()

# %% [markdown]
# **truncation** stops the lowest few of a hundred at each look.

# %%
stopped["truncation"] = schedule("truncation", truncation_percentage=30, evaluation_interval=3, delay_evaluation=5)
stopped["truncation"].plot_curves()

# %% [markdown]
# What each spent, and what it found:

# %%
pd.DataFrame(
    [(name, search.costs()["epochs"].sum(), (search.costs()["status"] == "STOPPED").sum(), search.best.metric) for name, search in stopped.items()],
    columns=["scheduler", "epochs spent", "trials stopped", "best"],
)

# %% [markdown]
# ## Population-based training
#
# The best learning rate is not one number: large at first, small at last. PBT and PB2 find such a schedule. A few trials train side by
# side; now and then the weakest takes over the state of the strongest, and goes on with its hyperparameters changed a little.
#
# To be taken over, a state must be saved, so the objective is a `tune.Trainable` class. Here: a walk towards 0, where a large `lr` is fast and
# shakes, and a small one is slow and exact.


# %%
class Walk(tune.Trainable):
    def setup(self, config):
        self.distance, self.shaking = 1.0, 0.0

    def step(self):
        lr = self.config["lr"]
        self.distance, self.shaking = self.distance * (1 - lr), self.shaking * (1 - lr) ** 2 + (0.3 * lr) ** 2
        return {"error": math.sqrt(self.distance**2 + self.shaking)}

    def save_checkpoint(self, path):
        Path(path, "state.json").write_text(json.dumps([self.distance, self.shaking]))

    def load_checkpoint(self, path):
        self.distance, self.shaking = json.loads(Path(path, "state.json").read_text())


exchange = {"perturbation_interval": 4, "quantile_fraction": 0.4, "perturbation_factors": (0.5, 1.5)}
population = tune_objective(
    Walk,
    {"lr": tune.loguniform(1e-3, 0.9)},
    {"searcher": "random", "scheduler": "PBT", "scheduler_init_args": exchange, "num_trials": 5, "num_to_keep": 1},
    metric="error",
    mode="min",
    max_epochs=32,
    save_path=folder / "population",
    tracking=None,
    verbosity=0,
)
population.plot_curves()

# %% [markdown]
# The schedules that came out. A step in a line is a takeover: there the trial goes on with a better one's state, and a rate near its.

# %%
figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
for trial in population.trials:
    is_best = trial is population.best
    rates = {result.epoch: trial.segments[result.segment].tuned["lr"] for result in trial.results}
    axes.step(rates.keys(), rates.values(), where="mid", label=f"trial {trial.number}", lw=3 if is_best else 1.2, zorder=3 if is_best else 2)
axes.set(yscale="log", xlabel="epoch", ylabel="lr")
axes.legend(frameon=False, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1))
plt.show()

# %% [markdown]
# In `MultiModalPredictor.fit`, PBT may change what can change on a trained model: the learning rate, weight decay, dropout and the like. Any
# other key is refused before anything starts, with the list of those that may.

# %%
ray.shutdown()
