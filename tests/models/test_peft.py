import importlib.util

import pytest
import torch
import torch.nn.functional as F
from timm.models import beit, eva
from transformers import GPT2Config, GPT2Model

from automm_hpo.config import Optim
from automm_hpo.data.features import Features
from automm_hpo.errors import InvalidHyperparameter, NotSupported
from automm_hpo.models import build_model, check_model, fetch_weights
from automm_hpo.models.backbone import Backbone
from automm_hpo.models.peft import freeze
from automm_hpo.training.checkpoint import load_weights, save_weights
from automm_hpo.training.optim import build_optimizer, lr_scales

MIXED = ("timm_image", "hf_text", "real_mlp", "fusion_mlp")


@pytest.fixture
def weights(tmp_path):
    """Writes a small random image model to a file as if published, and returns its path."""

    def write(name):
        import timm

        torch.manual_seed(4)
        torch.save(timm.create_model(name, num_classes=0).state_dict(), tmp_path / f"{name}.pth")
        return str(tmp_path / f"{name}.pth")

    return write


def lora_config(make_config, path, name="test_vit", **overrides):
    own = {"checkpoint_name": name, "checkpoint_path": path}
    return make_config(*MIXED, optim__peft="lora", optim__lr=1e-2, **{f"model__timm_image__{key}": value for key, value in own.items()}, **overrides)


def train(model, batch, config, steps=3):
    optimizer = build_optimizer(model, config.optim)
    for group in optimizer.param_groups:
        group["lr"] = config.optim.lr * group["lr_scale"] / 10
    for _ in range(steps):
        F.cross_entropy(model.train()(batch), batch.target).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_it_attaches_to_fused_and_to_single_linear_layers(make_config, weights, features):
    model = build_model(lora_config(make_config, weights("test_vit")), features, 3)
    adapted = {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        assert f"backbones.timm_image.backbone.blocks.0.{part}" in adapted
    for part in ("attention.self.query", "attention.self.value", "attention.output.dense", "output.dense"):
        assert f"backbones.hf_text.encoder.encoder.layer.1.{part}" in adapted
    assert not any("real_mlp" in name or "fusion" in name for name in adapted)


def test_only_adapters_norms_and_what_is_new_learn(make_config, weights, features, make_batch):
    config = lora_config(make_config, weights("test_vit"))
    model, batch = build_model(config, features, 3), make_batch(16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, batch, config)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    pretrained = {name for name in before if name.startswith(("backbones.timm_image", "backbones.hf_text"))}
    assert any(".qkv.lora_B" in name for name in changed)
    assert all("lora_" in name or "norm" in name.lower() for name in changed & pretrained)
    assert {"head.weight", "backbones.real_mlp.input_scale", "fusion.layers.0.weight"} <= changed
    share = sum(parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad and name in pretrained)
    assert share < sum(value.numel() for name, value in before.items() if name in pretrained)


class Attention(Backbone):
    """A backbone of one of timm's attention layers that keep the biases of ``qkv`` separate."""

    is_pretrained, num_features = True, 16

    def __init__(self, attention):
        super().__init__()
        torch.manual_seed(0)
        self.attention = attention()

    def forward(self, tokens):
        return self.attention(tokens)


@pytest.mark.parametrize(
    "attention",
    [
        lambda: beit.Attention(16, num_heads=2, qkv_bias=True),
        lambda: eva.EvaAttention(16, num_heads=2, norm_layer=torch.nn.LayerNorm),
    ],
    ids=["beit", "eva"],
)
def test_additions_to_a_fused_qkv_take_part_where_its_biases_are_apart(attention, tmp_path):
    optim, tokens = Optim(peft="lora"), torch.randn(2, 5, 16)
    plain, model = Attention(attention), Attention(attention)
    freeze(model, optim)
    assert torch.allclose(model.eval()(tokens), plain.eval()(tokens), atol=1e-5)
    model(tokens).square().sum().backward()
    learning = {name: parameter for name, parameter in model.named_parameters() if "lora_B" in name}
    assert len(learning) == 2
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in learning.values())
    for parameter in learning.values():
        torch.nn.init.normal_(parameter)
    save_weights(model, tmp_path / "w.safetensors")
    again = Attention(attention)
    freeze(again, optim)
    load_weights(again, tmp_path / "w.safetensors")
    assert torch.equal(again.eval()(tokens), model(tokens))
    assert not torch.allclose(model(tokens), plain(tokens), atol=1e-2)


