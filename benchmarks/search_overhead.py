"""What a search costs in addition to training: Ray's start, the first trial, every further trial.

Each fit is 16 trials, one at a time, with FIFO and random search over the learning rate alone, so that all trials do the same work: test_resnet, 32 px,
500 images of the shipped Fashion-MNIST, 2 epochs. Every measurement runs in its own process, so that Ray starts anew; runs with and without MLflow
alternate (with a new database every time).

A trial's bare training is the `seconds` of its record: training and validation. It ends when its last row is in its log, by the file's modification time.
A further trial's overhead is the time from the previous trial's end to its own, minus its bare training. It has two parts: until its configuration is
proposed (Ray and the records close the last trial), and the rest (a warm actor gets the trial, builds model and optimizer, writes checkpoints).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import parser, print_figure, print_header, print_machine

NUM_IMAGES, EPOCHS = 500, 2
SETTINGS = {"searcher": "random", "scheduler": "FIFO", "max_concurrent_trials": 1}
FIXED = {
    "model.timm_image.checkpoint_name": "test_resnet",
    "model.timm_image.pretrained": False,
    "model.timm_image.image_size": 32,
    "env.batch_size": 32,
    "optim.max_epochs": EPOCHS,
}
FIGURES = {  # name -> printed label
    "imports": "imports of predictor and ray.tune",
    "fit": "fit",
    "training": "bare training of all trials",
    "first_proposed": "first trial: fit's call until it is proposed",
    "first": "first trial: fit's call until its end, less its training",
    "further": "further trial, median of a fit",
    "further_worst": "further trial, slowest of a fit",
    "until_proposed": "  of which until it is proposed, median",
    "from_proposed": "  of which from then on, median",
    "after": "after the last trial's end until fit returns",
}
GOALS = {"further": "goal <= 0.50", "further_worst": "goal <= 0.50"}


def measure_ray() -> dict[str, float]:
    started = time.time()
    from automm_hpo.hpo.cluster import ray_cluster

    with ray_cluster():
        running = time.time()
    return {"start": running - started, "stop": time.time() - running}


def measure_fit(images: str, tracking: str, num_trials: int) -> dict[str, float]:
    started = time.time()
    from ray import tune

    from automm_hpo import MultiModalPredictor
    from automm_hpo.datasets import fashion_mnist
    from automm_hpo.hpo.records import SearchRecords

    table = fashion_mnist(images)[0].head(NUM_IMAGES)
    called = time.time()
    MultiModalPredictor(label="label", verbosity=0).fit(
        table,
        hyperparameters=FIXED | {"optim.lr": tune.loguniform(1e-3, 1e-2)},
        hyperparameter_tune_kwargs=SETTINGS | {"num_trials": num_trials},
        save_path="predictor",
        tracking=None if tracking == "none" else tracking,
    )
    returned = time.time()
    records = SearchRecords(Path("predictor/search"))
    trials = records.trials()
    if [trial.epochs for trial in trials] != [EPOCHS] * num_trials:
        raise SystemExit(f"trials differ: {[(trial.epochs, trial.status) for trial in trials]}")
    ends = [(records.folder_of(trial.number).path / "metrics.jsonl").stat().st_mtime for trial in trials]
    later = list(zip(trials[1:], ends[1:], ends[:-1], strict=True))
    further = [end - previous - trial.seconds for trial, end, previous in later]
    return {
        "imports": called - started,
        "fit": returned - called,
        "training": sum(trial.seconds for trial in trials),
        "first_proposed": trials[0].started - called,
        "first": ends[0] - called - trials[0].seconds,
        "further": statistics.median(further),
        "further_worst": max(further),
        "until_proposed": statistics.median(trial.started - previous for trial, _, previous in later),
        "from_proposed": statistics.median(end - trial.started - trial.seconds for trial, end, _ in later),
        "after": returned - ends[-1],
    }


def in_fresh_process(*arguments: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, __file__, "--measure", *arguments], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--trials", type=int, default=16, help="trials of a fit (default 16)")
    options = arguments.parse_args()
    print_machine()
    from automm_hpo.datasets import fashion_mnist

    ray: list[dict[str, float]] = []
    fits: dict[str, list[dict[str, float]]] = {"none": [], "mlflow": []}
    with tempfile.TemporaryDirectory() as images:
        fashion_mnist(images)
        for _ in range(options.runs):
            ray.append(in_fresh_process("ray"))
            for tracking, measured in fits.items():
                measured.append(in_fresh_process("fit", images, tracking, str(options.trials)))
    print_header(options.runs)
    print_figure("ray_cluster alone: import and start", [run["start"] for run in ray], "s")
    print_figure("ray_cluster alone: stop", [run["stop"] for run in ray], "s")
    for tracking, measured in fits.items():
        print(f"\n{options.trials} trials, tracking {tracking}")
        for name, words in FIGURES.items():
            print_figure(words, [run[name] for run in measured], "s", GOALS.get(name, ""))


if __name__ == "__main__":
    if sys.argv[1:3] == ["--measure", "ray"]:
        print(json.dumps(measure_ray()))
    elif sys.argv[1:3] == ["--measure", "fit"]:
        images, tracking, num_trials = sys.argv[3:]
        print(json.dumps(measure_fit(images, tracking, int(num_trials))))
    else:
        main()
