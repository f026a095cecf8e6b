"""What a search must not be: checked once the data are known, before anything is started. All problems of a check are raised together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .data.features import Features
from .errors import InvalidHyperparameter, InvalidTuneSettings, NotSupported, Problems
from .hpo.cluster import known_resources
from .hpo.job import check_scheduled_by
from .hpo.ray_space import candidate_configs, values_of
from .hpo.scheduler_args import WAITING
from .hpo.settings import TuneSettings, local_resources
from .hpo.trial import NUM_STATES
from .metrics import Metric
from .models import MODEL_KEYS, check_model, used_groups
from .plan import FitPlan, SearchPlan
from .problem import Problem
from .space import tuned_keys
from .training.losses import losses_for


def check_same_metric(metric: Metric) -> None:
    """Refuses to go on by a metric that is known by name only.

    Raises:
        NotSupported: nobody can tell whether a search was begun with this very metric.
    """
    if metric.is_object:
        raise NotSupported(f"resume: the metric {metric.name} is a scorer object, of which only the name is known; a search with it begins in a new save_path")


def check_models(search: SearchPlan, features: Features) -> None:
    """Refuses models that could not be built, or not fed with these columns.

    Raises:
        AutoMMHPOError: a trial's models do not suit the columns; all problems together.
    """
    problems = Problems()
    for config in candidate_configs(search.config, search.space, MODEL_KEYS):
        with problems.gather():
            check_model(config, features)
    problems.raise_any()


def check_training(search: SearchPlan, problem: Problem, features: Features) -> None:
    """Refuses ways of training that these data do not allow.

    Raises:
        InvalidHyperparameter: a loss, class weights or mixup that do not suit the problem or the columns; all problems together.
    """
    problems = Problems()
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


# how keys begin that change nothing under other values of another key -> that key, whether a value of it serves, what is said where none does
IDLE: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "optim.momentum": ("optim.optim_type", lambda name: name == "sgd", "only sgd has it"),
    "optim.beta2": ("optim.optim_type", lambda name: name != "sgd", "sgd has none"),
    "optim.lr_mult": ("optim.lr_choice", lambda choice: choice != "", "optim.lr_choice is ''"),
    "optim.lr_decay": ("optim.lr_choice", lambda choice: choice == "layerwise_decay", "optim.lr_choice is not 'layerwise_decay'"),
    "optim.lora.": ("optim.peft", lambda peft: peft == "lora", "optim.peft is None"),
    "optim.focal_loss.": ("optim.loss_func", lambda loss: loss == "focal_loss", "optim.loss_func is another"),
    "data.mixup.": ("data.mixup.turn_on", bool, "data.mixup.turn_on is False"),
}


def idle_keys(search: SearchPlan, features: Features) -> dict[str, str]:
    """Hyperparameters that are searched and change nothing in any trial -> why; those that a preset added are not the user's affair."""
    used = used_groups(candidate_configs(search.config, search.space, MODEL_KEYS), features)
    found: dict[str, str] = {}
    for key in tuned_keys(search.space):
        group = key.split(".")[1]
        if key in search.added:
            continue
        if key.startswith("model.") and group not in ("names", *used):
            found[key] = f"{group} is not used"
        for begins, (decides, serves, why) in IDLE.items():
            if key.startswith(begins) and key != decides and not any(map(serves, values_of(decides, search.config, search.space))):
                found[key] = why
    return found


def check_goal(settings: TuneSettings, metric: Metric) -> None:
    """Refuses a search that would go the wrong way.

    Raises:
        InvalidTuneSettings: ``mode`` is not the metric's own.
        NotSupported, InvalidTuneSettings: a scheduler of the user's that cannot serve a search by this metric.
    """
    check_scheduled_by(settings, metric.name, metric.mode)
    if settings.mode not in (None, metric.mode):
        better = "more" if metric.higher_is_better else "less"
        raise InvalidTuneSettings(f"hyperparameter_tune_kwargs: mode={settings.mode!r}, but of {metric.name} {better} is better: {metric.mode!r}")


def num_parallel(search: SearchPlan) -> int:
    """Trials at a time: on the Ray that runs, else on this machine."""
    if not search.space:
        return 1
    env = search.config.env
    return search.settings.num_parallel(known_resources(env.num_gpus) or local_resources(), search.num_trials, env.allows_gpu)


def peak_bytes(settings: TuneSettings, slots: int, weights: int, averaged: bool, ensemble_size: int) -> int:
    """The most that checkpoints can take at a time.

    Args:
        slots: trials at a time.
        weights: bytes of one set of weights; the state of an optimizer (AdamW's two moments) takes twice as many at most.
        averaged: a running average is what is kept, and the weights that learn are part of the state.
    """
    state = (3 if averaged else 2) * weights
    kept_live = slots if settings.scheduler not in WAITING else settings.num_trials or slots  # paused trials keep their state too
    running = kept_live * ((settings.num_to_keep + NUM_STATES) * weights + NUM_STATES * state)
    ended = settings.num_kept(ensemble_size) + settings.num_to_keep  # the best one keeps several epochs, for their average
    return running + ended * weights


def is_averaged(search: SearchPlan) -> bool:
    """Whether a trial may keep a running average of its weights."""
    return any(values_of("optim.ema_decay", search.config, search.space))


def check_quota(plan: FitPlan) -> None:
    """Refuses a search that could need more room for checkpoints than it is allowed.

    Raises:
        InvalidTuneSettings: the checkpoints could come to more than ``disk_quota_mb``.
    """
    search, quota = plan.search, plan.search.settings.disk_quota_mb
    if quota is None:
        return
    models = [plan.models.empty(config) for config in candidate_configs(search.config, search.space, MODEL_KEYS)]
    weights = max(sum(tensor.nbytes for tensor in model.state_dict().values()) for model in models)
    peak = peak_bytes(search.settings, num_parallel(search), weights, is_averaged(search), plan.ensemble_size) / 1e6
    if peak > quota:
        raise InvalidTuneSettings(
            f"disk_quota_mb: {quota:g} MB are allowed, and the checkpoints can come to {peak:.0f} MB ({num_parallel(search)} trials at a time, "
            f"{weights / 1e6:.1f} MB a set of weights); lower max_concurrent_trials, num_to_keep or keep_trials"
        )
