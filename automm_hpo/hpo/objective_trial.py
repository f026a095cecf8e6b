"""A trial that runs the user's objective: a function of a config, a generator that yields once an epoch, or a ``tune.Trainable`` class."""

from __future__ import annotations

import collections
import contextlib
import functools
import inspect
import itertools
import math
import numbers
import os
import random
import shutil
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import CorruptFile, InvalidArgument, InvalidReport, NotSupported
from ..files import MANIFEST, is_json, manifest_of, read_json, write_json
from ..sections import unwrapped
from ..space import SearchSpace, finish_proposal
from ..tracking import active_run
from ..training.checkpoint_folder import SAVED, STATE, begin_checkpoint, check_checkpoint, finish_checkpoint, list_checkpoints, prune_checkpoints
from ..training.result import EpochResult, StopCheck, result_from_json, result_to_json
from .objective_space import SEPARATOR, nest
from .records import Segment, TrialFolder, TrialRecord, ends_for_good
from .trial import NUM_STATES, Newest, inherit, recovered
from .tune_report import FILES, reports_of, request_of, session_of

RETURNED = "returned"  # key in a checkpoint's state: the dict that a Trainable's save_checkpoint returned, or None
DONE = "done"  # key in an objective's report: true if it is the last one


def check_objective(objective: Any, max_epochs: int | None) -> None:
    """Refuses an objective that no trial could run.

    Raises:
        InvalidArgument: the objective is neither a function of a config nor a suitable Trainable, or ``max_epochs`` is missing.
    """
    if isinstance(objective, type):
        from ray.tune import Trainable

        if not issubclass(objective, Trainable):
            raise InvalidArgument(f"objective: expected a function or a class that inherits ray.tune.Trainable, got the class {objective.__name__}")
        if objective.default_resource_request.__qualname__ != "Trainable.default_resource_request":
            raise InvalidArgument("objective: its default_resource_request is not read here; give resources_per_trial in hyperparameter_tune_kwargs")
        if max_epochs is None:
            raise InvalidArgument("max_epochs: a Trainable needs it, because it would never stop by itself")
    elif not callable(objective):
        raise InvalidArgument(f"objective: expected a function of a config, got {objective!r}")
    elif not takes_config(objective):
        name, takes = function_of(objective).__qualname__, inspect.signature(objective)
        raise InvalidArgument(f"objective: expected a function of a config alone, got {name}{takes}; functools.partial gives it the rest")
    if getattr(function_of(objective), "_resources", None) is not None or getattr(objective, "__name__", "") == "ResourceTrainable":
        raise InvalidArgument("objective: what tune.with_resources asks for is not read here; give resources_per_trial in hyperparameter_tune_kwargs")


def takes_config(objective: Callable[..., Any]) -> bool:
    """Whether the objective can be called with one argument; True if its signature is unknown."""
    try:
        signature = inspect.signature(objective)
    except ValueError:  # some functions written in C have no signature
        return True
    try:
        signature.bind({})
    except TypeError:
        return False
    return True


def function_of(objective: Any) -> Any:
    """The object whose name and module stand for the objective: the function in a partial, the class of a callable object."""
    while isinstance(objective, functools.partial):
        objective = objective.func
    return objective if hasattr(objective, "__qualname__") else type(objective)


@contextlib.contextmanager
def sent_by_value(objective: Any) -> Iterator[None]:
    """Makes Ray pickle the objective's code by value within the block, so that the trials' processes need not be able to import its module."""
    from ray import cloudpickle

    module = sys.modules.get(function_of(objective).__module__ or "")
    if module is None or module.__name__ == "__main__" or _is_installed(getattr(module, "__file__", None)):
        _check_sent(objective)
        yield
        return
    name = module.__name__
    with _lock:  # cloudpickle's registry is process-wide: the last of several threads removes the module, unless the user registered it
        is_ours = _senders[name] > 0 or name not in cloudpickle.list_registry_pickle_by_value()
        _senders[name] += is_ours
        if is_ours and _senders[name] == 1:
            cloudpickle.register_pickle_by_value(module)
    try:
        _check_sent(objective)
        yield
    finally:
        with _lock:
            _senders[name] -= is_ours
            if is_ours and not _senders[name]:
                cloudpickle.unregister_pickle_by_value(module)


_lock = threading.Lock()
_senders = collections.Counter[str]()  # module -> number of searches that send it by value now


