"""Repeated calls of a search: trials that ended stay as they are, whatever is left to do."""

import errno
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from automm_hpo import MultiModalPredictor
from automm_hpo.errors import DiskFull, InvalidArgument, SearchMismatch, TimeLimitTooShort
from automm_hpo.files import write_json
from automm_hpo.hpo.identity import GOAL, SearchIdentity, check_same_search, is_search, read_identity, search_lock
from automm_hpo.hpo.job import SearchJob
from automm_hpo.hpo.monitor import SearchMonitor
from automm_hpo.hpo.progress import Progress
from automm_hpo.hpo.records import COMPLETED, DIVERGED, FAILED, STOPPED, SearchRecords, TrialRecord
from automm_hpo.hpo.settings import TuneSettings
from automm_hpo.hpo.trial import TrialTask
from automm_hpo.metrics import find_metric
from automm_hpo.process import Interruption
from automm_hpo.session import NO_TIME_AFTER, Session, run_trials
from automm_hpo.space import choice, loguniform

ACCURACY = find_metric("accuracy")


def begun(path, num_trials=2, deadline=None, verbosity=0, with_ray=True):
    """A session of a new search."""
    settled = {"identity": SearchIdentity({}, {}, {}), "resuming": False, "settings": TuneSettings(), "metric": ACCURACY}
    return Session(path, **settled, num_trials=num_trials, deadline=deadline, verbosity=verbosity, with_ray=with_ray)


@pytest.fixture
def again(here, store, curve):
    """(goal, (status, reason) per trial) -> the statuses and reasons after a call with nothing left to run, and why the search ended."""

    def run(goal, *ends):
        values = [0.1, 0.7]
        trials = [
            TrialRecord(number, {"optim.lr": 0.1}, {}, status, reason, results=curve(ACCURACY, values) if status != FAILED else ())
            for number, (status, reason) in enumerate(ends)
        ]
        store(here, trials)
        records = SearchRecords(here)
        monitor = SearchMonitor(records, [], keep_trials=1, goal=goal)
        job = SearchJob(
            space={"optim.lr": loguniform(0.1, 1)},
            fixed={},
            settings=TuneSettings(),
            num_trials=len(ends),
            seed=0,
            metric="accuracy",
            max_epochs=2,
            warmup_epochs=0,
            complete=dict,
        )
        task = TrialTask(here, None)  # never run
        run_trials(task, job, monitor, None, Progress(ACCURACY, 0, len(ends), None))
        return [(record.status, record.reason) for record in SearchRecords(here).trials()], monitor.over

    return run


def test_what_has_ended_is_not_cut_short_by_another_call(again):
    """The next call would train a trial further that was marked as cut short."""
    ends = [(COMPLETED, ""), (STOPPED, "scheduler"), (FAILED, "ValueError"), (DIVERGED, "nan")]
    assert again(None, *ends) == (ends, "")


def test_a_goal_that_was_reached_before_it_was_set_ends_the_search(again, here):
    found = again(0.6, (COMPLETED, ""), (STOPPED, "time limit"))
    assert found == ([(COMPLETED, ""), (STOPPED, GOAL)], GOAL)
    session = begun(here, num_trials=5)
    session.records, left = SearchRecords(here), []
    for session.goal in (None, 0.8, 0.6):
        left.append(session.is_anything_left)
    assert left == [True, True, False]


def test_columns_that_are_numbers_and_numpys_numbers_are_stored_as_such(here, fast):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({0: rng.integers(0, 3, 80), 1: rng.normal(size=80), "y": rng.normal(size=80)})
    options = {"column_types": {0: "numerical"}, "save_path": "run", "tracking": None}
    numbers = {"seed": np.int64(3), "time_limit": np.int64(60), "ensemble_size": np.int64(1)}
    fixed = {key: value for key, value in fast.items() if "timm" not in key}
    first = MultiModalPredictor("y", verbosity=0).fit(table, hyperparameters=fixed, **options, **numbers)
    resumed = MultiModalPredictor.load("run", resume=True, verbosity=0).fit(table)
    anew = MultiModalPredictor.load("run", verbosity=0).fit(table, hyperparameters=fixed, save_path="anew", tracking=None)
    for predictor in (first, resumed, anew):
        assert predictor.column_types[0] == "numerical"
    assert SearchIdentity.of({"a": np.float32(0.5), "b": Path("c")}, {}, {}).fingerprint == {"a": 0.5, "b": "c"}


def test_settings_that_are_not_ours_are_no_search(here):
    write_json(here / "settings.json", {"format": 1, "fingerprint": {}, "limits": {}})
    assert not is_search(here)


