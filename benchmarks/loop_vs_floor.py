"""The training loop against a bare torch loop that does the same work: the cost of checkpoints, logging, resumability and the rest.

Both train three architectures from random weights on images of the shipped Fashion-MNIST, a fifth of them for validation, batch 32, one torch thread.
OURS is ``run_trial``, as a trial of a search runs it: mapped cache, checksummed resumable checkpoints, log. FLOOR is the loop in ``bare.py``, as one
would write it by hand for this one task: the same pixels in memory, the same crop, mirror, normalisation, schedule, clipping and fused AdamW, a
validation and a ``torch.save`` of weights and optimizer after every epoch, keeping the last two.

Images are decoded before the clock starts; building the model counts for both. Runs alternate in this process, after one uncounted run of each. The ratio
is taken pair by pair. The ratio of CPU seconds is more reliable if other processes disturb the clock, but it leaves out the time spent waiting for the disk.
"""

from __future__ import annotations

import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bare import Recipe, bare_training
from common import Figure, parser, print_figures, print_machine

from automm_hpo.config import Config
from automm_hpo.data.cache import open_cache, store_caches
from automm_hpo.data.encoders import EncodedTable
from automm_hpo.data.features import Features
from automm_hpo.data.images import cover
from automm_hpo.data.split import choose_held_out
from automm_hpo.datasets import fashion_mnist
from automm_hpo.hpo.records import SearchRecords
from automm_hpo.hpo.training_trial import Training
from automm_hpo.hpo.trial import TrialTask, run_trial
from automm_hpo.metrics import find_metric
from automm_hpo.models import image_spec
from automm_hpo.problem import infer_problem
from automm_hpo.training.building import ModelBuilder

# each with the number of images used of the 2,000; a run takes some seconds
TASKS = ((Recipe("test_resnet", 32, epochs=3), 2_000), (Recipe("mobilenetv3_small_100", 64), 1_000), (Recipe("resnet18", 64), 500))
GOAL = 0.97
Run = Callable[[], float]
"""Trains once; gives the last validation accuracy."""


def prepare(folder: Path, recipe: Recipe, num_images: int) -> tuple[Run, Run]:
    """Writes the images to disk and into caches; returns OURS and FLOOR."""
    table = fashion_mnist(folder / "images")[0].head(num_images)
    config = Config.from_flat(recipe.hyperparameters | {"env.accelerator": "cpu"})
    problem = infer_problem(table["label"], "label")
    held_out = choose_held_out(table, problem, 0.2, seed=0)
    splits = {"train": table[~held_out], "valid": table[held_out]}
    geometry = cover([image_spec(config)])
    tables = {name: EncodedTable.of_images([[path] for path in rows["image"]], problem.encode(rows["label"])) for name, rows in splits.items()}
    store_caches(folder / "search/cache", tables, geometry)
    records = SearchRecords(folder / "search")
    task = TrialTask(
        records.folder, Training(problem, ModelBuilder(Features(num_images=1), problem.num_outputs), find_metric("accuracy"), seed=0, num_to_keep=2)
    )
    caches = {name: open_cache(folder / "search/cache", name) for name in splits}
    tensors = {name: (cache.batch(slice(None)).images[:, 0].permute(0, 2, 3, 1).contiguous(), cache.target.clone()) for name, cache in caches.items()}

    def ours() -> float:
        number = records.open_trial({}, {}, config.flat()).number
        return [step.result.metric for step in run_trial(task, number) if step.result][-1]

    def floor() -> float:
        return bare_training(*tensors["train"], *tensors["valid"], recipe, folder / "floor")

    return ours, floor


def clocked(run: Run) -> tuple[float, float, float]:
    """Returns (seconds, CPU seconds, accuracy) of one run."""
    started, started_cpu = time.perf_counter(), time.process_time()
    accuracy = run()
    return time.perf_counter() - started, time.process_time() - started_cpu, accuracy


def print_profile(ours: Run, floor: Run) -> None:
    """Prints where the difference lies: torch's operators by self CPU time side by side, then the Python functions of each by their own time."""
    milliseconds: list[dict[str, float]] = []
    for run in (ours, floor):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run()
        milliseconds.append({event.key: event.self_cpu_time_total / 1e3 for event in profile.key_averages()})
    first, second = milliseconds
    print(f"\n{'torch operator, self CPU ms of a run':<50}{'ours':>10}{'floor':>10}{'difference':>12}")
    print(f"{'all':<50}{sum(first.values()):>10.1f}{sum(second.values()):>10.1f}{sum(first.values()) - sum(second.values()):>12.1f}")
    for key in sorted(first | second, key=lambda key: -abs(first.get(key, 0) - second.get(key, 0)))[:15]:
        print(f"{key[:48]:<50}{first.get(key, 0):>10.1f}{second.get(key, 0):>10.1f}{first.get(key, 0) - second.get(key, 0):>12.1f}")
    for name, run in (("ours", ours), ("floor", floor)):
        with cProfile.Profile() as python:
            run()
        print(f"\nPython functions of {name}, by time in the function itself")
        pstats.Stats(python).sort_stats("tottime").print_stats(15)


def measure(runs: int, profile: bool = False) -> list[Figure]:
    """Measures images/s of both and their ratio, per architecture."""
    torch.set_num_threads(1)
    figures = []
    for recipe, num_images in TASKS:
        with tempfile.TemporaryDirectory() as folder:
            ours, floor = prepare(Path(folder), recipe, num_images)
            clocked(ours), clocked(floor)  # warm up imports, allocator and kernels
            pairs = [(clocked(ours), clocked(floor)) for _ in range(runs)]
            name, trained = f"loop, {recipe.model} {recipe.size} px", recipe.epochs * 0.8 * num_images
            figures += [
                Figure(f"{name}: ours", [trained / a[0] for a, _ in pairs], "images/s", digits=0),
                Figure(f"{name}: bare", [trained / b[0] for _, b in pairs], "images/s", digits=0),
                Figure(f"{name}: ours / bare", [b[0] / a[0] for a, b in pairs], at_least=GOAL, digits=3),
                Figure(f"{name}: ours / bare, by CPU seconds", [b[1] / a[1] for a, b in pairs], digits=3),
            ]
            if profile:
                print_profile(ours, floor)
    return figures


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--profile", action="store_true", help="also show where the time goes (the figures are taken without it)")
    options = arguments.parse_args()
    print_machine()
    print_figures(measure(options.runs, options.profile), options.runs)


if __name__ == "__main__":
    main()
