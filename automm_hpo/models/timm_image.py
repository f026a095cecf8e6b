"""Any of timm's image models as a backbone."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import load_file
from timm.models import PretrainedCfg
from torch import nn

from ..config import Config
from ..config import TimmImage as TimmImageConfig
from ..data.batch import Batch
from ..data.images import ImageSpec, Interpolation
from ..errors import InvalidHyperparameter, MissingData, WeightsUnavailable, did_you_mean

KEY = "model.timm_image"
HUB_TIMEOUT = 5.0  # seconds; the hub's own client would retry for the better part of a minute
_hub_failed: tuple[float, Exception] = (-math.inf, ConnectionError())  # when it was last out of reach, and how


class TimmImage(nn.Module):
    """Normalises, takes the backbone's pooled features of each image, and averages those present; zeros where there is none."""

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.pixel_mean: torch.Tensor
        self.pixel_std: torch.Tensor
        self.backbone = backbone
        self.num_features = _feature_size(backbone)
        # of pixels in [0, 255]: data never has to know which model it feeds
        self.register_buffer("pixel_mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, num_features)."""
        flat = batch.images.flatten(0, 1).float().sub_(self.pixel_mean).div_(self.pixel_std)  # (B*I, 3, H, W)
        pooled = self.backbone(flat).unflatten(0, batch.image_mask.shape)  # (B, I, F)
        weight = batch.image_mask.unsqueeze(-1).to(pooled.dtype)
        return (pooled * weight).sum(1) / weight.sum(1).clamp(min=1)


def build(config: Config, load_weights: bool) -> TimmImage:
    own = config.model.timm_image
    from_file = load_weights and own.checkpoint_path is not None
    backbone = _create(own, pretrained=load_weights and own.pretrained and not from_file)
    if from_file:
        _load_backbone(backbone, Path(str(own.checkpoint_path)))
    cfg = _source(own.checkpoint_name).cfg
    return TimmImage(backbone, tuple(cfg.mean), tuple(cfg.std))


def image_spec(own: TimmImageConfig) -> ImageSpec:
    cfg = _source(own.checkpoint_name).cfg
    return ImageSpec(own.image_size or cfg.input_size[-1], cast(Interpolation, cfg.interpolation), cfg.crop_pct)


def check(own: TimmImageConfig) -> None:
    """Raises:
    InvalidHyperparameter: no such model, or it cannot be built with these values.
    MissingData: ``checkpoint_path`` is not there.
    """
    size = image_spec(own).size
    with torch.device("meta"):  # shapes without memory or arithmetic
        backbone = _create(own, pretrained=False).eval()
        try:
            backbone(torch.empty(1, 3, size, size))
        except Exception as error:  # models refuse sizes by assertions and shape errors of many kinds
            raise InvalidHyperparameter(f"{KEY}.image_size: {own.checkpoint_name} does not take {size} pixels: {error}") from None
    if own.checkpoint_path is not None and not Path(own.checkpoint_path).is_file():
        raise MissingData(f"{KEY}.checkpoint_path: no such file: {own.checkpoint_path}")


def fetch_weights(own: TimmImageConfig) -> None:
    """Raises:
    WeightsUnavailable: pretrained weights are wanted and cannot be had.
    """
    if own.pretrained and own.checkpoint_path is None:
        _fetch_weights(own.checkpoint_name)


def _create(own: TimmImageConfig, pretrained: bool) -> nn.Module:
    source = _source(own.checkpoint_name)
    options: dict[str, Any] = {"drop_rate": own.drop_rate}
    if own.drop_path_rate:
        options["drop_path_rate"] = own.drop_path_rate
    if own.image_size and source.cfg.fixed_input_size:
        options["img_size"] = own.image_size
    try:
        with warnings.catch_warnings():  # "mapping deprecated model name": the user's choice of name stands
            warnings.simplefilter("ignore")
            if pretrained:
                return timm.create_model(own.checkpoint_name, pretrained=True, num_classes=0, **options)
            return timm.create_model(source.architecture, **{**source.arguments, **options, "num_classes": 0})
    except TypeError as error:
        raise InvalidHyperparameter(f"{KEY}: {own.checkpoint_name} does not take {', '.join(options)}: {error}") from None


def _feature_size(backbone: nn.Module) -> int:
    """Width of what the backbone returns without its classifier (some models end in a hidden layer wider than their last block)."""
    size: Any = getattr(backbone, "head_hidden_size", None) or backbone.num_features
    return int(size)


@dataclass(frozen=True)
class Source:
    """What timm needs to build a model: a name of its own, or what the config.json of a folder or hub repository says."""

    architecture: str
    cfg: PretrainedCfg
    arguments: Mapping[str, Any]


_remembered: dict[str, Source] = {}  # of loaded predictors, whose folder or repository may be out of reach


def describe_source(own: TimmImageConfig) -> dict[str, Any]:
    """As JSON, what a predictor must keep of a model that is not timm's own; empty for those that are."""
    source = _source(own.checkpoint_name)
    if timm.is_model(own.checkpoint_name):
        return {}
    return {"architecture": source.architecture, "cfg": source.cfg.to_dict(), "arguments": dict(source.arguments)}


def remember_source(own: TimmImageConfig, described: Mapping[str, Any]) -> None:
    """Makes ``describe_source``'s model known again, so that it is built without its folder or repository."""
    if described:
        _remembered[own.checkpoint_name] = Source(described["architecture"], PretrainedCfg(**described["cfg"]), described["arguments"])


def _source(name: str) -> Source:
    """Where a model comes from.

    Raises:
        InvalidHyperparameter, WeightsUnavailable
    """
    kind, _, place = name.partition(":")
    if kind in ("hf-hub", "hf_hub", "local-dir") and place:
        from timm.models import _hub

        try:
            cfg, architecture, arguments = (_hub.load_model_config_from_path if kind == "local-dir" else _hub.load_model_config_from_hf)(place)
        except Exception as error:
            if name in _remembered:
                return _remembered[name]
            raise WeightsUnavailable(f"{KEY}.checkpoint_name: {name} cannot be read: {type(error).__name__}: {error}") from None
        return Source(architecture, PretrainedCfg(**cfg) if isinstance(cfg, Mapping) else cfg, arguments or {})
    if not timm.is_model(name):
        hint = did_you_mean(name.split(".")[0], timm.list_models())
        raise InvalidHyperparameter(f"{KEY}.checkpoint_name: timm has no model {name!r}.{hint} timm.list_models() lists all.")
    try:
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:  # a tag that does not exist
        tags = ", ".join(timm.list_pretrained(name.split(".")[0] + ".*"))
        raise InvalidHyperparameter(f"{KEY}.checkpoint_name: no weights are published as {name!r}; there are: {tags or 'none'}") from None
    assert cfg is not None, "every registered model has a configuration"
    return Source(name, cfg, {})


def _fetch_weights(name: str) -> None:
    """Downloads a model's weights into the hub's cache, where all trials find them; done already, it returns at once."""
    import huggingface_hub

    if name.startswith("local-dir:"):
        return
    repo = name.partition(":")[2] or _source(name).cfg.hf_hub_id
    if not repo:
        raise WeightsUnavailable(f"{KEY}.checkpoint_name: no pretrained weights are published for {name!r}; set {KEY}.pretrained to False")
    repo, _, revision = repo.partition("@")
    if any(isinstance(huggingface_hub.try_to_load_from_cache(repo, file), str) for file in ("model.safetensors", "pytorch_model.bin")):
        return
    global _hub_failed
    try:
        if time.monotonic() - _hub_failed[0] < 4 * HUB_TIMEOUT:  # the next of several models need not wait as long again
            raise _hub_failed[1]
        files = {file.rfilename for file in huggingface_hub.HfApi().model_info(repo, revision=revision or None, timeout=HUB_TIMEOUT).siblings or ()}
        huggingface_hub.hf_hub_download(repo, "model.safetensors" if "model.safetensors" in files else "pytorch_model.bin", revision=revision or None)
    except Exception as error:  # no network, no such repository, no space, ...
        if not isinstance(error, huggingface_hub.errors.HfHubHTTPError):  # the hub did not answer at all
            _hub_failed = (time.monotonic(), error)
        raise WeightsUnavailable(
            f"{KEY}.checkpoint_name: the pretrained weights of {name!r} (hub repository {repo}) cannot be fetched: {type(error).__name__}. "
            f"Ways out: {KEY}.pretrained=False starts from random weights; {KEY}.checkpoint_path=<file> or "
            f"{KEY}.checkpoint_name='local-dir:<folder>' use weights you have; or run once where the hub can be reached."
        ) from None


def _load_backbone(backbone: nn.Module, path: Path) -> None:
    """Loads a weights file that the user named; keys of a classifier are left out.

    Raises:
        InvalidHyperparameter: the file is none, or its tensors are not this model's.
    """
    try:
        # the one file read that is not ours; weights_only runs no code
        weights = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InvalidHyperparameter(f"{KEY}.checkpoint_path: {path} holds no plain weights: {type(error).__name__}: {error}") from None
    for wrapper in ("state_dict", "model"):
        weights = weights.get(wrapper, weights)
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    own = backbone.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and value.shape == own[key].shape}
    absent = own.keys() - fitting.keys()
    if absent:
        raise InvalidHyperparameter(
            f"{KEY}.checkpoint_path: {path} lacks {len(absent)} of the {len(own)} tensors of this model, or has them in another shape; first {min(absent)}"
        )
    backbone.load_state_dict(fitting)
