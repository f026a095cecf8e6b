"""What every kind of model guarantees, alone and together with others."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from automm_hpo.data.features import Features
from automm_hpo.errors import InvalidHyperparameter
from automm_hpo.models import MODELS, build_model, can_read, check_model, used_models
from automm_hpo.training.checkpoint import load_weights, save_weights
from automm_hpo.training.optim import build_optimizer

TOGETHER = ("timm_image", "hf_text", "real_mlp", "fusion_mlp")
CASES = [(name,) for name in MODELS] + [TOGETHER, (*TOGETHER, "categorical_mlp", "numerical_mlp", "ft_transformer")]


def own_features(names, features):
    """Only the columns that these models read, because others would be refused."""
    kinds = {kind for name in names if name in MODELS for kind in MODELS[name].reads}
    return dataclasses.replace(Features(), **{kind: getattr(features, kind) for kind in kinds})


@pytest.fixture(params=CASES, ids=lambda names: names[0] if len(names) == 1 else f"{len(names) - 1} together")
def case(request, make_config, features):
    """(config, features) of one model alone, or of several."""
    return make_config(*request.param, model__fusion_mlp__aux_loss_weight=0.1), own_features(request.param, features)


def rows_of(batch, rows):
    def pick(value):
        return {name: tensor[rows] for name, tensor in value.items()} if isinstance(value, dict) else value[rows]

    return dataclasses.replace(batch, **{field.name: pick(getattr(batch, field.name)) for field in dataclasses.fields(batch)})


def test_shapes(case, make_batch):
    check_model(*case)
    model, batch = build_model(*case, 3), make_batch(5)
    assert model(batch).shape == (5, 3)
    assert model.features(batch).shape == (5, model.head.in_features)
    assert all(backbone(batch).shape == (5, backbone.num_features) for backbone in model.backbones.values())
    logits = model.training_logits(batch)
    assert [tuple(part.shape) for part, _ in logits] == [(5, 3)] * len(logits)
    own = [0.25] * 4 if list(model.backbones) == ["real_mlp"] else [1.0]
    assert [weight for _, weight in logits] == own + [0.1] * (len(model.backbones) if len(model.backbones) > 1 else 0)


def test_a_gradient_reaches_every_parameter(case, make_batch):
    model, batch = build_model(*case, 3), make_batch(16)
    sum(weight * F.cross_entropy(logits, batch.target) for logits, weight in model.training_logits(batch)).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0]
    # softmax ignores a constant added to all of its inputs
    assert [name for name in without if not name.endswith(("key.bias", ".k.bias"))] == []


def test_prediction_is_deterministic_and_row_by_row(case, make_batch):
    model, batch = build_model(*case, 3).eval(), make_batch(8)
    with torch.inference_mode():
        logits = model(batch)
        assert torch.equal(model(batch), logits)
        assert torch.allclose(model(rows_of(batch, torch.tensor([6, 2]))), logits[[6, 2]], atol=1e-4)
        assert torch.allclose(model(rows_of(batch, slice(3, 4))), logits[3:4], atol=1e-4)


def test_the_same_seed_gives_the_same_model(case, make_batch):
    batch, logits = make_batch(4), []
    for _ in range(2):
        torch.manual_seed(5)
        logits.append(build_model(*case, 3).eval()(batch))
    assert torch.equal(*logits)


def test_bfloat16_runs_where_there_is_no_gpu(case, make_batch):
    model, batch = build_model(*case, 3), make_batch(6)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sum(weight * F.cross_entropy(logits.float(), batch.target) for logits, weight in model.training_logits(batch))
    loss.backward()
    assert torch.isfinite(loss)


def test_saved_weights_give_the_same_answers(case, make_batch, tmp_path):
    model, batch = build_model(*case, 3).eval(), make_batch(4)
    save_weights(model, tmp_path / "w.safetensors")
    again = build_model(*case, 3, load_weights=False)
    load_weights(again, tmp_path / "w.safetensors")
    assert torch.equal(again.eval()(batch), model(batch))


@pytest.mark.parametrize("names", CASES, ids=lambda names: names[0] if len(names) == 1 else f"{len(names) - 1} together")
def test_it_learns(names, make_config, features, make_batch):
    config = make_config(*names, model__timm_image__checkpoint_name="test_resnet", optim__lr=4e-3)
    torch.manual_seed(0)
    model, batch = build_model(config, own_features(names, features), 3), make_batch(64)
    optimizer = build_optimizer(model, config.optim)
    for group in optimizer.param_groups:
        group["lr"] = config.optim.lr * group["lr_scale"]
    for _ in range(120):
        loss = sum(weight * F.cross_entropy(logits, batch.target) for logits, weight in model.training_logits(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.15:
            break
    assert (model(batch).argmax(1) == batch.target).float().mean() > 0.9


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if "cardinalities" in entry.reads])
def test_a_category_training_did_not_have_is_told_from_the_others_and_is_not_chance(name, make_config, make_batch):
    features = Features(cardinalities=(3, 6, 30))
    batch = make_batch(1)
    unknown = dataclasses.replace(batch, categorical=torch.zeros_like(batch.categorical))
    model = build_model(make_config(name), features, 3).eval()
    assert not torch.allclose(model(unknown), model(batch))
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            assert not module(torch.zeros(1, dtype=torch.int64)).any()


def test_only_models_with_a_column_are_used(make_config, features):
    config = make_config(*TOGETHER)
    assert used_models(config, features) == ("timm_image", "hf_text", "real_mlp")
    assert used_models(config, Features(numeric=("age",))) == ("real_mlp",)
    assert used_models(config, Features(num_images=1, num_texts=2)) == ("timm_image", "hf_text")
    assert list(build_model(config, Features(cardinalities=(3,)), 2).backbones) == ["real_mlp"]


def test_texts_are_read_where_the_numbers_of_their_words_are(make_config):
    scored = Features(numeric=("words: spam",), num_texts=1, num_scores=1)
    assert used_models(make_config("real_mlp"), scored) == ("real_mlp",)
    assert used_models(make_config("hf_text", "real_mlp", "fusion_mlp"), scored) == ("hf_text", "real_mlp")
    assert [can_read(make_config(*names), scored) for names in (["ft_transformer"], ["hf_text"], ["hf_text", "real_mlp"])] == [True, False, False]
    assert not can_read(make_config("real_mlp"), dataclasses.replace(scored, num_scores=0))


@pytest.mark.parametrize(
    ("names", "features", "message"),
    [
        (["timm_image"], Features(num_images=1, numeric=("age",)), "read none of the table's columns of numbers; add real_mlp"),
        (["numerical_mlp"], Features(numeric=("age",), cardinalities=(4,), num_texts=1), "columns of categories and columns of text; add real_mlp and hf_text"),
        (["fusion_mlp"], Features(num_images=1), "read none of the table's image columns; add timm_image"),
        (["timm_image", "real_mlp"], Features(num_images=1, numeric=("age",)), "cannot be combined without fusion_mlp"),
    ],
)
def test_columns_nobody_reads_and_models_nobody_joins_are_refused(names, features, message, make_config):
    with pytest.raises(InvalidHyperparameter, match=message):
        used_models(make_config(*names), features)
    with pytest.raises(InvalidHyperparameter, match=message):
        check_model(make_config(*names), features)


def test_tensors_of_a_model_are_its_own(case, tmp_path):
    """safetensors refuses weights that share memory."""
    model = build_model(*case, 3)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors").keys() == model.state_dict().keys()
