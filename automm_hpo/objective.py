"""``tune_objective``: a search for a user's own function, with the same engine as ``fit``."""

from __future__ import annotations

import contextlib
import inspect
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import check_number, check_tracking, checked_numbers, plan_path
from .code import code_digest, is_other_code
from .errors import InvalidArgument, InvalidTuneSettings, Problems
from .hpo.cluster import Cluster, known_resources, ray_cluster, set_ray_environment
from .hpo.identity import SearchIdentity, check_same_search, read_identity
from .hpo.job import SearchJob, check_resumable, check_scheduled_by, first_points, limits_of, resolve_settings, search_line
from .hpo.objective_space import objective_point_to_raw, split_objective_space
from .hpo.objective_trial import Objective, check_objective, function_of, sent_by_value
from .hpo.records import COMPLETED, STOPPED, SearchRecords, TrialRecord
from .hpo.result_keys import METRIC
from .hpo.scheduler_args import POPULATIONS
from .hpo.settings import TuneSettings, canonical_mode, check_resources, parse_tune_settings
from .hpo.warm_start import WarmStart, read_warm_start
from .metrics import Metric, searched_metric
from .results import SearchResults
from .sections import unwrapped
from .session import Session, trials_deadline
from .space import RawProposal, SearchSpace, describe_space
from .space.kinds import text_of

