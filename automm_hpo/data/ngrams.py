"""Columns of text -> numbers: the scores that a linear model of words and characters gives the target.

Such models are hard to beat on a few thousand rows (Wang, Manning 2012, "Baselines and bigrams", ACL P12-2018), and read all of a long text,
where an encoder reads only a window. Their scores become additional numeric columns, so every model that reads numbers benefits, and no library
beyond scikit-learn is needed.

A linear model is far more confident on the rows it was fitted to than on later ones. So there is one model per fold of the training rows, fitted
to the other folds. A training row is scored by the model that has not seen it, a later row by a model of all rows (stacking: Wolpert 1992). The
n-grams are hashed (Weinberger et al. 2009, arXiv:0902.2206), so only their weights must be stored.
"""

from __future__ import annotations

import base64
import warnings
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from ..problem import Problem
from .linear import cross_entropy, of_classes
from .text import text_cells

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NUM_FOLDS = 5
NUM_BUCKETS = 2**18  # per view of a column
MOST_FEATURES = 2**17  # buckets that get a weight, those that occur in the most rows
MOST_WEIGHTS = 2**18  # over all scores
LEAST_ROWS = 2  # rows that a bucket must occur in
MOST_CHARACTERS = 10_000_000  # to learn from, for up to three classes: a minute on a slow core. For 20 classes, a sixth of that
CHARACTERS_A_SECOND = 30_000  # to learn from per second of the time limit, so that this takes about a fifth of it
MOST_OF_A_TEXT = 20_000  # characters; longer texts are read from both ends, half from each
ROWS_A_CALL = 4_096  # rows hashed at once
STRENGTHS = (1.0, 10.0, 100.0, 1_000.0)  # C of scikit-learn's logistic regression, tried from the strongest penalty to the weakest
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1)  # the same for regression: alpha of scikit-learn's ridge regression
MOST_ITERATIONS = 50
MOST_CLASSES = 100  # with more classes, texts are scored only on request
VIEWS: tuple[dict[str, Any], ...] = (
    {"analyzer": "word", "token_pattern": r"(?u)\w+|[^\w\s]", "ngram_range": (1, 2)},  # punctuation is informative, too
    {"analyzer": "char_wb", "lowercase": False, "ngram_range": (2, 5)},
)


@dataclass(frozen=True)
class NgramScorer:
    """A linear model of words, pairs of words, and character n-grams.

    Attributes:
        columns: the text columns; each has its own buckets.
        names: names of the scores: one for each class, a single one for two classes and for a regression.
        buckets: (F,) int32 indices of the buckets that have a weight.
        weight: (F, S) float32.
        bias: (S,) float32; the scores are about N(0, 1).
        fold_weight, fold_bias: the same for each fold's model, (folds, F, S) and (folds, S), used to score the training rows.
    """

    columns: tuple[Hashable, ...]
    names: tuple[str, ...]
    buckets: np.ndarray = field(repr=False, compare=False)
    weight: np.ndarray = field(repr=False, compare=False)
    bias: np.ndarray = field(repr=False, compare=False)
    fold_weight: np.ndarray = field(repr=False, compare=False)
    fold_bias: np.ndarray = field(repr=False, compare=False)

    def transform(self, table: pd.DataFrame, held_out: bool = False) -> np.ndarray:
        """(N, S) float32.

        Args:
            held_out: for the training rows: scores each row by its fold's model, which was not fitted to its text.
        """
        scores = [np.zeros((0, len(self.names)), np.float32)]
        for start in range(0, len(table), ROWS_A_CALL):
            texts = _texts(table.iloc[start : start + ROWS_A_CALL], self.columns)
            features = _features(texts)[:, self.buckets]
            if held_out:
                scores.append(_held_out(features, self.fold_weight, self.fold_bias, _folds(texts)))
            else:
                scores.append(features @ self.weight + self.bias)
        return np.concatenate(scores)

    def to_json(self) -> dict[str, Any]:
        arrays = {name: _array_to_json(getattr(self, name)) for name in ("buckets", "weight", "bias", "fold_bias")}
        folds = _array_to_json(self.fold_weight.astype(np.float16))  # only needed by a fit that starts from this predictor on the same rows: float16 is enough
        return {"columns": list(self.columns), "names": list(self.names), **arrays, "fold_weight": folds}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        arrays = {name: _array_from_json(values[name]) for name in ("buckets", "weight", "bias", "fold_weight", "fold_bias")}
        arrays["fold_weight"] = arrays["fold_weight"].astype(np.float32)
        return cls(tuple(values["columns"]), tuple(values["names"]), **arrays)


def score_names(problem: Problem) -> tuple[str, ...]:
    """Names of the scores of a problem's texts."""
    classes = problem.class_labels if problem.problem_type == "multiclass" else [problem.label if problem.positive_class is None else problem.positive_class]
    return tuple(f"words: {each}" for each in classes)


