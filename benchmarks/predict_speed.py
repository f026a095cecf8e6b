"""Prediction speed: 500 JPEG files at once, the first row after loading, and one row at a time.

mobilenetv3_large_100 from random weights, 64 px; JPEG files of 224 px made from the shipped Fashion-MNIST; one thread for everything.

- 500 files: ``predictor.predict`` of a DataFrame of paths, alternating with bare decode (Pillow, resized at once) and forward (channels_last, batches of 128)
- first row: ``predict`` of one row in a fresh process right after ``MultiModalPredictor.load``; then the median of 50 more such rows
- bare forward: the model alone on one image that is already decoded

AutoMM 1.6, on another 2-core machine: 441 images/s, 157 ms, 120 ms; there a bare forward took 4.5 ms.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import pandas as pd
import timm
import torch
from bare import Recipe, decode
from common import Figure, parser, print_figures, print_machine
from PIL import Image

from automm_hpo import MultiModalPredictor
from automm_hpo.datasets import fashion_mnist

RECIPE = Recipe("mobilenetv3_large_100", 64)
NUM_FILES, SIDE, BATCH, ROWS = 500, 224, 128, 50


def jpeg_files(folder: Path) -> pd.DataFrame:
    table = fashion_mnist(folder / "png")[0].head(NUM_FILES)
    paths = [str(folder / f"{number}.jpg") for number in range(len(table))]
    for source, path in zip(table["image"], paths, strict=True):
        Image.open(source).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)
    return table.assign(image=paths)


def fit(table: pd.DataFrame, path: Path) -> MultiModalPredictor:
    return MultiModalPredictor("label", verbosity=0).fit(
        table.head(100), hyperparameters=RECIPE.hyperparameters | {"optim.max_steps": 1, "env.num_workers": 1}, save_path=path, tracking=None
    )


def bare_model() -> torch.nn.Module:
    return timm.create_model(RECIPE.model, num_classes=10).eval().to(memory_format=torch.channels_last)


def bare_predict(model: torch.nn.Module, paths: list[str]) -> list[int]:
    cfg, answers = timm.get_pretrained_cfg(RECIPE.model), []
    mean, std = (255 * torch.tensor(values).view(1, 3, 1, 1) for values in (cfg.mean, cfg.std))
    start = (RECIPE.side - RECIPE.size) // 2
    with torch.inference_mode():
        for first in range(0, len(paths), BATCH):
            pixels = decode(paths[first : first + BATCH], RECIPE)[:, start : start + RECIPE.size, start : start + RECIPE.size]
            answers += model(pixels.permute(0, 3, 1, 2).float().sub_(mean).div_(std)).argmax(1).tolist()
    return answers


def latencies(path: str, image: str) -> dict[str, float]:
    """Returns milliseconds, measured in this process, which must not have predicted before."""
    torch.set_num_threads(1)
    predictor, row = MultiModalPredictor.load(path, verbosity=0), pd.DataFrame({"image": [image]})
    times = []
    for _ in range(ROWS + 1):
        started = time.perf_counter()
        predictor.predict(row)
        times.append(1000 * (time.perf_counter() - started))
    model, view, forward = bare_model(), torch.zeros(1, 3, RECIPE.size, RECIPE.size).to(memory_format=torch.channels_last), []
    with torch.inference_mode():
        for _ in range(ROWS):
            started = time.perf_counter()
            model(view)
            forward.append(1000 * (time.perf_counter() - started))
    return {"first": times[0], "next": statistics.median(times[1:]), "forward": statistics.median(forward)}


def measure(runs: int) -> list[Figure]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = jpeg_files(folder)
        predictor, model, rows = fit(table, folder / "predictor"), bare_model(), table[["image"]]
        pairs = []
        for run in range(runs + 1):
            times = [time.perf_counter()]
            predictor.predict(rows)
            times.append(time.perf_counter())
            bare_predict(model, list(table["image"]))
            times.append(time.perf_counter())
            if run:  # the first run warms up
                pairs.append((times[1] - times[0], times[2] - times[1]))
        command = [sys.executable, __file__, "--latencies", str(folder / "predictor"), table["image"].iloc[0]]
        found = [json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]) for _ in range(runs)]
    return [
        Figure("predict, 500 JPEG files: ours", [NUM_FILES / a for a, _ in pairs], "images/s", digits=0),
        Figure("predict, 500 JPEG files: bare", [NUM_FILES / b for _, b in pairs], "images/s", digits=0),
        Figure("predict, 500 JPEG files: ours / bare", [b / a for a, b in pairs], at_least=0.85),
        Figure("predict, first row after load", [each["first"] for each in found], "ms", at_most=60, digits=1),
        Figure("predict, a row at a time", [each["next"] for each in found], "ms", at_most=10, digits=1),
        Figure("predict, bare forward of one picture", [each["forward"] for each in found], "ms", digits=1),
    ]


def main() -> None:
    if "--latencies" in sys.argv:
        print(json.dumps(latencies(*sys.argv[2:])))
        return
    options = parser(__doc__).parse_args()
    print_machine()
    print_figures(measure(options.runs), options.runs)


if __name__ == "__main__":
    main()
