"""Metrics by name, each with its direction. A *score* is the metric with its sign turned so that higher is better.

To add a metric, write a function of ``(target, prediction)`` and add an entry to ``METRICS``. scikit-learn does the computing and is imported on
first use. Its scorers can be used too, by name or as objects: their value is the metric, and higher is better.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .code import code_digest
from .errors import InvalidArgument, did_you_mean, first_line
from .files import digest, is_json

Needs = Literal["classes", "probabilities", "values", "scorer"]
OBJECT = "scorer."  # prefix of the names of metrics that are scorer objects, which no file can hold


def _sklearn(name: str, **options: object) -> Callable[[np.ndarray, np.ndarray], float]:
    def compute(target: np.ndarray, prediction: np.ndarray) -> float:
        import sklearn.metrics

        return float(getattr(sklearn.metrics, name)(target, prediction, **options))

    return compute


def _f1(average: str) -> Callable[[np.ndarray, np.ndarray], float]:
    return _sklearn("f1_score", average=average, zero_division=0)


def _if_varied(compute: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, np.ndarray], float]:
    """Wraps a metric to return nan, without a warning, if the target is the same in all rows: it is undefined there."""
    return lambda target, prediction: compute(target, prediction) if np.ptp(target) else math.nan


def _accuracy(target: np.ndarray, prediction: np.ndarray) -> float:
    return float((target == prediction).mean())


def _balanced_accuracy(target: np.ndarray, prediction: np.ndarray) -> float:
    # the mean recall of the classes present; scikit-learn's own function warns about predicted classes that no row has
    return _sklearn("recall_score", average="macro", labels=np.unique(target), zero_division=0)(target, prediction)


def _quadratic_kappa(target: np.ndarray, prediction: np.ndarray) -> float:
    # all classes are listed: leaving out absent ones would shorten the distances between the others
    labels = np.arange(max(target.max(), prediction.max()) + 1)
    return _sklearn("cohen_kappa_score", weights="quadratic", labels=labels)(target, prediction)


def _log_loss(target: np.ndarray, probabilities: np.ndarray) -> float:
    # labels are given because a validation set may lack a class
    return _sklearn("log_loss", labels=np.arange(probabilities.shape[1]))(target, probabilities)


def _roc_auc(target: np.ndarray, probabilities: np.ndarray) -> float:
    return _sklearn("roc_auc_score")(target, probabilities[:, 1])


def _roc_auc_multiclass(multi_class: str) -> Callable[[np.ndarray, np.ndarray], float]:
    def compute(target: np.ndarray, probabilities: np.ndarray) -> float:
        if probabilities.shape[1] == 2:
            return _roc_auc(target, probabilities)
        if multi_class == "ovr":  # scikit-learn's own is nan if any class is absent
            return float(np.mean([_sklearn("roc_auc_score")(target == label, probabilities[:, label]) for label in np.unique(target)]))
        return _pairwise_auc(target, probabilities)

    return compute


def _pairwise_auc(target: np.ndarray, probabilities: np.ndarray) -> float:
    """The AUC with which the probability of class a tells rows of class a from rows of class b, averaged over all ordered pairs of the classes present.

    Hand and Till 2001, "A simple generalisation of the area under the ROC curve for multiple class classification problems", equation 7. scikit-learn's
    ``roc_auc_score(multi_class="ovo")`` gives the same, but takes seconds for a hundred classes.
    """
    present = np.unique(target)
    areas = []
    for label in present:
        of_label = {other: np.sort(probabilities[target == other, label]) for other in present}
        own = of_label.pop(label)
        # the share of pairs of rows that are in the right order; ties count half
        areas += [(np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")).mean() / (2 * len(others)) for others in of_label.values()]
    return float(np.mean(areas))


def _average_precision(target: np.ndarray, probabilities: np.ndarray) -> float:
    return _sklearn("average_precision_score")(target, probabilities[:, 1])


def _pearsonr(target: np.ndarray, prediction: np.ndarray) -> float:
    return float(np.corrcoef(target, prediction)[0, 1]) if np.ptp(prediction) else math.nan


def _spearmanr(target: np.ndarray, prediction: np.ndarray) -> float:
    import scipy.stats

    return _pearsonr(scipy.stats.rankdata(target), scipy.stats.rankdata(prediction))


@dataclass(frozen=True)
class Metric:
    """A metric: what it is computed from, its direction, and the problem types it fits. Its value is nan for rows on which it is undefined.

    Attributes:
        compute: (target, prediction) -> value.
        needs: what ``compute`` takes as the prediction; ``scorer``: ``scorer`` is used instead.
        scorer: a scikit-learn scorer, called with ``(estimator, X, target)``.
    """

    name: str
    compute: Callable[[np.ndarray, np.ndarray], float] = field(compare=False)
    needs: Needs
    higher_is_better: bool = True
    problem_types: tuple[str, ...] = ("binary", "multiclass")
    scorer: Callable[..., float] | None = None

    def __reduce__(self) -> Any:
        """Pickles by name where possible, since closures cannot be pickled."""
        return super().__reduce__() if self.is_object or self.compute is _reported else (find_metric, (self.name,))

    @property
    def is_object(self) -> bool:
        """Whether it is a scorer object, which no file can hold."""
        return self.name.startswith(OBJECT)

    @property
    def scorer_digest(self) -> str:
        """What identifies a scorer object across processes: its function, with the code if it is the user's own, and its arguments.

        Empty if that is not all: if the function is a partial, an object or a closure, or if JSON cannot hold an argument.
        """
        scorer: Any = self.scorer
        called = getattr(scorer, "_score_func", scorer)
        is_librarys = (getattr(called, "__module__", "") or "").startswith("sklearn.")  # another version of it has other code
        arguments = [getattr(scorer, "_kwargs", {}), getattr(scorer, "_sign", 1), getattr(scorer, "_response_method", "")]
        own = [] if is_librarys else [code_digest(called), getattr(called, "__defaults__", None), getattr(called, "__kwdefaults__", None)]
        is_all = is_librarys or (inspect.isfunction(called) and not called.__closure__)
        return digest([self.name, own, arguments]) if is_all and is_json([own, arguments]) else ""

    @property
    def mode(self) -> str:
        """Its direction in Ray's words: ``max`` or ``min``."""
        return "max" if self.higher_is_better else "min"

    def score(self, value: float) -> float:
        """The value with its sign turned so that higher is better."""
        return value if self.higher_is_better else -value


