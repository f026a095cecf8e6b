import time
from dataclasses import replace

from automm_hpo.hpo.progress import Progress
from automm_hpo.hpo.records import COMPLETED, TrialRecord
from automm_hpo.metrics import find_metric
from automm_hpo.training.loop import EpochResult

RESULT = EpochResult(1.0, 4, -0.5, 0.5, 1.0, 1.0, 0.1, 2.0)


def narrate(verbosity, num_trials=8, epochs=20):
    lines: list[str] = []
    progress = Progress(find_metric("log_loss"), verbosity, num_trials, time.time() + 100, lines.append)
    for number in range(num_trials):
        results = tuple(replace(RESULT, epoch=float(epoch), metric=1 / (epoch + number), score=-1 / (epoch + number)) for epoch in range(1, epochs))
        record = TrialRecord(number, {"optim.lr": 0.01, "model.timm_image.image_size": 64}, {}, COMPLETED, results=results)
        progress.trial_started(record)
        for result in results:
            progress.trial_reported(record, result)
        progress.trial_ended(record)
    return lines


def test_a_person_can_follow():
    lines = narrate(2)
    assert len(lines) < 30
    assert "lr=0.01 image_size=64" in lines[0]
    ends = next(line for line in lines if "ends" in line)
    assert "log_loss 0.0526 at epoch 19" in ends
    assert "best so far 0.0526 (trial 0)" in ends
    assert "s left" in ends


def test_quiet_is_silent():
    assert narrate(0) == narrate(1) == []
