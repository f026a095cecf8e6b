"""A resumed search never replaces its predictor by a worse one."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from automm_hpo import MultiModalPredictor
from automm_hpo.artifact import load_artifact, load_summary
from automm_hpo.fit.place import PredictorFolder
from automm_hpo.hpo.progress import Progress
from automm_hpo.metrics import find_metric

LOG_LOSS = find_metric("log_loss")  # lower is better


@pytest.fixture
def later(small, here, fast):
    """(score of the earlier session, scores of the later call, its plan) -> the stored scores after each later commit, and the final one."""
    table = small[0]
    MultiModalPredictor("label", verbosity=0).fit(table, hyperparameters=fast, save_path="run", tracking=None, time_limit=None)

    def run(earlier, found, **plan):
        first = load_artifact(here / "run").with_summary(val_log_loss=earlier, num_trials=4)
        given = {"path": here / "run", "resuming": True, "refit": False, "ensemble_size": 1} | plan
        data = SimpleNamespace(validation_metric=LOG_LOSS, eval_metric=LOG_LOSS)
        PredictorFolder(SimpleNamespace(**given | {"resuming": False}, data=data), first).commit(first)
        artifacts = [first.with_summary(val_log_loss=value, num_trials=6) for value in found]
        place, seen = PredictorFolder(SimpleNamespace(**given, data=data), artifacts[0]), []
        for artifact in artifacts:
            place.commit(artifact)
            seen.append(load_summary(here / "run")["val_log_loss"])
        kept = place.settled(artifacts[-1], Progress(LOG_LOSS, 1, 1, None))
        assert load_summary(here / "run") == kept.summary
        assert kept.summary["num_trials"] == 6
        return seen, kept.summary["val_log_loss"]

    return run


@pytest.mark.parametrize(
    ("found", "plan", "seen", "at_last"),
    [
        ([0.6, 0.5], {}, [0.4, 0.4], 0.4),
        ([0.6, 0.3], {}, [0.4, 0.3], 0.3),
        ([0.3, 0.2], {}, [0.3, 0.2], 0.2),
        ([0.4], {}, [0.4], 0.4),
        ([0.6], {"refit": True}, [0.6], 0.6),  # trained on all rows, so its score cannot be compared
        ([0.6], {"ensemble_size": 0}, [0.6], 0.6),  # the call now wants fewer members
        ([0.6], {"resuming": False}, [0.6], 0.6),
    ],
)
def test_the_better_one_stays(later, found, plan, seen, at_last, capsys):
    assert later(0.4, found, **plan) == (seen, at_last)
    said = "the earlier predictor stays: log_loss 0.4000 on the validation rows, where this call came to 0.5000"
    assert (said in " ".join(capsys.readouterr().out.split())) == (found == [0.6, 0.5])


@pytest.mark.parametrize(
    ("earlier", "found", "stays"),
    [
        ((1, 0.9, 0.5), (2, 0.8, 0.4), False),  # selected by log loss, and its accuracy is lower
        ((2, 0.8, 0.4), (1, 0.9, 0.5), True),
        ((2, 0.8, 0.4), (1, 0.7, 0.3), False),
        ((2, 0.8, 0.4), (2, 0.7, 0.3), False),
        ((2, 0.8, 0.4), (2, 0.9, 0.5), True),
        ((1, 0.8, 0.4), (1, 0.9, 0.5), False),
    ],
)
def test_ensembles_selected_by_log_loss_are_compared_by_it(small, here, fast, capsys, earlier, found, stays):
    """(number of members, accuracy, log loss) of the earlier predictor and of the one that this call found."""
    MultiModalPredictor("label", verbosity=0).fit(small[0].head(60), hyperparameters=fast | {"optim.max_epochs": 1}, save_path="run", tracking=None)
    alone = load_artifact(here / "run")

    def artifact(num_members, accuracy, log_loss):
        members = (replace(alone.members[0], weight=1 / num_members),) * num_members
        ensemble = {"ensemble": {"selected_by": "log_loss"}} if num_members > 1 else {}
        return replace(alone, members=members).with_summary(val_accuracy=accuracy, val_log_loss=log_loss, num_trials=4, **ensemble)

    metric = find_metric("accuracy")
    plan = {"path": here / "run", "refit": False, "ensemble_size": 2, "data": SimpleNamespace(validation_metric=metric, eval_metric=metric)}
    PredictorFolder(SimpleNamespace(**plan, resuming=False), artifact(*earlier)).commit(artifact(*earlier))
    place = PredictorFolder(SimpleNamespace(**plan, resuming=True), artifact(*found))
    place.commit(artifact(*found))
    place.settled(artifact(*found), Progress(metric, 1, 1, None))
    assert load_summary(here / "run")["val_accuracy"] == (earlier if stays else found)[1]
    words = f"the earlier predictor stays: log_loss {earlier[2]:.4f} on the validation rows, where this call came to {found[2]:.4f}"
    assert (words in " ".join(capsys.readouterr().out.split())) == stays


def test_one_that_is_damaged_does_not_stay(later, here):
    assert later(0.4, [0.6]) == ([0.4], 0.4)
    (here / "run" / "encoders.json").write_text("{}")
    plan = {"path": here / "run", "resuming": True, "refit": False, "ensemble_size": 1}
    data = SimpleNamespace(validation_metric=LOG_LOSS, eval_metric=LOG_LOSS)
    assert PredictorFolder(SimpleNamespace(**plan, data=data), None)._earlier is None
