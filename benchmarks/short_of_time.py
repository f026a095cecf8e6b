"""Too little time for the size that the weights were published for: do smaller images pay off?

1,000 photographs of CIFAR-10 for training, 1,000 others for testing, tf_efficientnet_lite0 with its ImageNet weights (224 px), one ``fit`` without a search,
ended by ``time_limit``. All else is left to the defaults; seed s takes 1,000 rows from row s * 1,000 on.

- as it comes: ``fit`` chooses the size that the time allows, from a step measured beforehand
- 224 px: the published size, given explicitly
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import torch
from common import parser, print_figure, print_header, print_machine

from automm_hpo import MultiModalPredictor, downloads

ROWS = 1_000
SIZE = "model.timm_image.image_size"


def main() -> None:
    arguments = parser(__doc__, runs=2)
    arguments.add_argument("--data", type=Path, default=Path(".data"), help="where what is downloaded lies (default .data)")
    arguments.add_argument("--limits", type=float, nargs="*", default=[60, 180], help="seconds (default 60 180)")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    print_machine()
    data, weights = options.data.absolute(), downloads.lite0_weights(options.data)
    train, test = downloads.cifar10(data, ROWS * options.runs, ROWS * options.runs)
    given = {"model.timm_image.checkpoint_name": "tf_efficientnet_lite0", "model.timm_image.checkpoint_path": str(weights)}
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for limit in options.limits:
            for seed in range(options.runs):
                rows, others = (table.iloc[ROWS * seed : ROWS * (seed + 1)] for table in (train, test))
                for way, size in (("as it comes", {}), ("224 px", {SIZE: 224})):
                    started, path = time.time(), f"{limit:.0f}-{seed}-{way}"
                    fitted = MultiModalPredictor("label", verbosity=0).fit(
                        rows, hyperparameters=given | size, time_limit=limit, save_path=path, seed=seed, tracking=None
                    )
                    seconds, accuracy = time.time() - started, fitted.evaluate(others)["accuracy"]
                    epochs = fitted.leaderboard()["epochs"].iloc[0]
                    found.setdefault(f"{limit:.0f} s, {way}: test accuracy", []).append(accuracy)
                    print(f"{limit:.0f} s, seed {seed}, {way}: {accuracy:.4f} in {seconds:.0f} s, {epochs:.2f} epochs", flush=True)
    print_header(options.runs)
    for name, values in found.items():
        print_figure(name, values, "", digits=4)


if __name__ == "__main__":
    main()
