"""Objectives with Ray's own functions and classes, unchanged from Ray Tune's "Key Concepts" page."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from ray import tune

from automm_hpo import errors, tune_objective

pytestmark = pytest.mark.usefixtures("ray_session", "here")
SPACE = {"x": tune.uniform(-1, 1)}


def search(objective, space=None, scheduler="FIFO", num_trials=4, **options):
    kwargs = {"searcher": "random", "scheduler": scheduler, "num_trials": num_trials} | options.pop("kwargs", {})
    options = {"metric": "loss", "mode": "min", "save_path": "run", "tracking": None, "verbosity": 0} | options
    return tune_objective(objective, space or SPACE, kwargs, **options)


class Callback:
    """A callback for a trainer that owns its loop."""

    def on_epoch_end(self, metrics):
        from ray.tune import report

        report(metrics)


def fitted(config, callback, epochs=9):
    for epoch in range(1, epochs + 1):
        callback.on_epoch_end({"loss": config["x"] ** 2 + 1 / epoch, "twice": 2 * epoch})


@pytest.mark.slow  # like test_rays_hyperband_ends_weak_trials, with one of our schedulers
def test_what_is_reported_is_a_row_and_ends_a_trial_early():
    def objective(config):
        for epoch in range(1, 10):
            tune.report({"loss": config["x"] ** 2 + 1 / epoch})

    found = search(objective, scheduler="ASHA", num_trials=8, max_epochs=9)
    table = found.leaderboard()
    assert set(table["status"]) == {"COMPLETED", "STOPPED"}
    assert table.loc[table["status"] == "COMPLETED", "epochs"].eq(9).all()


def tidies_up(config):
    try:
        while True:
            tune.report({"loss": 1.0})
    finally:
        time.sleep(0.3)  # the search must not end this process before the next line
        Path("tidied").touch()


def catches_everything(config):
    for epoch in range(50):
        try:
            tune.report({"loss": epoch})
        except:  # noqa: E722  # as people write it
            Path(f"caught_{epoch}").touch()


def reports_and_returns(config):
    tune.report({"loss": 2.0})
    return 1.0


def yields_and_reports(config):
    yield {"loss": 1.0}
    tune.report({"loss": 2.0})


def reports_in_a_thread(config):
    thread = threading.Thread(target=lambda: tune.report({"loss": 1.0}))
    thread.start()
    thread.join()


def exits(config):
    sys.exit(3)


def lets_a_stop_iteration_out(config):
    next(iter([]))


CASES = {  # run in this order, in one process
    "callback": lambda config: fitted({"x": 0.5}, Callback(), 8),
    "its name": lambda config: {"loss": 0.0, "number": float(tune.get_context().get_trial_id())},
    "report and return": reports_and_returns,
    "another thread": reports_in_a_thread,
    "yields": yields_and_reports,
    "exit": exits,
    "StopIteration": lets_a_stop_iteration_out,
    "catches": catches_everything,
    "tidies up": tidies_up,
}


@pytest.fixture(scope="module")
def said(ray_session, tmp_path_factory):
    """A search with one trial per entry of ``CASES``, called from a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("said"))
        kwargs = {"searcher": "grid"}
        cases = {"case": tune.grid_search(list(CASES))}
        yield search(lambda config: CASES[config["case"]](config), cases, num_trials=len(CASES), max_epochs=9, kwargs=kwargs, mode="MINIMIZE")


@pytest.fixture
def record_of(said):
    """Maps a case to its trial's record."""
    return {record.tuned["case"]: record for record in said.trials}.__getitem__


def test_a_callback_far_below_reports_as_well_and_other_values_stand_in_the_leaderboard(said, record_of):
    row = said.leaderboard().set_index("trial").loc[record_of("callback").number]
    assert (row["epochs"], row["twice"]) == (8, 16)
    assert record_of("callback").results[-1].end == "returned"


def test_where_it_is_ended_it_tidies_up(said, record_of):
    assert record_of("tidies up").epochs == 9
    assert Path(said.path).with_name("tidied").exists()


def test_where_it_catches_everything_it_is_ended_all_the_same(said, record_of):
    assert record_of("catches").epochs == 9
    assert len(list(Path(said.path).parent.glob("caught_*"))) == 42


def test_it_may_report_and_return_a_last_value(record_of):
    assert [result.metric for result in record_of("report and return").results] == [2.0, 1.0]


def test_a_trial_knows_its_name(record_of):
    assert record_of("its name").results[-1].extra["number"] == record_of("its name").number == 1


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("yields", "in an objective that yields"),
        ("another thread", "called outside the objective's own thread"),
        ("exit", "SystemExit: 3"),
        ("StopIteration", "did not catch the StopIteration"),
    ],
)
def test_what_reports_where_none_is_heard_or_leaves_by_another_door_fails_by_its_name(record_of, case, reason):
    assert record_of(case).status == "FAILED"
    assert reason in record_of(case).reason


