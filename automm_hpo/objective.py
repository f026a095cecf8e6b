"""``tune_objective``: the search for a function of the user's own, by the same engine as ``fit``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import check_number, check_tracking, checked_numbers, plan_path
from .errors import InvalidArgument, InvalidTuneSettings, Problems
from .hpo.cluster import Cluster, known_resources, set_ray_environment
from .hpo.identity import SearchIdentity, check_same_search, read_identity
from .hpo.job import SearchJob, check_resumable, check_scheduled_by, first_points, limits_of, resolve_settings, search_line
from .hpo.objective_space import objective_point_to_raw, split_objective_space
from .hpo.objective_trial import Objective, check_objective, function_of, sent_by_value
from .hpo.records import COMPLETED, STOPPED, SearchRecords, TrialRecord
from .hpo.settings import TuneSettings, canonical_mode, check_resources, parse_tune_settings
from .hpo.warm_start import WarmStart, read_warm_start
from .metrics import Metric, searched_metric
from .results import SearchResults
from .sections import unwrapped
from .session import Session, trials_deadline
from .space import RawProposal, SearchSpace, describe_space
from .space.kinds import text_of

# schedulers that look at no trial for a while -> the arguments that say for how long
FIRST_LOOKS = {"ASHA": ("grace_period",), "median": ("delay_evaluation", "grace_period"), "bandit": ("delay_evaluation",), "truncation": ("delay_evaluation",)}
MOST_REPORTS = 100  # that schedulers plan with where nobody has said how many there are


def tune_objective(
    objective: Callable[[dict[str, Any]], Any],
    space: Mapping[str, Any],
    hyperparameter_tune_kwargs: Mapping[str, Any] | str = "auto",
    metric: str | None = None,
    mode: str | None = None,
    *,
    max_epochs: int | None = None,
    time_limit: float | None = None,
    save_path: str | Path | None = None,
    seed: int = 0,
    resume: bool | str = "auto",
    tracking: str | None = "mlflow",
    verbosity: int = 2,
) -> SearchResults:
    """Searches the config with which an objective does best.

    Args:
        objective: called with a config, a dict with the space's names. It returns the metric, or a dict of metrics; or it yields a dict
            once an epoch, or calls ``ray.tune.report`` with one, so that schedulers can stop it early; or it is a ``ray.tune.Trainable`` class,
            whose ``step`` does the same. ``save_checkpoint`` and ``load_checkpoint`` (with files, or a dict that JSON can hold), or
            ``report(metrics, checkpoint=...)`` and ``ray.tune.get_checkpoint()``, let it go on where it was. It is sent to the trials'
            processes by value. Trials run side by side in the caller's current folder: what one writes belongs in its own, which is kept,
            ``ray.tune.get_context().get_trial_dir()``. A reported ``done=True`` ends the trial, and so does nan or an infinite value of the metric; other
            values that are no numbers are left out. A number or a dict with the metric that a generator returns is its last report. What it prints is
            shown with the name of its process.
        space: name -> value or search space; nested dicts are welcome. Values alone are tried as often as ``num_trials`` says.
        hyperparameter_tune_kwargs: as for ``MultiModalPredictor.fit``.
        metric: the name of the value that is searched by; an objective that returns a bare number need not name it.
        mode: ``max`` or ``min``; it must be given, here or in ``hyperparameter_tune_kwargs``.
        max_epochs: reports after which a trial is ended, where it is, so that what follows its last report is not run (but for ``finally``);
            what ASHA and the other schedulers plan with. A Trainable needs it. Without it they plan with 100, at which HyperBand and BOHB end trials.
        time_limit: seconds from this call to its return.
        save_path: new or empty folder, or that of an earlier call with these arguments, which then goes on; None makes one.
        seed: of the searcher.
        tracking: ``mlflow``, whose run of the trial is the active one while the objective runs, or None.
        verbosity: 0 is silent, 1 prints the summary, 2 and more also the course of the search and what the objective prints.

    Returns:
        The trials: ``best``, ``leaderboard()``, ``curves()``, pictures.

    Raises:
        InvalidInput: everything wrong with the call, listed together, before anything is started.
        AllTrialsFailed: no trial ended with a finite metric.
    """
    called, problems = time.time(), Problems()
    numbers = checked_numbers(problems, seed, time_limit=time_limit)
    settings, folder, resuming = TuneSettings(), Path(), False
    fixed: dict[str, Any] = {}
    spaces: dict[str, Any] = {}
    points: list[RawProposal] = []
    with problems.gather():
        check_tracking(tracking)
    with problems.gather():
        check_number(verbosity, "verbosity", Integral, "an integer >= 0", lambda level: level >= 0)
    with problems.gather():
        if max_epochs is not None:
            check_number(max_epochs, "max_epochs", Integral, "an integer >= 1, or None", lambda epochs: epochs >= 1)
    with problems.gather():
        check_objective(objective, max_epochs)
    with problems.gather():
        folder, resuming = plan_path(save_path, resume)
    found_before = len(problems.found)
    with problems.gather():
        settings = parse_tune_settings(hyperparameter_tune_kwargs)
    are_settings_right = len(problems.found) == found_before  # else what they say of the metric is not known
    with problems.gather():
        if settings.disk_quota_mb is not None:
            problems.add(InvalidTuneSettings("disk_quota_mb: how large the checkpoints of an objective become is not known beforehand; leave it out"))
        if (there := known_resources()) is not None:
            check_resources(settings, there)
        fixed, spaces = split_objective_space(space)
        if not spaces and settings.num_trials is None:
            listed = next(((name, list(value)) for name, value in fixed.items() if isinstance(value, (list, tuple, np.ndarray)) and len(value) > 1), None)
            hint = f". To search among the values of {listed[0]!r}: tune.choice({[unwrapped(value) for value in listed[1]]!r})" if listed else ""
            again = "; num_trials says how often to try these, 1 or more"
            raise InvalidTuneSettings(f"space: has no search space, only fixed values; nothing is to be searched{hint}{again}")
        # a Trainable may be given new values at each takeover; a function begins and ends with one config
        settings = resolve_settings(settings, spaces, live=tuple(spaces) if isinstance(objective, type) else ())
        points = first_points(settings, spaces, to_raw=objective_point_to_raw)
    with problems.gather():
        if are_settings_right:
            searched = _metric(metric, mode, settings)
            check_scheduled_by(settings, searched.name, searched.mode)
            warm_start = read_warm_start(settings, spaces, fixed, searched, resuming)
    problems.raise_any()

    deadline = None if time_limit is None else called + float(time_limit)
    plan = ObjectivePlan(
        objective, fixed, spaces, settings, searched, max_epochs, numbers["seed"], folder, resuming, warm_start.before(points), warm_start, deadline
    )
    return run_objective(plan, tracking, verbosity)


@dataclass(frozen=True)
class ObjectivePlan:
    """A call of ``tune_objective`` as it will be carried out; nothing is written or started yet.

    Attributes:
        fixed, space: the names that the objective is called with, those that have a value and those that are searched.
        path, resuming: the folder, and whether it holds this search already.
        first_points: raw proposals to try before the searcher's own.
        deadline: time.time() at which the call must return; None: no limit.
    """

    objective: Callable[[dict[str, Any]], Any]
    fixed: Mapping[str, Any]
    space: SearchSpace
    settings: TuneSettings
    metric: Metric
    max_epochs: int | None
    seed: int
    path: Path
    resuming: bool
    first_points: tuple[RawProposal, ...]
    warm_start: WarmStart
    deadline: float | None

    @property
    def num_trials(self) -> int:
        return self.settings.num_trials or 1

    @property
    def identity(self) -> SearchIdentity:
        """What makes the search the same in another call. The objective goes by its name: its code may be mended between two sessions."""
        stated, limits = limits_of(self.settings)
        named = {"objective": function_of(self.objective).__qualname__, "metric": self.metric.name, "mode": self.metric.mode}
        values = {key: text_of(value) for key, value in self.fixed.items()} | describe_space(self.space)
        fingerprint = {**stated, **named, "max_epochs": self.max_epochs, "seed": self.seed, **{f"space/{key}": text for key, text in values.items()}}
        return SearchIdentity.of(fingerprint, limits, {"kind": "objective", "metric": self.metric.name, "mode": self.metric.mode})

    @property
    def function(self) -> Objective:
        metric, settings = self.metric, self.settings
        return Objective(self.objective, self.space, self.fixed, metric.name, metric.higher_is_better, settings.num_to_keep, self.seed, self.max_epochs)

    @property
    def job(self) -> SearchJob:
        return SearchJob(
            self.space,
            self.fixed,
            self.settings,
            self.num_trials,
            self.seed,
            self.metric.name,
            max_epochs=self.max_epochs or MOST_REPORTS,
            warmup_epochs=0.0,
            complete=lambda tuned: {**self.fixed, **tuned},
            first_points=self.first_points,
            known=self.warm_start.trials,
        )


def run_objective(plan: ObjectivePlan, tracking: str | None, verbosity: int) -> SearchResults:
    """Runs the trials that are left.

    Raises:
        SearchMismatch: the folder holds another search.
        AllTrialsFailed: no trial ended with a finite metric.
    """
    settings, metric, identity = plan.settings, plan.metric, plan.identity
    if plan.resuming:
        check_resumable(settings)
        check_same_search(read_identity(plan.path / "search"), identity, plan.path / "search")
    session = Session(plan.path, identity, plan.resuming, settings, plan.num_trials, metric, plan.deadline, verbosity)
    cluster = Cluster(report=session.progress.say, show_output=verbosity > 1)
    with session.open(), contextlib.ExitStack() as sent, cluster:
        if session.is_finished:
            session.progress.say(f"{plan.path} holds this very search, finished: nothing is left to do", level=1)
            return SearchResults(session.records, metric, plan.function.best_config_of)
        session.progress.say(search_line(settings, plan.num_trials, plan.space))
        if plan.warm_start.trials:
            session.progress.say(plan.warm_start.line)
        session.progress.resumes(session.records, plan.path)
        set_ray_environment()
        sent.enter_context(sent_by_value(plan.objective))  # which may refuse it, before Ray is started
        if session.is_anything_left:
            cluster.start()
        with session.tracked(tracking, {**plan.fixed, **plan.space}, plan.space):
            resources = settings.resources_among(known_resources() or {"cpu": 1.0, "gpu": 0.0})
            function = replace(plan.function, tracked=tracking is not None, resources=resources)
            interruption = session.run(function, plan.job, cluster, trials_deadline(plan.deadline, with_ray=True), settings.num_kept())
            session.close(interruption, session.records.best())
        for line in (_unseen(plan, session.records.trials()), _unlimited(plan, session.records.trials())):
            if line:
                session.progress.say(line, level=1)
    session.say_goodbye(f"saved in {plan.path}")
    interruption.reraise()
    return SearchResults(SearchRecords(plan.path / "search"), metric, plan.function.best_config_of)


def _unseen(plan: ObjectivePlan, trials: Sequence[TrialRecord]) -> str:
    """A hint, where no trial reported as often as it takes until the scheduler looks for the first time; empty where that is not so."""
    settings, longest = plan.settings, max((record.epochs for record in trials), default=0)
    if plan.max_epochs is not None or settings.scheduler not in FIRST_LOOKS or any(record.status == STOPPED for record in trials):
        return ""
    from .hpo.schedulers.plan import SchedulerPlan  # with Ray, which has just been used

    first = SchedulerPlan(settings.scheduler_init_args, MOST_REPORTS).grace(*FIRST_LOOKS[settings.scheduler])
    if not 1 < longest < first:
        return ""
    name = FIRST_LOOKS[settings.scheduler][0]
    return (
        f"{settings.scheduler} has ended no trial: it looks at them after {first:g} reports, and they made {longest:g} at most; "
        f"give max_epochs={longest:g}, or {name} in scheduler_init_args"
    )


def _unlimited(plan: ObjectivePlan, trials: Sequence[TrialRecord]) -> str:
    """A hint, where trials took longer than they might, for they reported once, at their end; empty where that is not so."""
    limit = plan.settings.trial_time_limit
    longer = [record for record in trials if limit and record.status == COMPLETED and len(record.results) == 1 and record.seconds > limit]
    if not longer:
        return ""
    what = "1 trial" if len(longer) == 1 else f"{len(longer)} trials"
    return (
        f"trial_time_limit: {what} took longer than {limit:g} s; a trial ends at its next report, and an objective that only returns makes none before its end"
    )


def _metric(metric: str | None, mode: str | None, settings: TuneSettings) -> Metric:
    """What is searched by; said as arguments or, as HyperDrive's primary metric, among the tune settings."""
    for name, given, setting in (("metric", metric, settings.metric), ("mode", canonical_mode(mode), settings.mode)):
        if given is not None and setting is not None and given != setting:
            raise InvalidArgument(f"{name}: is {given!r} in the call and {setting!r} in hyperparameter_tune_kwargs; give one of them")
    name, direction = metric or settings.metric or "objective", canonical_mode(mode or settings.mode)
    if direction not in ("max", "min"):
        raise InvalidArgument(f"mode: expected 'max' or 'min', whether more or less of {name!r} is better, got {direction!r}")
    return searched_metric(name, direction)
