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
# # Your own objective
#
# `tune_objective` searches over any function of a config. It uses the engine behind `MultiModalPredictor.fit`, with the same searchers,
# schedulers, tracking, resuming, tables and plots. Use it if you bring your own model.

# %%
import tempfile
from pathlib import Path

import ray
import torch
from ray import tune
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from automm_hpo import tune_objective

folder = Path(tempfile.mkdtemp())
# one Ray for all searches below; without this line each search starts and stops its own
_ = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")

images, labels = load_digits(return_X_y=True)
images = images / 16.0
rest_x, test_x, rest_y, test_y = train_test_split(images, labels, test_size=400, random_state=0, stratify=labels)
train_x, valid_x, train_y, valid_y = train_test_split(rest_x, rest_y, test_size=400, random_state=0, stratify=rest_y)

# %% [markdown]
# ## scikit-learn, with MLflow inside
#
# The function gets a config and returns its metric. While it runs, the trial's MLflow run is the active one: values from `mlflow.log_metric` and
# autologging end up there, next to what the search itself logs.


# %%
def svm(config):
    import mlflow
    from sklearn.svm import SVC

    mlflow.sklearn.autolog(log_models=False)
    model = SVC(C=config["C"], gamma=config["gamma"]).fit(train_x, train_y)
    mlflow.log_metric("support_vectors", int(model.n_support_.sum()))
    return {"accuracy": model.score(valid_x, valid_y)}


import mlflow

mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")  # or your MLflow server; without this line, ./mlflow.db
svms = tune_objective(
    svm,
    {"C": tune.loguniform(1e-2, 1e2), "gamma": tune.loguniform(1e-4, 1e0)},
    {"searcher": "bayes", "scheduler": "FIFO", "num_trials": 6},
    metric="accuracy",
    mode="max",
    save_path=folder / "svm",
    verbosity=0,
)
svms

# %% [markdown]
# The same, read back from MLflow: one run for the search, and a nested run for each trial, with our own metric and the parameters that autologging
# recorded.

# %%
runs = mlflow.search_runs(search_all_experiments=True)
trials = runs[runs["tags.mlflow.parentRunId"].notna()].sort_values("tags.mlflow.runName")
trials[["tags.mlflow.runName", "status", "params.C", "params.kernel", "metrics.support_vectors", "metrics.training_accuracy_score", "metrics.accuracy"]]

# %% [markdown]
# ## PyTorch, epoch by epoch
#
# A function that *yields* once per epoch can be stopped early. In an existing loop nothing else changes: `yield` replaces `print`. Any other
# values you yield are recorded in the curves as well.


