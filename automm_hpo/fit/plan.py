"""What a call of ``fit`` comes to: what is learned from, what is tried, where and within what. Nothing is written or started yet."""

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
from ..hpo.settings import DEFAULT_NUM_TRIALS, TuneSettings
from ..hpo.warm_start import WarmStart
from ..metrics import OBJECT, Metric, find_metric
from ..problem import Problem, encode_weights
from ..space import RawProposal, SearchSpace
from ..training.building import ModelBuilder
from .start import Start

WORDS_LIMIT = "words_time_limit"  # of what is chosen for a search: the time limit by which as many words are learned from


@dataclass(frozen=True)
class Target:
    """What the user said of the label; None is inferred. A metric is a name or a scorer object."""

    label: str | None
    problem_type: str | None
    eval_metric: Any
    validation_metric: Any
    sample_weight: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The arguments of the predictor; of a scorer object only the name."""
        metrics = {name: getattr(self, name) for name in ("eval_metric", "validation_metric")}
        return asdict(self) | {name: find_metric(metric, name).name if metric is not None else None for name, metric in metrics.items()}

    def begun_with(self, start: Start | None) -> Self:
        """The same, with what the predictor that a fit begins with, if it does, knows of it.

        Raises:
            InvalidArgument: the user said something else.
        """
        if start is None:
            return self
        problem, artifact = start.artifact.problem, start.artifact
        for name, given, own in (("label", self.label, problem.label), ("problem_type", self.problem_type, problem.problem_type)):
            if given is not None and given != own:
                raise InvalidArgument(f"{name}: is {given!r}, and {own!r} of the predictor in start_from; leave it out")
        told = {} if self.eval_metric is not None else {"eval_metric": artifact.eval_metric}
        if self.eval_metric is None and self.validation_metric is None:  # which else is the eval_metric
            told["validation_metric"] = artifact.validation_metric
        for name, metric in told.items():
            if metric.startswith(OBJECT):
                raise InvalidArgument(
                    f"{name}: that of the predictor in start_from is a scorer object ({metric}), which no file holds; give it again, or another"
                )
        return replace(self, label=problem.label, problem_type=problem.problem_type, **told)

    def searched_by(self, settings: TuneSettings) -> Self:
        """The same, with the metric that the search was told to go by.

        Raises:
            InvalidTuneSettings: the predictor was told another.
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
    """Rows, and the folder that their relative paths count from."""

    table: pd.DataFrame
    folder: Path


@dataclass(frozen=True)
class DataPlan:
    """What is learned from."""

    train: Split
    valid: Split
    problem: Problem
    columns: ColumnTypes
    eval_metric: Metric
    validation_metric: Metric
    sample_weight: str | None = None
    valid_is_given: bool = False
    label_note: str = ""
    """What the user may want to know of how the label was understood."""
    start_note: str = ""
    """And of the rows, where the fit begins with a predictor."""

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
        """Rows with their targets as arrays; pictures still to be decoded."""
        target = self.problem.encode(split.table[self.problem.label])
        return encoders.transform(split.table, split.folder, target, self.weights(split), report, held_out=split is self.train)

    def weights(self, split: Split) -> np.ndarray | None:
        """(N,) float32 of the rows, scaled to a mean of 1 over those of training; None where all count alike."""
        if self.sample_weight is None or self.sample_weight not in split.table.columns:
            return None
        mean = encode_weights(self.train.table[self.sample_weight]).mean()
        return (encode_weights(split.table[self.sample_weight], may_be_zero=split is not self.train) / mean).astype(np.float32)

    def fit_scorer(self, encoders: Encoders, seed: int, time_limit: float | None) -> Encoders:
        """The encoders with the linear models of the texts' words, where those are wanted."""
        if not encoders.score_names:
            return encoders
        table, columns = self.train.table, encoders.text_columns
        target = self.problem.standardise(self.problem.encode(table[self.problem.label]))
        return encoders.with_scorer(fit_ngrams(table, columns, target, self.weights(self.train), self.problem, seed, time_limit))


@dataclass(frozen=True)
class SearchPlan:
    """What is tried. Without a space, ``settings`` are the defaults and there is one trial.

    Attributes:
        given: the fixed values, by canonical key: what the user gave, and what a preset or these data add to it.
        first_points: raw proposals to try before the searcher's own.
        warm_start: what earlier searches found.
        added: of ``given`` and ``space``, the keys that a preset or these data added.
        without_effect: what the user gave that does nothing here -> why.
    """

    config: Config
    given: Mapping[str, Any]
    space: SearchSpace
    settings: TuneSettings
    first_points: tuple[RawProposal, ...] = ()
    warm_start: WarmStart = field(default_factory=WarmStart)
    added: tuple[str, ...] = ()
    without_effect: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_trials(self) -> int:
        return self.settings.num_trials or DEFAULT_NUM_TRIALS if self.space else 1


@dataclass(frozen=True)
class FitPlan:
    """A call of ``fit`` as it will be carried out.

    Attributes:
        identity: what makes the search the same in another call.
        resuming: the folder holds this search already.
        deadline: time.time() at which ``fit`` must return; None: no limit.
        ensemble_size: most models of an ensemble; 1: none.
        start: what all trials begin with, where that is another predictor.
        refit: instead train the best configuration again, on all rows; none are left to validate that.
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

    @functools.cached_property
    def seen(self) -> np.ndarray:
        """``row_digests`` of what the search's models learn from, and of what that they begin with did."""
        earlier = [] if self.start is None else [self.start.artifact.seen]
        return np.concatenate([self.data.digests(self.data.train), *earlier])

    def with_start_kept(self) -> Self:
        """The plan with what trials begin with in the search's own folder: it goes on though that predictor may be gone, or another one."""
        return self if self.start is None else replace(self, start=self.start.kept_in(self.path / "search"))

    def with_scorer(self) -> Self:
        """The plan with the words' linear models fitted, where they are wanted: it takes a while, and a search that has finished needs it no more."""
        if self.start is not None:  # which has its own
            return self
        # by the time limit of the first session: its trials have learned from the scores that these models gave then
        return replace(self, encoders=self.data.fit_scorer(self.encoders, self.seed, self.identity.chosen.get(WORDS_LIMIT)))
