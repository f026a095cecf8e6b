"""When training waits for a GPU; see ``tests/pretend_gpu.py``."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pretend_gpu import GPU, OnGpu, pretend_gpu

from automm_hpo.data.features import Features
from automm_hpo.training.building import ModelBuilder
from automm_hpo.training.checkpoint import load_checkpoint, save_checkpoint, take_snapshot
from automm_hpo.training.loop import train_epochs
from automm_hpo.training.transforms import DRAWS

TRANSFORMS = "model__timm_image__train_transforms"
VALIDATION = ["__float__", "cpu"]  # the mean loss over an epoch's steps, and the predictions


@pytest.fixture
def gpu():
    with pretend_gpu() as gpu:
        yield gpu


def on_gpu(one):
    """A trial's state and data on the GPU."""
    data = replace(one.data, train=one.data.train.to(GPU), valid=one.data.valid.to(GPU))
    return ModelBuilder(Features(num_images=1), data.problem.num_outputs).state(one.config, one.seed, GPU), data


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {TRANSFORMS: ("random_crop", "trivial_augment", "color_jitter")},
        {"data__mixup__turn_on": True, "data__mixup__cutmix_alpha": 1.0},
        {"optim__class_weights": "balanced", "optim__loss_func": "focal_loss"},
        {"optim__ema_decay": 0.9, "optim__optim_type": "sgd", "optim__lr": 0.05},
        pytest.param({"optim__optim_type": "lamb"}, marks=pytest.mark.slow),
        {"optim__optim_type": "lion", "optim__lr": 1e-3},  # it uses signs: a larger step would amplify the last bits of small gradients
        {"env__per_gpu_batch_size": 4},
        pytest.param({"model__timm_image__image_size": 64}, marks=pytest.mark.slow),
        {"model__timm_image__checkpoint_name": "test_vit", "optim__peft": "lora"},
        pytest.param({"model__timm_image__checkpoint_name": "mobilenetv3_small_050"}, marks=pytest.mark.slow),
    ],
)
def test_training_waits_for_the_gpu_only_where_it_validates(trial, overrides, monkeypatch):
    monkeypatch.setattr("automm_hpo.training.transforms.DRAWS_ON_GPU", DRAWS)  # the same augmentations on both
    one = trial(**{"optim__max_epochs": 2} | overrides)
    expected = [(result.score, result.train_loss) for result in one.epochs(one.state())]
    with pretend_gpu() as gpu:
        state, data = on_gpu(one)
        epochs = train_epochs(state, data, one.config, one.seed, lambda epoch, ahead: None)
        found = [next(epochs)]
        gpu.waits.clear()
        found += epochs
        of_torchvision = "trivial_augment" in one.config.model.timm_image.train_transforms  # its numbers are copied one by one
        assert [wait for wait in gpu.waits if wait != "tensor" or not of_torchvision] == VALIDATION
    assert {type(parameter) for parameter in state.model.parameters()} == {OnGpu}
    assert np.allclose(expected, [(result.score, result.train_loss) for result in found], rtol=0.01)  # sums are added in another order


def test_rows_that_stay_on_the_processor_travel_without_a_wait(trial, gpu):
    one = trial(optim__max_epochs=2)
    state, _ = on_gpu(one)
    epochs = train_epochs(state, one.data, one.config, one.seed, lambda epoch, ahead: None)
    next(epochs)
    gpu.waits.clear()
    assert len(list(epochs)) == 1
    assert gpu.waits == VALIDATION


def test_a_checkpoint_waits_once_and_can_be_gone_on_with(trial, tmp_path, gpu):
    one = trial(optim__max_epochs=3)
    state, data = on_gpu(one)
    epochs = train_epochs(state, data, one.config, one.seed, lambda epoch, ahead: None)
    path = save_checkpoint(tmp_path, state, next(epochs))
    gpu.waits.clear()
    snapshot = take_snapshot(state)
    assert gpu.waits == ["synchronize"]
    assert {type(tensor) for tensor in (*snapshot.weights.values(), *snapshot.tensors.values())} == {torch.Tensor}
    resumed, _ = on_gpu(one)
    load_checkpoint(path, resumed)
    rest = train_epochs(resumed, data, one.config, one.seed, lambda epoch, ahead: None)
    assert [result.train_loss for result in epochs] == [result.train_loss for result in rest]
