"""Improves the predictor after the search, once the best trial is committed, if there is time.

By a soup, an ensemble or a refit, then calibration, and a decision threshold for the ``eval_metric``. All are judged by the validation rows that also
chose the best trial. The more candidates are compared on few rows, the more optimistic the winner's score.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..artifact import Artifact, Member, ValidatedRows
from ..config import Config
from ..data.batch import TensorCache, join_rows
from ..data.cache import open_cache, stored_labels
from ..errors import CorruptFile
from ..hpo.progress import Progress
from ..hpo.records import SearchRecords, TrialRecord
from ..hpo.table import number_text
from ..metrics import Metric, find_metric
from ..models import TableModel, architecture
from ..models.folding import shared_copy
from ..problem import Problem
from ..training.averaging import SOUPS, Weights
from ..training.calibration import fit_temperature, wants_temperature
from ..training.checkpoint import load_predictions, load_weights
from ..training.checkpoint_folder import check_checkpoint, checkpoint_name, list_checkpoints
from ..training.compiling import gpu_kernels
from ..training.device import pick_device, resident
from ..training.ensemble import select_members, selection_metric
from ..training.evaluate import Validation, find_threshold, needs_threshold, predict_logits, validate
from ..training.gradients import epoch_size
from ..training.loop import most_steps, train_epochs
from ..training.probe import start_from_probe, wants_probe
from ..training.result import EpochResult
from ..training.state import TrialData
from .plan import FitPlan, SearchPlan

RESERVED_SHARE = 0.05  # share of the time limit reserved for a soup or an ensemble
BYTES_A_SECOND = 100e6  # reading, checking, writing and hashing weights on a slow disk
NEVER = 10**9  # validations of patience
SAME = 1e-4  # relative difference of two scores that may be due to rounding


def validation_summary(problem: Problem, metric: Metric, value: float, loss: float) -> dict[str, float]:
    """A predictor's values on the validation rows, for its summary: of the validation metric and, for classes, of the log loss."""
    also = {"val_log_loss": loss} if problem.is_classification and metric.name != "log_loss" and math.isfinite(loss) else {}
    return {f"val_{metric.name}": value} | also


def validated_rows(plan: FitPlan, logits: torch.Tensor | None) -> ValidatedRows | None:
    """The rows to validate on with a model's predictions for them, if these are known."""
    rows, target = stored_labels(plan.cache, "valid")
    if logits is None or len(logits) != len(rows):  # an image that could not be read before can be read now
        return None
    return ValidatedRows(plan.data.valid_rows[rows], target, logits)


def calibrated(artifact: Artifact, metric: Metric, eval_metric: Metric) -> Artifact:
    """The predictor with calibrated probabilities, unless these are worse, and the decision threshold for them.

    Args:
        metric: the validation metric, by which they may be worse.
        eval_metric: decides on the threshold if it needs one; otherwise ``metric`` does.
    """
    problem, rows, changed = artifact.problem, artifact.validated, artifact
    if rows is None:
        return artifact
    if wants_temperature(problem, artifact.config.optim):
        before = validate(metric, problem, rows.logits, rows.target)
        temperature = fit_temperature(rows.logits, torch.from_numpy(rows.target))
        after = validate(metric, problem, rows.logits / temperature, rows.target)
        if temperature != 1 and before.score - after.score <= SAME * abs(before.score):
            losses = {"val_log_loss": after.loss, "val_log_loss_before": before.loss}
            value = {} if "refit" in artifact.summary else validation_summary(problem, metric, after.metric, after.loss)
            changed = replace(artifact, temperature=temperature).with_summary(calibration={"temperature": temperature, **losses}, **value)
    return decided(changed, metric, eval_metric)


def decided(artifact: Artifact, metric: Metric, eval_metric: Metric) -> Artifact:
    """The predictor with the decision threshold for its ``eval_metric``, or for ``metric`` if the other needs none."""
    problem, rows = artifact.problem, artifact.validated
    if rows is None:
        return artifact
    decisive = eval_metric if needs_threshold(eval_metric, problem) else metric
    threshold = find_threshold(decisive, problem, rows.logits / artifact.temperature, rows.target)
    return artifact if threshold == artifact.decision_threshold else replace(artifact, decision_threshold=threshold)


