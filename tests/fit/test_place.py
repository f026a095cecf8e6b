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


def test_a_single_model_does_not_beat_an_ensemble_selected_by_another_metric(later, here):
    """Whatever their values: of a better log loss, an ensemble may have a lower accuracy on the validation rows. Two of them are compared."""

    def stored(earlier, found):
        alone = load_artifact(here / "run")
        alone = replace(alone, members=alone.members[:1])
        together = replace(alone, members=(replace(alone.members[0], weight=0.5),) * 2).with_summary(ensemble={"selected_by": "accuracy"})
        first, second = ((together if many else alone).with_summary(val_log_loss=value, num_trials=4) for many, value in (earlier, found))
        plan = {"path": here / "run", "refit": False, "ensemble_size": 2, "data": SimpleNamespace(validation_metric=LOG_LOSS, eval_metric=LOG_LOSS)}
        PredictorFolder(SimpleNamespace(**plan, resuming=False), first).commit(first)
        PredictorFolder(SimpleNamespace(**plan, resuming=True), alone.with_summary(val_log_loss=9.0)).commit(second)
        return load_summary(here / "run")["val_log_loss"]

    later(0.4, [0.4])
    assert stored((False, 0.4), (True, 0.5)) == 0.5
    assert stored((True, 0.5), (False, 0.4)) == 0.4
    assert stored((True, 0.5), (False, 0.6)) == 0.5
    assert stored((True, 0.4), (True, 0.5)) == 0.4


def test_one_that_is_damaged_does_not_stay(later, here):
    assert later(0.4, [0.6]) == ([0.4], 0.4)
    (here / "run" / "encoders.json").write_text("{}")
    plan = {"path": here / "run", "resuming": True, "refit": False, "ensemble_size": 1}
    data = SimpleNamespace(validation_metric=LOG_LOSS, eval_metric=LOG_LOSS)
    assert PredictorFolder(SimpleNamespace(**plan, data=data), None)._earlier is None
