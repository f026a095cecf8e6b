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
# A search has three parts, and you choose each on its own: the *space* defines what may be tried, the *searcher* proposes what to try next, and
# the *scheduler* stops trials that are not worth continuing.

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
# one Ray for all searches below; without this line each search starts and stops its own
_ = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")

# %% [markdown]
# ## Spaces
#
# A hyperparameter is either a plain value, which stays fixed, or a space, which is searched. The names are Ray Tune's, and `automm_hpo.space` has
# the same ones. AutoGluon's and Optuna's objects work too, and you can mix all of them.
#
# `plan` takes the arguments of `fit` and only reports what it would try, so you can look at a space before it costs anything. A random searcher
# ignores results, so all its trials are known in advance.

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
        "optim.lr": tune.loguniform(1e-4, 1e-1),  # uniform on a log scale: the right choice for learning rates
        "optim.label_smoothing": space.quniform(0.0, 0.3, 0.1),  # in steps
        "optim.patience": space.randint(1, 5),  # 1 to 4: as in Ray, the upper bound is excluded
        "optim.optim_type": space.choice(["adamw", "sgd"]),
        "env.batch_size": 64,  # fixed, so it has no column
    }
)

# %% [markdown]
# **Conditional spaces.** Momentum has no effect on AdamW, and the two optimizers need different learning rates. A choice of dicts expresses this:
# each branch has its own spaces, and no trial is spent on values without effect.

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
# **Computed values** follow from the others. Here the learning rate grows with the batch size.

# %%
proposals({"env.batch_size": space.choice([16, 32, 64]), "optim.lr": space.sample_from(lambda config: config["env.batch_size"] / 1e5)})

# %% [markdown]
# **HyperDrive's expressions** are in their own module, because some of the names mean something else there: its `loguniform` takes exponents, and
# its `randint` takes only the upper bound.

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
# From here on, the models are formulas that take milliseconds, tuned with `tune_objective`, so that the effect of searchers and schedulers is easy
# to see. The settings have the same names as in `fit`.
#
# Each search below has the same two hyperparameters and sixteen trials. Only the searcher differs. The background shows the score, which the
# searcher does not know beforehand: darker is better.


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
# - **random** leaves gaps and clusters. It needs no results, so any number of trials can run at once.
# - **qmc** (quasi-random) needs no results either, and covers the space evenly.
# - **grid** tries every combination: sixteen trials, but only four different learning rates. Use it for small spaces that must be covered
#   completely.
# - **bayes** (Optuna's TPE), the default, starts with four random trials and then looks near the good ones. It pays off if trials are expensive
#   and you run more than a few. `gp` builds a more precise model and suits a few numeric ranges.
#
# Eleven more are available by name: `cmaes`, `evolution`, `hyperopt`, `nevergrad`, `bohb`, `bayesopt`, `zoopt`, `ax`, `blendsearch`, `cfo`, and
# `gp`. You can also pass an Optuna sampler or a Ray `Searcher` object. If you already know good values, put them into `points_to_evaluate`: they
# are tried first.

# %% [markdown]
# ## Schedulers
#
# Most trials show early that they will not win. The objective below yields its accuracy once per epoch, so it can be stopped. Some trials start
# fast and end low, others start slowly and end high, which is what makes early stopping hard.
#
# The random searcher proposes the same twelve configurations to each scheduler, because the seed is the same. Dashed curves were stopped.

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
# **FIFO** stops no trial. You pay for all epochs, and see every final score.
#
# **ASHA** has rungs, here after 4 and 12 epochs. A trial continues if it is in the best third of those that have reached the rung so far. ASHA
# never waits, so the first trials to arrive pass easily.

# %%
stopped["ASHA"] = schedule("ASHA", grace_period=4, reduction_factor=3)
stopped["ASHA"].plot_curves()

# %% [markdown]
# **HyperBand** holds trials at a rung until all trials of their bracket have arrived, and then compares them with each other. This is fairer, but
# slower because trials wait. Some brackets judge early, others late.

# %%
stopped["HyperBand"] = schedule("HyperBand", grace_period=2)
stopped["HyperBand"].plot_curves()

# %% [markdown]
# The next three are HyperDrive's policies, with HyperDrive's argument names. **median** stops a trial whose best score is below the median of all
# trials' running averages. It is conservative.

# %%
stopped["median"] = schedule("median", evaluation_interval=1, delay_evaluation=5)
stopped["median"].plot_curves()

# %% [markdown]
# **bandit** stops trials that are too far behind the best one at the same epoch. With `slack_factor=0.15`, a trial needs at least 1 / 1.15 of the
# best score to continue.

# %%
stopped["bandit"] = schedule("bandit", slack_factor=0.15, evaluation_interval=1, delay_evaluation=5)
stopped["bandit"].plot_curves()

# %% [markdown]
# **truncation** stops the lowest `truncation_percentage` percent of the trials each time it compares them.

# %%
stopped["truncation"] = schedule("truncation", truncation_percentage=30, evaluation_interval=3, delay_evaluation=5)
stopped["truncation"].plot_curves()

# %% [markdown]
# What each scheduler spent, and what it found:

# %%
pd.DataFrame(
    [(name, search.costs()["epochs"].sum(), (search.costs()["status"] == "STOPPED").sum(), search.best.metric) for name, search in stopped.items()],
    columns=["scheduler", "epochs spent", "trials stopped", "best"],
)

# %% [markdown]
# ## Population-based training
#
# The best learning rate is not a single number: it is large at first and small at the end. PBT and PB2 find such a schedule. A few trials train
# side by side, and at regular intervals the weakest copy the state of the strongest and continue with changed hyperparameters.
#
# A state has to be saved before another trial can copy it, so the objective is a `tune.Trainable` class (or a function that gives `tune.report` a
# checkpoint). This one walks towards 0: with a large `lr` it is fast but noisy, with a small one slow but exact.


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
# The resulting schedules. A step in a line is a takeover: the trial continues with a better trial's state, and with a learning rate that is near
# that trial's or, less often, drawn anew.

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
# In `MultiModalPredictor.fit`, PBT can change hyperparameters that a trained model allows to change, such as the learning rate, weight decay and
# dropout. Any other key is refused before anything starts, and the error lists the allowed ones.

# %%
ray.shutdown()
