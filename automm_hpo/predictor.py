"""``MultiModalPredictor``, the main entry point. Read it first: it calls the other layers in order."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import nn

from .arguments import absolute_path, check_flag, check_number, check_unused
from .artifact import Artifact, Embedder, ValidatedRows, load_artifact, load_summary, save_artifact
from .config import Config
from .data.batch import TensorCache, ahead
from .data.cache import build_cache
from .data.decoding import BadImage, describe
from .data.encoders import EncodedTable, Encoders
from .data.tables import load_table
from .errors import BadImages, InvalidArgument, InvalidData, NotAPredictor, NotFitted, NotSupported, Problems
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
from .training.evaluate import compute_metric, find_threshold, needs_threshold, predicted, probabilities, undefined_on
from .training.threshold import DECIDED

MOST_NOTES = 20  # limit for a predictor's notes on the data it is given: one that serves requests for weeks would fill a log
PREDICT_ROWS, PREDICT_BYTES = 4_096, 256_000_000  # most rows, and most bytes of their decoded images, in memory at once


class MultiModalPredictor:
    """Learns from a table of images, numbers, categories, dates and texts, tunes itself on request, and predicts.

    Args:
        label: column to predict.
        problem_type: ``binary``, ``multiclass`` or ``regression``; None: inferred from the label. ``feature_extraction`` needs neither a label nor
            ``fit``, and offers only ``extract_embedding``.
        presets: name of a set of defaults. ``medium_quality``, ``high_quality`` and ``best_quality`` choose ever larger pretrained backbones, by device (a
            CPU gets smaller ones), ``best_quality`` also more networks in ``real_mlp``. ``medium_quality_hpo`` and so on also search, 8, 20 or 50 trials with
            the searcher bayes and the scheduler ASHA. Hyperparameters that the user gives win over a preset's. None: defaults that suit the data, without a
            search.
        eval_metric: metric that ``evaluate`` reports: a name, ours or one of scikit-learn's scorers, or a scorer object. None: roc_auc for binary, accuracy
            for multiclass, rmse for regression.
        validation_metric: metric for early stopping and for the search; None: ``eval_metric``. A search by a scorer object is resumed with the same one.
        hyperparameters: dotted key -> value or search space, as in ``fit``; those given to ``fit`` win.
        path: folder in which ``fit`` saves if it is given no ``save_path``.
        verbosity: 0: silent; 1: notes and the summary of a search; 2 or more: also its progress.
        pretrained: False is short for ``{"model.timm_image.pretrained": False, "model.hf_text.pretrained": False}``.
        enable_progress_bar: accepted for compatibility with AutoMM, and ignored.
        sample_weight: column of non-negative loss weights for the training rows. It is not a feature, and metrics ignore it.

    Raises:
        InvalidInput, NotSupported: an argument is wrong, or the problem type is not covered here.
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
        label, sample_weight = unwrapped(label), unwrapped(sample_weight)  # JSON cannot hold numpy's scalars
        self._target = Target(label, problem_type, eval_metric, validation_metric, sample_weight)
        self._layers = ({} if pretrained else {"model.timm_image.pretrained": False, "model.hf_text.pretrained": False}, hyperparameters)
        self._presets = presets
        self._column_types: Mapping[str, str] | None = None  # after ``load``: those that the fit was given
        self._artifact: Artifact | None = None
        self._path: Path | None = None  # where the artifact lies
        self._embedder: Embedder | None = None  # for feature_extraction without a fit
        self._said: set[str] = set()
        self._begun: FitCall | None = None  # after ``load(resume=True)``: the call that began the search

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
        ensemble_size: int | None = None,
        refit: bool = False,
        start_from: str | Path | None = None,
        dry_run: bool = False,
    ) -> Any:
        """Trains a model, or searches: if the hyperparameters contain search spaces, each trial is one configuration, and the best is kept.

        Args:
            train_data: DataFrame, dict, list of dicts, or path of a .csv or .parquet file (relative image paths then count from its folder).
            presets: name of a set of defaults, see the class; None: the one given to the class.
            tuning_data: rows to validate on, in the same forms; None: some of ``train_data`` are held out, or all of it is cross-validated in folds
                (``data.num_folds``), stratified by class and drawn with the seed.
            max_num_tuning_data: use at most this many rows of ``tuning_data``, drawn with the seed.
            time_limit: seconds from this call to its return, with the best model so far; None: no limit.
            save_path: new or empty folder, or that of an earlier call with the same arguments, whose search is then resumed. None: the ``path`` given to the
                class, or else a folder in ``automm_hpo_models`` that is named after the current time.
            hyperparameters: dotted key (``config.py``) -> value or search space (``automm_hpo.space``).
            column_types: column -> type, for columns whose type is not inferred correctly: ``categorical``, ``numerical``, ``datetime``, ``text``,
                ``image_path``, ``image_bytearray``, ``image_base64_str``, or ``null`` to leave the column out.
            holdout_frac: fraction of the rows to hold out; None: a fifth of small tables, down to a hundredth of large ones, unless they are in folds.
            seed: of the split, the weights, the batches and the searcher.
            hyperparameter_tune_kwargs: how to search: a dict of searcher, scheduler, num_trials, num_to_keep, ... (``hpo/settings.py``), or a name: ``auto``,
                ``bayes`` or ``random``. Required if there are search spaces, unless a preset searches, and refused if there are none.
            resume: ``auto`` resumes the search that ``save_path`` holds, if it holds one; True requires that it does; False refuses such a folder.
            tracking: ``mlflow`` logs the fit and its trials to MLflow; None: no tracking.
            ensemble_size: combine up to this many of the best trials' models, if together they predict the validation rows better, for accuracy and areas under
                curves judged by log loss; 1: a single model; None: as the preset says, otherwise 1.
            refit: in the end, train the best configuration again on training and validation rows together; with folds, every network on all rows. That
                model has no validation score of its own; the search's is reported.
            start_from: folder of a fitted predictor whose weights are trained further. Its columns, encoding, classes and model stay as they are. Its
                hyperparameters are the defaults, unless a preset is named. Its score on these validation rows is epoch 0 of every trial. Rows that it was
                trained on are not held out, unless it knows them all, as after a fit with folds; ``tuning_data`` should contain none of them. Of an ensemble,
                only the model with the largest weight is used. The folder is only read.
            dry_run: only estimate what would run and how much time and disk it would take, see ``plan``.

        Returns:
            This predictor, fitted: the best checkpoint, or what was made of the best ones (see ``fit_summary``). With ``dry_run`` a ``Preview``.

        Raises:
            InvalidInput: the call is wrong, and nothing was started. Two or more problems are listed together, as ``MultipleProblems``; a single one is raised
                as one of the following.
            InvalidArgument, InvalidTuneSettings: an argument, or an entry of ``hyperparameter_tune_kwargs``, is wrong.
            UnknownHyperparameter, InvalidHyperparameter, InvalidSpace: a hyperparameter's name, value or search space is wrong.
            InvalidData: a table, a label or a column is wrong.
            BadImages: images are missing or cannot be read (``data.image.missing_value_strategy``).
            MissingData: a file that an argument names does not exist.
            NotSupported: something is not offered here, needs a package that is not installed, or cannot be resumed.
            WeightsUnavailable: pretrained weights cannot be fetched or loaded.
            SavePathExists: ``save_path`` holds other files, or a search that ``resume=False`` does not allow to resume.
            SearchMismatch: ``save_path`` holds a search that was begun with other arguments or data.
            SearchInUse: another process or thread is searching in ``save_path``.
            NotAPredictor, CorruptFile: ``start_from`` holds no predictor, or a damaged one.
            DiskFull: ``save_path`` has no room for the model's weights.
            TimeLimitTooShort: the time limit left no time for a first score.
            AllTrialsFailed: no trial has a score.
            KeyboardInterrupt: Ctrl-C was pressed. Trials under way are validated and kept, and if any trial has a score, this predictor is the best one so
                far. The same call resumes the search.
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
        """Notes that a second ``fit`` begins anew, since AutoMM's would continue. Not for a predictor of ``load_trial``, which has no folder of its own."""
        if self.verbosity > 1 and self._artifact is not None and self._path is not None and load_summary(self._path) == self.fit_summary():
            print_line(f"this fit begins anew; start_from={self.path!r} would go on from this predictor's weights")

    def plan(self, *args: Any, **kwargs: Any) -> Preview:
        """Previews what ``fit`` with the same arguments would do. Nothing is written to ``save_path``.

        Returns:
            A ``Preview``: the trials that are known beforehand, and the time and disk that the search would take, estimated from a few timed steps.

        Raises:
            AutoMMHPOError: what ``fit`` would raise before it starts, such as InvalidInput or SearchMismatch.
        """
        return self.fit(*args, **{**kwargs, "dry_run": True})

    def _adopt(self, artifact: Artifact, path: Path) -> None:
        self._artifact, self._path = replace(artifact, members=tuple(member.ready() for member in artifact.members)), path

    # ------------------------------------------------------------------------------------------------------------ predict

    def predict(self, data: Any, as_pandas: bool | None = None, decision_threshold: float | None = None) -> pd.Series | np.ndarray:
        """Predicts the label.

        Args:
            data: DataFrame, dict, list of dicts, or path of a .csv or .parquet file. Columns are matched by name.
            as_pandas: False: an array instead of a Series.
            decision_threshold: for this call; None: the predictor's ``decision_threshold``.

        Returns:
            (N,) Series named after the label, with the data's index, in the label's dtype (float64 for a regression of integers).

        Raises:
            NotFitted: the predictor is not fitted.
            InvalidData, MissingData: columns are missing or have values of another kind than in training, or the file does not exist.
            BadImages: an image cannot be read. With ``data.image.missing_value_strategy="skip"`` the row's prediction is missing instead.
            InvalidArgument: ``decision_threshold`` is not a number from 0 to 1, or the problem is not binary.
        """
        threshold = self._threshold(decision_threshold)
        found = self._decode(*self._logits(data), threshold)
        return found.to_numpy() if as_pandas is False else found

    def predict_proba(self, data: Any, as_pandas: bool | None = None, as_multiclass: bool = True) -> pd.DataFrame | pd.Series | np.ndarray:
        """Predicts class probabilities.

        Args:
            data: as for ``predict``.
            as_pandas: False: an array of the same shape instead of a DataFrame or Series.
            as_multiclass: False: for a binary problem, only the probability of the positive class.

        Returns:
            (N, K) float64 DataFrame with the data's index and one column per class, in the order of ``class_labels``; rows sum to 1. For a binary problem with
            ``as_multiclass=False`` an (N,) float64 Series named after the positive class. Rows that ``predict`` leaves missing are nan.

        Raises:
            InvalidArgument: the problem is a regression.
            NotFitted, InvalidData, MissingData, BadImages: as for ``predict``.
        """
        problem = self._fitted.problem
        if not problem.is_classification:
            raise InvalidArgument("predict_proba: a regression has no classes; use predict")
        table, logits, bad = self._logits(data)
        frame = pd.DataFrame(probabilities(logits), index=table.index, columns=list(problem.class_labels))
        frame.iloc[_rows(bad, len(table))] = np.nan
        result = frame if as_multiclass or problem.problem_type != "binary" else frame[problem.positive_class]
        return result.to_numpy() if as_pandas is False else result

    def evaluate(
        self, data: Any, metrics: str | list[str] | None = None, return_pred: bool = False, decision_threshold: float | None = None
    ) -> dict[str, float] | tuple[dict[str, float], pd.Series]:
        """Computes metrics on labelled data, each in its natural sign.

        Args:
            data: as for ``predict``, with the label column.
            metrics: a metric or a list of them: names, or scikit-learn's scorers (higher is better); None: the predictor's ``eval_metric``.
            return_pred: also return the predictions.
            decision_threshold: as for ``predict``.

        Returns:
            Name of the metric, as it was given, -> value; nan, and a line that says why, if it is undefined on these rows. With
            ``data.image.missing_value_strategy="skip"``, rows with unreadable images are left out, and a line says how many. With ``return_pred`` a tuple of
            this dict and the predictions of all rows, as ``predict`` returns them.

        Raises:
            InvalidArgument: a metric does not exist, does not fit the problem, or cannot be computed on these rows; or as for ``predict``.
            InvalidData: the data have no label column, no rows, or classes that training did not have.
            NotFitted, MissingData, BadImages: as for ``predict``.
        """
        artifact, threshold = self._fitted, self._threshold(decision_threshold)
        names = [artifact.eval_metric] if metrics is None else list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
        found = [self._own_metric()] if metrics is None else [find_metric(name, "metrics") for name in names]
        names = [name if isinstance(name, str) else metric.name for name, metric in zip(names, found, strict=True)]
        for metric in found:
            check_fits(metric, artifact.problem.problem_type, "metrics")
        table, target, logits, bad = self._labelled(data)
        readable = ~_rows(bad, len(table))
        judged, target = logits[torch.from_numpy(readable)], target[readable]
        scores = {name: compute_metric(metric, artifact.problem, judged, target, threshold) for name, metric in zip(names, found, strict=True)}
        for name, metric in zip(names, found, strict=True):
            if math.isnan(scores[name]) and (why := undefined_on(metric, artifact.problem, target)):
                self._say(f"{name} is undefined on these {len(target):,} rows: {why}")
        if not return_pred:
            return scores
        return scores, self._decode(table, logits, bad, threshold)

    def _labelled(self, data: Any) -> tuple[pd.DataFrame, np.ndarray, torch.Tensor, list[BadImage]]:
        """What ``_logits`` returns for labelled data, with the (N,) targets behind the table. At least one row is readable."""
        table, folder, target = self._read_labelled(data)
        _, logits, bad = self._logits(table, folder)
        if _rows(bad, len(table)).all():
            raise InvalidData("data: no rows to evaluate")
        return table, target, logits, bad

    def _read_labelled(self, data: Any) -> tuple[pd.DataFrame, Path, np.ndarray]:
        """(the table, the base of its relative paths, its (N,) targets)."""
        artifact = self._fitted
        table, folder = load_table(data, "data", (*artifact.encoders.columns, artifact.problem.label))
        if artifact.problem.label not in table.columns:
            raise InvalidData(f"data: has no label column {artifact.problem.label!r}")
        if table.empty:
            raise InvalidData("data: no rows to evaluate")
        return table, folder, artifact.problem.encode(table[artifact.problem.label])

    def feature_importance(
        self, data: Any, metric: str | Callable[..., float] | None = None, subsample_size: int | None = 5_000, num_shuffle_sets: int = 5, seed: int = 0
    ) -> pd.DataFrame:
        """How much worse the predictions get if a column's values are shuffled among the rows: the column's permutation importance.

        Breiman 2001, "Random forests" (doi:10.1023/A:1010933404324), computed by scikit-learn's ``permutation_importance``. Of two columns that say the same,
        neither seems important, because the other remains.

        Args:
            data: as for ``evaluate``, rows that were not trained on.
            metric: as for ``evaluate``; None: the predictor's ``eval_metric``.
            subsample_size: most rows to use, drawn with the seed; None: all.
            num_shuffle_sets: how often each column is shuffled. All rows are predicted once for each time.

        Returns:
            DataFrame, one row for each column that the predictor reads, the most important first: ``importance``, by which the metric is better with the column
            as it is (the mean over the shuffles), and ``stddev`` over the shuffles.

        Raises:
            InvalidArgument: an argument is wrong, or as for ``evaluate``.
            InvalidData, NotFitted, MissingData, BadImages: as for ``evaluate``.
        """
        from sklearn.inspection import permutation_importance

        problem, found = self._fitted.problem, self._own_metric() if metric is None else find_metric(metric, "metric")
        check_fits(found, problem.problem_type, "metric")
        if subsample_size is not None:
            check_number(subsample_size, "subsample_size", Integral, "an integer >= 1, or None", lambda rows: rows >= 1)
        check_number(num_shuffle_sets, "num_shuffle_sets", Integral, "an integer >= 1", lambda count: count >= 1)
        check_number(seed, "seed", Integral, "an integer >= 0 and below 2**32", lambda given: 0 <= given < 2**32)
        table, folder, target = self._read_labelled(data)
        chosen = np.random.default_rng(seed).permutation(len(table))[:subsample_size]

        def score(_: object, rows: pd.DataFrame, labels: np.ndarray) -> float:
            _, logits, bad = self._logits(rows, folder)
            if not (readable := ~_rows(bad, len(rows))).any():
                raise InvalidData("data: no rows to evaluate")
            judged = logits[torch.from_numpy(readable)]
            return found.score(compute_metric(found, problem, judged, labels[readable], self._fitted.decision_threshold))

        rows = table.iloc[chosen][list(self._fitted.encoders.columns)]
        if math.isnan(score(None, rows, target[chosen])):
            why = undefined_on(found, problem, target[chosen])
            raise InvalidArgument(f"metric: {found.name} has no value on these {len(rows):,} rows{f': {why}' if why else ''}")
        importance = permutation_importance(self, rows, target[chosen], scoring=score, n_repeats=int(num_shuffle_sets), random_state=int(seed))
        result = pd.DataFrame({"importance": importance.importances_mean, "stddev": importance.importances_std}, index=pd.Index(rows.columns, name="column"))
        return result.sort_values("importance", ascending=False, kind="stable")

    def validation_predictions(self) -> pd.DataFrame:
        """What was predicted for the rows that ``fit`` validated on, by models that had not learned from them: for looking at errors, or for stacking.

        The ``val_<metric>`` of ``fit_summary`` was computed from these predictions (at the threshold of the validation metric, if it has one). With folds, all
        rows of ``train_data`` are among them, each predicted by the networks that left it out; after a refit, they are the best trial's.

        Returns:
            (N, ...) DataFrame. Its index ``row`` holds the rows' positions: ``train_data.iloc[found.index]``, or ``tuning_data.iloc[found.index]`` if that was
            given. Columns: ``target``, ``prediction``, and for classes ``probability_<class>`` for each.

        Raises:
            NotFitted: the predictor is not fitted.
            NotSupported: there are none: an earlier version fitted the predictor, or the fit had no time left for them.
        """
        artifact, validated = self._fitted, self._validated
        problem, index = artifact.problem, pd.Index(validated.rows, name="row")
        logits = validated.logits / artifact.temperature
        best = predicted(problem, logits, artifact.decision_threshold)
        found = pd.DataFrame({"target": problem.decode(validated.target, index), "prediction": problem.decode(best, index)})
        if problem.is_classification:
            names = [f"probability_{label}" for label in problem.class_labels]
            found = pd.concat([found, pd.DataFrame(probabilities(logits), index, names)], axis=1)
        return found.sort_index()

    @property
    def _validated(self) -> ValidatedRows:
        if (validated := self._fitted.validated) is None:
            raise NotSupported("the predictions for the rows that fit validated on were not kept; predict rows that it has not trained on")
        return validated

    # --------------------------------------------------------------------------------------------------- a decision threshold

    @property
    def decision_threshold(self) -> float:
        """Above which probability of the ``positive_class`` it is predicted.

        A half, unless the predictor's metric is one of f1, f1_macro, f1_weighted, balanced_accuracy and mcc, which ``fit`` chooses a threshold for, or
        ``set_decision_threshold`` was called.

        Raises:
            InvalidArgument: the problem is not binary.
        """
        self._check_is_binary("decision_threshold")
        return self._fitted.decision_threshold

    def set_decision_threshold(self, decision_threshold: float) -> None:
        """Sets the threshold for ``predict`` and ``evaluate``. The folder of the predictor stays as it is; ``save`` writes it to another.

        Raises:
            InvalidArgument: it is not a number from 0 to 1, or the problem is not binary.
            NotFitted: the predictor is not fitted.
        """
        self._artifact = replace(self._fitted, decision_threshold=self._threshold(decision_threshold))

    def calibrate_decision_threshold(self, data: Any = None, metric: str | None = None) -> float:
        """Finds a threshold that suits a metric.

        Args:
            data: as for ``evaluate``, rows that were not trained on; None: the rows that ``fit`` validated on.
            metric: f1, f1_macro, f1_weighted, balanced_accuracy or mcc; None: the predictor's ``eval_metric``, or else its ``validation_metric``.

        Returns:
            The threshold, for ``set_decision_threshold`` or ``predict``.

        Raises:
            InvalidArgument: no threshold is chosen for this metric, or the problem is not binary.
            NotSupported: without data, as for ``validation_predictions``.
            InvalidData, NotFitted, MissingData, BadImages: as for ``evaluate``.
        """
        self._check_is_binary("calibrate_decision_threshold")
        artifact = self._fitted
        own = [stored_metric(name) for name in (artifact.eval_metric, artifact.validation_metric)]
        problem = artifact.problem
        found = find_metric(metric, "metric") if metric else next((each for each in own if needs_threshold(each, problem)), own[0])
        if not needs_threshold(found, problem):
            raise InvalidArgument(f"metric: a threshold can be found for {', '.join(DECIDED)}, got {found.name}")
        if data is None:
            validated = self._validated
            return find_threshold(found, problem, validated.logits / self._fitted.temperature, validated.target)
        table, target, logits, bad = self._labelled(data)
        readable = ~_rows(bad, len(table))
        return find_threshold(found, problem, logits[torch.from_numpy(readable)], target[readable])

    def _check_is_binary(self, name: str) -> None:
        if (problem_type := self._fitted.problem.problem_type) != "binary":
            raise InvalidArgument(f"{name}: only a problem of two classes has a threshold, this one is {problem_type}")

    def _threshold(self, given: float | None) -> float:
        """The decision threshold of a call."""
        if given is None:
            return self._fitted.decision_threshold
        self._check_is_binary("decision_threshold")
        check_number(given, "decision_threshold", Real, "a number from 0 to 1", lambda threshold: 0 <= threshold <= 1)
        return float(given)

    # ----------------------------------------------------------------------------------------------------------- features

    @usual_torch()
    def _logits(self, data: Any, folder: Path | None = None) -> tuple[pd.DataFrame, torch.Tensor, list[BadImage]]:
        """The table, its (N, num_outputs) logits, and the images that could not be read (the logits of their rows mean nothing)."""
        artifact = self._fitted
        table, own_folder = load_table(data, "data", artifact.encoders.columns)
        encoded = artifact.encoders.transform(table, folder or own_folder, report=self._say)
        logits, bad = _in_parts(encoded, artifact.encoders, artifact.config, artifact.logits, list(table.index))
        self._say_what_is_missing(bad, table)
        return table, logits if len(table) else torch.zeros(0, artifact.problem.num_outputs), bad

    @usual_torch()
    def extract_embedding(self, data: Any, as_pandas: bool | None = None) -> np.ndarray | pd.DataFrame:
        """Extracts the feature vector of each row that the model's head would read. Of an ensemble, the member with the largest weight is used.

        An unfitted predictor with ``problem_type="feature_extraction"`` concatenates the features of pretrained models for images and texts. Its first call
        determines which columns are read.

        Args:
            data: as for ``predict``; the label is not needed.
            as_pandas: True: a DataFrame with the data's index instead of an array.

        Returns:
            (N, D) float32; nan for rows that ``predict`` leaves missing.

        Raises:
            NotFitted: the predictor is not fitted, and problem_type is not ``feature_extraction``.
            InvalidData, MissingData, BadImages: as for ``predict``; also, without a fit, if there is no column of images or texts.
            WeightsUnavailable: the pretrained weights cannot be fetched or loaded (without a fit).
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
            self._embedder = embedder  # only now: if the first call fails, the next one determines the columns
        embedding = found.numpy() if len(table) else np.zeros((0, embedder.num_features), np.float32)
        embedding[_rows(bad, len(table))] = np.nan
        return pd.DataFrame(embedding, index=table.index) if as_pandas else embedding

    def _own_metric(self) -> Metric:
        """The predictor's ``eval_metric``, as a scorer object if it was given as one in this process."""
        stored, given = stored_metric(self._fitted.eval_metric), self._target.eval_metric
        found = stored if given in (None, stored.name) else find_metric(given)
        return found if found.name == stored.name else stored

    def _say_what_is_missing(self, bad: list[BadImage], table: pd.DataFrame) -> None:
        if bad:
            rows = int(_rows(bad, len(table)).sum())
            self._say(f"{rows:,} of {len(table):,} rows have no prediction and are left out of all metrics: {describe(bad, list(table.index))}")

    def _say(self, line: str) -> None:
        """Prints a line, but each only once: predict, predict_proba and evaluate of the same rows would repeat it."""
        if self.verbosity and line not in self._said and len(self._said) < MOST_NOTES:
            self._said.add(line)
            print_line(line if len(self._said) < MOST_NOTES else f"{line}\nfurther notes on what is predicted are left out")

    def _decode(self, table: pd.DataFrame, logits: torch.Tensor, bad: list[BadImage], threshold: float) -> pd.Series:
        """Predictions in the label's own dtype, missing where an image could not be read."""
        problem = self._fitted.problem
        found = problem.decode(predicted(problem, logits, threshold), table.index)
        if not bad:
            return found
        nullable: Any = {"i": "Int64", "u": "Int64", "b": "boolean"}.get(getattr(found.dtype, "kind", ""), found.dtype)
        return found.astype(nullable).mask(_rows(bad, len(table)))  # numpy's integers and booleans have no missing value

    # ---------------------------------------------------------------------------------------------------------- afterwards

    def set_verbosity(self, verbosity: int) -> None:
        """Sets how much is printed from now on.

        Args:
            verbosity: 0: nothing; 1: notes and the summary of a search; 2 or more: also its progress.

        Raises:
            InvalidArgument: it is not an integer >= 0.
        """
        check_number(verbosity, "verbosity", Integral, "an integer >= 0", lambda level: level >= 0)
        self.verbosity = verbosity

    def leaderboard(self) -> pd.DataFrame:
        """One row per trial, best first, trials without a score last.

        Returns:
            Columns: trial (number), status, score (the validation metric, turned so that higher is better), the validation metric under its own name in its
            natural sign (only if lower is better), best_epoch, epochs, seconds, size_mb (of one set of weights), reason (for the status), and one column for
            each tuned hyperparameter by dotted key (at the best epoch, nan if the trial does not have it).

        Raises:
            NotFitted: the predictor is not fitted.
            NotAPredictor: the predictor folder has been moved; load the predictor from its new place.
        """
        return self.search.leaderboard()

    def fit_summary(self) -> dict[str, Any]:
        """What the fit found; the same after ``load``.

        Returns:
            ``val_<metric>`` (the predictor's validation metric, in its natural sign), for classes ``val_log_loss``, ``num_trials``, ``best_trial``,
            ``best_epoch``, ``hyperparameters`` (the best trial's tuned values), ``training_time`` (seconds; not for a predictor of ``load_trial``), and where
            they apply: ``soup`` and ``ensemble`` (what was averaged or combined, selected by which metric, with its value and the best trial's), ``refit``
            (what was trained again), ``calibration`` (the temperature, and the log loss of the validation rows with it and without), ``start_from`` (folder).

        Raises:
            NotFitted: the predictor is not fitted.
        """
        return dict(self._fitted.summary)

    def save(self, path: str | Path) -> None:
        """Copies the predictor and the records of its search to another folder, without the weights of single trials.

        Args:
            path: new or empty folder, or that of another copy, which is replaced. Saving to the predictor's own folder does nothing.

        Raises:
            SavePathExists: the folder holds files that are not a predictor's, or a search with the weights of its trials, which would be lost.
            InvalidArgument: the path is invalid, or lies inside the predictor's own search.
            NotFitted: the predictor is not fitted.
            NotAPredictor: the predictor folder has been moved; load the predictor from its new place.
            DiskFull: the disk has no room.
        """
        artifact, target = self._fitted, absolute_path(path, "path")
        source = self._folder / "search"
        if not source.is_dir():
            raise NotAPredictor(f"{self._folder} no longer exists; load the predictor from its new location")
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
        """Loads a predictor from its folder. The files are verified by checksum, and nothing in them is executed.

        Args:
            path: the ``save_path`` of a fit, or a folder written by ``save``.
            resume: True: ``fit(train_data)`` of the loaded predictor resumes the search in the folder with the arguments that began it, except for those that
                are given again. The folder need not hold a predictor yet. False: ``fit`` begins anew, for the same label, problem type, metrics,
                ``sample_weight`` and ``column_types``.
            verbosity: as for the class.

        Raises:
            NotAPredictor: the folder holds no predictor (with ``resume``: no search), or one of another format version.
            CorruptFile: a file is damaged or missing.
            NotSupported: with ``resume``: the search was begun with something that no file holds, such as a function or a scorer or searcher object.
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
        """Makes a predictor of a single trial whose weights were kept (see ``keep_trials``).

        Its ``path`` is still the folder of the whole search, which ``load`` reads as the best predictor; ``save`` gives
        the trial's a folder of its own.

        Args:
            number: the trial's number, as in the leaderboard.

        Raises:
            InvalidArgument: there is no such trial, or its weights were not kept; the message lists the trials that have theirs.
            CorruptFile: the trial's weights are damaged.
            NotFitted: this predictor is not fitted.
        """
        artifact, records = self._fitted, self.search.records
        kept = [record.number for record in records.ranked() if record.best and records.folder_of(record.number).checkpoint(record.best).is_dir()]
        if number not in kept:
            if number not in range(len(records)):
                raise InvalidArgument(f"number: there is no trial {number!r}; the search has trials 0 to {len(records) - 1}")
            if not kept:
                raise InvalidArgument(f"number: {self._folder} has no trials' weights, because save() does not copy them; use the folder that fit wrote")
            held = ", ".join(map(str, sorted(kept)))
            raise InvalidArgument(f"number: the weights of trial {number!r} were not kept (see keep_trials); available are trials {held}")
        predictor = type(self)(self.label, verbosity=self.verbosity)
        predictor._target = self._target  # with a scorer object, which no file holds
        predictor._adopt(trial_artifact(artifact, records, number), self._folder)
        return predictor

    @property
    def search(self) -> SearchResults:
        """The search that this predictor comes from, as it is on disk now.

        Raises:
            NotFitted: the predictor is not fitted.
            NotAPredictor: the predictor folder has been moved; load the predictor from its new place.
        """
        artifact = self._fitted
        if not (self._folder / "search").is_dir():
            raise NotAPredictor(f"{self._folder} no longer exists; load the predictor from its new location")
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
        """The classes, in the order of ``predict_proba``'s columns; None for regression."""
        problem = self._fitted.problem
        is_mixed = 0 < sum(isinstance(each, str) for each in problem.class_labels) < len(problem.class_labels)  # a plain array would turn numbers into strings
        return np.array(problem.class_labels, dtype=object if is_mixed else None) if problem.is_classification else None

    @property
    def positive_class(self) -> Any:
        return self._fitted.problem.positive_class

    @property
    def total_parameters(self) -> int:
        """Number of parameters, over all members of an ensemble, as in the two properties below."""
        return sum(parameter.numel() for parameter in self._parameters())

    @property
    def trainable_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._parameters() if parameter.requires_grad)

    @property
    def model_size(self) -> float:
        """Size of the weights in megabytes."""
        states = (member.model.state_dict().values() for member in self._fitted.members)
        return sum(tensor.nbytes for tensor in itertools.chain.from_iterable(states)) / 1e6

    def _parameters(self) -> Iterator[nn.Parameter]:
        return itertools.chain.from_iterable(member.model.parameters() for member in self._fitted.members)


def _in_parts(
    encoded: EncodedTable, encoders: Encoders, config: Config, function: Callable[[TensorCache], torch.Tensor], labels: Sequence[object]
) -> tuple[torch.Tensor, list[BadImage]]:
    """Applies a function to all rows, a few at a time, because their images may not fit into memory.

    Args:
        labels: index labels of the rows in the caller's table, for the message.

    Returns:
        The function's (N, ...) values, and the images that could not be read; the values of their rows mean nothing.

    Raises:
        BadImages: there are such images, and ``data.image.missing_value_strategy`` is not ``skip``.
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
        mend = "Repair them or drop their rows; a predictor fitted with data.image.missing_value_strategy='skip' leaves their predictions missing."
        raise BadImages(f"{describe(bad, labels)} {mend}")
    return torch.cat(parts) if parts else torch.zeros(0), bad


def _rows(bad: list[BadImage], num_rows: int) -> np.ndarray:
    """(num_rows,) bool, True for rows with an image that could not be read."""
    mask = np.zeros(num_rows, dtype=bool)
    mask[[image.row for image in bad]] = True
    return mask
