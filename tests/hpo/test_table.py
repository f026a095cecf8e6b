import math
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len

from automm_hpo.hpo.records import FAILED, STOPPED, TrialRecord
from automm_hpo.hpo.table import TrialRow, count_text, cut, fit_width, notes_on, number_text, printable, table_html, table_lines, trial_columns, value_text
from automm_hpo.metrics import find_metric

ACCURACY = find_metric("accuracy")


def rows_of(trials):
    return [TrialRow.of(trial) for trial in trials]


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_eight_hyperparameters_of_fifty_trials_fit(make_trials, width):
    columns = trial_columns(rows_of(make_trials(50, num_tuned=8)), ACCURACY)
    fitting = fit_width(columns, width)
    lines = table_lines(fitting)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) in (51, 52)
    assert columns[: len(fitting)] == [replace(column, limit=columns[0].limit) for column in fitting]  # only the last columns are left out
    numbers = [column for column in fitting if column.is_number]
    assert all(column.padded()[2:] == [cell.rjust(column.width) for cell in column.cells] for column in numbers)  # numbers are never cut
    assert width == 60 or "adamw" in lines[-1] or "sgd" in lines[-1]


def test_a_name_on_two_lines_stands_above_its_numbers(make_trials):
    trials = [TrialRecord(0, {"optim.weight_decay": 0.001, "optim.lr": 0.1}, {}, results=make_trials(1)[0].results)]
    upper, lower, row = table_lines(trial_columns(rows_of(trials), ACCURACY))
    assert upper.split() == ["best", "weight_"]
    assert lower.split() == ["trial", "status", "accuracy", "epoch", "epochs", "seconds", "decay", "lr"]
    assert row.split()[-2:] == ["0.001", "0.1"]
    assert len(lower) == len(row)


def test_wide_letters_keep_the_columns_in_line():
    trials = [TrialRecord(0, {"a": "模型一", "b": 1}, {}), TrialRecord(1, {"a": "model", "b": 2}, {})]
    lines = table_lines(trial_columns(rows_of(trials), ACCURACY))
    assert len({cell_len(line) for line in lines if line.split()[-1] in "12"}) == 1


def test_what_a_user_named_is_text_and_nothing_else(nasty):
    trials = [TrialRecord(0, {nasty: nasty, "long": "x" * 100, "list": [nasty]}, {}, FAILED, nasty)]
    columns = trial_columns(rows_of(trials), ACCURACY)
    html = table_html(columns)
    assert re.findall(r"<(?!/?(?:div|table|thead|tbody|tr|th|td|span)\b)", html) == []
    assert "&lt;script&gt;" in html
    assert f"title='{'x' * 100}'" in html
    assert all(line.isprintable() for line in table_lines(columns) + notes_on(trials, 1))


def test_a_hyperparameter_that_a_trial_lacks_is_empty():
    rows = rows_of([TrialRecord(0, {"a": 1}, {}), TrialRecord(1, {"b": "word"}, {})])
    a, b = trial_columns(rows, ACCURACY)[-2:]
    assert (a.cells, a.is_number, b.cells, b.is_number) == (("1", ""), True, ("", "word"), False)


def test_no_trials_make_no_table():
    columns = trial_columns([], ACCURACY)
    assert table_lines(fit_width(columns, 100)) == []
    assert table_html(columns) == ""


def test_notes_say_where_the_rest_is_and_count_causes():
    trials = [TrialRecord(number, {}, {}, FAILED, "ValueError: too much") for number in range(3)] + [TrialRecord(3, {}, {}, STOPPED, "scheduler")]
    assert notes_on(trials, 2) == ["the best 2 are shown; leaderboard() has all 4", "3 x ValueError: too much"]
    assert notes_on(trials, 4) == ["3 x ValueError: too much"]


def test_causes_that_differ_in_their_numbers_are_one_and_none_is_passed_over():
    trials = [TrialRecord(number, {}, {}, FAILED, f"OutOfMemoryError: {number}.5 GiB of {10 + number}") for number in range(40)]
    trials += [TrialRecord(40 + number, {}, {}, FAILED, cause) for number, cause in enumerate(["one", "two", "two", "three"])]
    assert notes_on(trials, 44) == ["40 x OutOfMemoryError: 0.5 GiB of 10", "2 x two", "1 x one", "1 x something else"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9995, "0.9995"),
        (-0.98765, "-0.9877"),
        (0.95, "0.95"),
        (0.1 + 0.2, "0.3"),
        (1.0, "1"),
        (1234.0, "1234"),
        (999.6, "1000"),
        (99999.0, "99999"),
        (2e6, "2e+06"),
        (3e-4, "0.0003"),
    ],
)
def test_a_value_is_not_rounded_to_another(value, text):
    assert value_text(value) == text


def test_a_metric_is_written_with_the_digits_that_tell():
    written = [number_text(value) for value in (0.0, 0.86512, -1234.5, 43217.4, 13609739.2, 1.8123e-7, math.nan)]
    assert written == ["0.0000", "0.8651", "-1234.5000", "43217", "1.361e+07", "1.812e-07", ""]


def test_words():
    assert count_text(["FAILED", "RUNNING", "FAILED"]) == "1 running, 2 failed"
    assert value_text(1.23456e-7) == "1.23e-07"
    assert value_text(["flip", "crop"]) == "flip, crop"
    assert value_text([]) == "[]"
    assert cut("mobilenetv3_small_050", 12) == "mobilenetv3…"
    assert cut("mobilenetv3_small_050", 12, in_the_middle=True) == "mobilene…050"
    assert printable("a\x1b[2J\tb\nc") == "a [2J b c"