# schedulers that judge no trial at first -> the arguments that say for how long
FIRST_LOOKS = {"ASHA": ("grace_period",), "median": ("delay_evaluation", "grace_period"), "bandit": ("delay_evaluation",), "truncation": ("delay_evaluation",)}
SPACE_IN_WORDS = re.compile(r"q?(log)?(uniform|normal|randint|rand|randn)[\[(].*[\])]|(choice|grid_search)[\[(].*[\])]")
MOST_OPTIONS = 20  # a longer list was hardly meant as a choice
MOST_REPORTS = 100  # reports per trial that schedulers assume without max_epochs


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
    """Searches for the config with which an objective does best.

    Args:
        objective: function that is called with a config, a dict with the names of ``space``, and returns the metric or a dict of metrics. To let schedulers
            stop it early, it yields a dict of metrics once per epoch, or passes one to ``ray.tune.report``; what a generator returns is its last report, if it
            is a number or a dict with the metric. Instead of a function it may be a ``ray.tune.Trainable`` class, whose ``step`` returns the dict.

            A reported ``done=True`` ends the trial, and so does a metric that is nan or infinite. Other values that are not numbers are ignored.

            A trial that was cut short begins again, unless it saves checkpoints: a function by ``ray.tune.report(metrics, checkpoint=...)``, reading
            ``ray.tune.get_checkpoint()``; a Trainable by ``save_checkpoint`` and ``load_checkpoint``, with files or a dict that JSON can hold.

            The objective is sent to the trials' processes by value. Trials run at the same time, all in the caller's current folder; files of a single
            trial belong in ``ray.tune.get_context().get_trial_dir()``, which is kept. What the objective prints is shown with the name of its process.
        space: name -> value or search space; dicts may be nested. Without a search space, the same values are tried ``num_trials`` times, which must be given.
        hyperparameter_tune_kwargs: how to search, as for ``MultiModalPredictor.fit``, but without ``disk_quota_mb``.
        metric: name of the reported value to optimise. An objective that returns a bare number need not name it.
        mode: ``max`` or ``min``, whether more or less of the metric is better. It must be given, here or in ``hyperparameter_tune_kwargs``.
        max_epochs: number of reports after which a trial is ended, on the spot: code after its last report does not run, except in ``finally``. Schedulers
            plan with it, and a Trainable requires it. None: trials end by themselves, and schedulers plan with 100 reports, at which HyperBand and BOHB end
            trials.
        time_limit: seconds from this call to its return; None: no limit.
        save_path: new or empty folder, or that of an earlier call with the same arguments, whose search is then resumed. None: a folder in
            ``automm_hpo_models`` that is named after the current time.
        seed: of the searcher, and of Python's, numpy's and torch's random generators in each trial.
        resume: ``auto`` resumes the search that ``save_path`` holds, if it holds one; True requires that it does; False refuses such a folder.
        tracking: ``mlflow`` logs the search to MLflow, and the run of a trial is the active one while its objective runs; None: no tracking.
        verbosity: 0: silent; 1: notes and the summary; 2 or more: also the progress of the search and what the objective prints.

    Returns:
        The search: ``best``, ``best_config``, ``leaderboard()``, ``curves()``, ``plot_curves()`` and others.

    Raises:
        InvalidInput: the call is wrong, and nothing was started. Two or more problems are listed together, as ``MultipleProblems``; a single one is raised
            as one of the following.
        InvalidArgument, InvalidSpace, InvalidTuneSettings: an argument, the search space or ``hyperparameter_tune_kwargs`` is wrong.
        NotSupported: something is not offered here, needs a package that is not installed, or cannot be resumed.
        SavePathExists: ``save_path`` holds other files, or a search that ``resume=False`` does not allow to resume.
        SearchMismatch: ``save_path`` holds a search that was begun with other arguments.
        SearchInUse: another process or thread is searching in ``save_path``.
        TimeLimitTooShort: the time limit left no time for a first report.
        AllTrialsFailed: no trial reported a finite metric.
        KeyboardInterrupt: Ctrl-C was pressed. The trials under way are kept; ``load_search`` reads the search, and the same call resumes it.
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
    are_settings_right = len(problems.found) == found_before  # else their metric and mode are not known
    with problems.gather():
        if settings.disk_quota_mb is not None:
            problems.add(InvalidTuneSettings("disk_quota_mb: not supported here, because the size of the checkpoints is not known in advance; leave it out"))
        if (there := known_resources()) is not None:
            check_resources(settings, there)
        fixed, spaces = split_objective_space(space)
        if not spaces and settings.num_trials is None:
            listed = next(((name, list(value)) for name, value in fixed.items() if isinstance(value, (list, tuple, np.ndarray)) and len(value) > 1), None)
            hint = f". To search among the values of {listed[0]!r}: tune.choice({[unwrapped(value) for value in listed[1]]!r})" if listed else ""
            again = "; num_trials says how often to try these, 1 or more"
            raise InvalidTuneSettings(f"space: contains only fixed values and no search space{hint}{again}")
        # a generator has no checkpoints, and so one config from start to end; others get new values when they begin from another trial's checkpoint
        settings = resolve_settings(settings, spaces, live=() if inspect.isgeneratorfunction(function_of(objective)) else tuple(spaces))
        points = first_points(settings, spaces, to_raw=objective_point_to_raw)
    with problems.gather():
        if are_settings_right:
            searched = _metric(metric, mode, settings)
            check_scheduled_by(settings, searched.name, searched.mode)
            warm_start = read_warm_start(settings, spaces, fixed, searched, resuming)
    problems.raise_any()

    deadline = None if time_limit is None else called + float(time_limit)
    plan = ObjectivePlan(
        objective=objective,
        fixed=fixed,
        space=spaces,
        settings=settings,
        metric=searched,
        max_epochs=max_epochs,
        seed=numbers["seed"],
        path=folder,
        resuming=resuming,
        first_points=warm_start.before(points),
        warm_start=warm_start,
        deadline=deadline,
    )
    return run_objective(plan, tracking, verbosity)


@dataclass(frozen=True, kw_only=True)
class ObjectivePlan:
    """A call of ``tune_objective`` as it will be carried out; nothing is written or started yet.

    Attributes:
        fixed, space: the entries of the config that have a value, and those that are searched; nested names are joined by ``/``.
        path, resuming: the folder, and whether it already holds this search.
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
        """What must be equal in a call that resumes this search. Of the objective only the name counts, so that its code can be fixed between two sessions."""
        stated, limits = limits_of(self.settings)
        named = {"objective": function_of(self.objective).__qualname__, "metric": self.metric.name, "mode": self.metric.mode}
        values = {key: text_of(value) for key, value in self.fixed.items()} | describe_space(self.space)
        fingerprint = {**stated, **named, "max_epochs": self.max_epochs, "seed": self.seed, **{f"space/{key}": text for key, text in values.items()}}
        limits["code"] = code_digest(self.objective)
        return SearchIdentity.of(fingerprint, limits, {"kind": "objective", "metric": self.metric.name, "mode": self.metric.mode})

    @property
    def function(self) -> Objective:
        metric, settings = self.metric, self.settings
        return Objective(self.objective, self.space, self.fixed, metric.name, metric.higher_is_better, settings.num_to_keep, self.seed, self.max_epochs)

    @property
    def job(self) -> SearchJob:
        return SearchJob(
            space=self.space,
            fixed=self.fixed,
            settings=self.settings,
            num_trials=self.num_trials,
            seed=self.seed,
            metric=self.metric.name,
            max_epochs=self.max_epochs or MOST_REPORTS,
            warmup_epochs=0.0,
            complete=lambda tuned: {**self.fixed, **tuned},
            first_points=self.first_points,
            known=self.warm_start.trials,
        )


