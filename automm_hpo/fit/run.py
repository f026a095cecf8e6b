"""Runs a planned fit: builds the caches, runs the trials, and saves the best predictor."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from .. import __version__
from ..artifact import Artifact, Member, load_artifact, load_summary
from ..config import Config
from ..data.cache import store_caches
from ..data.decoding import Course
from ..errors import CorruptFile
from ..files import is_predictor
from ..hpo.cluster import Cluster, known_resources, ray_cluster
from ..hpo.hyperparameter_space import candidate_configs, values_of
from ..hpo.job import SearchJob, search_line
from ..hpo.progress import Progress
from ..hpo.records import SearchRecords, TrialRecord
from ..hpo.table import number_text, value_text
from ..hpo.training_trial import Training, splits_closed
from ..metrics import Metric, stored_metric
from ..models import MODEL_KEYS, MODELS, has_say, is_pretrained, used_groups, used_models
from ..problem import Problem
from ..process import Interruption
from ..rng import generators_unchanged
from ..session import Session, trials_deadline
from ..space import tuned_keys
from ..training.building import ModelBuilder
from ..training.checkpoint import load_predictions
from ..training.checkpoint_folder import check_checkpoint, list_checkpoints
from ..training.device import find_device, has_bfloat16
from ..training.threshold import HALF
from .capacity import most_epochs
from .checks import idle_keys
from .finishing import calibrated, kept_epochs, reserved_seconds, run_after_search, validated_rows, validation_summary
from .packing import plan_gpu_share
from .place import PredictorFolder, stored_predictor
from .plan import FitPlan
from .venue import Venue, venue_of


def run_fit(plan: FitPlan, verbosity: int, tracking: str | None) -> tuple[Artifact, Interruption]:
    """Runs the trials and saves the best trial's best epoch to the plan's folder, then anything that improves on it.

    Returns:
        (the best predictor, the interruption that ended the search early, if any). The caller re-raises the interruption.

    Raises:
        AllTrialsFailed: no trial has a score.
        BadImages: images cannot be read; nothing is left behind.
    """
    started, data, settings = time.time(), plan.data, plan.search.settings
    metric, device = data.validation_metric, find_device(plan.search.config.env)
    venue = venue_of(plan)
    session = Session(
        plan.path,
        identity=plan.identity,
        resuming=plan.resuming,
        settings=settings,
        num_trials=plan.search.num_trials,
        metric=metric,
        deadline=plan.deadline,
        verbosity=verbosity,
        with_ray=venue.may_use_ray,
    )
    cluster = Cluster(ray_cluster(plan.search.config.env.num_gpus, session.progress.say, deadline=plan.deadline))
    with session.open(), generators_unchanged(device), splits_closed(), cluster:
        if session.is_finished and is_predictor(plan.path):
            if (stored := stored_predictor(plan)) is not None:
                session.progress.say(f"{plan.path} already holds this search, finished: nothing is left to do", level=1)
                return stored, Interruption()
            session.progress.say(f"the predictor in {plan.path} is damaged, and is made again from its trials", level=1)
        plan = plan.with_scorer().with_start_kept()
        _announce(plan, session)
        last_commit = trials_deadline(plan.deadline, venue.may_use_ray)
        gpu_share = _prepare(plan, venue, session, cluster, last_commit)
        with session.tracked(tracking, _told(plan), plan.search.space, **_tags(plan)):
            reserved = 0.0 if last_commit is None else reserved_seconds(plan.search, plan.ensemble_size, max(0.0, last_commit - time.time()))
            if not plan.search.space and not len(session.records):
                session.records.open_trial({}, {}, plan.search.config.flat())
            training = Training(data.problem, plan.models, metric, plan.seed, settings.num_to_keep)
            interruption = session.run(
                training,
                _search_job(plan, venue, gpu_share),
                cluster,
                trials_end=None if last_commit is None else last_commit - reserved,
                keep_trials=settings.num_kept(plan.ensemble_size),
                keep_epochs=kept_epochs(plan.search),
            )
            best, artifact = _best_artifact(plan, session.records, session.progress)
            before = load_summary(plan.path).get("training_time", 0.0) if plan.resuming else 0.0
            artifact = artifact.with_summary(training_time=round(before + time.time() - started, 2))
            place = PredictorFolder(plan, artifact)
            place.commit(artifact)  # even if the search was interrupted
            had_time = True
            # a copied predictor folder has no weights of trials; only a refit works without them
            can_be_improved = plan.refit or list_checkpoints(session.records.folder_of(best.number).checkpoints)
            if interruption.signal is None and can_be_improved and not place.is_refitted:
                try:
                    artifact, had_time = run_after_search(plan, session.records, session.progress, best, artifact, last_commit, place.commit)
                except KeyboardInterrupt:
                    artifact, interruption.signal = place.committed, signal.SIGINT
            artifact = place.settled(artifact, session.progress)
            session.close(interruption, best, had_time, validated=artifact.summary[f"val_{metric.name}"])
    if best.best and best.best.end == "time_limit" and best.best.epoch < 1:
        line = f"time_limit: the best trial has trained on only {best.best.epoch:.0%} of the rows, in {best.seconds:.1f} s"
        whole = f": a whole epoch takes about {best.seconds / best.best.epoch:.0f} s" if best.best.epoch else ""
        elsewhere = f"; the rest of the time went into reading the data{', starting Ray' if venue.may_use_ray else ''} and validation"
        session.progress.say(line + whole + (elsewhere if best.seconds < 0.5 * (time.time() - started) else ""), level=1)
    session.say_goodbye(f"best: {_what_it_is(artifact, best)}, saved in {plan.path}", ", as does MultiModalPredictor.load(save_path, resume=True)")
    return artifact, interruption


def _prepare(plan: FitPlan, venue: Venue, session: Session, cluster: Cluster, last_commit: float | None) -> float:
    """Builds the caches, and meanwhile starts Ray if trials begin on it.

    Returns:
        Each trial's share of a GPU.
    """
    search, searching = plan.search, plan.search.space and session.is_anything_left
    there, cancelled = known_resources(search.config.env.num_gpus), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            caches = pool.submit(_build_caches, plan, session.progress, cancelled, last_commit)
            if searching and venue.in_process is None:
                cluster.start()
            caches.result()
        finally:  # also after Ctrl-C
            cancelled.set()
            pool.shutdown(cancel_futures=True)
    # measured once all cores are free again, and in this thread, because torch's profiler complains outside the thread that imported torch
    share, why = plan_gpu_share(plan, there) if searching else (1.0, "")
    if why:
        session.progress.say(why)
    return share


def _build_caches(plan: FitPlan, progress: Progress, cancelled: threading.Event, last_commit: float | None) -> None:
    data, config, folder = plan.data, plan.search.config, plan.cache
    splits, seen = data.splits, plan.seen  # computed now, because there may be no time for it after the trials
    if plan.start is None and data.tuning_rows and (both := int(np.isin(data.digests(data.valid), seen).sum())):
        count = f"{both:,} of the {len(data.valid.table):,} rows to validate on"
        progress.say(f"{count} also occur among the rows to train on: if they are duplicates, the scores are too optimistic", level=1)
    for stale in folder.glob("probe-*.safetensors"):  # left by a session that was killed
        stale.unlink()
    tables, told = {}, list[str]()
    for name, split in splits.items():
        lines: list[str] = []
        tables[name] = data.encode(split, plan.encoders, lines.append)
        for line in lines:
            if line not in told:
                progress.say(f"rows to validate on: {line}" if name == "valid" else line)
        told += lines
    dropped = store_caches(
        folder,
        tables,
        plan.encoders.geometry,
        strategy=config.data.image.missing_value_strategy,
        num_threads=config.env.num_workers,
        report=progress.say,
        watch=Course(progress.say, last_commit, cancelled),
        labels={name: list(split.table.index) for name, split in splits.items()},
    )
    for line in dropped:
        progress.say(line, level=1)


def _search_job(plan: FitPlan, venue: Venue, gpu_share: float) -> SearchJob | None:
    """The search to run; None without a space."""
    search = plan.search
    if not search.space:
        return None
    max_epochs = most_epochs(search, len(plan.data.train.table))
    return SearchJob(
        space=search.space,
        fixed=search.config.flat(),
        settings=search.settings.with_gpu_share(gpu_share),
        num_trials=search.num_trials,
        seed=plan.seed,
        metric=plan.data.validation_metric.name,
        max_epochs=max_epochs,
        warmup_epochs=max_epochs * max(values_of("optim.warmup_steps", search.config, search.space)),
        complete=lambda tuned: search.config.with_overrides(tuned).flat(),
        first_points=search.first_points,
        known=search.warm_start.trials,
        in_process=venue.in_process,
    )


def _best_artifact(plan: FitPlan, records: SearchRecords, progress: Progress) -> tuple[TrialRecord, Artifact]:
    """The best trial, and its best epoch as a predictor. If its weights are damaged, reports that and takes the next best trial."""
    data = plan.data
    for record in records.ranked():
        if record.best is None:  # neither has any of the following trials
            break
        try:
            member = _best_member(record, records, plan.models)
        except CorruptFile as problem:
            if list_checkpoints(records.folder_of(record.number).checkpoints):  # damaged rather than pruned
                progress.say(f"trial {record.number}'s best checkpoint is unusable, the next best trial is taken: {problem}", level=1)
            elif load_summary(plan.path).get("best_trial") == record.number:  # in a copy without trials' weights, the saved predictor is this trial
                return record, _copied(plan, record, records)
            continue
        summary = _summary(record, records, data.problem, data.validation_metric) | ({"start_from": str(plan.start.folder)} if plan.start else {})
        return record, Artifact(
            data.problem,
            data.columns,
            plan.encoders,
            (member,),
            data.eval_metric.name,
            data.validation_metric.name,
            summary,
            decision_threshold=record.best.threshold,
            seen=plan.seen,
            validated=validated_rows(plan, load_predictions(records.folder_of(record.number).checkpoint(record.best))),
        )
    raise CorruptFile(f"no trial in {records.folder} has an intact checkpoint")


def _copied(plan: FitPlan, record: TrialRecord, records: SearchRecords) -> Artifact:
    """The predictor of a copied folder. If it is to be refitted, only what it knows of the best trial is kept."""
    stored = replace(load_artifact(plan.path), eval_metric=plan.data.eval_metric.name).with_summary(num_trials=len(records))
    is_trial = len(stored.members) == 1 and len(stored.summary.get("soup", {}).get("ingredients", ())) < 2
    if is_trial or not plan.refit or record.best is None:
        return stored
    own = {key: value for key, value in stored.summary.items() if key not in ("soup", "ensemble", "calibration")}
    summary = own | _summary(record, records, plan.data.problem, plan.data.validation_metric)
    return replace(stored, summary=summary, temperature=1.0, decision_threshold=record.best.threshold, validated=None)


def trial_artifact(artifact: Artifact, records: SearchRecords, number: int) -> Artifact:
    """The predictor as it would be if this trial had been the best. The trial's weights must have been kept.

    Raises:
        CorruptFile: they are damaged or were not kept.
    """
    record = next(record for record in records.trials() if record.number == number)
    assert record.best, "only trials with a score have weights"
    sources = artifact.sources_for(Config.from_flat(record.best_config))
    member = _best_member(record, records, ModelBuilder(artifact.encoders.features, artifact.problem.num_outputs, sources=sources))
    metric, rows = stored_metric(artifact.validation_metric), artifact.validated
    logits = load_predictions(records.folder_of(number).checkpoint(record.best))
    validated = None if rows is None or logits is None or len(logits) != len(rows.rows) else replace(rows, logits=logits)
    summary = _summary(record, records, artifact.problem, metric)
    alone = replace(artifact, members=(member,), summary=summary, temperature=1.0, decision_threshold=record.best.threshold, validated=validated)
    return calibrated(alone, metric, stored_metric(artifact.eval_metric))


def _best_member(record: TrialRecord, records: SearchRecords, models: ModelBuilder) -> Member:
    """The best epoch of a trial that has one, with the hyperparameters of that epoch; population-based training may have changed them since.

    Raises:
        CorruptFile: its weights are damaged, or were not kept.
    """
    assert record.best, "the caller has looked"
    path, config = records.folder_of(record.number).checkpoint(record.best), Config.from_flat(record.best_config)
    check_checkpoint(path)
    return Member(config, models.loaded(config, path))


def _summary(record: TrialRecord, records: SearchRecords, problem: Problem, metric: Metric) -> dict[str, Any]:
    assert record.best, "the caller has looked"
    return {
        **validation_summary(problem, metric, record.best.metric, record.best.valid_loss),
        "num_trials": len(records),
        "best_trial": record.number,
        "best_epoch": record.best.epoch,
        "hyperparameters": dict(record.best_tuned),
    }


def _what_it_is(artifact: Artifact, best: TrialRecord) -> str:
    """The predictor in a few words, with its validation metric, and with the best trial's metric if the predictor is not that trial alone."""
    metric, summary = artifact.validation_metric, artifact.summary
    soup = len(summary.get("soup", {}).get("ingredients", ()))
    what, alone = f"trial {best.number}", f" (trial {best.number} alone {number_text(best.metric)})"
    if len(artifact.members) > 1:
        selected_by = summary.get("ensemble", {}).get("selected_by", metric)
        what = f"an ensemble of {len(artifact.members)} models{f' chosen by {selected_by}' if selected_by != metric else ''}"
    elif soup > 1:
        what = f"an average of {soup} checkpoints"
    else:
        alone = ""
    again = ", trained again on all rows" if "refit" in summary else ""
    threshold = artifact.decision_threshold
    at = "" if threshold == HALF else f", decision threshold {number_text(threshold)}"
    return f"{what}{again}, {metric} {number_text(summary[f'val_{metric}'])}{alone}{at}"


