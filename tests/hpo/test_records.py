import math
from dataclasses import asdict, replace

import pytest

from automm_hpo.config import Config
from automm_hpo.hpo.records import COMPLETED, FAILED, LEADERBOARD, RUNNING, SearchRecords, TrialRecord, leaderboard
from automm_hpo.metrics import Metric, find_metric
from automm_hpo.training.result import EpochResult

RESULT = EpochResult(1.0, 4, 0.5, 0.5, 1.0, 1.0, 0.1, 2.0)


def test_half_a_line_of_a_full_disk_is_not_glued_to_the_next(tmp_path):
    records = SearchRecords(tmp_path)
    folder = records.folder_of(records.open_trial({}, {}, {}).number)
    folder.append(RESULT)
    with open(folder.path / "metrics.jsonl", "a", encoding="utf-8") as log:
        log.write('{"epoch": 2.0, "st')
    folder.append(replace(RESULT, epoch=2.0))
    assert [result.epoch for result in folder.results()] == [1.0, 2.0]


def add_trial(records, metric, values, status=COMPLETED, **tuned):
    record = records.open_trial({}, tuned, Config().flat())
    folder = records.folder_of(record.number)
    for epoch, value in enumerate(values, 1):
        folder.append(replace(RESULT, epoch=float(epoch), metric=value, score=metric.score(value)))
    if status != RUNNING:
        records.close_trial(record.number, status, "")
    return record.number


@pytest.mark.parametrize(
    ("name", "curves"),
    [
        # the best trial peaks in the middle; by the last values the other would win
        ("accuracy", [[0.5, 0.9, 0.3], [0.5, 0.6, 0.7]]),
        ("log_loss", [[0.5, 0.1, 0.8], [0.5, 0.4, 0.3]]),
    ],
)
def test_the_winner_is_the_best_epoch_in_the_metrics_own_direction(tmp_path, name, curves):
    metric = find_metric(name)
    records = SearchRecords(tmp_path)
    for curve in curves:
        add_trial(records, metric, curve)
    best = records.best()
    assert (best.number, best.best.epoch, best.best.metric) == (0, 2.0, curves[0][1])
    table = leaderboard(records.trials(), metric)
    assert list(table["trial"]) == [0, 1]
    assert table.loc[0, "best_epoch"] == 2
    if not metric.higher_is_better:
        assert list(table[name]) == [0.1, 0.3]
        assert list(table["score"]) == [-0.1, -0.3]


def test_of_equal_scores_the_lower_loss_wins(tmp_path):
    records = SearchRecords(tmp_path)
    number = records.open_trial({}, {}, Config().flat()).number
    for epoch, loss in enumerate([0.7, 0.2, 0.4], 1):
        records.folder_of(number).append(replace(RESULT, epoch=float(epoch), valid_loss=loss))
    records.close_trial(number, COMPLETED, "")
    add_trial(records, find_metric("accuracy"), [RESULT.score])  # the same score with a loss of 1
    assert records.best().number == number
    assert records.best().best.epoch == 2


@pytest.mark.parametrize(("mode", "natural"), [("min", ["metric"]), ("max", [])])
def test_names_of_an_objectives_own_take_nobodys_column(tmp_path, mode, natural):
    metric = Metric("seconds", lambda target, prediction: math.nan, "values", mode == "max")
    records = SearchRecords(tmp_path)
    assert list(leaderboard(records.trials(), metric).columns) == list(LEADERBOARD)
    add_trial(records, metric, [5.0], epochs=30, depth=3)
    table = leaderboard(records.trials(), metric)
    assert list(table.columns) == [*LEADERBOARD[:3], *natural, *LEADERBOARD[3:], "config/epochs", "depth"]
    assert table.loc[0, ["epochs", "seconds", "config/epochs"]].tolist() == [1, RESULT.seconds, 30]
    assert table[natural].to_numpy().tolist() == [[5.0] * len(natural)]