def run_objective(plan: ObjectivePlan, tracking: str | None, verbosity: int) -> SearchResults:
    """Runs the remaining trials.

    Raises:
        SearchMismatch: the folder holds another search.
        AllTrialsFailed: no trial reported a finite metric.
    """
    settings, metric, identity, has_other_code = plan.settings, plan.metric, plan.identity, False
    if plan.resuming:
        check_resumable(settings)
        stored = read_identity(plan.path / "search")
        check_same_search(stored, identity, plan.path / "search")
        begun_with = stored.limits.get("code", "")
        has_other_code = is_other_code(begun_with, identity.limits["code"])
        identity = replace(identity, limits={**identity.limits, "code": begun_with})
    session = Session(
        plan.path,
        identity=identity,
        resuming=plan.resuming,
        settings=settings,
        num_trials=plan.num_trials,
        metric=metric,
        deadline=plan.deadline,
        verbosity=verbosity,
    )
    cluster = Cluster(ray_cluster(report=session.progress.say, show_output=verbosity > 1, deadline=plan.deadline))
    with session.open(), contextlib.ExitStack() as sent, cluster:
        if has_other_code:
            session.progress.say(
                "the objective's code has changed since this search began; trials on record keep their scores, and a new save_path begins anew", level=1
            )
        if session.is_finished:
            session.progress.say(f"{plan.path} already holds this search, finished: nothing is left to do", level=1)
            return SearchResults(session.records, metric, plan.function.best_config_of)
        session.progress.say(search_line(settings, plan.num_trials, plan.space))
        if plan.warm_start.trials:
            session.progress.say(plan.warm_start.line)
        for line in _looks_searched(plan.fixed):
            session.progress.say(line, level=1)
        session.progress.resumes(session.records, plan.path)
        set_ray_environment()
        sent.enter_context(sent_by_value(plan.objective))  # before Ray is started, because this may refuse the objective
        if session.is_anything_left:
            cluster.start()
        with session.tracked(tracking, {**plan.fixed, **plan.space}, plan.space):
            resources = settings.resources_among(known_resources() or {"cpu": 1.0, "gpu": 0.0})
            function = replace(plan.function, tracked=tracking is not None, resources=resources, first_exchange=_first_exchange(plan))
            interruption = session.run(function, plan.job, cluster, trials_deadline(plan.deadline, with_ray=True), settings.num_kept())
            session.close(interruption, session.records.best())
        for line in (_unseen(plan, session.records.trials()), _unlimited(plan, session.records.trials())):
            if line:
                session.progress.say(line, level=1)
    session.say_goodbye(f"saved in {plan.path}")
    interruption.reraise()
    return SearchResults(SearchRecords(plan.path / "search"), metric, plan.function.best_config_of)


