"""Displays for the live table of a search: redrawn in place in a terminal, or as one updating display in a notebook."""

from __future__ import annotations

import contextlib
import html
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from .table import STATUS_COLORS, Column, fit_width, table_html, table_lines


class Display(Protocol):
    """A place for the live table.

    Attributes:
        seconds: time between two redraws.
    """

    seconds: float

    @property
    def num_rows(self) -> int:
        """The number of trials to show: as many as a person can take in and the display has room for."""
        ...

    def open(self) -> None: ...

    def draw(self, headline: str, columns: Sequence[Column], best: int | None, note: str) -> None:
        """Shows the table instead of what was shown before.

        Args:
            best: index of the best trial's row.
        """
        ...

    def write(self, line: str) -> None:
        """Writes a line that stays, above the table."""
        ...

    def close(self, keep: bool) -> None:
        """Stops drawing, and undoes what ``open`` changed.

        Args:
            keep: whether the table stays visible.
        """
        ...


def find_display() -> Display | None:
    """The display for this notebook or terminal; None: the output goes to a file or a pipe."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if hasattr(shell, "kernel"):
        return Notebook()
    if sys.stdout is not None and sys.stdout.isatty():
        console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, force_jupyter=False)
        if console.is_interactive and console.encoding.startswith("utf"):  # not a "dumb" terminal
            return Terminal(console)
    return None


class Terminal:
    """The table at the foot of a terminal, redrawn in place.

    Args:
        console: must have markup disabled, because rich would read brackets in a message as styles.
    """

    seconds = 0.5

    def __init__(self, console: Console) -> None:
        self.console = console
        self._open = contextlib.ExitStack()

    @property
    def num_rows(self) -> int:
        return max(1, min(20, self.console.height - 7))  # two lines of headline, two of header, the note, and room around them

    def open(self) -> None:
        self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop", redirect_stderr=_is_terminal(sys.stderr))
        self._open.callback(self.console.show_cursor, True)  # even if a second Ctrl-C interrupts the stop
        self._open.callback(self._live.stop)
        self._live.start()
        self._open.enter_context(_loggers_write_above(self._live))

    def draw(self, headline: str, columns: Sequence[Column], best: int | None, note: str) -> None:
        lines = table_lines(fit_width(columns, self.console.width))
        text = Text(headline + "\n", no_wrap=True, overflow="ellipsis")
        rows = lines[len(lines) - len(columns[0].cells) :]
        text.append("".join(f"{line}\n" for line in lines[: -len(rows) or None]), "bold")
        for index, (row, status) in enumerate(zip(rows, columns[1].cells, strict=True)):
            line = Text(row + "\n", "bold" if index == best else "")
            line.highlight_words([status], STATUS_COLORS[status.upper()])
            text.append_text(line)
        text.append(note, "dim")
        self._live.update(text, refresh=True)

    def write(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def close(self, keep: bool) -> None:
        self._live.transient = not keep
        self._open.close()


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


@contextlib.contextmanager
def _loggers_write_above(live: Live) -> Iterator[None]:
    """Makes log lines appear above the table, like printed lines: log handlers would keep writing to the stream they were created with."""
    instead = {id(getattr(stream, "rich_proxied_file", None)): stream for stream in (sys.stdout, sys.stderr)}
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = [handler for logger in loggers for handler in getattr(logger, "handlers", []) if isinstance(handler, logging.StreamHandler)]
    moved = [(handler, handler.setStream(instead[id(handler.stream)])) for handler in handlers if id(handler.stream) in instead]
    try:
        yield
    finally:
        for handler, stream in moved:
            handler.setStream(stream)


class Notebook:
    """One display, updated in place; the cell's other output is left alone."""

    seconds = 1.0
    num_rows = 20

    def __init__(self) -> None:
        self._handle: Any = None

    def open(self) -> None:
        pass

    def draw(self, headline: str, columns: Sequence[Column], best: int | None, note: str) -> None:
        from IPython.display import display

        above, below = (f"<div style='white-space: pre-line'>{html.escape(text)}</div>" for text in (headline, note))
        texts = {
            "text/html": above + table_html(columns, best) + below,
            "text/plain": "\n".join([headline, *table_lines(columns), note]).rstrip(),
        }
        if self._handle is None:
            self._handle = display(texts, raw=True, display_id=True)
        else:
            self._handle.update(texts, raw=True)

    def write(self, line: str) -> None:
        print(line)

    def close(self, keep: bool) -> None:
        pass
