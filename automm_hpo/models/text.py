"""Any text encoder of the transformers library as a backbone. Its tokens come from ``data/text.py``, by checkpoint name."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .. import hub
from ..config import Config
from ..config import HfText as HfTextConfig
from ..data.batch import Batch
from ..data.features import Features
from ..data.text import WORDS_ALONE, TextSpec
from ..errors import InvalidHyperparameter, MissingData, NotSupported, WeightsUnavailable, first_line
from ..rng import forked
from .backbone import Backbone

if TYPE_CHECKING:
    from transformers import PretrainedConfig

KEY = "model.hf_text"
CONFIG = "config.json"
DROPOUTS = (  # fields of a configuration; each model type has some of them
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "hidden_dropout", "dropout_rate"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "embedding_dropout", "mlp_dropout"),
)
UNUSED = ("contact_head.",)  # ESM's, which does not affect the tokens' states
REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


class HfText(Backbone):
    """The encoder's states of a text's tokens, pooled to one vector."""

    def __init__(self, encoder: nn.Module, own: HfTextConfig, source: Mapping[str, Any]) -> None:
        super().__init__()
        self.source = source
        config: Any = encoder.config
        self.encoder = encoder
        self.tokens, self.max_text_len, self.pooling_mode = own.checkpoint_name, own.most_tokens, own.pooling_mode
        self.num_features = int(config.hidden_size)
        self.is_pretrained, self.is_frozen = own.pretrained, own.trainable == "head"
        if self.is_frozen:
            encoder.requires_grad_(False)

    def forward(self, batch: Batch) -> torch.Tensor:
        tokens, counts = batch.text(self.tokens, self.max_text_len)  # (B, L), (B,)
        mask = torch.arange(tokens.shape[1], device=tokens.device) < counts.clamp(min=1).unsqueeze(1)  # (B, L)
        states = self.encoder(input_ids=tokens, attention_mask=mask.long()).last_hidden_state  # (B, L, F)
        if self.pooling_mode == "cls":
            return states[:, 0]
        weight = mask.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1)

    def train(self, mode: bool = True) -> HfText:
        super().train(mode)
        if self.is_frozen:
            self.encoder.eval()
        return self

    @property
    def network(self) -> nn.Module:
        return self.encoder

    def describe_source(self) -> dict[str, Any]:
        """The encoder's own configuration."""
        return dict(self.source)

    def lr_scales(self, decay: float) -> dict[str, float]:
        """1 at the top, times ``decay`` for each block below; embeddings are below all blocks."""
        depth = {name: _depth(name) for name, _ in self.named_parameters()}
        top = 1 + max((number for number in depth.values() if number is not None), default=0)
        return {
            name: decay ** (top - (top if number is None else number))
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
            for number in [depth[name]]
        }


def _depth(name: str) -> int | None:
    """0 for embeddings, 1 + its number for a block, None for layers above the blocks."""
    if block := re.search(r"\.(\d+)\.", name):
        return 1 + int(block[1])
    return 0 if re.search(r"embed|shared|wte|wpe", name) else None


def build(config: Config, features: Features, load_weights: bool, described: Mapping[str, Any] | None = None) -> HfText:
    own = config.model.hf_text
    source = dict(described or _config(own.checkpoint_name).to_dict())
    encoder = _create(own, _from_dict(source), load_weights and own.pretrained)
    if own.gradient_checkpointing:
        new_name = getattr(encoder, "activation_checkpointing_enable", None)  # the name in transformers 5
        (new_name or encoder.gradient_checkpointing_enable)()
    return HfText(encoder, own, source)


def text_spec(config: Config) -> TextSpec:
    """Tokenizer and length that the config's text model expects."""
    own = config.model.hf_text
    return TextSpec(own.checkpoint_name, own.most_tokens)


def _check_library() -> None:
    for library in ("transformers", "tokenizers"):
        if importlib.util.find_spec(library) is None:
            way_out = "pip install 'automm-hpo[text]'; or leave them out of a fit, with column_types={column: 'null'}"
            raise NotSupported(f"{KEY}: columns of text need the {library} library: {way_out}")


def check(config: Config) -> None:
    """Refuses a model that could not be built. Needs no network.

    Raises:
        NotSupported: the transformers library is not installed.
        MissingData, InvalidHyperparameter: the checkpoint is neither a folder with a text encoder nor a valid repository name.
    """
    _check_library()
    name = config.model.hf_text.checkpoint_name
    if _local(name).is_dir():
        if not (_local(name) / CONFIG).is_file():
            raise MissingData(f"{KEY}.checkpoint_name: the folder {name} has no {CONFIG}")
        _check_kind(name, _config(name))
    elif not REPOSITORY.fullmatch(name):
        raise MissingData(f"{KEY}.checkpoint_name: {name!r} is neither a folder that exists nor a repository of the hub ('owner/name')")


