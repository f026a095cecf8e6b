"""The demo's search against scikit-learn on the same pixels, and the disk space that its checkpoints take.

2,000 training and 2,000 test images of the shipped Fashion-MNIST. The baselines see the 784 grey values of the same rows and are fitted on all 2,000,
with settings known to suit this data; the best on the *test* rows counts, which favours them. Ours is the fit of ``tutorials/01_quickstart.py``,
with the settings read from that file, once per seed; its validation rows come out of the same 2,000. A time limit ends a search, so slower
machines search less.

While a fit runs, a thread sums the file sizes below search/trials/*/checkpoints every 20 ms. The bound is the design's: (running + paused) x (num_to_keep
weights + 2 states) + (keep_trials + num_to_keep) weights, because the best trial keeps all its kept epochs for a soup. Weights and state (weights and
optimizer) include the small files next to them and are the largest seen. ASHA and FIFO pause no trial.
"""

from __future__ import annotations

import ast
import contextlib
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import parser, print_figure, print_header, print_machine
from PIL import Image
from ray import tune
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from automm_hpo import MultiModalPredictor
from automm_hpo.datasets import fashion_mnist
from automm_hpo.hpo.settings import local_resources, parse_tune_settings
from automm_hpo.hpo.trial import NUM_STATES
from automm_hpo.training.checkpoint_folder import STATE_TENSORS

TUTORIAL = Path(__file__).parent.parent / "tutorials" / "01_quickstart.py"
SAMPLE_SECONDS = 0.02


def tutorial_settings() -> dict[str, Any]:
    """Returns the arguments of the tutorial's ``fit`` that define the search; the file is parsed, not run."""
    calls = [node for node in ast.walk(ast.parse(TUTORIAL.read_text())) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    fit = next(call for call in calls if call.func.attr == "fit")
    wanted = {"hyperparameters", "hyperparameter_tune_kwargs", "time_limit"}
    expressions = {keyword.arg: ast.unparse(keyword.value) for keyword in fit.keywords if keyword.arg in wanted}
    print("settings  " + ", ".join(f"{name}={text}" for name, text in expressions.items()))
    return {name: eval(text, {"tune": tune}) for name, text in expressions.items()}


# ------------------------------------------------------------------------------------------------------------------ accuracy


def baselines(seed: int) -> dict[str, ClassifierMixin]:
    return {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1_000)),
        "SVC, RBF": SVC(C=10),
        "random forest": RandomForestClassifier(500, n_jobs=-1, random_state=seed),
    }


def pixels_of(table: pd.DataFrame) -> np.ndarray:
    """Returns the pixels, (N, 784) float32 in [0, 1]."""
    return np.stack([np.asarray(Image.open(path)).ravel() for path in table["image"]]).astype(np.float32) / 255


def baseline_accuracies(train: pd.DataFrame, test: pd.DataFrame, num_seeds: int) -> dict[str, list[float]]:
    train_pixels, test_pixels = pixels_of(train), pixels_of(test)
    return {
        name: [float(baselines(seed)[name].fit(train_pixels, train["label"]).score(test_pixels, test["label"])) for seed in range(num_seeds)]
        for name in baselines(0)
    }


# -------------------------------------------------------------------------------------------------------------- checkpoints


@dataclass
class DiskWatch:
    """Watches the disk space of a running search's checkpoints.

    Attributes:
        peak, weights, state: bytes of the largest total at one time, and of the largest single set of weights and resumable state.
    """

    trials: Path
    peak: int = 0
    weights: int = 0
    state: int = 0
    samples: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> DiskWatch:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            total = 0
            for checkpoint in self.trials.glob("*/checkpoints/*"):
                sizes = _file_sizes(checkpoint)
                total += sum(sizes.values())
                if not checkpoint.name.startswith("."):  # complete; others are being written or deleted, and count for the peak only
                    self.state = max(self.state, sum(sizes.values()))
                    self.weights = max(self.weights, sum(sizes.values()) - sizes.get(STATE_TENSORS, 0))
            self.peak = max(self.peak, total)
            self.samples += 1

    def bound(self, running: int, num_to_keep: int, keep_trials: int) -> int:
        return running * (num_to_keep * self.weights + NUM_STATES * self.state) + (keep_trials + num_to_keep) * self.weights


def _file_sizes(folder: Path) -> dict[str, int]:
    sizes = {}
    with contextlib.suppress(FileNotFoundError):  # the trial may remove it meanwhile
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                sizes[entry.name] = entry.stat().st_size
    return sizes


# --------------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    options = parser(__doc__, runs=3).parse_args()
    print_machine()
    settings = tutorial_settings()
    tune_settings = parse_tune_settings(settings["hyperparameter_tune_kwargs"])
    per_trial = tune_settings.resources.get("cpu", 1.0)
    running = min(int(local_resources()["cpu"] / per_trial), tune_settings.concurrency or tune_settings.num_trials, tune_settings.num_trials)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train, test = fashion_mnist(folder / "images")
        accuracies = baseline_accuracies(train, test, options.runs)
        print_header(options.runs)
        for baseline, values in accuracies.items():
            print_figure(f"{baseline}, test accuracy", values, "", digits=4)
        best = max(statistics.mean(values) for values in accuracies.values())
        os.chdir(folder)  # mlflow.db lands there
        ours, seconds, shares = [], [], []
        for seed in range(options.runs):
            path, started = folder / f"predictor_{seed}", time.perf_counter()
            with DiskWatch(path / "search" / "trials") as watch:
                predictor = MultiModalPredictor(label="label", verbosity=0).fit(train, save_path=path, seed=seed, **settings)
            seconds.append(time.perf_counter() - started)
            ours.append(predictor.evaluate(test, metrics="accuracy")["accuracy"])
            bound = watch.bound(running, tune_settings.num_to_keep, tune_settings.keep_trials)
            shares.append(watch.peak / bound)
            summary = predictor.fit_summary()
            print(
                f"seed {seed}: test {ours[-1]:.4f}, validation {summary['val_accuracy']:.4f}, {summary['num_trials']} trials, {seconds[-1]:.0f} s, best "
                f"{summary['hyperparameters']}\n        checkpoints: peak {watch.peak / 1e6:.2f} MB of at most {bound / 1e6:.2f} "
                f"({running} running, weights {watch.weights / 1e6:.2f} MB, state {watch.state / 1e6:.2f} MB, {watch.samples} samples)"
            )
    print_figure("ours, test accuracy", ours, "", f"mean {statistics.mean(ours):.4f}", digits=4)
    gains = [accuracy - best for accuracy in ours]
    print_figure("ours less the best baseline", gains, "", f"mean {statistics.mean(gains):+.4f}, goal >= +0.02", digits=4)
    print_figure("tuning", seconds, "s", digits=1)
    print_figure("peak of checkpoint bytes / bound", shares, "", "goal <= 1")


if __name__ == "__main__":
    main()
