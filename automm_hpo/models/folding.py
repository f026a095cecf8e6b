"""Folds batch norm into the convolution before it, for models that only predict: the same function in fewer passes over memory.

On a CPU, where these networks are limited by memory, a prediction then takes two thirds of the time (``benchmarks/predict_speed.py``).
"""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..process import ProcessWide

Network = TypeVar("Network", bound=nn.Module)
TOLERANCE = 1e-3  # relative to the largest output; folding changes only rounding, by about 1e-6
CONVOLUTIONS, NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)  # exactly these types: subclasses may compute their weights


def fold_norms(network: nn.Module, sample: torch.Tensor) -> nn.Module | None:
    """A folded copy that computes the same as the network in eval mode. Weights that are not folded are shared.

    Args:
        sample: (B, 3, H, W) input on which both are compared.

    Returns:
        The copy; None if there is nothing to fold, the network cannot be traced, or the outputs differ.
    """
    network.eval()
    pairs = _pairs(network)
    if not pairs:
        return None
    folded = shared_copy(network)
    for conv_name, norm_name in pairs:
        conv: Any = folded.get_submodule(conv_name)
        norm: Any = folded.get_submodule(norm_name)
        weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        conv.weight, conv.bias = weight, bias
        parent, _, leaf = norm_name.rpartition(".")
        folded.get_submodule(parent).add_module(leaf, nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity())
    with torch.inference_mode(), float32_may_round(False):  # TensorFloat-32 rounds by as much as the tolerance
        expected, found = network(sample), folded(sample)
    return folded if bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max()) else None


def float32_may_round(allowed: bool) -> AbstractContextManager[None]:
    """Sets whether a GPU may compute float32 in TensorFloat-32 inside the block."""
    words, *_ = _read_tf32()
    return _tf32.be((words, "high" if allowed else "highest", allowed) if words == "older" else (words, *["tf32" if allowed else "ieee"] * 2))


def _read_tf32() -> tuple[Any, ...]:
    """Torch's settings. Torch has an older and a newer API for them and raises if both are used, so the newer is used only if the process has used it."""
    backends: Any = torch.backends
    try:
        return "older", torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    except RuntimeError:
        return "newer", backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision


def _write_tf32(settings: tuple[Any, ...]) -> None:
    words, products, convolutions = settings
    backends: Any = torch.backends
    if words == "older":
        backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
    else:
        backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision = products, convolutions


_tf32 = ProcessWide(_read_tf32, _write_tf32)


def shared_copy(network: Network, **changed: nn.Module) -> Network:
    """A copy with its own modules, but the same tensors.

    Args:
        changed: child modules to replace, by name.
    """
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    copied = copy.deepcopy(network, tensors)
    for name, module in changed.items():
        copied.add_module(name, module)
    return copied


class _Tracer(fx.Tracer):
    """Traces into modules that contain batch norms. All other modules, and convolutions and norms themselves, are leaves."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (nn.Conv2d, nn.BatchNorm2d)) or not any(isinstance(each, nn.BatchNorm2d) for each in m.modules())


def _pairs(network: nn.Module) -> list[tuple[str, str]]:
    """(convolution, norm) names, for each convolution whose output is read by that norm alone."""
    try:
        nodes = list(_Tracer().trace(network).nodes)
    except Exception:  # data-dependent control flow, and anything else that cannot be traced
        return []
    calls = [node for node in nodes if node.op == "call_module"]
    uses, modules = Counter(node.target for node in calls), dict(network.named_modules())
    found = []
    for norm in calls:
        conv = norm.args[0] if norm.args else None
        if (
            isinstance(conv, fx.Node)
            and conv.op == "call_module"
            and len(conv.users) == uses[norm.target] == uses[conv.target] == 1
            and type(modules[str(conv.target)]) in CONVOLUTIONS
            and type(modules[str(norm.target)]) in NORMS
            and getattr(modules[str(norm.target)], "running_mean", None) is not None  # otherwise it uses the batch's statistics
        ):
            found.append((str(conv.target), str(norm.target)))
    return found
