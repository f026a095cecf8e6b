"""What knowing an earlier search is worth: among 216 forests, first on one random split of the digits, then on another.

python benchmarks/warm_start.py [--seeds 40] [--searchers bayes,...]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from types import SimpleNamespace
from typing import Any

from repeated_points import SPACES, Accuracy, accuracies

from automm_hpo.hpo.once import Once
from automm_hpo.hpo.result_keys import METRIC
from automm_hpo.hpo.searchers import build_searcher
from automm_hpo.space import RawProposal, finish_proposal

SPACE = SPACES["forests"]
Trials = list[tuple[RawProposal, float]]


def search(name: str, seed: int, accuracy: Accuracy, num_trials: int, known: Trials) -> Trials:
    """Runs trials one after another; returns their proposals and scores."""
    settings: Any = SimpleNamespace(searcher=name, searcher_init_args={})
    best = [raw for raw, _ in sorted(known, key=lambda trial: -trial[1])[:1]]
    searcher, trials = Once(build_searcher(settings, SPACE, seed, best, known)), []
    for number in range(num_trials):
        raw = searcher.suggest(str(number))
        score = accuracy(finish_proposal(SPACE, raw, {}))
        searcher.on_trial_complete(str(number), {METRIC: score})
        trials.append((raw, score))
    return trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--searchers", default="bayes,evolution,hyperopt,nevergrad")
    args = parser.parse_args()
    earlier, accuracy = accuracies(split=1), accuracies(split=0)
    best = max(accuracy(dict(zip(SPACE, values, strict=True))) for values in itertools.product(*(domain.options for domain in SPACE.values())))
    print("| searcher | trials | short of the best forest, knowing nothing | the best of 20 earlier ones tried first | all 20 known |\n|---|---|---|---|---|")
    for name, num_trials in itertools.product(args.searchers.split(","), (5, 10, 20)):
        shortfalls: list[list[float]] = [[], [], []]
        for seed in range(args.seeds):
            known = search("random", seed, earlier, 20, [])
            first = max(known, key=lambda trial: trial[1])
            for which, told in enumerate(([], [first], known)):
                shortfalls[which].append(best - max(score for _, score in search(name, seed, accuracy, num_trials, told)))
        print(f"| {name} | {num_trials} | " + " | ".join(f"{statistics.mean(each):.4f}" for each in shortfalls) + " |", flush=True)


if __name__ == "__main__":
    main()
