"""The model's own tokenizer turns texts into tokens once, and the predictor can do so without its source."""

import dataclasses
import json
import pickle
import shutil
import time

import numpy as np
import pandas as pd
import pytest
import torch

from automm_hpo import hub
from automm_hpo.data.batch import Batch
from automm_hpo.data.text import TextSpec, TextTokenizer, cover_texts, join_texts, load_tokenizer
from automm_hpo.errors import WeightsUnavailable

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizer(minilm) -> TextTokenizer:
    return load_tokenizer(TextSpec(minilm, 16))


def test_tokens_are_those_of_transformers(tokenizer, minilm):
    from transformers import AutoTokenizer

    texts = ["Ein Satz.", "", "many words and more " * 20, "naïve \u2028 \x00 🙂"]
    whole = AutoTokenizer.from_pretrained(minilm)(texts)["input_ids"]
    expected = [row if len(row) <= 16 else row[:8] + row[-8:] for row in whole]
    tokens, counts = tokenizer.transform(texts)
    assert [tokens[row, :count].tolist() for row, count in enumerate(counts)] == expected
    assert tokens.dtype == np.int32
    assert tokens.shape == (4, counts.max() + 1)
    assert (tokens[:, -1] == tokenizer.pad_id).all()
    assert all((tokens[row, count:] == tokenizer.pad_id).all() for row, count in enumerate(counts))


@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_a_longer_cache_gives_what_a_shorter_one_would(tokenizer, length):
    texts = ["one two three four five six seven eight nine ten eleven twelve " * 3, "seven words are what it has here", "one"]
    shorter, num_short = dataclasses.replace(tokenizer, max_text_len=length).transform(texts)
    tokens, counts = (torch.from_numpy(each) for each in tokenizer.transform(texts))
    empty = torch.zeros(3)
    cut, num_cut = Batch(empty, empty, empty, tokens={"t": tokens.long()}, token_counts={"t": counts}).text("t", length)
    assert num_cut.tolist() == num_short.tolist()
    assert cut.tolist() == shorter[:, :length].tolist()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "bert", "max_position_embeddings": 40}, 40),
        ({"model_type": "roberta", "max_position_embeddings": 40, "pad_token_id": 1}, 38),
        ({"model_type": "ibert", "max_position_embeddings": 40, "pad_token_id": 1}, 38),
        ({"model_type": "deberta-v2", "max_position_embeddings": 40, "position_biased_input": False}, 100),
        ({"model_type": "t5"}, 100),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_a_text_is_no_longer_than_the_model_has_positions_for(minilm, tmp_path, config, expected):
    """Many tokenizers do not state their maximum length."""
    shutil.copy(f"{minilm}/tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}')
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_tokenizer(TextSpec(str(tmp_path), 100)).max_text_len == expected


def test_no_rows(tokenizer):
    tokens, counts = tokenizer.transform([])
    assert (tokens.shape, counts.shape) == ((0, 1), (0,))


def test_it_is_read_once(tokenizer, monkeypatch):
    """Reading it takes longer than encoding a row; another process reads its own."""
    copied = pickle.loads(pickle.dumps(tokenizer))
    expected = copied.transform(["a text"])[0]
    monkeypatch.setattr("tokenizers.Tokenizer", None)
    assert (copied.transform(["a text"])[0] == expected).all()


def test_json_is_all_it_needs(tokenizer, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    read = TextTokenizer.from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert (read.transform(["a text"])[0] == tokenizer.transform(["a text"])[0]).all()


@pytest.mark.parametrize("name, words", [("/nowhere", "no such folder"), ("local-dir:x", "no such folder"), ("./x", "no such folder")])
def test_a_folder_that_is_not_there(name, words):
    with pytest.raises(WeightsUnavailable, match=rf"{words}.*Ways out"):
        load_tokenizer(TextSpec(name, 8))


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(WeightsUnavailable, match=r"the tokenizer of .* cannot be had.*Ways out"):
        load_tokenizer(TextSpec(str(tmp_path), 8))


def test_a_hub_out_of_reach_is_said_in_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "_failed", (-1e9, ConnectionError()))
    started = time.monotonic()
    for name in ("nobody/nothing", "bert-base-uncased"):
        with pytest.raises(WeightsUnavailable, match=rf"{name}.*uses files you have"):
            load_tokenizer(TextSpec(name, 8))
    assert time.monotonic() - started < 10


def test_several_columns_are_named_and_one_is_not():
    table = pd.DataFrame({"title": ["A", None, "C"], "body": ["x y", "", None]})
    assert join_texts(table, ["body"]) == ["x y", "", ""]
    assert join_texts(table, ["title", "body"]) == ["title: A body: x y", "", "title: C"]
    assert join_texts(table.head(0), ["title", "body"]) == []


def test_texts_that_are_not_utf8(tokenizer):
    texts = join_texts(pd.DataFrame({"x": pd.Series([b"\xe9".decode("utf-8", "surrogateescape"), 5], dtype=object)}), ["x"])
    assert tokenizer.transform(texts)[1].tolist() == [3, 3]


def test_one_tokenizer_serves_all_lengths():
    assert cover_texts([TextSpec("a", 8), TextSpec("b", 4), TextSpec("a", 16)]) == [TextSpec("a", 16), TextSpec("b", 4)]
