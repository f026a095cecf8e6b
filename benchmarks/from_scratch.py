"""All 60,000 images of Fashion-MNIST, from random weights: a small timm network against trees on the pixels.

    python benchmarks/from_scratch.py --source .data/fashion-deb/usr/share/datasets/fashion-mnist [--runs 3] [--epochs 20]

--source is the folder of the four published .gz files (Debian's package dataset-fashion-mnist has them). One `fit` without a search, on one core: a residual
network of 0.4 million weights (timm's test_resnet) at 48 px, 20 epochs of 54,000 images, 6,000 for validation; then the 10,000 test images. The baselines are
what a user would pick instead: a random forest and HistGradientBoosting on the 784 pixels of all 60,000. The script uses a GPU if there is one.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from common import Figure, parser, print_figures, print_machine
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from automm_hpo import MultiModalPredictor
from automm_hpo.datasets import fashion_mnist_full

HYPERPARAMETERS = {
    "model.timm_image.checkpoint_name": "test_resnet",
    "model.timm_image.pretrained": False,
    "model.timm_image.image_size": 48,
    "env.batch_size": 64,
    "optim.lr": 4e-3,
    "optim.weight_decay": 0.05,
}


def pixels(table: pd.DataFrame) -> np.ndarray:
    """Returns the pixels, (N, 784) uint8."""
    return np.stack([np.asarray(Image.open(path)).reshape(-1) for path in table["image"]])


def main() -> None:
    arguments = parser(__doc__, runs=3)
    arguments.add_argument("--source", type=Path, help="folder of the published files; by default where Debian puts them, else they are downloaded")
    arguments.add_argument("--epochs", type=int, default=20)
    arguments.add_argument("--no-trees", action="store_true", help="leave out what ours is compared with")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    print_machine()
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)
        print(f"{name} {value:.4f}", flush=True)

    source = options.source and options.source.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        train, test = fashion_mnist_full("images", source)
        for seed in range(options.runs):
            started = time.time()
            predictor = MultiModalPredictor("label", verbosity=2).fit(
                train, hyperparameters=HYPERPARAMETERS | {"optim.max_epochs": options.epochs}, holdout_frac=0.1, save_path=f"{seed}", seed=seed, tracking=None
            )
            note("ours, seconds of the fit", time.time() - started)
            note("ours, test accuracy", predictor.evaluate(test)["accuracy"])
            if options.no_trees:
                continue
            for name, model in {
                "random forest": RandomForestClassifier(random_state=seed),
                "boosting": HistGradientBoostingClassifier(random_state=seed),
            }.items():
                started = time.time()
                model.fit(pixels(train), train["label"])
                note(f"{name}, test accuracy", model.score(pixels(test), test["label"]))
                note(f"{name}, seconds", time.time() - started)
    goals = {"ours, test accuracy": 0.93}
    print_figures([Figure(name, values, at_least=goals.get(name), digits=4 if "accuracy" in name else 0) for name, values in found.items()], options.runs)


if __name__ == "__main__":
    main()
