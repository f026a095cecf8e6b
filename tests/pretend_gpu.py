"""A pretended GPU for machines without one: CPU tensors that claim to be on ``cuda:0``, and refuse what GPU tensors would refuse.

It covers what Python sees of a GPU: that no operation mixes devices, that no GPU tensor goes to numpy, and where the program waits for the GPU. It does not
cover kernels, speed and memory; the tests marked ``gpu`` do, on a real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MEMORY = 80 * 2**30
ON_BOTH = {"to", "copy_", "__getitem__", "__setitem__", "_has_compatible_shallow_copy_type"}  # copies and indexing may mix two devices
WAITING = {"item", "__bool__", "__float__", "__int__", "__index__", "tolist", "nonzero", "masked_select", "unique", "equal"}


class OnGpu(torch.Tensor):
    """A tensor that claims to be on the GPU."""


class PretendGpu(TorchFunctionMode):
    """Makes tensors claim to be on a GPU, and refuses what torch would refuse there.

    Attributes:
        waits: the operations, in order, at which the program waited until the GPU had finished all its work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
        if there:
            attribute = getattr(function, "__self__", None)
            if attribute is torch.Tensor.device or attribute is torch.Tensor.is_cuda:
                return GPU if attribute is torch.Tensor.device else True
            if name == "__deepcopy__":
                return _deepcopy(*args)
            _check(name, args, tensors)
        if name == "pin_memory":
            return args[0]
        wanted = _wanted_device(name, args, kwargs)
        is_copied = wanted is not None and bool(tensors) and isinstance(tensors[0], OnGpu) != (wanted == GPU)
        by_mask = name == "__getitem__" and any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1:]))
        is_made = name in ("tensor", "as_tensor") and not tensors and wanted == GPU  # made from Python numbers, which is a blocking copy
        if is_made or (is_copied and tensors[0].numel() and not kwargs.get("non_blocking")) or (there and (name in WAITING or by_mask)):
            self.waits.append(name)
        if wanted == GPU:
            args, kwargs = tree_map_only((torch.device, str), lambda value: CPU if torch.device(value).type == "cuda" else value, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
        if name in ("copy_", "__setitem__"):
            return result
        result = result.clone() if is_copied else result
        return tree_map_only(torch.Tensor, _on_gpu if wanted == GPU or (wanted is None and there) else _on_cpu, result)


def _check(name: str, args: Any, tensors: list[torch.Tensor]) -> None:
    """Raises the errors that torch would raise."""
    if name in ("numpy", "__array__"):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
    if name == "__getitem__" and not isinstance(args[0], OnGpu):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if name not in ON_BOTH and any(tensor.ndim and not isinstance(tensor, OnGpu) for tensor in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({name})")


def _wanted_device(name: str, args: Any, kwargs: Any) -> torch.device | None:
    """Returns the device of the result if the call names the CPU or the GPU."""
    wanted = "cpu" if name == "cpu" else kwargs.get("device")
    if name == "to":
        wanted = wanted or next((each for each in args[1:] if isinstance(each, torch.device | str | torch.Tensor)), None)
        wanted = wanted.device if isinstance(wanted, torch.Tensor) else wanted
    return {"cuda": GPU, "cpu": CPU}.get(torch.device(wanted).type) if wanted is not None else None


def _deepcopy(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    if id(tensor) not in memo:
        copied = _on_gpu(tensor.detach().clone()).requires_grad_(tensor.requires_grad)
        memo[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
    return memo[id(tensor)]


def _on_gpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if isinstance(tensor, OnGpu) else tensor.as_subclass(OnGpu)


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(torch.Tensor) if isinstance(tensor, OnGpu) else tensor


class _Generator(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls, "cpu")


@contextmanager
def pretend_gpu(num_gpus: int = 1) -> Iterator[PretendGpu]:
    """Makes torch find ``num_gpus`` GPUs, of which only the first may be used."""
    gpu, submit, grouped = PretendGpu(), ThreadPoolExecutor.submit, nn.utils.clip_grad._group_tensors_by_device_and_dtype

    def submitted(pool: Executor, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        def run() -> Any:  # a torch function mode applies to one thread
            with gpu:
                return function(*args, **kwargs)

        return submit(pool, run)

    def grouped_there(tensors: Any) -> Any:  # the original is written in C++, which sees the real devices
        return {(GPU if isinstance(group[0][0][0], OnGpu) else device, dtype): group for (device, dtype), group in grouped(tensors).items()}

    def of_first(value: Any) -> Any:
        def answer(device: Any = None, *rest: Any) -> Any:
            assert device is None or torch.device(device).index in (None, 0), "another GPU was touched"
            return value

        return answer

    def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
        of_first(None)(device)

    torch_cuda = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "device_count": lambda: num_gpus,
        "current_device": lambda: 0,
        "get_arch_list": lambda: ["sm_80", "sm_90"],
        "get_device_capability": of_first((9, 0)),
        "get_device_name": of_first("pretended"),
        "mem_get_info": of_first((MEMORY, MEMORY)),
        "max_memory_reserved": of_first(2**30),
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": of_first(None),
        "synchronize": lambda device=None: gpu.waits.append("synchronize"),
        "get_rng_state": of_first(torch.default_generator.get_state()),
        "set_rng_state": set_rng_state,
        "default_generators": (torch.Generator(),),
    }
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # replaces a module's weights by GPU tensors, instead of their data only
    try:
        with pytest.MonkeyPatch.context() as patch, gpu:
            for name, value in torch_cuda.items():
                patch.setattr(torch.cuda, name, value)
            patch.setattr(torch, "Generator", _Generator)
            patch.setattr(ThreadPoolExecutor, "submit", submitted)
            patch.setattr(nn.utils.clip_grad, "_group_tensors_by_device_and_dtype", grouped_there)
            for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):  # asks the driver; named by torch version
                patch.setattr(torch.optim.Optimizer, name, lambda self: None, raising=False)
            yield gpu
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
