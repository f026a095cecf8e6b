import io
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from automm_hpo.hpo import progress
from automm_hpo.hpo.progress import Progress, print_line
from automm_hpo.hpo.records import COMPLETED, DIVERGED, FAILED, TrialRecord
from automm_hpo.metrics import find_metric
from automm_hpo.training.result import EpochResult

RESULT = EpochResult(1.0, 4, -0.5, 0.5, 1.0, 1.0, 0.1, 2.0)


def narrate(verbosity, num_trials=8, epochs=20):
    lines: list[str] = []
    shown = Progress(find_metric("log_loss"), verbosity, num_trials, time.time() + 100, lines.append)
    for number in range(num_trials):
        results = tuple(replace(RESULT, epoch=float(epoch), metric=1 / (epoch + number), score=-1 / (epoch + number)) for epoch in range(1, epochs))
        record = TrialRecord(number, {"optim.lr": 0.01, "model.timm_image.image_size": 64}, {}, COMPLETED, results=results)
        shown.trial_started(replace(record, results=()))
        for result in results:
            shown.trial_reported(record, result)
        shown.trial_ended(record)
    return lines


def test_a_person_can_follow():
    lines = narrate(2)
    assert len(lines) < 30
    assert "lr=0.01 image_size=64" in lines[0]
    ends = next(line for line in lines if "ends" in line)
    assert "completed after epoch 19: log_loss 0.0526 at epoch 19, " in ends
    assert "best so far 0.0526 (trial 0)" in ends
    assert "s left" in ends


def test_quiet_is_silent():
    assert narrate(0) == narrate(1) == []


@pytest.mark.parametrize("verbosity", [0, 1])
def test_the_summary_says_what_it_leaves_out(make_trials, tmp_path, store, verbosity):
    lines: list[str] = []
    trials = make_trials(53, num_tuned=8)
    trials[:3] = [replace(trial, status=FAILED, reason="ValueError: too much", results=()) for trial in trials[:3]]
    Progress(find_metric("accuracy"), verbosity, 53, None, lines.append).summary(store(tmp_path, trials))
    if verbosity == 0:
        assert lines == []
        return
    said = lines[0].splitlines()
    assert said[0].startswith("53 trials: ")
    assert max(map(len, said)) <= 100
    assert sum(line.split()[1] in ("completed", "stopped") for line in said[1:]) == 20
    notes = said[-4:]
    assert notes[0].startswith("no room for some_long_name_")
    assert notes[0].endswith("leaderboard() has all columns")
    assert notes[1] == "the best 20 are shown; leaderboard() has all 53"
    assert set(notes[2:]) == {"3 x ValueError: too much", f"{sum(trial.status == DIVERGED for trial in trials)} x diverged"}


def test_letters_that_the_output_cannot_hold_do_not_end_a_search(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    print_line("name…")
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == b"name?\n"


def test_a_long_epoch_is_not_silent(monkeypatch):
    """Lines at growing distances, however many steps there are, and none while validations give lines."""
    now, lines = [100.0], []
    monkeypatch.setattr(progress, "time", SimpleNamespace(time=lambda: now[0]))
    one = Progress(find_metric("accuracy"), 2, 1, 3800.0, lines.append)
    for step in range(1, 36_001):
        now[0] += 0.1
        one.training_at(step / 18_000)
        if step == 18_000:
            one.say("validated")
    assert lines[0] == "training at      epoch 0.01, an epoch takes about 1800 s | 3690 s left"
    assert len(lines) < 20
    spoke = lines.index("validated")
    assert float(lines[spoke + 1].split()[3].rstrip(",")) > 1.3


def test_quick_epochs_and_a_probe_are_not_interrupted(monkeypatch):
    """The seconds of a probe, which comes at epoch 0, are no part of an epoch."""
    now, lines = [100.0], []
    monkeypatch.setattr(progress, "time", SimpleNamespace(time=lambda: now[0]))
    one = Progress(find_metric("accuracy"), 2, 1, None, lines.append)
    one.training_at(0.0)
    for step in range(1, 2000):
        now[0] += 0.1 if step > 1 else 60.0
        one.training_at(step / 50)
        if step % 50 == 0:
            one.say(f"epoch {step // 50}")
    assert [line for line in lines if not line.startswith("epoch")] == []
