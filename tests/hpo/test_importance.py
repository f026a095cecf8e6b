import math
import random
import time
from dataclasses import replace

import optuna
import pytest

from automm_hpo.errors import InvalidArgument
from automm_hpo.hpo.importance import EVALUATORS, importances
from automm_hpo.hpo.records import COMPLETED, TrialRecord
from automm_hpo.metrics import find_metric


@pytest.fixture
def trials(curve):
    """Makes 40 trials with an lr, a word and noise, whose metric is ``function`` of these; half of them have one more hyperparameter."""

    def make(metric, function):
        rng, made = random.Random(1), []
        for number in range(40):
            tuned = {"noise": rng.random(), "lr": 10 ** rng.uniform(-5, 0), "word": rng.choice(["a", "b"])}
            if number % 2:
                tuned["sometimes"] = rng.random()
            made.append(TrialRecord(number, tuned, {}, COMPLETED, results=curve(metric, [function(tuned)])))
        return made

    return make


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("name", ["accuracy", "log_loss"])
def test_what_matters_comes_first(trials, evaluator, name):
    metric = find_metric(name)

    def function(tuned):
        return math.exp(metric.score(-((math.log10(tuned["lr"]) + 2) ** 2) - 0.2 * (tuned["word"] == "a")))

    found = importances(trials(metric, function), metric, evaluator)
    assert set(found.index) == {"lr", "word", "noise", "sometimes"}
    assert found.index[0] == "lr"
    assert found["lr"] > 0.5
    assert found.sum() == pytest.approx(1)
    assert found.is_monotonic_decreasing


def test_the_same_trials_give_the_same_numbers_and_leave_optuna_as_it_was(trials):
    metric = find_metric("accuracy")
    made = trials(metric, lambda tuned: tuned["lr"] ** 0.1)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    assert importances(made, metric).equals(importances(made, metric))
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


def test_too_little_to_tell_is_an_error(trials):
    metric = find_metric("accuracy")
    made = trials(metric, lambda tuned: 0.5)
    for few in (made, made[:1], [], [replace(made[0], results=())]):
        with pytest.raises(InvalidArgument, match="importance: expected at least 2 trials with different scores"):
            importances(few, metric)
    two = [replace(record, tuned={}) for record in trials(metric, lambda tuned: tuned["noise"])[:2]]
    with pytest.raises(InvalidArgument, match="importance: no hyperparameter was tuned"):
        importances(two, metric)
    with pytest.raises(InvalidArgument, match="evaluator: expected one of fanova, mdi, ped_anova, got 3"):
        importances(made, metric, 3)


@pytest.mark.parametrize("decides", ["network", "rate"])
def test_of_very_many_options_it_comes_soon_and_is_right(curve, decides):
    metric, rng, made = find_metric("accuracy"), random.Random(0), []
    for number in range(60):
        tuned = {"network": f"net {rng.randrange(20)}", "rate": rng.random()}
        score = int(tuned["network"][4:]) * 31 % 7 if decides == "network" else tuned["rate"]
        made.append(TrialRecord(number, tuned, {}, COMPLETED, results=curve(metric, [score])))
    started = time.perf_counter()
    assert importances(made, metric)[decides] > 0.8
    assert time.perf_counter() - started < 10  # one column per option would take minutes


@pytest.mark.parametrize("scale", [1e-9, 1e160, 1e300])
def test_scores_of_any_size_have_shares(trials, scale):
    """Trees ignore a variance below 1e-16, and squares of large floats overflow."""
    found = importances(trials(find_metric("accuracy"), lambda tuned: 0.5 * scale + math.log10(tuned["lr"]) * scale), find_metric("accuracy"))
    assert found.index[0] == "lr"
    assert found.sum() == pytest.approx(1)


def test_what_all_trials_have_alike_explains_nothing(curve):
    metric, rng = find_metric("accuracy"), random.Random(0)
    same = [TrialRecord(number, {"x": 1}, {}, COMPLETED, results=curve(metric, [rng.random()])) for number in range(5)]
    with pytest.raises(InvalidArgument, match="or all trials have the same values"):
        importances(same, metric)
