"""Columns of text -> tokens for an encoder.

transformers finds the tokenizer. The predictor stores it as JSON, and then needs neither transformers nor the hub for it.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from .. import hub
from ..errors import NotSupported, WeightsUnavailable, first_line
from .batch import text_ends

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEY = "model.hf_text.checkpoint_name"
WORDS_ALONE = "model.names=['timm_image', 'real_mlp', 'fusion_mlp'] reads texts by their words alone"
ROWS_A_CALL = 4_096  # texts tokenised at once
COUNTING_FROM_PADDING = (  # model types whose positions start after the padding id; "roberta" also matches xlm-roberta and roberta-prelayernorm
    *("roberta", "camembert", "longformer", "mpnet", "data2vec-text", "ibert", "luke", "xmod", "lilt", "markuplm", "esm", "layoutlmv3"),
    *("altclip_text_model", "clap_text_model", "bridgetower_text_model"),
)


@dataclass(frozen=True)
class TextSpec:
    """The input that a model expects: tokens of its own tokenizer, at most ``max_text_len`` per row."""

    checkpoint_name: str
    max_text_len: int


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer of the ``tokenizers`` library.

    Attributes:
        definition: its JSON.
        pad_id: the token that pads rows.
        max_text_len: maximum number of tokens per row, including special ones; longer texts lose their middle.
    """

    definition: str
    pad_id: int
    max_text_len: int

    def transform(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenises texts, with rows padded to the longest.

        Returns:
            (N, longest + 1) int32 tokens, whose last column is padding, and (N,) int64 counts, at least 1.
        """
        found: list[np.ndarray] = []
        for start in range(0, len(texts), ROWS_A_CALL):
            encoded = self._tokenizer.encode_batch_fast(list(texts[start : start + ROWS_A_CALL]))
            found += [np.array(self._cut(row.ids) or [self.pad_id], np.int32) for row in encoded]  # an empty text may have no token at all
        counts = np.array([len(row) for row in found], np.int64)
        tokens = np.full((len(found), int(counts.max(initial=0)) + 1), self.pad_id, np.int32)
        for row, ids in enumerate(found):
            tokens[row, : len(ids)] = ids
        return tokens, counts

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        """Cached, because parsing the JSON takes longer than encoding a row."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.definition)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def _cut(self, tokens: list[int]) -> list[int]:
        first, last = text_ends(self.max_text_len)
        return tokens if len(tokens) <= self.max_text_len else tokens[:first] + tokens[len(tokens) - last :]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)


def load_tokenizer(spec: TextSpec) -> TextTokenizer:
    """Loads the tokenizer of a local folder or a hub repository, without running code from it.

    Raises:
        WeightsUnavailable: the tokenizer cannot be loaded.
        NotSupported: transformers is not installed, or the tokenizer is one that cannot be stored as a tokenizer.json.
    """
    try:
        from transformers import AutoConfig, AutoTokenizer
    except ImportError:
        raise NotSupported("text columns are read with the transformers library: pip install 'automm-hpo[text]'") from None
    place = spec.checkpoint_name.removeprefix("local-dir:")
    try:
        place = os.path.expanduser(place)
        local = os.path.isdir(place) or place != spec.checkpoint_name or place.startswith((".", os.sep))
        if local and not os.path.isdir(place):
            raise FileNotFoundError(f"no such folder: {place}")
        if not local and not (local := hub.cached(place, "tokenizer_config.json") is not None):
            hub.ask(place)  # fails within seconds; the tokenizer's own loader would retry for minutes
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=local, trust_remote_code=False)
        positions = _most_positions(AutoConfig.from_pretrained(place, local_files_only=local, trust_remote_code=False))
    except Exception as error:  # no network, no such repository, no tokenizer in it, ...
        raise WeightsUnavailable(
            f"{KEY}: the tokenizer of {spec.checkpoint_name!r} cannot be had: {type(error).__name__}: {first_line(error)[:200]}. "
            f"Ways out: {KEY}=<folder> uses files you have (config.json, tokenizer.json and the weights); run once where the hub can be "
            f"reached; {WORDS_ALONE}; or leave the columns out, in fit with column_types={{column: 'null'}}."
        ) from None
    if not tokenizer.is_fast:
        raise NotSupported(f"{KEY}: {spec.checkpoint_name!r} has a tokenizer without a tokenizer.json; choose a model that has one")
    pad = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None), 0)
    longest = min(spec.max_text_len, tokenizer.model_max_length, positions)
    return TextTokenizer(tokenizer.backend_tokenizer.to_str(), int(pad), int(longest))


def _most_positions(config: Any) -> float:
    """The number of tokens that a model has positions for, which many tokenizers do not state."""
    most = getattr(config, "max_position_embeddings", None) or -1
    if most < 0 or not getattr(config, "position_biased_input", True):  # relative positions have no limit
        return math.inf
    return most - (config.pad_token_id + 1) if any(name in config.model_type for name in COUNTING_FROM_PADDING) else most


def join_texts(table: pd.DataFrame, columns: Sequence[Hashable]) -> list[str]:
    """One text per row: a single column's text as it is, or the texts of several columns, each after its column's name. Missing texts are left out."""
    cells = [text_cells(table[column]) for column in columns]
    if len(columns) == 1:
        return cells[0]
    return [
        " ".join(f"{column}: {text}" for column, text in zip(columns, row, strict=True) if text) for row in zip(*cells, strict=True)
    ] if cells else [""] * len(table)  # fmt: skip


def text_cells(column: pd.Series) -> list[str]:
    """The texts of a column; missing ones are empty."""
    return ["" if missing else _text(value) for value, missing in zip(column.astype(object), column.isna(), strict=True)]


def _text(value: object) -> str:
    """A value as text that UTF-8 can encode, which a file name need not be."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def cover_texts(specs: Sequence[TextSpec]) -> list[TextSpec]:
    """One spec per tokenizer, with the greatest length requested of it."""
    longest: dict[str, int] = {}
    for spec in specs:
        longest[spec.checkpoint_name] = max(spec.max_text_len, longest.get(spec.checkpoint_name, 0))
    return [TextSpec(name, length) for name, length in longest.items()]
