"""A trial that is cut off at any point goes on as if nothing had happened. In this process, without Ray."""

import itertools
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from automm_hpo.config import Config
from automm_hpo.data.cache import store_caches
from automm_hpo.data.encoders import EncodedTable
from automm_hpo.data.features import Features
from automm_hpo.data.images import ImageGeometry
from automm_hpo.hpo.records import RUNNING, STOPPED, SearchRecords, Segment
from automm_hpo.hpo.training_trial import Training, _open_split
from automm_hpo.hpo.trial import STOP_FILE, TrialTask, _ShouldStop, cut_log, run_trial
from automm_hpo.metrics import find_metric
from automm_hpo.problem import Problem
from automm_hpo.training.building import ModelBuilder
from automm_hpo.training.checkpoint_folder import STATE_TENSORS, WEIGHTS, list_checkpoints
from automm_hpo.training.result import EpochResult

CONFIG = {
    "model.timm_image.checkpoint_name": "test_resnet",
    "model.timm_image.pretrained": False,
    "model.timm_image.image_size": 32,
    "env.batch_size": 16,
    "optim.lr": 3e-3,
    "optim.max_epochs": 4,
    "optim.val_check_interval": 0.5,
}
NUM_ROWS = 8  # two validations per epoch


def store(folder, table) -> Problem:
    """Encodes 64 training rows and 32 validation rows."""
    _open_split.cache_clear()
    problem = Problem("label", "multiclass", tuple(sorted(table["label"].unique())), "object")
    splits = {"train": table.head(64), "valid": table.head(96).tail(32)}
    tables = {name: EncodedTable.of_images([[path] for path in rows["image"]], problem.encode(rows["label"])) for name, rows in splits.items()}
    store_caches(folder / "cache", tables, ImageGeometry(32))
    return problem


@pytest.fixture(params=[False, True], ids=["in turn", "beside"])
def search(small, tmp_path, request, monkeypatch):
    """(task, records) of a search with its cache, before any trial. Checkpoints are written between steps, or in parallel as on a GPU."""
    monkeypatch.setattr("automm_hpo.hpo.training_trial.writes_beside", lambda device: request.param)
    problem = store(tmp_path, small[0])
    yield (
        TrialTask(tmp_path, Training(problem, ModelBuilder(Features(num_images=1), problem.num_outputs), find_metric("accuracy"), 0, num_to_keep=2)),
        SearchRecords(tmp_path),
    )
    _open_split.cache_clear()


def begin(records, **tuned):
    return records.open_trial({}, tuned, Config.from_flat(CONFIG | tuned).flat()).number


def rows(steps):
    """What each result says about learning, without the seconds."""
    return [(step.result.segment, step.result.epoch, step.result.score, step.result.train_loss, step.result.valid_loss) for step in steps if step.result]


@pytest.fixture(scope="module")
def trained():
    """(way of writing, number of validations) -> folder and rows of a trial that got so far, for copying: it is always the same trial."""
    return {}


@pytest.fixture
def so_far(search, request, trained, tmp_path_factory):
    """Number of validations -> number and rows of a trial that was cut off after them."""
    task, records = search

    def run(count):
        number, key = begin(records), (request.node.callspec.params["search"], count)
        if key not in trained:
            steps = run_trial(task, number)
            found = rows(itertools.islice(steps, count))
            steps.close()
            trained[key] = (shutil.copytree(records.folder_of(number).path, tmp_path_factory.mktemp("trained") / "trial"), found)
        else:
            shutil.copytree(trained[key][0], records.folder_of(number).path, dirs_exist_ok=True)
            folder = records.folder_of(number)
            folder.write(replace(folder.read(), number=number))
        return number, trained[key][1]

    return run


@pytest.fixture
def whole(so_far):
    """The rows of a complete trial, which is the search's first."""
    number, found = so_far(None)
    assert (number, len(found)) == (0, NUM_ROWS)
    return found


