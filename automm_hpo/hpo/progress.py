"""Shows a search to a person: a live table, or lines if the output is not a terminal or notebook, and a summary table at the end."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..metrics import Metric
from ..training.result import NO_RANK, EpochResult
from .display import Display, Notebook, find_display
from .records import FAILED, RUNNING, SearchRecords, TrialRecord
from .table import TrialRow, count_text, fit_width, notes_on, number_text, short_name, table_lines, trial_columns, value_text

SECONDS_BETWEEN_BESTS = 10.0  # a trial may improve with every epoch, and nobody would read that many lines
LONGEST_SILENCE = 10.0  # seconds of a single training without a line; a third of its time so far, if that is longer
SUMMARY_ROWS, SUMMARY_WIDTH = 20, 100


class Progress:
    """Receives the events of a search and shows them. A context manager: the live table is visible while the search is inside.

    Args:
        verbosity: 0 prints nothing, 1 the summary, 2 and more everything.
        deadline: time.time() at which the call must return; None: no limit.
        write: prints a line; if given, no live table is chosen.
        display: where to draw the live table; None: chosen by where the output goes.
    """

    def __init__(
        self,
        metric: Metric,
        verbosity: int,
        num_trials: int,
        deadline: float | None,
        write: Callable[[str], None] | None = None,
        display: Display | None = None,
    ) -> None:
        self.metric, self.verbosity, self.num_trials, self.deadline = metric, verbosity, num_trials, deadline
        self.write = write or print_line
        self.best: tuple[EpochResult, int] | None = None
        self._said_best = self._said = 0.0
        self._first_seen: tuple[float, float] | None = None  # (time, epoch) of the single training
        self._rows: dict[int, TrialRow] = {}
        self._lock = threading.Lock()  # the table is drawn on a thread of its own
        watched = write is None and verbosity > 0 and num_trials > 1
        self._display = display or (find_display() if watched else None)
        self._drawing: threading.Thread | None = None
        self._done = threading.Event()

    # ---------------------------------------------------------------------------------------------------- the live table

    def __enter__(self) -> Self:
        if self._display is not None and self.verbosity > 1:
            self._started = time.time()
            self._display.open()
            self._drawing = threading.Thread(target=self._keep_drawing, args=(self._display,), name="progress", daemon=True)
            self._drawing.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._display is None or self._drawing is None:
            return
        drawing, self._drawing = self._drawing, None
        try:
            self._done.set()
            drawing.join()
            self._draw(self._display)
        finally:
            self._display.close(keep=kind is not None)  # else the summary takes its place

    def _keep_drawing(self, display: Display) -> None:
        while True:
            self._draw(display)
            if self._done.wait(display.seconds):
                return

    def _draw(self, display: Display) -> None:
        with self._lock:
            rows = sorted(self._rows.values(), key=_order)
            shown, best = rows[: display.num_rows], self.best
            columns = trial_columns(shown, self.metric, running=True)
        bold = next((index for index, row in enumerate(shown) if best and row.number == best[1]), None)
        display.draw(self._headline(rows), columns, bold, f"and {len(rows) - len(shown)} more" if len(rows) > len(shown) else "")

    def _headline(self, rows: list[TrialRow]) -> str:
        counts = count_text(row.status for row in rows)
        best = f"best {self._metric(self.best[0])} (trial {self.best[1]}) | " if self.best else ""
        return f"{len(rows)} of {self.num_trials} trials{': ' if counts else ''}{counts}\n{best}{clock(time.time() - self._started)} passed{self._time_left()}"

    # ------------------------------------------------------------------------------------------------------------ events

    def trial_resumed(self, record: TrialRecord) -> None:
        self._note(TrialRow.of(record))

    def trial_retried(self, record: TrialRecord, cause: str) -> None:
        self.say(f"{self._trial(record)} lost its process and continues in a new one ({cause})", level=1)

    def trial_started(self, record: TrialRecord) -> None:
        self._note(TrialRow.of(record))
        values = _values_text(record.tuned)
        if record.results:
            self._tell(f"{self._trial(record)} goes on from epoch {record.epochs:g}")
        else:
            self._tell(f"{self._trial(record)} starts  {values}".rstrip())

    def trial_took_over(self, record: TrialRecord) -> None:
        self._note(TrialRow.of(record))
        now = record.segments[-1]
        self.say(f"{self._trial(record)} goes on from trial {now.parent}'s epoch {now.epoch:g} with {_values_text(now.tuned)}")

    def trial_reported(self, record: TrialRecord, result: EpochResult) -> None:
        with self._lock:
            self._rows.setdefault(record.number, TrialRow.of(record)).report(result)
        if not self._is_best(result, record.number):
            return
        if time.time() - self._said_best >= SECONDS_BETWEEN_BESTS and result.end is None:
            self._said_best = time.time()
            self._tell(f"{self._trial(record)} best    {self._metric(result)} at epoch {result.epoch:g}{self._time_left()}")

    def training_at(self, epoch: float) -> None:
        """The only trial of a fit has reached this epoch. Called after every step, because a large table's epoch takes minutes."""
        if epoch == 0:  # a linear probe, whose duration says nothing about an epoch's
            return
        now = time.time()
        began, first = self._first_seen = self._first_seen or (now, epoch)
        if now - max(self._said, began) > max(LONGEST_SILENCE, (now - began) / 3) and epoch > first:
            self._tell(f"training at      epoch {epoch:.2f}, an epoch takes about {(now - began) / (epoch - first):.0f} s{self._time_left()}")

    def trial_ended(self, record: TrialRecord) -> None:
        self._note(TrialRow.of(record))
        outcome = f"{self._metric(record.best)} at epoch {record.best.epoch:g}" if record.best else "no score"
        why = f" ({record.reason})" if record.reason else ""
        when = f" after epoch {record.epochs:g}" if record.results else ""
        best = f" | best so far {number_text(self.best[0].metric)} (trial {self.best[1]})" if self.best and self.num_trials > 1 else ""
        word = "fails" if record.status == FAILED else f"ends    {record.status.lower()}"
        line = f"{self._trial(record)} {word}{why}{when}: {outcome}, {record.seconds:.1f} s{best}{self._time_left()}"
        if record.status == FAILED:
            self.say(line)  # the table has no room for the reason
        else:
            self._tell(line)

    def _note(self, row: TrialRow) -> None:
        with self._lock:
            self._rows[row.number] = row
        if row.best:
            self._is_best(row.best, row.number)

    def _is_best(self, result: EpochResult, number: int) -> bool:
        if math.isnan(result.score) or (self.best is not None and result.rank <= self.best[0].rank):
            return False
        self.best = (result, number)
        return True

    # ------------------------------------------------------------------------------------------------------------- lines

    def say(self, line: str, level: int = 2) -> None:
        self._said = time.time()
        if self.verbosity >= level:
            write = self._display.write if self._display is not None and self._drawing is not None else self.write
            write(line)

    def _tell(self, line: str) -> None:
        """Prints a line, unless the live table shows the same."""
        if self._drawing is None:
            self.say(line)

    def resumes(self, records: SearchRecords, path: Path) -> None:
        """Prints what an earlier session left, if there was one."""
        if trials := records.trials():
            ended = sum(record.has_ended for record in trials)
            kept, on = ("1 trial is" if ended == 1 else f"{ended} trials are"), len(trials) - ended
            self.say(f"resuming {path}: {kept} kept, {on} go{'es' * (on == 1)} on", level=1)

    def summary(self, records: SearchRecords) -> None:
        """Prints the table of the best trials, best first, and where to find the rest."""
        if self.num_trials == 1 or self.verbosity < 1:
            return
        trials = records.ranked()
        rows = [TrialRow.of(record) for record in trials[:SUMMARY_ROWS]]
        columns, notes = trial_columns(rows, self.metric), notes_on(trials, len(rows))
        headline = f"{len(trials)} trials: {count_text(record.status for record in trials)}"
        if isinstance(self._display, Notebook):
            self._display.draw(headline, columns, 0, "\n".join(notes))
            return
        fitting = fit_width(columns, shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else SUMMARY_WIDTH)
        if absent := [column.header for column in columns[len(fitting) :]]:
            notes.insert(0, f"no room for {', '.join(absent)}; leaderboard() has all columns")
        self.say("\n".join([headline, *table_lines(fitting), *notes]), level=1)

    def _trial(self, record: TrialRecord) -> str:
        return f"trial {record.number:>3}" if self.num_trials > 1 else "training"

    def _metric(self, result: EpochResult) -> str:
        return f"{self.metric.name} {number_text(result.metric)}"

    def _time_left(self) -> str:
        return "" if self.deadline is None else f" | {max(0.0, self.deadline - time.time()):.0f} s left"


def _values_text(tuned: Mapping[str, Any]) -> str:
    return " ".join(f"{short_name(key, tuned)}={value_text(value)}" for key, value in tuned.items())


def _order(row: TrialRow) -> tuple[bool, float, float, int]:
    """Sort key: running trials by number, then the others, best first."""
    score, loss = (row.best.rank if row.best else NO_RANK) if row.status != RUNNING else (0.0, 0.0)
    return row.status != RUNNING, -score, -loss, row.number


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


def print_line(line: str) -> None:
    """Prints a line, with ``?`` for characters that the output cannot encode. A search must not fail because of a dash, a full disk or a closed pipe."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: a signal handler prints while its thread is printing
        print(line.encode(encoding, "replace").decode(encoding))
