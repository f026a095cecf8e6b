"""Everything this library raises on purpose.

Each class also derives from the matching builtin, so ``except ValueError`` works without knowing the tree::

    AutoMMHPOError
    ├── InvalidInput (ValueError)               the call is wrong: nothing was started
    │   ├── MultipleProblems                    two or more problems of one call, listed together
    │   ├── UnknownHyperparameter               a key that does not exist
    │   ├── InvalidHyperparameter               a value that its key forbids, or keys in conflict
    │   ├── InvalidSpace                        a search space that cannot be searched
    │   ├── InvalidTuneSettings                 hyperparameter_tune_kwargs
    │   ├── InvalidArgument                     any other argument of a public call
    │   │   └── InvalidReport                   an objective that does not report its metric
    │   └── InvalidData                         tables, labels and columns
    │       └── BadImages                       files that are missing or do not open as images
    ├── MissingData (FileNotFoundError)         a file or folder that an argument names does not exist
    ├── NotSupported (NotImplementedError)      a known feature that is not offered here, or whose package is not installed
    ├── WeightsUnavailable (OSError)            pretrained weights that cannot be fetched or loaded
    ├── DiskFull (OSError)                      no room for a file
    ├── SavePathExists (FileExistsError)        a folder that holds other files, or a search not to be resumed
    ├── SearchMismatch (ValueError)             a folder that holds a search begun with other arguments or data
    ├── SearchInUse (RuntimeError)              a folder in which another process or thread is searching
    ├── NotFitted (RuntimeError)                a call that needs a fitted predictor
    ├── NotAPredictor (ValueError)              a folder without a predictor (or search) of ours, or of another format version
    ├── CorruptFile (ValueError)                a file that is damaged or does not match its checksum
    ├── TimeLimitTooShort (TimeoutError)        a time limit that leaves no time for a first score
    └── AllTrialsFailed (RuntimeError)          a search in which no trial has a score
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager


class AutoMMHPOError(Exception):
    """Base of all errors of this library."""


class InvalidInput(AutoMMHPOError, ValueError):
    pass


class MultipleProblems(InvalidInput):
    """``problems`` holds the single errors, which need not all be InvalidInput. A problem that is alone is raised itself."""

    def __init__(self, problems: list[AutoMMHPOError]) -> None:
        self.problems = problems
        lines = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(problems, 1))
        super().__init__(f"{len(problems)} problems, nothing was started:\n{lines}")

    def __reduce__(self):  # exceptions are pickled between processes, and by default unpickling calls __init__ with .args
        return type(self), (self.problems,)


class UnknownHyperparameter(InvalidInput):
    pass


class InvalidHyperparameter(InvalidInput):
    pass


class InvalidSpace(InvalidInput):
    pass


class InvalidTuneSettings(InvalidInput):
    pass


class InvalidArgument(InvalidInput):
    pass


class InvalidReport(InvalidArgument):
    """An objective does not report its metric. Its other trials would fail in the same way."""


class InvalidData(InvalidInput):
    pass


class BadImages(InvalidData):
    pass


class MissingData(AutoMMHPOError, FileNotFoundError):
    pass


class NotSupported(AutoMMHPOError, NotImplementedError):
    pass


class WeightsUnavailable(AutoMMHPOError, OSError):
    pass


class DiskFull(AutoMMHPOError, OSError):
    pass


class SavePathExists(AutoMMHPOError, FileExistsError):
    pass


class SearchMismatch(AutoMMHPOError, ValueError):
    pass


class SearchInUse(AutoMMHPOError, RuntimeError):
    pass


class NotFitted(AutoMMHPOError, RuntimeError):
    pass


class NotAPredictor(AutoMMHPOError, ValueError):
    pass


class CorruptFile(AutoMMHPOError, ValueError):
    pass


class TimeLimitTooShort(AutoMMHPOError, TimeoutError):
    pass


class AllTrialsFailed(AutoMMHPOError, RuntimeError):
    pass


class Problems:
    """Gathers the errors of one call so that the user sees all of them at once.

    >>> problems = Problems()
    >>> with problems.gather():
    ...     raise InvalidArgument("seed: expected an integer, got 'x'")
    >>> problems.raise_any()
    Traceback (most recent call last):
    automm_hpo.errors.InvalidArgument: seed: expected an integer, got 'x'
    """

    def __init__(self) -> None:
        self.found: list[AutoMMHPOError] = []

    def add(self, problem: AutoMMHPOError) -> None:
        self.found.extend(problem.problems if isinstance(problem, MultipleProblems) else [problem])

    @contextmanager
    def gather(self) -> Iterator[None]:
        try:
            yield
        except AutoMMHPOError as problem:
            self.add(problem)

    def raise_any(self) -> None:
        if len(self.found) == 1:
            raise self.found[0] from None
        if self.found:
            raise MultipleProblems(self.found) from None


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Up to three known words that begin with this one; if there are none, the most similar word and others that are nearly as similar."""
    as_written = {name.lower(): name for name in known}
    if len(word) > 2 and (longer := [name for lower, name in as_written.items() if lower.startswith(word.lower())]):
        return longer[:3]
    near = difflib.get_close_matches(word.lower(), as_written, n=3, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, name, word.lower()).ratio() for name in near]
    return [as_written[name] for name, ratio in zip(near, likeness, strict=True) if ratio > likeness[0] - 0.06]


def listed(names: Collection[object], most: int = 20) -> str:
    """The names, of many only the first.

    >>> listed(["a", 1, "b"], most=2)
    "'a', 1, ... (3 in all)"
    """
    shown = ", ".join(map(repr, itertools.islice(names, most)))
    return f"{shown}, ... ({len(names):,} in all)" if len(names) > most else shown


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known words, or an empty string if none is near.

    >>> did_you_mean("num_trails", ["num_trials", "searcher"])
    ' Did you mean num_trials?'
    """
    near = nearest(word, known)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def raised_in(traceback: str) -> str:
    """The error and its message from the text of a traceback, or any other text, on one line of at most 300 characters.

    >>> raised_in("Traceback (most recent call last):\\n  File 'train.py', line 1\\nValueError: two sizes:\\n  3\\n  4")
    'ValueError: two sizes: 3 4'
    """
    lines = traceback.strip().splitlines()
    starts = [number for number, line in enumerate(lines, 1) if line.startswith("Traceback (most recent call last)")]
    said = lines[starts[-1] :] if starts else lines
    while starts and said and (not said[0] or said[0][0].isspace()):  # skips the frames, which are indented; lines after the error may be indented too
        said = said[1:]
    return " ".join(" ".join(said).split())[:300]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none.

    >>> first_line(AssertionError())
    'AssertionError'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
