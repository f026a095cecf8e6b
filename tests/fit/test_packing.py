"""How many trials share a GPU. What one of them takes of it can only be measured on a real GPU."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from pretend_gpu import pretend_gpu
from ray import tune

from automm_hpo import MultiModalPredictor
from automm_hpo.fit.call import FitCall, plan_fit
from automm_hpo.fit.capacity import num_parallel
from automm_hpo.fit.packing import Occupancy, plan_gpu_share, trials_per_gpu
from automm_hpo.fit.plan import Target
from automm_hpo.hpo.settings import TuneSettings, local_resources
from automm_hpo.training.device import find_device

GB = 10**9


@pytest.mark.parametrize(
    ("memory", "busy", "gpu", "cpus", "count"),
    [
        (1 * GB, 0.2, 80 * GB, 16, 5),  # busy a fifth of the time
        (1 * GB, 0.01, 80 * GB, 16, 8),  # at most eight
        (1 * GB, 0.95, 80 * GB, 16, 1),
        (3 * GB, 0.1, 8 * GB, 16, 2),  # limited by memory
        (20 * GB, 0.1, 8 * GB, 16, 1),  # does not fit even alone, which is for the trial to report
        (1 * GB, 0.1, 80 * GB, 2, 2),  # limited by CPUs
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
    """If they did, they would run one at a time on a machine with one GPU and many CPUs."""
    monkeypatch.setattr("automm_hpo.fit.capacity.known_resources", lambda num_gpus: {"cpu": 16.0, "gpu": 1.0})
    plans = {}

    def planned(plan):
        plans[plan.search.config.env.accelerator] = (num_parallel(plan.search), plan_gpu_share(plan, {"cpu": 16.0, "gpu": 1.0})[0])

    monkeypatch.setattr("automm_hpo.predictor.preview", lambda plan: planned(plan))
    for accelerator in ("auto", "cpu"):
        hyperparameters = fast | {"optim.lr": tune.loguniform(1e-3, 1e-2), "env.accelerator": accelerator}
        MultiModalPredictor("label").plan(small[0], hyperparameters=hyperparameters, hyperparameter_tune_kwargs={"num_trials": 10})
    assert plans["cpu"] == (10, 0.0)
    assert plans["auto"][0] == 1


@pytest.fixture(autouse=True)
def no_ray_seen(monkeypatch):
    """Other tests may have left a Ray running in this process that has no GPU."""
    monkeypatch.setattr("automm_hpo.hpo.cluster.sys", SimpleNamespace(modules={}))


@pytest.mark.parametrize(("kernel_seconds", "count"), [(1e-6, 8), (1e3, 1), (0.0, 1)], ids=["hardly busy", "busy", "the profiler saw nothing"])
def test_trials_share_a_gpu_by_what_the_profiler_saw(small, here, fast, monkeypatch, kernel_seconds, count):
    @contextmanager
    def profile(activities):
        yield SimpleNamespace(key_averages=lambda: [SimpleNamespace(self_device_time_total=1e6 * kernel_seconds)])

    monkeypatch.setattr("automm_hpo.fit.packing.profile", profile)
    settings = {"num_trials": 20, "searcher": "random"}
    with pretend_gpu():
        call = FitCall(hyperparameters=fast | {"optim.lr": tune.loguniform(1e-3, 1e-2)}, hyperparameter_tune_kwargs=settings)
        share, why = plan_gpu_share(plan_fit(call, Target("label", None, None, None), [], small[0], None).with_scorer(), {"cpu": 16.0, "gpu": 1.0})
    assert share == 1 / count
    assert why.startswith("8 trials share a GPU: one takes 1.6 of 86 GB and 0% of its time") if count > 1 else not why


def _plan(table, fast, hyperparameters=None, **settings):
    hyperparameters = fast | {"optim.lr": tune.loguniform(1e-3, 1e-2)} | (hyperparameters or {})
    call = FitCall(hyperparameters=hyperparameters, hyperparameter_tune_kwargs={"num_trials": 20, "searcher": "random"} | settings)
    return plan_fit(call, Target("label", None, None, None), [], table, None)


def test_every_trial_has_the_rows_on_the_gpu(small, here, fast, monkeypatch):
    """If the images take a fifth of the free memory, four trials have room; if they are too large to be kept there, eight."""

    @contextmanager
    def profile(activities):
        yield SimpleNamespace(key_averages=lambda: [SimpleNamespace(self_device_time_total=1.0)])

    monkeypatch.setattr("automm_hpo.fit.packing.profile", profile)
    monkeypatch.setattr("automm_hpo.fit.packing.CONTEXT_BYTES", 0)
    with pretend_gpu():
        plan = _plan(small[0], fast).with_scorer()
        rows = len(small[0]) * plan.encoders.geometry.side**2 * 3
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 0)
        for share, count in ((0.2, 4), (0.6, 8)):
            memory = int(rows / share)
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, memory=memory: (memory, 3 * memory))  # other processes use the rest
            assert plan_gpu_share(plan, {"cpu": 16.0, "gpu": 1.0})[0] == 1 / count


@pytest.mark.parametrize("error", [None, RuntimeError("out of memory: tried\nto")])
def test_a_measurement_that_fails_leaves_each_trial_a_gpu(small, here, fast, monkeypatch, error):
    """The trials will fail, and say why."""

    @contextmanager
    def profile(activities):
        if error:
            raise error
        yield SimpleNamespace(key_averages=list)

    monkeypatch.setattr("automm_hpo.fit.packing.profile", profile)
    with pretend_gpu():
        plan = _plan(small[0], fast, {"optim.lr": 1e30, "optim.weight_decay": tune.loguniform(1e-3, 1e-2)} if error is None else None)
        share, why = plan_gpu_share(plan.with_scorer(), {"cpu": 16.0, "gpu": 1.0})
    assert share == 1
    assert why == ("trials do not share a GPU: measuring one failed with RuntimeError: out of memory: tried" if error else "")


def test_no_share_is_planned_of_gpus_that_the_search_has_not(small, here, fast):
    """The user may have started Ray without this machine's GPUs."""
    with pretend_gpu():
        plan = _plan(small[0], fast)
        assert plan_gpu_share(plan, {"cpu": 16.0, "gpu": 0.0}) == plan_gpu_share(plan, None) == (1.0, "")


def test_a_trial_without_a_gpu_does_not_use_one(small, here, fast):
    with pretend_gpu():
        search = _plan(small[0], fast, resources_per_trial={"cpu": 1, "gpu": 0}).search
        assert find_device(search.config.env).type == "cpu"


def test_trials_go_by_the_gpus_of_the_search_and_not_of_the_machine(small, here, fast, monkeypatch):
    monkeypatch.setattr("automm_hpo.hpo.settings.os.sched_getaffinity", lambda process: range(16))
    with pretend_gpu(num_gpus=8):
        assert num_parallel(_plan(small[0], fast, hyperparameters={"env.num_gpus": 2}).search) == 2
        assert num_parallel(_plan(small[0], fast).search) == 8


def test_gpus_that_torch_cannot_use_are_none(monkeypatch):
    """Torch still counts them if the driver is too old."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_resources()["gpu"] == 0


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


def test_trials_of_a_ray_without_gpus_do_not_use_one(small, here, fast, monkeypatch):
    """They would all train on the first GPU, because Ray does not hide it from them."""
    monkeypatch.setattr("automm_hpo.fit.search_plan.known_resources", lambda: {"cpu": 4.0, "gpu": 0.0})
    with pretend_gpu():
        assert find_device(_plan(small[0], fast).search.config.env).type == "cpu"
