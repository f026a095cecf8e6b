"""The device of a trial: how it is chosen, what it can do, how it reports full memory; and torch's settings while we use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch

from ..config import Env
from ..data.batch import TensorCache
from ..errors import InvalidHyperparameter
from ..models.folding import float32_may_round
from ..process import ProcessWide

OUT_OF_MEMORY = (  # errors of GPU libraries that allocate memory themselves, and of cuDNN if no algorithm has enough room
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, since cuDNN 9
    "CUDNN_STATUS_NOT_INITIALIZED",
    "unable to find an engine",
)
LARGE_BLOCK = 2**25 - 2**16  # bytes; glibc adapts to blocks of at most 2^25 bytes, including its header


def find_device(env: Env) -> torch.device:
    """The device of a trial.

    Raises:
        InvalidHyperparameter: the config requires a GPU and there is none, or this torch has no kernels for the GPU.
    """
    if (env.accelerator == "gpu" or env.num_gpus > 0) and not torch.cuda.is_available():
        raise InvalidHyperparameter("env.accelerator, env.num_gpus: a GPU is asked for, and torch finds none; accelerator='auto' takes what there is")
    if env.allows_gpu and torch.cuda.is_available() and (lacking := _lacking_kernels()):
        raise InvalidHyperparameter(f"env.accelerator: {lacking}. Ways out: a torch that was built for it; env.accelerator='cpu'")
    return pick_device(env)


def pick_device(env: Env) -> torch.device:
    """A GPU if there is a usable one and the config allows it, otherwise the CPU: a predictor trained on a GPU may move to a machine without one."""
    return torch.device("cuda" if env.allows_gpu and torch.cuda.is_available() and not _lacking_kernels() else "cpu")


def _lacking_kernels() -> str:
    """Why this torch has no kernels for the GPU; empty if it has. Kernels run on GPUs of the same major capability and an equal or higher minor one."""
    built_for = torch.cuda.get_arch_list()
    major, minor = torch.cuda.get_device_capability()
    kernels = [_capability(name) for name in built_for if name.startswith("sm_")]
    compiled_there = [_capability(name) for name in built_for if name.startswith("compute_")]
    if not kernels:
        return ""  # another vendor's GPU
    if any(has[0] == major and has[1] <= minor for has in kernels) or any(has <= (major, minor) for has in compiled_there):
        return ""
    return f"{torch.cuda.get_device_name()} has compute capability {major}.{minor}; torch {torch.__version__} was built for {', '.join(built_for)}"


def _capability(name: str) -> tuple[int, int]:
    """Compute capability of an architecture: ``sm_90a`` is (9, 0)."""
    digits = "".join(filter(str.isdigit, name))
    return int(digits[:-1]), int(digits[-1])


def keep_freed_memory() -> None:
    """Makes the C library keep up to 64 MB of memory freed by CPU tensors for later ones, as it does anyway once a large tensor was freed.

    glibc returns free memory beyond twice the largest block freed so far (up to 32 MB) to the kernel. If no tensor of a training has more than 1 MB,
    this happens at nearly every operator, and the next one gets its memory page by page: a tenth of a step on a table, more on a busy machine.
    """
    torch.empty(LARGE_BLOCK, dtype=torch.uint8)  # takes no physical memory, because nobody writes to it


@contextmanager
def usual_torch() -> Iterator[None]:
    """Inside the block, torch makes float32 tensors on the CPU, tracks gradients and casts nothing, whatever the caller has set. Also a decorator."""
    device = torch.get_default_device()
    # setting a default device, even the CPU, adds overhead to every call of torch
    as_usual = nullcontext() if device.type == "cpu" else torch.device("cpu")
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        for block in (_dtype.be(torch.float32), torch.inference_mode(False), torch.enable_grad(), as_usual):
            stack.enter_context(block)
        yield


_dtype = ProcessWide(torch.get_default_dtype, torch.set_default_dtype)


def autocast(env: Env, device: torch.device) -> AbstractContextManager:
    """Mixed precision if the config asks for it; ``auto`` means bfloat16 on a GPU that has it."""
    wanted = env.precision in ("bf16-mixed", "16-mixed") or (env.precision == "auto" and has_bfloat16(device))
    return torch.autocast(device.type, torch.float16 if env.precision == "16-mixed" else torch.bfloat16, enabled=wanted)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device is a GPU with native bfloat16. Emulated bfloat16, as on a T4, is several times slower than float32."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def rounding(env: Env, device: torch.device) -> AbstractContextManager:
    """Inside the block, a GPU computes float32 in TensorFloat-32 if the config allows it, and only then."""
    return float32_may_round(env.precision != "32") if device.type == "cuda" else nullcontext()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory is full, so that fewer rows may fit."""
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY))


def free_unused(device: torch.device) -> None:
    """Returns the memory that torch keeps for later tensors to the GPU, whose libraries and other processes cannot use it. Not within an ``except``."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def resident(split: TensorCache, device: torch.device) -> TensorCache:
    """The split on the device, if it takes at most half of the free memory, which leaves the rest to the model. Otherwise as it is, copied by batch."""
    free_unused(device)  # what torch keeps for later tensors counts as occupied
    if device.type == "cuda" and (split.is_streamed or 2 * split.nbytes > torch.cuda.mem_get_info(device)[0]):
        return split
    try:
        return split.to(device)
    except RuntimeError as error:  # another trial on this GPU took the memory first
        if not is_out_of_memory(error):
            raise
    free_unused(device)
    return split
