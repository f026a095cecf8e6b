"""What early stopping saves and what it costs, on learning curves recorded from our trainings and replayed through the real schedulers.

The curves (`data/curves.json`): random configurations of test_resnet on 800 training images of the shipped Fashion-MNIST at 32 px, 20 epochs each, with the
validation accuracy on 500 other images after every epoch. `--record` records them again, in about 6 minutes.

A search is a subset of the curves, drawn and ordered by the seed, 4 at a time, under one scheduler: a trial reports one epoch of its curve
per step. Epochs saved are in percent of those that running everything takes. Regret is how far the best accuracy seen lies below the best
of all the search's curves, in points; a search is without loss if its regret is 0.

The schedulers are driven by the tests' model of Ray's controller, in which a search takes milliseconds, so that hundreds of orders can be tried. With
--ray-runs the first few orders also go through `tune_objective` and Ray, where the timing of the processes decides which trial reports next.

HyperDrive's notes give bandit slack_factor 0.1 or 0.15, evaluation_interval 1, delay_evaluation 5 or 10; median evaluation_interval 1, delay_evaluation 5;
truncation 20 %, evaluation_interval 1, delay_evaluation 5. ASHA and HyperBand use this package's defaults.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, print_machine
from ray import tune

from automm_hpo import MultiModalPredictor, tune_objective
from automm_hpo.datasets import fashion_mnist
from automm_hpo.hpo.cluster import ray_cluster
from automm_hpo.hpo.schedulers import build_scheduler
from automm_hpo.hpo.settings import TuneSettings

sys.path.append(str(Path(__file__).parents[1] / "tests" / "hpo"))
from simulated_ray import SimulatedSearch

CURVES = Path(__file__).parent / "data" / "curves.json"
NUM_CURVES, MAX_EPOCHS, SEARCH_SIZE, PLACES = 64, 20, 20, 4

RECORDED_SPACE = {
    "optim.lr": tune.loguniform(1e-4, 1e-1),
    "optim.weight_decay": tune.loguniform(1e-5, 1e-1),
    "optim.optim_type": tune.choice(["adamw", "sgd"]),
    "optim.lr_schedule": tune.choice(["cosine_decay", "constant"]),
    "optim.label_smoothing": tune.uniform(0.0, 0.2),
    "model.timm_image.drop_rate": tune.uniform(0.0, 0.5),
    "model.timm_image.train_transforms": tune.choice([[], ["random_horizontal_flip"], ["random_crop", "random_horizontal_flip"]]),
    "env.batch_size": tune.choice([16, 32, 64, 128]),
}
FIXED = {
    "model.timm_image.checkpoint_name": "test_resnet",
    "model.timm_image.pretrained": False,
    "model.timm_image.image_size": 32,
    "optim.max_epochs": MAX_EPOCHS,
    "optim.patience": MAX_EPOCHS,
    "optim.top_k_average_method": "best",
}

POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ASHA": ("ASHA", {}),
    "HyperBand": ("HyperBand", {}),
    "median, delay 5": ("median", {"evaluation_interval": 1, "delay_evaluation": 5}),
    "median, delay 10": ("median", {"evaluation_interval": 1, "delay_evaluation": 10}),
    "bandit 0.1, delay 5": ("bandit", {"slack_factor": 0.1, "evaluation_interval": 1, "delay_evaluation": 5}),
    "bandit 0.1, delay 10": ("bandit", {"slack_factor": 0.1, "evaluation_interval": 1, "delay_evaluation": 10}),
    "bandit 0.15, delay 5": ("bandit", {"slack_factor": 0.15, "evaluation_interval": 1, "delay_evaluation": 5}),
    "truncation 20 %, delay 5": ("truncation", {"truncation_percentage": 20, "evaluation_interval": 1, "delay_evaluation": 5}),
}


def record() -> None:
    """Trains the configurations to their end, and stores their hyperparameters and accuracies."""
    with tempfile.TemporaryDirectory() as name:
        train, test = fashion_mnist(Path(name) / "images")
        predictor = MultiModalPredictor(label="label", verbosity=1).fit(
            train.sample(800, random_state=0),
            tuning_data=test.sample(500, random_state=0),
            hyperparameters=FIXED | RECORDED_SPACE,
            hyperparameter_tune_kwargs={"searcher": "random", "scheduler": "FIFO", "num_trials": NUM_CURVES, "keep_trials": 1, "num_to_keep": 1},
            save_path=Path(name) / "predictor",
            tracking=None,
        )
        trials = [trial for trial in predictor.search.trials if trial.epochs == MAX_EPOCHS]  # a diverged trial has no complete curve
    stored = [{"tuned": dict(trial.tuned), "accuracy": [round(result.metric, 4) for result in trial.results]} for trial in trials]
    CURVES.parent.mkdir(exist_ok=True)
    CURVES.write_text("[\n" + ",\n".join(map(json.dumps, stored)) + "\n]\n")
    print(f"{len(stored)} curves of {NUM_CURVES} trials in {CURVES}")


class Replay(tune.Trainable):
    """Reports a recorded curve. Like a training, it can be paused and resumed."""

    def setup(self, config: dict[str, Any]) -> None:
        self.curve, self.epoch = config["curves"][config["row"]], 0

    def step(self) -> dict[str, float]:
        self.epoch += 1
        return {"accuracy": self.curve[self.epoch - 1]}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "epoch").write_text(str(self.epoch))

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]  # the path of a folder
        self.epoch = int(Path(checkpoint_dir, "epoch").read_text())


Replayed = tuple[float, float]  # percent of the epochs saved, regret in points


def simulate(curves: np.ndarray, scheduler: str, arguments: dict[str, Any], seed: int) -> Replayed:
    """Simulates a search over recorded curves.

    Args:
        curves: accuracy after each epoch, (trials, epochs).
    """
    chosen = curves[draw(len(curves), seed)]
    settings = TuneSettings(scheduler=scheduler, scheduler_init_args=arguments)
    search = SimulatedSearch(build_scheduler(settings, {}, MAX_EPOCHS, 0.0, seed), chosen.tolist(), places=PLACES).run()
    return 100 * (1 - len(search.rows) / chosen.size), 100 * float(chosen.max() - max(row.score for row in search.rows))


def draw(num_curves: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).choice(num_curves, SEARCH_SIZE, replace=False).tolist()


def replay(curves: np.ndarray, scheduler: str, arguments: dict[str, Any], seed: int) -> Replayed:
    """Runs the same search through Ray."""
    rows = draw(len(curves), seed)
    with tempfile.TemporaryDirectory() as folder:
        results = tune_objective(
            Replay,
            {"row": tune.choice(rows), "curves": curves.tolist()},
            {
                "searcher": "grid",  # tries every row once, in the choice's order
                "scheduler": scheduler,
                "scheduler_init_args": arguments,
                "max_concurrent_trials": PLACES,
                "resources_per_trial": {"cpu": 0.5},
                "num_to_keep": 1,
            },
            "accuracy",
            "max",
            max_epochs=MAX_EPOCHS,
            save_path=Path(folder) / "search",
            seed=seed,
            tracking=None,
            verbosity=0,
        )
    if sorted(trial.tuned["row"] for trial in results.trials) != sorted(rows):
        raise SystemExit(f"{scheduler}: not every row was tried once")
    spent = sum(len(trial.results) for trial in results.trials)
    seen = max(trial.best.metric for trial in results.trials if trial.best)
    return 100 * (1 - spent / (SEARCH_SIZE * MAX_EPOCHS)), 100 * float(curves[rows].max() - seen)


def main() -> None:
    arguments = parser(__doc__, runs=500)
    arguments.add_argument("--ray-runs", type=int, default=0, help="of these orders, how many through Ray besides (default 0; about 10 s each)")
    arguments.add_argument("--record", action="store_true", help="train the configurations anew, and store their curves")
    options = arguments.parse_args()
    print_machine()
    if options.record:
        record()
        return
    curves = np.array([trial["accuracy"] for trial in json.loads(CURVES.read_text())])
    quartiles = ", ".join(f"{value:.3f}" for value in np.quantile(curves.max(axis=1), [0, 0.25, 0.5, 0.75, 1]))
    print(f"curves    {len(curves)} of {curves.shape[1]} epochs; quartiles of their best accuracies {quartiles}")
    columns = ("saved %, mean", "min", "max", "regret, mean", "median", "max", "without loss")
    print(f"\n{f'{options.runs} searches of {SEARCH_SIZE} trials':<34}" + "".join(f"{column:>15}" for column in columns))
    with ray_cluster() if options.ray_runs else contextlib.nullcontext():
        for name, (scheduler, settings) in POLICIES.items():
            print_row(name, [simulate(curves, scheduler, settings, seed) for seed in range(options.runs)])
            if options.ray_runs:
                print_row(f"  the first {options.ray_runs} alone", [simulate(curves, scheduler, settings, seed) for seed in range(options.ray_runs)])
                print_row("  the same by Ray", [replay(curves, scheduler, settings, seed) for seed in range(options.ray_runs)])


def print_row(name: str, replayed: Sequence[Replayed]) -> None:
    saved, regret = zip(*replayed, strict=True)
    figures = (statistics.mean(saved), min(saved), max(saved), statistics.mean(regret), statistics.median(regret), max(regret))
    without_loss = 100 * statistics.mean(loss < 1e-9 for loss in regret)
    print(f"{name:<34}" + "".join(f"{figure:>15.2f}" for figure in figures) + f"{without_loss:>13.0f} %", flush=True)


if __name__ == "__main__":
    main()
