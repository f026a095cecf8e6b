"""What identifies a search across processes: its lock, the fingerprint of what is searched, and how the last session ended.

search/  lock           locked with flock while a process searches here; names that process
         settings.json  fingerprint, limits and the call that began the search
         outcome.json   how the last session ended; absent while one runs
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from ..config import FIELDS
from ..errors import CorruptFile, InvalidArgument, SearchInUse, SearchMismatch
from ..files import is_json, read_json, temporary_name, write_json
from ..metrics import Metric, searched_metric, stored_metric
from ..sections import unwrapped

FORMAT = 1
DIGESTS = {  # stored as digests, whose values would mean nothing to a reader
    "train": "rows to train on: other values, labels, files or order of columns than before",
    "valid": "rows to validate on: other values, labels, files or order of columns than before",
    "scorer": "validation_metric: a scorer with other arguments or other code than before (as of another version of Python)",
    "start_from": "start_from: other weights than before",
}
COPIES = "(a file counts by its path, size and time of change: one that was copied is another one, unless the copy kept its time, as of cp -p)"
COMPLETE, GOAL = "complete", "goal reached"


@dataclass(frozen=True)
class SearchIdentity:
    """What distinguishes a search from others.

    Attributes:
        fingerprint: what must be equal for a search to be resumed, by the names under which differences are reported.
        limits: what may change from call to call.
        call: the arguments of ``fit`` that JSON can hold, with which ``load(path, resume=True)`` repeats the call. In addition ``chosen``:
            what was measured, or derived from a limit, when the search began, and could come out differently now.
    """

    fingerprint: Mapping[str, Any]
    limits: Mapping[str, Any]
    call: Mapping[str, Any]

    @property
    def chosen(self) -> Mapping[str, Any]:
        return self.call.get("chosen", {})

    @property
    def is_searched(self) -> bool:
        """Whether there is a search space, and not just a single trial with given values."""
        return "num_trials" in self.limits

    @property
    def is_objective(self) -> bool:
        """Whether ``tune_objective`` began the search."""
        return self.call.get("kind") == "objective"

    @property
    def metric(self) -> Metric:
        """The metric by which the search compares trials."""
        return searched_metric(self.call["metric"], self.call["mode"]) if self.is_objective else stored_metric(self.fingerprint["validation_metric"])

    @classmethod
    def of(cls, fingerprint: Mapping[Any, Any], limits: Mapping[str, Any], call: Mapping[str, Any]) -> Self:
        """An identity with its values converted as if written to the file and read back, so that the two compare equal."""
        return cls(*(json.loads(json.dumps({str(name): value for name, value in part.items()}, default=_plain)) for part in (fingerprint, limits, call)))


def _plain(value: Any) -> Any:
    """A value that JSON cannot hold, as one that it can."""
    plain = unwrapped(value)
    return plain if is_json(plain) else str(value)


def is_search(folder: Path) -> bool:
    """Whether the folder holds one of our searches, and not other files of the same names."""
    try:
        read_identity(folder)
    except (CorruptFile, OSError):
        return False
    return True


def read_identity(folder: Path) -> SearchIdentity:
    """Reads the identity of the search in this folder.

    Raises:
        CorruptFile: the file was not written by this version.
    """
    stored = read_json(folder / "settings.json")
    names = [field.name for field in fields(SearchIdentity)]
    if not isinstance(stored, dict) or stored.get("format") != FORMAT or not stored.keys() >= set(names):
        raise CorruptFile(f"{folder / 'settings.json'} was not written by this version of automm_hpo")
    return SearchIdentity(**{name: stored[name] for name in names})


def is_abandoned(folder: Path) -> bool:
    """Whether the search in this folder was killed before it wrote its identity, and the parent folder holds nothing else."""
    if not folder.is_dir() or [entry.name for entry in folder.parent.iterdir()] != [folder.name]:
        return False
    return {entry.name for entry in folder.iterdir()} <= {"lock", temporary_name("settings.json")}


def write_identity(folder: Path, identity: SearchIdentity) -> None:
    write_json(folder / "settings.json", {"format": FORMAT, **asdict(identity)})


def check_same_search(stored: SearchIdentity, wanted: SearchIdentity, folder: Path) -> None:
    """Refuses to resume a search that differs from the one asked for.

    Raises:
        SearchMismatch: lists every difference.
    """
    before, now, absent = stored.fingerprint, wanted.fingerprint, "absent"
    if not stored.is_objective:  # a hyperparameter that did not exist then had no effect, as has its default
        before = {key: field.default for key, field in FIELDS.items() if key not in before and key in now} | dict(before)
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name, absent) != now.get(name, absent)]
    differences = [DIGESTS[name] if name in DIGESTS else f"{name}: was {before.get(name, absent)!r}, is {now.get(name, absent)!r}" for name in names]
    other_rows = bool({"train", "valid"} & {*names})
    if other_rows and "image_path" in before.get("columns", {}).values():
        differences.append(COPIES)
    fewest, asked = stored.limits.get("num_trials") or 0, wanted.limits.get("num_trials") or 0
    if asked < fewest:
        differences.append(f"num_trials: was {fewest}, is {asked}; it can only be raised")
    if differences:
        listed = "\n".join(f"  {difference}" for difference in differences)
        # presets also depend on the device, so the same arguments may mean another search on another machine
        begun = "" if stored.is_objective else f" (as MultiModalPredictor.load({str(folder.parent)!r}, resume=True).fit(train_data) does)"
        known = f", where hyperparameter_tune_kwargs={{'warm_start': {str(folder.parent)!r}}} uses its trials" if other_rows and wanted.is_searched else ""
        raise SearchMismatch(
            f"save_path: {folder.parent} holds a search that is not the one asked for, and nothing in it was touched:\n{listed}\n"
            f"Give the arguments that it was begun with to go on with it{begun}, or another save_path{known}."
        )


@dataclass(frozen=True)
class Outcome:
    """How a session ended: ``complete``, ``goal reached``, ``time limit``, ``interrupted``, ..., and under which limits."""

    reason: str
    limits: Mapping[str, Any]


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome of the last session; None if there is none, or a damaged one, which says no more: the records tell what is left to do."""
    path = folder / "outcome.json"
    try:
        return Outcome(**read_json(path)) if path.is_file() else None
    except (CorruptFile, TypeError):
        return None


def write_outcome(folder: Path, outcome: Outcome) -> None:
    write_json(folder / "outcome.json", asdict(outcome))


def is_finished(folder: Path, wanted: SearchIdentity) -> bool:
    """Whether the last session completed the search under the same limits, so nothing is left to do."""
    outcome = read_outcome(folder)
    if outcome is None or outcome.reason not in (COMPLETE, GOAL):
        return False
    deciding = ("num_trials", "goal", "ensemble_size", "refit")
    return all(outcome.limits.get(name) == wanted.limits.get(name) for name in deciding)


@contextmanager
def search_lock(folder: Path) -> Iterator[None]:
    """Locks a search's folder. The system releases the lock when this process ends, however it ends.

    Raises:
        SearchInUse: another process, or another thread of this one, holds it.
        InvalidArgument: the file system has no locks.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode("utf-8", "replace") or "another process"
            raise SearchInUse(f"save_path: {folder.parent} is in use by {holder}; wait for it, or give another save_path") from None
        except OSError as error:
            raise InvalidArgument(f"save_path: {folder.parent} is on a file system without locks ({error.strerror}); give a folder on another") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(descriptor)