def kept_epochs(search: SearchPlan) -> int:
    """How many of the best trial's epochs keep their weights until the end."""
    return search.settings.num_to_keep if search.config.optim.top_k_average_method in SOUPS else 1


def reserved_seconds(search: SearchPlan, ensemble_size: int, seconds: float) -> float:
    """How many of ``seconds`` to reserve for a soup or an ensemble. A refit takes as long as a trial, and only gets what the trials leave over."""
    return RESERVED_SHARE * seconds if ensemble_size > 1 or kept_epochs(search) > 1 else 0.0


def run_after_search(
    plan: FitPlan,
    records: SearchRecords,
    progress: Progress,
    best: TrialRecord,
    artifact: Artifact,
    deadline: float | None,
    commit: Callable[[Artifact], None],
) -> tuple[Artifact, bool]:
    """Runs the steps after a search on the committed predictor. Commits the result of each that changed the predictor or its summary.

    Args:
        best: the trial whose best epoch ``artifact`` is.
        deadline: time.time() at which the last commit must begin; None: no limit.
        commit: stores a predictor in the plan's folder.

    Returns:
        (the last predictor committed, with the comparisons in its summary; whether there was time for every step)
    """
    started, spent = time.time(), artifact.summary["training_time"]
    try:
        finish = _Finish(plan, records, progress, best, deadline)
        for step in [*([finish.refit] if plan.refit else [finish.soup, finish.ensemble]), finish.calibrate]:
            better = step(artifact)
            if better is not artifact:
                better = better.with_summary(training_time=round(spent + time.time() - started, 2))
                commit(better)
                artifact = better
        return artifact, finish.had_time
    except (CorruptFile, OSError, MemoryError, RuntimeError) as problem:  # e.g. a full disk or GPU: these steps are optional, and the best trial is saved
        progress.say(f"what follows a search failed with {type(problem).__name__}, the predictor stays as it is: {problem}", level=1)
        return artifact, True


@dataclass(frozen=True)
class _Kept:
    """An epoch of a trial whose weights are on disk.

    Attributes:
        config: the trial's config at that epoch; population-based training changes it over time.
        folder: of the checkpoint.
    """

    trial: int
    config: Config
    result: EpochResult
    folder: Path


def _rank(epoch: _Kept) -> tuple[float, float]:
    return epoch.result.rank


