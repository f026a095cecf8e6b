"""``ray.tune.report`` in an objective: the call returns once the report is on record, or never if the trial ends there.

The objective takes turns with the receiver of its reports in the same thread, like a generator but without ``yield``. So training loops of other
libraries can report through callbacks (those for Keras, Lightning, XGBoost and transformers all call ``ray.tune.report``).
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenlet import getcurrent, greenlet

from ..errors import InvalidReport

FILES = "files"  # subfolder of a trial's folder, for files that an objective writes

MOST_EXITS = 100


@dataclass(frozen=True)
class Report:
    """A report of an objective.

    Attributes:
        values: the reported metrics, or what the objective returned.
        checkpoint: Ray's ``Checkpoint``, a folder that ``ray.tune.get_checkpoint`` returns when the trial is continued.
        is_last: whether the objective returned.
    """

    values: Any
    checkpoint: Any = None
    is_last: bool = False


@dataclass
class TrialSession:
    """Stands in for Ray's session, which ``ray.tune.report``, ``get_checkpoint`` and ``get_context`` use.

    Attributes:
        loaded_checkpoint: the checkpoint to continue from; None: the trial starts.
        misused: why a report could not be received; empty: all were.
    """

    trial_id: str
    trial_dir: str
    experiment_name: str
    loaded_checkpoint: Any = None
    trial_resources: Any = None
    world_rank: int | None = None
    misused: str = ""

    @property
    def trial_name(self) -> str:
        return self.trial_id

    def report(self, metrics: dict[str, Any], checkpoint: Any = None) -> None:
        listener = getcurrent().parent
        if listener is None:
            self.misused = "tune.report: it was called outside the objective's own thread, or in an objective that yields; yield or report, and in that thread"
            raise InvalidReport(self.misused)
        listener.switch(Report(metrics, checkpoint))


@contextlib.contextmanager
def session_of(trial_folder: Path, newest: Path | None, resources: Mapping[str, float]) -> Iterator[TrialSession]:
    """Makes Ray's functions for objectives refer to this trial within the block, and to its folder for files (``get_context().get_trial_dir()``).

    Args:
        newest: the folder of its newest checkpoint; None: there is none.
        resources: the trial's ``cpu`` and ``gpu``.
    """
    from ray import tune
    from ray.train._internal import session  # where all of these functions look

    checkpoint = None if newest is None else tune.Checkpoint.from_directory(str(newest))
    before = session._session
    files = trial_folder / FILES
    files.mkdir(exist_ok=True)
    ours = TrialSession(trial_folder.name, str(files), trial_folder.parent.parent.parent.name, checkpoint, request_of(resources))
    session._session = ours  # type: ignore[assignment]
    try:
        yield ours
    finally:
        session._session = before
        with contextlib.suppress(OSError):  # it has written files there
            files.rmdir()


def request_of(resources: Mapping[str, float]) -> Any:
    """A trial's resources as Ray gives them (``get_context().get_trial_resources()``)."""
    from ray.tune import PlacementGroupFactory

    return PlacementGroupFactory([{kind.upper(): float(amount) for kind, amount in resources.items() if amount}])


def reports_of(objective: Callable[[], Any]) -> Iterator[Report]:
    """Yields what an objective reports, and finally what it returns. Closing the iterator ends the objective where it is."""

    def called() -> Any:
        try:
            return objective()
        except StopIteration as error:  # a StopIteration out of this generator would be blamed on the generator itself
            raise RuntimeError("the objective called next() on an exhausted iterator and did not catch the StopIteration") from error

    worker = greenlet(called)
    worker.gr_context = contextvars.copy_context()
    try:
        said = worker.switch()
        while not worker.dead:
            yield said
            said = worker.switch()
        yield Report(said, is_last=True)
    finally:
        for _ in range(MOST_EXITS):  # repeatedly, because an objective may catch every exception and report again
            if worker.dead:
                break
            worker.throw()  # raises GreenletExit where the objective reports
