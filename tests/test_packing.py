"""How many trials share a GPU. What one takes of it can only be measured where there is one."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from pretend_gpu import pretend_gpu
from ray import tune

from automm_hpo import MultiModalPredictor
from automm_hpo.call import FitCall, plan_fit
from automm_hpo.checks import num_parallel
from automm_hpo.hpo.settings import TuneSettings
from automm_hpo.packing import Occupancy, plan_gpu_share, trials_per_gpu
from automm_hpo.plan import Target

GB = 10**9


@pytest.mark.parametrize(
    ("memory", "busy", "gpu", "cpus", "count"),
    [
        (1 * GB, 0.2, 80 * GB, 16, 5),  # it computes a fifth of the time
        (1 * GB, 0.01, 80 * GB, 16, 8),  # never more than eight
        (1 * GB, 0.95, 80 * GB, 16, 1),
        (3 * GB, 0.1, 8 * GB, 16, 2),  # memory
        (20 * GB, 0.1, 8 * GB, 16, 1),  # it does not fit even alone: that is for the trial to say
        (1 * GB, 0.1, 80 * GB, 2, 2),  # processors
        (1 * GB, 0.0, 80 * GB, 0.5, 1),
    ],
)
def test_as_many_share_a_gpu_as_hinder_one_another_little(memory, busy, gpu, cpus, count):
    assert trials_per_gpu(Occupancy(memory, busy), gpu, cpus) == count


def test_what_the_user_says_stands():
    assert TuneSettings(resources_per_trial={"gpu": 0.5}).with_gpu_share(0.25).resources == {"gpu": 0.5}
    assert TuneSettings(resources_per_trial={"cpu": 2}).with_gpu_share(0.25).resources == {"cpu": 2, "gpu": 0.25}
    assert TuneSettings().with_gpu_share(1.0).resources == {}


def test_trials_that_are_kept_from_a_gpu_do_not_queue_for_it(small, here, fast, monkeypatch):
    """One at a time, on a machine with one GPU and many processors."""
    monkeypatch.setattr("automm_hpo.checks.known_resources", lambda: {"cpu": 16.0, "gpu": 1.0})
    plans = {}

    def planned(plan):
        plans[plan.search.config.env.accelerator] = (num_parallel(plan.search), plan_gpu_share(plan)[0])

    monkeypatch.setattr("automm_hpo.predictor.preview", lambda plan: planned(plan))
    for accelerator in ("auto", "cpu"):
        hyperparameters = fast | {"optim.lr": tune.loguniform(1e-3, 1e-2), "env.accelerator": accelerator}
        MultiModalPredictor("label").plan(small[0], hyperparameters=hyperparameters, hyperparameter_tune_kwargs={"num_trials": 10})
    assert plans["cpu"] == (10, 0.0)
    assert plans["auto"][0] == 1


@pytest.mark.parametrize(("kernel_seconds", "count"), [(1e-6, 8), (1e3, 1), (0.0, 1)], ids=["hardly busy", "busy", "the profiler saw nothing"])
def test_trials_share_a_gpu_by_what_the_profiler_saw(small, here, fast, monkeypatch, kernel_seconds, count):
    @contextmanager
    def profile(activities):
        yield SimpleNamespace(key_averages=lambda: [SimpleNamespace(self_device_time_total=1e6 * kernel_seconds)])

    monkeypatch.setattr("automm_hpo.packing.profile", profile)
    monkeypatch.setattr("automm_hpo.packing.local_resources", lambda: {"cpu": 16.0, "gpu": 1.0})
    settings = {"num_trials": 20, "searcher": "random"}
    with pretend_gpu():
        call = FitCall(hyperparameters=fast | {"optim.lr": tune.loguniform(1e-3, 1e-2)}, hyperparameter_tune_kwargs=settings)
        share, why = plan_gpu_share(plan_fit(call, Target("label", None, None, None), [], small[0], None).with_scorer())
    assert share == 1 / count
    assert why.startswith("8 trials share a GPU: one takes 1.6 of 86 GB and 0% of its time") if count > 1 else not why


@pytest.mark.gpu
def test_small_trials_share_a_gpu(small, here, fast, capsys):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    MultiModalPredictor("label").fit(
        small[0],
        hyperparameters=fast | {"optim.lr": tune.loguniform(1e-3, 1e-2)},
        hyperparameter_tune_kwargs={"searcher": "random", "num_trials": 4},
        tracking=None,
    )
    assert "trials share a GPU" in capsys.readouterr().out
