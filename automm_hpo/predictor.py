"""``MultiModalPredictor``: the story, told by calling the layers."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import nn

from .arguments import absolute_path, check_flag, check_number, check_unused
from .artifact import Artifact, Embedder, load_artifact, load_summary, save_artifact
from .config import Config
from .data.batch import TensorCache, ahead
from .data.cache import build_cache
from .data.decoding import BadImage, describe
from .data.encoders import EncodedTable, Encoders
from .data.tables import load_table
from .errors import BadImages, InvalidArgument, InvalidData, NotAPredictor, NotFitted, Problems
from .files import is_predictor
from .fit.call import FitCall, plan_embedding, plan_fit, restored_call, target_again
from .fit.data_plan import FEATURE_EXTRACTION, check_problem_type
from .fit.plan import Target
from .fit.preview import Preview, preview
from .fit.run import run_fit, trial_artifact
from .hpo.identity import is_search
from .hpo.progress import print_line
from .hpo.records import SearchRecords
from .hpo.table import number_text
from .metrics import Metric, check_fits, find_metric, stored_metric
from .presets import check_preset
from .results import SearchResults
from .sections import unwrapped
from .training.device import pick_device, usual_torch
from .training.evaluate import compute_metric, probabilities, undefined_on, values

MOST_NOTES = 20  # that a predictor makes on what it is given: one that answers requests for weeks would fill a log
PREDICT_ROWS, PREDICT_BYTES = 4_096, 256_000_000  # at most, of rows and of their decoded images, in memory at once


class MultiModalPredictor:
    """Learns from a table of images, numbers, categories, dates and texts, tunes itself on request, and predicts.

    Args:
        label: column to predict.
        problem_type: binary, multiclass or regression; inferred from the label where None. ``feature_extraction`` needs no label and no
            ``fit``, and gives ``extract_embedding``.
        eval_metric: what ``evaluate`` reports: a name, ours or one of scikit-learn's scorers, or a scorer object, with which a search cannot be
            resumed. By default roc_auc, accuracy or rmse, by problem type.
        validation_metric: what early stopping and the search go by; by default ``eval_metric``.
        hyperparameters: dotted keys, as in ``fit``; those given to ``fit`` win.
        path: where ``fit`` saves when it is given no ``save_path``.
        verbosity: 0 is silent, 1 prints the summary of a search, 2 and more also its course.
        pretrained: False is short for ``{"model.timm_image.pretrained": False, "model.hf_text.pretrained": False}``.
        enable_progress_bar: accepted for AutoMM's sake; the course of a search is told in lines, not bars.
        sample_weight: column that says how much each training row counts in the loss, >= 0; metrics count all rows alike, and nothing is learned from it.
    """

    def __init__(
        self,
        label: str | None = None,
        problem_type: str | None = None,
        presets: str | None = None,
        eval_metric: str | Callable[..., float] | None = None,
        validation_metric: str | Callable[..., float] | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        path: str | Path | None = None,
        verbosity: int = 2,
        pretrained: bool = True,
        enable_progress_bar: bool | None = None,
        sample_weight: str | None = None,
    ) -> None:
        problems = Problems()
        for check, argument in ((check_problem_type, problem_type), (check_preset, presets)):
            with problems.gather():
                check(argument)
        for name, metric in (("eval_metric", eval_metric), ("validation_metric", validation_metric)):
            with problems.gather():
                if metric is not None:
                    find_metric(metric, name)
        with problems.gather():
            check_flag(pretrained, "pretrained")
        with problems.gather():
            self.set_verbosity(verbosity)
        with problems.gather():
            self._fit_path = None if path is None else absolute_path(path, "path")
        problems.raise_any()
        label, sample_weight = unwrapped(label), unwrapped(sample_weight)  # JSON does not take numpy's 2
        self._target = Target(label, problem_type, eval_metric, validation_metric, sample_weight)
        self._layers = ({} if pretrained else {"model.timm_image.pretrained": False, "model.hf_text.pretrained": False}, hyperparameters)
        self._presets = presets
        self._column_types: Mapping[str, str] | None = None  # of a predictor that was loaded: what it was given
        self._artifact: Artifact | None = None
        self._path: Path | None = None  # where the artifact lies
        self._embedder: Embedder | None = None  # of an untrained predictor
        self._said: set[str] = set()
        self._begun: FitCall | None = None  # the call that began the search that is to go on

    # ---------------------------------------------------------------------------------------------------------------- fit

    @usual_torch()
    def fit(
        self,
        train_data: Any,
        presets: str | None = None,
        tuning_data: Any = None,
        max_num_tuning_data: int | None = None,
        time_limit: float | None = None,
        save_path: str | Path | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        column_types: Mapping[str, str] | None = None,
        holdout_frac: float | None = None,
        seed: int = 0,
        hyperparameter_tune_kwargs: Mapping[str, Any] | str | None = None,
        resume: bool | str = "auto",
        tracking: str | None = "mlflow",
        ensemble_size: int = 1,
        refit: bool = False,
        start_from: str | Path | None = None,
        dry_run: bool = False,
    ) -> Any:
        """Trains, or searches: with a ``tune.*`` space among the hyperparameters, each trial is one configuration.

        Args:
            train_data: DataFrame, or path of a .csv or .parquet file (relative image paths then count from its folder).
            tuning_data: rows to validate on; None holds some of ``train_data`` out, stratified and seeded.
            max_num_tuning_data: at most that many of ``tuning_data``'s rows, drawn with the seed.
            time_limit: seconds from this call to its return; the best so far is kept.
            save_path: new or empty folder, or the one of an earlier call with these arguments; None makes one named after the time.
            hyperparameters: dotted key -> value or search space.
            column_types: column -> type, where inference is wrong; ``null`` leaves a column out.
            holdout_frac: fraction of rows held out.
            seed: of split, weights, batches and searcher.
            hyperparameter_tune_kwargs: searcher, scheduler, num_trials, num_to_keep, ... (``hpo/settings.py``), or a preset's name.
            resume: ``auto`` goes on with the search that ``save_path`` holds, where it is the same search; so does True, which demands
                that there is one; False refuses a folder that holds one.
            tracking: ``mlflow``, or None.
            ensemble_size: combine up to that many of the best trials' models where they predict the validation rows better together; 1: one model.
            refit: at last train the best configuration again on training and validation rows together. That model has no validation score of
                its own; the one reported is the search's.
            start_from: folder of a fitted predictor whose weights learn on. Its columns, encoding, classes and model stay as they are; its
                hyperparameters are the defaults, or a preset's where one is named. What it scores on these validation rows is epoch 0 of
                every trial. Rows that it has learned from are not held out; ``tuning_data`` should have none. Of an ensemble only the model with the
                largest weight is used.
                The folder is only read.
            dry_run: only tell what would run and what it would take, as ``plan`` does.

        Returns:
            The predictor: the best checkpoint, or what was made of the best ones (``fit_summary`` tells).

        Raises:
            InvalidInput: everything wrong with the call, listed together, before anything is started.
            SearchMismatch: ``save_path`` holds another search.
            SearchInUse: another process is searching there.
            AllTrialsFailed: no trial ended with a score.
        """
        call = FitCall(
            presets=self._presets if presets is None else presets,
            max_num_tuning_data=max_num_tuning_data,
            time_limit=time_limit,
            save_path=self._fit_path if save_path is None else save_path,
            hyperparameters=hyperparameters,
            column_types=self._column_types if column_types is None else column_types,
            holdout_frac=holdout_frac,
            seed=seed,
            hyperparameter_tune_kwargs=hyperparameter_tune_kwargs,
            resume=resume,
            tracking=tracking,
            ensemble_size=ensemble_size,
            refit=refit,
            start_from=start_from,
        )
        if self._begun is not None:
            call = self._begun.changed_by(call)
        plan = plan_fit(call, self._target, self._layers, train_data, tuning_data)
        if dry_run:
            return preview(plan.with_scorer())
        if plan.start is None and not plan.resuming:
            self._say_it_begins_anew()
        artifact, interruption = run_fit(plan, self.verbosity, call.tracking)
        self._target = self._target.begun_with(plan.start)
        self._adopt(artifact, plan.path)
        interruption.reraise()
        return self

    def _say_it_begins_anew(self) -> None:
        """AutoMM's would go on. Of a single trial's predictor, which has no folder of its own, there is nothing to say."""
        if self.verbosity > 1 and self._artifact is not None and self._path is not None and load_summary(self._path) == self.fit_summary():
            print_line(f"this fit begins anew; start_from={self.path!r} would go on from this predictor's weights")

    def plan(self, *args: Any, **kwargs: Any) -> Preview:
        """What ``fit`` with the same arguments would do: its trials as far as they are known, time and disk from a few timed steps.

        Nothing is written but a temporary folder. Raises what ``fit`` would raise.
        """
        return self.fit(*args, **{**kwargs, "dry_run": True})

    def _adopt(self, artifact: Artifact, path: Path) -> None:
        self._artifact, self._path = replace(artifact, members=tuple(member.ready() for member in artifact.members)), path

    # ------------------------------------------------------------------------------------------------------------ predict

    def predict(self, data: Any, as_pandas: bool | None = None) -> pd.Series | np.ndarray:
        """Predicts the label.

        Args:
            data: DataFrame, dict, list of dicts, or path of a .csv or .parquet file. Columns are matched by name.
            as_pandas: False gives an array.

        Returns:
            Series named after the label, in its dtype, with the data's index.

        Raises:
            BadImages: an image cannot be read. With ``data.image.missing_value_strategy="skip"`` that row is missing instead.
        """
        predicted = self._decode(*self._logits(data))
        return predicted.to_numpy() if as_pandas is False else predicted

    def predict_proba(self, data: Any, as_pandas: bool | None = None, as_multiclass: bool = True) -> pd.DataFrame | pd.Series | np.ndarray:
        """Class probabilities.

        Args:
            data: as for ``predict``.
            as_multiclass: False gives a binary problem's probability of the positive class alone.

        Returns:
            DataFrame (N, K) float64, columns are the class labels, rows sum to 1.

        Raises:
            InvalidArgument: the problem is a regression.
        """
        problem = self._fitted.problem
        if not problem.is_classification:
            raise InvalidArgument("predict_proba: a regression has no classes; use predict")
        table, logits, bad = self._logits(data)
        frame = pd.DataFrame(probabilities(logits), index=table.index, columns=list(problem.class_labels))
        frame.iloc[_rows(bad, len(table))] = np.nan
        result = frame if as_multiclass or problem.problem_type != "binary" else frame[problem.positive_class]
        return result.to_numpy() if as_pandas is False else result

    def evaluate(self, data: Any, metrics: str | list[str] | None = None, return_pred: bool = False) -> dict[str, float] | tuple[dict[str, float], pd.Series]:
        """Metrics on labelled data, each in its natural sign.

        Args:
            data: as for ``predict``, with the label column.
            metrics: names, or scorers of scikit-learn, of whose values more is better; None is the predictor's eval_metric. With
                ``data.image.missing_value_strategy="skip"`` they are of the rows whose images can be read, and a line says how many are not.
            return_pred: also give the predictions.

        Raises:
            InvalidArgument: a metric does not exist or does not fit the problem.
            InvalidData: no label column, or classes that training did not have.
        """
        artifact = self._fitted
        names = [artifact.eval_metric] if metrics is None else list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
        found = [self._own_metric()] if metrics is None else [find_metric(name, "metrics") for name in names]
        names = [name if isinstance(name, str) else metric.name for name, metric in zip(names, found, strict=True)]
        for metric in found:
            check_fits(metric, artifact.problem.problem_type, "metrics")
        table, folder = load_table(data, "data", (*artifact.encoders.columns, artifact.problem.label))
        if artifact.problem.label not in table.columns:
            raise InvalidData(f"data: has no label column {artifact.problem.label!r}")
        target = artifact.problem.encode(table[artifact.problem.label])
        _, logits, bad = self._logits(table, folder)
        readable = ~_rows(bad, len(table))
        if not readable.any():
            raise InvalidData("data: no rows to evaluate")
        scores = {
            name: compute_metric(metric, artifact.problem, logits[torch.from_numpy(readable)], target[readable])
            for name, metric in zip(names, found, strict=True)
        }
        for name, metric in zip(names, found, strict=True):
            if math.isnan(scores[name]) and (why := undefined_on(metric, artifact.problem, target[readable])):
                self._say(f"{name} is undefined on these {readable.sum():,} rows: {why}")
        if not return_pred:
            return scores
        return scores, self._decode(table, logits, bad)

    @usual_torch()
    def _logits(self, data: Any, folder: Path | None = None) -> tuple[pd.DataFrame, torch.Tensor, list[BadImage]]:
        """The table, its (N, num_outputs) logits, and the images that could not be read (their rows hold zeros)."""
        artifact = self._fitted
        table, own_folder = load_table(data, "data", artifact.encoders.columns)
        encoded = artifact.encoders.transform(table, folder or own_folder, report=self._say)
        logits, bad = _in_parts(encoded, artifact.encoders, artifact.config, artifact.logits, list(table.index))
        self._say_what_is_missing(bad, table)
        return table, logits if len(table) else torch.zeros(0, artifact.problem.num_outputs), bad

    @usual_torch()
    def extract_embedding(self, data: Any, as_pandas: bool | None = None) -> np.ndarray | pd.DataFrame:
        """What the model makes of each row before its head answers; of an ensemble, its heaviest member.

        Not fitted, with ``problem_type="feature_extraction"``, it is what pretrained models make of the images and texts, one after another;
        which columns those are the first call decides.

        Args:
            data: as for ``predict``; the label is not needed.
            as_pandas: True gives a DataFrame with the data's index.

        Returns:
            (N, D) float32.

        Raises:
            NotFitted: and the problem is another.
            BadImages: as ``predict``.
        """
        known = self._artifact or self._embedder
        table, folder = load_table(data, "data", known.encoders.columns if known else None)
        is_untrained = self._artifact is None and self._target.problem_type == FEATURE_EXTRACTION
        if is_untrained:
            embedder = self._embedder or Embedder.build(*plan_embedding(self._layers, table, folder, self.label, self._say))
        else:
            artifact = self._fitted
            first = artifact.members[0]
            embedder = Embedder(artifact.config, artifact.encoders, first.predicting or first.model)
        encoded = embedder.encoders.transform(table, folder, report=self._say)
        found, bad = _in_parts(encoded, embedder.encoders, embedder.config, embedder.embed, list(table.index))
        self._say_what_is_missing(bad, table)
        if is_untrained:
            self._embedder = embedder  # not where the first call failed: then the next one decides
        embedding = found.numpy() if len(table) else np.zeros((0, embedder.num_features), np.float32)
        embedding[_rows(bad, len(table))] = np.nan
        return pd.DataFrame(embedding, index=table.index) if as_pandas else embedding

    def _own_metric(self) -> Metric:
        """The one of ``evaluate``: as it was given, where that was in this process."""
        stored, given = stored_metric(self._fitted.eval_metric), self._target.eval_metric
        found = stored if given in (None, stored.name) else find_metric(given)
        return found if found.name == stored.name else stored

    def _say_what_is_missing(self, bad: list[BadImage], table: pd.DataFrame) -> None:
        if bad:
            rows = int(_rows(bad, len(table)).sum())
            self._say(f"{rows:,} of {len(table):,} rows have no answer, and count in no score: {describe(bad, list(table.index))}")

    def _say(self, line: str) -> None:
        """Once: predict, predict_proba and evaluate of the same rows have the same to say."""
        if self.verbosity and line not in self._said and len(self._said) < MOST_NOTES:
            self._said.add(line)
            print_line(line if len(self._said) < MOST_NOTES else f"{line}\nfurther notes on what is predicted are left out")

    def _decode(self, table: pd.DataFrame, logits: torch.Tensor, bad: list[BadImage]) -> pd.Series:
        """Predictions in the label's own dtype, missing where an image could not be read."""
        problem = self._fitted.problem
        predicted = problem.decode(logits.argmax(1).numpy() if problem.is_classification else values(problem, logits), table.index)
        if not bad:
            return predicted
        nullable: Any = {"i": "Int64", "u": "Int64", "b": "boolean"}.get(getattr(predicted.dtype, "kind", ""), predicted.dtype)
        return predicted.astype(nullable).mask(_rows(bad, len(table)))  # numpy's integers and booleans have no missing value

    # ---------------------------------------------------------------------------------------------------------- afterwards

    def set_verbosity(self, verbosity: int) -> None:
        """From now on: 0 is silent, 1 prints the summary of a search, 2 and more also its course."""
        check_number(verbosity, "verbosity", Integral, "an integer >= 0", lambda level: level >= 0)
        self.verbosity = verbosity

    def leaderboard(self) -> pd.DataFrame:
        """One row a trial, best first; columns as ``hpo.records.SearchRecords.leaderboard`` lists them."""
        return self.search.leaderboard()

    def fit_summary(self) -> dict[str, Any]:
        """The best validation score, training time and number of trials; the same after ``load``."""
        return dict(self._fitted.summary)

    def save(self, path: str | Path) -> None:
        """Copies the predictor and the records of its search to another folder, without the single trials' weights.

        Raises:
            SavePathExists: the folder holds files that are not a predictor's, or another search with its trials' weights, which would be lost.
        """
        artifact, target = self._fitted, absolute_path(path, "path")
        source = self._folder / "search"
        if not source.is_dir():
            raise NotAPredictor(f"{self._folder} is no longer there; load the predictor from where it is now")
        if target.resolve() == self._folder.resolve():
            return
        if target.resolve().is_relative_to(source.resolve()):
            raise InvalidArgument(f"path: {target} lies inside the predictor that is to be copied")
        if not is_predictor(target) or any((target / "search").glob("trials/*/checkpoints/*")):
            check_unused(target, "path")
        save_artifact(artifact, target)
        shutil.rmtree(target / "search", ignore_errors=True)
        shutil.copytree(source, target / "search", ignore=shutil.ignore_patterns("checkpoints", "cache"))

    @classmethod
    @usual_torch()
    def load(cls, path: str | Path, resume: bool = False, verbosity: int = 2) -> Self:
        """A predictor from its folder; verified by checksum, nothing in it is executed.

        Args:
            resume: its ``fit(train_data)`` goes on with the search that the folder holds, with the arguments that began it. The search
                need not have come to a predictor yet. False: its ``fit`` begins anew, for the same problem, metrics, weights and types of columns.

        Raises:
            NotAPredictor, CorruptFile
            NotSupported: the search was begun with something that only code can hold: a function, or a searcher's object.
        """
        folder = absolute_path(path, "path")
        if not resume:
            artifact = load_artifact(folder)
            predictor = cls(artifact.problem.label, verbosity=verbosity)
            predictor._target, predictor._column_types = target_again(artifact, folder / "search")
            predictor._adopt(artifact, folder)
            return predictor
        if not is_search(folder / "search"):
            raise NotAPredictor(f"{folder} holds no search that could go on")
        target, call = restored_call(folder / "search")
        predictor = cls(**target, path=folder, verbosity=verbosity)
        if is_predictor(folder):
            predictor._adopt(load_artifact(folder), folder)
        predictor._begun = FitCall(save_path=folder, resume=True, **call)
        return predictor

    @usual_torch()
    def load_trial(self, number: int) -> MultiModalPredictor:
        """The predictor that a single trial of the search came to, for any trial whose weights were kept.

        Its ``path`` is the folder of the whole search, which loads as the best of it; ``save`` gives this one a folder of its own.

        Raises:
            InvalidArgument: there is no such trial, or its weights were not kept; those that were are named.
        """
        artifact, records = self._fitted, self.search.records
        kept = [record.number for record in records.ranked() if record.best and records.folder_of(record.number).checkpoint(record.best).is_dir()]
        if number not in kept:
            if number not in range(len(records)):
                raise InvalidArgument(f"number: there is no trial {number!r}; the search has trials 0 to {len(records) - 1}")
            if not kept:
                raise InvalidArgument(f"number: {self._folder} holds no trial's weights; save() copies a predictor without them, they are where it was fitted")
            held = ", ".join(map(str, sorted(kept)))
            raise InvalidArgument(f"number: the weights of trial {number!r} were not kept (keep_trials says of how many they are); those of trials {held} are")
        predictor = type(self)(self.label, verbosity=self.verbosity)
        predictor._target = self._target  # with a scorer object, which no file holds
        predictor._adopt(trial_artifact(artifact, records, number), self._folder)
        return predictor

    @property
    def search(self) -> SearchResults:
        """The trials of the search that this predictor is the best of."""
        artifact = self._fitted
        if not (self._folder / "search").is_dir():
            raise NotAPredictor(f"{self._folder} is no longer there; load the predictor from where it is now")
        return SearchResults(SearchRecords(self._folder / "search"), stored_metric(artifact.validation_metric))

    def __repr__(self) -> str:
        if self._artifact is None:
            if self._target.problem_type == FEATURE_EXTRACTION:
                return f"MultiModalPredictor(problem_type={FEATURE_EXTRACTION!r})"
            return f"MultiModalPredictor(label={self.label!r}, not fitted)"
        metric, summary = self._artifact.validation_metric, self._artifact.summary
        return f"MultiModalPredictor(label={self.label!r}, {self.problem_type}, validation {metric} {number_text(summary[f'val_{metric}'])}, {self.path})"

    @property
    def _fitted(self) -> Artifact:
        if self._artifact is None:
            if self._target.problem_type == FEATURE_EXTRACTION:
                raise NotFitted("this predictor is for feature_extraction: it gives extract_embedding, and predicts nothing")
            raise NotFitted("this predictor has not been fitted; call fit, or MultiModalPredictor.load(path)")
        return self._artifact

    @property
    def _folder(self) -> Path:
        if self._path is None:
            raise NotFitted("this predictor has no folder yet; call fit")
        return self._path

    @property
    def path(self) -> str | None:
        path = self._path or self._fit_path
        return str(path) if path else None

    @property
    def label(self) -> str | None:
        return self._artifact.problem.label if self._artifact else self._target.label

    @property
    def problem_type(self) -> str | None:
        return self._artifact.problem.problem_type if self._artifact else self._target.problem_type

    @property
    def eval_metric(self) -> str | None:
        return self._artifact.eval_metric if self._artifact else self._target.to_json()["eval_metric"]

    @property
    def validation_metric(self) -> str | None:
        return self._artifact.validation_metric if self._artifact else self._target.to_json()["validation_metric"]

    @property
    def column_types(self) -> dict[str, str]:
        return dict(self._fitted.columns)

    @property
    def class_labels(self) -> np.ndarray | None:
        """In the order of ``predict_proba``'s columns; None for regression."""
        problem = self._fitted.problem
        is_mixed = 0 < sum(isinstance(each, str) for each in problem.class_labels) < len(problem.class_labels)  # an array would make strings of numbers
        return np.array(problem.class_labels, dtype=object if is_mixed else None) if problem.is_classification else None

    @property
    def positive_class(self) -> Any:
        return self._fitted.problem.positive_class

    @property
    def total_parameters(self) -> int:
        """Of all members of an ensemble together, as the two below."""
        return sum(parameter.numel() for parameter in self._parameters())

    @property
    def trainable_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._parameters() if parameter.requires_grad)

    @property
    def model_size(self) -> float:
        """Megabytes of weights."""
        states = (member.model.state_dict().values() for member in self._fitted.members)
        return sum(tensor.nbytes for tensor in itertools.chain.from_iterable(states)) / 1e6

    def _parameters(self) -> Iterator[nn.Parameter]:
        return itertools.chain.from_iterable(member.model.parameters() for member in self._fitted.members)


