"""What Ray does on its own, and what we suppress while all trials end."""

import time
from types import SimpleNamespace

import pytest

from automm_hpo.hpo.cluster import deaths_untold, killed_when_late


def test_only_deaths_after_the_deadline_are_not_told(monkeypatch):
    """After the block our function passes everything on, even if someone still holds it."""
    from ray._private import worker

    told = []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, ignore_prefix: told.append(data["lines"][0]))
    death, other = "A worker died or was killed while executing a task by an unexpected system error.", "1 Workers killed due to memory pressure"
    for after in (time.time() - 1, time.time() + 100, None):
        with deaths_untold(after):
            for pid, line in (("raylet", death), ("raylet", other), (7, death)):
                worker.print_to_stdstream({"lines": [line], "pid": pid, "is_err": False}, ignore_prefix=False)
    assert told == [other, death, *[death, other, death] * 2]
    with deaths_untold(time.time() - 1):
        late = worker.print_to_stdstream
    late({"lines": [death], "pid": "raylet"}, ignore_prefix=False)
    assert told[-1] == death and len(told) == 9


@pytest.mark.parametrize(("seconds", "kills"), [(-1.0, True), (100.0, False), (None, False)])
def test_only_what_is_late_is_killed(monkeypatch, seconds, kills):
    """After the block our function only calls the original, even if someone still holds it."""
    from ray.tune.execution.tune_controller import TuneController

    ended = []
    monkeypatch.setattr(TuneController, "_cleanup_trials", lambda controller: ended.append("as it should be"))
    controller = SimpleNamespace(_actor_manager=SimpleNamespace(cleanup=lambda: ended.append("killed")))
    with killed_when_late(seconds):
        ours = TuneController._cleanup_trials
        ours(controller)
    ours(controller)
    TuneController._cleanup_trials(controller)
    assert ended == ["killed" if kills else "as it should be", "as it should be", "as it should be"]
