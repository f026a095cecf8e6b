"""Several images in a cell: what the second, third and fourth photograph of an item are worth.

    python benchmarks/several_pictures.py [--runs 3]

The 4,000 shipped Fashion-MNIST images, 1,600 for training and 2,400 for testing. Each item has one to four photographs, drawn anew for every seed:
the same image, shifted by up to three pixels, darkened by up to a half, and noisy. The runs of a seed share their rows and differ only in
`model.timm_image.max_image_num_per_column`.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from common import parser, print_machine
from PIL import Image

from automm_hpo import MultiModalPredictor
from automm_hpo.datasets import fashion_mnist

MOST, NOISE = (1, 2, 4), 50.0


def photographed(table: pd.DataFrame, folder: Path, seed: int) -> pd.DataFrame:
    """Returns the table with one to four photographs in each cell."""
    rng, cells = np.random.default_rng(seed), []
    folder.mkdir()
    for row, path in enumerate(table["image"]):
        picture, names = np.asarray(Image.open(path).convert("L"), float), []
        for number in range(rng.integers(1, 5)):
            photograph = np.roll(picture, rng.integers(-3, 4, 2), (0, 1)) * rng.uniform(0.5, 1) + rng.normal(0, NOISE, picture.shape)
            names.append(str(folder / f"{row}_{number}.png"))
            Image.fromarray(photograph.clip(0, 255).astype(np.uint8)).save(names[-1])
        cells.append(";".join(names))
    return table.assign(image=cells)


def main() -> None:
    options = parser(__doc__, runs=3).parse_args()
    torch.set_num_threads(1)
    print_machine()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = pd.concat(fashion_mnist(folder / "fashion"), ignore_index=True)
        found: dict[int, list[tuple[float, float]]] = {most: [] for most in MOST}
        for seed in range(options.runs):
            table = photographed(rows, folder / f"photographs_{seed}", seed).sample(frac=1, random_state=seed)
            for most in MOST:
                hyperparameters = {
                    "model.timm_image.checkpoint_name": "test_resnet",
                    "model.timm_image.pretrained": False,
                    "model.timm_image.image_size": 32,
                    "model.timm_image.max_image_num_per_column": most,
                    "optim.lr": 3e-3,
                    "optim.max_epochs": 10,
                    "env.batch_size": 64,
                }
                started = time.time()
                predictor = MultiModalPredictor("label", verbosity=0)
                predictor.fit(table[:1600], hyperparameters=hyperparameters, save_path=folder / f"run_{seed}_{most}", seed=seed, tracking=None)
                seconds = time.time() - started
                found[most].append((predictor.evaluate(table[1600:])["accuracy"], seconds))
                print(f"seed {seed}, {most} a cell: accuracy {found[most][-1][0]:.4f}, {seconds:.0f} s", flush=True)
    print("\n| pictures of a cell that are read | accuracy, median and range | seconds |\n|---|---|---|")
    for most, results in found.items():
        accuracies = [accuracy for accuracy, _ in results]
        median, seconds = statistics.median(accuracies), statistics.median(second for _, second in results)
        print(f"| {most} | {median:.3f} ({min(accuracies):.3f} to {max(accuracies):.3f}) | {seconds:.0f} |")


if __name__ == "__main__":
    main()
