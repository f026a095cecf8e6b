"""What can follow a search, compared on the same searches: the best trial alone, soups, ensembles and a refit.

The data and the search are the demo's (``tutorials/01_quickstart.py``): 2,000 training images of the shipped Fashion-MNIST (400 of them for validation)
and 2,000 test images. Each seed searches once, keeping three epochs of the best trial and five trials; then every variant starts from those same trials,
one after another, without a time limit of its own. "alone" is the best epoch of the best trial. Gains are in points of test accuracy over it, per seed.

With --time-limit the search is cut short, so that its best trial has not reached the end of its learning-rate schedule.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from common import parser, print_figure, print_header, print_machine
from demo_accuracy import tutorial_settings

from automm_hpo import MultiModalPredictor
from automm_hpo.artifact import Artifact
from automm_hpo.datasets import fashion_mnist
from automm_hpo.fit import run
from automm_hpo.fit.finishing import run_after_search

METHOD = "optim.top_k_average_method"
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "alone": ("best", {}),
    "greedy soup": ("greedy_soup", {}),
    "uniform soup": ("uniform_soup", {}),
    "ensemble of 3": ("best", {"ensemble_size": 3}),
    "ensemble of 5": ("best", {"ensemble_size": 5}),
    "soup and ensemble of 5": ("greedy_soup", {"ensemble_size": 5}),
    "refit": ("best", {"refit": True}),
}


@contextmanager
def every_way() -> Iterator[dict[str, tuple[Artifact, float]]]:
    """Within it, a fit runs all variants after its search; yields a dict that gets each variant's result and seconds."""
    found: dict[str, tuple[Artifact, float]] = {}

    def compare(plan, records, progress, best, artifact, deadline):
        for way, (method, options) in WAYS.items():
            started = time.perf_counter()
            search = replace(plan.search, config=plan.search.config.with_overrides({METHOD: method}))
            result, _ = run_after_search(replace(plan, search=search, **options), records, progress, best, artifact, None)
            found[way] = result, time.perf_counter() - started
        return artifact, True

    with mock.patch.object(run, "run_after_search", compare):
        yield found


def main() -> None:
    arguments = parser(__doc__, runs=3)
    arguments.add_argument("--time-limit", type=float, help="seconds of each search (default: the tutorial's)")
    options = arguments.parse_args()
    print_machine()
    settings = tutorial_settings()
    settings["hyperparameters"] |= {METHOD: "greedy_soup"}
    settings["hyperparameter_tune_kwargs"] |= {"num_to_keep": 3, "keep_trials": 5}
    settings["time_limit"] = options.time_limit or settings["time_limit"]
    print(f"here      num_to_keep=3, keep_trials=5, time_limit={settings['time_limit']:g}")
    test_accuracy: dict[str, list[float]] = {way: [] for way in WAYS}
    validation: dict[str, list[float]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        train, test = fashion_mnist(Path(name) / "images")
        for seed in range(options.runs):
            with every_way() as found:
                predictor = MultiModalPredictor(label="label", verbosity=0)
                predictor.fit(train, save_path=Path(name) / f"predictor_{seed}", seed=seed, tracking=None, **settings)
            print(f"\nseed {seed}, trials {len(predictor.leaderboard())}")
            for way, (artifact, took) in found.items():
                predictor._adopt(artifact, Path(predictor.path or ""))
                test_accuracy[way].append(predictor.evaluate(test, metrics="accuracy")["accuracy"])
                validation[way].append(artifact.summary["val_accuracy"])
                seconds[way].append(took)
                made = artifact.summary.get("ensemble", artifact.summary.get("soup", artifact.summary.get("refit", {})))
                what = made.get("members") or made.get("ingredients") or made or [artifact.summary["best_trial"], artifact.summary["best_epoch"]]
                print(f"  {way:<24}validation {validation[way][-1]:.4f}  test {test_accuracy[way][-1]:.4f}  {took:6.2f} s  {what}")
    for title, figures, unit, digits in (("validation accuracy", validation, "", 4), ("test accuracy", test_accuracy, "", 4), ("seconds", seconds, "s", 2)):
        print_header(options.runs)
        for way, values in figures.items():
            print_figure(f"{way}, {title}", values, unit, f"mean {statistics.mean(values):.{digits}f}", digits=digits)
    print_header(options.runs)
    for way, values in test_accuracy.items():
        gains = [100 * (value - alone) for value, alone in zip(values, test_accuracy["alone"], strict=True)]
        print_figure(f"{way}, gain in test accuracy", gains, "points", f"mean {statistics.mean(gains):+.2f}")


if __name__ == "__main__":
    main()
