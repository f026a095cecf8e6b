"""Each metric against scikit-learn, its direction, and rows that leave it undefined."""

import copy
import math
import pickle
import time

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk
from sklearn.base import BaseEstimator, ClassifierMixin

from automm_hpo.errors import InvalidArgument
from automm_hpo.metrics import ALIASES, DEFAULT_METRIC, METRICS, check_fits, compute_scorer, find_metric, searched_metric, stored_metric
from automm_hpo.problem import PROBLEM_TYPES

REFERENCE = {
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "f1": sk.f1_score,
    "f1_macro": lambda y, p: sk.f1_score(y, p, average="macro"),
    "f1_micro": lambda y, p: sk.f1_score(y, p, average="micro"),
    "f1_weighted": lambda y, p: sk.f1_score(y, p, average="weighted"),
    "mcc": sk.matthews_corrcoef,
    "quadratic_kappa": lambda y, p: sk.cohen_kappa_score(y, p, weights="quadratic"),
    "roc_auc": lambda y, p: sk.roc_auc_score(y, p[:, 1]),
    "average_precision": lambda y, p: sk.average_precision_score(y, p[:, 1]),
    "roc_auc_ovr": lambda y, p: sk.roc_auc_score(y, p if p.shape[1] > 2 else p[:, 1], multi_class="ovr"),
    "roc_auc_ovo": lambda y, p: sk.roc_auc_score(y, p if p.shape[1] > 2 else p[:, 1], multi_class="ovo"),
    "log_loss": sk.log_loss,
    "rmse": sk.root_mean_squared_error,
    "mse": sk.mean_squared_error,
    "mae": sk.mean_absolute_error,
    "mape": sk.mean_absolute_percentage_error,
    "r2": sk.r2_score,
    "pearsonr": lambda y, p: scipy.stats.pearsonr(y, p)[0],
    "spearmanr": lambda y, p: scipy.stats.spearmanr(y, p)[0],
}
BINARY = [name for name, metric in METRICS.items() if "binary" in metric.problem_types]
MULTICLASS = [name for name, metric in METRICS.items() if "multiclass" in metric.problem_types]
REGRESSION = [name for name, metric in METRICS.items() if "regression" in metric.problem_types]


def probabilities(rng: np.random.Generator, target: np.ndarray, num_classes: int) -> np.ndarray:
    """Rows that sum to 1 and favour the target."""
    logits = rng.normal(size=(len(target), num_classes)) + 1.5 * np.eye(num_classes)[target]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def perfect(name: str, target: np.ndarray, num_classes: int) -> np.ndarray:
    needs = METRICS[name].needs
    return target if needs == "classes" else np.eye(num_classes)[target] if needs == "probabilities" else target.astype(float)


def test_every_metric_has_its_reference():
    assert set(REFERENCE) == set(METRICS)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name, num_classes", [*((name, 2) for name in BINARY), *((name, 5) for name in MULTICLASS)])
