"""Images are smaller if time is short; a search that goes on keeps its image size."""

import json
import math

import pytest
import torch
from ray import tune

from automm_hpo import MultiModalPredictor
from automm_hpo.errors import SearchMismatch
from automm_hpo.fit import resolution

SLOW_MODEL = {"model.timm_image.checkpoint_name": "test_resnet", "model.timm_image.pretrained": False, "optim.max_epochs": 1}  # at 160 pixels


@pytest.fixture
def costs(monkeypatch):
    """Sets the seconds that a row takes, because a test cannot know the machine's own speed."""
    return lambda seconds: monkeypatch.setattr(resolution, "_row_seconds", lambda search, features: seconds)


def planned_size(table, time_limit=100, tune_kwargs=None, **hyperparameters):
    """(image size, what was added) that a call of ``fit`` decides on, from a dry run."""
    seen = []

    def decide(search, *args):
        seen.append(original(search, *args))
        return seen[-1]

    original = resolution.fit_resolution
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("automm_hpo.fit.call.fit_resolution", decide)
        patch.setattr("automm_hpo.fit.preview._measure", lambda plan, config: 1.0)  # skips timing the whole fit, which takes seconds and decides nothing
        given = SLOW_MODEL | {f"model.timm_image.{name}": value for name, value in hyperparameters.items()}
        options = {"time_limit": time_limit, "hyperparameter_tune_kwargs": tune_kwargs, "holdout_frac": 0.2}
        MultiModalPredictor("label", verbosity=0).plan(table.head(100), hyperparameters=given, **options)
    return seen[0].config.model.timm_image.image_size, seen[0].added


# 100 rows, 80 to train and 20 to validate: an epoch costs as much as training on 86.7 rows
@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        (0.01, None),  # time enough
        (1.4, 128),  # 121 s at 160 pixels, 78 at 128
        (2.2, 96),  # 191 s, 122 and 69
        (50.0, 64),  # even the smallest takes too long
    ],
)
def test_the_largest_size_that_there_is_time_for(small, here, costs, seconds, size):
    costs(seconds)
    found, added = planned_size(small[0])
    assert found == size
    assert (resolution.KEY in added) is (size is not None)


def test_many_trials_share_the_time(small, here, costs):
    costs(0.05)
    space = {"drop_rate": tune.uniform(0.0, 0.5)}
    assert planned_size(small[0], tune_kwargs={"searcher": "random", "num_trials": 2}, **space)[0] is None
    assert planned_size(small[0], tune_kwargs={"searcher": "random", "num_trials": 200}, **space)[0] == 64


def test_what_the_user_says_of_sizes_stands(small, here, costs):
    costs(50.0)
    assert planned_size(small[0], image_size=160)[0] == 160
    assert planned_size(small[0], time_limit=None)[0] is None
    _, added = planned_size(small[0], tune_kwargs={"searcher": "random", "num_trials": 2}, image_size=tune.choice([128, 160]))
    assert resolution.KEY not in added


def test_a_step_is_measured(small, here, monkeypatch):
    seen = []
    original = resolution._row_seconds
    monkeypatch.setattr(resolution, "_row_seconds", lambda *args: seen.append(original(*args)) or seen[-1])
    planned_size(small[0])
    assert 0 < seen[0] < 10
    assert math.isfinite(seen[0])


def test_a_search_that_goes_on_has_the_size_it_began_with(small, here, costs, capsys):
    table = small[0].head(60)
    call = {"hyperparameters": SLOW_MODEL, "save_path": "run", "tracking": None, "time_limit": 100}
    costs(50.0)
    MultiModalPredictor("label").fit(table, **call)
    assert "image_size=64" in capsys.readouterr().out
    (here / "run" / "search" / "outcome.json").unlink()  # as if killed

    costs(0.0)  # a faster machine would decide otherwise
    stored = here / "run" / "search" / "settings.json"
    for again in (lambda: MultiModalPredictor("label", verbosity=0).fit(table, **call), lambda: MultiModalPredictor.load("run", resume=True).fit(table)):
        predictor = again()
        assert predictor.fit_summary()["num_trials"] == 1
        assert json.loads(stored.read_text())["call"]["chosen"] == {resolution.KEY: 64}
    with pytest.raises(SearchMismatch, match="image_size"):
        MultiModalPredictor("label").fit(table, **call | {"hyperparameters": SLOW_MODEL | {resolution.KEY: 128}})


def test_rows_that_do_not_fit_are_timed_in_smaller_parts(small, here, monkeypatch):
    # simulated, because the device's refusal cannot be provoked here
    asked = []

    def small_memory(model, num_rows, *others):
        asked.append(num_rows)
        if num_rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, num_rows, *others)

    original = resolution._step_seconds
    monkeypatch.setattr(resolution, "_step_seconds", small_memory)
    planned_size(small[0])
    assert asked == [8, 4, 2]
