"""Metrics by name, each with its direction; a *score* is the metric turned so that higher is better.

To add a metric: a function of ``(target, prediction)`` and an entry in ``METRICS``. scikit-learn computes; it is imported on first use.
Its own scorers serve too, by name or as objects: what they give is the metric, and higher is better.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .errors import InvalidArgument, did_you_mean

Needs = Literal["classes", "probabilities", "values", "scorer"]
OBJECT = "scorer."  # how the name of a metric begins that only code can hold


def _sklearn(name: str, **options: object) -> Callable[[np.ndarray, np.ndarray], float]:
    def compute(target: np.ndarray, prediction: np.ndarray) -> float:
        import sklearn.metrics

        return float(getattr(sklearn.metrics, name)(target, prediction, **options))

    return compute


def _f1(average: str) -> Callable[[np.ndarray, np.ndarray], float]:
    return _sklearn("f1_score", average=average, zero_division=0)


def _if_varied(compute: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, np.ndarray], float]:
    """nan, and no warning, where the target is the same in all rows: the metric has no meaning there."""
    return lambda target, prediction: compute(target, prediction) if np.ptp(target) else math.nan


def _accuracy(target: np.ndarray, prediction: np.ndarray) -> float:
    return float((target == prediction).mean())


def _balanced_accuracy(target: np.ndarray, prediction: np.ndarray) -> float:
    # the mean recall of the classes there are; scikit-learn's own function warns of predictions that no row has as its class
    return _sklearn("recall_score", average="macro", labels=np.unique(target), zero_division=0)(target, prediction)


def _quadratic_kappa(target: np.ndarray, prediction: np.ndarray) -> float:
    # all classes are named: without, absent ones would leave the scale and shorten the distances across them
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
        if multi_class == "ovr":  # scikit-learn's is nan as soon as a class is absent
            return float(np.mean([_sklearn("roc_auc_score")(target == label, probabilities[:, label]) for label in np.unique(target)]))
        return _pairwise_auc(target, probabilities)

    return compute


def _pairwise_auc(target: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean over all ordered pairs of classes that there are of how well the first one's probability tells it from the second.

    Hand and Till 2001, "A simple generalisation of the area under the ROC curve for multiple class classification problems", equation 7. scikit-learn's
    ``roc_auc_score(multi_class="ovo")`` comes to the same, and takes seconds over a hundred classes.
    """
    present = np.unique(target)
    areas = []
    for label in present:
        of_label = {other: np.sort(probabilities[target == other, label]) for other in present}
        own = of_label.pop(label)
        # of pairs of rows those that are in the right order, ties by half
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
    """A metric: what it needs, its direction, and where it makes sense. It is nan for rows that leave it undefined.

    Attributes:
        scorer: of scikit-learn's kind, called with ``(estimator, X, target)``; ``compute`` is then not used.
    """

    name: str
    compute: Callable[[np.ndarray, np.ndarray], float] = field(compare=False)
    needs: Needs
    higher_is_better: bool = True
    problem_types: tuple[str, ...] = ("binary", "multiclass")
    scorer: Callable[..., float] | None = None

    def __reduce__(self) -> Any:
        """To another process by its name, where it has one; functions of functions travel badly."""
        return super().__reduce__() if self.is_object else (find_metric, (self.name,))

    @property
    def is_object(self) -> bool:
        """Whether only code can hold it."""
        return self.name.startswith(OBJECT)

    @property
    def mode(self) -> str:
        """Its direction as Ray says it: ``max`` or ``min``."""
        return "max" if self.higher_is_better else "min"

    def score(self, value: float) -> float:
        """The value turned so that higher is better."""
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
    """The metric of that name, ours or one of scikit-learn's scorers; or the one that a scorer object is.

    Raises:
        InvalidArgument: there is none; the nearest names are in the message.
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
    """The metric that a predictor's folder names; one that was an object has lost what computes it.

    Raises:
        InvalidArgument: there is none of that name.
    """
    return Metric(name, _not_computed, "scorer", problem_types=_fitting(None)) if name.startswith(OBJECT) else find_metric(name)


def searched_metric(name: str, mode: str) -> Metric:
    """What an objective of the user's reports under this name; it is never computed here.

    Args:
        mode: ``max`` or ``min``.
    """
    return Metric(name, lambda target, prediction: float("nan"), "values", mode == "max")


def _is_scorer(value: object) -> bool:
    """Whether it is called with (estimator, X, target); a function of (target, prediction) does not say which direction is better."""
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
    """The problems that a function of scikit-learn's is for; of another's nothing is known."""
    module = getattr(function, "__module__", None) or ""
    if module.startswith("sklearn.metrics"):
        return _REGRESSION if module.endswith("_regression") else ("binary", "multiclass")
    return ("binary", "multiclass", "regression")


def _not_computed(target: np.ndarray, prediction: np.ndarray) -> float:
    raise InvalidArgument("the predictor's metric was a scorer object, which its folder cannot hold; give metrics=... to evaluate")


def compute_scorer(metric: Metric, target: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None = None, labels: Sequence[Any] = ()) -> float:
    """What a scorer gives for predictions that were made already.

    Args:
        target, predicted: (N,) class indices, or values.
        probabilities: (N, K) of classes; None for regression.
        labels: the classes; an object of the user's may name them (``pos_label``), a scorer by name gets 0 .. K-1.

    Raises:
        InvalidArgument: the scorer refuses them.
    """
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    if metric.scorer is None:
        return metric.compute(target, predicted)

    class Answers(RegressorMixin if probabilities is None else ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """An estimator that has answered."""

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict(self, X: object) -> np.ndarray:
            return predicted

        def predict_proba(self, X: object) -> np.ndarray | None:
            return probabilities

    answers = Answers()
    if probabilities is not None:
        classes = np.array(labels) if metric.is_object else np.arange(probabilities.shape[1])
        order = np.argsort(classes)  # scikit-learn's classes are sorted; those of a category need not be
        target, predicted, probabilities = classes[target], classes[predicted], probabilities[:, order]
        answers.classes_ = classes[order]
    scorer: Any = metric.scorer
    if probabilities is not None and not metric.is_object and "labels" in inspect.signature(scorer._score_func).parameters and _is_of_probabilities(scorer):
        import sklearn.metrics

        # these rows may lack a class
        options = {**scorer._kwargs, "labels": np.arange(probabilities.shape[1])}
        scorer = sklearn.metrics.make_scorer(scorer._score_func, response_method="predict_proba", greater_is_better=scorer._sign > 0, **options)
    try:
        return float(scorer(answers, np.zeros((len(target), 1)), target))
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        said = str(error).strip().partition("\n")[0]
        raise InvalidArgument(f"{metric.name}: cannot be computed here: {type(error).__name__}: {said}") from None


def _is_of_probabilities(scorer: Any) -> bool:
    """Whether one of scikit-learn's own asks for those of all classes."""
    wanted = getattr(scorer, "_response_method", ())
    return "predict_proba" in ([wanted] if isinstance(wanted, str) else wanted)


def check_fits(metric: Metric, problem_type: str, argument: str = "metric") -> None:
    """Refuses a metric that means nothing for the problem.

    Raises:
        InvalidArgument: it does not fit; the ones that do are in the message.
    """
    if problem_type not in metric.problem_types:
        fitting = ", ".join(name for name, other in METRICS.items() if problem_type in other.problem_types)
        raise InvalidArgument(f"{argument}: {metric.name} does not fit a {problem_type} problem; these do: {fitting}")