# %%
def network(config):
    torch.manual_seed(0)
    width = config["width"]
    model = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Dropout(config["dropout"]), torch.nn.Linear(width, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    x, y = torch.tensor(train_x, dtype=torch.float32), torch.tensor(train_y)
    held_x, held_y = torch.tensor(valid_x, dtype=torch.float32), torch.tensor(valid_y)
    for _ in range(20):
        model.train()
        for batch in torch.randperm(len(x)).split(64):
            loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            yield {"accuracy": (model(held_x).argmax(1) == held_y).float().mean().item(), "loss": loss.item()}


networks = tune_objective(
    network,
    {"lr": tune.loguniform(1e-4, 1e-1), "width": tune.choice([16, 64, 256]), "dropout": tune.uniform(0.0, 0.5)},
    {"searcher": "bayes", "scheduler": "ASHA", "num_trials": 8},
    metric="accuracy",
    mode="max",
    max_epochs=20,
    save_path=folder / "network",
    tracking=None,
    verbosity=0,
)
networks.plot_curves()

# %%
networks.leaderboard()

# %% [markdown]
# You cannot `yield` from inside another library's training loop, but if it has callbacks, call `tune.report` in one of them. The call returns when
# the result is recorded, and the trial ends there if the scheduler says so. Ray's callbacks for Keras, Lightning and XGBoost work, too.


# %%
def quasi_newton(config):
    from scipy.optimize import minimize

    x, y = torch.tensor(train_x), torch.tensor(train_y)

    def loss_and_gradient(flat):
        weight = torch.tensor(flat).view(64, 10).requires_grad_()
        loss = torch.nn.functional.cross_entropy(x @ weight, y) + config["penalty"] * weight.square().sum()
        loss.backward()
        return loss.item(), weight.grad.flatten().numpy()

    def after_each_step(flat):  # SciPy's loop calls this
        predicted = (valid_x @ flat.reshape(64, 10)).argmax(1)
        tune.report({"accuracy": float((predicted == valid_y).mean())})

    minimize(loss_and_gradient, torch.zeros(640, dtype=torch.float64).numpy(), jac=True, method="L-BFGS-B", callback=after_each_step, options={"maxiter": 30})


steps = tune_objective(
    quasi_newton,
    {"penalty": tune.loguniform(1e-6, 1e0)},
    {"searcher": "random", "scheduler": "ASHA", "num_trials": 8},
    metric="accuracy",
    mode="max",
    max_epochs=30,
    save_path=folder / "steps",
    tracking=None,
    verbosity=0,
)
steps.leaderboard()

# %% [markdown]
# ## A class that saves its state
#
# A function that is killed starts over, unless it reports checkpoints (`tune.report(metrics, checkpoint=...)`, `tune.get_checkpoint()`). A
# `tune.Trainable` class that saves its state continues where it was: after a crash, in a resumed search, and when population-based training passes
# a good trial's weights to a weak one. It is Ray's own class, unchanged.


# %%
class Network(tune.Trainable):
    def setup(self, config):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config["lr"], momentum=0.9)
        self.data = torch.tensor(train_x, dtype=torch.float32), torch.tensor(train_y)

    def step(self):
        x, y = self.data
        for batch in torch.randperm(len(x)).split(64):
            loss = torch.nn.functional.cross_entropy(self.model(x[batch]), y[batch])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        with torch.no_grad():
            predicted = self.model(torch.tensor(valid_x, dtype=torch.float32)).argmax(1)
        return {"accuracy": (predicted == torch.tensor(valid_y)).float().mean().item()}

    def save_checkpoint(self, path):
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, Path(path, "state.pt"))

    def load_checkpoint(self, path):
        state = torch.load(Path(path, "state.pt"), weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # after a takeover the learning rate is a new one
            group["lr"] = self.config["lr"]


classes = tune_objective(
    Network,
    {"lr": tune.loguniform(1e-4, 1e0)},
    {"scheduler": "PBT", "searcher": "random", "num_trials": 4, "num_to_keep": 1},
    metric="accuracy",
    mode="max",
    max_epochs=10,
    save_path=folder / "class",
    tracking=None,
    verbosity=0,
)
classes.plot_curves()

# %% [markdown]
# States are files in the trials' folders. A running trial keeps its best `num_to_keep` states and its newest two. Of the trials that have ended,
# the best three (`keep_trials`) keep their best state.

# %%
sorted(str(path.relative_to(folder)) for path in (folder / "class").rglob("state.pt"))

# %% [markdown]
# ## Two steps: train, then evaluate
#
# The metric of the search need not come from the training. Here one function trains a model, and another scores it on images rotated by 15
# degrees. The objective calls one after the other. Each could just as well be a program started with `subprocess.run`.


# %%
def fit_forest(config):
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=30, max_depth=config["depth"], max_features=config["features"], random_state=0).fit(train_x, train_y)


def evaluate(model):
    from scipy.ndimage import rotate

    turned = rotate(valid_x.reshape(-1, 8, 8), 15, axes=(1, 2), reshape=False, order=1).reshape(-1, 64)
    return {"acc_valid": model.score(valid_x, valid_y), "acc_turned": model.score(turned, valid_y)}


def train_and_evaluate(config):
    return evaluate(fit_forest(config))


forests = tune_objective(
    train_and_evaluate,
    {"depth": tune.randint(2, 20), "features": tune.uniform(0.05, 1.0)},
    {"searcher": "bayes", "scheduler": "FIFO", "num_trials": 8},
    metric="acc_turned",  # acc_valid is recorded, too, but not optimised
    mode="max",
    save_path=folder / "forest",
    tracking=None,
    verbosity=0,
)
forests.curves()[["trial", "metric", "acc_valid"]]

# %% [markdown]
# ## The test score
#
# Finally, the best config is trained once more on all rows except the test rows, which no trial has seen, and scored on those.

# %%
from sklearn.svm import SVC

best = svms.best.tuned
test_accuracy = SVC(C=best["C"], gamma=best["gamma"]).fit(rest_x, rest_y).score(test_x, test_y)
print(f"test accuracy: {test_accuracy:.3f}")
ray.shutdown()
