"""Schedulers by name. They end weak trials early, or let them continue from the state of strong ones. Times are in epochs.

To add one: a function ``plan -> TrialScheduler`` and an entry in ``SCHEDULERS``, and its arguments in ``hpo/scheduler_args.py``.

What they compare: ASHA, HyperBand and BOHB compare the best score so far, which is what a trial would contribute if it ended there.
Bandit and truncation compare it with the best scores of the other trials up to the same epoch, median with averages of the scores of
single epochs. PBT and PB2 compare the scores of the epoch itself, because they copy the current weights.

A resumed search reports its recorded rows again, marked ``replayed``. Every scheduler learns from them, and stops no trial at a row after
which it went on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import FIFOScheduler, HyperBandScheduler, TrialScheduler

from ...space import SearchSpace
from ..settings import TuneSettings
from .given import check_given_scheduler, wrap_given_scheduler
from .halving import ASHA, BOHB, HyperBand
from .plan import SchedulerPlan
from .policies import Bandit, Median, Policy, Truncation
from .population import PBT

__all__ = ["SCHEDULERS", "build_scheduler", "check_given_scheduler"]


def build_scheduler(settings: TuneSettings, space: SearchSpace, max_epochs: float, warmup_epochs: float, seed: int) -> TrialScheduler:
    """The scheduler of a search; a new one for each session.

    Args:
        max_epochs: the most epochs that a trial of the space can have.
        warmup_epochs: epochs in which no trial is judged.
    """
    if type(settings.scheduler) is HyperBandScheduler:  # Ray's ends no trial early when trials are proposed one by one, as they are here
        return HyperBand(settings.scheduler._max_t_attr, max(1, warmup_epochs), settings.scheduler._eta)
    if not isinstance(settings.scheduler, str):
        return wrap_given_scheduler(settings.scheduler)
    return SCHEDULERS[settings.scheduler](SchedulerPlan(settings.scheduler_init_args, max_epochs, warmup_epochs, space, seed))


def _fifo(plan: SchedulerPlan) -> TrialScheduler:
    return FIFOScheduler()


def _asha(plan: SchedulerPlan) -> TrialScheduler:
    grace_period = min(plan.max_t, plan.grace("grace_period"))
    arguments = {"reduction_factor": 3} | dict(plan.args) | {"max_t": plan.max_t, "grace_period": grace_period}
    return ASHA(plan.seed, is_open_ended="max_t" not in plan.args, **arguments)  # only the user's own max_t ends trials


def _halving(kind: type[HyperBand]) -> Callable[[SchedulerPlan], TrialScheduler]:
    def build(plan: SchedulerPlan) -> TrialScheduler:
        # a grace period of 1 suffices: the less eager brackets protect against misleading early scores
        return kind(plan.max_t, max(plan.args.get("grace_period", 1), plan.warmup_epochs), plan.args.get("reduction_factor", 3))

    return build


def _policy(kind: type[Policy], *delays: str, **defaults: object) -> Callable[[SchedulerPlan], TrialScheduler]:
    def build(plan: SchedulerPlan) -> TrialScheduler:
        own = {name: value for name, value in plan.args.items() if name not in delays}
        return kind(**{"evaluation_interval": 1.0, **defaults, **own, "delay_evaluation": plan.grace(*delays)})

    return build


def _exchange(plan: SchedulerPlan) -> dict[str, Any]:
    """Common arguments of PBT and PB2."""
    return {
        "perturbation_interval": plan.perturbation_interval,
        "burn_in_period": plan.burn_in_period,
        "quantile_fraction": plan.args.get("quantile_fraction", 0.25),
    }


def _pbt(plan: SchedulerPlan) -> TrialScheduler:
    explore = {name: plan.args.get(name, default) for name, default in (("resample_probability", 0.25), ("perturbation_factors", (0.8, 1.2)))}
    return PBT(plan.space, plan.seed, **_exchange(plan), **explore)


def _pb2(plan: SchedulerPlan) -> TrialScheduler:
    from .population_bandits import PB2

    return PB2(plan.space, plan.seed, **_exchange(plan))


SCHEDULERS: dict[str, Callable[[SchedulerPlan], TrialScheduler]] = {
    "FIFO": _fifo,
    "ASHA": _asha,
    "HyperBand": _halving(HyperBand),
    "BOHB": _halving(BOHB),
    "median": _policy(Median, "delay_evaluation", "grace_period", min_samples_required=3),
    "PBT": _pbt,
    "PB2": _pb2,
    "bandit": _policy(Bandit, "delay_evaluation"),
    "truncation": _policy(Truncation, "delay_evaluation"),
}
