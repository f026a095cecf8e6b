"""The live table as a user sees it, in a real terminal and in a notebook."""

import io
import logging
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from rich.console import Console

from automm_hpo.hpo.display import Notebook, Terminal, find_display
from automm_hpo.hpo.progress import Progress
from automm_hpo.hpo.records import COMPLETED, FAILED, RUNNING, TrialRecord
from automm_hpo.metrics import find_metric
from automm_hpo.training.result import EpochResult

RESULT = EpochResult(1.0, 4, 0.5, 0.5, 1.0, 1.0, 0.1, 2.0)
PLAY = """
import logging, os, sys, time, warnings
from dataclasses import replace
from automm_hpo.hpo.progress import Progress
from automm_hpo.hpo.records import COMPLETED, FAILED, RUNNING, TrialRecord
from automm_hpo.metrics import find_metric
from automm_hpo.training.result import EpochResult

logging.basicConfig(format="%(name)s says %(message)s")
result = EpochResult(1.0, 4, 0.5, 0.5, 1.0, 1.0, 0.1, 2.0)
streams = sys.stdout, sys.stderr
print("before")
with Progress(find_metric("accuracy"), 2, 4, time.time() + 100) as progress:
    for number in range(4):
        record = TrialRecord(number, {"optim.lr": 0.1 * number, "word": "[bold]<b>"}, {}, RUNNING)
        progress.trial_started(record)
        for epoch in range(1, 4):
            progress.trial_reported(record, replace(result, epoch=float(epoch), score=0.1 * number + 0.01 * epoch, metric=0.1 * number + 0.01 * epoch))
            time.sleep(0.2)
        print("printed", number, "[/red]")
        warnings.warn(f"warned {number}")
        logging.getLogger("old").warning("logged %d", number)
        print("half a line [/]", end="", flush=True)
        progress.say(f"said {number}")
        status, reason = (FAILED, "ValueError: too much") if number == 2 else (COMPLETED, "")
        progress.trial_ended(replace(record, status=status, reason=reason, results=(result,)))
        if number == 3 and os.environ.get("INTERRUPT"):
            raise KeyboardInterrupt
assert (sys.stdout, sys.stderr) == streams
logging.getLogger("old").warning("logged at the end")
print("after")
"""


def screen(written: str) -> list[str]:
    """The lines that a terminal shows after this output, including those that scrolled off."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|[\r\n]|[^\r\n\x1b]+", written):
        if part == "\n":
            row, column = row + 1, 0
            if row == len(lines):
                lines.append("")
        elif part == "\r":
            column = 0
        elif part.endswith("A") and part[0] == "\x1b":
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part[0] != "\x1b":
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
        else:
            assert part[-1] in "mhl", part  # colours and the cursor
    return [line.rstrip() for line in lines]


def play_in_a_terminal(**environment) -> str:
    """Runs ``PLAY`` with its output on a pseudo-terminal and returns what it wrote."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONWARNINGS": "default", **environment}
    with subprocess.Popen([sys.executable, "-c", PLAY], stdin=theirs, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        written = b""
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # Linux raises when the other end is closed
                break
            if not data:
                break
            written += data
    os.close(ours)
    return written.decode()


def test_a_terminal_shows_one_table_and_everything_else_above_it():
    written = play_in_a_terminal()
    lines = [re.sub(r":\d+:", ":", line) for line in screen(written) if line]
    expected = ["before"]
    for number in range(4):
        expected += [f"printed {number} [/red]", f"<string>: UserWarning: warned {number}", f"old says logged {number}", "half a line [/]", f"said {number}"]
    expected += ["old says logged at the end", "after"]
    assert [line for line in lines if "fails" not in line] == expected  # the table is gone
    assert sum("trial   2 fails (ValueError: too much)" in line for line in lines) == 1
    assert "2 of 4 trials: 1 running, 1 completed" in written  # it was shown before
    assert "best accuracy" in written
    assert "[bold]<b>" in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is visible again


def test_ctrl_c_leaves_the_last_table_and_a_working_terminal():
    written = play_in_a_terminal(INTERRUPT="1")
    lines = screen(written)
    assert sum("4 of 4 trials: 3 completed, 1 failed" in line for line in lines) == 1
    assert sum(line.startswith("trial  status") for line in lines) == 1
    assert lines.index("KeyboardInterrupt") > next(index for index, line in enumerate(lines) if "4 of 4 trials" in line)
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_without_a_terminal_there_are_lines(capfd):
    assert find_display() is None
    record = TrialRecord(0, {"a": 1}, {}, RUNNING)
    with Progress(find_metric("accuracy"), 2, 4, None) as progress:
        progress.trial_started(record)
    assert capfd.readouterr().out == "trial   0 starts  a=1\n"


@pytest.fixture
def console():
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=30, markup=False, highlight=False, emoji=False, force_jupyter=False, _environ={})