@pytest.mark.parametrize("name", ["test_vit4", "test_efficientnet_evos"])
def test_norms_of_any_kind_learn(name, make_config, weights):
    model = build_model(lora_config(make_config, weights(name), name), Features(num_images=1), 3)
    norms = [parameter.requires_grad for key, parameter in model.named_parameters() if "norm" in key or ".bn" in key]
    assert norms
    assert all(norms)


@pytest.mark.parametrize(
    ("peft", "kinds"),
    [
        ("bit_fit", {"bias"}),
        ("norm_fit", {"bias", "norm"}),
        ("lora", {"lora", "norm"}),
        ("lora_bias", {"lora", "bias"}),
        ("lora_norm", {"lora", "norm", "bias"}),
    ],
)
def test_what_learns_of_a_pretrained_backbone(make_config, weights, features, peft, kinds):
    config = lora_config(make_config, weights("test_vit")).with_overrides({"optim.peft": peft})
    found = set()
    for name, parameter in build_model(config, features, 3).backbones["timm_image"].named_parameters():
        marks = {"lora": "lora_" in name, "norm": "norm" in name, "bias": name.endswith("bias")}
        own = {kind for kind, holds in marks.items() if holds}
        assert parameter.requires_grad == bool(own & kinds), name
        found |= own & kinds
    assert found == kinds


def test_it_begins_as_the_published_model(make_config, weights, features, make_batch):
    config, batch = lora_config(make_config, weights("test_vit")), make_batch(4)
    plain = config.with_overrides({"optim.peft": None})
    for name, columns in (("timm_image", Features(num_images=2)), ("hf_text", Features(num_texts=1))):
        ours, published = (build_model(one, columns, 3).eval().backbones[name] for one in (config, plain))
        assert torch.allclose(ours(batch), published(batch), atol=1e-5)


def test_a_trained_one_is_saved_and_loaded(make_config, weights, features, make_batch, tmp_path):
    config, batch = lora_config(make_config, weights("test_vit"), optim__lora__r=3), make_batch(6)
    model = build_model(config, features, 3)
    train(model, batch, config)
    save_weights(model, tmp_path / "w.safetensors")
    again = build_model(config, features, 3, load_weights=False)
    load_weights(again, tmp_path / "w.safetensors")
    assert torch.equal(again.eval()(batch), model.eval()(batch))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_convolutions_are_adapted_where_there_is_nothing_linear(name, make_config, weights, make_batch):
    config, batch = lora_config(make_config, weights(name), name), make_batch(8)
    model = build_model(config, Features(num_images=2), 3)
    train(model, batch, config)
    assert any("lora_B" in key and value.abs().sum() > 0 for key, value in model.state_dict().items())


def test_random_and_frozen_backbones_are_left_as_they_are(make_config, weights, features):
    config = make_config(*MIXED, optim__peft="lora", model__hf_text__trainable="head")  # the image model is random, the text model frozen
    assert not any("lora_" in name for name in build_model(config, features, 3).state_dict())


def test_adapters_learn_at_the_rate_of_what_is_new(make_config, weights, features):
    config = lora_config(make_config, weights("test_vit"), optim__lr_choice="layerwise_decay", optim__lr_mult=5, optim__lr_decay=0.5)
    scales = lr_scales(build_model(config, features, 3), config.optim)
    assert {scale for name, scale in scales.items() if "lora_" in name} == {5}
    assert scales["backbones.timm_image.backbone.blocks.0.norm1.weight"] < 1


def test_what_nothing_can_be_added_to_is_refused_before_a_search(make_config, tmp_path):
    GPT2Model(GPT2Config(vocab_size=50, n_positions=40, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)).save_pretrained(tmp_path)
    config = make_config("hf_text", optim__peft="lora", model__hf_text__checkpoint_name=str(tmp_path))
    with pytest.raises(InvalidHyperparameter, match="neither linear layers nor 1 x 1 convolutions"):
        fetch_weights(config, Features(num_texts=1))
    fetch_weights(config.with_overrides({"optim.peft": "bit_fit"}), Features(num_texts=1))


def test_what_can_be_added_to_is_not(make_config, weights, features):
    fetch_weights(lora_config(make_config, weights("test_vit")), features)


def test_without_the_library_it_is_refused(make_config, weights, features, monkeypatch):
    config = lora_config(make_config, weights("test_vit"))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else find_spec(name))
    with pytest.raises(NotSupported, match=r"optim\.peft: .*pip install 'automm-hpo\[peft\]'"):
        check_model(make_config("timm_image", optim__peft="lora"))
    with pytest.raises(NotSupported, match=r"pip install 'automm-hpo\[peft\]'"):
        build_model(config, features, 3, load_weights=False)  # a predictor in another environment
