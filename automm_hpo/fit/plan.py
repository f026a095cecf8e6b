"""The plan of a ``fit``: its data, its search, its folder and its time. Making it writes and starts nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from ..config import Config
from ..data.columns import ColumnTypes
from ..data.encoders import EncodedTable, Encoders, count_pictures
from ..data.ngrams import fit_ngrams
from ..data.seen import row_digests
from ..errors import InvalidArgument, InvalidTuneSettings
from ..hpo.identity import SearchIdentity
from ..hpo.records import SearchRecords, TrialRecord
from ..hpo.settings import DEFAULT_NUM_TRIALS, TuneSettings
from ..hpo.warm_start import WarmStart
from ..metrics import OBJECT, Metric, find_metric
from ..problem import Problem, encode_weights
from ..space import RawProposal, SearchSpace
from ..training.building import ModelBuilder
from .start import Start

WORDS_LIMIT = "words_time_limit"  # in ``SearchIdentity.chosen``: the time limit that decides how many rows word models learn from


@dataclass(frozen=True)
class Target:
    """What the user said about the label; None: to be inferred. A metric is a name or a scorer object."""

    label: str | None
    problem_type: str | None
    eval_metric: Any
    validation_metric: Any
    sample_weight: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The arguments of the predictor; a scorer object is stored by name only."""
        metrics = {name: getattr(self, name) for name in ("eval_metric", "validation_metric")}
        return asdict(self) | {name: find_metric(metric, name).name if metric is not None else None for name, metric in metrics.items()}

    def begun_with(self, start: Start | None) -> Self:
        """The target completed from the predictor in ``start_from``, if there is one.

        Raises:
            InvalidArgument: the user gave another label or problem type, or the predictor's metric is a scorer object.
        """
        if start is None:
            return self
        problem, artifact = start.artifact.problem, start.artifact
        for name, given, own in (("label", self.label, problem.label), ("problem_type", self.problem_type, problem.problem_type)):
            if given is not None and given != own:
                raise InvalidArgument(f"{name}: is {given!r}, and {own!r} of the predictor in start_from; leave it out")
        told = {} if self.eval_metric is not None else {"eval_metric": artifact.eval_metric}
        if self.eval_metric is None and self.validation_metric is None:  # given only eval_metric, it is also the validation_metric
            told["validation_metric"] = artifact.validation_metric
        for name, metric in told.items():
            if metric.startswith(OBJECT):
                raise InvalidArgument(f"{name}: the predictor in start_from used a scorer object ({metric}), which was not saved; give it again, or another")
        return replace(self, label=problem.label, problem_type=problem.problem_type, **told)

    def searched_by(self, settings: TuneSettings) -> Self:
        """The target with the ``metric`` of the search settings as its validation metric.

        Raises:
            InvalidTuneSettings: the predictor was given another one.
        """
        if settings.metric is None:
            return self
        metric = find_metric(settings.metric, "hyperparameter_tune_kwargs: metric")
        if self.validation_metric is not None and find_metric(self.validation_metric, "validation_metric") != metric:
            raise InvalidTuneSettings(
                f"hyperparameter_tune_kwargs: metric={settings.metric!r}, but the predictor's validation_metric is {self.validation_metric!r}; give one of them"
            )
        return replace(self, validation_metric=settings.metric)


