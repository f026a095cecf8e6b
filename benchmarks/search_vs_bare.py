"""A whole search against the same trainings written by hand: wall-clock time including imports, and memory.

mobilenetv3_large_100 from random weights, 64 px, 100 images of the shipped Fashion-MNIST (20 of them for validation), 2 epochs, random search over the
learning rate, FIFO, no tracking: every trial does the same work. Every measurement is a fresh process, and the variants alternate.

- ours: import and ``fit`` with --trials trials, until it returns with the best model saved. It starts in its own process and moves to Ray, two trials
  at a time, if that pays; "on Ray" is the same with ``max_concurrent_trials=2``, which starts on Ray
- Ray Tune by hand: the same trials as a function that reports, with Ray's own defaults (a fresh process for each trial)
- bare, --trials 4: one process trains them one after another and writes nothing
- bare, --trials 32: two processes side by side train half of the trials each and write weights and optimizer after every epoch, as ours does
- a bare Ray: its start, two actors that import torch and timm and take one step each, its shutdown
- memory, as the peak PSS over the process tree: ours with 4 trials, on Ray and by default, and a bare Ray whose driver and two actors import the
  same and whose actors take one step; also such a Ray whose driver imports nothing but Ray

AutoMM 1.6 took 87 s for the 4 trials and 4.8 GiB, on another 2-core machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
MODEL, SIZE = "mobilenetv3_large_100", 64
NUM_IMAGES, NUM_VALID, CORES = 100, 20, 2
GOALS = {4: 1.6, 32: 1.25}
MEMORY_GOAL = 0.3  # GiB above bare Ray
LOWEST, HIGHEST = 1e-3, 1e-2  # learning rates


def ours(images: str, num_trials: int, where: str = "") -> None:
    from bare import Recipe
    from ray import tune

    from automm_hpo import MultiModalPredictor
    from automm_hpo.datasets import fashion_mnist

    table = fashion_mnist(images)[0].head(NUM_IMAGES)
    MultiModalPredictor(label="label", verbosity=0).fit(
        table,
        hyperparameters=Recipe(MODEL, SIZE).hyperparameters | {"optim.lr": tune.loguniform(LOWEST, HIGHEST)},
        hyperparameter_tune_kwargs={"searcher": "random", "scheduler": "FIFO", "num_trials": num_trials} | ({"max_concurrent_trials": CORES} if where else {}),
        holdout_frac=NUM_VALID / NUM_IMAGES,
        save_path="predictor",
        tracking=None,
    )


def bare(images: str, num_trials: int, writes: str) -> None:
    import torch
    from bare import Recipe, bare_training, decode

    from automm_hpo.datasets import fashion_mnist

    torch.set_num_threads(1)
    own, table = Recipe(MODEL, SIZE), fashion_mnist(images)[0].head(NUM_IMAGES)
    pixels, target = decode(list(table["image"]), own), torch.from_numpy(table["label"].astype("category").cat.codes.to_numpy("int64"))
    train, valid = slice(NUM_VALID, None), slice(NUM_VALID)
    for trial in range(num_trials):
        lr = LOWEST * (HIGHEST / LOWEST) ** (trial / num_trials)
        folder = Path(f"{os.getpid()}-{trial}") if writes == "writes" else None
        bare_training(pixels[train], target[train], pixels[valid], target[valid], own, folder, lr)


def by_hand(images: str, num_trials: int) -> None:
    """Runs the same trials with Ray Tune as in its tutorials: a function that trains and reports."""
    import torch
    from bare import Recipe, bare_training, decode
    from ray import tune

    from automm_hpo.datasets import fashion_mnist

    own, table = Recipe(MODEL, SIZE), fashion_mnist(images)[0].head(NUM_IMAGES)
    pixels, target = decode(list(table["image"]), own), torch.from_numpy(table["label"].astype("category").cat.codes.to_numpy("int64"))

    def objective(config: dict, pixels: torch.Tensor, target: torch.Tensor) -> None:
        torch.set_num_threads(1)
        train, valid = slice(NUM_VALID, None), slice(NUM_VALID)
        accuracy = bare_training(pixels[train], target[train], pixels[valid], target[valid], own, Path("checkpoints").absolute(), config["lr"])
        tune.report({"accuracy": accuracy})

    tune.Tuner(
        tune.with_parameters(objective, pixels=pixels, target=target),
        param_space={"lr": tune.loguniform(LOWEST, HIGHEST)},
        tune_config=tune.TuneConfig(num_samples=num_trials, metric="accuracy", mode="max"),
        run_config=tune.RunConfig(storage_path=str(Path("ray").absolute()), verbose=0),
    ).fit()


def bare_ray(seconds: int, driver: str = "light") -> None:
    """Runs two Ray actors that import what a trial needs, take one step and stay alive for ``seconds``.

    Args:
        driver: ``imports``: the driver imports what its actors import, like a script that inspects its models; otherwise it imports nothing but Ray.
    """
    import ray
    from ray import tune  # noqa: F401  # as in any script that searches with it

    if driver == "imports":
        import bare  # noqa: F401

    ray.init(address="local", num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="error", object_store_memory=100_000_000)

    @ray.remote(num_cpus=1)
    class Actor:
        def step(self) -> float:
            import torch
            from bare import Recipe, bare_training

            torch.set_num_threads(1)
            own, rows = Recipe(MODEL, SIZE, epochs=1), 32
            pixels, target = torch.zeros(rows, 73, 73, 3, dtype=torch.uint8), torch.arange(rows) % 10
            accuracy = bare_training(pixels, target, pixels, target, own, None)
            time.sleep(seconds)
            return accuracy

    actors = [Actor.remote() for _ in range(CORES)]
    ray.get([actor.step.remote() for actor in actors])
    ray.shutdown()


def timed(*roles: tuple[str, ...], memory: bool = False) -> tuple[float, float]:
    """Returns the wall seconds until all processes have ended, and the first one's peak PSS over its process tree in GiB (0 without ``memory``)."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        children = [subprocess.Popen([sys.executable, __file__, "--role", *role], cwd=folder, env=environment, stdout=subprocess.DEVNULL) for role in roles]
        peak = PeakMemory(children[0].pid) if memory else None
        if any(child.wait() for child in children):
            raise SystemExit(f"{roles} failed")
        return time.perf_counter() - started, peak.stop() if peak else 0.0