def test_classification_equals_the_reference(name, num_classes, seed):
    rng = np.random.default_rng(seed)
    target = rng.integers(num_classes, size=200)
    likely = probabilities(rng, target, num_classes)
    prediction = likely.argmax(1) if METRICS[name].needs == "classes" else likely
    assert METRICS[name].compute(target, prediction) == pytest.approx(REFERENCE[name](target, prediction), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", REGRESSION)
def test_regression_equals_the_reference(name, seed):
    rng = np.random.default_rng(seed)
    target = rng.normal(50, 10, 200).round()  # rounding makes ties, which rank correlations must handle
    prediction = (target + rng.normal(0, 8, 200)).round()
    assert METRICS[name].compute(target, prediction) == pytest.approx(REFERENCE[name](target, prediction), rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_prediction_has_the_highest_score(name):
    num_classes = 2 if name in BINARY else 4
    rng = np.random.default_rng(0)
    target = rng.integers(num_classes, size=100)
    metric = METRICS[name]
    best = metric.compute(target, perfect(name, target, num_classes))
    worse = metric.compute(target, perfect(name, rng.permutation(target), num_classes))
    assert metric.score(best) > metric.score(worse)
    assert isinstance(best, float)
    assert metric.higher_is_better == (best > worse)


@pytest.mark.parametrize("name", [name for name in MULTICLASS if METRICS[name].needs == "probabilities"])
def test_float32_probabilities(name):
    rng = np.random.default_rng(0)
    target = rng.integers(10, size=300)
    likely = probabilities(rng, target, 10)
    assert METRICS[name].compute(target, likely.astype(np.float32)) == pytest.approx(METRICS[name].compute(target, likely), rel=1e-4)


@pytest.mark.parametrize("name", MULTICLASS)
def test_validation_rows_that_lack_a_class(name):
    """Class 1 of 4 occurs in the predictions only."""
    rng = np.random.default_rng(0)
    target = rng.choice([0, 2, 3], size=200)
    likely = probabilities(rng, target, 4)
    value = METRICS[name].compute(target, likely.argmax(1) if METRICS[name].needs == "classes" else likely)
    assert math.isfinite(value)
    if name == "log_loss":
        assert value == pytest.approx(-np.log(likely[np.arange(200), target]).mean())
    if name == "roc_auc_ovr":
        assert value == pytest.approx(np.mean([sk.roc_auc_score(target == label, likely[:, label]) for label in (0, 2, 3)]))
    if name == "roc_auc_ovo":
        pairs = [(a, b) for a in (0, 2, 3) for b in (0, 2, 3) if a != b]
        aucs = [sk.roc_auc_score(target[rows := np.isin(target, pair)] == pair[0], likely[rows, pair[0]]) for pair in pairs]
        assert value == pytest.approx(np.mean(aucs))
    if name == "balanced_accuracy":
        hits = likely.argmax(1) == target
        assert value == pytest.approx(np.mean([hits[target == label].mean() for label in (0, 2, 3)]))


def test_quadratic_kappa_keeps_the_distance_across_an_absent_class():
    target, prediction = np.array([0, 0, 4, 4, 1]), np.array([0, 1, 4, 4, 4])
    assert METRICS["quadratic_kappa"].compute(target, prediction) == pytest.approx(
        sk.cohen_kappa_score(target, prediction, weights="quadratic", labels=np.arange(5)),
    )


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("num_rows", [1, 5])
@pytest.mark.parametrize("label", [0, 1])
def test_a_constant_target_gives_a_value_or_nan_and_no_warning(name, num_rows, label):
    target = np.full(num_rows, label)
    num_classes = 2 if name in BINARY else 3
    value = METRICS[name].compute(target, perfect(name, target, num_classes))
    undefined = {"mcc", "quadratic_kappa", "roc_auc", "average_precision", "roc_auc_ovr", "roc_auc_ovo", "r2", "pearsonr", "spearmanr"}
    assert math.isnan(value) == (name in undefined)


@pytest.mark.parametrize("name", METRICS)
def test_a_constant_prediction_gives_no_warning(name):
    num_classes = 2 if name in BINARY else 3
    target = np.arange(12) % num_classes
    value = METRICS[name].compute(target, perfect(name, np.zeros(12, int), num_classes))
    assert math.isnan(value) == (name in {"pearsonr", "spearmanr"})


@pytest.mark.parametrize("alias, name", [("acc", "accuracy"), ("root_mean_squared_error", "rmse"), ("nll", "log_loss"), ("f1_macro", "f1_macro")])
def test_find_metric(alias, name):
    assert find_metric(alias).name == name


def test_aliases_and_defaults_exist():
    assert set(ALIASES.values()) <= set(METRICS)
    assert not set(ALIASES) & set(METRICS)
    assert set(DEFAULT_METRIC) == set(PROBLEM_TYPES)
    for problem_type, name in DEFAULT_METRIC.items():
        check_fits(find_metric(name), problem_type)


@pytest.mark.parametrize("wrong, near", [("accurracy", "accuracy"), ("rocauc", "roc_auc"), ("log_los", "log_loss")])
def test_a_misspelt_metric(wrong, near):
    with pytest.raises(InvalidArgument, match=rf"eval_metric: expected one of accuracy, .*, got '{wrong}'\. Did you mean .*\b{near}\b"):
        find_metric(wrong, "eval_metric")


@pytest.mark.parametrize("wrong", [None, 3, ["accuracy"], sk.accuracy_score])
def test_a_metric_that_is_no_name(wrong):
    with pytest.raises(InvalidArgument, match="expected one of"):
        find_metric(wrong)


@pytest.mark.parametrize("problem_type, names", [("binary", BINARY), ("multiclass", MULTICLASS), ("regression", REGRESSION)])
@pytest.mark.parametrize("name", METRICS)
def test_check_fits(name, problem_type, names):
    if name in names:
        check_fits(METRICS[name], problem_type)
        return
    with pytest.raises(InvalidArgument, match=f"metrics: {name} does not fit a {problem_type} problem; these do: {names[0]}, "):
        check_fits(METRICS[name], problem_type, "metrics")


# ------------------------------------------------------------------------------------------------- scorers of scikit-learn

TARGET = np.array([0, 1, 2, 1, 0, 2, 1, 0])
PROBABILITIES = np.random.default_rng(0).dirichlet([1, 1, 1], 8)
LETTERS = ("b", "a", "c")  # in the order of the categories, which is not alphabetical


class Fixed(ClassifierMixin, BaseEstimator):
    """A classifier with fixed probabilities, for scikit-learn's own scorers."""

    def __init__(self, classes, probabilities):
        self.classes_, self.probabilities = np.array(sorted(classes)), probabilities[:, np.argsort(classes)]

    def __sklearn_is_fitted__(self):
        return True

    def predict_proba(self, X):
        return self.probabilities

    def predict(self, X):
        return self.classes_[self.probabilities.argmax(1)]


@pytest.mark.parametrize("name", ["neg_log_loss", "roc_auc_ovr_weighted", "jaccard_macro", "top_k_accuracy", "matthews_corrcoef"])
def test_scorers_by_name(name):
    metric = find_metric(name)
    assert (metric.name, metric.higher_is_better, metric.is_object) == (name, True, False)
    check_fits(metric, "multiclass")
    with pytest.raises(InvalidArgument, match="does not fit a regression"):
        check_fits(metric, "regression")
    found = compute_scorer(metric, TARGET, PROBABILITIES.argmax(1), PROBABILITIES, LETTERS)
    assert found == pytest.approx(sk.get_scorer(name)(Fixed(range(3), PROBABILITIES), np.zeros((8, 1)), TARGET))
    assert pickle.loads(pickle.dumps(metric)) is metric


def test_scorers_of_regressions():
    metric = find_metric("neg_median_absolute_error")
    check_fits(metric, "regression")
    with pytest.raises(InvalidArgument, match="does not fit a binary"):
        check_fits(metric, "binary")
    assert compute_scorer(metric, np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 4.0])) == -1


