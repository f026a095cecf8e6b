"""Objectives that report by Ray's own functions, and Ray's own classes: what Ray Tune's key concepts show, unchanged."""

import json
import os
import signal
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
    """As of a trainer that owns its loop."""

    def on_epoch_end(self, metrics):
        from ray.tune import report

        report(metrics)


def fitted(config, callback, epochs=9):
    for epoch in range(1, epochs + 1):
        callback.on_epoch_end({"loss": config["x"] ** 2 + 1 / epoch, "twice": 2 * epoch})


def test_what_is_reported_is_a_row_and_ends_a_trial_early():
    def objective(config):
        for epoch in range(1, 10):
            tune.report({"loss": config["x"] ** 2 + 1 / epoch})

    found = search(objective, scheduler="ASHA", num_trials=8, max_epochs=9)
    table = found.leaderboard()
    assert set(table["status"]) == {"COMPLETED", "STOPPED"}
    assert table.loc[table["status"] == "COMPLETED", "epochs"].eq(9).all()


def test_a_callback_far_below_reports_as_well_and_other_values_stand_in_the_leaderboard():
    found = search(lambda config: fitted(config, Callback()), num_trials=2)
    table = found.leaderboard()
    assert table["epochs"].tolist() == [9, 9]
    assert table["twice"].tolist() == [18, 18]
    assert {record.results[-1].end for record in found.trials} == {"returned"}


def test_where_it_is_ended_it_tidies_up(tmp_path):
    def objective(config):
        try:
            while True:
                tune.report({"loss": config["x"] ** 2})
        finally:
            time.sleep(0.3)  # when the search is over, its processes are no more
            Path(tmp_path, f"tidied_{config['x']}").touch()

    found = search(objective, num_trials=2, max_epochs=3)
    assert [record.epochs for record in found.trials] == [3, 3]
    assert len(list(tmp_path.glob("tidied_*"))) == 2


def test_where_it_catches_everything_it_is_ended_all_the_same(tmp_path):
    def objective(config):
        for epoch in range(50):
            try:
                tune.report({"loss": epoch})
            except:  # noqa: E722  # as people write it
                Path(tmp_path, f"caught_{config['x']}_{epoch}").touch()

    found = search(objective, num_trials=1, max_epochs=3)
    assert [record.epochs for record in found.trials] == [3]
    assert len(list(tmp_path.glob("caught_*"))) == 48


def test_it_may_report_and_return_a_last_value():
    def objective(config):
        tune.report({"loss": 2.0})
        return 1.0

    [record] = search(objective, num_trials=1).trials
    assert [result.metric for result in record.results] == [2.0, 1.0]


def test_a_trial_knows_its_name():
    def objective(config):
        return {"loss": 0.0, "number": float(tune.get_context().get_trial_id())}

    assert search(objective, num_trials=3).leaderboard()["number"].tolist() == [0, 1, 2]


def test_a_checkpoint_lets_a_function_go_on(tmp_path):
    """Killed once in its fourth epoch, it goes on behind the third."""
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


def test_reports_beside_yields_are_refused():
    def objective(config):
        yield {"loss": 1.0}
        tune.report({"loss": 2.0})

    [record] = search(objective, num_trials=1).trials
    assert record.status == "FAILED"
    assert "in one that yields" in record.reason


def test_reports_from_another_thread_are_refused_by_their_name():
    def objective(config):
        thread = threading.Thread(target=lambda: tune.report({"loss": 1.0}))
        thread.start()
        thread.join()

    with pytest.raises(errors.AllTrialsFailed, match="called in another thread than the objective"):
        search(objective, num_trials=1)


@pytest.mark.parametrize(("mistake", "reason"), [("sys.exit(3)", "SystemExit: 3"), ("next(iter([]))", "let its StopIteration out")])
def test_what_leaves_an_objective_by_another_door_is_its_trials_reason(mistake, reason):
    def objective(config):
        import sys  # noqa: F401  # of the mistake

        exec(mistake)

    with pytest.raises(errors.AllTrialsFailed, match=reason):
        search(objective, num_trials=1)


class Counting(tune.Trainable):
    """Goes by what Ray counts for it."""

    def setup(self, config):
        self.named = self.trial_id

    def step(self):
        return {"loss": 0.9**self.iteration, "seen": self.training_iteration, "named": float(self.named), "done": self.iteration >= 4}

    def save_checkpoint(self, checkpoint_dir):
        return {"iteration": self.iteration}

    def load_checkpoint(self, checkpoint):
        assert checkpoint == {"iteration": 2}


def test_a_trainable_knows_how_far_it_is_and_who_it_is(monkeypatch, tmp_path):
    found = search(Counting, num_trials=2, max_epochs=9)
    for record in found.trials:
        assert [result.extra["seen"] for result in record.results] == [0, 1, 2, 3, 4]
        assert {result.extra["named"] for result in record.results} == {record.number}
        assert not (Path("run/search/trials") / f"{record.number:04}" / "files").exists()  # nothing was written there


def test_a_trainable_goes_on_with_the_dict_it_saved(tmp_path):
    marker = tmp_path / "killed"

    class Mortal(Counting):
        def step(self):
            if self.iteration == 3 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().step()

    [record] = search(Mortal, num_trials=1, max_epochs=9).trials
    assert [result.extra["seen"] for result in record.results] == [0, 1, 2, 3, 4]


def test_rays_hyperband_ends_weak_trials():
    found = search(lambda config: fitted(config, Callback(), 20), scheduler=tune.schedulers.HyperBandScheduler(max_t=9), num_trials=12, max_epochs=20)
    epochs = found.leaderboard()["epochs"]
    assert epochs.max() == 9
    assert (epochs < 9).sum() >= 4


def test_a_scheduler_that_never_looked_is_told(capsys):
    search(lambda config: fitted(config, Callback(), 8), scheduler="median", verbosity=1)
    assert "median has ended no trial: it looks at them after 10 reports, and they made 8 at most; give max_epochs=8" in " ".join(
        capsys.readouterr().out.split()
    )


def test_resources_that_would_not_be_read_are_refused():
    with pytest.raises(errors.InvalidArgument, match="give resources_per_trial"):
        search(tune.with_resources(lambda config: config["x"], {"cpu": 2}))


@pytest.mark.parametrize("mode", ["MINIMIZE", "minimize"])
def test_the_words_of_hyperdrive_for_the_goal(mode):
    found = search(lambda config: config["x"], mode=mode)
    assert found.best.metric == min(record.best.metric for record in found.trials)


def test_a_process_that_is_told_to_go_is_replaced(tmp_path):
    """By SIGTERM, as a machine that runs out of memory or is shut down tells it; that is no fault of the objective's."""
    marker = tmp_path / "told"

    class Told(Counting):
        def step(self):
            if self.iteration == 3 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step()

    [record] = search(Told, num_trials=1, max_epochs=9).trials
    assert record.status == "COMPLETED"
    assert [result.extra["seen"] for result in record.results] == [0, 1, 2, 3, 4]
