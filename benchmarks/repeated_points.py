"""What never trying a point of a space twice is worth, on scikit-learn's digits, two trials at a time.

    python benchmarks/repeated_points.py [--seeds 40] [--spaces forests classifiers] [--searchers random,bayes,...]

- forests: 216 random forests, a finite space.
- classifiers: one of four, each with its own hyperparameters: two have continuous ranges, one has 18 points and one has one.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from sklearn.base import ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from automm_hpo.hpo.once import Once
from automm_hpo.hpo.result_keys import METRIC
from automm_hpo.hpo.searchers import SEARCHERS, OwnSearcher
from automm_hpo.space import Branch, Branches, Choice, Float, Int, SearchSpace, finish_proposal, point_of

SPACES: dict[str, SearchSpace] = {
    "forests": {
        "n_estimators": Choice((10, 30, 100)),
        "max_depth": Choice((2, 4, 8, None)),
        "max_features": Choice(("sqrt", 0.3, 1.0)),
        "min_samples_leaf": Choice((1, 3, 10)),
        "criterion": Choice(("gini", "entropy")),
    },
    "classifiers": {
        "classifier": Branches(
            (
                Branch({"kind": "svc"}, {"C": Float(1e-3, 1e3, log=True), "gamma": Float(1e-5, 1, log=True)}),
                Branch({"kind": "logistic"}, {"C": Float(1e-4, 1e3, log=True)}),
                Branch({"kind": "tree"}, {"max_depth": Int(2, 10), "criterion": Choice(("gini", "entropy"))}),
                Branch({"kind": "bayes"}, {}),
            )
        )
    },
}
SEARCHERS_OF = {"forests": "random,bayes,evolution,hyperopt,nevergrad", "classifiers": "random,bayes"}  # the others do not support branches
Accuracy = Callable[[Mapping[str, Any]], float]


def built(values: Mapping[str, Any]) -> ClassifierMixin:
    own = {name: value for name, value in values.items() if name != "kind"}
    match values.get("kind"):
        case None:
            return RandomForestClassifier(random_state=0, **own)
        case "svc":
            return make_pipeline(StandardScaler(), SVC(**own))
        case "logistic":
            return make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, **own))
        case "tree":
            return DecisionTreeClassifier(random_state=0, **own)
        case _:
            return GaussianNB()


def accuracies(split: int = 0) -> Accuracy:
    """Returns a function from a classifier's values to its accuracy on the half of the digits that it was not fitted to.

    Args:
        split: seed of the split into halves.
    """
    train, valid, train_label, valid_label = train_test_split(*load_digits(return_X_y=True), test_size=0.5, random_state=split)

    @cache
    def accuracy(values: tuple[tuple[str, Any], ...]) -> float:
        return built(dict(values)).fit(train, train_label).score(valid, valid_label)

    return lambda values: accuracy(tuple(sorted(values.items())))


def search(searcher: OwnSearcher, space: SearchSpace, accuracy: Accuracy, num_trials: int) -> tuple[float, int]:
    """Returns the best accuracy found, and the number of distinct points tried."""
    scores, points = dict[int, float](), set[Any]()
    for number in range(num_trials + 1):
        if number < num_trials:
            proposal = searcher.suggest(str(number))
            points.add(point_of(space, proposal))
            scores[number] = accuracy(finish_proposal(space, proposal, {}))
        if number > 0:
            searcher.on_trial_complete(str(number - 1), {METRIC: scores[number - 1]})
    return max(scores.values()), len(points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--spaces", nargs="+", default=list(SPACES), choices=list(SPACES))
    parser.add_argument("--searchers", help="of those that take the space")
    args = parser.parse_args()
    accuracy = accuracies()
    print("| space | searcher | trials | best accuracy, points repeated | tried once | different points, repeated | tried once |")
    print("|---|---|---|---|---|---|---|")
    for name in args.spaces:
        space = SPACES[name]
        for searcher, num_trials in itertools.product((args.searchers or SEARCHERS_OF[name]).split(","), (10, 20, 40)):
            found, distinct = [], []
            for once in (False, True):
                proposers = [SEARCHERS[searcher](space, {}, seed, []) for seed in range(args.seeds)]
                results = [search(Once(proposer) if once else proposer, space, accuracy, num_trials) for proposer in proposers]
                found.append(statistics.mean(accuracy for accuracy, _ in results))
                distinct.append(statistics.mean(count for _, count in results))
            print(f"| {name} | {searcher} | {num_trials} | {found[0]:.4f} | {found[1]:.4f} | {distinct[0]:.1f} | {distinct[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
