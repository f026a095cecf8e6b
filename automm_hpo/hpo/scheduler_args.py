"""The names and arguments of schedulers, and the searchers and spaces that they fit. All of it is checked before anything starts, without Ray.

All times are in epochs, however often validations take place.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import Field

from ..config import keys_marked
from ..errors import InvalidTuneSettings, Problems
from ..files import is_json
from ..sections import Expected, Flag, HyperField, Mark, NonNegativeFloat, Number, PositiveFloat, PositiveInt, Section, Share, fields_of
from ..space import Choice, SearchSpace

LIVE_KEYS = keys_marked(Mark.LIVE)
POPULATIONS = ("PBT", "PB2")
RESERVED = ("trial", "segment", "parent")  # keys that populations pass from trial to trial in addition to the hyperparameters
WAITING = ("HyperBand", "BOHB", *POPULATIONS)  # these pause trials until others have reached the same epoch


def canonical_scheduler(name: Any) -> Any:
    """The canonical name of a scheduler; anything else is returned as it is.

    >>> canonical_scheduler("async_hyperband"), canonical_scheduler("Median Stopping"), canonical_scheduler("ashaa")
    ('ASHA', 'median', 'ashaa')
    """
    return SCHEDULER_ALIASES.get("".join(name.lower().replace("_", " ").replace("-", " ").split()), name) if isinstance(name, str) else name


Epochs = Annotated[float, Number, Field(ge=1, allow_inf_nan=False), Expected("a number >= 1")]
Factor = Annotated[float, Number, Field(gt=1, allow_inf_nan=False), Expected("a number > 1")]
Percentage = Annotated[int, Number, Field(ge=1, le=99), Expected("an integer in [1, 99]")]
Quantile = Annotated[float, Number, Field(gt=0, le=0.5), Expected("a float in (0, 0.5]")]
Factors = Annotated[tuple[PositiveFloat, PositiveFloat], Expected("two finite floats > 0, like (0.8, 1.2)")]


class FifoArgs(Section):
    """Every trial runs to its end."""


class AshaArgs(Section):
    """Asynchronous successive halving; Ray's ASHAScheduler. Missing arguments are derived from the search."""

    max_t: Epochs
    """Epochs after which every trial ends; by default the most that optim.max_epochs can be."""
    grace_period: Epochs
    """Epochs that every trial gets; by default the square root of ``max_t``, and never less than the warm-up."""
    reduction_factor: Factor
    """One in this many trials passes each rung; 3 by default."""
    brackets: PositiveInt
    """Brackets, each with a longer grace period; 1 by default."""


class HyperBandArgs(Section):
    """HyperBand, and BOHB, which is the same with the searcher ``bohb``."""

    max_t: Epochs
    """Epochs after which every trial ends; by default the most that optim.max_epochs can be."""
    grace_period: Epochs
    """Epochs after which the earliest bracket may end trials; 1 by default, and never less than the warm-up."""
    reduction_factor: Factor
    """One in this many trials passes each rung; 3 by default."""


class PolicyArgs(Section):
    """Arguments common to HyperDrive's policies."""

    evaluation_interval: PositiveFloat
    """Epochs between two evaluations of a trial; 1 by default."""
    delay_evaluation: NonNegativeFloat
    """Epochs before the first evaluation, which is at the next multiple of the interval; by default the square root of the most that
    optim.max_epochs can be, and never less than the warm-up."""


class MedianArgs(PolicyArgs):
    """Ends a trial whose best score is below the median of all trials' running averages."""

    grace_period: NonNegativeFloat
    """Ray's name for ``delay_evaluation``."""
    min_samples_required: PositiveInt
    """Other trials that must have reached the same epoch before a trial is evaluated; 3 by default."""


class BanditArgs(PolicyArgs):
    """Ends a trial that is too far behind the best one. Takes exactly one of the two slacks."""

    slack_factor: NonNegativeFloat
    """How far a trial may be behind, as a ratio: with 0.2, trials with 0.8 / 1.2 or more continue if the best one has 0.8."""
    slack_amount: NonNegativeFloat
    """How far a trial may be behind, in units of the metric."""


class TruncationArgs(PolicyArgs):
    """Ends a given percentage of the trials, the worst ones, at each evaluation."""

    truncation_percentage: Percentage
    """Percentage of trials to end."""
    exclude_finished_jobs: Flag
    """Rank a trial only among those that are still running; False by default."""


class PopulationArgs(Section):
    """Population-based bandits; Ray's PB2."""

    perturbation_interval: PositiveFloat
    """Epochs between two exchanges; by default a fifth of the most that optim.max_epochs can be, and at least 1."""
    burn_in_period: NonNegativeFloat
    """Epochs before the first exchange; never less than the warm-up."""
    quantile_fraction: Quantile
    """Fraction of the population, the worst trials, that takes over the weights of an equal number of best ones; 0.25 by default."""


class PbtArgs(PopulationArgs):
    """Population-based training; Ray's PopulationBasedTraining."""

    resample_probability: Share
    """Probability that a hyperparameter is drawn anew from its space instead of perturbed; 0.25 by default."""
    perturbation_factors: Factors
    """Numbers are multiplied by one of them; choices move to a neighbour. (0.8, 1.2) by default."""


