"""What schedulers are called and take, and what they go together with; checked before anything starts, without Ray.

All times are in epochs, also where validations are more or less frequent than one an epoch.
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
RESERVED = ("trial", "segment", "parent")  # beside the hyperparameters that these hand from trial to trial
WAITING = ("HyperBand", "BOHB", *POPULATIONS)  # these pause trials until others have come as far


def canonical_scheduler(name: Any) -> Any:
    """The one name of a scheduler; what is none is returned as it is.

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
    """Asynchronous successive halving; Ray's ASHAScheduler. What is absent follows from the search."""

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
    """Epochs after which the most eager bracket may judge; 1 by default, and never less than the warm-up."""
    reduction_factor: Factor
    """One in this many trials passes each rung; 3 by default."""


class PolicyArgs(Section):
    """Common to HyperDrive's policies."""

    evaluation_interval: PositiveFloat
    """Epochs between two looks at a trial; 1 by default."""
    delay_evaluation: NonNegativeFloat
    """Epochs before the first look, which is at the next multiple of the interval; by default the square root of the most that
    optim.max_epochs can be, and never less than the warm-up."""


class MedianArgs(PolicyArgs):
    """Ends a trial whose best score is below the median of all trials' running averages."""

    grace_period: NonNegativeFloat
    """Ray's name for ``delay_evaluation``."""
    min_samples_required: PositiveInt
    """Other trials that must have come as far before any is judged; 3 by default."""


class BanditArgs(PolicyArgs):
    """Ends a trial that is too far behind the best one. One of the two slacks is needed."""

    slack_factor: NonNegativeFloat
    """How far a trial may be behind, as a ratio: 0.2 lets those go on that have 0.8 / 1.2 where the best has 0.8."""
    slack_amount: NonNegativeFloat
    """How far a trial may be behind, in units of the metric."""


class TruncationArgs(PolicyArgs):
    """Ends the lowest few of a hundred trials at each look."""

    truncation_percentage: Percentage
    """How many of a hundred."""
    exclude_finished_jobs: Flag
    """Rank a trial only among those that still run; False by default."""


class PopulationArgs(Section):
    """Population-based bandits; Ray's PB2."""

    perturbation_interval: PositiveFloat
    """Epochs between two exchanges; by default a fifth of the most that optim.max_epochs can be, and at least 1."""
    burn_in_period: NonNegativeFloat
    """Epochs before the first exchange; never less than the warm-up."""
    quantile_fraction: Quantile
    """The lowest such part of the population takes over the weights of the highest such part; 0.25 by default."""


class PbtArgs(PopulationArgs):
    """Population-based training; Ray's PopulationBasedTraining."""

    resample_probability: Share
    """How likely a hyperparameter is drawn anew from its space, not perturbed; 0.25 by default."""
    perturbation_factors: Factors
    """One of them multiplies a number; a choice moves to a neighbour. (0.8, 1.2) by default."""


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

# as Ray, HyperDrive and AutoMM write them; case, underscores, hyphens and blanks do not count
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
    """What is wrong between arguments of a scheduler that are right one by one.

    Args:
        name: canonical.
        args: by their bare names, each checked.
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
    """Whether a scheduler goes together with the searcher and the search space.

    Args:
        name: canonical.
        searcher: canonical too; anything else where it is an object of the user's.
        live: the hyperparameters that may change on a trained state.

    Raises:
        InvalidTuneSettings, InvalidInput: all problems together.
    """
    problems = Problems()
    if name == "BOHB" and searcher != "bohb":
        problems.add(InvalidTuneSettings(f"scheduler: BOHB needs searcher='bohb', got {searcher!r}; with any other searcher take scheduler='HyperBand'"))
    if searcher == "bohb" and name != "BOHB":
        problems.add(InvalidTuneSettings(f"searcher: bohb needs scheduler='BOHB', which tells it of scores at each budget; got scheduler={name!r}"))
    if searcher == "zoopt" and name in WAITING:
        words = f"zoopt proposes nothing more until its first trials have ended, and those of {name} wait for others"
        problems.add(InvalidTuneSettings(f"searcher: {words}; take another searcher, or scheduler='ASHA'"))
    if name in POPULATIONS:
        fixed = [key for key in space if key not in live]
        changed = {key: domain for key, domain in space.items() if key in live}
        if fixed:
            words = f"scheduler: {name} changes the tuned hyperparameters while a model trains, and cannot change {', '.join(fixed)}. "
            can = f"It can change {', '.join(live)}" if live else "It can change those of a Trainable class only, which saves and loads its state"
            problems.add(InvalidTuneSettings(f"{words}{can}; fix the others, or take another scheduler"))
        if reserved := [key for key in space if key in RESERVED]:
            problems.add(InvalidTuneSettings(f"scheduler: {name} calls something of its own {' and '.join(reserved)}; give the hyperparameter another name"))
        for key, domain in changed.items():
            if not hasattr(domain, "finish"):
                problems.add(InvalidTuneSettings(f"scheduler: {name} takes ranges and choices, and {key} is neither"))
            elif isinstance(domain, Choice) and not all(map(is_json, domain.options)):
                problems.add(InvalidTuneSettings(f"scheduler: {name} writes down what it changes, and options of {key} are no numbers, strings or lists"))
            elif name == "PB2" and isinstance(domain, Choice):
                problems.add(InvalidTuneSettings(f"scheduler: PB2 takes ranges, and {key} is a choice; give a range, or take scheduler='PBT'"))
    problems.raise_any()
