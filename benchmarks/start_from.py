"""What starting from an earlier predictor is worth: 1,000 images last month, 300 or 1,000 new and darker ones today.

python benchmarks/start_from.py [--runs 3]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from common import parser, print_machine
from PIL import Image

from automm_hpo import MultiModalPredictor
from automm_hpo.datasets import fashion_mnist

MODEL = {"model.timm_image.checkpoint_name": "test_resnet", "model.timm_image.pretrained": False, "model.timm_image.image_size": 32, "optim.lr": 3e-3}


def darker(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Returns the same images as by a worse camera: at 0.4 of their brightness, upside down."""
    folder.mkdir()
    paths = []
    for number, path in enumerate(table["image"]):
        with Image.open(path) as image:
            paths.append(str(folder / f"{number}.png"))
            image.convert("RGB").rotate(180).point(lambda value: 0.4 * value).save(paths[-1])
    return table.assign(image=paths)


def measured(rows: pd.DataFrame, test: pd.DataFrame, path: Path, seed: int, **options: object) -> tuple[float, float]:
    started = time.time()
    predictor = MultiModalPredictor("label", verbosity=0).fit(rows, save_path=path, tracking=None, seed=seed, **options)  # type: ignore[arg-type]
    return predictor.evaluate(test, metrics="accuracy")["accuracy"], time.time() - started


def main() -> None:
    args = parser(__doc__, runs=3).parse_args()
    torch.set_num_threads(1)
    print_machine()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train, test = fashion_mnist(folder / "fashion")
        old, new, test = train.head(1_000), darker(train.tail(1_000), folder / "new"), darker(test, folder / "test")
        print("| seed | rows | epochs | the old predictor as it is | begun anew on the new rows | on old and new rows | start_from on the new rows |")
        print("|---|---|---|---|---|---|---|")
        for seed in range(args.runs):
            measured(old, test, folder / f"old-{seed}", seed, hyperparameters=MODEL | {"optim.max_epochs": 20})
            before = MultiModalPredictor.load(folder / f"old-{seed}", verbosity=0).evaluate(test, metrics="accuracy")["accuracy"]
            for count in (300, 1_000):
                for epochs in (5, 20):
                    name, rows, limit = f"{seed}-{count}-{epochs}", new.head(count), {"optim.max_epochs": epochs}
                    found = [
                        measured(rows, test, folder / f"anew-{name}", seed, hyperparameters=MODEL | limit),
                        measured(pd.concat([old, rows]), test, folder / f"both-{name}", seed, hyperparameters=MODEL | limit),
                        measured(rows, test, folder / f"on-{name}", seed, hyperparameters=limit, start_from=folder / f"old-{seed}"),
                    ]
                    cells = " | ".join(f"{accuracy:.3f} in {seconds:.1f} s" for accuracy, seconds in found)
                    print(f"| {seed} | {count:,} | {epochs} | {before:.3f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