def _rows(plan: FitPlan) -> str:
    num_train, num_valid, num_folds = len(plan.data.train.table), len(plan.data.valid.table), plan.data.num_folds
    return f"{num_train:,} rows in {num_folds} folds" if num_folds else f"{num_train:,} rows to train, {num_valid:,} to validate"


def _announce(plan: FitPlan, session: Session) -> None:
    data, search, progress = plan.data, plan.search, session.progress
    classes = f", {data.problem.num_outputs} classes" if data.problem.is_classification else ""
    if data.problem.problem_type == "binary":
        classes = f", {data.problem.class_labels[0]!r} or {data.problem.positive_class!r} (positive)"
    progress.say(
        f"automm_hpo {__version__} | {data.problem.label!r}: {data.problem.problem_type}{classes} | {data.validation_metric.name} | "
        f"{_rows(plan)} | {find_device(search.config.env).type}"
    )
    if data.label_note:
        progress.say(f"  {data.problem.label!r}: {data.label_note}", level=1)
    if plan.start is not None:
        progress.say(f"  {plan.start.line}")
        if data.start_note:
            progress.say(f"  {data.start_note}", level=1)
    for line in data.columns.lines():
        progress.say(f"  {line}")
    models, fixed = used_groups([search.config], plan.encoders.features), search.config.flat()
    chosen = {key: fixed[key] for key in search.added if key not in search.space and has_say(key, models)}
    if chosen:
        progress.say("chosen for these data: " + ", ".join(f"{key}={value_text(value)}" for key, value in chosen.items()))
    for note in _notes(plan):
        progress.say(note, level=1)
    if search.space:
        settings = search.settings
        progress.say(search_line(settings, search.num_trials, search.space))
        if search.warm_start.trials:
            progress.say(search.warm_start.line)
        if idle := idle_keys(search, plan.data.problem, plan.encoders.features):
            progress.say(f"searched, and without effect in any trial: {', '.join(f'{key} ({why})' for key, why in idle.items())}", level=1)
        if settings.default_first and not search.first_points and isinstance(settings.searcher, str):
            progress.say("the defaults are not tried, because they lie outside the search space")
    progress.resumes(session.records, plan.path)


