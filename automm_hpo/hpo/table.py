"""Trials as a table of short texts: cut to the width of a terminal or a log, escaped for a notebook."""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from rich.cells import cell_len, set_cell_size

from ..metrics import Metric
from ..training.result import EpochResult
from .records import COMPLETED, DIVERGED, FAILED, RUNNING, STOPPED, TrialRecord, count_causes

# from Okabe and Ito's palette, which people with any kind of colour vision can tell apart
STATUS_COLORS = {RUNNING: "#56B4E9", COMPLETED: "#009E73", STOPPED: "#E69F00", DIVERGED: "#CC79A7", FAILED: "#D55E00"}

MOST_CAUSES = 3
NARROWEST_HEADER, NARROWEST_WORD = 6, 8  # characters; a number is shown whole or not at all
GAP = "  "


@dataclass
class TrialRow:
    """What the table shows of a trial; it changes while the trial runs."""

    number: int
    status: str
    tuned: Mapping[str, Any]
    last: EpochResult | None = None
    best: EpochResult | None = None

    @classmethod
    def of(cls, record: TrialRecord) -> Self:
        tuned = record.tuned if record.status == RUNNING else record.best_tuned  # the values that led to the best score shown
        return cls(record.number, record.status, tuned, record.results[-1] if record.results else None, record.best)

    def report(self, result: EpochResult) -> None:
        self.last = result
        if math.isfinite(result.score) and (self.best is None or result.rank > self.best.rank):
            self.best = result


@dataclass(frozen=True)
class Column:
    """A column of a table of texts.

    Attributes:
        is_number: cells are right-aligned, and never cut.
        is_tuned: the column is a hyperparameter, and is left out if there is no room.
        limit: largest width, in characters.
    """

    header: str
    cells: tuple[str, ...]
    is_number: bool = True
    is_tuned: bool = False
    limit: int = 1_000

    @property
    def header_lines(self) -> tuple[str, str]:
        """The header, on two lines if it is wider than its cells or the limit and has more than one word."""
        words = re.findall(r"[^_ .]+[_ .]?", self.header)
        if len(words) < 2 or cell_len(self.header) <= min(self._cells_width, self.limit):
            return "", self.header
        halves = [("".join(words[:count]).strip(), "".join(words[count:])) for count in range(1, len(words))]
        return min(halves, key=lambda half: max(map(cell_len, half)))

    @property
    def _cells_width(self) -> int:
        return max(map(cell_len, self.cells), default=0)

    @property
    def width(self) -> int:
        return min(self.limit, max(self._cells_width, *map(cell_len, self.header_lines)))

    @property
    def narrowest(self) -> int:
        if not self.is_tuned:
            return self.width
        return min(self.width, max(NARROWEST_HEADER, self._cells_width if self.is_number else min(self._cells_width, NARROWEST_WORD)))

    def padded(self) -> list[str]:
        """Two header lines and the cells, all padded or cut to one width."""
        width = self.width
        texts = [cut(text, width, in_the_middle=self.is_tuned) for text in (*self.header_lines, *self.cells)]
        return [" " * (width - cell_len(text)) + text if self.is_number else set_cell_size(text, width) for text in texts]


def trial_columns(rows: Sequence[TrialRow], metric: Metric, running: bool = False) -> list[Column]:
    """The columns of a table of trials, in the order given.

    Args:
        running: whether trials may still be running, so that their last value is shown besides their best.
    """
    last = [Column("last", tuple(number_text(row.last.metric) if row.last else "" for row in rows))] if running else []
    keys = list(dict.fromkeys(key for row in rows for key in row.tuned))
    return [
        Column("trial", tuple(str(row.number) for row in rows)),
        Column("status", tuple(row.status.lower() for row in rows), is_number=False),
        Column(printable(metric.name), tuple(number_text(row.best.metric) if row.best else "" for row in rows)),
        *last,
        Column("best epoch", tuple(f"{row.best.epoch:.4g}" if row.best else "" for row in rows)),
        Column("epochs", tuple(f"{row.last.epoch:.4g}" if row.last else "" for row in rows)),
        Column("seconds", tuple(f"{row.last.seconds:.1f}" if row.last else "" for row in rows)),
        *(_tuned_column(key, short_name(key, keys), rows) for key in keys),
    ]


def _tuned_column(key: str, header: str, rows: Sequence[TrialRow]) -> Column:
    """The column of a hyperparameter; cells of trials that do not have it are empty."""
    is_number = all(isinstance(row.tuned.get(key, 0), (int, float)) for row in rows)
    cells = tuple(value_text(row.tuned[key]) if key in row.tuned else "" for row in rows)
    return Column(printable(header), cells, is_number, is_tuned=True)


def fit_width(columns: Iterable[Column], width: int) -> list[Column]:
    """Fits the table into ``width`` characters: cuts words and headers, and if that is not enough, leaves out the last hyperparameters."""
    fitting = list(columns)
    while fitting[-1].is_tuned and _total(column.narrowest for column in fitting) > width:
        fitting.pop()
    while (excess := _total(column.width for column in fitting) - width) > 0:
        widest = max(range(len(fitting)), key=lambda index: fitting[index].width - fitting[index].narrowest)
        if fitting[widest].width == fitting[widest].narrowest:
            break
        fitting[widest] = replace(fitting[widest], limit=max(fitting[widest].narrowest, fitting[widest].width - excess))
    return fitting


