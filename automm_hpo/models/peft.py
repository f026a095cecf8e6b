"""Trains only a small part of pretrained backbones: biases, norms, and low-rank additions from the peft library.

Hu et al. 2021, "LoRA: low-rank adaptation of large language models" (arXiv:2106.09685).
"""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import nn

from ..config import Lora as LoraConfig
from ..config import Optim
from ..errors import InvalidHyperparameter, NotSupported
from .backbone import Backbone

WITH_NORMS = ("lora", "lora_norm", "norm_fit")
WITH_BIASES = ("lora_bias", "lora_norm", "bit_fit", "norm_fit")
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def check(optim: Optim) -> None:
    """Refuses LoRA if the peft library is missing.

    Raises:
        NotSupported: LoRA is requested, and the peft library is not installed.
    """
    if optim.adds_lora and importlib.util.find_spec("peft") is None:
        raise NotSupported("optim.peft: needs the peft library: pip install 'automm-hpo[peft]'; or leave optim.peft at None")


def freeze(backbone: Backbone, optim: Optim) -> None:
    """Freezes a pretrained backbone except for the parts that ``optim.peft`` trains. Does nothing to random or entirely frozen backbones.

    Raises:
        InvalidHyperparameter: the backbone has no such parts.
    """
    if optim.peft is None or not backbone.is_pretrained or backbone.is_frozen:
        return
    check(optim)
    backbone.requires_grad_(False)
    if optim.adds_lora:
        _add_lora(backbone, optim.lora)
    for module in backbone.modules():
        is_own = "norm" in type(module).__name__.lower() and not any(module.children())  # timm's RmsNorm and EvoNorm, transformers' T5LayerNorm, ...
        if optim.peft in WITH_NORMS and (isinstance(module, NORMS) or is_own):
            module.requires_grad_(True)
    for name, parameter in backbone.named_parameters():
        if optim.peft in WITH_BIASES and name.endswith("bias"):
            parameter.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        raise InvalidHyperparameter(f"optim.peft: {optim.peft!r} would train nothing of the backbone; model.<its name>.trainable='head' trains the head alone")


def _add_lora(backbone: Backbone, own: LoraConfig) -> None:
    """Adds LoRA to every linear layer, including fused ``qkv``. Without linear layers, to 1 x 1 convolutions, which are linear layers on channels."""
    import peft

    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    pointwise = [name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1]
    if not linear and not pointwise:
        raise InvalidHyperparameter("optim.peft: the backbone has neither linear layers nor 1 x 1 convolutions for LoRA to attach to; leave it at None")
    apart: list[Any] = [module for module in backbone.modules() if hasattr(module, "qkv_bias_separate")]
    for attention in apart:  # timm's BEiT, EVA and SwinV2, which would use the layer's weight directly and bypass LoRA
        attention.qkv_bias_separate = True
    options: dict[str, Any] = {"r": own.r, "lora_alpha": own.alpha, "lora_dropout": own.dropout, "bias": "none"}
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=linear or pointwise, **options), backbone)