_BINARY, _REGRESSION = ("binary",), ("regression",)
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _accuracy, "classes"),
        Metric("balanced_accuracy", _balanced_accuracy, "classes"),
        Metric("f1", _f1("binary"), "classes", problem_types=_BINARY),
        Metric("f1_macro", _f1("macro"), "classes"),
        Metric("f1_micro", _f1("micro"), "classes"),
        Metric("f1_weighted", _f1("weighted"), "classes"),
        Metric("mcc", _if_varied(_sklearn("matthews_corrcoef")), "classes"),
        Metric("quadratic_kappa", _if_varied(_quadratic_kappa), "classes"),
        Metric("roc_auc", _if_varied(_roc_auc), "probabilities", problem_types=_BINARY),
        Metric("average_precision", _if_varied(_average_precision), "probabilities", problem_types=_BINARY),
        Metric("roc_auc_ovr", _if_varied(_roc_auc_multiclass("ovr")), "probabilities"),
        Metric("roc_auc_ovo", _if_varied(_roc_auc_multiclass("ovo")), "probabilities"),
        Metric("log_loss", _log_loss, "probabilities", higher_is_better=False),
        Metric("rmse", _sklearn("root_mean_squared_error"), "values", higher_is_better=False, problem_types=_REGRESSION),
        Metric("mse", _sklearn("mean_squared_error"), "values", higher_is_better=False, problem_types=_REGRESSION),
        Metric("mae", _sklearn("mean_absolute_error"), "values", higher_is_better=False, problem_types=_REGRESSION),
        Metric("mape", _sklearn("mean_absolute_percentage_error"), "values", higher_is_better=False, problem_types=_REGRESSION),
        Metric("r2", _if_varied(_sklearn("r2_score")), "values", problem_types=_REGRESSION),
        Metric("pearsonr", _if_varied(_pearsonr), "values", problem_types=_REGRESSION),
        Metric("spearmanr", _if_varied(_spearmanr), "values", problem_types=_REGRESSION),
    )
}

ALIASES = {
    "acc": "accuracy",
    "nll": "log_loss",
    "root_mean_squared_error": "rmse",
    "mean_squared_error": "mse",
    "mean_absolute_error": "mae",
    "mean_absolute_percentage_error": "mape",
}

DEFAULT_METRIC = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "rmse"}


def find_metric(name: str | Callable[..., float], argument: str = "metric") -> Metric:
    """The metric of a name, ours or one of scikit-learn's scorers, or of a scorer object.

    Raises:
        InvalidArgument: there is no such metric; the message lists the known names, the nearest last.
    """
    if not isinstance(name, str) and _is_scorer(name):
        called = getattr(name, "_score_func", name)
        return Metric(OBJECT + getattr(called, "__name__", type(called).__name__), _not_computed, "scorer", problem_types=_fitting(called), scorer=name)
    found = METRICS.get(ALIASES.get(name, name)) or _find_scorer(name) if isinstance(name, str) else None
    if found is None:
        hint = did_you_mean(name, METRICS) if isinstance(name, str) else " sklearn.metrics.make_scorer makes one of a function." if callable(name) else ""
        raise InvalidArgument(f"{argument}: expected one of {', '.join(METRICS)}, or a scorer of scikit-learn's (a name or an object), got {name!r}.{hint}")
    return found


