"""``ray.tune.report`` within an objective: whoever calls it waits there until the report is on record, and goes on, or ends there with the trial.

The objective runs in the trial's own thread beside whoever takes its reports, as a generator does, but without a ``yield``: so loops that belong to
somebody else can report through a callback (those of Keras, Lightning, XGBoost and transformers all call ``ray.tune.report``).
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

FILES = "files"  # in a trial's folder: those that an objective writes

MOST_EXITS = 100


@dataclass(frozen=True)
class Report:
    """What an objective said.

    Attributes:
        values: metrics, or what it returned.
        checkpoint: Ray's, a folder that ``ray.tune.get_checkpoint`` is to give when the trial goes on.
        is_last: it returned.
    """

    values: Any
    checkpoint: Any = None
    is_last: bool = False


@dataclass
class TrialSession:
    """Stands where Ray has its session: what ``ray.tune.report``, ``get_checkpoint`` and ``get_context`` ask.

    Attributes:
        loaded_checkpoint: to go on from; None: the trial begins.
        misused: why a report was not heard; empty: all were.
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
            self.misused = "tune.report: it was called in another thread than the objective, or in one that yields; yield, or report, in the objective's own"
            raise InvalidReport(self.misused)
        listener.switch(Report(metrics, checkpoint))


@contextlib.contextmanager
def session_of(trial_folder: Path, newest: Path | None, resources: Mapping[str, float]) -> Iterator[TrialSession]:
    """Within, Ray's functions for objectives know of this trial, and of the folder that it may write to (``get_context().get_trial_dir()``).

    Args:
        newest: the folder of its last checkpoint.
        resources: the trial's ``cpu`` and ``gpu``.
    """
    from ray import tune
    from ray.train._internal import session  # the one place that all of them look at

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
    """What Ray says of a trial's resources (``get_context().get_trial_resources()``)."""
    from ray.tune import PlacementGroupFactory

    return PlacementGroupFactory([{kind.upper(): float(amount) for kind, amount in resources.items() if amount}])


def reports_of(objective: Callable[[], Any]) -> Iterator[Report]:
    """What an objective reports, and what it returns. Whoever stops asking ends it where it is."""

    def called() -> Any:
        try:
            return objective()
        except StopIteration as error:  # of a generator, as this is, it would be said to be its own
            raise RuntimeError("the objective asked next() of something that had no more, and let its StopIteration out") from error

    worker = greenlet(called)
    worker.gr_context = contextvars.copy_context()
    try:
        said = worker.switch()
        while not worker.dead:
            yield said
            said = worker.switch()
        yield Report(said, is_last=True)
    finally:
        for _ in range(MOST_EXITS):  # of an objective that catches everything, as often as it reports
            if worker.dead:
                break
            worker.throw()  # GreenletExit, where it reports