def _in_parts(
    encoded: EncodedTable, encoders: Encoders, config: Config, function: Callable[[TensorCache], torch.Tensor], labels: Sequence[object]
) -> tuple[torch.Tensor, list[BadImage]]:
    """A function of rows, a few at a time: their images may be more than the memory.

    Args:
        labels: what the caller's table calls its rows.

    Returns:
        Its (N, ...) values, and the images that could not be read; the values of their rows mean nothing.

    Raises:
        BadImages: there are such, and the config does not let them pass.
    """
    own, parts, bad = config.data.image, [], []
    row_bytes = encoded.num_images * encoders.geometry.num_bytes if encoders.geometry else 0
    chunk = max(1, min(PREDICT_ROWS, PREDICT_BYTES // row_bytes)) if row_bytes else PREDICT_ROWS

    def build(start: int) -> tuple[TensorCache, list[BadImage]]:
        part = encoded.take(slice(start, start + chunk))
        cache, unread = build_cache(part, encoders.geometry, num_threads=config.env.num_workers, strategy=own.missing_value_strategy)
        return cache, [replace(image, row=start + image.row) for image in unread]

    starts = range(0, len(encoded), chunk)
    for cache, unread in ahead(build, starts, 1) if len(starts) > 1 and pick_device(config.env).type == "cuda" else map(build, starts):
        bad += unread
        parts.append(function(cache))
    if bad and own.missing_value_strategy != "skip":
        raise BadImages(describe(bad, labels) + " With the hyperparameter data.image.missing_value_strategy='skip' such rows are missing in the answer.")
    return torch.cat(parts) if parts else torch.zeros(0), bad


def _rows(bad: list[BadImage], num_rows: int) -> np.ndarray:
    """(num_rows,) bool, True where an image could not be read."""
    mask = np.zeros(num_rows, dtype=bool)
    mask[[image.row for image in bad]] = True
    return mask
