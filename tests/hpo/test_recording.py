"""The searcher between Ray and the inner searcher: what the inner one is told of trials that end."""

import math
import time
from types import SimpleNamespace

import pytest
from ray.tune.search import Searcher

from automm_hpo.hpo.monitor import SearchMonitor
from automm_hpo.hpo.recording import RecordingSearcher
from automm_hpo.hpo.records import COMPLETED, FAILED, TIME_LIMIT, SearchRecords
from automm_hpo.training.result import EpochResult


class Told(Searcher):
    def __init__(self):
        super().__init__(metric="best_score", mode="max")
        self.ends = {}

    def suggest(self, trial_id):
        return None

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.ends[trial_id] = "error" if error else result["best_score"]


def test_a_trial_that_is_ended_while_it_is_paused_counts_with_its_last_score():
    """Ray completes such a trial without a result; most trials that HyperBand ends are paused."""
    inner = Told()
    searcher = RecordingSearcher(inner, SimpleNamespace(settings=SimpleNamespace(scheduler="HyperBand")), SimpleNamespace(records=[]), None)
    searcher.numbers = {"paused": 0, "whole": 1, "failed": 2, "unheard": 3}
    searcher.on_trial_result("paused", {"best_score": 0.25})
    searcher.on_trial_result("paused", {"best_score": 0.5})
    searcher.on_trial_complete("paused")
    searcher.on_trial_result("whole", {"best_score": 0.25})
    searcher.on_trial_complete("whole", {"best_score": 0.75})
    searcher.on_trial_result("failed", {"best_score": 0.25})
    searcher.on_trial_complete("failed", error=True)
    searcher.on_trial_complete("unheard")
    assert inner.ends == {"0": 0.5, "1": 0.75, "2": "error", "3": "error"}
    assert not searcher.last


@pytest.mark.parametrize(("scheduler", "expected"), [("FIFO", [2, 3]), ("ASHA", [0, 1, 2, 3])])
def test_ended_trials_on_record_go_through_ray_only_where_a_scheduler_learns_from_them(scheduler, expected, tmp_path):
    class Inner(Told):
        def suggest(self, trial_id):
            return {"x": 0.5}

    records, score = SearchRecords(tmp_path), 0.25
    for number, status in enumerate([COMPLETED, FAILED, None]):
        records.open_trial({"x": 0.5}, {"x": 0.5}, {"x": 0.5})
        records.folder_of(number).append(EpochResult(1.0, 1, score, score, math.nan, math.nan, math.nan, 0.1, "returned"))
        if status:
            records.close_trial(number, status, "")
    job = SimpleNamespace(settings=SimpleNamespace(scheduler=scheduler), space={}, fixed={}, seed=0, num_trials=4, complete=lambda tuned: {**tuned, "x": 0.5})
    monitor, inner = SearchMonitor(SearchRecords(tmp_path), [], keep_trials=1), Inner()
    searcher = RecordingSearcher(inner, job, monitor, None)
    monitor.resume()
    proposed = []
    while (config := searcher.suggest(f"id{len(proposed)}")) != Searcher.FINISHED:
        proposed.append(config["trial"])
    assert proposed == expected
    assert inner.ends == ({"0": score, "1": "error"} if scheduler == "FIFO" else {})


def test_no_trial_begins_that_could_not_come_to_a_score_in_time(tmp_path):
    """Judged by the quickest trial that reached a score; a trial that was cut short does not count."""

    class Inner(Told):
        def suggest(self, trial_id):
            return {"x": 0.5}

    def searcher(monitor, seconds_left):
        job = SimpleNamespace(settings=SimpleNamespace(scheduler="ASHA"), space={}, fixed={}, seed=0, num_trials=9, complete=lambda tuned: tuned)
        return RecordingSearcher(Inner(), job, monitor, time.time() + seconds_left)

    def report(monitor, number, seconds, end=None):
        result = EpochResult(1.0, 1, 0.5, 0.5, math.nan, math.nan, math.nan, seconds, end)
        monitor.records.folder_of(number).append(result)
        monitor.trial_reported(number, result)

    monitor = SearchMonitor(SearchRecords(tmp_path), [], keep_trials=1)
    ample = searcher(monitor, seconds_left=60)
    for number, (seconds, end) in enumerate([(1.0, "time_limit"), (30.0, None), (20.0, None), (40.0, None)]):
        assert ample.suggest(f"id{number}")["trial"] == number
        monitor.trial_started(number)
        report(monitor, number, seconds, end)
    report(monitor, 2, 25.0)
    assert monitor.seconds_to_score == 20
    assert ample.suggest("id4")["trial"] == 4
    assert not monitor.ending

    again = SearchMonitor(SearchRecords(tmp_path), [], keep_trials=1)
    again.resume()
    short = searcher(again, seconds_left=15)
    assert [short.suggest(f"id{number}")["trial"] for number in range(5)] == [0, 1, 2, 3, 4]  # these had already begun
    assert short.suggest("id5") == Searcher.FINISHED
    assert again.ending == TIME_LIMIT
