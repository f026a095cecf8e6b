"""Schedulers whose trials wait for each other: successive halving in brackets, and exchanges within a population."""

from __future__ import annotations

import math
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter


class Synchronous(FIFOScheduler):
    """Lets trials wait, and meets when they have come.

    A waiting trial keeps its place, with its model in memory, until another trial wants to run; then it is paused. So more trials can
    be alive than have a place, and where there is a place for each, none is saved and loaded for the sake of waiting. Ray calls
    ``choose_trial_to_run`` after every event; all decisions about waiting trials are made there. A trial that ends or dies keeps
    nobody waiting. (Ray's own HyperBand decides on results only, and its brackets wait for ever where a trial ends by itself; so does
    its PBT in the synchronous mode.)

    Ray keeps a process only for a trial that it has staged by then; else it ends it, and starting another takes seconds. So places are
    given up one by one, to pending trials, or are reserved.

    Ray's limit of concurrent trials counts paused ones too. Here it is raised by those that wait, and holds for the others.
    """

    _supports_buffered_results = False

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._live: dict[Trial, None] = {}  # in the order in which they came
        self._waiting: set[Trial] = set()
        self._leaving: list[Trial] = []  # dismissed, and still in their places
        self._running: set[Trial] = set()  # and pending ones, as of the last look
        self._pending: set[Trial] = set()
        self._num_given = 0  # places given up, and not taken yet by a pending trial
        self._num_idle = 0  # looks in a row at which no trial was at work; without events Ray looks ten times a second
        self._reserved: set[Trial] = set()
        self._limiter: ConcurrencyLimiter | None = None
        self._num_places = math.inf

    def meet(self, tune_controller: Any) -> None:
        """Lets waiting trials go on (``release``) or ends them (``dismiss``), where all that they wait for ``has_come``."""
        raise NotImplementedError

    def wait(self, trial: Trial) -> str:
        """What ``on_trial_result`` answers for a trial that shall wait."""
        self._waiting.add(trial)
        return TrialScheduler.NOOP  # it stays as it is: Ray neither trains nor stops it

    def has_come(self, trial: Trial) -> bool:
        return trial in self._waiting and not trial.is_saving

    def release(self, tune_controller: Any, trial: Trial) -> None:
        self._waiting.discard(trial)
        if trial.status == Trial.RUNNING:
            unwrapped(tune_controller)._schedule_trial_train(trial)

    def dismiss(self, tune_controller: Any, trial: Trial) -> None:
        self.forget(trial)
        if trial.status == Trial.RUNNING:
            self._leaving.append(trial)
        else:
            tune_controller.stop_trial(trial)

    def forget(self, trial: Trial) -> None:
        """A trial ended, or its process died."""
        self._live.pop(trial, None)
        self._waiting.discard(trial)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._live[trial] = None
        searcher = getattr(tune_controller.search_alg, "searcher", None)
        if self._limiter is None and isinstance(searcher, ConcurrencyLimiter):
            self._limiter, self._num_places = searcher, searcher.max_concurrent

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self.forget(trial)
        if (paused := self._paused()) and not self._pending:
            self.reserve_process(tune_controller, paused[0])

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self.forget(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self.forget(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        searcher = _searcher(tune_controller)
        if not getattr(searcher, "is_cut_short", False):
            self.meet(tune_controller)
        elif all(trial in self._waiting and not trial.is_saving for trial in self._live):
            searcher.end_search()  # nothing is decided among those that wait: others may come when the search goes on
        self._settle_reservations(tune_controller)
        pending = [trial for trial in self._live if trial.status == Trial.PENDING]
        paused = self._paused()
        num_running = sum(trial.status == Trial.RUNNING and trial not in self._waiting for trial in self._live)
        room = self._num_places - num_running - len(pending)
        if self._limiter is not None:
            self._limiter.max_concurrent = len(self._limiter.live_trials) + max(0, int(room) - len(paused))
        self._give_places(tune_controller, pending, nobody_wants=not pending and not paused)
        if paused and room >= 1:
            return paused[0]
        return pending[0] if pending else None

    def _paused(self) -> list[Trial]:
        return [trial for trial in self._live if trial.status == Trial.PAUSED and trial not in self._waiting]

    def _give_places(self, tune_controller: Any, pending: list[Trial], nobody_wants: bool) -> None:
        """Pauses waiting trials, and ends dismissed ones, as pending trials want their places."""
        running = {trial for trial in self._live if trial.status == Trial.RUNNING}
        self._num_idle = self._num_idle + 1 if running <= self._waiting else 0
        # a place that was taken, and lost again before anyone looked, is not waited for
        self._num_given = 0 if self._num_idle % 20 == 19 else max(0, self._num_given - len(running - self._running))
        self._running, self._pending = running, set(pending)
        held = [trial for trial in self._live if trial.status == Trial.RUNNING and self.has_come(trial)]
        while self._leaving and (nobody_wants or self._num_given < len(pending)):
            self._num_given += not nobody_wants
            tune_controller.stop_trial(self._leaving.pop())
        while held and self._num_given < len(pending):
            self._num_given += 1
            tune_controller.pause_trial(held.pop())

    def reserve_process(self, tune_controller: Any, trial: Trial) -> None:
        """Has a trial, paused or about to be, start in the process that becomes free next."""
        controller = unwrapped(tune_controller)
        if trial not in controller._staged_trials:  # what Ray does for a trial that it is about to start
            controller._staged_trials.add(trial)
            controller._actor_cache.increase_max(trial.placement_group_factory)
            self._reserved.add(trial)

    def _settle_reservations(self, tune_controller: Any) -> None:
        controller = unwrapped(tune_controller)
        for trial in list(self._reserved):
            if trial.status == Trial.PAUSED:
                controller._set_trial_status(trial, Trial.PENDING)
            if trial.status != Trial.PENDING or trial in controller._trial_to_actor:
                self._reserved.discard(trial)
            elif not controller._actor_cache.num_cached_objects:  # none became free, or another trial has it: Ray shall start one
                self._reserved.discard(trial)
                controller._staged_trials.discard(trial)
                controller._actor_cache.decrease_max(trial.placement_group_factory)


def _searcher(tune_controller: Any) -> Any:
    """The searcher that Ray was given."""
    searcher = getattr(tune_controller.search_alg, "searcher", None)
    while isinstance(searcher, ConcurrencyLimiter):
        searcher = searcher.searcher
    return searcher


def unwrapped(tune_controller: Any) -> Any:
    """Ray's controller itself: schedulers get a wrapper that complains of methods without a public name."""
    return getattr(tune_controller, "_tune_controller", tune_controller)