def test_a_scorer_object_sees_the_users_own_labels():
    scorer = sk.make_scorer(sk.fbeta_score, beta=2, average=None, labels=["c"])

    def only_c(estimator, X, y):
        return float(scorer._score_func(y, estimator.predict(X), **scorer._kwargs)[0])

    metric = find_metric(only_c)
    assert (metric.name, metric.is_object) == ("scorer.only_c", True)
    expected = sk.fbeta_score(TARGET == 2, PROBABILITIES.argmax(1) == 2, beta=2)
    assert compute_scorer(metric, TARGET, PROBABILITIES.argmax(1), PROBABILITIES, LETTERS) == pytest.approx(expected)
    by_probability = find_metric(sk.make_scorer(sk.log_loss, response_method="predict_proba", greater_is_better=False))
    assert compute_scorer(by_probability, TARGET, PROBABILITIES.argmax(1), PROBABILITIES, LETTERS) == pytest.approx(
        -sk.log_loss(TARGET, PROBABILITIES, labels=range(3))
    )


def test_a_scorer_that_refuses_says_so():
    metric = find_metric(sk.make_scorer(sk.f1_score, pos_label="a"))
    with pytest.raises(InvalidArgument, match=r"scorer\.f1_score: cannot be computed here: ValueError: "):
        compute_scorer(metric, TARGET, TARGET, PROBABILITIES, LETTERS)


def test_a_stored_scorer_object_is_only_a_name():
    metric = stored_metric("scorer.f1_score")
    assert metric.score(0.5) == 0.5
    with pytest.raises(InvalidArgument, match="pass metrics"):
        compute_scorer(metric, TARGET, TARGET, PROBABILITIES, LETTERS)
    with pytest.raises(InvalidArgument, match="expected one of"):
        find_metric("scorer.f1_score")


def test_a_function_of_predictions_is_no_scorer():
    with pytest.raises(InvalidArgument, match="make_scorer"):
        find_metric(sk.accuracy_score)


def test_pairs_of_a_hundred_classes_take_no_seconds():
    rng = np.random.default_rng(0)
    target, probabilities = np.concatenate([np.arange(100), rng.integers(0, 100, 300)]), rng.dirichlet(np.ones(100), 400).round(2) + 0.01
    probabilities /= probabilities.sum(1, keepdims=True)
    started = time.perf_counter()
    found = METRICS["roc_auc_ovo"].compute(target, probabilities)
    assert time.perf_counter() - started < 1
    few = target < 4
    four = probabilities[few, :4] / probabilities[few, :4].sum(1, keepdims=True)
    assert METRICS["roc_auc_ovo"].compute(target[few], four) == pytest.approx(sk.roc_auc_score(target[few], four, multi_class="ovo", labels=np.arange(4)))
    assert 0.4 < found < 0.6


@pytest.mark.parametrize("name", ["neg_log_loss", "top_k_accuracy"])
def test_scorers_that_need_all_classes_take_rows_that_lack_one(name):
    seen = TARGET < 2
    found = compute_scorer(find_metric(name), TARGET[seen], PROBABILITIES[seen].argmax(1), PROBABILITIES[seen])
    function, sign = (sk.log_loss, -1) if name == "neg_log_loss" else (sk.top_k_accuracy_score, 1)
    assert found == pytest.approx(sign * function(TARGET[seen], PROBABILITIES[seen], labels=np.arange(3)))


@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_what_an_objective_reports_keeps_its_name_and_direction_in_copies(name):
    metric = searched_metric(name, "min")
    for again in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert (again.name, again.mode) == (name, "min")
        assert math.isnan(again.compute(np.zeros(1), np.zeros(1)))
