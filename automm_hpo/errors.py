"""Everything this library raises on purpose.

Each class is also the natural builtin, so ``except ValueError`` works for people who do not know the tree::

    AutoMMHPOError
    ├── InvalidInput (ValueError)             several problems of one call, listed together
    ├── UnknownHyperparameter (ValueError)    a key that does not exist
    ├── InvalidHyperparameter (ValueError)    a value that its key forbids, or keys in conflict
    ├── InvalidSpace (ValueError)             a search space that cannot be searched
    ├── InvalidTuneSettings (ValueError)      hyperparameter_tune_kwargs
    ├── InvalidArgument (ValueError)          any other argument of a public call
    │   └── InvalidReport                     an objective that does not report its metric
    ├── InvalidData (ValueError)              tables, labels and columns
    │   └── BadImages                         files that are missing or do not open as images
    ├── MissingData (FileNotFoundError)       a table's own file is not there
    ├── NotSupported (NotImplementedError)    known, named, and not offered
    ├── WeightsUnavailable (OSError)          pretrained weights that cannot be had
    ├── DiskFull (OSError)                    no room for a file
    ├── SavePathExists (FileExistsError)      a folder that holds somebody's files
    ├── SearchMismatch (ValueError)           a folder holds a search, and this call is another one
    ├── SearchInUse (RuntimeError)            another process is searching in this folder
    ├── NotFitted (RuntimeError)
    ├── NotAPredictor (ValueError)            a folder that is none of ours, or of a newer format
    ├── CorruptFile (ValueError)              a checksum does not match
    ├── TimeLimitTooShort (TimeoutError)
    └── AllTrialsFailed (RuntimeError)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class AutoMMHPOError(Exception):
    """Base of all errors of this library."""


class InvalidInput(AutoMMHPOError, ValueError):
    """Several problems of one call; ``problems`` holds the single errors."""

    def __init__(self, problems: list[AutoMMHPOError]) -> None:
        self.problems = problems
        lines = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(problems, 1))
        super().__init__(f"{len(problems)} problems, nothing was started:\n{lines}")

    def __reduce__(self):  # exceptions cross process borders by pickle, which calls __init__ with .args otherwise
        return type(self), (self.problems,)


class UnknownHyperparameter(AutoMMHPOError, ValueError):
    pass


class InvalidHyperparameter(AutoMMHPOError, ValueError):
    pass


class InvalidSpace(AutoMMHPOError, ValueError):
    pass


class InvalidTuneSettings(AutoMMHPOError, ValueError):
    pass


class InvalidArgument(AutoMMHPOError, ValueError):
    pass


class InvalidReport(InvalidArgument):
    """Of an objective: it does not report what it was said to. It will not in other trials, either."""


class InvalidData(AutoMMHPOError, ValueError):
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
        self.found.extend(problem.problems if isinstance(problem, InvalidInput) else [problem])

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
            raise InvalidInput(self.found) from None


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Up to three known words that begin with this one, or look like it: the nearest, and those that are hardly less near."""
    as_written = {name.lower(): name for name in known}
    if len(word) > 2 and (longer := [name for lower, name in as_written.items() if lower.startswith(word.lower())]):
        return longer[:3]
    near = difflib.get_close_matches(word.lower(), as_written, n=3, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, name, word.lower()).ratio() for name in near]
    return [as_written[name] for name, ratio in zip(near, likeness, strict=True) if ratio > likeness[0] - 0.06]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint naming the nearest known words, or an empty string where nothing is near.

    >>> did_you_mean("num_trails", ["num_trials", "searcher"])
    ' Did you mean num_trials?'
    """
    near = nearest(word, known)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def raised_in(traceback: str) -> str:
    """What was raised, on one line of at most 300 characters, from the text of a traceback; any other text as it is.

    >>> raised_in("Traceback (most recent call last):\\n  File 'train.py', line 1\\nValueError: two sizes:\\n  3\\n  4")
    'ValueError: two sizes: 3 4'
    """
    lines = traceback.strip().splitlines()
    starts = [number for number, line in enumerate(lines, 1) if line.startswith("Traceback (most recent call last)")]
    said = lines[starts[-1] :] if starts else lines
    while starts and said and (not said[0] or said[0][0].isspace()):  # the frames before it are indented, and so may be what follows
        said = said[1:]
    return " ".join(" ".join(said).split())[:300]
