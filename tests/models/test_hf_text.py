import dataclasses
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertModel,
    ConvBertConfig,
    DistilBertConfig,
    DistilBertModel,
    FNetConfig,
    GPT2Config,
    GPT2Model,
    GPTNeoXConfig,
    ModernBertConfig,
    NystromformerConfig,
    RobertaConfig,
    RobertaModel,
    SqueezeBertConfig,
    T5Config,
    T5EncoderModel,
    ViTConfig,
)

from automm_hpo import hub
from automm_hpo.config import Config
from automm_hpo.data.features import Features
from automm_hpo.errors import InvalidHyperparameter, MissingData, NotSupported, WeightsUnavailable
from automm_hpo.models import build_model, check_model, fetch_weights, text, text_spec
from automm_hpo.training.checkpoint import save_weights
from automm_hpo.training.optim import build_optimizer, lr_scales

TEXTS = Features(num_texts=1)
SMALL = {"vocab_size": 50, "max_position_embeddings": 40}
MARKS = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)


def test_the_spec_is_what_the_data_needs(make_config, encoder_folder):
    spec = text_spec(make_config("hf_text", model__hf_text__max_text_len=77))
    assert (spec.checkpoint_name, spec.max_text_len) == (encoder_folder, 77)


def test_published_weights_are_loaded_without_a_pooler(make_config, encoder_folder, make_batch):
    model, donor = build_model(make_config("hf_text"), TEXTS, 3), BertModel.from_pretrained(encoder_folder).eval()
    own = model.backbones["hf_text"].encoder.state_dict()
    assert not any(name.startswith("pooler") for name in own)
    assert all(torch.equal(value, own[name]) for name, value in donor.state_dict().items() if not name.startswith("pooler"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: {f"encoder_q.{name}": value for name, value in weights.items()}, r"lack 37 of the 37 tensors of this bert.*embeddings.*, \.\.\."),
        (
            lambda weights: {name: value for name, value in weights.items() if "layer.1.output.dense.bias" not in name},
            "lack 1 of the 37 .*layer.1.output.dense.bias$",
        ),
        (lambda weights: {name: value[:1] if name.endswith("query.weight") else value for name, value in weights.items()}, "cannot be loaded"),
    ],
    ids=["another prefix", "one is absent", "another shape"],
)
def test_tensors_that_the_file_lacks_are_not_left_random(make_config, encoder_folder, tmp_path, change, message):
    (tmp_path / "config.json").write_text((Path(encoder_folder) / "config.json").read_text())
    save_file(change(load_file(f"{encoder_folder}/model.safetensors")), tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsUnavailable, match=message):
        build_model(make_config("hf_text", model__hf_text__checkpoint_name=str(tmp_path)), TEXTS, 3)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_sees_real_tokens_only(make_config, encoder_folder, make_batch, pooling):
    model, batch = build_model(make_config("hf_text", model__hf_text__pooling_mode=pooling), TEXTS, 3).eval(), make_batch(5)
    tokens, counts = batch.tokens[encoder_folder], batch.token_counts[encoder_folder]
    padding = torch.arange(tokens.shape[1]) >= counts.unsqueeze(1)
    other = dataclasses.replace(batch, tokens={encoder_folder: torch.where(padding, 7, tokens)})
    assert torch.allclose(model(other), model(batch), atol=1e-5)
    states = BertModel.from_pretrained(encoder_folder).eval()(input_ids=tokens[:1, : counts[0]]).last_hidden_state[0]
    assert torch.allclose(model.features(batch)[0], states[0] if pooling == "cls" else states.mean(0), atol=1e-5)


def test_a_row_without_a_token_has_an_answer(make_config, encoder_folder, make_batch):
    model, batch = build_model(make_config("hf_text"), TEXTS, 3).eval(), make_batch(2)
    empty = dataclasses.replace(batch, token_counts={encoder_folder: torch.tensor([0, 4])})
    assert model(empty).isfinite().all()