SECTIONS: dict[str, type[Section]] = {
    "FIFO": FifoArgs,
    "ASHA": AshaArgs,
    "HyperBand": HyperBandArgs,
    "BOHB": HyperBandArgs,
    "median": MedianArgs,
    "PBT": PbtArgs,
    "PB2": PopulationArgs,
    "bandit": BanditArgs,
    "truncation": TruncationArgs,
}

# names of Ray, HyperDrive and AutoMM; case, underscores, hyphens and blanks are ignored
SCHEDULER_ALIASES = {
    "none": "FIFO",
    "noterminationpolicy": "FIFO",
    "fifoscheduler": "FIFO",
    "ashascheduler": "ASHA",
    "asynchyperband": "ASHA",
    "asynchyperbandscheduler": "ASHA",
    "hyperbandscheduler": "HyperBand",
    "hbbohb": "BOHB",
    "hyperbandforbohb": "BOHB",
    "medianstopping": "median",
    "medianstoppingrule": "median",
    "medianstoppingpolicy": "median",
    "populationbasedtraining": "PBT",
    "populationbasedbandits": "PB2",
    "banditpolicy": "bandit",
    "truncationselection": "truncation",
    "truncationselectionpolicy": "truncation",
} | {name.lower(): name for name in SECTIONS}

SCHEDULER_ARGS: dict[str, dict[str, HyperField]] = {name: fields_of(section, "scheduler_init_args.") for name, section in SECTIONS.items()}


def check_scheduler_args(name: str, args: Mapping[str, Any], problems: Problems) -> None:
    """Checks whether a scheduler's arguments, each valid by itself, fit together.

    Args:
        name: canonical.
        args: by their bare names.
        problems: takes the errors.
    """

    def add(words: str) -> None:
        problems.add(InvalidTuneSettings(f"scheduler_init_args: {words}"))

    if args.get("max_t", math.inf) < args.get("grace_period", 0):
        add(f"expected grace_period <= max_t, got grace_period={args['grace_period']:g}, max_t={args['max_t']:g}")
    if name == "bandit" and len(args.keys() & {"slack_factor", "slack_amount"}) != 1:
        got = "both" if "slack_factor" in args else "neither"
        add(f"bandit takes either slack_factor (a ratio, like 0.1) or slack_amount (in units of the metric), got {got}")
    if name == "truncation" and "truncation_percentage" not in args:
        add("truncation needs truncation_percentage, an integer in [1, 99]")
    if name == "median" and {"delay_evaluation", "grace_period"} <= args.keys():
        add("delay_evaluation and grace_period are the same: give one of them")


def check_scheduler(name: str, searcher: str, space: SearchSpace, live: Collection[str] = LIVE_KEYS) -> None:
    """Checks whether a scheduler fits the searcher and the search space.

    Args:
        name: canonical, or the user's object.
        searcher: canonical, or the user's object.
        live: the hyperparameters that may change while a model trains.

    Raises:
        InvalidTuneSettings, InvalidInput: all problems together.
    """
    problems = Problems()
    if name == "BOHB" and searcher != "bohb":
        problems.add(InvalidTuneSettings(f"scheduler: BOHB needs searcher='bohb', got {searcher!r}; with any other searcher take scheduler='HyperBand'"))
    if searcher == "bohb" and name != "BOHB":
        problems.add(InvalidTuneSettings(f"searcher: bohb needs scheduler='BOHB', which tells it of scores at each budget; got scheduler={name!r}"))
    if searcher == "zoopt" and name in WAITING:
        words = f"zoopt waits for its first trials to end, but {name} pauses them until more trials start"
        problems.add(InvalidTuneSettings(f"searcher: {words}; take another searcher, or scheduler='ASHA'"))
    if name in POPULATIONS:
        fixed = [key for key in space if key not in live]
        changed = {key: domain for key, domain in space.items() if key in live}
        if fixed:
            words = f"scheduler: {name} changes the tuned hyperparameters while a model trains, and cannot change {', '.join(fixed)}. "
            can = f"It can change {', '.join(live)}" if live else "It can change those of a function or class that saves checkpoints, and this one yields"
            problems.add(InvalidTuneSettings(f"{words}{can}; fix the others, or take another scheduler"))
        if reserved := [key for key in space if key in RESERVED]:
            problems.add(InvalidTuneSettings(f"scheduler: {name} reserves the name {' and '.join(reserved)}; rename the hyperparameter"))
        for key, domain in changed.items():
            if not hasattr(domain, "finish"):
                problems.add(InvalidTuneSettings(f"scheduler: {name} takes ranges and choices, and {key} is neither"))
            elif isinstance(domain, Choice) and not all(map(is_json, domain.options)):
                problems.add(InvalidTuneSettings(f"scheduler: {name} stores changed values as JSON, but options of {key} are not numbers, strings or lists"))
            elif name == "PB2" and isinstance(domain, Choice):
                problems.add(InvalidTuneSettings(f"scheduler: PB2 takes ranges, and {key} is a choice; give a range, or take scheduler='PBT'"))
    problems.raise_any()