def _check_sent(objective: Any) -> None:
    """Refuses an objective that cannot be pickled, with a shorter message than Ray's.

    Raises:
        InvalidArgument: the objective holds a lock, a connection or the like.
    """
    from ray import cloudpickle

    try:
        with open(os.devnull, "wb") as nowhere:
            cloudpickle.dump(objective, nowhere)
    except Exception as error:  # objects that cannot be pickled raise errors of any kind
        why = f"{type(error).__name__}: {error}"
        raise InvalidArgument(f"objective: it cannot be pickled for the trials' processes ({why}); create or open such objects inside the function") from None


def _is_installed(file: str | None) -> bool:
    """Whether every process can import the file's module: built in, from the standard library, or from an installed package."""
    return file is None or "site-packages" in file or Path(file).is_relative_to(sysconfig.get_path("stdlib"))


@dataclass(frozen=True)
class Objective:
    """A trial of ``tune_objective``: runs the user's code.

    Attributes:
        function: ``config -> number, dict or iterator of dicts``, or a class that inherits ``ray.tune.Trainable``.
        metric: the name of the value that the search compares; a bare number that a function returns is this value.
        max_epochs: reports after which a trial ends; None: the objective decides.
        num_to_keep: number of best checkpoints that a running trial keeps.
        tracked: whether the trial's MLflow run is the active one while the objective runs.
        resources: ``cpu`` and ``gpu`` of a trial.
        first_exchange: the report by which a trial must have saved a checkpoint, because a population exchanges them; None: there is no population.
    """

    function: Callable[[dict[str, Any]], Any]
    space: SearchSpace
    fixed: Mapping[str, Any]
    metric: str
    higher_is_better: bool
    num_to_keep: int
    seed: int
    max_epochs: int | None = None
    tracked: bool = False
    resources: Mapping[str, float] = field(default_factory=lambda: {"cpu": 1.0})
    first_exchange: float | None = None

    def config_of(self, record: TrialRecord) -> dict[str, Any]:
        """The config that the objective is called with. It may contain objects that JSON cannot hold."""
        return self._config(record, record.segments[-1])

    def best_config_of(self, record: TrialRecord) -> dict[str, Any]:
        """The config that the objective was called with when it reached the trial's best result."""
        assert record.best, "the caller has looked"
        return self._config(record, record.segments[record.best.segment])

    def _config(self, record: TrialRecord, segment: Segment) -> dict[str, Any]:
        values = {**self.fixed, **finish_proposal(self.space, dict(record.raw), self.fixed, (self.seed, record.number))}
        if segment.number > 0:
            values |= segment.tuned
        return nest(values)

    def recover(self, folder: TrialFolder) -> TrialRecord:
        record = folder.read()
        if record.results and ends_for_good(record.results[-1].end):
            return record  # killed before its end was recorded; a function would start over
        if _newest_state(folder.checkpoints) is None:  # it starts over, and its first new result will replace the old ones on disk
            shutil.rmtree(folder.checkpoints, ignore_errors=True)  # all are damaged
            return replace(record, results=())
        return recovered(folder, record, _newest_state)

    def take_over(self, folder: TrialFolder, parent: TrialFolder, segment: Segment) -> None:
        def copy(path: Path, result: EpochResult) -> EpochResult:
            def save(place: Path) -> Any:
                shutil.copytree(path / SAVED, place, dirs_exist_ok=True)
                return read_json(path / STATE)[RETURNED]

            start = replace(result, segment=segment.number, end=None)
            _store(folder, start, save, inherited=True)
            return start

        inherit(folder, parent, segment, _newest_state, copy)

    def __call__(self, folder: TrialFolder, should_stop: StopCheck) -> Iterator[EpochResult]:
        def ended(result: EpochResult) -> EpochResult:
            """The result, with the reason in ``end`` if the trial ends here."""
            enough = self.max_epochs is not None and result.step >= self.max_epochs
            return replace(result, end=result.end or ("max_epochs" if enough else should_stop(result.epoch, 0.0)))

        run = self._run_class if isinstance(self.function, type) else self._run_function
        random.seed(self._noise(folder.number))
        np.random.seed(self._noise(folder.number))
        if torch := sys.modules.get("torch"):
            torch.manual_seed(self._noise(folder.number))
        newest = _newest_state(folder.checkpoints)
        starts_over = newest is None
        with active_run(folder.path) if self.tracked else contextlib.nullcontext():
            for result in run(folder, newest, ended):
                if starts_over:
                    folder.rewrite_results([result])
                    starts_over = False
                else:
                    folder.append(result)
                yield result
                if result.end is not None:
                    return
        if starts_over:
            raise InvalidReport("the objective yielded nothing; yield or return a dict of metrics")
        # the last row is the end: whether a generator has ended is known only after it was asked for another result
        *rows, last = folder.results()
        folder.rewrite_results([*rows, replace(last, end="returned")])

    def _noise(self, number: int) -> int:
        """The seed of a trial's random generators: different for each trial, and the same if the call is repeated."""
        return int(np.random.SeedSequence([self.seed % 2**32, number]).generate_state(1)[0])

    def _run_function(self, folder: TrialFolder, newest: Newest | None, ended: Callable[[EpochResult], EpochResult]) -> Iterator[EpochResult]:
        """Calls a function, which returns, yields or reports.

        Args:
            newest: the checkpoint to continue from; None: the trial starts.
            ended: sets a result's ``end`` if the trial ends with it. Called before a checkpoint is saved, because a kill may come before the log has the row.
        """
        record = folder.read()
        config, segment, before = self.config_of(record), record.segments[-1].number, record.seconds if newest else 0.0
        epoch = newest[1].step if newest else 0
        with session_of(folder.path, newest[0] / SAVED if newest else None, self.resources) as session:
            for said, spent in _timed(reports_of(lambda: self.function(config))):
                if said.is_last and session.misused:
                    raise InvalidReport(session.misused)
                if said.is_last and _is_generator(said.values):
                    for values, more in _timed(_with_returned(said.values, self.metric)):
                        epoch += 1
                        result = ended(self._result(values, epoch, before + spent + more, segment))
                        self._check_saved(folder, result)
                        yield result
                elif said.is_last and said.values is None and epoch:  # all its results were reported
                    return
                else:
                    epoch += 1
                    result = self._result(said.values, epoch, before + spent, segment)
                    result = ended(replace(result, end=result.end or "returned") if said.is_last else result)
                    if said.checkpoint is not None:
                        self._keep(folder, result, functools.partial(_copy, said.checkpoint))
                    self._check_saved(folder, result)
                    yield result

    def _run_class(self, folder: TrialFolder, newest: Newest | None, ended: Callable[[EpochResult], EpochResult]) -> Iterator[EpochResult]:
        """Steps a Trainable, and saves its state in the trial's folder after every step if it can. Takes the arguments of ``_run_function``."""
        record = folder.read()
        epoch, seconds, can_save = newest[1].step if newest else 0, record.seconds if newest else 0.0, True
        trainable = _build(self.function, self.config_of(record), folder, self.resources)

        def step() -> Any:
            trainable._iteration = epoch
            return trainable.step()

        try:
            trainable._iteration = epoch  # normally counted by Ray's ``train``, which would write many other files
            if newest:
                returned = read_json(newest[0] / STATE)[RETURNED]
                trainable.load_checkpoint(str(newest[0] / SAVED) if returned is None else returned)
            for values, spent in _timed(step() for _ in itertools.repeat(None)):
                epoch += 1
                result = ended(self._result(values, epoch, seconds + spent, record.segments[-1].number))
                if can_save:
                    can_save = self._keep(folder, result, lambda place: trainable.save_checkpoint(str(place)))
                yield result
                if result.end is not None:
                    return
        finally:
            trainable.cleanup()
            with contextlib.suppress(OSError):  # it has written files there
                os.rmdir(trainable.logdir)
                os.rmdir(folder.path / FILES)

    def _check_saved(self, folder: TrialFolder, result: EpochResult) -> None:
        """Raises InvalidReport if other trials of a population should now be able to take over this one's checkpoint, and there is none."""
        if self.first_exchange is None or result.end is not None or result.step < self.first_exchange:
            return
        if not list_checkpoints(folder.checkpoints):
            words = f"the scheduler passes checkpoints from trial to trial, for the first time after {result.step} reports, and the objective has saved none"
            raise InvalidReport(f"{words}; give one to tune.report(..., checkpoint=...), and begin from tune.get_checkpoint()")

    def _keep(self, folder: TrialFolder, result: EpochResult, save: Callable[[Path], Any]) -> bool:
        """Saves a checkpoint and prunes older ones; False if the Trainable has no way to save."""
        saved = _store(folder, result, save)
        prune_checkpoints(folder.checkpoints, self.num_to_keep, NUM_STATES)
        return saved

    def _result(self, values: Any, epoch: int, seconds: float, segment: int) -> EpochResult:
        reported = dict(_flat(values)) if isinstance(values, Mapping) else {self.metric: values}
        done = bool(reported.pop(DONE, False))
        if self.metric not in reported:
            raise InvalidReport(f"the objective reported {', '.join(map(repr, reported)) or 'nothing'}, and not the metric {self.metric!r}")
        plain = {name: unwrapped(value) for name, value in reported.items()}
        metric = plain.pop(self.metric)
        if isinstance(metric, bool) or not isinstance(metric, numbers.Real):
            hint = "; return it, or a dict with it, or yield such a dict once an epoch, or give it to tune.report" if metric is None else ""
            raise InvalidReport(f"the objective's {self.metric!r}: expected a number, got {metric!r} ({type(metric).__name__}){hint}")
        extra = {name: float(value) for name, value in plain.items() if isinstance(value, numbers.Real)}
        score = float(metric) if self.higher_is_better else -float(metric)
        end = "not_finite" if not math.isfinite(score) else "returned" if done else None
        score = score if math.isfinite(score) else math.nan
        return EpochResult(float(epoch), epoch, score, float(metric), math.nan, math.nan, math.nan, seconds, end, segment, extra=extra)