def test_a_trial_whose_images_are_decoded_batch_by_batch_is_the_same_to_the_bit(search, whole, small, tmp_path, monkeypatch):
    task, records = search
    monkeypatch.setenv("AUTOMM_HPO_CACHE_DIR", str(tmp_path / "small"))
    monkeypatch.setenv("AUTOMM_HPO_CACHE_GB", "0")
    store(task.search_folder, small[0])
    steps = run_trial(task, begin(records, **{"env.per_gpu_batch_size": 6}))
    next(steps)
    assert [thread.name for thread in threading.enumerate() if "ahead" in thread.name]
    steps.close()
    assert not [thread.name for thread in threading.enumerate() if "ahead" in thread.name]
    assert rows(run_trial(task, begin(records))) == whole


# fast: the first, some before and after the oldest state is dropped, and the last
@pytest.mark.parametrize("cut", [pytest.param(cut, marks=() if cut in (1, 3, 4, NUM_ROWS - 1) else pytest.mark.slow) for cut in range(1, NUM_ROWS)])
def test_a_trial_cut_off_after_any_validation_ends_as_a_whole_one(search, whole, cut):
    task, records = search
    number = begin(records)
    steps = run_trial(task, number)
    for _ in range(cut):
        next(steps)
    steps.close()
    again = list(run_trial(task, number))
    assert rows(again) == whole
    assert [step.replayed for step in again if step.result] == [True] * cut + [False] * (NUM_ROWS - cut)
    assert rows([step for step in run_trial(task, number) if step.replayed]) == whole  # the third time, all rows come from the log


def test_a_row_that_a_kill_kept_from_the_log_is_read_from_its_checkpoint(search, whole):
    task, records = search
    number = begin(records)
    steps = run_trial(task, number)
    for _ in range(3):
        next(steps)
    log = records.folder_of(number).path / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]) + '{"epoch": 1.5, "sc')
    assert rows(run_trial(task, number)) == whole


@pytest.mark.parametrize("damage", ["flip", pytest.param("truncate", marks=pytest.mark.slow), "remove"])
@pytest.mark.parametrize("file", [WEIGHTS, STATE_TENSORS, "MANIFEST.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(search, whole, so_far, file, damage):
    task, records = search
    number, _ = so_far(4)
    path = list_checkpoints(records.folder_of(number).checkpoints)[-1] / file
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    again = list(run_trial(task, number))
    assert rows(again) == whole
    assert sum(step.replayed for step in again if step.result) == 3  # the last validation is done again


def test_from_the_last_checkpoint_nothing_goes_on_so_it_has_no_optimizer(search, whole):
    task, records = search
    checkpoints = list_checkpoints(records.folder_of(0).checkpoints)
    assert [(path / STATE_TENSORS).exists() for path in checkpoints[-2:]] == [True, False]
    log = records.folder_of(0).path / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))  # the kill came before the row was logged
    again = list(run_trial(task, 0))
    assert rows(again) == whole
    assert all(step.replayed for step in again)


def test_a_damaged_last_checkpoint_costs_one_validation(search, whole):
    task, records = search
    last = list_checkpoints(records.folder_of(0).checkpoints)[-1]
    (last / WEIGHTS).write_bytes(b"")
    log = records.folder_of(0).path / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    again = list(run_trial(task, 0))
    assert rows(again) == whole
    assert [step.replayed for step in again if step.result] == [True] * (NUM_ROWS - 1) + [False]


def test_without_any_checkpoint_it_begins_again(search, whole, so_far):
    task, records = search
    number, _ = so_far(4)
    shutil.rmtree(records.folder_of(number).checkpoints)
    again = list(run_trial(task, number))
    assert rows(again) == whole
    assert not any(step.replayed for step in again if step.result)


def test_a_stop_file_ends_the_trial_with_a_result_and_it_goes_on_without_the_file(search, whole):
    task, records = search
    number = begin(records)
    steps = run_trial(task, number)
    next(steps)
    (task.search_folder / STOP_FILE).touch()
    ended = next(step for step in steps if step.done)  # steps trained while a checkpoint is being written are validated first
    assert ended.result.end == "interrupted"
    assert ended.result.epoch <= 2
    records.close_trial(number, STOPPED, "interrupted")
    assert not records.trials()[0].has_ended
    (task.search_folder / STOP_FILE).unlink()
    assert records.reopen_trial(number).status == RUNNING
    again = rows(run_trial(task, number))
    assert again[-1][3:] == whole[-1][3:]  # the same steps; only one validation came early
    assert again[-1][1] == whole[-1][1]


