"""Schedulers whose trials wait for each other: successive halving in brackets, and exchanges within a population."""

from __future__ import annotations

import math
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter


class Synchronous(FIFOScheduler):
    """Lets trials wait for each other, and calls ``meet`` to decide about them.

    A waiting trial keeps its place, with its model in memory, and is paused only when another trial wants to run. So there can be more live
    trials than places, and if there is a place for each, no trial is saved and loaded just to wait. Ray calls ``choose_trial_to_run`` after
    every event; all decisions about waiting trials are made there. No trial waits for one that has ended or died. (Ray's own HyperBand
    decides only on results, and its brackets wait forever if a trial ends by itself; so does its PBT in synchronous mode.)

    Ray keeps a freed process only if it has staged a trial for it by then; otherwise it ends the process, and starting another takes
    seconds. So places are given to pending trials one by one, or reserved.

    Ray's limit of concurrent trials counts paused ones too. It is raised here so that it limits only the trials that do not wait.
    """

    _supports_buffered_results = False

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._live: dict[Trial, None] = {}  # in the order of arrival
        self._waiting: set[Trial] = set()
        self._leaving: list[Trial] = []  # dismissed trials that still hold their places
        self._running: set[Trial] = set()  # as of the last look, like ``_pending``
        self._pending: set[Trial] = set()
        self._num_given = 0  # places given up that no pending trial has taken yet
        self._num_idle = 0  # consecutive looks at which no trial was working; without events Ray looks ten times a second
        self._reserved: set[Trial] = set()
        self._limiter: ConcurrencyLimiter | None = None
        self._num_places = math.inf

    def meet(self, tune_controller: Any) -> None:
        """Lets waiting trials go on (``release``) or ends them (``dismiss``), once all trials that they wait for have come (``has_come``)."""
        raise NotImplementedError

    def wait(self, trial: Trial) -> str:
        """Makes a trial wait. Returns the decision that ``on_trial_result`` must return for it."""
        self._waiting.add(trial)
        return TrialScheduler.NOOP  # Ray neither trains nor stops the trial

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
        """Drops a trial that has ended or whose process has died."""
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
            searcher.end_search()  # no decision about the waiting trials: others may join them when the search is resumed
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
        """Pauses waiting trials and ends dismissed ones, as many as pending trials need places. If no trial wants to run, all dismissed ones end."""
        running = {trial for trial in self._live if trial.status == Trial.RUNNING}
        self._num_idle = self._num_idle + 1 if running <= self._waiting else 0
        # reset after 20 idle looks: a place may have been taken and lost again between two looks
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
        """Reserves the process that becomes free next for a trial that is paused or about to be."""
        controller = unwrapped(tune_controller)
        if trial not in controller._staged_trials:  # as Ray does for a trial that it is about to start
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
            elif not controller._actor_cache.num_cached_objects:  # none became free, or another trial took it: let Ray start one
                self._reserved.discard(trial)
                controller._staged_trials.discard(trial)
                controller._actor_cache.decrease_max(trial.placement_group_factory)


def _searcher(tune_controller: Any) -> Any:
    """The searcher itself, inside any ConcurrencyLimiter."""
    searcher = getattr(tune_controller.search_alg, "searcher", None)
    while isinstance(searcher, ConcurrencyLimiter):
        searcher = searcher.searcher
    return searcher


def unwrapped(tune_controller: Any) -> Any:
    """Ray's controller itself: schedulers get a wrapper that warns about access to private methods."""
    return getattr(tune_controller, "_tune_controller", tune_controller)