def fit_ngrams(
    table: pd.DataFrame,
    columns: Sequence[Hashable],
    target: np.ndarray,
    weight: np.ndarray | None,
    problem: Problem,
    seed: int,
    time_limit: float | None = None,
) -> NgramScorer:
    """Fits one model per fold, and one to all rows.

    Args:
        table: the training rows.
        target: (N,) class indices, or standardised values of a regression.
        weight: (N,) of the rows; None: all count equally.
        seed: draws the rows to learn from, if there are too many.
        time_limit: seconds of the whole ``fit``, of which this takes a part. It sets the number of rows in advance, so that the same call learns the same.
    """
    names = score_names(problem)
    read = np.array([sum(map(len, row)) for row in zip(*_texts(table, columns), strict=True)])
    most = MOST_CHARACTERS if time_limit is None else min(MOST_CHARACTERS, round(time_limit * CHARACTERS_A_SECOND))
    order = np.random.default_rng(seed).permutation(len(table))
    rows = np.sort(order[: max(1, int(np.searchsorted(np.cumsum(read[order]), most // (1 + len(names) // 4), "right")))])
    texts, target, weight = _texts(table.iloc[rows], columns), target[rows], np.ones(len(rows)) if weight is None else weight[rows]
    features = _features(texts)
    found_in = np.bincount(features.indices, minlength=features.shape[1])
    num_features = min(MOST_FEATURES, MOST_WEIGHTS // len(names), int((found_in >= LEAST_ROWS).sum()))
    buckets = np.sort(np.argsort(-found_in, kind="stable")[:num_features]).astype(np.int32)
    features, folds = features[:, buckets].tocsr(), _folds(texts)
    weights, biases = _fit(features, target, weight, folds, len(names), problem.is_classification)
    scores = _held_out(features, weights, biases, folds)
    sd = max(float(scores.std()), 1e-6)
    weights, biases = (weights / sd).astype(np.float32), ((biases - scores.mean(0)) / sd).astype(np.float32)
    return NgramScorer(tuple(columns), names, buckets, weights[-1], biases[-1], weights[:-1], biases[:-1])


def _fit(features: csr_array, target: np.ndarray, weight: np.ndarray, folds: np.ndarray, num_scores: int, is_classes: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weights (folds + 1, F, S) and biases (folds + 1, S), for the penalty with the lowest loss on held-out rows. The last model is fitted to all rows."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    penalties = [{"C": strength} for strength in STRENGTHS] if is_classes else [{"alpha": penalty} for penalty in PENALTIES]
    models = [
        LogisticRegression(max_iter=MOST_ITERATIONS, tol=1e-6, warm_start=True) if is_classes else Ridge(solver="sparse_cg") for _ in range(NUM_FOLDS + 1)
    ]
    best, found = np.inf, (np.zeros((NUM_FOLDS + 1, features.shape[1], num_scores)), np.zeros((NUM_FOLDS + 1, num_scores)))
    for penalty in penalties if features.shape[1] else ():
        weights, biases = np.zeros_like(found[0]), np.zeros_like(found[1])
        for fold, model in enumerate(models):
            rows = (folds != fold) & (weight > 0)
            if len(np.unique(target[rows])) > 1:
                with warnings.catch_warnings():  # weak penalties need not converge, only the loss on held-out rows counts
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    model.set_params(**penalty).fit(features[rows], target[rows], sample_weight=weight[rows])
                if is_classes:
                    weights[fold], biases[fold] = of_classes(model.coef_, model.intercept_, model.classes_, num_scores)
                else:
                    weights[fold, :, 0], biases[fold, 0] = model.coef_, model.intercept_
        scores = _held_out(features, weights, biases, folds)
        loss = cross_entropy(scores, target) if is_classes else float(np.mean((scores[:, 0] - target) ** 2))
        if loss >= best:
            break  # it only gets worse from here
        best, found = loss, (weights, biases)
    return found


def _held_out(features: csr_array, weights: np.ndarray, biases: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(N, S): scores each row by the model of its own fold, which was not fitted to it."""
    return np.stack([features @ weight + bias for weight, bias in zip(weights, biases, strict=True)])[folds, np.arange(len(folds))]


def _texts(table: pd.DataFrame, columns: Sequence[Hashable]) -> list[list[str]]:
    """The texts of each column, long ones reduced to their two ends."""
    half = MOST_OF_A_TEXT // 2
    return [[text if len(text) <= 2 * half else f"{text[:half]}\n{text[-half:]}" for text in text_cells(table[column])] for column in columns]


def _folds(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) int64 fold of each row, computed from its text, so that copies of a text share a fold."""
    return np.array([zlib.crc32("\0".join(row).encode()) % NUM_FOLDS for row in zip(*texts, strict=True)], np.int64)


def _features(texts: Sequence[Sequence[str]]) -> csr_array:
    """(N, columns * views * NUM_BUCKETS) float32: 1 + log of the n-gram count of each hash bucket. Each view is normalised to length 1."""
    from scipy.sparse import csr_array, hstack
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.preprocessing import normalize

    blocks = []
    for column in texts:
        for view in VIEWS:
            counts = HashingVectorizer(n_features=NUM_BUCKETS, norm=None, alternate_sign=False, dtype=np.float32, **view).transform(column)
            counts.data = 1 + np.log(counts.data)
            blocks.append(normalize(counts, copy=False))
    return csr_array(hstack(blocks, format="csr"))


def _array_to_json(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "shape": list(array.shape), "base64": base64.b64encode(array.tobytes()).decode()}


def _array_from_json(values: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(values["base64"]), np.dtype(values["dtype"])).reshape(values["shape"])