class _Finish:
    """The steps after a search. Each returns the predictor improved, or with only a comparison added to its summary, or as it was."""

    def __init__(self, plan: FitPlan, records: SearchRecords, progress: Progress, best: TrialRecord, deadline: float | None) -> None:
        assert best.best is not None, "the best trial has a score"
        self.plan, self.records, self.progress, self.best, self.deadline = plan, records, progress, best, deadline
        self.metric, self.problem, self.models = plan.data.validation_metric, plan.data.problem, plan.models
        self.first = _Kept(best.number, Config.from_flat(best.best_config), best.best, records.folder_of(best.number).checkpoint(best.best))
        self.cache, self.valid = plan.cache, open_cache(plan.cache, "valid")
        self.souped: Validation | None = None
        self.had_time = True
        # an estimate until one is measured here: in a trial, training on a row cost at least as much as validating on two
        trained, validated = best.epochs * len(plan.data.train.table), len(best.results) * len(self.valid)
        self.validation_seconds = best.seconds * len(self.valid) / (validated + 2 * trained)

    @functools.cached_property
    def _valid_there(self) -> TensorCache:
        return resident(self.valid, pick_device(self.first.config.env))

    # ------------------------------------------------------------------------------------------------------------- a soup

    def soup(self, artifact: Artifact) -> Artifact:
        """Averages kept weights: of the best trial's epochs and, for a greedy soup, of other trials with the same architecture."""
        method = self.plan.search.config.optim.top_k_average_method
        kept = self._ingredients(greedy=method == "greedy_soup") if method in SOUPS else []
        if len(kept) < 2:
            return artifact
        model, alone, tried = self._build(self.first.config), self._validation(self.first), 0

        def validate_weights(weights: Weights) -> Validation | None:
            nonlocal tried
            if self._late(self.validation_seconds):
                return None
            tried += 1
            model.load_state_dict(weights)
            return self._validate(model, self.first.config)

        found = SOUPS[method]([epoch.folder for epoch in kept], alone, validate_weights) if alone else None
        if alone is None or not tried:
            return self._no_time(artifact, "an average of weights")
        chosen, weights, validation = found or ([0], None, alone)
        ingredients = [[kept[index].trial, kept[index].result.epoch] for index in chosen]
        artifact = artifact.with_summary(soup={"method": method, "tried": tried, "ingredients": ingredients, **self._compared(validation)})
        if weights is None:
            self.progress.say(f"soup: no average of {len(kept)} checkpoints beats the best of them on the validation rows")
            return artifact
        model.load_state_dict(weights)
        self.souped = validation
        names = ", ".join(f"trial {trial} epoch {epoch:g}" for trial, epoch in ingredients)
        return self._improved(artifact, f"soup of {names}: ", validation, [Member(self.first.config, model.cpu())])

    def _ingredients(self, greedy: bool) -> list[_Kept]:
        """The epochs that can be averaged, best first. All trials of a search have the same seed, so those with one architecture start from equal weights."""
        results = {checkpoint_name(result): result for result in self.best.results}
        folders = [folder for folder in list_checkpoints(self.first.folder.parent) if folder.name in results and folder != self.first.folder]
        own = self._intact([_Kept(self.first.trial, self.first.config, results[folder.name], folder) for folder in folders])
        most = self.plan.search.config.optim.top_k
        others = sorted(own, key=_rank, reverse=True)[: most and most - 1]
        if greedy:
            others += [epoch for epoch in self._other_trials if architecture(epoch.config) == architecture(self.first.config)]
        return [self.first, *sorted(others, key=_rank, reverse=True)]

    # -------------------------------------------------------------------------------------------------------- an ensemble

    def ensemble(self, artifact: Artifact) -> Artifact:
        """Combines the models that predict best together, out of the trials whose weights are kept and the soup, if there is one.

        Which is best is decided by the ``selection_metric``.
        """
        most = self.plan.ensemble_size
        if most == 1:
            return artifact
        if self._late(most * self.best.weights_bytes / BYTES_A_SECOND):
            return self._no_time(artifact, "an ensemble")
        kept: dict[int | str, _Kept] = {epoch.trial: epoch for epoch in (self.first, *self._other_trials)}
        found = {name: self._validation(epoch) for name, epoch in kept.items()} | {"soup": self.souped}
        alone, temperatures = dict[int | str, Validation](), dict[int | str, float]()
        for name, validation in found.items():
            if validation is not None:  # a model that is too sure may be the best once it is calibrated, and would outvote the others if it were not
                optim = kept.get(name, self.first).config.optim  # a soup is of the best trial's architecture
                temperatures[name] = fit_temperature(validation.logits, self.valid.target) if wants_temperature(self.problem, optim) else 1.0
                alone[name] = self._judge(validation.logits / temperatures[name])
        if len(alone) < 2:
            self.progress.say("ensemble: fewer than two models have predictions to combine", level=1)
            return artifact
        by = selection_metric(self.metric, self.plan.search.config.optim)
        judge = functools.partial(self._judge, metric=by)
        weights, chosen = select_members(self.problem, [each.logits for each in alone.values()], judge, most, self._late)
        best = max(alone, key=lambda name: alone[name].rank)
        before = judge(alone[best].logits)
        is_better = len(weights) > 1 and chosen.beats(before)
        shares = {list(alone)[index]: weight for index, weight in weights.items()} if is_better else {best: 1.0}
        validation = self._judge(chosen.logits) if is_better else alone[best]
        artifact = artifact.with_summary(ensemble={"members": list(map(list, shares.items())), "selected_by": by.name, **self._compared(validation)})
        if not is_better and best == ("soup" if self.souped else self.first.trial):
            self.progress.say(f"ensemble: no combination of {len(alone)} models beats the best of them on the validation rows")
            return artifact
        [soup] = artifact.members
        members = [
            replace(
                Member(kept[name].config, self.models.loaded(kept[name].config, kept[name].folder)) if name in kept else soup,
                weight=share,
                temperature=temperatures[name],
            )
            for name, share in shares.items()
        ]
        said = ", ".join(f"{name if name == 'soup' else f'trial {name}'} {share:.0%}" for name, share in shares.items())
        why = "" if by is self.metric else f"{by.name} {number_text(chosen.metric)}, of the best model alone {number_text(before.metric)}; "
        return self._improved(artifact, f"ensemble of {said}: {why}", validation, members)

    # ------------------------------------------------------------------------------------------------------------ a refit

    def refit(self, artifact: Artifact) -> Artifact:
        """Trains the best configuration anew, on the training and validation rows together, for as many epochs as the trial had at its best.

        With folds, all networks learn from all rows.

        The learning rate follows the trial's schedule, stretched to the longer epochs, and stops where the trial's best epoch stopped.
        """
        config, epochs, train = self.first.config, self.first.result.epoch, open_cache(self.cache, "train")
        rows = train.without_folds() if config.data.num_folds else join_rows((train, self.valid))
        seconds = self.first.result.seconds * len(rows) / len(train)
        if epochs == 0:
            self.progress.say("refit: skipped, because the best epoch is 0, before any training", level=1)
            return artifact
        if self._late(seconds):
            return self._no_time(artifact, f"a refit, which would take about {seconds:.0f} s")
        (_, trained), (_, steps) = epoch_size(config.env, len(train)), epoch_size(config.env, len(rows))
        last_step = max(1, round(epochs * steps))
        scheduled = self.first.result.total_steps or most_steps(config.optim, trained)  # fewer if a time limit shortened the trial's schedule
        schedule = max(1, round(scheduled * steps / trained))
        limits = {"optim.patience": NEVER, "optim.max_steps": schedule}
        # the loop needs rows to validate; as these are also trained on, they can only show whether training diverges
        few = self.valid.head(config.env.batch_size)
        harmless = find_metric("log_loss" if self.problem.is_classification else "mse")  # these are defined on any rows
        device = pick_device(config.env)
        data = TrialData.of(resident(rows, device), few.to(device), self.problem, harmless)
        state = self.models.state(config, self.plan.seed, device)

        def should_stop(epoch: float, ahead: float) -> str | None:
            # ``ahead`` is ignored: the schedule is longer than the part that is trained here, for which there was time
            return "best epoch" if state.step >= last_step else "time limit" if self._late() else None

        with gpu_kernels(config.env, device):
            if self.plan.start is None and wants_probe(state.model, config.optim, len(train)):
                # the probe that the trial began with, fitted to its training rows
                probed = TrialData.of(resident(train, device), self._valid_there, self.problem, self.metric)
                start_from_probe(state, probed, config, self.cache, should_stop)
            state.is_unscored = False  # the probe's score is known from the trial
            *_, last = train_epochs(state, data, config.with_overrides(limits), self.plan.seed, should_stop)
        self.had_time = last.end != "time limit"
        if last.end in ("diverged", "time limit"):
            self.progress.say(f"the refit ended at epoch {last.epoch:g} of {epochs:g} ({last.end}); the best trial is the predictor", level=1)
            return artifact
        score = f"{self.metric.name} {number_text(self.first.result.metric)}"
        self.progress.say(f"refit: {epochs:g} epochs on all {len(rows):,} rows; none is left to validate it, {score} is the best trial's", level=1)
        refit = {"trial": self.first.trial, "epochs": last.epoch, "rows": len(rows), "validated": False}
        seen = np.union1d(artifact.seen, self.plan.data.digests(self.plan.data.valid))
        members = (Member(config, shared_copy(state.predictor.cpu())),)  # copied, because the copy is not compiled
        return replace(artifact, members=members, seen=seen).with_summary(refit=refit)

    # ------------------------------------------------------------------------------------------------ what is predicted from it

    def calibrate(self, artifact: Artifact) -> Artifact:
        """Calibrates the probabilities and chooses the decision threshold, by the validation rows; of a refit, by the best trial's predictions for them."""
        eval_metric = self.plan.data.eval_metric
        wanted = wants_temperature(self.problem, artifact.config.optim) or needs_threshold(eval_metric, self.problem)
        if not wanted or (artifact.validated is None and not self.first.folder.is_dir()):  # as in a copied folder, which has no weights of trials
            return artifact
        if artifact.validated is None and (found := self._validation(self.first)):
            artifact = replace(artifact, validated=validated_rows(self.plan, found.logits))
        saved = time.time() + len(artifact.members) * self.best.weights_bytes / BYTES_A_SECOND
        # it takes milliseconds and matters much, so it may use time that is reserved for saving the predictor
        if artifact.validated is None or (self.plan.deadline is not None and saved > self.plan.deadline):
            return self._no_time(artifact, "calibrating the probabilities")
        better = calibrated(artifact, self.metric, eval_metric)
        if (found := better.summary.get("calibration")) and better.temperature != artifact.temperature:
            after, before = number_text(found["val_log_loss"]), number_text(found["val_log_loss_before"])
            self.progress.say(f"probabilities softened, temperature {better.temperature:g}: log_loss {after}, before {before}")
        return better

    # ----------------------------------------------------------------------------------------------------------- in common

    @functools.cached_property
    def _other_trials(self) -> list[_Kept]:
        """The best epochs of the other trials whose weights are kept, best first."""
        kept = []
        for record in self.records.ranked():
            if record.best is not None and record.number != self.first.trial:
                folder = self.records.folder_of(record.number).checkpoint(record.best)
                kept += [_Kept(record.number, Config.from_flat(record.best_config), record.best, folder)] if folder.is_dir() else []
        return self._intact(kept)

    def _intact(self, kept: list[_Kept]) -> list[_Kept]:
        intact = []
        for epoch in kept:
            try:
                check_checkpoint(epoch.folder)
                intact.append(epoch)
            except CorruptFile as problem:
                self.progress.say(f"a checkpoint of trial {epoch.trial} is unusable and left out: {problem}", level=1)
        return intact

    def _build(self, config: Config) -> TableModel:
        return self.models.empty(config).to(pick_device(config.env)).to(memory_format=torch.channels_last)

    def _judge(self, logits: torch.Tensor, metric: Metric | None = None) -> Validation:
        return validate(metric or self.metric, self.problem, logits, self.valid.target.numpy())

    def _validate(self, model: TableModel, config: Config) -> Validation:
        started = time.time()
        found = self._judge(predict_logits(model, self._valid_there, config.env))
        self.validation_seconds = time.time() - started
        return found

    def _validation(self, epoch: _Kept) -> Validation | None:
        """Validates an epoch by the predictions that its trial stored, or predicts again if there are none; None if there is no time for that."""
        logits = load_predictions(epoch.folder)
        if logits is not None and logits.shape == (len(self.valid), self.problem.num_outputs):
            return self._judge(logits)
        if self._late(self.validation_seconds):
            return None
        model = self._build(epoch.config)
        load_weights(model, epoch.folder)
        return self._validate(model, epoch.config)

    def _late(self, ahead: float = 0.0) -> bool:
        return self.deadline is not None and time.time() + ahead > self.deadline

    def _no_time(self, artifact: Artifact, what: str) -> Artifact:
        self.had_time = False
        self.progress.say(f"no time is left for {what}; the predictor stays as it is", level=1)
        return artifact

    def _compared(self, validation: Validation) -> dict[str, float]:
        name = f"val_{self.metric.name}"
        return {name: validation.metric, f"{name}_of_best": self.first.result.metric}

    def _improved(self, artifact: Artifact, what: str, validation: Validation, members: list[Member]) -> Artifact:
        name, best = self.metric.name, self.first.result
        found, alone = number_text(validation.metric), number_text(best.metric)
        tie = " at a higher loss" if validation.metric == best.metric else ""
        self.progress.say(f"{what}{name} {found} on the validation rows, where the best trial alone has {alone}{tie}", level=1)
        validated = validated_rows(self.plan, validation.logits)
        better = replace(artifact, members=tuple(members), decision_threshold=validation.threshold, validated=validated)
        return better.with_summary(**self._values(validation))

    def _values(self, validation: Validation) -> dict[str, float]:
        return validation_summary(self.problem, self.metric, validation.metric, validation.loss)
