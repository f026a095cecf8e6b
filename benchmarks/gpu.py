"""On an NVIDIA GPU: the training loop against a bare one, trials that share the GPU, and CIFAR-10 to 94 and 96 %.

    python benchmarks/gpu.py [--only loop packing cifar10] [--runs 3] [--cifar10 .data/cifar10.npz]

- loop: images/s of ``fit`` after its first epoch, over those of the loop in bare.py on tensors that are already on the device; bfloat16, channels_last,
  224 px, batches of 128, random images, four architectures
- packing: trials per hour of a search of mobilenetv3_small_100 at 32 px on 2,000 images of the shipped Fashion-MNIST, 1, 2, 4 and 8 at a time, and as
  many as the search chooses
- cifar10: time and test accuracy of one ``fit`` per goal. The data is an .npz file with train_images (50000, 32, 32, 3) uint8, train_labels, test_images
  and test_labels, or else a download (`automm_hpo.downloads`)
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from bare import Recipe, bare_training
from common import Figure, parser, print_figures, print_machine

from automm_hpo import MultiModalPredictor
from automm_hpo.datasets import fashion_mnist

ARCHITECTURES = ("ghostnet_100", "mobilenetv3_large_100", "resnet50", "vit_small_patch16_224")
IMAGES, CLASSES, EPOCHS = 4_096, 10, 4
AT_A_TIME, TRIALS = (1, 2, 4, 8), 16
CIFAR10: dict[str, tuple[float, float, dict[str, Any]]] = {  # name -> test accuracy to reach, seconds allowed, hyperparameters
    "94 %": (0.94, 60, {"model.timm_image.checkpoint_name": "resnet18", "model.timm_image.image_size": 64, "optim.max_epochs": 30}),
    "96 %": (0.96, 180, {"model.timm_image.checkpoint_name": "resnet50", "model.timm_image.image_size": 96, "optim.max_epochs": 40}),
}
CIFAR10_RECIPE = {
    "model.timm_image.pretrained": False,
    "model.timm_image.train_transforms": ["random_crop", "random_horizontal_flip"],
    "env.batch_size": 512,
    "optim.optim_type": "sgd",
    "optim.lr": 0.5,
    "optim.weight_decay": 5e-4,
    "optim.label_smoothing": 0.1,
    "optim.warmup_steps": 0.2,
    "optim.ema_decay": 0.999,
    "optim.top_k_average_method": "best",
}


def random_pictures(count: int, side: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return pd.DataFrame({"image": list(pixels), "label": [f"class {number % CLASSES}" for number in range(count)]})


def measure_loop(runs: int) -> list[Figure]:
    """Measures images/s of both loops without the first epoch, in which kernels are chosen."""
    figures = []
    for name in ARCHITECTURES:
        recipe = Recipe(name, 224, batch=128, epochs=EPOCHS, lr=1e-3)
        table, few = random_pictures(IMAGES, recipe.side), random_pictures(128, recipe.side)
        images = torch.from_numpy(np.stack(table["image"].tolist())).to("cuda")
        target = torch.arange(IMAGES, device="cuda") % CLASSES
        ours, floor = [], []
        for run in range(runs):
            with tempfile.TemporaryDirectory() as folder:
                predictor = MultiModalPredictor("label", verbosity=0).fit(
                    table,
                    tuning_data=few,
                    hyperparameters=recipe.hyperparameters | {"optim.top_k_average_method": "best"},
                    save_path=f"{folder}/{run}",
                    tracking=None,
                )
                seconds = predictor.search.curves()["seconds"].to_numpy()
            ours.append(IMAGES * (EPOCHS - 1) / (seconds[-1] - seconds[0]))
            times = []
            for epochs in (1, EPOCHS):
                torch.cuda.synchronize()
                started = time.perf_counter()
                bare_training(images, target, images[:128], target[:128], Recipe(name, 224, batch=128, epochs=epochs, lr=1e-3), None)
                torch.cuda.synchronize()
                times.append(time.perf_counter() - started)
            floor.append(IMAGES * (EPOCHS - 1) / (times[1] - times[0]))
        figures += [
            Figure(f"GPU loop, {name}: ours", ours, "images/s", digits=0),
            Figure(f"GPU loop, {name}: bare", floor, "images/s", digits=0),
            Figure(f"GPU loop, {name}: ours / bare", [a / b for a, b in zip(ours, floor, strict=True)], at_least=0.95, digits=3),
        ]
    return figures


def measure_packing(runs: int) -> list[Figure]:
    from ray import tune

    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = fashion_mnist(folder / "images")[0]
        hyperparameters = Recipe("mobilenetv3_small_100", 32, batch=64, epochs=40).hyperparameters | {"optim.lr": tune.loguniform(1e-3, 1e-2)}
        for run in range(runs):
            for count in (*AT_A_TIME, None):  # None: as many as the search chooses
                kwargs: dict[str, Any] = {"searcher": "random", "scheduler": "FIFO", "num_trials": TRIALS}
                if count is not None:
                    kwargs |= {"resources_per_trial": {"cpu": 1, "gpu": 1 / count}}
                predictor = MultiModalPredictor("label", verbosity=1).fit(
                    train, hyperparameters=hyperparameters, hyperparameter_tune_kwargs=kwargs, save_path=folder / f"{run}-{count}", tracking=None
                )
                trials = predictor.search.trials
                seconds = max(trial.ended for trial in trials) - min(trial.started for trial in trials)
                found.setdefault("by itself" if count is None else f"{count} at a time", []).append(3600 * TRIALS / seconds)
    alone = found["1 at a time"]
    figures = [Figure(f"GPU, trials an hour, {name}", values, digits=0) for name, values in found.items()]
    gains = [a / b for a, b in zip(found["by itself"], alone, strict=True)]
    return [*figures, Figure("GPU, trials an hour, by itself / one at a time", gains, at_least=3.0)]


def cifar10(source: Path | None, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    if source is None:
        from automm_hpo import downloads

        return downloads.cifar10(folder)
    with np.load(source) as arrays:
        return tuple(pd.DataFrame({"image": list(arrays[f"{part}_images"]), "label": arrays[f"{part}_labels"].astype(str)}) for part in ("train", "test"))


def measure_cifar10(source: Path | None = None) -> list[Figure]:
    figures = []
    with tempfile.TemporaryDirectory() as name:
        train, test = cifar10(source, Path(os.environ.get("CIFAR10_FOLDER", name)))
        for goal, (accuracy, seconds, hyperparameters) in CIFAR10.items():
            started = time.time()
            predictor = MultiModalPredictor("label", verbosity=1).fit(
                train, hyperparameters=CIFAR10_RECIPE | hyperparameters, holdout_frac=0.02, save_path=Path(name) / goal[:2], tracking=None
            )
            figures += [
                Figure(f"GPU, CIFAR-10 to {goal}: seconds of the fit", [time.time() - started], "s", at_most=seconds, digits=1),
                Figure(f"GPU, CIFAR-10 to {goal}: test accuracy", [predictor.evaluate(test)["accuracy"]], at_least=accuracy, digits=4),
            ]
    return figures


def main() -> None:
    arguments = parser(__doc__, runs=3)
    arguments.add_argument("--only", nargs="+", default=["loop", "packing", "cifar10"], choices=["loop", "packing", "cifar10"])
    arguments.add_argument("--cifar10", type=Path, help=".npz file of CIFAR-10")
    options = arguments.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here")
    print_machine()
    print(f"GPU       {torch.cuda.get_device_name()}")
    measured = {"loop": lambda: measure_loop(options.runs), "packing": lambda: measure_packing(1), "cifar10": lambda: measure_cifar10(options.cifar10)}
    for name in options.only:
        print_figures(measured[name](), options.runs)


if __name__ == "__main__":
    main()
