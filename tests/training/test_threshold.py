"""Decision thresholds: the right one is found from few rows, whatever the scale of the probabilities."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import f1_score

from automm_hpo.metrics import METRICS, find_metric
from automm_hpo.problem import Problem
from automm_hpo.training.evaluate import compute_metric, find_threshold, needs_threshold, predicted, validate
from automm_hpo.training.threshold import DECIDED, HALF, best_threshold

BINARY = Problem("y", "binary", class_labels=("no", "yes"))


def rows(num_rows, seed=0, share=0.15):
    """Log odds that are honest, and targets drawn with them."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(np.log(share / (1 - share)), 1.5, num_rows)
    return log_odds, (rng.random(num_rows) < expit(log_odds)).astype(np.int64)


def as_logits(log_odds):
    return torch.from_numpy(np.stack([np.zeros_like(log_odds), log_odds], 1))


def value(name, log_odds, target, threshold):
    return METRICS[name].compute(target, (expit(log_odds) > threshold).astype(np.int64))


@pytest.mark.parametrize("name", DECIDED)
def test_counts_give_what_the_metric_computes(name):
    log_odds, target = rows(60)
    for threshold in (0.0, 0.1, 0.3, 0.9, 1.0):
        positive = expit(log_odds) > threshold
        counts = [np.array([float(((positive == said) & (target == true)).sum())]) for said, true in ((1, 1), (1, 0), (0, 1), (0, 0))]
        assert DECIDED[name](*counts) == pytest.approx(value(name, log_odds, target, threshold))


@pytest.mark.parametrize("name", DECIDED)
def test_a_threshold_found_on_some_rows_serves_others(name):
    log_odds, target = rows(50_000, seed=1)
    best = max(value(name, log_odds, target, threshold) for threshold in np.linspace(0.02, 0.98, 49))
    at_half = value(name, log_odds, target, HALF)
    found = [value(name, log_odds, target, best_threshold(METRICS[name], *rows(600, seed))) for seed in range(2, 12)]
    assert np.mean(found) > at_half + 0.7 * (best - at_half)
    assert value(name, log_odds, target, best_threshold(METRICS[name], *rows(20_000, 20))) > best - 0.005


def test_it_does_not_follow_the_highest_peak():
    """The best value on 50 rows is by chance. The mean over thresholds varies less from sample to sample, and predicts better."""
    log_odds, target = rows(50_000, seed=1)
    chosen, peaks = [], []
    for seed in range(2, 42):
        few, labels = rows(60, seed, share=0.25)
        chosen.append(best_threshold(METRICS["f1"], few, labels))
        peaks.append(max(expit(few) - 1e-9, key=lambda at, few=few, labels=labels: value("f1", few, labels, at)))
    assert np.std(chosen) < 0.8 * np.std(peaks)
    assert np.mean([value("f1", log_odds, target, at) for at in chosen]) > np.mean([value("f1", log_odds, target, at) for at in peaks])


@pytest.mark.parametrize("name", DECIDED)
def test_too_sure_probabilities_do_not_matter(name):
    log_odds, target = rows(400)
    own = expit(log_odds) > best_threshold(METRICS[name], log_odds, target)
    assert ((expit(3 * log_odds) > best_threshold(METRICS[name], 3 * log_odds, target)) == own).mean() > 0.98


@pytest.mark.parametrize("name", DECIDED)
def test_probabilities_that_are_wrong_matter_little(name):
    """As with class weights: they move all log odds. What is best in expectation is wrong then, and what is seen is right."""
    log_odds, target = rows(20_000, seed=1)
    best = max(value(name, log_odds, target, threshold) for threshold in np.linspace(0.02, 0.98, 49))
    found = best_threshold(METRICS[name], 2 + log_odds[:1_000], target[:1_000])
    assert value(name, 2 + log_odds, target, found) > best - 0.04


def test_rows_that_are_alike_are_not_separated():
    log_odds, target = np.repeat([-1.0, 0.0, 1.0], 20), np.array([0] * 25 + [1] * 35)
    shuffled = np.random.default_rng(0).permutation(60)
    assert best_threshold(METRICS["f1"], log_odds, target) == pytest.approx(best_threshold(METRICS["f1"], log_odds[shuffled], target[shuffled]))


@pytest.mark.parametrize("target", [np.zeros(5, np.int64), np.ones(5, np.int64)])
def test_rows_of_one_class_have_no_threshold(target):
    assert best_threshold(METRICS["f1"], np.arange(5.0), target) == HALF


@pytest.mark.parametrize("log_odds", [np.full(40, 0.3), np.full(40, -1.0), np.zeros(40)])
def test_all_rows_may_be_positive(log_odds):
    target = np.array([0] * 20 + [1] * 20)
    assert value("f1", log_odds, target, best_threshold(METRICS["f1"], log_odds, target)) == pytest.approx(2 / 3)


def test_rows_of_which_all_are_nearly_certain_have_a_threshold_below_certainty():
    log_odds, target = np.linspace(40, 60, 40), np.array([0] * 20 + [1] * 20)
    assert value("f1", log_odds, target, best_threshold(METRICS["f1"], log_odds, target)) >= 2 / 3 - 1e-9


@pytest.mark.parametrize("log_odds", [np.zeros(8), np.array([-900.0] * 4 + [900.0] * 4)])
def test_extreme_and_equal_predictions_have_a_threshold(log_odds):
    found = best_threshold(METRICS["balanced_accuracy"], log_odds, np.array([0, 0, 0, 1, 0, 1, 1, 1]))
    assert 0 <= found <= 1


def test_only_some_metrics_of_two_classes_need_one():
    three = Problem("y", "multiclass", class_labels=("a", "b", "c"))
    assert needs_threshold(METRICS["f1"], BINARY)
    assert not needs_threshold(METRICS["f1_macro"], three)
    assert [name for name in METRICS if needs_threshold(METRICS[name], BINARY)] == ["balanced_accuracy", "f1", "f1_macro", "f1_weighted", "mcc"]
    log_odds, target = rows(100)
    for name in ("accuracy", "roc_auc", "log_loss", "recall"):
        assert find_threshold(find_metric(name), BINARY, as_logits(log_odds), target) == HALF


def test_a_half_is_the_likeliest_class():
    logits = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    logits[0] = 0.0  # a tie
    assert (predicted(BINARY, logits) == logits.argmax(1).numpy()).all()
    assert (predicted(BINARY, logits, 0.5 + 1e-12) == logits.argmax(1).numpy()).all()


def test_validation_is_at_the_threshold_that_it_names():
    log_odds, target = rows(500)
    found = validate(METRICS["f1"], BINARY, as_logits(log_odds), target)
    assert found.threshold < 0.4
    assert found.metric == found.score == pytest.approx(f1_score(target, expit(log_odds) > found.threshold))
    assert found.metric == compute_metric(METRICS["f1"], BINARY, as_logits(log_odds), target, found.threshold)
    assert validate(METRICS["accuracy"], BINARY, as_logits(log_odds), target).threshold == HALF
