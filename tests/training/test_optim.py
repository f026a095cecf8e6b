import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from automm_hpo.config import Config, Optim
from automm_hpo.data.features import Features
from automm_hpo.models import build_model
from automm_hpo.training.checkpoint import load_checkpoint, save_checkpoint
from automm_hpo.training.optim import LR_SCHEDULES, OPTIMIZERS, build_optimizer, lr_factor, lr_scales
from automm_hpo.training.result import EpochResult
from automm_hpo.training.state import TrainState


@pytest.mark.parametrize("schedule", sorted(LR_SCHEDULES.keys() - {"coslog4"}))
def test_a_schedule_warms_up_peaks_and_falls(schedule):
    optim = Optim(lr_schedule=schedule, warmup_steps=0.1)
    factors = [lr_factor(optim, step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert all(later <= earlier for earlier, later in pairwise(factors[10:]))
    assert min(factors) > 0
    assert factors[-1] == 1 if schedule == "constant" else factors[-1] < (0.2 if schedule == "multi_step" else 0.02)


def test_multi_step_falls_to_a_tenth_twice():
    optim = Optim(lr_schedule="multi_step", warmup_steps=0)
    assert [lr_factor(optim, step, 100) for step in (0, 49, 50, 74, 75, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_coslog4_rises_and_falls_four_times_ever_more_slowly():
    optim = Optim(lr_schedule="coslog4", warmup_steps=0)
    factors = [lr_factor(optim, step, 15_000) for step in range(15_000)]
    peaks = [step for step in range(1, 14_999) if factors[step - 1] < factors[step] >= factors[step + 1]]
    assert [math.log2(1 + peak / 1_000) for peak in peaks] == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=1e-3)
    assert [factors[peak] for peak in peaks] == pytest.approx([1] * 4, abs=1e-6)
    assert factors[0] == 0
    assert factors[-1] < 1e-6


MIXED = ("timm_image", "hf_text", "real_mlp", "categorical_mlp", "fusion_mlp")


@pytest.fixture
def mixed(make_config, features, tmp_path):
    """(optim's hyperparameters) -> (a model of pretrained image and text backbones and new networks, its config)."""
    import timm

    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")

    def make(**optim):
        config = make_config(*MIXED, model__timm_image__checkpoint_path=str(tmp_path / "w.pth"), **{f"optim__{key}": value for key, value in optim.items()})
        return build_model(config, features, 3), config

    return make


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_biases_and_what_a_model_names_are_not_decayed(name, mixed):
    model, config = mixed(optim_type=name, weight_decay=0.1, lr=0.5)
    groups = build_optimizer(model, config.optim).param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    assert all(parameter.ndim > 1 for group in groups if group["weight_decay"] for parameter in group["params"])
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    assert id(model.backbones["timm_image"].backbone.pos_embed) not in decayed
    assert sorted(id(parameter) for group in groups for parameter in group["params"]) == sorted(map(id, model.parameters()))
    assert {group["lr"] for group in groups} == {0.5}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_clips_gradients_for_itself(name):
    """The loop clips, by optim.gradient_clip_val. What an optimizer keeps of its first gradient must be proportional to it."""

    def kept(gradient):
        model = nn.Linear(16, 1, bias=False)
        optimizer = build_optimizer(model, Optim(optim_type=name, weight_decay=0.0))
        model.weight.grad = torch.full_like(model.weight, gradient)
        optimizer.step()
        slots = optimizer.state[model.weight]
        return float(next(slots[slot] for slot in ("exp_avg", "momentum_buffer") if slot in slots).mean())

    assert kept(100.0) == pytest.approx(100 * kept(1.0), rel=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_and_goes_on_from_a_checkpoint_as_if_nothing_had_been(name, tmp_path):
    optim = Optim(optim_type=name, lr=1e-2, weight_decay=0.01)
    inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    target = inputs @ torch.tensor([[1.0], [-1.0], [0.5], [0.0]])

    def state():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 1))
        return TrainState(model, build_optimizer(model, optim))

    def train(state, steps):
        for _ in range(steps):
            loss = (state.model(inputs) - target).square().mean()
            loss.backward()
            state.optimizer.step()
            state.optimizer.zero_grad()
        return loss.item()

    first, straight = train(state(), 1), state()
    assert train(straight, 40) < 0.7 * first
    halted, resumed = state(), state()
    train(halted, 15)
    path = save_checkpoint(tmp_path, halted, EpochResult(1.0, 15, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    load_checkpoint(path, resumed)
    train(resumed, 25)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(resumed.model.parameters(), straight.model.parameters(), strict=True))


def test_one_rate_for_all_where_nothing_is_chosen(mixed):
    model, config = mixed(lr_mult=10, lr_decay=0.5)
    assert {scale for name, scale in lr_scales(model, config.optim).items() if "real_mlp" not in name} == {1}


def test_two_stages_give_what_is_new_a_rate_of_its_own(mixed):
    model, config = mixed(lr_choice="two_stages", lr_mult=7, lr_decay=0.5)
    scales = lr_scales(model, config.optim)
    assert {scale for name, scale in scales.items() if name.startswith(("backbones.timm_image", "backbones.hf_text"))} == {1}
    assert {scale for name, scale in scales.items() if name.startswith(("head", "fusion", "backbones.categorical_mlp"))} == {7}
    assert scales["backbones.real_mlp.layers.0.weight"] == 7 * config.model.real_mlp.lr_mult


def test_layers_decay_in_each_backbone_by_its_own_depth(mixed):
    model, config = mixed(lr_choice="layerwise_decay", lr_mult=7, lr_decay=0.5)
    scales = lr_scales(model, config.optim)
    image, text = "backbones.timm_image.backbone", "backbones.hf_text.encoder"
    assert scales[f"{image}.blocks.0.attn.qkv.weight"] == 2 * scales[f"{image}.patch_embed.proj.weight"]
    assert scales[f"{image}.norm.weight"] == 1
    assert scales[f"{text}.encoder.layer.1.output.dense.weight"] == 2 * scales[f"{text}.encoder.layer.0.output.dense.weight"] == 0.5
    assert scales["head.weight"] == 7


def test_random_backbones_are_new(make_config):
    config = make_config("timm_image", optim__lr_choice="layerwise_decay", optim__lr_mult=7)
    assert set(lr_scales(build_model(config, Features(num_images=1), 3), config.optim).values()) == {7}


def test_what_is_frozen_is_in_no_group(make_config, features):
    config = make_config(*MIXED, model__hf_text__trainable="head", optim__lr_choice="two_stages")
    model = build_model(config, features, 3)
    held = {id(parameter) for group in build_optimizer(model, config.optim).param_groups for parameter in group["params"]}
    assert not any(id(parameter) in held for parameter in model.backbones["hf_text"].parameters())


def test_defaults_of_torch_and_ours_agree():
    model = nn.Linear(2, 2)
    group = build_optimizer(model, Config().optim).param_groups[0]
    assert (group["betas"], group["lr_scale"]) == ((0.9, 0.999), 1.0)


@pytest.mark.parametrize("name", ["cosine_decay", "linear_decay", "polynomial_decay"])
def test_a_schedule_ends_at_the_rate_that_was_asked_for(name):
    optim = Optim(lr=1e-2, end_lr=1e-4, lr_schedule=name, warmup_steps=0.1)
    rates = [1e-2 * lr_factor(optim, step, 1_000) for step in range(1_000)]
    assert max(rates) == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-4, rel=0.15)
    assert min(rates[100:]) >= 1e-4


def test_a_falling_schedule_never_rises():
    optim = Optim(lr=1e-5, end_lr=1e-3, lr_schedule="cosine_decay", warmup_steps=0.0)
    assert {lr_factor(optim, step, 10) for step in range(10)} == {1.0}
