"""Simulates Ray's controller as schedulers see it, without its processes: trials with made-up curves run in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ray.tune.search import ConcurrencyLimiter, Searcher

PENDING, RUNNING, PAUSED, TERMINATED, ERROR = "PENDING", "RUNNING", "PAUSED", "TERMINATED", "ERROR"
CONTINUE, PAUSE, STOP, NOOP = "CONTINUE", "PAUSE", "STOP", "NOOP"


class Deadlock(AssertionError):
    pass


@dataclass(frozen=True)
class Row:
    trial: int
    segment: int
    epoch: float
    score: float


@dataclass(eq=False)
class SimulatedTrial:
    """What schedulers use of Ray's Trial, and what its process would hold."""

    config: dict[str, Any]
    trial_id: str
    status: str = PENDING
    is_saving: bool = False
    is_restoring: bool = False
    experiment_tag: str = ""
    placement_group_factory: str = "one CPU"
    run_metadata: Any = field(default_factory=lambda: SimpleNamespace(checkpoint_manager=SimpleNamespace(_latest_checkpoint_result=None)))
    trains: bool = False  # Ray has asked it for its next result
    value: float = 0.0
    position: int = 0  # validations done
    best: float = -math.inf
    told: int = 0  # recorded rows that were reported again
    last_result: dict[str, Any] = field(default_factory=dict)
    on_record: dict[str, Any] = field(default_factory=dict)  # its config when it last started

    @property
    def number(self) -> int:
        return self.config["trial"]

    @property
    def checkpoint(self) -> Any:
        result = self.run_metadata.checkpoint_manager._latest_checkpoint_result
        return result and result.checkpoint

    def is_finished(self) -> bool:
        return self.status in (TERMINATED, ERROR)

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config

    def set_experiment_tag(self, tag: str) -> None:
        self.experiment_tag = tag