@dataclass(frozen=True)
class Split:
    """Rows of a table.

    Attributes:
        folder: base of relative paths in them.
        fold: (N, F) bool, true for the fold that a row is in; None without folds.
    """

    table: pd.DataFrame
    folder: Path
    fold: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be learned, from rows that are not split yet.

    Attributes:
        rows: ``train_data``.
        tuning_rows: ``tuning_data``, if it was given.
        label_note: a hint on how the label was understood; may be empty.
    """

    rows: Split
    tuning_rows: Split | None
    problem: Problem
    columns: ColumnTypes
    eval_metric: Metric
    validation_metric: Metric
    sample_weight: str | None = None
    label_note: str = ""


@dataclass(frozen=True, kw_only=True)
class DataPlan(Task):
    """The data of a fit. With folds, ``train`` and ``valid`` are the same split.

    Attributes:
        valid_rows: (N,) int64, the positions of the rows of ``valid`` in ``tuning_rows``, or else in ``rows``.
        start_note: a note on rows that the predictor in ``start_from`` has learned from; may be empty.
    """

    train: Split
    valid: Split
    valid_rows: np.ndarray
    start_note: str = ""

    @property
    def num_folds(self) -> int:
        return 0 if self.train.fold is None else self.train.fold.shape[1]

    def digests(self, *splits: Split) -> np.ndarray:
        """``row_digests`` of the rows of some splits."""
        return np.concatenate([row_digests(split.table, self.columns, self.problem.label, split.folder) for split in splits])

    def num_pictures(self, config: Config) -> dict[Hashable, int]:
        """``count_pictures`` of the training rows."""
        return count_pictures(self.columns, self.train.table, self.train.folder, config.model.timm_image.max_image_num_per_column)

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "valid": self.valid}

    def encode(self, split: Split, encoders: Encoders, report: Callable[[str], None] = lambda line: None) -> EncodedTable:
        """The rows and their targets as arrays; images are not decoded yet. Scores of texts are by models that have not seen the row, if it is learned from."""
        target = self.problem.encode(split.table[self.problem.label])
        table = encoders.transform(split.table, split.folder, target, self.weights(split), report, held_out=split is self.train)
        return table if split.fold is None else replace(table, fold=split.fold)

    def weights(self, split: Split) -> np.ndarray | None:
        """(N,) float32 row weights, scaled to a mean of 1 over the training rows; None if all rows count alike."""
        if self.sample_weight is None or self.sample_weight not in split.table.columns:
            return None
        mean = encode_weights(self.train.table[self.sample_weight]).mean()
        return (encode_weights(split.table[self.sample_weight], may_be_zero=split is not self.train) / mean).astype(np.float32)

    def fit_scorer(self, encoders: Encoders, seed: int, time_limit: float | None) -> Encoders:
        """The encoders with the linear models of the texts' words fitted, if their ``score_names`` ask for them."""
        if not encoders.score_names:
            return encoders
        table, columns = self.train.table, encoders.text_columns
        target = self.problem.standardise(self.problem.encode(table[self.problem.label]))
        return encoders.with_scorer(fit_ngrams(table, columns, target, self.weights(self.train), self.problem, seed, time_limit))


@dataclass(frozen=True)
class SearchPlan:
    """What the trials try. Without a space, ``settings`` are the defaults and there is one trial.

    Attributes:
        given: fixed values by canonical key: those of the user, and those added by a preset or for these data.
        first_points: raw proposals to try before the searcher's own.
        warm_start: what earlier searches found.
        added: the keys of ``given`` and ``space`` that were added by a preset or for these data.
        ensemble_size: most models in an ensemble, if the call does not say it.
        without_effect: names the user gave that do nothing here -> why.
    """

    config: Config
    given: Mapping[str, Any]
    space: SearchSpace
    settings: TuneSettings
    first_points: tuple[RawProposal, ...] = ()
    warm_start: WarmStart = field(default_factory=WarmStart)
    added: tuple[str, ...] = ()
    without_effect: Mapping[str, str] = field(default_factory=dict)
    ensemble_size: int = 1

    @property
    def num_trials(self) -> int:
        return self.settings.num_trials or DEFAULT_NUM_TRIALS if self.space else 1


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """A call of ``fit`` as it will be carried out.

    Attributes:
        identity: what another call must share to resume the search.
        resuming: whether the folder already holds this search.
        deadline: time.time() at which ``fit`` must return; None: no limit.
        ensemble_size: most models in an ensemble; 1: no ensemble.
        start: the predictor that all trials begin with, if any.
        refit: instead of a soup or an ensemble, train the best configuration again on all rows, which leaves none to validate it.
    """

    path: Path
    data: DataPlan
    search: SearchPlan
    encoders: Encoders
    seed: int
    identity: SearchIdentity
    resuming: bool
    deadline: float | None
    ensemble_size: int = 1
    refit: bool = False
    start: Start | None = None

    @property
    def models(self) -> ModelBuilder:
        features, num_outputs, start = self.encoders.features, self.data.problem.num_outputs, self.start
        return ModelBuilder(features, num_outputs) if start is None else ModelBuilder(features, num_outputs, start.weights, start.sources)

    @property
    def cache(self) -> Path:
        """The folder of the encoded rows, while the search runs."""
        return self.path / "search" / "cache"

    @functools.cached_property
    def earlier(self) -> list[TrialRecord]:
        """The trials that earlier sessions began."""
        return SearchRecords(self.path / "search").trials() if self.resuming else []

    @functools.cached_property
    def seen(self) -> np.ndarray:
        """``row_digests`` of the training rows, and of the rows that the predictor in ``start_from`` learned from."""
        earlier = [] if self.start is None else [self.start.artifact.seen]
        return np.concatenate([self.data.digests(self.data.train), *earlier])

    def with_start_kept(self) -> Self:
        """The plan with the start predictor copied to the search folder, so that the search can go on if the original is deleted or replaced."""
        return self if self.start is None else replace(self, start=self.start.kept_in(self.path / "search"))

    def with_scorer(self) -> Self:
        """The plan with the word models fitted, if it has any. A separate step, because it takes a while and a finished search does not need it."""
        if self.start is not None:  # the predictor in start_from has its own
            return self
        # with the first session's time limit, so that the models give the same scores that its trials learned from
        return replace(self, encoders=self.data.fit_scorer(self.encoders, self.seed, self.identity.chosen.get(WORDS_LIMIT)))