class PeakMemory:
    """Samples the proportional set size (PSS) of a process and all its descendants."""

    def __init__(self, pid: int) -> None:
        self.pid, self.peak, self._over = pid, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self.peak = max(self.peak, sum(map(_pss, _tree(self.pid))) / 2**20)

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return self.peak


def _tree(root: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _pss(pid: int) -> int:
    """Returns the PSS of one process in KiB, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def measure(runs: int, num_trials: tuple[int, ...] = (4, 32), memory: bool = True) -> list:
    from common import Figure

    from automm_hpo.datasets import fashion_mnist

    figures = []
    with tempfile.TemporaryDirectory() as images:
        fashion_mnist(images)
        for count in num_trials:
            bare_roles = [("bare", images, str(count), "nothing")] if count <= 4 else [("bare", images, str(count // CORES), "writes")] * CORES
            ways = [("ours", images, str(count))], bare_roles, [("by_hand", images, str(count))], [("ours", images, str(count), "ray")]
            rounds = [[timed(*roles)[0] for roles in ways] for _ in range(runs)]
            name = f"search, {count} trials"
            figures += [
                *(
                    Figure(f"{name}: {who}", times, "s", digits=1)
                    for who, times in zip(("ours", "bare", "Ray Tune by hand", "ours, on Ray"), zip(*rounds, strict=True), strict=True)
                ),
                Figure(f"{name}: ours / bare", [own / bare for own, bare, *_ in rounds], at_most=GOALS.get(count)),
                Figure(f"{name}: ours, on Ray / bare", [on_ray / bare for _, bare, _, on_ray in rounds]),
                Figure(f"{name}: ours / Ray Tune by hand", [own / tune for own, _, tune, _ in rounds]),
            ]
        figures.append(Figure("search: a bare Ray, two actors, one step each", [timed(("ray", "0"))[0] for _ in range(runs)], "s", digits=1))
        if memory:
            roles = (("ours", images, "4", "ray"), ("ray", "3", "imports"), ("ray", "3"), ("ours", images, "4"))
            own, whole, light, here = ([timed(role, memory=True)[1] for _ in range(runs)] for role in roles)
            figures += [
                Figure("search, memory: ours, which stays in its process", here, "GiB"),
                Figure("search, memory: ours, on Ray", own, "GiB"),
                Figure("search, memory: bare Ray, driver and actors import the same", whole, "GiB"),
                Figure("search, memory: ours, on Ray, above it", [a - b for a, b in zip(own, whole, strict=True)], "GiB", at_most=MEMORY_GOAL),
                Figure("search, memory: ours, on Ray, above one whose driver imports Ray alone", [a - b for a, b in zip(own, light, strict=True)], "GiB"),
            ]
    return figures


def main() -> None:
    if "--role" in sys.argv:
        role, *values = sys.argv[sys.argv.index("--role") + 1 :]
        numbers = [int(value) if value.isdigit() else value for value in values]
        {"ours": ours, "bare": bare, "by_hand": by_hand, "ray": bare_ray}[role](*numbers)
        return
    from common import parser, print_figures, print_machine

    arguments = parser(__doc__, runs=3)
    arguments.add_argument("--trials", type=int, nargs="*", default=[4, 32])
    arguments.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    options = arguments.parse_args()
    print_machine()
    print_figures(measure(options.runs, tuple(options.trials), options.memory), options.runs)


if __name__ == "__main__":
    main()