def fetch_weights(config: Config) -> None:
    """Makes sure that configuration and weights of the config's model are on this machine, and tries them.

    Raises:
        WeightsUnavailable: files cannot be fetched from the hub, or the weights belong to another model.
        InvalidHyperparameter: the model is not a text encoder, or a row's output would depend on other rows.
    """
    own = config.model.hf_text
    name = own.checkpoint_name
    _check_kind(name, _config(name))
    wants_hub = own.pretrained and not _local(name).is_dir()
    if wants_hub and not any(hub.cached(name, file) for file in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")):
        _fetch(name, _weights_among)
    folder = _folder(name)
    files = folder.iterdir() if folder else ()
    _try_once(name, own.pretrained, tuple(sorted((file.name, file.stat().st_mtime_ns) for file in files if file.is_file())))


@functools.lru_cache(maxsize=100)
def _try_once(name: str, pretrained: bool, files: tuple[tuple[str, int], ...]) -> None:
    """Checks that an encoder reads a short row alone as it does next to a longer one. Cached until its files change."""
    config = _config(name)
    words = 6 * [token for token in range(min(config.vocab_size, 9)) if token != getattr(config, "pad_token_id", None)]
    tokens = torch.tensor([words[:6], words[:3] + 3 * [getattr(config, "pad_token_id", None) or 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    with forked(), torch.inference_mode():
        encoder = _create(HfTextConfig(checkpoint_name=name, pretrained=pretrained), config, pretrained).eval()
        try:
            with _quiet():
                together, alone = (
                    encoder(input_ids=tokens[rows, :length], attention_mask=mask[rows, :length]).last_hidden_state[-1, :3]
                    for rows, length in ((slice(2), 6), (slice(1, 2), 3))
                )
        except Exception as error:  # models raise many kinds
            first = first_line(error)
            raise InvalidHyperparameter(f"{KEY}.checkpoint_name: {name} is a {config.model_type}, which cannot process token ids: {first}") from None
    if not torch.allclose(together, alone, rtol=0, atol=1e-4 * float(alone.abs().max())):
        raise InvalidHyperparameter(
            f"{KEY}.checkpoint_name: {name} is a {config.model_type}, which does not mask padding, so that a row's prediction would depend on "
            "the other rows of its batch; choose another model"
        )


def is_pretrained(config: Config) -> bool:
    return config.model.hf_text.pretrained


def _weights_among(files: set[str]) -> list[str]:
    safe = [file for file in files if re.fullmatch(r"model.*\.safetensors(\.index\.json)?", file)]
    return sorted(safe) or sorted(file for file in files if re.fullmatch(r"pytorch_model.*\.bin(\.index\.json)?", file))


def _fetch(name: str, choose: Any) -> None:
    hub.fetch(
        name,
        None,
        choose,
        f"{KEY}.checkpoint_name: {name!r}",
        f"Ways out: {KEY}.checkpoint_name=<a folder you have>; run once where the hub can be reached; "
        f"{WORDS_ALONE}; or leave the columns out, in fit with column_types={{column: 'null'}}.",
    )


def _config(name: str) -> PretrainedConfig:
    """The model's configuration, from a folder or the hub.

    Raises:
        WeightsUnavailable, InvalidHyperparameter
    """
    from transformers import AutoConfig

    folder = _folder(name)
    if folder is None:
        _fetch(name, lambda files: [CONFIG])
        folder = _folder(name)
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # unknown model types, models that need their own code, broken files
        first = first_line(error)
        raise InvalidHyperparameter(f"{KEY}.checkpoint_name: {name} is no model that the transformers library can build: {first}") from None


def _from_dict(values: Mapping[str, Any]) -> PretrainedConfig:
    _check_library()
    from transformers import AutoConfig

    return AutoConfig.for_model(values["model_type"], **{key: value for key, value in values.items() if key != "model_type"})


def _local(name: str) -> Path:
    """The folder that a name may refer to."""
    return Path(name.removeprefix("local-dir:")).expanduser()


def _folder(name: str) -> Path | None:
    """The folder of a model's files on this machine, if there is one."""
    if _local(name).is_dir():
        return _local(name)
    there = hub.cached(name, CONFIG) if REPOSITORY.fullmatch(name) else None
    return there and there.parent


def _check_kind(name: str, config: PretrainedConfig) -> None:
    if not hasattr(config, "hidden_size") or not hasattr(config, "vocab_size"):
        raise InvalidHyperparameter(f"{KEY}.checkpoint_name: {name} is a {config.model_type}, which is no encoder of text")


def _create(own: HfTextConfig, config: PretrainedConfig, pretrained: bool) -> Any:
    """Creates the encoder without its own pooler, whose weights our loss would not train."""
    from transformers import AutoModel

    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, own.dropout)
    folder = _folder(own.checkpoint_name)
    if pretrained and folder is None:
        raise WeightsUnavailable(f"{KEY}.checkpoint_name: the weights of {own.checkpoint_name} are not on this machine")
    try:
        with _quiet():
            if pretrained:
                # transformers reads torch's own format with weights_only; neither format runs code
                encoder, report = AutoModel.from_pretrained(
                    str(folder), config=config, local_files_only=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
                )
            else:
                encoder, report = AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32), {}
    except Exception as error:  # no files, files of another model, files that would run code
        raise WeightsUnavailable(f"{KEY}.checkpoint_name: {own.checkpoint_name} cannot be loaded: {first_line(error)}") from None
    filled = {name: value for name, value in encoder.named_parameters() if name in report.get("missing_keys", ())}
    if getattr(encoder, "decoder", None) is not None:
        encoder = encoder.get_encoder()
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = nn.Identity()  # some models call it unconditionally
    used = {id(parameter) for name, parameter in encoder.named_parameters() if not name.startswith(UNUSED)}
    if absent := [name for name, value in filled.items() if id(value) in used]:
        raise WeightsUnavailable(
            f"{KEY}.checkpoint_name: the weights of {own.checkpoint_name} lack {len(absent)} of the {len(used)} tensors of this {config.model_type}, "
            f"and would leave them random: {', '.join(absent[:3])}{', ...' if absent[3:] else ''}"
        )
    return encoder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences transformers' reports on unused tensors, its progress bars and its warnings."""
    from transformers.utils import logging

    shown, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(shown)
        if bars:
            logging.enable_progress_bar()