def test_a_trial_has_its_own_time_limit_over_all_its_sessions(search):
    task, records = search
    limited = TrialTask(task.search_folder, task.run, trial_time_limit=1e-6)
    number = begin(records)
    first = list(run_trial(limited, number))
    assert first[0].result.end == "trial_time_limit"
    assert [step.replayed for step in run_trial(limited, number) if step.result] == [True]  # it has ended for good


def test_a_takeover_goes_on_from_the_parents_weights_under_the_new_values(search):
    task, records = search
    parent, child = begin(records), begin(records, **{"optim.lr": 1e-5})
    parent_steps = run_trial(task, parent)
    for _ in range(4):
        next(parent_steps)
    steps = run_trial(task, child)
    for _ in range(2):
        next(steps)
    folder = records.folder_of(child)
    task.run.take_over(folder, records.folder_of(parent), Segment(1, parent, 0.0, {"optim.lr": 2e-3}))
    again = rows(run_trial(task, child))
    assert [row[:2] for row in again] == [(0, 0.5), (0, 1.0), (1, 2.5), (1, 3.0), (1, 3.5), (1, 4.0)]
    record = records.trials()[child]
    assert record.config["optim.lr"] == 2e-3
    assert record.segments[1] == Segment(1, parent, 2.0, {"optim.lr": 2e-3})
    assert record.segments[0].tuned == {"optim.lr": 1e-5}
    assert record.best_tuned == record.segments[record.best.segment].tuned
    assert folder.checkpoint(record.best).is_dir()  # the inherited checkpoint did not displace it

    # cut off in its second segment, it ends the same
    other = begin(records, **{"optim.lr": 1e-5})
    steps = run_trial(task, other)
    for _ in range(2):
        next(steps)
    task.run.take_over(records.folder_of(other), records.folder_of(parent), Segment(1, parent, 0.0, {"optim.lr": 2e-3}))
    for cut in (2, 3, 4):
        steps = run_trial(task, other)
        for _ in range(cut):
            next(steps)
        steps.close()
    assert np.array_equal(np.array(rows(run_trial(task, other))), np.array(again))


def test_older_states_stay_where_the_newest_has_a_longer_number(search):
    """An objective may well report ten thousand steps."""
    _, records = search
    folder = records.folder_of(begin(records))
    results = [EpochResult(float(epoch), epoch, 0.5, 0.5, 1.0, 1.0, 0.1, 1.0) for epoch in (9_998, 9_999, 10_000, 10_001)]
    for result in results:
        folder.checkpoint(result).mkdir(parents=True)
        folder.append(result)
    assert cut_log(folder, folder.read(), results[2], inherited=False).results == tuple(results[:3])
    assert list_checkpoints(folder.checkpoints) == [folder.checkpoint(result) for result in results[:3]]


def test_a_result_is_on_disk_when_it_is_told(search):
    task, records = search
    number = begin(records)
    folder = records.folder_of(number)
    for step in run_trial(task, number):
        if step.result:
            assert folder.results()[-1] == step.result
            assert folder.checkpoint(step.result).is_dir()


def test_a_checkpoint_that_cannot_be_written_fails_the_trial(search, monkeypatch):
    task, records = search

    def full(folder, snapshot, result):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("automm_hpo.hpo.training_trial.write_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        list(run_trial(task, begin(records)))


def test_a_clock_that_is_set_back_delays_no_end(tmp_path, monkeypatch):
    should_stop = _ShouldStop(TrialTask(tmp_path, None, trial_time_limit=100), seconds=0.0)
    assert should_stop(0.0, 0.0) is None
    (tmp_path / STOP_FILE).touch()
    time.sleep(0.11)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    assert should_stop(0.0, 0.0) == "interrupted"
