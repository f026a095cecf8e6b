import dataclasses

import pytest
import torch

from automm_hpo.config import Config
from automm_hpo.data.batch import Batch
from automm_hpo.data.features import Features
from automm_hpo.models import build_model
from automm_hpo.models.fusion import kept_modalities
from automm_hpo.models.tabular import Columns

MIXED = ("timm_image", "hf_text", "real_mlp", "fusion_mlp")


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.9, 0.99])
def test_each_modality_is_dropped_as_often_as_told_and_never_all_of_them(dropout):
    torch.manual_seed(0)
    kept = kept_modalities(20_000, 3, dropout, torch.device("cpu"))
    assert kept.any(1).all()
    assert kept.float().mean().item() == pytest.approx(1 - dropout + dropout**3 / 3, abs=0.01)


def test_modality_dropout_is_for_training_only(make_config, features, make_batch):
    still = {f"model__{name}__dropout": 0.0 for name in ("real_mlp", "fusion_mlp", "hf_text")}
    config = make_config(*MIXED, **still, model__fusion_mlp__modality_dropout=0.9)
    model, batch = build_model(config, features, 3), make_batch(6)
    assert not torch.equal(model.train()(batch), model(batch))
    assert torch.equal(model.eval()(batch), model(batch))


def test_auxiliary_heads_exist_where_they_are_wanted(make_config, features, make_batch):
    model = build_model(make_config(*MIXED), features, 3)
    assert not len(model.aux_heads)
    assert len(model.training_logits(make_batch(2))) == 1
    model = build_model(make_config(*MIXED, model__fusion_mlp__aux_loss_weight=0.5), features, 3).eval()
    batch = make_batch(2)
    logits = model.training_logits(batch)
    assert [weight for _, weight in logits] == [1.0, 0.5, 0.5, 0.5]
    assert torch.equal(logits[0][0], model(batch))


def test_every_modality_counts(make_config, features, make_batch):
    model, batch = build_model(make_config(*MIXED), features, 3).eval(), make_batch(3)
    for name, value in (("images", 255 - batch.images), ("numeric", -batch.numeric), ("tokens", {key: tokens.flip(0) for key, tokens in batch.tokens.items()})):
        assert not torch.allclose(model(dataclasses.replace(batch, **{name: value})), model(batch))


def test_widths_are_the_configs(make_config, features):
    model = build_model(make_config(*MIXED, model__fusion_mlp__hidden_sizes=[40, 24]), features, 3)
    assert model.fusion.num_new == 24


def test_what_a_linear_model_can_read_stands_beside(make_config, features, make_batch):
    """Features of pretrained backbones, raw numbers and category indicators, but nothing of randomly initialised networks."""
    model, batch = build_model(make_config(*MIXED), features, 3).eval(), make_batch(6)
    text = model.backbones["hf_text"]
    assert text.is_pretrained
    assert not model.backbones["timm_image"].is_pretrained
    beside = model.features(batch)[:, model.fusion.num_new :]
    indicators = [torch.eye(num_codes)[codes, 1:] for num_codes, codes in zip(features.cardinalities, batch.categorical.unbind(1), strict=True)]
    assert torch.equal(beside, torch.cat([text(batch), batch.numeric, *indicators], 1))


def test_it_knows_which_of_its_features_are_the_numbers_of_words(make_config, make_batch):
    features = Features(numeric=("age", "words: a", "words: b"), cardinalities=(3, 6, 30), num_texts=1, num_scores=2)
    model, batch = build_model(make_config("hf_text", "real_mlp", "fusion_mlp"), features, 3).eval(), make_batch(5)
    assert torch.equal(model.features(batch)[:, list(model.fusion.scores)], batch.numeric[:, 1:])
    assert build_model(make_config(*MIXED), dataclasses.replace(features, num_scores=0), 3).fusion.scores == ()
    assert build_model(make_config("real_mlp"), features, 3).fusion.scores == ()


def test_columns_of_many_categories_are_left_to_the_networks(make_batch):
    batch, features = make_batch(4), Features(numeric=("age",), cardinalities=(3, 2_000))
    columns = Columns(features, ("numeric", "cardinalities"))
    assert columns.num_features == 3
    batch = dataclasses.replace(batch, numeric=batch.numeric[:, :1], categorical=torch.tensor([[0, 5], [1, 1999], [2, 0], [2, 1]]))
    assert columns(batch)[:, 1:].tolist() == [[0, 0], [1, 0], [0, 1], [0, 1]]
    assert Columns(features, ("num_images",))(batch).shape == (4, 0)


def test_a_dropped_modality_is_dropped_beside_too(make_config, features, make_batch):
    torch.manual_seed(0)
    config = make_config("hf_text", "real_mlp", "fusion_mlp", model__fusion_mlp__modality_dropout=0.5)
    model, batch = build_model(config, dataclasses.replace(features, num_images=0), 3), make_batch(60)
    beside = model.train().features(batch)[:, model.fusion.num_new :]
    text, table = (part.abs().sum(1) > 0 for part in (beside[:, :32], beside[:, 32:]))
    assert (text | table).all()
    assert not text.all()
    assert not table.all()


@pytest.mark.parametrize("names", [["real_mlp"], ["ft_transformer"]])
def test_answers_are_in_float32_where_the_network_is_not(names):
    """In bfloat16, many rows would get the same answer."""
    model = build_model(Config.from_flat({"model.names": names}), Features(numeric=("a", "b")), 1, load_weights=False).eval()
    numbers = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.zeros(500, 0, 3, 0, 0), torch.zeros(500, 0, dtype=torch.bool), torch.zeros(500), numbers)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        answers = [model(batch), *(logits for logits, _ in model.training_logits(batch))]
    assert all(each.dtype == torch.float32 for each in answers)
    assert len(answers[0].unique()) > 490
