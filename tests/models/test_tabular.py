import dataclasses

import pytest
import torch

from automm_hpo.config import Config
from automm_hpo.data.features import Features
from automm_hpo.errors import InvalidHyperparameter
from automm_hpo.models import build_model, check_model
from automm_hpo.models.tabular import ACTIVATIONS, Dropout, LearnedActivation, NumberEmbedding, OneHot, TangentLinear
from automm_hpo.training.optim import lr_scales


def test_a_learned_activation_begins_as_the_activation_and_may_become_the_identity():
    inputs = torch.randn(7, 4)
    layer = LearnedActivation(1, 4, "mish")
    assert torch.allclose(layer(inputs)[0], torch.nn.functional.mish(inputs))
    layer.share.data.zero_()
    assert torch.equal(layer(inputs)[0], inputs)


def test_the_scale_of_a_layer_does_not_depend_on_its_width():
    torch.manual_seed(0)
    for width in (16, 256):
        layer = TangentLinear(2, width, 4_000)
        assert layer(torch.ones(2, 1, width)).var().item() == pytest.approx(2, rel=0.1)  # 1 from the weights, 1 from the bias


def test_one_hot_codes():
    assert OneHot(3)(torch.tensor([0, 1, 2])).tolist() == [[0], [-1], [1]]
    assert OneHot(4)(torch.tensor([0, 1, 3])).tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert OneHot(2)(torch.tensor([0, 1])).tolist() == [[0], [1]]


def test_numbers_are_embedded_column_by_column_and_stay_beside_their_embedding():
    torch.manual_seed(0)
    embedding = NumberEmbedding(3, 2, 16, 4, 0.1)
    numbers = torch.randn(5, 2)
    embedded = embedding(numbers).unflatten(2, (2, 4))  # (members, B, Dn, dim)
    assert all(torch.equal(member[..., 0], numbers) for member in embedded)
    assert not torch.isclose(embedded[0][..., 1:], embedded[1][..., 1:]).any()
    changed = embedding(numbers + torch.tensor([0.0, 1.0])).unflatten(2, (2, 4))
    assert torch.equal(changed[:, :, 0], embedded[:, :, 0])
    assert not torch.isclose(changed[:, :, 1], embedded[:, :, 1]).any()


def test_large_categories_are_embedded_small_ones_are_one_hot():
    config = Config.from_flat({"model.names": ["real_mlp"], "model.real_mlp.one_hot_limit": 4})
    backbone = build_model(config, Features(cardinalities=(5, 6)), 2).backbones["real_mlp"]
    assert [type(embedding).__name__ for embedding in backbone.categories] == ["OneHot", "MemberCategories"]


def test_rates_within_real_mlp():
    config = Config.from_flat({"model.names": ["real_mlp"]})
    scales = lr_scales(build_model(config, Features(numeric=("a",), cardinalities=(30,)), 2), config.optim)
    own = {name.removeprefix("backbones.real_mlp."): scale / config.model.real_mlp.lr_mult for name, scale in scales.items() if "real_mlp" in name}
    assert own["input_scale"] == pytest.approx(6)
    assert [own[name] for name in ("numbers.frequency", "layers.0.bias", "layers.1.share")] == pytest.approx([0.1] * 3)
    assert own["layers.0.weight"] == own["categories.0.vectors.weight"] == 1
    assert scales["head.weight"] == 1


def test_heads_must_divide_the_tokens():
    config = Config.from_flat({"model.names": ["ft_transformer"], "model.ft_transformer.token_dim": 100})
    with pytest.raises(InvalidHyperparameter, match=r"model\.ft_transformer\.token_dim: .* 100 and 8 heads"):
        check_model(config)


def test_attention_mixes_columns(make_config, make_batch):
    """If columns did not interact, the effect of the first on the answer would not depend on the second."""
    torch.manual_seed(0)
    model, batch = build_model(make_config("ft_transformer"), Features(numeric=("a", "b", "c")), 1).eval(), make_batch(1)

    def answer(first, second):
        numeric, none = torch.tensor([[first, second, 0.0]]), torch.zeros(1, 0, dtype=torch.int64)
        return model(dataclasses.replace(batch, numeric=numeric, categorical=none)).item()

    assert answer(2.0, 0.0) - answer(0.0, 0.0) != pytest.approx(answer(2.0, 2.0) - answer(0.0, 2.0), rel=1e-3)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("normalization", ["layer_norm", "batch_norm", "none"])
def test_every_activation_and_normalization_builds(name, normalization, make_batch):
    chosen = {"activation": name, "normalization": normalization}
    own = {f"model.{model}.{key}": value for model in ("numerical_mlp", "categorical_mlp") for key, value in chosen.items()}
    config = Config.from_flat({"model.names": ["numerical_mlp", "categorical_mlp", "fusion_mlp"], "model.fusion_mlp.activation": name} | own)
    model = build_model(config, Features(numeric=("a", "b", "c"), cardinalities=(3, 6, 30)), 2)
    assert model(make_batch(4)).isfinite().all()


def test_members_answer_by_themselves_and_are_averaged(make_batch):
    config = Config.from_flat({"model.names": ["real_mlp"], "model.real_mlp.num_members": 5, "model.real_mlp.dropout": 0.0})
    model, batch = build_model(config, Features(numeric=("a", "b", "c"), cardinalities=(3, 6, 30)), 2), make_batch(4)
    members = torch.stack([logits for logits, _ in model.training_logits(batch)])
    assert members.shape == (5, 4, 2)
    assert torch.allclose(members.mean(0), model(batch), atol=1e-5)
    [gradient] = torch.autograd.grad(members[1].sum(), [model.backbones["real_mlp"].layers[0].weight])
    assert [bool(member.any()) for member in gradient] == [False, True, False, False, False]


@pytest.mark.parametrize("shape", [(5, 7), (3, 200, 500), (0, 4), ()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_as_much_as_it_says_and_keeps_the_mean(shape, dtype):
    inputs = torch.ones(shape, dtype=dtype).requires_grad_()
    layer = Dropout(0.15)
    kept = layer(inputs)
    kept.sum().backward()
    assert (kept.dtype, kept.shape) == (dtype, inputs.shape)
    assert torch.equal(inputs.grad, kept.detach())  # inputs are ones: dropped values get no gradient, the others are scaled up
    if kept.numel() > 1_000:
        assert (kept == 0).float().mean().item() == pytest.approx(0.15, abs=0.005)
        assert kept.float().mean().item() == pytest.approx(1, abs=0.01)
        lags = [(kept.flatten()[lag:] * kept.flatten()[:-lag]).float().mean().item() for lag in range(1, 9)]  # four values share a random word
        assert lags == pytest.approx([1] * 8, abs=0.02)
    assert torch.equal(layer.eval()(inputs), inputs)


def test_dropout_is_drawn_from_torchs_generator():
    inputs, layer = torch.ones(64, 64).T, Dropout(0.5)
    torch.manual_seed(1)
    first = layer(inputs)
    assert not torch.equal(layer(inputs), first)
    torch.manual_seed(1)
    assert torch.equal(layer(inputs), first)
    layer.p = 0.0  # population-based training changes it
    assert torch.equal(layer(inputs), inputs)
    layer.p = 1.0
    assert not layer(inputs).any()