@pytest.mark.parametrize(
    "model",
    [
        lambda: RobertaModel(RobertaConfig(**SMALL, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)),
        lambda: DistilBertModel(DistilBertConfig(**SMALL, dim=16, n_layers=2, n_heads=2, hidden_dim=16)),
        lambda: GPT2Model(GPT2Config(vocab_size=50, n_positions=40, n_embd=16, n_layer=2, n_head=2)),
        lambda: T5EncoderModel(T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)),
    ],
    ids=["roberta", "distilbert", "gpt2", "t5"],
)
def test_many_kinds_of_encoders(model, tmp_path, make_batch, encoder_folder):
    model().save_pretrained(tmp_path)
    config = Config.from_flat({"model.names": ["hf_text"], "model.hf_text.checkpoint_name": str(tmp_path)})
    check_model(config, TEXTS)
    batch = make_batch(3)
    own = dataclasses.replace(batch, tokens={str(tmp_path): batch.tokens[encoder_folder]}, token_counts={str(tmp_path): batch.token_counts[encoder_folder]})
    built = build_model(config, TEXTS, 2)
    loss = built(own).square().sum()
    loss.backward()
    assert loss.isfinite()
    scales = lr_scales(built, Config.from_flat({"optim.lr_choice": "layerwise_decay", "optim.lr_decay": 0.5}).optim)
    assert {0.125, 0.25, 0.5} <= set(scales.values())
    save_weights(built, tmp_path / "saved.safetensors")


def test_a_saved_encoder_is_built_without_its_folder(make_config, encoder_folder, make_batch, monkeypatch):
    config = make_config("hf_text")
    model, batch = build_model(config, TEXTS, 3).eval(), make_batch(3)
    monkeypatch.setattr(text, "_folder", lambda name: None)
    again = build_model(config, TEXTS, 3, load_weights=False, sources=json.loads(json.dumps(model.sources))).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(batch), model(batch))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NotSupported, match=r"need the transformers library: pip install 'automm-hpo\[text\]'"):
        build_model(config, TEXTS, 3, load_weights=False, sources=model.sources)  # a predictor in another environment


def test_random_weights_need_the_configuration_only(make_config, encoder_folder):
    torch.manual_seed(1)
    own = build_model(make_config("hf_text", model__hf_text__pretrained=False), TEXTS, 3).state_dict()
    published = build_model(make_config("hf_text"), TEXTS, 3).state_dict()
    name = "backbones.hf_text.encoder.embeddings.word_embeddings.weight"
    assert own.keys() == published.keys()
    assert not torch.equal(own[name], published[name])


def test_gradient_checkpointing_gives_the_same_gradient(make_config, make_batch):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = build_model(make_config("hf_text", model__hf_text__gradient_checkpointing=checkpointing, model__hf_text__dropout=0.0), TEXTS, 3)
        model(make_batch(4)).square().sum().backward()
        gradients.append(model.backbones["hf_text"].encoder.embeddings.word_embeddings.weight.grad)
    assert torch.allclose(*gradients, atol=1e-5)


def test_dropout_is_the_configs(make_config):
    for dropout in (0.0, 0.3):
        model = build_model(make_config("hf_text", model__hf_text__dropout=dropout), TEXTS, 3)
        assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {dropout}


@pytest.mark.parametrize(
    "kind",
    [
        GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0),
        T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2),
        ModernBertConfig(**SMALL, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, **MARKS),
        GPTNeoXConfig(**SMALL, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16),
    ],
    ids=lambda kind: kind.model_type,
)
def test_dropout_is_the_configs_whatever_a_kind_calls_it(kind, tmp_path):
    kind.save_pretrained(tmp_path)
    tokens = torch.arange(12).view(2, 6)
    for dropout in (0.0, 0.3):
        own = {"checkpoint_name": str(tmp_path), "pretrained": False, "dropout": dropout}
        encoder = text.build(Config.from_flat({f"model.hf_text.{key}": value for key, value in own.items()}), TEXTS, False).train().encoder
        first, second = (encoder(input_ids=tokens).last_hidden_state for _ in range(2))
        assert {module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)} <= {dropout}
        assert torch.equal(first, second) == (not dropout)


def test_a_frozen_encoder_does_not_learn_and_its_head_does(make_config, make_batch):
    config = make_config("hf_text", model__hf_text__trainable="head", optim__lr=0.1, optim__lr_choice="layerwise_decay")
    model = build_model(config, TEXTS, 3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not any(module.training for module in model.backbones["hf_text"].encoder.modules())
    optimizer = build_optimizer(model, config.optim)
    model(make_batch(4)).square().sum().backward()
    optimizer.step()
    assert {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])} == {"head.weight", "head.bias"}


def test_depths_of_an_encoder(make_config):
    model = build_model(make_config("hf_text"), TEXTS, 3)
    scales = model.backbones["hf_text"].lr_scales(0.5)
    for start, expected in (("embeddings", 0.125), ("encoder.layer.0", 0.25), ("encoder.layer.1", 0.5)):
        assert {scale for name, scale in scales.items() if name.startswith(f"encoder.{start}")} == {expected}


class Planted:
    def __reduce__(self):
        return (Path.touch, (Path("planted"),))