def test_fifty_trials_of_eight_hyperparameters_stay_on_the_screen(console, make_trials):
    progress = Progress(find_metric("accuracy"), 2, 60, time.time() + 100, display=Terminal(console))
    with pytest.raises(ZeroDivisionError), progress:
        for trial in make_trials(50, num_tuned=8):
            running = replace(trial, status=RUNNING if trial.number % 10 == 0 else trial.status)
            progress.trial_started(replace(running, results=()))
            for result in trial.results:
                progress.trial_reported(running, result)
            if running.status != RUNNING:
                progress.trial_ended(trial)
        1 / 0  # noqa: B018
    lines = [line for line in screen(console.file.getvalue()) if line and "fails" not in line]
    first = next(index for index, line in enumerate(lines) if line.startswith("50 of 60 trials: 5 running"))
    table = lines[first:]
    assert len(table) == 2 + 2 + 20 + 1
    assert max(map(len, table)) <= 100
    assert [line.split()[1] for line in table[4:9]] == ["running"] * 5
    scores = [float(line.split()[2]) for line in table[9:-1]]
    assert scores == sorted(scores, reverse=True)
    assert table[-1] == "and 30 more"


def test_a_trial_that_goes_on_keeps_its_rows(console):
    lines = []
    for options in ({"write": lines.append}, {"display": Terminal(console)}):
        with Progress(find_metric("accuracy"), 2, 4, None, **options) as progress:
            record = TrialRecord(3, {"a": 1}, {}, RUNNING, results=(RESULT, replace(RESULT, epoch=2.0, score=0.7, metric=0.7)))
            progress.trial_resumed(record)
            progress.trial_started(record)
            assert progress.best[0].metric == 0.7
            progress.trial_reported(record, replace(RESULT, epoch=3.0))
    assert lines == ["trial   3 goes on from epoch 2"]
    assert re.search(r" 3  running +0.7000  0.5000 +2 +3 ", re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue()))


def test_drawing_takes_next_to_nothing_of_a_core(console, make_trials):
    progress = Progress(find_metric("accuracy"), 2, 1000, time.time() + 100, display=Terminal(console))
    for trial in make_trials(1000, num_tuned=8):
        progress.trial_ended(trial)
    with progress:
        began = time.thread_time()
        for _ in range(20):
            progress._draw(progress._display)
        seconds = (time.thread_time() - began) / 20
    assert seconds / Terminal.seconds < 0.03  # 0.005 on an idle machine


def test_a_closed_terminal_gives_handlers_their_streams_back(console, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    handler = logging.StreamHandler(stream)
    logging.getLogger("elsewhere").addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt), Progress(find_metric("accuracy"), 2, 4, None, display=Terminal(console)):
            logging.getLogger("elsewhere").warning("inside")
            assert sys.stdout is not stream
            raise KeyboardInterrupt
        assert sys.stdout is stream
        assert handler.stream is stream
        assert stream.getvalue() == ""
        assert "inside" in screen(console.file.getvalue())
    finally:
        logging.getLogger("elsewhere").removeHandler(handler)


def test_a_notebook_has_one_display_that_is_updated(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    summary = """
from pathlib import Path
from types import SimpleNamespace
progress.summary(SimpleNamespace(ranked=lambda: [TrialRecord(0, {"word": "<script>"}, {}, COMPLETED, results=(result,))]))
"""
    play = PLAY.replace("[bold]<b>", "<script>")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(play), nbformat.v4.new_code_cell(summary)])
    kinds: list[str] = []

    class Client(NotebookClient):
        def process_message(self, message, cell, index):
            kinds.append(message["msg_type"])
            return super().process_message(message, cell, index)

    Client(notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    first, second = (cell.outputs for cell in notebook.cells)
    displays = [output for output in first if output.output_type == "display_data"]
    assert len(displays) == 1
    assert kinds.count("display_data") == 1
    assert kinds.count("update_display_data") >= 2
    assert "clear_output" not in kinds
    assert second == []  # the summary updates the live table's display
    page = displays[0].data["text/html"]
    assert "1 trials: 1 completed" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    printed = "".join(output.text for output in first if output.output_type == "stream" and output.name == "stdout")
    assert printed.startswith("before\n")
    assert "said 3" in printed


def test_a_summary_alone_is_a_display_of_its_own(monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda texts, **options: shown.append(texts))
    records = type("Records", (), {"ranked": lambda self: [TrialRecord(0, {"a": 1}, {}, FAILED, "ValueError: <b>"), TrialRecord(1, {}, {}, COMPLETED)]})()
    with Progress(find_metric("accuracy"), 1, 2, None, display=Notebook()) as progress:
        progress.trial_started(TrialRecord(0, {"a": 1}, {}, RUNNING))
    progress.summary(records)
    assert len(shown) == 1
    assert "1 x ValueError: &lt;b&gt;" in shown[0]["text/html"]
    assert "1 x ValueError: <b>" in shown[0]["text/plain"]
