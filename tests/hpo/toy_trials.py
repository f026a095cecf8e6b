"""Trials on real Ray that take milliseconds and keep their state in files, as ours do."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.tune.search import Searcher

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import from the tests folder


class Toy(tune.Trainable):
    """A value that grows faster the nearer the learning rate is to 0.1.

    Recorded rows are reported again first; state is in the trial's folder, and checkpoints only point to it.
    """

    def setup(self, config: dict[str, Any], folder: str, epochs: int, interval: float, ends_at: Mapping[int, int], dies_at: Mapping[int, int]) -> None:
        self.root, self.length, self.interval, self.ends_at, self.dies_at = Path(folder), round(epochs / interval), interval, ends_at, dies_at
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: Mapping[str, Any]) -> None:
        self.values = dict(config)
        self.number = config["trial"]
        self.folder = self.root / str(self.number)
        self.folder.mkdir(exist_ok=True)
        self.replays, self.best = read_rows(self.folder), -math.inf
        self.position, self.value = read_state(self.folder)

    def step(self) -> dict[str, Any]:
        ended = (self.folder / "ended").exists()
        if self.replays:
            _, segment, epoch, score = self.replays.pop(0)
            self.best = max(self.best, score)
            last = not self.replays
            return self._report(segment, epoch, score) | {"replayed": True, "went_on": ended or not last, "done": ended and last}
        if self.position == self.dies_at.get(self.number) and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            raise RuntimeError("a process dies")
        time.sleep(0.005)
        self.position += 1
        self.value += self.interval * math.exp(-(math.log10(self.values["optim.lr"] / 0.1) ** 2))
        self.best = max(self.best, self.value)
        segment, epoch = self.values["segment"], self.position * self.interval
        write_state(self.folder, self.position, self.value)
        with open(self.folder / "rows", "a") as file:
            file.write(json.dumps([self.number, segment, epoch, self.value]) + "\n")
        done = self.position == self.ends_at.get(self.number, self.length)
        if done:
            (self.folder / "ended").touch()
        return self._report(segment, epoch, self.value) | {"replayed": False, "done": done}

    def _report(self, segment: int, epoch: float, score: float) -> dict[str, Any]:
        return {"epoch": epoch, "segment": segment, "score": score, "best_score": self.best}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"trial": self.number, "segment": self.values["segment"], "position": self.position}

    def load_checkpoint(self, checkpoint: Any) -> None:
        with open(self.root / "loads", "a") as file:
            file.write(json.dumps([self.number, checkpoint]) + "\n")
        self.replays = []
        if checkpoint["trial"] != self.number:  # takes over the other trial's newest state
            self.position, self.value = read_state(self.root / str(checkpoint["trial"]))
            write_state(self.folder, self.position, self.value)
            (self.folder / "config").write_text(json.dumps(self.values))


class ToySearcher(Searcher):
    """Proposes learning rates in order; a trial on record gets the config that it had last."""

    def __init__(self, rates: Sequence[float], folder: Path) -> None:
        super().__init__(metric="best_score", mode="max")
        self.rates, self.folder, self.count = rates, folder, 0

    def suggest(self, trial_id: str) -> Any:
        config = {"trial": self.count, "segment": 0, "optim.lr": self.rates[self.count]}
        changed = self.folder / str(self.count) / "config"
        self.count += 1
        return json.loads(changed.read_text()) if changed.exists() else config

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        pass

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        return True

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class Ends(tune.Callback):
    """Notes which trials have ended, for the next session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        (self.folder / str(trial.config["trial"]) / "ended").touch()


class After(tune.Stopper):
    """Ends everything after ``count`` new results."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.count -= not result["replayed"]
        return False

    def stop_all(self) -> bool:
        return self.count <= 0


def run_toys(
    scheduler: Any,
    rates: Sequence[float],
    folder: Path,
    epochs: int = 12,
    interval: float = 1.0,
    ends_at: Mapping[int, int] | None = None,
    dies_at: Mapping[int, int] | None = None,
    stop_after: int = 10**6,
) -> tune.ResultGrid:
    """Runs one trial per rate, two at a time."""
    arguments = {"folder": str(folder), "epochs": epochs, "interval": interval, "ends_at": dict(ends_at or {}), "dies_at": dict(dies_at or {})}
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(Toy, **arguments), {"cpu": 0.5}),
        tune_config=tune.TuneConfig(
            search_alg=ToySearcher(rates, folder), scheduler=scheduler, num_samples=len(rates), max_concurrent_trials=2, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name="toys",
            storage_path=str(folder / "ray"),
            verbose=0,
            callbacks=[Ends(folder)],
            stop=After(stop_after),
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    ).fit()


def read_rows(folder: Path) -> list[list[Any]]:
    """[trial, segment, epoch, score] of each validation."""
    rows = folder / "rows"
    return [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []


def read_state(folder: Path) -> tuple[int, float]:
    state = folder / "state"
    return tuple(json.loads(state.read_text())) if state.exists() else (0, 0.0)


def write_state(folder: Path, position: int, value: float) -> None:
    (folder / "state").write_text(json.dumps([position, value]))