def test_a_file_system_without_locks_is_named(here, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(InvalidArgument, match=r"is on a file system without locks \(No locks available\)"), search_lock(here):
        pass


def test_a_full_disk_at_the_very_end_fails_no_search(here, monkeypatch, capsys):
    session = begun(here / "run", verbosity=1)
    monkeypatch.setattr("automm_hpo.session.write_outcome", lambda *_: (_ for _ in ()).throw(DiskFull("no room")))
    with session.open():
        session.close(Interruption(), None)
    assert "leaderboard.csv and outcome.json could not be written: no room" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("num_trials", "ended_by", "said"),
    [
        (2, NO_TIME_AFTER, "(no time was left for what follows the trials); the same call with"),
        (2, "", ""),
        (5, "", "(the searcher has nothing more to propose)"),
        (5, GOAL, "(goal reached)"),
        (5, "time limit", "(time limit); the same call with"),
    ],
)
def test_a_search_says_why_it_ended_early(here, store, num_trials, ended_by, said, capsys):
    store(here / "search", [TrialRecord(number, {"optim.lr": 0.1}, {}, STOPPED, GOAL) for number in range(2)])
    session = begun(here, num_trials=num_trials, verbosity=1)
    session.records, session._ended_by = SearchRecords(here / "search"), ended_by
    session.say_goodbye("saved")
    assert capsys.readouterr().out.partition("saved\n")[2].startswith(f"ended early {said}" if said else "")


def opened(path, with_ray, deadline):
    session = begun(path, deadline=deadline, with_ray=with_ray)
    with session.open():
        return session


@pytest.mark.parametrize(("runs", "needed"), [(False, 5.5), (True, 3.5)])
def test_a_time_limit_that_ray_alone_would_take_is_refused_before_it_is_started(here, monkeypatch, runs, needed):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: runs)
    with pytest.raises(TimeLimitTooShort, match=rf"^time_limit: {'' if runs else 'starting Ray takes 2 s'}.* at least {needed - 1:.1f} s more"):
        opened(here / "run", True, time.time() + 1)
    assert not (here / "run").exists()
    opened(here / "run", True, time.time() + needed + 1)
    opened(here / "one", False, time.time() + 1)  # neither a single fit nor a short search starts Ray


@pytest.mark.parametrize("reasons", [["time limit"], ["time limit", "ValueError"]])
def test_trials_that_had_no_time_for_a_score_are_no_failures(here, store, reasons):
    store(here / "search", [TrialRecord(number, {}, {}, FAILED if "Error" in reason else STOPPED, reason) for number, reason in enumerate(reasons)])
    session = begun(here)
    session.records = SearchRecords(here / "search")
    if len(reasons) > 1:
        session._check_scored()  # no TimeLimitTooShort: a later error reports the failure
        return
    with pytest.raises(TimeLimitTooShort, match=r"none of 1 trials reached a score, and the longest ran for \d+ s; the same call with save_path="):
        session._check_scored()


def test_other_data_is_said_in_words(here):
    """The message does not show two digests."""
    stored, wanted = (SearchIdentity({"train": train}, {}, {}) for train in ("a1", "b2"))
    with pytest.raises(SearchMismatch, match=r"rows to train on: other values, labels, files or order of columns than before\nGive .* or another save_path\.$"):
        check_same_search(stored, wanted, here / "search")


def test_files_that_were_copied_are_others_and_the_old_trials_can_be_used(here):
    stored, wanted = (SearchIdentity({"train": train, "columns": {"image": "image_path"}}, {"num_trials": 3}, {}) for train in ("a1", "b2"))
    with pytest.raises(SearchMismatch, match=r"\(a file counts by .* time of change: .*\)\nGive .*{'warm_start': '.*'} uses its trials\.$"):
        check_same_search(stored, wanted, here / "search")


def test_a_folder_that_cannot_be_made_is_refused_by_name(small, here, fast):
    with pytest.raises(InvalidArgument, match="save_path: /proc/nowhere/run cannot be made"):
        MultiModalPredictor("label", verbosity=0).fit(small[0].head(60), hyperparameters=fast, save_path="/proc/nowhere/run", tracking=None)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_fit_knows_an_earlier_search_and_goes_on_without_it(here, fast, capsys):
    """The earlier search may have other rows and another space, and may be deleted afterwards."""
    table = pd.DataFrame({"x": np.linspace(0, 1, 80), "y": np.linspace(0, 1, 80) ** 2})
    one = fast | {"optim.max_epochs": 1}
    kwargs = {"searcher": "bayes", "scheduler": "FIFO", "num_trials": 2}
    spaces = [{"optim.lr": loguniform(1e-4, 1e-2), "optim.optim_type": choice(["adamw", "sgd"])}, {"optim.lr": loguniform(1e-4, 1e-1)}]
    first = MultiModalPredictor("y", "regression", verbosity=0)
    first.fit(table.head(60), hyperparameters=one | spaces[0], hyperparameter_tune_kwargs=kwargs, save_path="a", tracking=None)
    known = next(record for record in first.search.records.ranked() if record.best_tuned["optim.optim_type"] == "adamw")
    second = MultiModalPredictor("y", "regression", verbosity=2)
    second.fit(table, hyperparameters=one | spaces[1], hyperparameter_tune_kwargs=kwargs | {"warm_start": Path("a")}, save_path="b", tracking=None)
    assert second.search.trials[0].tuned == {"optim.lr": known.best_tuned["optim.lr"]}
    assert "earlier trials are known" in capsys.readouterr().out

    assert read_identity(here / "b" / "search").call["fit"]["hyperparameter_tune_kwargs"]["warm_start"] == [str(here / "a")]
    shutil.rmtree(here / "a")
    again = MultiModalPredictor.load("b", resume=True, verbosity=0).fit(table, hyperparameter_tune_kwargs={"num_trials": 3})
    rates = [record.tuned["optim.lr"] for record in again.search.trials]
    assert len(set(rates)) == len(rates) == 3