def test_a_checkpoint_lets_a_function_go_on(tmp_path):
    """Killed once in its fourth epoch, it resumes after the third."""
    marker = tmp_path / "killed"

    def objective(config):
        checkpoint, epoch = tune.get_checkpoint(), 0
        if checkpoint:
            with checkpoint.as_directory() as folder:
                epoch = json.loads(Path(folder, "epoch.json").read_text())
        while epoch < 6:
            epoch += 1
            if epoch == 4 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            folder = Path(tmp_path, f"state_{os.getpid()}")
            folder.mkdir(exist_ok=True)
            (folder / "epoch.json").write_text(json.dumps(epoch))
            tune.report({"loss": 1 / epoch, "own": epoch}, checkpoint=tune.Checkpoint.from_directory(folder))

    found = search(objective, num_trials=1)
    [record] = found.trials
    assert [result.extra["own"] for result in record.results] == [1, 2, 3, 4, 5, 6]
    assert [result.epoch for result in record.results] == [1, 2, 3, 4, 5, 6]
    assert json.loads(Path(found.checkpoint(), "epoch.json").read_text()) == 6
    assert found.checkpoint(7) is None


class Counting(tune.Trainable):
    """Relies on Ray's own iteration counters and trial id."""

    def setup(self, config):
        self.named = self.trial_id

    def step(self):
        return {"loss": 0.9**self.iteration, "seen": self.training_iteration, "named": float(self.named), "done": self.iteration >= 4}

    def save_checkpoint(self, checkpoint_dir):
        return {"iteration": self.iteration}

    def load_checkpoint(self, checkpoint):
        assert checkpoint == {"iteration": 2}


def test_a_trainable_knows_how_far_it_is_and_who_it_is_and_goes_on_with_the_dict_it_saved(tmp_path):
    """Also after a signal, as from a machine that runs out of memory or shuts down, which is not the objective's fault."""

    class Mortal(Counting):
        def setup(self, config):
            super().setup(config)
            self.signal, self.marker = config["signal"], tmp_path / str(config["signal"])

        def step(self):
            if self.iteration == 3 and self.signal and not self.marker.exists():
                self.marker.touch()
                os.kill(os.getpid(), self.signal)
            return super().step()

    signals = {"signal": tune.grid_search([0, int(signal.SIGKILL), int(signal.SIGTERM)])}
    found = search(Mortal, signals, num_trials=3, max_epochs=9, kwargs={"searcher": "grid"})
    assert [record.status for record in found.trials] == ["COMPLETED"] * 3
    for record in found.trials:
        assert [result.extra["seen"] for result in record.results] == [0, 1, 2, 3, 4]
        assert {result.extra["named"] for result in record.results} == {record.number}
    assert not Path("run/search/trials/0000/files").exists()  # nothing was written there
    assert len(list(tmp_path.glob("[0-9]*"))) == 2


def test_rays_hyperband_ends_weak_trials():
    found = search(lambda config: fitted(config, Callback(), 20), scheduler=tune.schedulers.HyperBandScheduler(max_t=9), num_trials=12, max_epochs=20)
    epochs = found.leaderboard()["epochs"]
    assert epochs.max() == 9
    assert (epochs < 9).sum() >= 4


def test_a_scheduler_that_never_looked_is_told(capsys):
    search(lambda config: fitted(config, Callback(), 8), scheduler="median", verbosity=1)
    assert "median stopped no trial: it judges them after 10 reports, and none made more than 8; give max_epochs=8" in " ".join(capsys.readouterr().out.split())


def test_resources_that_would_not_be_read_are_refused():
    with pytest.raises(errors.InvalidArgument, match="give resources_per_trial"):
        search(tune.with_resources(lambda config: config["x"], {"cpu": 2}))


def test_the_word_of_hyperdrive_for_the_goal(said):
    assert not said.metric.higher_is_better
    assert said.best.metric == min(record.best.metric for record in said.trials if record.best)


@pytest.mark.slow  # like the test above, in upper and lower case
@pytest.mark.parametrize("mode", ["MINIMIZE", "minimize"])
def test_the_words_of_hyperdrive_for_the_goal(mode):
    found = search(lambda config: config["x"], mode=mode)
    assert found.best.metric == min(record.best.metric for record in found.trials)


def test_a_function_that_saves_now_and_then_has_its_best_saved_epoch(tmp_path):
    def objective(config):
        folder = Path(tmp_path, "state")
        folder.mkdir(exist_ok=True)
        for epoch in range(1, 6):
            (folder / "epoch.json").write_text(json.dumps(epoch))
            tune.report({"loss": 1 / epoch}, checkpoint=tune.Checkpoint.from_directory(folder) if epoch in (2, 4) else None)

    found = search(objective, num_trials=1)
    assert found.best.best.epoch == 5
    assert json.loads(Path(found.checkpoint(), "epoch.json").read_text()) == 4


def test_a_trial_has_a_folder_of_its_own_to_write_to(here):
    """In the caller's folder it would read what other trials wrote; our own records are elsewhere."""

    def objective(config):
        own = Path(tune.get_context().get_trial_dir())
        (own / "config.json").write_text(str(config["x"]))
        time.sleep(0.3)
        return {"loss": float((own / "config.json").read_text()), "wrote": own.parent.name == tune.get_context().get_trial_name()}

    found = search(objective, kwargs={"max_concurrent_trials": 2})
    assert [record.metric for record in found.trials] == [record.tuned["x"] for record in found.trials]
    assert all(record.best.extra["wrote"] == 1 for record in found.trials)
    assert (here / "run/search/trials/0002/files/config.json").read_text() == str(found.trials[2].tuned["x"])