def stored_metric(name: str) -> Metric:
    """The metric that a predictor folder names. One that was a scorer object can no longer be computed.

    Raises:
        InvalidArgument: there is no metric of that name.
    """
    return Metric(name, _not_computed, "scorer", problem_types=_fitting(None)) if name.startswith(OBJECT) else find_metric(name)


def searched_metric(name: str, mode: str) -> Metric:
    """The metric that a user's objective reports under this name; it is never computed here.

    Args:
        mode: ``max`` or ``min``.
    """
    return Metric(name, _reported, "values", mode == "max")


def _reported(target: np.ndarray, prediction: np.ndarray) -> float:
    return math.nan


def _is_scorer(value: object) -> bool:
    """Whether a value is called with (estimator, X, target). A function of (target, prediction) is no scorer: it does not say which direction is better."""
    if not callable(value) or isinstance(value, type):
        return False
    if hasattr(value, "_score_func"):
        return True
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return False
    return sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters) >= 3


@functools.cache
def _find_scorer(name: str) -> Metric | None:
    import sklearn.metrics

    if name not in sklearn.metrics.get_scorer_names():
        return None
    scorer = sklearn.metrics.get_scorer(name)
    return Metric(name, _not_computed, "scorer", problem_types=_fitting(scorer._score_func), scorer=scorer)


def _fitting(function: object) -> tuple[str, ...]:
    """The problem types that a scikit-learn function is made for; all of them for any other function."""
    module = getattr(function, "__module__", None) or ""
    if module.startswith("sklearn.metrics"):
        return _REGRESSION if module.endswith("_regression") else ("binary", "multiclass")
    return ("binary", "multiclass", "regression")


def _not_computed(target: np.ndarray, prediction: np.ndarray) -> float:
    raise InvalidArgument("the predictor's metric was a scorer object, which was not saved; pass metrics=... to evaluate")


def compute_scorer(metric: Metric, target: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None = None, labels: Sequence[Any] = ()) -> float:
    """The value of a scorer for predictions that were already made.

    Args:
        target, predicted: (N,) class indices, or values.
        probabilities: (N, K) of the classes; None for regression.
        labels: the classes. They are passed to a scorer object, which may name them (``pos_label``); a scorer by name gets 0 .. K-1 instead.

    Raises:
        InvalidArgument: the scorer refuses these predictions.
    """
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    if metric.scorer is None:
        return metric.compute(target, predicted)

    class Answers(RegressorMixin if probabilities is None else ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """A fitted estimator that returns the given predictions."""

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict(self, X: object) -> np.ndarray:
            return predicted

        def predict_proba(self, X: object) -> np.ndarray | None:
            return probabilities

    answers = Answers()
    if probabilities is not None:
        classes = np.array(labels) if metric.is_object else np.arange(probabilities.shape[1])
        order = np.argsort(classes)  # scikit-learn expects sorted classes; a categorical label's need not be
        target, predicted, probabilities = classes[target], classes[predicted], probabilities[:, order]
        answers.classes_ = classes[order]
    scorer: Any = metric.scorer
    if probabilities is not None and not metric.is_object and "labels" in inspect.signature(scorer._score_func).parameters and _is_of_probabilities(scorer):
        import sklearn.metrics

        # all classes are listed, because these rows may lack some
        options = {**scorer._kwargs, "labels": np.arange(probabilities.shape[1])}
        scorer = sklearn.metrics.make_scorer(scorer._score_func, response_method="predict_proba", greater_is_better=scorer._sign > 0, **options)
    try:
        return float(scorer(answers, np.zeros((len(target), 1)), target))
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise InvalidArgument(f"{metric.name}: cannot be computed here: {type(error).__name__}: {first_line(error)}") from None


def _is_of_probabilities(scorer: Any) -> bool:
    """Whether a scorer asks for the probabilities of all classes."""
    wanted = getattr(scorer, "_response_method", ())
    return "predict_proba" in ([wanted] if isinstance(wanted, str) else wanted)


def check_fits(metric: Metric, problem_type: str, argument: str = "metric") -> None:
    """Refuses a metric that does not fit the problem type.

    Raises:
        InvalidArgument: the metric does not fit; the message lists those that do.
    """
    if problem_type not in metric.problem_types:
        fitting = ", ".join(name for name, other in METRICS.items() if problem_type in other.problem_types)
        raise InvalidArgument(f"{argument}: {metric.name} does not fit a {problem_type} problem; these do: {fitting}")
