"""Checks and normalises single arguments of the public calls. Reads folders, but writes nothing."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from datetime import datetime
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from .errors import InvalidArgument, Problems, SavePathExists
from .files import is_predictor
from .hpo.identity import is_abandoned, is_search
from .sections import unwrapped


def plan_path(path: str | Path | None, resume: bool | str) -> tuple[Path, bool]:
    """The absolute folder of a fit, and whether it holds a search to resume. Without a path, the folder is named after the current time.

    Raises:
        SavePathExists: the folder holds other files, or a search that ``resume=False`` does not allow to resume.
        InvalidArgument: ``path`` or ``resume`` is invalid, or ``resume=True`` and the folder holds no search.
    """
    if resume not in ("auto", True, False):
        raise InvalidArgument(f"resume: expected 'auto', True or False, got {resume!r}")
    if path is None and resume is True:
        raise InvalidArgument("resume=True: give the save_path of the search to resume")
    if path is None:
        return Path("automm_hpo_models").absolute() / datetime.now().strftime("%Y%m%d_%H%M%S_%f"), False
    absolute = absolute_path(path, "save_path")
    if is_search(absolute / "search"):
        if resume is False:
            raise SavePathExists(f"save_path: {absolute} holds a search; pass resume=True to resume it, or give another folder. Nothing in it was changed.")
        return absolute, True
    if resume is True:
        raise InvalidArgument(f"resume=True: {absolute} holds no search; resume='auto' starts a new one")
    if not is_abandoned(absolute / "search"):
        check_unused(absolute, "save_path")
    return absolute, False


def absolute_path(path: str | os.PathLike[str], argument: str) -> Path:
    """A folder's path, made absolute; the folder need not exist.

    Raises:
        InvalidArgument: it is not a path, or its name is too long.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidArgument(f"{argument}: expected a folder's path, got {path!r}")
    absolute = Path(os.path.expanduser(text)).absolute()
    try:
        os.stat(absolute)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidArgument(f"{argument}: a name of {len(absolute.name)} characters is too long for a folder: {text[:100]}...") from None
    return absolute


def check_unused(path: Path, argument: str) -> None:
    """Refuses a folder that is in use.

    Raises:
        SavePathExists: the folder is not empty, or a file stands in its place.
    """
    parent = next((folder for folder in path.parents if folder.exists()), None)
    if (path.exists() and not path.is_dir()) or (parent is not None and not parent.is_dir()):
        raise SavePathExists(f"{argument}: {path if path.exists() else parent} is a file; give a new or an empty folder")
    if path.is_dir() and any(path.iterdir()):
        whose = "a predictor or a search" if is_predictor(path) or (path / "search").is_dir() else "files"
        raise SavePathExists(f"{argument}: {path} already holds {whose}; give a new or an empty folder. Nothing in it was touched.")


def check_flag(value: bool, argument: str) -> None:
    if not isinstance(value, bool):
        raise InvalidArgument(f"{argument}: expected True or False, got {value!r}")


def check_number(value: Any, argument: str, kind: type, words: str, valid: Callable[[Any], bool]) -> None:
    """Refuses a value that is not of ``kind`` (``numbers.Integral`` or ``numbers.Real``, which include numpy's numbers), is a boolean, or is not ``valid``."""
    if not isinstance(value, kind) or isinstance(value, bool) or not valid(value):
        raise InvalidArgument(f"{argument}: expected {words}, got {value!r}")


def check_tracking(tracking: str | None) -> None:
    if tracking not in ("mlflow", None):
        raise InvalidArgument(f"tracking: expected 'mlflow' or None, got {tracking!r}")


# fit's numeric arguments -> kind, what is expected in words, check of the value
NUMBERS: dict[str, tuple[type, str, Callable[[Any], bool]]] = {
    "seed": (Integral, "an integer >= 0 and below 2**32", lambda seed: 0 <= seed < 2**32),  # numpy's and scikit-learn's range
    "time_limit": (Real, "seconds > 0, or None", lambda seconds: 0 < seconds < math.inf),
    "holdout_frac": (Real, "a float between 0 and 1, or None", lambda fraction: 0 < fraction < 1),
    "max_num_tuning_data": (Integral, "an integer >= 1, or None", lambda rows: rows >= 1),
}


def checked_numbers(problems: Problems, seed: int, **others: float | None) -> dict[str, Any]:
    """Checks ``fit``'s numeric arguments. The error of a bad one goes to ``problems``, and its default stands in so that later checks can run."""
    checked: dict[str, Any] = {"seed": 0} | dict.fromkeys(others)
    for name, value in ({"seed": seed} | others).items():
        if value is not None or name == "seed":
            with problems.gather():
                check_number(value, name, *NUMBERS[name])
                checked[name] = unwrapped(value)
    return checked