def test_every_trial_keeps_its_row(tmp_path):
    metric = find_metric("accuracy")
    records = SearchRecords(tmp_path)
    add_trial(records, metric, [0.5], **{"optim.lr": 0.1})
    add_trial(records, metric, [], FAILED, **{"optim.lr": 0.2})
    add_trial(records, metric, [math.nan], **{"optim.lr": 0.3})
    add_trial(records, metric, [0.7], RUNNING, **{"optim.max_epochs": 3})
    table = leaderboard(records.trials(), metric)
    assert list(table["trial"]) == [3, 0, 1, 2]
    assert list(table["status"]) == [RUNNING, COMPLETED, FAILED, COMPLETED]
    assert math.isnan(table.loc[2, "score"])
    assert {"optim.lr", "optim.max_epochs", "reason", "seconds", "size_mb", "best_epoch", "epochs"} <= set(table.columns)


def test_records_are_read_again_from_disk(tmp_path):
    metric = find_metric("accuracy")
    records = SearchRecords(tmp_path)
    for value in (0.5, 0.6):
        add_trial(records, metric, [value, math.nan], **{"optim.lr": value})
    again = SearchRecords(tmp_path)
    assert repr([*map(asdict, again.trials())]) == repr([*map(asdict, records.trials())])  # as text, because nan differs from itself
    assert repr(again.trials()[1]) == "TrialRecord(1: completed, 0.6000 at epoch 1, optim.lr=0.6)"
    assert again.open_trial({}, {}, Config().flat()).number == 2


def test_half_a_line_is_no_result(tmp_path):
    records = SearchRecords(tmp_path)
    number = add_trial(records, find_metric("accuracy"), [0.5], RUNNING)
    with open(records.folder_of(number).path / "metrics.jsonl", "a") as log:
        log.write('{"epoch": 2.0, "sco')
    assert len(records.trials()[0].results) == 1


def test_what_follows_a_damaged_line_is_not_read(tmp_path):
    records = SearchRecords(tmp_path)
    number = add_trial(records, find_metric("accuracy"), [0.5, 0.6, 0.7], RUNNING)
    log = records.folder_of(number).path / "metrics.jsonl"
    first, second, third = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + b"\0" * (len(second) - 1) + b"\n" + third)
    assert [result.score for result in records.trials()[0].results] == [0.5]


def test_trials_are_all_tried_again_even_if_a_kill_comes_between(tmp_path, monkeypatch):
    records = SearchRecords(tmp_path)
    for _ in range(3):
        add_trial(records, find_metric("accuracy"), [], FAILED)
    assert records.have_all_failed()

    def killed(records, number):
        if number == 1:
            raise KeyboardInterrupt
        return reopen(records, number)

    reopen = SearchRecords.reopen_trial
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SearchRecords, "reopen_trial", killed)
        records.reopen_all()
    again = SearchRecords(tmp_path)
    assert again.have_all_failed()
    again.reopen_all()
    assert not again.have_all_failed()
    assert {record.status for record in again.trials()} == {RUNNING}


def test_a_trial_whose_log_was_lost_has_not_failed(tmp_path):
    records = SearchRecords(tmp_path)
    number = add_trial(records, find_metric("accuracy"), [0.5])
    folder = records.folder_of(number)
    (folder.checkpoints / "000-00001.000").mkdir(parents=True)
    (folder.path / "metrics.jsonl").write_bytes(b"\0" * 99 + b"\n")
    assert not SearchRecords(tmp_path).have_all_failed()
    for line in (b"0\n", b"{}\n", b"null\n"):
        (folder.path / "metrics.jsonl").write_bytes(line)
        assert folder.results() == ()


def test_an_empty_search_has_no_best(tmp_path):
    assert SearchRecords(tmp_path).best() is None


def test_many_hyperparameters_make_one_table(recwarn):
    """Pandas would warn of fragmentation if it were built column by column."""
    trial = TrialRecord(0, {f"x{number}": number for number in range(150)}, {}, COMPLETED)
    table = leaderboard([trial], find_metric("accuracy"))
    assert table["x149"].tolist() == [149]
    assert not recwarn.list