def _total(widths: Iterable[int]) -> int:
    widths = list(widths)
    return sum(widths) + len(GAP) * (len(widths) - 1)


def table_lines(columns: Sequence[Column]) -> list[str]:
    """One or two header lines, then one line per trial; no lines at all without trials."""
    if not columns[0].cells:
        return []
    upper, *lines = [GAP.join(cells).rstrip() for cells in zip(*(column.padded() for column in columns), strict=True)]
    return [upper, *lines] if upper else lines


def table_html(columns: Sequence[Column], bold: int | None = None) -> str:
    """The table as HTML for a notebook, with all texts escaped.

    Args:
        bold: index of the best trial's row.
    """
    if not columns[0].cells:
        return ""
    cell = "padding: 2px 10px; text-align: "  # inline styles: an exported notebook has no others
    styles = [cell + ("right" if column.is_number else "left") for column in columns]
    parts = ["<div style='overflow-x: auto; white-space: nowrap'>"]
    parts.append("<table style='border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums'>")
    parts.append("<thead><tr style='border-bottom: 1px solid rgba(128, 128, 128, 0.6)'>")
    parts += [f"<th style='{style}'>{html.escape(column.header)}</th>" for style, column in zip(styles, columns, strict=True)]
    parts.append("</tr></thead><tbody>")
    for index, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        parts.append("<tr style='font-weight: bold'>" if index == bold else "<tr>")
        for style, column, text in zip(styles, columns, row, strict=True):
            short = cut(text, 40, in_the_middle=True) if column.is_tuned else text
            title = f" title='{html.escape(text)}'" if short != text else ""
            dot = _dot(text) if column.header == "status" and not column.is_tuned else ""
            parts.append(f"<td style='{style}'{title}>{dot}{html.escape(short)}</td>")
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table></div>"])


def _dot(status: str) -> str:
    return f"<span style='color: {STATUS_COLORS[status.upper()]}'>&#9679;</span> "


def count_text(statuses: Iterable[str]) -> str:
    """Counts statuses: ``9 completed, 3 stopped``, in the order of ``STATUS_COLORS``."""
    counts = Counter(statuses)
    return ", ".join(f"{counts[status]} {status.lower()}" for status in STATUS_COLORS if status in counts)


def notes_on(trials: Sequence[TrialRecord], num_shown: int) -> list[str]:
    """Lines below a table of the best trials: where to find the rest, and how often each failure occurred."""
    rest = [f"the best {num_shown} are shown; leaderboard() has all {len(trials)}"] if len(trials) > num_shown else []
    causes = count_causes(record.reason or record.status.lower() for record in trials if record.status in (FAILED, DIVERGED))
    more = sum(count for _, count in causes[MOST_CAUSES:])
    return rest + [f"{count} x {cut(printable(cause), 95)}" for cause, count in causes[:MOST_CAUSES]] + ([f"{more} x something else"] if more else [])


def short_name(key: str, keys: Iterable[str]) -> str:
    """The last word of a dotted key, or the whole key if several tuned keys share that word."""
    last = key.rsplit(".", 1)[-1]
    return key if sum(other.rsplit(".", 1)[-1] == last for other in keys) > 1 else last


def value_text(value: object, digits: int = 3) -> str:
    """A hyperparameter's value as text, a float with ``digits`` digits. Near 1 (0.9995) the distance to 1 gets that many, because it is what matters."""
    if isinstance(value, (list, tuple)):
        return ", ".join(value_text(item, digits) for item in value) or "[]"
    if not isinstance(value, float):
        return printable(str(value))
    if 0.9 < abs(value) < 1:
        return f"{value:.{digits - math.ceil(math.log10(1 - abs(value)))}f}".rstrip("0")
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if 10**digits <= abs(float(text)) < 1e6 else text


def value_texts(values: Sequence[object]) -> list[str]:
    """Texts that tell different values apart, with as few digits as possible. If digits do not help, because strings look like numbers, strings are quoted."""
    for digits in range(3, 18):
        texts = [value_text(value, digits) for value in values]
        if len(set(texts)) == len(texts):
            return texts
    return [repr(value) for value in values]


def number_text(value: float) -> str:
    """A metric's value as text: four decimals, none from 1e4 on, or four significant digits if it is very small or large; empty for nan."""
    if math.isnan(value):
        return ""
    if 1e4 <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"


def printable(text: str) -> str:
    """The text on one line, without characters that move a terminal's cursor."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def cut(text: str, width: int, in_the_middle: bool = False) -> str:
    """Cuts a text to ``width`` characters. Names are better cut in the middle, because they often differ at their end."""
    if cell_len(text) <= width:
        return text
    tail = (width - 1) // 3 if in_the_middle else 0
    return set_cell_size(text, width - 1 - tail) + "…" + text[len(text) - tail :]
