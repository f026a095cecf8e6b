"""How much disk space the checkpoints of fifty trials take at most, against the design's bound.

Fifty trials of test_resnet at 32 px on 200 images, two at a time, num_to_keep 2, keep_trials 3, under schedulers that stop, pause and exchange
trials. While a search runs, a thread sums the file sizes below search/trials/*/checkpoints every 20 ms, including unfinished files. The bound is (running +
paused) x (num_to_keep weights + 2 states) + (keep_trials + num_to_keep) weights; a scheduler that pauses may hold all fifty. The last column is what
keeping everything would take: a state (weights and optimizer) for each epoch of each trial.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import Figure, parser, print_machine
from demo_accuracy import DiskWatch
from ray import tune

from automm_hpo import MultiModalPredictor
from automm_hpo.datasets import fashion_mnist
from automm_hpo.hpo.cluster import ray_cluster

NUM_TO_KEEP, KEEP_TRIALS, EPOCHS, AT_A_TIME = 2, 3, 6, 2


def search(folder: Path, scheduler: str, num_trials: int) -> tuple[DiskWatch, float, int, int]:
    """Runs one search on the running Ray; returns (watch, the design's bound in bytes, bytes left, epochs trained)."""
    path = folder / scheduler
    hyperparameters = {
        "model.timm_image.checkpoint_name": "test_resnet",
        "model.timm_image.pretrained": False,
        "model.timm_image.image_size": 32,
        "env.batch_size": 32,
        "optim.lr": tune.loguniform(1e-4, 1e-2),
        "optim.max_epochs": EPOCHS,
        "optim.top_k_average_method": "best",
    }
    kwargs = {
        "searcher": "random",
        "scheduler": scheduler,
        "num_trials": num_trials,
        "num_to_keep": NUM_TO_KEEP,
        "keep_trials": KEEP_TRIALS,
        "max_concurrent_trials": AT_A_TIME,
    }
    with DiskWatch(path / "search" / "trials") as watch:
        predictor = MultiModalPredictor("label", verbosity=0).fit(
            fashion_mnist(folder / "images")[0].head(200),
            hyperparameters=hyperparameters,
            hyperparameter_tune_kwargs=kwargs,
            save_path=path,
            tracking=None,
        )
    running = num_trials if scheduler in ("HyperBand", "PBT") else AT_A_TIME
    left = sum(file.stat().st_size for file in (path / "search" / "trials").rglob("*") if file.is_file())
    return watch, watch.bound(running, NUM_TO_KEEP, KEEP_TRIALS), left, len(predictor.search.curves())


def measure(runs: int, num_trials: int = 12) -> list[Figure]:
    """Measures the share of the bound that a small search with early stopping takes."""
    shares = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as name, ray_cluster():
            watch, bound, _, _ = search(Path(name), "ASHA", num_trials)
            shares.append(watch.peak / bound)
    return [Figure(f"checkpoints, {num_trials} trials under ASHA: peak / bound", shares, at_most=1.0)]


def main() -> None:
    arguments = parser(__doc__, runs=1)
    arguments.add_argument("--trials", type=int, default=50)
    arguments.add_argument("--schedulers", nargs="+", default=["FIFO", "ASHA", "HyperBand", "PBT"])
    options = arguments.parse_args()
    print_machine()
    print(f"\n{f'{options.trials} trials':<12}{'peak MB':>10}{'bound MB':>10}{'share':>8}{'left MB':>10}{'epochs':>8}{'all of it MB':>14}")
    with tempfile.TemporaryDirectory() as name, ray_cluster():
        for scheduler in options.schedulers:
            watch, bound, left, epochs = search(Path(name), scheduler, options.trials)
            megabytes = [f"{size / 1e6:>10.2f}" for size in (watch.peak, bound)]
            print(f"{scheduler:<12}{''.join(megabytes)}{watch.peak / bound:>8.2f}{left / 1e6:>10.2f}{epochs:>8}{epochs * watch.state / 1e6:>14.1f}", flush=True)


if __name__ == "__main__":
    main()
