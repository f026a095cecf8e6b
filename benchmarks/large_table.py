"""What a large table costs before the first training step, and what an epoch costs.

    python benchmarks/large_table.py [--runs 3] [--rows 100000]

Twelve columns of numbers, six of categories, one of numbers as text, one of dates, two classes; all drawn at random, because accuracy is not measured.
PLANNED: column types inferred, rows split, encoders fitted, everything checked. PREPARED: from there until the training, with the tensors on disk. Then one
epoch of the default model, on one thread. Imports happen before the clock starts.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import sklearn.metrics  # noqa: F401  # the metric needs it: imported before the clock starts
import torch
from common import Figure, parser, print_figures, print_machine

from automm_hpo import MultiModalPredictor, predictor
from automm_hpo.hpo.training_trial import Training


def random_table(num_rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {f"number_{i}": rng.normal(size=num_rows).round(3) for i in range(12)}
    values |= {f"category_{i}": rng.choice([f"word {j}" for j in range(20)], num_rows) for i in range(6)}
    values["text_of_numbers"] = rng.integers(0, 1_000, num_rows).astype(str)
    values["date"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1_000, num_rows), unit="D")
    return pd.DataFrame(values | {"label": np.where(values["number_0"] + values["number_1"] > 0, "yes", "no")})


def seconds_of_fit(table: pd.DataFrame, folder: Path) -> tuple[float, float, float]:
    """Returns the seconds of (planning, preparing, one epoch)."""
    times: dict[str, float] = {}
    run_fit, train = predictor.run_fit, Training.__call__

    def planned(*arguments: Any) -> Any:
        times["planned"] = time.perf_counter()
        return run_fit(*arguments)

    def prepared(*arguments: Any) -> Any:
        times["prepared"] = time.perf_counter()
        return train(*arguments)

    started = time.perf_counter()
    with mock.patch.object(predictor, "run_fit", planned), mock.patch.object(Training, "__call__", prepared):
        found = MultiModalPredictor(label="label", verbosity=0).fit(table, hyperparameters={"optim.max_epochs": 1}, tracking=None, save_path=folder)
    return times["planned"] - started, times["prepared"] - times["planned"], float(found.leaderboard()["seconds"].iloc[0])


def main() -> None:
    arguments = parser(__doc__, runs=3)
    arguments.add_argument("--rows", type=int, default=100_000)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    print_machine()
    table = random_table(options.rows)
    with tempfile.TemporaryDirectory() as place:
        seconds_of_fit(table.head(2_000), Path(place) / "warm")
        runs = [seconds_of_fit(table, Path(place) / str(run)) for run in range(options.runs)]
    names = ("planned", "prepared", "an epoch")
    print_figures([Figure(f"{options.rows:,} rows: {name}", values, "s") for name, values in zip(names, zip(*runs, strict=True), strict=True)], options.runs)


if __name__ == "__main__":
    main()