def _flat(reported: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (name, value), with the names of nested dicts joined as in a config."""
    for name, value in reported.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}{SEPARATOR}")
        else:
            yield f"{prefix}{name}", value


def _is_generator(returned: Any) -> bool:
    return inspect.isgenerator(returned) or (isinstance(returned, Iterator) and not isinstance(returned, Mapping))


def _with_returned(values: Generator[Any, Any, Any], metric: str) -> Iterator[Any]:
    """Yields what a generator yields, and finally what it returns, if that is a report (and not, say, a model or a history)."""
    returned = unwrapped((yield from values))
    is_report = metric in dict(_flat(returned)) if isinstance(returned, Mapping) else isinstance(returned, numbers.Real) and not isinstance(returned, bool)
    if is_report:
        yield returned


def _build(trainable: Any, config: dict[str, Any], folder: TrialFolder, resources: Mapping[str, float]) -> Any:
    """Builds a Trainable like Ray, with its trial's name, but with its files in the trial's folder instead of the user's home."""
    from ray.tune.result import TRIAL_INFO
    from ray.tune.trainable import trainable as module

    module.DEFAULT_STORAGE_PATH = str(folder.path / FILES)
    info = SimpleNamespace(trial_id=folder.path.name, trial_name=folder.path.name, trial_resources=request_of(resources))
    return trainable(config={**config, TRIAL_INFO: info})


def _copy(checkpoint: Any, place: Path) -> None:
    with checkpoint.as_directory() as files:
        shutil.copytree(files, place, dirs_exist_ok=True)


def _timed(values: Iterator[Any]) -> Iterator[tuple[Any, float]]:
    """Yields each value with the total seconds spent on producing values so far. Time between them, when the trial may wait for others, does not count."""
    seconds = 0.0
    while True:
        started = time.perf_counter()
        try:
            value = next(values)
        except StopIteration:
            return
        seconds += time.perf_counter() - started
        yield value, seconds


def _store(folder: TrialFolder, result: EpochResult, save: Callable[[Path], Any], inherited: bool = False) -> bool:
    """Saves a checkpoint under a temporary name and renames it when it is complete; False if the Trainable has no way to save.

    Args:
        save: writes files into the folder that it is given, and may return a dict to be stored too.
    """
    temporary = begin_checkpoint(folder.checkpoints, result)
    place = temporary / SAVED
    place.mkdir()
    try:
        returned = save(place)
    except NotImplementedError:
        shutil.rmtree(temporary)
        return False
    returned = {key: unwrapped(value) for key, value in returned.items()} if isinstance(returned, dict) else None
    if bad := [key for key, value in (returned or {}).items() if not isinstance(key, str) or not is_json(value)]:
        raise NotSupported(f"save_checkpoint: {bad[0]!r} of the dict that it returned cannot be stored as JSON; write it to a file in the folder it is given")
    write_json(temporary / STATE, {"result": result_to_json(result), "inherited": inherited, RETURNED: returned})
    files = [str(path.relative_to(temporary)) for path in (temporary / STATE, *sorted(place.rglob("*"))) if path.is_file()]
    write_json(temporary / MANIFEST, manifest_of(temporary, files))
    finish_checkpoint(temporary, result)
    return True


def _newest_state(checkpoints: Path) -> Newest | None:
    for path in reversed(list_checkpoints(checkpoints)):
        with contextlib.suppress(CorruptFile, OSError):
            check_checkpoint(path, needed=(STATE,))
            return path, result_from_json(read_json(path / STATE)["result"])
    return None