def _looks_searched(fixed: Mapping[str, Any]) -> Iterator[str]:
    """Hints at fixed values that may have been meant as search spaces, as Guild writes them."""
    for name, value in fixed.items():
        if isinstance(value, list) and 1 < len(value) <= MOST_OPTIONS:
            yield f"fixed: {name}={value!r}; tune.choice({value!r}) would search among these"
        elif isinstance(value, str) and SPACE_IN_WORDS.fullmatch(value):
            kind = value.partition("[")[0].partition("(")[0]
            yield f"fixed: {name}={value!r}, a text; tune.{kind}(...) would be a search space"


def _first_exchange(plan: ObjectivePlan) -> float | None:
    """The report after which a population first exchanges checkpoints; None: the scheduler has no population."""
    if plan.settings.scheduler not in POPULATIONS:
        return None
    from .hpo.schedulers.plan import SchedulerPlan  # imports Ray, which is loaded by now

    return SchedulerPlan(plan.settings.scheduler_init_args, plan.job.max_epochs).first_exchange


def _unseen(plan: ObjectivePlan, trials: Sequence[TrialRecord]) -> str:
    """A hint, if no trial made as many reports as the scheduler waits for before it judges; else empty."""
    settings, longest = plan.settings, max((record.epochs for record in trials), default=0)
    if plan.max_epochs is not None or settings.scheduler not in FIRST_LOOKS or any(record.status == STOPPED for record in trials):
        return ""
    from .hpo.schedulers.plan import SchedulerPlan  # imports Ray, which is loaded by now

    first = SchedulerPlan(settings.scheduler_init_args, MOST_REPORTS).grace(*FIRST_LOOKS[settings.scheduler])
    if not 1 < longest < first:
        return ""
    name = FIRST_LOOKS[settings.scheduler][0]
    return (
        f"{settings.scheduler} stopped no trial: it judges them after {first:g} reports, and none made more than {longest:g}; "
        f"give max_epochs={longest:g}, or {name} in scheduler_init_args"
    )


def _unlimited(plan: ObjectivePlan, trials: Sequence[TrialRecord]) -> str:
    """A hint, if trials took longer than ``trial_time_limit`` because they reported only once, at their end; else empty."""
    limit = plan.settings.trial_time_limit
    longer = [record for record in trials if limit and record.status == COMPLETED and len(record.results) == 1 and record.seconds > limit]
    if not longer:
        return ""
    what = "1 trial" if len(longer) == 1 else f"{len(longer)} trials"
    return (
        f"trial_time_limit: {what} took longer than {limit:g} s; the limit is checked at reports, and an objective that only returns reports once, at its end"
    )


def _metric(metric: str | None, mode: str | None, settings: TuneSettings) -> Metric:
    """The metric of the search: given as arguments; or like HyperDrive's primary metric, in the tune settings; or in Ray's scheduler or searcher object."""
    for name, given, setting in (("metric", metric, settings.metric), ("mode", canonical_mode(mode), settings.mode)):
        if given is not None and setting is not None and given != setting:
            raise InvalidArgument(f"{name}: is {given!r} in the call and {setting!r} in hyperparameter_tune_kwargs; give one of them")
    found, found_mode = _metric_of_objects(settings)
    name = metric or settings.metric or found or "objective"
    direction = canonical_mode(mode or settings.mode or (found_mode if name == found else None))
    if direction not in ("max", "min"):
        raise InvalidArgument(f"mode: expected 'max' or 'min', whether more or less of {name!r} is better, got {direction!r}")
    return searched_metric(name, direction)


def _metric_of_objects(settings: TuneSettings) -> tuple[str | None, str | None]:
    """(metric, mode) that the user's scheduler or searcher object was made with; None where neither was."""
    for given in (settings.scheduler, settings.searcher):
        name, mode = getattr(given, "metric", None), getattr(given, "_mode", None) or getattr(given, "mode", None)
        if isinstance(name, str) and name != METRIC:
            return name, mode
    return None, None
