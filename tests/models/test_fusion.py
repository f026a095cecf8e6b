import dataclasses

import pytest
import torch

from automm_hpo.models import build_model
from automm_hpo.models.fusion import kept_modalities

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
    assert model.head.in_features == 24
