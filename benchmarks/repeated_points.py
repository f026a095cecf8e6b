"""What it is worth to try no point of a finite space twice: searches among 216 forests on the digits of scikit-learn, two trials at a time.

python benchmarks/repeated_points.py [--seeds 40] [--searchers random,bayes,...]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from typing import Any

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from automm_hpo.hpo.once import Once
from automm_hpo.hpo.result_keys import METRIC
from automm_hpo.hpo.searchers import SEARCHERS, OwnSearcher
from automm_hpo.space import Choice, SearchSpace

SPACE: SearchSpace = {
    "n_estimators": Choice((10, 30, 100)),
    "max_depth": Choice((2, 4, 8, None)),
    "max_features": Choice(("sqrt", 0.3, 1.0)),
    "min_samples_leaf": Choice((1, 3, 10)),
    "criterion": Choice(("gini", "entropy")),
}
Table = dict[tuple[Any, ...], float]


def accuracies(split: int = 0) -> Table:
    """Of every forest, on the half of the digits that it has not seen.

    Args:
        split: the seed of the halves.
    """
    train, valid, train_label, valid_label = train_test_split(*load_digits(return_X_y=True), test_size=0.5, random_state=split)
    found = {}
    for values in itertools.product(*(domain.options for domain in SPACE.values())):
        forest = RandomForestClassifier(random_state=0, **dict(zip(SPACE, values, strict=True)))
        found[values] = forest.fit(train, train_label).score(valid, valid_label)
    return found


def search(searcher: OwnSearcher, table: Table, num_trials: int) -> tuple[float, int]:
    """The best accuracy it finds, and how many different forests it tries."""
    found: dict[str, tuple[Any, ...]] = {}
    for number in range(num_trials + 1):
        if number < num_trials:
            proposal = searcher.suggest(str(number))
            found[str(number)] = tuple(SPACE[key].finish(proposal[key]) for key in SPACE)
        if number > 0:
            searcher.on_trial_complete(str(number - 1), {METRIC: table[found[str(number - 1)]]})
    return max(table[values] for values in found.values()), len(set(found.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--searchers", default="random,bayes,evolution,hyperopt,nevergrad")
    args = parser.parse_args()
    table = accuracies()
    best = max(table.values())
    print("| searcher | trials | short of the best forest, points drawn | tried once | different points, drawn | tried once |\n|---|---|---|---|---|---|")
    for name, num_trials in itertools.product(args.searchers.split(","), (10, 20, 40)):
        shortfalls, distinct = [], []
        for once in (False, True):
            built = [SEARCHERS[name](SPACE, {}, seed, []) for seed in range(args.seeds)]
            results = [search(Once(searcher) if once else searcher, table, num_trials) for searcher in built]
            shortfalls.append(best - statistics.mean(accuracy for accuracy, _ in results))
            distinct.append(statistics.mean(count for _, count in results))
        print(f"| {name} | {num_trials} | {shortfalls[0]:.4f} | {shortfalls[1]:.4f} | {distinct[0]:.1f} | {distinct[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