class Proposals(Searcher):
    """Proposes ``configs`` in order."""

    def __init__(self, configs: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(metric="best_score", mode="max")
        self.configs = [dict(config) for config in configs]
        self.heard: list[tuple[str, dict]] = []

    def suggest(self, trial_id: str) -> Any:
        return self.configs.pop(0) if self.configs else Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        self.heard.append((trial_id, result))

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        pass

    save = restore = None


class SimulatedSearch:
    """A search of trials with given curves.

    Args:
        curves: the scores of each trial's validations; or a function of a trial's config that gives the gain of one validation.
        length: validations per trial if ``curves`` is a function.
        places: trials that run at a time.
        earlier: a session that was killed. Its trials report its rows again before they go on; those that had ended end with them.
        last_is_fresh: whether an unfinished trial reports its last recorded row as one to decide upon.
        fails_at: trial -> validation at which its process dies, once.
        last_first: whether the last of several running trials reports first.
        kill_after: validations after which everything ends, as if the driver had been killed.
    """

    def __init__(
        self,
        scheduler: Any,
        curves: Sequence[Sequence[float]] | Callable[[Mapping[str, Any]], float],
        configs: Sequence[Mapping[str, Any]] | None = None,
        length: int = 0,
        places: int = 2,
        interval: float = 1.0,
        earlier: SimulatedSearch | None = None,
        last_is_fresh: bool = False,
        fails_at: Mapping[int, int] | None = None,
        last_first: bool = False,
        kill_after: int | None = None,
    ) -> None:
        self.scheduler, self.curves, self.length, self.places, self.interval = scheduler, curves, length, places, interval
        self.last_first = last_first
        configs = list(configs or [{"trial": number, "segment": 0} for number in range(len(curves))])  # type: ignore[arg-type]
        self.states: dict[int, tuple[float, int]] = {}
        if earlier is not None:
            for trial in earlier.trials:
                configs[trial.number] = trial.on_record or trial.config
                self.states[trial.number] = (trial.value, trial.position)
        record = earlier.rows if earlier else []
        self.num_trials = len(configs)
        self.searcher = Proposals(configs)
        self.search_alg = SimpleNamespace(
            searcher=ConcurrencyLimiter(self.searcher, places),
            is_finished=lambda: len(self.trials) == self.num_trials,
            on_trial_result=lambda trial_id, result: self.searcher.on_trial_result(trial_id, result),
        )
        self.record = {number: [row for row in record if row.trial == number] for number in range(self.num_trials)}
        self.ended, self.last_is_fresh, self.fails_at, self.kill_after = earlier.finished if earlier else set(), last_is_fresh, dict(fails_at or {}), kill_after
        self.trials: list[SimulatedTrial] = []
        self.rows: list[Row] = list(record)
        self.new_rows: list[Row] = []
        self.stopped: dict[int, float] = {}  # trials the scheduler stopped -> epoch
        self.finished: set[int] = set(self.ended)  # trials that ended by themselves or by the scheduler
        self.num_pauses = self.most_running = 0
        self.events: list[str] = []
        # private attributes of Ray's controller that schedulers use to reserve processes
        self._staged_trials: set[SimulatedTrial] = set()
        self._trial_to_actor: dict[SimulatedTrial, str] = {}
        self._actor_cache = SimpleNamespace(num_cached_objects=0, increase_max=lambda resources: None, decrease_max=lambda resources: None)

    # ------------------------------------------------------------------------------- what schedulers call

    def get_trials(self) -> list[SimulatedTrial]:
        return self.trials

    def get_live_trials(self) -> set[SimulatedTrial]:
        return {trial for trial in self.trials if not trial.is_finished()}

    def _set_trial_status(self, trial: SimulatedTrial, status: str) -> None:
        trial.status = status

    def _schedule_trial_train(self, trial: SimulatedTrial) -> None:
        assert trial.status == RUNNING
        assert not trial.trains, "a trial is trained twice at a time"
        trial.trains = True

    def _schedule_trial_save(self, trial: SimulatedTrial, result: Any = None) -> Any:
        assert trial.status == RUNNING
        saved = SimpleNamespace(checkpoint=self._pointer(trial), metrics=result)
        return SimpleNamespace(resolve=lambda: saved)

    def pause_trial(self, trial: SimulatedTrial, should_checkpoint: bool = True) -> None:
        assert trial.status == RUNNING
        self.num_pauses += 1
        if should_checkpoint:
            trial.run_metadata.checkpoint_manager._latest_checkpoint_result = SimpleNamespace(checkpoint=self._pointer(trial), metrics={})
        trial.status, trial.trains = PAUSED, False
        self._trial_to_actor.pop(trial, None)

    def stop_trial(self, trial: SimulatedTrial) -> None:
        if trial.is_finished():
            return
        self.stopped.setdefault(trial.number, trial.position * self.interval)
        self._end(trial)

    # ---------------------------------------------------------------------------------------------------

    def _pointer(self, trial: SimulatedTrial) -> dict[str, Any]:
        return {"trial": trial.number, "segment": trial.config.get("segment", 0), "position": trial.position}

    def _end(self, trial: SimulatedTrial) -> None:
        if trial.status == RUNNING:
            self.scheduler.on_trial_complete(self, trial, trial.last_result)
        else:
            self.scheduler.on_trial_remove(self, trial)
        self.search_alg.searcher.on_trial_complete(trial.trial_id, trial.last_result)
        trial.status, trial.trains = TERMINATED, False
        self.finished.add(trial.number)
        self._trial_to_actor.pop(trial, None)

    def run(self) -> SimulatedSearch:
        turn = idle = 0
        while not (len(self.trials) == self.num_trials and all(trial.is_finished() for trial in self.trials)):
            if self.kill_after is not None and len(self.new_rows) >= self.kill_after:
                return self
            self._propose()
            chosen = self.scheduler.choose_trial_to_run(self)
            if chosen is not None:
                assert chosen.status in (PENDING, PAUSED)
                chosen.status = PENDING
            self._start(chosen)
            at_work = [trial for trial in self.trials if trial.status == RUNNING and trial.trains]
            self.most_running = max(self.most_running, len(at_work))
            idle = 0 if at_work else idle + 1
            if idle > 100:
                raise Deadlock({trial.number: (trial.status, trial.position) for trial in self.trials})
            if at_work:
                self._train(at_work[-1 - turn % len(at_work) if self.last_first else turn % len(at_work)])
                turn += 1
        return self

    def _propose(self) -> None:
        while sum(trial.status == PENDING for trial in self.trials) < self.places and not self.search_alg.is_finished():
            config = self.search_alg.searcher.suggest(f"id{len(self.trials)}")
            if config is None:
                return
            trial = SimulatedTrial(config, f"id{len(self.trials)}")
            self.trials.append(trial)
            self.scheduler.on_trial_add(self, trial)

    def _start(self, chosen: SimulatedTrial | None) -> None:
        free = self.places - sum(trial.status == RUNNING for trial in self.trials)
        waiting = [trial for trial in self.trials if trial.status == PENDING]
        for trial in sorted(waiting, key=lambda trial: trial is not chosen)[: max(0, free)]:
            trial.status, trial.trains = RUNNING, True
            self._trial_to_actor[trial] = "a process"
            self._staged_trials.discard(trial)
            pointer = trial.checkpoint
            if pointer and pointer["trial"] != trial.number:
                parent = next(other for other in self.trials if other.number == pointer["trial"])
                trial.value, trial.position = parent.value, parent.position  # the parent's newest state
                trial.run_metadata.checkpoint_manager._latest_checkpoint_result = None
                self.events.append(f"{trial.number} takes over {parent.number} at {parent.position * self.interval:g}")
            trial.on_record = dict(trial.config)

    def _train(self, trial: SimulatedTrial) -> None:
        trial.trains = False
        recorded = self.record[trial.number]
        if trial.told < len(recorded):
            result, decides = self._replayed(trial, recorded)
        elif self.fails_at.get(trial.number) == trial.position:
            del self.fails_at[trial.number]
            trial.status = ERROR
            self.scheduler.on_trial_error(self, trial)
            trial.status = PENDING
            self._trial_to_actor.pop(trial, None)
            self.scheduler.on_trial_add(self, trial)
            return
        else:
            result, decides = self._validated(trial), True
        trial.last_result = result
        if result["done"]:
            self._end(trial)
            return
        decision = self.scheduler.on_trial_result(self, trial, result)
        assert decides or decision in (CONTINUE, PAUSE), f"{decision} on a row that is on record"
        if decision != STOP:
            self.search_alg.searcher.on_trial_result(trial.trial_id, result)
        if decision == CONTINUE:
            trial.trains = True
        elif decision == STOP:
            self.stop_trial(trial)
        elif decision == PAUSE:
            self.pause_trial(trial)
        else:
            assert decision == NOOP

    def _replayed(self, trial: SimulatedTrial, recorded: list[Row]) -> tuple[dict[str, Any], bool]:
        row = recorded[trial.told]
        trial.told += 1
        trial.value, trial.position, trial.best = row.score, round(row.epoch / self.interval), max(trial.best, row.score)
        is_last, has_ended = trial.told == len(recorded), trial.number in self.ended
        if is_last:
            trial.value, trial.position = self.states[trial.number]
        fresh = self.last_is_fresh and is_last and not has_ended
        return self._result(trial, row.score, row.segment, row.epoch) | {"replayed": True, "went_on": not fresh, "done": is_last and has_ended}, fresh

    def _validated(self, trial: SimulatedTrial) -> dict[str, Any]:
        if callable(self.curves):
            trial.value += self.curves(trial.config)
            length = self.length
        else:
            trial.value, length = self.curves[trial.number][trial.position], len(self.curves[trial.number])
        trial.position += 1
        trial.best = max(trial.best, trial.value)
        row = Row(trial.number, trial.config.get("segment", 0), trial.position * self.interval, trial.value)
        self.rows.append(row)
        self.new_rows.append(row)
        return self._result(trial, trial.value, row.segment) | {"replayed": False, "done": trial.position == length}

    def _result(self, trial: SimulatedTrial, score: float, segment: int, epoch: float | None = None) -> dict[str, Any]:
        result = {
            "epoch": trial.position * self.interval if epoch is None else epoch,
            "segment": segment,
            "training_iteration": trial.position,
            "trial_id": trial.trial_id,
        }
        if math.isfinite(trial.best):
            result["best_score"] = trial.best
        return result | ({"score": score} if math.isfinite(score) else {})

    # ------------------------------------------------------------------------------------------------ results

    @property
    def epochs(self) -> dict[int, float]:
        """The last epoch that each trial reached."""
        return {number: max((row.epoch for row in self.rows if row.trial == number), default=0.0) for number in range(self.num_trials)}

    def curve(self, number: int) -> list[float]:
        return [row.score for row in self.rows if row.trial == number]
