"""Low-rank adaptation of pretrained backbones through the peft library.

Hu et al. 2021, "LoRA: low-rank adaptation of large language models" (arXiv:2106.09685).
"""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import nn

from ..config import Config
from ..config import Lora as LoraConfig
from ..errors import InvalidHyperparameter, NotSupported
from .backbone import Backbone

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def check(config: Config) -> None:
    """Refuses LoRA where the library is not there.

    Raises:
        NotSupported: LoRA is wanted and the peft library is not installed.
    """
    if config.optim.peft and importlib.util.find_spec("peft") is None:
        raise NotSupported("optim.peft: needs the peft library: pip install 'automm-hpo[peft]'; or leave optim.peft at None")


def attach(backbone: Backbone, own: LoraConfig) -> None:
    """Freezes a pretrained backbone but for its norms, and adds what learns instead to every linear layer, fused ``qkv`` among them.

    Networks that begin from random weights, and those that learn nothing, are left as they are. In a network of convolutions the 1 x 1
    ones, linear layers on channels, stand for the linear ones.
    """
    if not backbone.is_pretrained or backbone.is_frozen:
        return
    import peft

    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    pointwise = [name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1]
    if not linear and not pointwise:
        raise InvalidHyperparameter("optim.peft: the backbone has neither linear layers nor 1 x 1 convolutions for LoRA to attach to; leave it at None")
    options: dict[str, Any] = {"r": own.r, "lora_alpha": own.alpha, "lora_dropout": own.dropout, "bias": "none"}
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=linear or pointwise, **options), backbone)
    for module in backbone.modules():
        is_own = "norm" in type(module).__name__.lower() and not any(module.children())  # timm's RmsNorm and EvoNorm, transformers' T5LayerNorm, ...
        if isinstance(module, NORMS) or is_own:
            module.requires_grad_(True)
