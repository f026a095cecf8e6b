"""SIGKILL at random moments, many times, then the same call to its end: checks that nothing was lost.

python benchmarks/kills.py --kills 200                      the training loop in one process, killed 200 times
python benchmarks/kills.py --kills 20 --ray                 a search on Ray of real trainings
python benchmarks/kills.py --kills 3 --ray --objective --searcher bayes --scheduler PBT       the same with trials of 50 ms an epoch

After the last kill the call runs to its end. It checks that every trial occurs once, with the configuration first recorded for it, that
each (trial, segment, epoch) has one row, that rows never change, that the outcome is that of an uninterrupted run (bit for bit, if the search does not
depend on timing), and that no trial process outlives its driver by more than 10 s.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

MAX_EPOCHS = 8
ARGUMENTS = {"bandit": {"slack_factor": 0.2}, "truncation": {"truncation_percentage": 25}}  # required by these schedulers
MARK = "AUTOMM_HPO_KILLS"  # environment variable of a killed call, inherited by all its processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ray", action="store_true", help="a search on Ray; else one training in this process")
    parser.add_argument("--objective", action="store_true", help="with --ray: a Trainable of ours instead of trainings")
    parser.add_argument("--searcher", default="random")
    parser.add_argument("--scheduler", default="FIFO")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run(options, options.child)
        return
    with tempfile.TemporaryDirectory(prefix="automm_hpo_kills_") as folder:
        print(json.dumps(kill_and_check(options, Path(folder)), indent=1))


def run(options: argparse.Namespace, path: Path) -> None:
    """Makes the call that is killed."""
    if options.objective:
        from ray import tune

        from automm_hpo import tune_objective

        class Curve(tune.Trainable):
            """Adds up what each step earns, so that a lost or repeated step shows in the total."""

            def setup(self, config):
                self.config, self.total = config, 0.0

            def step(self):
                time.sleep(0.05)
                self.total += self.config["rate"] * (1 + self.config["depth"])
                return {"total": self.total}

            def save_checkpoint(self, folder):
                Path(folder, "total.json").write_text(json.dumps(self.total))

            def load_checkpoint(self, folder):
                self.total = json.loads(Path(folder, "total.json").read_text())

        fixed_depth = options.scheduler in ("PBT", "PB2") or options.searcher == "bayesopt"
        depth = 1 if fixed_depth else tune.randint(1, 4) if options.searcher == "cmaes" else tune.choice([1, 2, 3])
        space = {"rate": tune.uniform(0.1, 1.0), "depth": depth}
        if options.searcher == "grid":
            space["rate"] = tune.grid_search([0.1, 0.5, 1.0])
        kwargs = {"searcher": options.searcher, "scheduler": options.scheduler, "num_trials": options.trials}
        kwargs |= {"scheduler_init_args": ARGUMENTS[options.scheduler]} if options.scheduler in ARGUMENTS else {}
        tune_objective(Curve, space, kwargs, "total", "max", max_epochs=MAX_EPOCHS, save_path=path, seed=0, tracking=None, verbosity=0)
        return
    from automm_hpo import MultiModalPredictor
    from automm_hpo.datasets import fashion_mnist

    train = fashion_mnist(path.parent / "fashion")[0].head(200)
    hyperparameters = {
        "model.timm_image.checkpoint_name": "test_resnet",
        "model.timm_image.pretrained": False,
        "model.timm_image.image_size": 32,
        "env.batch_size": 16,
        "optim.lr": 3e-3,
        "optim.max_epochs": MAX_EPOCHS,
        "optim.val_check_interval": 0.5,
    }
    kwargs = None
    if options.ray:
        from ray import tune

        hyperparameters["optim.lr"] = tune.loguniform(1e-4, 1e-2)
        kwargs = {"searcher": options.searcher, "scheduler": options.scheduler, "num_trials": options.trials, "num_to_keep": 2}
    predictor = MultiModalPredictor("label", verbosity=0)
    predictor.fit(train, hyperparameters=hyperparameters, hyperparameter_tune_kwargs=kwargs, save_path=path, seed=0, tracking=None)


def start(options: argparse.Namespace, path: Path) -> int:
    """Starts the call in its own process and returns the pid."""
    if not options.ray:  # fork this process, which has imported everything, so that a start takes no time
        pid = os.fork()
        if pid == 0:
            try:
                run(options, path)
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        return pid
    names = ("searcher", "scheduler", "trials", "seed")
    command = [sys.executable, __file__, "--child", str(path), "--ray", *(["--objective"] if options.objective else [])]
    command += [text for name in names for text in (f"--{name}", str(getattr(options, name)))]
    return subprocess.Popen(command, env={**os.environ, MARK: str(path)}).pid


def wait(pid: int, seconds: float) -> int | None:
    """Returns the exit status, or None if the process has not ended within ``seconds``."""
    until = time.time() + seconds
    while time.time() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def kill_and_check(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    if not options.ray:
        import torch

        import automm_hpo.predictor  # noqa: F401  # imported before the forks
        from automm_hpo.datasets import fashion_mnist

        torch.set_num_threads(1)
        fashion_mnist(folder / "fashion")
    rng = random.Random(options.seed)
    reference = folder / "reference"
    began = time.time()
    assert wait(start(options, reference), 600) == 0, "the uninterrupted run failed"
    whole_seconds = time.time() - began
    path, kills, finished_early, seen = folder / "killed", 0, 0, {}
    configs: dict[str, str] = {}
    longest_survivor = 0.0
    while kills < options.kills:
        pid = start(options, path)
        status = wait(pid, rng.uniform(0, whole_seconds))
        assert status in (None, 0), f"after {kills} kills, the call failed"
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
            if options.ray:
                longest_survivor = max(longest_survivor, survivors_end(path))
        else:
            finished_early += 1
            shutil.rmtree(path)
            seen, configs = {}, {}
            continue
        note_progress(path, seen, configs)
    assert wait(start(options, path), 900) == 0, "the last call failed"
    note_progress(path, seen, configs)
    rows, expected = all_rows(path), all_rows(reference)
    counts = Counter((trial, row["segment"], row["epoch"]) for trial, row in rows)
    assert max(counts.values()) == 1, f"rows twice: {[key for key, count in counts.items() if count > 1]}"
    trials = sorted({trial for trial, _ in rows})
    if options.scheduler == "FIFO":
        assert trials == sorted({trial for trial, _ in expected}), (trials, len(expected))
        if options.searcher in ("random", "grid", "qmc") or not options.ray:
            found, wanted = ({key: value_of(row) for key, row in keyed(each).items()} for each in (rows, expected))
            differing = {key: (found.get(key), wanted.get(key)) for key in sorted(found.keys() | wanted.keys()) if found.get(key) != wanted.get(key)}
            assert not differing, f"the results differ from those of the uninterrupted run: {differing}"
    leftovers = [str(file.relative_to(path)) for file in path.rglob("*") if file.name.endswith((".tmp", ".new", ".old"))]
    return {
        "kills": kills,
        "calls that ended before their kill": finished_early,
        "trials": len(trials),
        "rows": len(rows),
        "uninterrupted seconds": round(whole_seconds, 1),
        "longest that a trial's process outlived its driver, seconds": round(longest_survivor, 1),
        "temporary files left": leftovers,
    }


def survivors_end(path: Path, limit: float = 10.0) -> float:
    """Returns the seconds until no trial process is left."""
    began = time.time()
    while found := [pid for pid in os.listdir("/proc") if pid.isdigit() and _is_trial(pid, path)]:
        assert time.time() - began < limit, f"processes {found} are still there after {limit} s"
        time.sleep(0.1)
    return time.time() - began


def _is_trial(pid: str, path: Path) -> bool:
    try:
        title, environment = (Path("/proc", pid, name).read_bytes() for name in ("cmdline", "environ"))
    except OSError:
        return False
    return title.startswith(b"ray::TrialRunner") and f"{MARK}={path}".encode() in environment.split(b"\0")


def note_progress(path: Path, seen: dict, configs: dict[str, str]) -> None:
    """Checks that rows and configurations have not changed. Rows may vanish with a torn checkpoint; segments only add to a configuration."""
    for file in sorted(path.glob("search/trials/*/config.json")):
        raw = json.dumps(json.loads(file.read_text())["raw"])
        assert configs.setdefault(file.parent.name, raw) == raw, f"{file} has changed"
    for (trial, segment, epoch), row in keyed(all_rows(path)).items():
        value = value_of(row)
        assert seen.setdefault((trial, segment, epoch), value) == value, f"trial {trial}, epoch {epoch}: {seen[(trial, segment, epoch)]} became {value}"


def all_rows(path: Path) -> list[tuple[str, dict]]:
    rows = []
    for file in sorted(path.glob("search/trials/*/metrics.jsonl")):
        rows += [(file.parent.name, json.loads(line)) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return rows


def keyed(rows: list[tuple[str, dict]]) -> dict:
    return {(trial, row["segment"], row["epoch"]): row for trial, row in rows}


def value_of(row: dict) -> tuple:
    return tuple(row[name] for name in ("score", "metric", "train_loss", "valid_loss", "lr"))


if __name__ == "__main__":
    main()
