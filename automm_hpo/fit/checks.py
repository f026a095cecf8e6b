"""Checks of a search before anything is started, most of them once the data are known. Each check raises all its problems together."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

from ..arguments import check_flag, check_number
from ..config import FIELDS
from ..data.features import Features
from ..errors import InvalidArgument, InvalidHyperparameter, InvalidTuneSettings, NotSupported, Problems
from ..hpo.hyperparameter_space import candidate_configs, values_of
from ..hpo.job import check_scheduled_by
from ..hpo.settings import TuneSettings
from ..metrics import Metric
from ..models import MODEL_KEYS, check_model, has_say, is_pretrained, used_groups
from ..problem import Problem
from ..space import tuned_keys
from ..training.losses import losses_for
from .plan import SearchPlan


def check_same_metric(metric: Metric) -> None:
    """Refuses to resume a search by a scorer object that cannot be recognised as the one that the search was begun with.

    Raises:
        NotSupported
    """
    if metric.is_object and not metric.scorer_digest:
        why = "is a scorer object whose function is a closure, a partial or an object, so nothing tells whether it is the one of before"
        raise NotSupported(f"resume: the metric {metric.name} {why}; use a new save_path, or make_scorer of a plain function")


def check_models(search: SearchPlan, features: Features) -> None:
    """Refuses models that cannot be built, or that cannot read these columns.

    Raises:
        AutoMMHPOError: models of a trial do not suit the columns; all problems together.
    """
    problems = Problems()
    for config in candidate_configs(search.config, search.space, MODEL_KEYS):
        with problems.gather():
            check_model(config, features)
    problems.raise_any()


def check_training(search: SearchPlan, problem: Problem, features: Features) -> None:
    """Refuses ways of training that these data do not allow.

    Raises:
        InvalidHyperparameter: a loss, class weights, mixup or a batch size does not suit the problem, the columns or the model; all problems together.
    """
    problems = Problems()
    used = used_groups(candidate_configs(search.config, search.space, MODEL_KEYS), features)
    for key in (f"model.{name}.normalization" for name in sorted(used)):
        if key in FIELDS and "batch_norm" in values_of(key, search.config, search.space) and 1 in values_of("env.batch_size", search.config, search.space):
            problems.add(InvalidHyperparameter(f"env.batch_size: {key}='batch_norm' needs at least 2 rows, got 1; increase it, or use 'layer_norm'"))
    if (num_folds := search.config.data.num_folds) and used != {"real_mlp"}:
        why = f"folds need real_mlp as the only model, here are {', '.join(sorted(used))}"
        problems.add(InvalidHyperparameter(f"data.num_folds: expected 0, got {num_folds}: {why}"))
    for config in candidate_configs(search.config, search.space, ("optim.class_weights", "optim.loss_func", "data.mixup.turn_on")):
        given, losses, mixup = config.optim.class_weights, losses_for(problem), config.data.mixup
        if config.optim.loss_func not in ("auto", *losses):
            problems.add(
                InvalidHyperparameter(f"optim.loss_func: expected auto, {', '.join(losses)} for a {problem.problem_type} problem, got {config.optim.loss_func}")
            )
        if given is not None and not problem.is_classification:
            problems.add(
                InvalidHyperparameter(f"optim.class_weights: expected None, got {given!r}: a regression has no classes; weigh rows with sample_weight")
            )
        elif isinstance(given, tuple) and len(given) != problem.num_outputs:
            classes = ", ".join(map(repr, problem.class_labels[:10])) + (", ..." if problem.num_outputs > 10 else "")
            expected = f"one for each of the {problem.num_outputs} classes {classes}"
            problems.add(InvalidHyperparameter(f"optim.class_weights: expected {expected}, got {len(given)}"))
        if mixup.turn_on and (not problem.is_classification or features != Features(num_images=1)):
            problems.add(
                InvalidHyperparameter("data.mixup.turn_on: mixup is for classes, and for tables of one image column and nothing else; set it to False")
            )
        if mixup.turn_on and not mixup.mixup_alpha and not mixup.cutmix_alpha:
            problems.add(InvalidHyperparameter("data.mixup.turn_on: mixup_alpha and cutmix_alpha are both 0, and nothing would be mixed"))
    problems.raise_any()


# key prefix -> (the key it depends on, predicate for the values that make it take effect, explanation if no searched value does)
IDLE: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "optim.momentum": ("optim.optim_type", lambda name: name == "sgd", "only sgd has it"),
    "optim.beta2": ("optim.optim_type", lambda name: name != "sgd", "sgd has none"),
    "optim.lr_mult": ("optim.lr_choice", lambda choice: choice != "", "optim.lr_choice is ''"),
    "optim.lr_decay": ("optim.lr_choice", lambda choice: choice == "layerwise_decay", "optim.lr_choice is not 'layerwise_decay'"),
    "optim.gradient_clip_algorithm": ("optim.gradient_clip_val", bool, "optim.gradient_clip_val is 0"),
    "optim.lora.": ("optim.peft", lambda peft: (peft or "").startswith("lora"), "optim.peft adds none"),
    "optim.end_lr": ("optim.lr_schedule", lambda schedule: schedule != "constant", "optim.lr_schedule is 'constant'"),
    "optim.focal_loss.": ("optim.loss_func", lambda loss: loss == "focal_loss", "optim.loss_func is another"),
    "data.mixup.": ("data.mixup.turn_on", bool, "data.mixup.turn_on is False"),
}


def idle_keys(search: SearchPlan, problem: Problem, features: Features) -> dict[str, str]:
    """Searched hyperparameters that have no effect in any trial -> why. Those that a preset added are left out, since the user did not ask for them."""
    configs = candidate_configs(search.config, search.space, MODEL_KEYS)
    used = used_groups(configs, features)
    everywhere: dict[str, str] = {}
    if not problem.is_classification:
        everywhere["optim.label_smoothing"] = "a regression has no classes"
    if not any(is_pretrained(config, features) for config in configs):
        everywhere |= dict.fromkeys(("optim.linear_probe", "optim.lr_decay"), "no network begins from pretrained weights")
    found: dict[str, str] = {}
    for key in tuned_keys(search.space):
        if key in search.added:
            continue
        if key in everywhere:
            found[key] = everywhere[key]
        if not has_say(key, used):
            found[key] = f"{key.split('.')[1]} is not used"
        for begins, (decides, serves, why) in IDLE.items():
            if key.startswith(begins) and key != decides and not any(map(serves, values_of(decides, search.config, search.space))):
                found[key] = why
    return found


def check_goal(settings: TuneSettings, metric: Metric) -> None:
    """Refuses a search that would optimise in the wrong direction.

    Raises:
        InvalidTuneSettings: ``mode`` is not the metric's own.
        NotSupported, InvalidTuneSettings: a scheduler object that cannot work with this metric.
    """
    check_scheduled_by(settings, metric.name, metric.mode)
    if settings.mode not in (None, metric.mode):
        better = "higher" if metric.higher_is_better else "lower"
        raise InvalidTuneSettings(f"hyperparameter_tune_kwargs: mode={settings.mode!r}, but {better} {metric.name} is better: {metric.mode!r}")


def check_finishing(ensemble_size: int | None, refit: bool) -> None:
    """Refuses invalid values of these two arguments of ``fit``, and their combination.

    Raises:
        InvalidArgument, InvalidInput
    """
    problems = Problems()
    with problems.gather():
        check_flag(refit, "refit")
    if ensemble_size is not None:
        with problems.gather():
            check_number(ensemble_size, "ensemble_size", Integral, "an integer >= 1, or None", lambda size: size >= 1)
            if ensemble_size > 1 and refit is True:
                raise InvalidArgument(f"refit=True, ensemble_size={ensemble_size}: cannot be combined: a refit leaves no rows to weight an ensemble by")
    problems.raise_any()


def check_ensemble(ensemble_size: int | None, search: SearchPlan) -> None:
    """Refuses an ensemble that this search cannot provide. Values that are not numbers are left to ``check_finishing``.

    Raises:
        InvalidArgument: there is no search space, or too few trials keep their weights.
    """
    if not isinstance(ensemble_size, Integral) or ensemble_size <= 1:
        return
    if not search.space:
        raise InvalidArgument(f"ensemble_size: {ensemble_size} models are asked for, and without a search space there is one trial; give a tune.* space, or 1")
    keep = search.settings.keep_trials
    if keep is not None and keep < ensemble_size:
        raise InvalidArgument(f"ensemble_size: {ensemble_size} models are asked for, and only {keep} trials keep their weights; raise keep_trials")
