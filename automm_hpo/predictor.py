"""``MultiModalPredictor``: the story, told by calling the layers."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch

from . import __version__
from .artifact import Artifact, is_predictor, load_artifact, save_artifact
from .config import Config
from .data.cache import BadImage, build_cache, describe, store_cache
from .data.columns import ColumnTypes, infer_columns
from .data.encoders import Encoders, fit_encoders
from .data.images import cover
from .data.split import train_valid_split
from .data.tables import load_table
from .errors import (
    BadImages,
    CorruptFile,
    InvalidArgument,
    InvalidData,
    InvalidTuneSettings,
    NotFitted,
    NotSupported,
    Problems,
    SavePathExists,
    did_you_mean,
)
from .hpo.cluster import ray_cluster
from .hpo.monitor import SearchMonitor
from .hpo.progress import Progress
from .hpo.ray_space import candidate_configs, split_hyperparameters
from .hpo.records import SearchRecords, TrialRecord
from .hpo.settings import TuneSettings, check_resources, local_resources, parse_tune_settings
from .hpo.trial import TrialTask, run_here
from .metrics import DEFAULT_METRIC, METRICS, Metric, check_fits, find_metric
from .models import build_model, check_model, image_spec
from .problem import PROBLEM_TYPES, Problem, infer_problem
from .space import SearchSpace
from .tracking import MlflowTracker
from .training.checkpoint import check_checkpoint, list_checkpoints, load_weights
from .training.evaluate import compute_metric, find_device, predict_logits, probabilities, values

PREDICT_CHUNK = 4_096  # rows whose images are in memory at once
REFUSED_TYPES = (  # AutoMM's, that are known here by name only
    "object_detection", "open_vocabulary_object_detection", "ner", "named_entity_recognition", "semantic_segmentation", "few_shot_classification",
    "zero_shot_image_classification", "image_similarity", "text_similarity", "image_text_similarity", "feature_extraction",
)  # fmt: skip
GEOMETRY_KEYS = ("model.timm_image.checkpoint_name", "model.timm_image.image_size")
MODEL_KEYS = (*GEOMETRY_KEYS, "model.timm_image.pretrained", "model.timm_image.checkpoint_path", "model.timm_image.drop_path_rate")
SAVE_SECONDS, RAY_STOP_SECONDS = 1.0, 2.5  # of a time limit, kept for what follows the last trial


@dataclass(frozen=True)
class FitPlan:
    """A call of ``fit`` with everything checked and decided, and nothing begun."""

    path: Path
    train: pd.DataFrame
    valid: pd.DataFrame
    train_folder: Path
    valid_folder: Path
    problem: Problem
    columns: ColumnTypes
    encoders: Encoders
    config: Config
    space: SearchSpace
    settings: TuneSettings
    eval_metric: Metric
    validation_metric: Metric
    seed: int
    deadline: float | None
    """time.time() at which ``fit`` must return."""

    @property
    def num_trials(self) -> int:
        return self.settings.num_trials if self.space else 1


class MultiModalPredictor:
    """Learns from a table with image columns, tunes itself on request, and predicts.

    Args:
        label: column to predict.
        problem_type: binary, multiclass or regression; inferred from the label where None.
        eval_metric: what ``evaluate`` reports; by default roc_auc, accuracy or rmse, by problem type.
        validation_metric: what early stopping and the search go by; by default ``eval_metric``.
        hyperparameters: dotted keys, as in ``fit``; those given to ``fit`` win.
        path: where ``fit`` saves when it is given no ``save_path``.
        verbosity: 0 is silent, 1 prints the summary of a search, 2 and more also its course.
        pretrained: False is short for ``{"model.timm_image.pretrained": False}``.
        enable_progress_bar: accepted for AutoMM's sake; the course of a search is told in lines, not bars.
    """

    def __init__(
        self,
        label: str | None = None,
        problem_type: str | None = None,
        presets: str | None = None,
        eval_metric: str | None = None,
        validation_metric: str | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        path: str | Path | None = None,
        verbosity: int = 2,
        pretrained: bool = True,
        enable_progress_bar: bool | None = None,
    ) -> None:
        problems = Problems()
        with problems.gather():
            _check_problem_type(problem_type)
        with problems.gather():
            _check_presets(presets)
        for name, metric in (("eval_metric", eval_metric), ("validation_metric", validation_metric)):
            with problems.gather():
                if metric is not None:
                    find_metric(metric, name)
        problems.raise_any()
        self.verbosity = verbosity
        self._label, self._problem_type = label, problem_type
        self._eval_metric, self._validation_metric = eval_metric, validation_metric
        self._hyperparameters = {} if pretrained else {"model.timm_image.pretrained": False}
        self._hyperparameters |= dict(hyperparameters or {})
        self._path = Path(path).absolute() if path is not None else None
        self._artifact: Artifact | None = None

    # ---------------------------------------------------------------------------------------------------------------- fit

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
        tracking: str | None = "mlflow",
    ) -> Self:
        """Trains, or searches: with a ``tune.*`` space among the hyperparameters, each trial is one configuration.

        Args:
            train_data: DataFrame, or path of a .csv or .parquet file (relative image paths then count from its folder).
            tuning_data: rows to validate on; None holds some of ``train_data`` out, stratified and seeded.
            max_num_tuning_data: at most that many of ``tuning_data``'s rows, drawn with the seed.
            time_limit: seconds from this call to its return; the best so far is kept.
            save_path: new or empty folder; None makes one named after the time.
            hyperparameters: dotted key -> value or search space.
            column_types: column -> type, where inference is wrong; ``null`` leaves a column out.
            holdout_frac: fraction of rows held out.
            seed: of split, weights, batches and searcher.
            hyperparameter_tune_kwargs: searcher, scheduler, num_trials, num_to_keep, ... (``hpo/settings.py``), or a preset's name.
            tracking: ``mlflow``, or None.

        Returns:
            The predictor, which from now on is its best checkpoint.

        Raises:
            InvalidInput: everything wrong with the call, listed together, before anything is started.
            AllTrialsFailed: no trial ended with a score.
        """
        deadline = None if time_limit is None else time.time() + _check_time_limit(time_limit)
        hyperparameters = {**self._hyperparameters, **dict(hyperparameters or {})}
        plan = self._plan(
            train_data, tuning_data, max_num_tuning_data, save_path, hyperparameters, column_types, holdout_frac, seed,
            hyperparameter_tune_kwargs, deadline, presets, tracking,
        )  # fmt: skip
        progress = Progress(plan.validation_metric, self.verbosity, plan.num_trials, deadline)
        _announce(plan, progress)
        records = SearchRecords(plan.path / "search")
        with _new_folder(plan.path), _tracker(plan, tracking) as tracker:
            started = time.time()
            _train(plan, SearchMonitor(records, [progress, *([tracker] if tracker else [])], plan.settings.keep_trials), progress)
            best, artifact = _best_artifact(plan, records, progress, started)
            save_artifact(artifact, plan.path)
            records.leaderboard(plan.validation_metric).to_csv(records.folder / "leaderboard.csv", index=False)
            shutil.rmtree(records.folder / "cache")
            if tracker:
                tracker.close("FINISHED", best)
        progress.summary(records)
        progress.say(f"best: trial {best.number}, {plan.validation_metric.name} {plan.validation_metric.value(best.score):.4f}, saved in {plan.path}", level=1)
        self._adopt(artifact, plan.path)
        return self

    def _plan(
        self, train_data, tuning_data, max_num_tuning_data, save_path, hyperparameters, column_types, holdout_frac, seed,
        tune_kwargs, deadline, presets, tracking,
    ) -> FitPlan:  # fmt: skip
        """Checks a call of ``fit`` and decides everything; reads files, writes none, starts no process."""
        problems = Problems()
        config, settings = Config(), TuneSettings()
        space: SearchSpace = {}
        with problems.gather():
            fixed, space = split_hyperparameters(hyperparameters)
            config = Config.from_flat(fixed)
        with problems.gather():
            settings = _search_settings(space, tune_kwargs)
        checks: dict[Callable[[Any], Any], Any] = {
            _check_presets: presets,
            _check_seed: seed,
            _check_holdout: holdout_frac,
            _check_max_rows: max_num_tuning_data,
            _check_tracking: tracking,
        }
        for check, argument in checks.items():
            with problems.gather():
                check(argument)
        path = _fresh_path(save_path if save_path is not None else self._path)
        with problems.gather():
            _check_path(path)
        with problems.gather():
            find_device(config.env)
        with problems.gather():
            for candidate in candidate_configs(config, space, MODEL_KEYS):
                with problems.gather():
                    check_model(candidate)
        with problems.gather():  # data last: its problems are the longest to read
            train, train_folder = load_table(train_data, "train_data")
            label = self._find_label(train)
            problem = infer_problem(train[label], label, self._problem_type)
            eval_metric = find_metric(self._eval_metric or DEFAULT_METRIC[problem.problem_type], "eval_metric")
            validation_metric = find_metric(self._validation_metric or eval_metric.name, "validation_metric")
            check_fits(eval_metric, problem.problem_type, "eval_metric")
            check_fits(validation_metric, problem.problem_type, "validation_metric")
            columns = infer_columns(train, label, train_folder, column_types)
            if tuning_data is None:
                train, valid = train_valid_split(train, problem, holdout_frac, seed)
                valid_folder = train_folder
            else:
                valid, valid_folder = load_table(tuning_data, "tuning_data")
                if label not in valid.columns:
                    raise InvalidData(f"tuning_data: has no label column {label!r}")
                if max_num_tuning_data is not None and len(valid) > max_num_tuning_data:
                    valid = valid.sample(max_num_tuning_data, random_state=seed)
                problem.encode(valid[label])  # unseen classes are refused here
        problems.raise_any()
        geometry = cover([image_spec(candidate) for candidate in candidate_configs(config, space, GEOMETRY_KEYS)])
        encoders = fit_encoders(columns, geometry)
        for table, folder in ((train, train_folder), (valid, valid_folder)):
            encoders.image_paths(table, folder)  # a column that tuning_data lacks is refused here
        return FitPlan(
            path, train, valid, train_folder, valid_folder, problem, columns, encoders, config, space, settings, eval_metric, validation_metric, seed, deadline
        )  # fmt: skip

    def _find_label(self, train: pd.DataFrame) -> str:
        if self._label is None:
            raise InvalidArgument("label: expected the name of the column to predict, got None; MultiModalPredictor(label=...)")
        if self._label not in train.columns:
            hint = did_you_mean(str(self._label), map(str, train.columns))
            raise InvalidData(f"train_data: has no label column {self._label!r}; it has {', '.join(map(repr, train.columns))}.{hint}")
        if train.empty:
            raise InvalidData("train_data: has no rows")
        return self._label

    def _adopt(self, artifact: Artifact, path: Path) -> None:
        self._artifact, self._path = artifact, path
        artifact.model.to(find_device(artifact.config.env)).to(memory_format=torch.channels_last)

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
        table, logits, bad = self._logits(data)
        problem = self._fitted.problem
        predicted = problem.decode(logits.argmax(1).numpy() if problem.is_classification else values(problem, logits), table.index)
        if len(bad):
            predicted = predicted.mask(_rows(bad, len(table)))
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
        frame = frame.mask(_rows(bad, len(table))) if len(bad) else frame
        result = frame if as_multiclass or problem.problem_type != "binary" else frame[problem.positive_class]
        return result.to_numpy() if as_pandas is False else result

    def evaluate(self, data: Any, metrics: str | list[str] | None = None, return_pred: bool = False) -> dict[str, float] | tuple[dict[str, float], pd.Series]:
        """Metrics on labelled data, each in its natural sign.

        Args:
            data: as for ``predict``, with the label column.
            metrics: names; None is the predictor's eval_metric.
            return_pred: also give the predictions.

        Raises:
            InvalidArgument: a metric does not exist or does not fit the problem.
            InvalidData: no label column, or classes that training did not have.
        """
        artifact = self._fitted
        names = [artifact.eval_metric] if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
        found = [find_metric(name, "metrics") for name in names]
        for metric in found:
            check_fits(metric, artifact.problem.problem_type, "metrics")
        table, folder = load_table(data, "data")
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
        if not return_pred:
            return scores
        decoded = logits.argmax(1).numpy() if artifact.problem.is_classification else values(artifact.problem, logits)
        return scores, artifact.problem.decode(decoded, table.index)

    def _logits(self, data: Any, folder: Path | None = None) -> tuple[pd.DataFrame, torch.Tensor, list[BadImage]]:
        """The table, its (N, num_outputs) logits, and the images that could not be read (their rows hold zeros)."""
        artifact = self._fitted
        table, own_folder = load_table(data, "data")
        paths = artifact.encoders.image_paths(table, folder or own_folder)
        spec = image_spec(artifact.config)
        chunks, bad = [torch.zeros(0, artifact.problem.num_outputs)], []
        for start in range(0, len(paths), PREDICT_CHUNK):
            part = paths[start : start + PREDICT_CHUNK]
            cache, unread = build_cache(part, np.zeros(len(part), np.int64), artifact.encoders.geometry, num_threads=artifact.config.env.num_workers)
            bad += [BadImage(start + image.row, image.column, image.path, image.reason) for image in unread]
            chunks.append(predict_logits(artifact.model, cache, spec, artifact.config.env))
        if bad and artifact.config.data.image.missing_value_strategy == "raise":
            raise BadImages(describe(bad) + " To get missing predictions for such rows, fit with data.image.missing_value_strategy='skip'.")
        return table, torch.cat(chunks), bad

    # ---------------------------------------------------------------------------------------------------------- afterwards

    def leaderboard(self) -> pd.DataFrame:
        """One row a trial, best first; columns as ``hpo.records.SearchRecords.leaderboard`` lists them."""
        artifact = self._fitted
        return SearchRecords(self._folder / "search").leaderboard(METRICS[artifact.validation_metric])

    def fit_summary(self) -> dict[str, Any]:
        """The best validation score, training time and number of trials; the same after ``load``."""
        return dict(self._fitted.summary)

    def save(self, path: str | Path) -> None:
        """Copies the predictor and the records of its search to another folder.

        Raises:
            SavePathExists: the folder holds files that are not a predictor's.
        """
        artifact, target = self._fitted, Path(path).absolute()
        if target == self._folder:
            return
        if not is_predictor(target):
            _check_path(target)
        save_artifact(artifact, target)
        shutil.rmtree(target / "search", ignore_errors=True)
        shutil.copytree(self._folder / "search", target / "search", ignore=shutil.ignore_patterns("checkpoints", "cache"))

    @classmethod
    def load(cls, path: str | Path, verbosity: int = 2) -> Self:
        """A predictor from its folder; verified by checksum, nothing in it is executed.

        Raises:
            NotAPredictor, CorruptFile
        """
        folder = Path(path).absolute()
        artifact = load_artifact(folder)
        predictor = cls(artifact.problem.label, verbosity=verbosity)
        predictor._adopt(artifact, folder)
        return predictor

    @property
    def _fitted(self) -> Artifact:
        if self._artifact is None:
            raise NotFitted("this predictor has not been fitted; call fit, or MultiModalPredictor.load(path)")
        return self._artifact

    @property
    def _folder(self) -> Path:
        if self._path is None:
            raise NotFitted("this predictor has no folder yet; call fit")
        return self._path

    @property
    def path(self) -> str | None:
        return str(self._path) if self._path else None

    @property
    def label(self) -> str | None:
        return self._label

    @property
    def problem_type(self) -> str | None:
        return self._artifact.problem.problem_type if self._artifact else self._problem_type

    @property
    def eval_metric(self) -> str | None:
        return self._artifact.eval_metric if self._artifact else self._eval_metric

    @property
    def validation_metric(self) -> str | None:
        return self._artifact.validation_metric if self._artifact else self._validation_metric

    @property
    def column_types(self) -> dict[str, str]:
        return dict(self._fitted.columns)

    @property
    def class_labels(self) -> np.ndarray | None:
        """In the order of ``predict_proba``'s columns; None for regression."""
        problem = self._fitted.problem
        return np.array(problem.class_labels) if problem.is_classification else None

    @property
    def positive_class(self) -> Any:
        return self._fitted.problem.positive_class

    @property
    def total_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._fitted.model.parameters())

    @property
    def trainable_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._fitted.model.parameters() if parameter.requires_grad)

    @property
    def model_size(self) -> float:
        """Megabytes of weights."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._fitted.model.state_dict().values()) / 1e6


# -------------------------------------------------------------------------------------------------------------- steps of fit


def _train(plan: FitPlan, monitor: SearchMonitor, progress: Progress) -> None:
    """Builds the caches and runs the trials; what they leave is in the records."""
    search_folder = monitor.records.folder
    trial_deadline = None if plan.deadline is None else plan.deadline - SAVE_SECONDS - (RAY_STOP_SECONDS if plan.space else 0.0)
    task = TrialTask(search_folder, plan.problem, plan.validation_metric.name, plan.seed, plan.settings.num_to_keep, trial_deadline)

    def build_caches() -> None:
        for name, table, folder in (("train", plan.train, plan.train_folder), ("valid", plan.valid, plan.valid_folder)):
            store_cache(
                search_folder / "cache", name, plan.encoders.image_paths(table, folder), plan.problem.encode(table[plan.problem.label]),
                plan.encoders.geometry, plan.config.data.image.missing_value_strategy, plan.config.env.num_workers, progress.say,
            )  # fmt: skip

    if not plan.space:
        build_caches()
        with torch.random.fork_rng():  # the caller's random state is not ours to move
            run_here(task, plan.config, monitor)
        return
    with ThreadPoolExecutor(1) as pool:
        caches = pool.submit(build_caches)  # while Ray starts
        with ray_cluster(plan.config.env.num_gpus) as available:
            from .hpo.search import run_search  # Ray is imported in the environment that ray_cluster sets

            caches.result()
            run_search(task, plan.config, plan.space, plan.settings, monitor, available)


def _best_artifact(plan: FitPlan, records: SearchRecords, progress: Progress, started: float) -> tuple[TrialRecord, Artifact]:
    """The best epoch of the best trial as a predictor; where its weights are damaged, the next best, and that is said."""
    for record in records.ranked():
        best = record.best
        if best is None:  # this one and all behind it
            break
        config = Config.from_flat(record.config)
        model = build_model(config, plan.problem.num_outputs, load_weights=False)
        folder = records.folder_of(record.number)
        try:
            check_checkpoint(folder.checkpoint(best))
            load_weights(model, folder.checkpoint(best) / "model.safetensors")
        except CorruptFile as problem:
            if list_checkpoints(folder.checkpoints):
                progress.say(f"trial {record.number}'s best checkpoint is unusable, the next best trial is taken: {problem}", level=1)
            continue
        summary = {
            f"val_{plan.validation_metric.name}": best.metric,
            "training_time": round(time.time() - started, 2),
            "num_trials": len(records),
            "best_trial": record.number,
            "best_epoch": best.epoch,
            "hyperparameters": dict(record.tuned),
        }
        return record, Artifact(plan.problem, plan.columns, plan.encoders, config, model, plan.eval_metric.name, plan.validation_metric.name, summary)
    raise CorruptFile(f"no trial in {records.folder} has an intact checkpoint")


def _announce(plan: FitPlan, progress: Progress) -> None:
    problem, device = plan.problem, find_device(plan.config.env)
    classes = f", {problem.num_outputs} classes" if problem.is_classification else ""
    progress.say(
        f"automm_hpo {__version__} | {problem.label!r}: {problem.problem_type}{classes} | {plan.validation_metric.name} | "
        f"{len(plan.train):,} rows to train, {len(plan.valid):,} to validate | {device.type}"
    )
    for column, kind in plan.columns.items():
        progress.say(f"column {column!r}: {kind} ({plan.columns.reasons[column]})")
    if plan.space:
        settings = plan.settings
        progress.say(f"search: {settings.searcher} + {settings.scheduler}, {settings.num_trials} trials over {', '.join(plan.space)}")


@contextlib.contextmanager
def _new_folder(path: Path) -> Iterator[None]:
    """Makes the folder of a fit; one that ends before its first trial leaves none behind."""
    existed = path.exists()
    (path / "search").mkdir(parents=True)
    try:
        yield
    except BaseException:
        if not (path / "search" / "trials").exists():
            shutil.rmtree(path / "search")
            if not existed:
                path.rmdir()
        raise


@contextlib.contextmanager
def _tracker(plan: FitPlan, tracking: str | None) -> Iterator[MlflowTracker | None]:
    """The MLflow run of a fit; one that raises ends FAILED, one that is interrupted KILLED."""
    if tracking is None:
        yield None
        return
    params = {key: value for key, value in plan.config.flat().items() if key not in plan.space}
    tags = {"automm_hpo.path": str(plan.path), "automm_hpo.label": plan.problem.label, "automm_hpo.metric": plan.validation_metric.name}
    tracker = MlflowTracker(plan.path / "search", plan.path.name, params, tags)
    try:
        yield tracker
    except BaseException as error:
        tracker.close("FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def _rows(bad: list[BadImage], num_rows: int) -> np.ndarray:
    """(num_rows,) bool, True where an image could not be read."""
    mask = np.zeros(num_rows, dtype=bool)
    mask[[image.row for image in bad]] = True
    return mask


# ------------------------------------------------------------------------------------------------------------ argument checks


def _search_settings(space: SearchSpace, tune_kwargs: Mapping[str, Any] | str | None) -> TuneSettings:
    if tune_kwargs is None:
        if space:
            raise InvalidTuneSettings(
                f"{', '.join(space)} have search spaces, and hyperparameter_tune_kwargs is None: give it (e.g. 'auto'), or give fixed values instead"
            )
        return TuneSettings()
    settings = parse_tune_settings(tune_kwargs)
    if not space:
        raise InvalidTuneSettings(
            "hyperparameter_tune_kwargs is given, and no hyperparameter has a search space: give one a tune.* space, or leave hyperparameter_tune_kwargs out"
        )
    check_resources(settings, local_resources())
    return settings


def _check_problem_type(problem_type: str | None) -> None:
    if problem_type in REFUSED_TYPES:
        raise NotSupported(f"problem_type: {problem_type} is not covered here; {', '.join(PROBLEM_TYPES)} are")
    if problem_type is not None and problem_type not in PROBLEM_TYPES:
        hint = did_you_mean(str(problem_type), PROBLEM_TYPES)
        raise InvalidArgument(f"problem_type: expected one of {', '.join(PROBLEM_TYPES)}, got {problem_type!r}.{hint}")


def _check_presets(presets: str | None) -> None:
    if presets is not None:
        raise NotSupported(f"presets: this version has none, got {presets!r}; name a model with model.timm_image.checkpoint_name")


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InvalidArgument(f"seed: expected an integer >= 0, got {seed!r}")


def _check_holdout(holdout_frac: float | None) -> None:
    if holdout_frac is not None and not (isinstance(holdout_frac, float) and 0 < holdout_frac < 1):
        raise InvalidArgument(f"holdout_frac: expected a float between 0 and 1, got {holdout_frac!r}")


def _check_max_rows(max_num_tuning_data: int | None) -> None:
    limit = max_num_tuning_data
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidArgument(f"max_num_tuning_data: expected an integer >= 1, got {limit!r}")


def _check_tracking(tracking: str | None) -> None:
    if tracking not in ("mlflow", None):
        raise InvalidArgument(f"tracking: expected 'mlflow' or None, got {tracking!r}")


def _check_time_limit(time_limit: float) -> float:
    if isinstance(time_limit, bool) or not isinstance(time_limit, (int, float)) or not 0 < time_limit < float("inf"):
        raise InvalidArgument(f"time_limit: expected seconds > 0 or None, got {time_limit!r}")
    return float(time_limit)


def _fresh_path(path: str | Path | None) -> Path:
    if path is not None:
        return Path(path).expanduser().absolute()
    return Path("automm_hpo_models").absolute() / datetime.now().strftime("%Y%m%d_%H%M%S_%f")


def _check_path(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise SavePathExists(f"save_path: {path} is a file; give a new or an empty folder")
    if path.is_dir() and any(path.iterdir()):
        whose = "a predictor or a search" if is_predictor(path) or (path / "search").is_dir() else "files"
        raise SavePathExists(f"save_path: {path} already holds {whose}; give a new or an empty folder. Nothing in it was touched.")