def test_weights_in_torchs_format_run_no_code(make_config, encoder_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text((Path(encoder_folder) / "config.json").read_text())
    config = make_config("hf_text", model__hf_text__checkpoint_name=str(tmp_path))
    torch.save({"embeddings.word_embeddings.weight": Planted()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsUnavailable, match="cannot be loaded"):
        build_model(config, TEXTS, 3)
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, MissingData, r"has no config\.json"),
        ('{"model_type": "no_such_kind"}', InvalidHyperparameter, "no model that the transformers library can build"),
        ('{"model_type": "x", "auto_map": {"AutoConfig": "code.Config"}}', InvalidHyperparameter, "can build"),
        ("nonsense", InvalidHyperparameter, "can build"),
        (ViTConfig().to_json_string(), InvalidHyperparameter, "no encoder of text"),
    ],
)
def test_folders_that_hold_no_encoder_are_refused(content, error, message, tmp_path, make_config):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    (tmp_path / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(error, match=message):
        check_model(make_config("hf_text", model__hf_text__checkpoint_name=str(tmp_path)), TEXTS)


def test_a_folder_that_is_not_there_is_refused(make_config):
    with pytest.raises(MissingData, match="neither a folder that exists nor a repository"):
        check_model(make_config("hf_text", model__hf_text__checkpoint_name="/nowhere/at/all"), TEXTS)


def test_weights_out_of_reach_are_refused_in_time_with_the_ways_out(make_config, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # makes the hub unreachable on any machine
    monkeypatch.setattr(hub, "_failed", (-1e9, ConnectionError()))
    started = time.monotonic()
    config = make_config("hf_text", model__hf_text__checkpoint_name="sentence-transformers/all-MiniLM-L6-v2")
    check_model(config, TEXTS)
    for act in (lambda: fetch_weights(config, TEXTS), lambda: build_model(config, TEXTS, 2)):
        with pytest.raises(WeightsUnavailable, match=r"all-MiniLM-L6-v2.*a folder you have.*model.names.*leave the columns out"):
            act()
    assert time.monotonic() - started < 10


SIZES = {**SMALL, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda: FNetConfig(**SIZES, tpu_short_seq_length=20), "is a fnet, which (does not mask padding|cannot process token ids)"),
        (lambda: ConvBertConfig(**SIZES, embedding_size=16), "is a convbert, which does not mask padding"),
        (lambda: NystromformerConfig(**SIZES, num_landmarks=4, segment_means_seq_len=20), "is a nystromformer, which cannot process token ids"),
    ],
    ids=["fnet", "convbert", "nystromformer"],
)
def test_kinds_that_do_not_read_row_by_row_are_refused_before_a_search(kind, message, tmp_path, make_config):
    torch.manual_seed(0)
    AutoModel.from_config(kind()).save_pretrained(tmp_path)
    with pytest.raises(InvalidHyperparameter, match=message):
        fetch_weights(make_config("hf_text", model__hf_text__checkpoint_name=str(tmp_path)), TEXTS)


def test_a_pooler_that_is_always_called_is_none(tmp_path, make_config):
    AutoModel.from_config(SqueezeBertConfig(**SIZES, embedding_size=16, q_groups=1, k_groups=1)).save_pretrained(tmp_path)
    config = make_config("hf_text", model__hf_text__checkpoint_name=str(tmp_path))
    fetch_weights(config, TEXTS)
    assert not any("pooler" in name for name in build_model(config, TEXTS, 3).state_dict())


def test_weights_are_tried_before_a_search_and_once(make_config, encoder_folder, tmp_path, monkeypatch):
    shutil.copytree(encoder_folder, tmp_path / "encoder")
    config, tries = make_config("hf_text", model__hf_text__checkpoint_name=str(tmp_path / "encoder")), []
    create = text._create
    monkeypatch.setattr(text, "_create", lambda *args: tries.append(args) or create(*args))
    for batch_size in (32, 64):
        fetch_weights(config.with_overrides({"env.batch_size": batch_size}), TEXTS)
    assert len(tries) == 1
    (tmp_path / "encoder" / "model.safetensors").unlink()
    with pytest.raises(WeightsUnavailable, match="cannot be loaded"):
        fetch_weights(config, TEXTS)


def test_without_the_library_only_a_table_with_text_is_refused(make_config, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = make_config("hf_text", "real_mlp", "fusion_mlp")
    check_model(config)
    check_model(config, Features(numeric=("a",)))
    with pytest.raises(NotSupported, match=r"pip install 'automm-hpo\[text\]'"):
        check_model(config, TEXTS)