def _notes(plan: FitPlan) -> Iterator[str]:
    """Warnings about settings that may not do what the user expects."""
    search, problem, device = plan.search, plan.data.problem, find_device(plan.search.config.env)
    if search.without_effect:
        yield f"of no effect here: {', '.join(f'{key} ({why})' if why else key for key, why in search.without_effect.items())}"
    if "quadratic_kappa" in (plan.data.eval_metric.name, plan.data.validation_metric.name) and isinstance(problem.class_labels[0], str) and not problem.ordered:
        order = " < ".join(map(repr, problem.class_labels))
        yield f"quadratic_kappa depends on the order of the classes, which is alphabetical here: {order}; an ordered categorical sets another"
    methods = {method for method in values_of("optim.peft", search.config, search.space) if method is not None}
    if methods and not any(is_pretrained(config, plan.encoders.features) for config in candidate_configs(search.config, search.space, MODEL_KEYS)):
        yield f"optim.peft: {', '.join(sorted(methods))} is of no effect, no network begins from pretrained weights; all of them learn whole"
    if plan.start is None:
        configs = candidate_configs(search.config, search.space, (*MODEL_KEYS, "model.timm_image.trainable", "model.hf_text.trainable"))
        used = [(name, config) for config in configs for name in used_models(config, plan.encoders.features)]
        heads = {name for name, config in used if getattr(getattr(config.model, name), "trainable", "") == "head" and not MODELS[name].is_pretrained(config)}
        for name in sorted(heads):
            yield f"model.{name}.trainable='head' without pretrained weights: the backbone stays random"
    if device.type == "cpu" and "16-mixed" in values_of("env.precision", search.config, search.space):
        yield "env.precision: CPUs compute no float16 natively; '16-mixed' is many times slower than '32'"
    if device.type == "cuda" and not has_bfloat16(device) and "env.precision" not in {*search.given, *search.space}:
        yield "this GPU has no bfloat16: env.precision='16-mixed' takes half the memory, and less time"


def _told(plan: FitPlan) -> dict[str, Any]:
    """The parameters that MLflow logs: the hyperparameters that the search may use; for tuned ones, their space."""
    search = plan.search
    features = plan.encoders.features
    models = used_groups(candidate_configs(search.config, search.space, MODEL_KEYS), features)
    silent = {
        ("data.image.", "data.mixup."): features.num_images,
        ("data.text.",): features.num_texts,
        ("data.numerical.",): len(features.numeric) > features.num_scores,
        ("data.categorical.",): features.cardinalities,
        ("optim.lora.",): any(config.optim.adds_lora for config in candidate_configs(search.config, search.space, ("optim.peft",))),
    }
    idle = tuple(prefix for prefixes, wanted in silent.items() if not wanted for prefix in prefixes)
    tuned = tuned_keys(search.space)
    told = {key: value for key, value in search.config.flat().items() if key not in tuned and not key.startswith(idle) and has_say(key, models)}
    return told | dict(search.space)


def _tags(plan: FitPlan) -> dict[str, str]:
    return {"label": str(plan.data.problem.label)} | ({"start_from": str(plan.start.folder)} if plan.start else {})
