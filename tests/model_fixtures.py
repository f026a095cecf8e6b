"""Small batches with every kind of column, and small models of every kind."""

import pytest
import torch

from automm_hpo.config import Config
from automm_hpo.data.batch import Batch
from automm_hpo.data.features import Features

FEATURES = Features(num_images=2, numeric=("age", "age: missing", "fare"), cardinalities=(3, 6, 30), num_texts=1)
ENCODER = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 40}


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    """Folder of a small random text encoder, saved as published ones are."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(3)
    BertModel(BertConfig(**ENCODER)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def make_config(encoder_folder):
    """(names, hyperparameters) -> Config of small models."""

    def make(*names, **overrides):
        small = {
            "model.timm_image.checkpoint_name": "test_vit",
            "model.timm_image.pretrained": False,
            "model.timm_image.image_size": 32,
            "model.hf_text.checkpoint_name": encoder_folder,
            "model.ft_transformer.token_dim": 16,
            "model.ft_transformer.attention_num_heads": 4,
            "model.ft_transformer.num_blocks": 2,
            "model.real_mlp.hidden_size": 32,
        }
        named = {"model.names": list(names)} if names else {}
        return Config.from_flat(small | named | {key.replace("__", "."): value for key, value in overrides.items()})

    return make


@pytest.fixture
def features():
    return FEATURES


@pytest.fixture
def make_batch(encoder_folder):
    """(rows, seed) -> Batch of random rows with every kind of column; the target depends on all of them."""

    def make(num_rows, seed=0):
        rng = torch.Generator().manual_seed(seed)

        def integers(low, high, *shape):
            return torch.randint(low, high, shape, generator=rng)

        target = integers(0, 3, num_rows)
        images = integers(0, 100, num_rows, 2, 3, 32, 32) + 70 * target.view(-1, 1, 1, 1, 1)
        mask = torch.rand(num_rows, 2, generator=rng) < 0.8
        mask[:, 0] |= ~mask.any(1)
        numeric = torch.randn(num_rows, 3, generator=rng) + 3 * target.unsqueeze(1)
        categorical = torch.stack([1 + target.clamp(max=1), 1 + target, 1 + integers(0, 9, num_rows) + 10 * (target == 2)], 1)
        counts = integers(3, 13, num_rows)
        tokens = torch.where(torch.arange(12) < counts.unsqueeze(1), integers(1, 10, num_rows, 12) + 10 * target.unsqueeze(1), 0)
        return Batch(images.to(torch.uint8), mask, target, numeric, categorical, {encoder_folder: tokens}, {encoder_folder: counts}, torch.ones(num_rows))

    return make
