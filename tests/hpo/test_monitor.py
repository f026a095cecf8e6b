"""Listeners hear of everything in a search exactly once."""

from dataclasses import replace

from automm_hpo.hpo.monitor import SearchMonitor
from automm_hpo.hpo.records import COMPLETED, FAILED, RUNNING, STOPPED, SearchRecords, TrialRecord
from automm_hpo.metrics import find_metric


class Listener:
    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        return lambda record, *_: self.heard.append((name, record.number))


def test_a_trial_that_a_limit_ended_ends_once(tmp_path, store, curve):
    """It has ended in this session even if another may continue it; a trial that never got a place ends with the search."""
    rows = curve(find_metric("accuracy"), [0.5, 0.6])
    rows = (*rows[:-1], replace(rows[-1], end="time_limit"))
    store(tmp_path, [TrialRecord(0, {}, {}, RUNNING, results=rows), TrialRecord(1, {}, {}, RUNNING)])
    monitor = SearchMonitor(SearchRecords(tmp_path), [listener := Listener()], keep_trials=1)
    monitor.trial_started(0)
    monitor.trial_ended(0)
    monitor.close_open("interrupted")
    assert listener.heard == [("trial_started", 0), ("trial_ended", 0), ("trial_ended", 1)]
    assert [(record.status, record.reason) for record in SearchRecords(tmp_path).trials()] == [(STOPPED, "time limit"), (STOPPED, "interrupted")]


def test_only_who_reached_the_goal_is_said_to_have(tmp_path, store, curve):
    accuracy = find_metric("accuracy")
    store(tmp_path, [TrialRecord(0, {}, {}, RUNNING, results=curve(accuracy, [0.5, 0.9])), TrialRecord(1, {}, {}, RUNNING, results=curve(accuracy, [0.5]))])
    monitor = SearchMonitor(SearchRecords(tmp_path), [], keep_trials=1, goal=0.8)
    monitor.trial_started(0)
    monitor.trial_started(1)
    monitor.trial_reported(0, curve(accuracy, [0.5, 0.9])[-1])
    monitor.close_open(monitor.over)
    assert [record.reason for record in SearchRecords(tmp_path).trials()] == ["goal reached", "goal reached by another trial"]


def test_who_reached_the_goal_with_all_that_it_had_to_say_has_completed(tmp_path, store, curve):
    rows = curve(find_metric("accuracy"), [0.9])
    store(tmp_path, [TrialRecord(0, {}, {}, RUNNING, results=(replace(rows[0], end="returned"),))])
    monitor = SearchMonitor(SearchRecords(tmp_path), [], keep_trials=1, goal=0.8)
    monitor.trial_started(0)
    monitor.trial_reported(0, rows[0])
    monitor.close_open(monitor.over)
    assert [(record.status, record.reason) for record in SearchRecords(tmp_path).trials()] == [(COMPLETED, "")]


def test_a_full_disk_ends_the_search_also_where_there_is_a_score(tmp_path, store, curve):
    """The trials still to come would fail for the same reason; later they may not."""
    store(tmp_path, [TrialRecord(number, {}, {}, RUNNING, results=curve(find_metric("accuracy"), [0.5])) for number in range(2)])
    monitor = SearchMonitor(SearchRecords(tmp_path), [], keep_trials=1)
    monitor.trial_started(0)
    monitor.trial_failed(0, "DiskFull: no room in here: 2 MB needed, 1 MB free", disk_full=True)
    monitor.close_open(monitor.over)
    found = [(record.status, record.reason, record.has_ended) for record in SearchRecords(tmp_path).trials()]
    assert found == [(FAILED, "DiskFull: no room in here: 2 MB needed, 1 MB free", True), (STOPPED, "no room on the disk", False)]


def test_a_trial_whose_process_never_started_has_failed(tmp_path, store):
    store(tmp_path, [TrialRecord(0, {}, {}, RUNNING)])
    monitor = SearchMonitor(SearchRecords(tmp_path), [], keep_trials=1, max_failed_trials=0)
    monitor.trial_failed(0, "ModuleNotFoundError: No module named 'mine'")
    assert SearchRecords(tmp_path).trials()[0].status == FAILED
    assert monitor.over == "more than 0 failed trials"


def test_failures_of_earlier_sessions_count(tmp_path, store):
    store(tmp_path, [TrialRecord(number, {}, {}, FAILED) for number in range(2)])
    for most, over in ((1, "more than 1 failed trials"), (2, "")):
        monitor = SearchMonitor(SearchRecords(tmp_path), [], keep_trials=1, max_failed_trials=most)
        monitor.resume()
        assert monitor.over == over


def test_where_no_trial_had_time_for_a_score_another_needs_more(tmp_path, store, curve):
    """Longer than any trial that was cut short; once a trial has reached a first result, the quickest one's time counts."""
    rows = [
        replace(row, seconds=seconds, end=end)
        for row, seconds, end in zip(curve(find_metric("accuracy"), [0.5] * 3), (0.7, 0.4, 2.0), ("time_limit",) * 2 + (None,), strict=True)
    ]
    store(tmp_path, [TrialRecord(number, {}, {}, RUNNING) for number in range(3)])
    monitor, needed = SearchMonitor(SearchRecords(tmp_path), [], keep_trials=1), []
    for number, row in enumerate(rows):
        needed.append(monitor.seconds_to_score)
        monitor.trial_started(number)
        monitor.trial_reported(number, row)
    assert [*needed, monitor.seconds_to_score] == [0.0, 0.7, 0.7, 2.0]
