"""The device of a trial: which one, what it can do, and what it says when its memory is full; and torch as it is meant to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ..config import Env
from ..data.batch import TensorCache
from ..errors import InvalidHyperparameter
from ..models.folding import float32_may_round
from ..process import ProcessWide

OUT_OF_MEMORY = (  # words of a GPU's libraries, which allocate for themselves, and of cuDNN where no algorithm has room to work
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine",
)
LARGE_BLOCK = 2**25 - 2**16  # bytes; glibc learns from none of more than 2^25, its own few included


def find_device(env: Env) -> torch.device:
    """The device of a trial.

    Raises:
        InvalidHyperparameter: a GPU is demanded and there is none, or there is one that this torch cannot use.
    """
    if (env.accelerator == "gpu" or env.num_gpus > 0) and not torch.cuda.is_available():
        raise InvalidHyperparameter("env.accelerator, env.num_gpus: a GPU is asked for, and torch finds none; accelerator='auto' takes what there is")
    if env.allows_gpu and torch.cuda.is_available() and (lacking := _lacking_kernels()):
        raise InvalidHyperparameter(f"env.accelerator: {lacking}. Ways out: a torch that was built for it; env.accelerator='cpu'")
    return pick_device(env)


def pick_device(env: Env) -> torch.device:
    """A GPU where there is one and the config does not forbid it; a predictor trained on a GPU predicts on what its new machine has."""
    return torch.device("cuda" if env.allows_gpu and torch.cuda.is_available() and not _lacking_kernels() else "cpu")


def _lacking_kernels() -> str:
    """Why this torch has no kernels for the GPU; empty where it has. Kernels run on GPUs of their major number, from their minor number on."""
    built_for = torch.cuda.get_arch_list()
    major, minor = torch.cuda.get_device_capability()
    kernels = [_capability(name) for name in built_for if name.startswith("sm_")]
    compiled_there = [_capability(name) for name in built_for if name.startswith("compute_")]
    if not kernels:
        return ""  # another maker's GPU
    if any(has[0] == major and has[1] <= minor for has in kernels) or any(has <= (major, minor) for has in compiled_there):
        return ""
    return f"{torch.cuda.get_device_name()} has compute capability {major}.{minor}; torch {torch.__version__} was built for {', '.join(built_for)}"


def _capability(name: str) -> tuple[int, int]:
    """Of an architecture's name: ``sm_90a`` is (9, 0)."""
    digits = "".join(filter(str.isdigit, name))
    return int(digits[:-1]), int(digits[-1])


def keep_freed_memory() -> None:
    """Has the C library keep up to 64 MB of what tensors on the processor free for the next ones, as it does anyway after the first large one.

    glibc gives back whatever is more than twice the largest block that was ever freed at once, up to 32 MB. Where no tensor of a training has more than
    one, it does so at nearly every operator, and the next one has its memory page by page from the kernel: a tenth of a table's step, more on a busy machine.
    """
    torch.empty(LARGE_BLOCK, dtype=torch.uint8)  # nobody writes to it: it takes no memory


def generators_unchanged(device: torch.device) -> AbstractContextManager:
    """Puts back torch's random generators afterwards: the processor's, and the device's own. Other GPUs are not touched: asking them would start them."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextmanager
def usual_torch() -> Iterator[None]:
    """Within, torch makes float32 tensors on the processor and follows gradients, whatever the program around has set. Also a decorator."""
    device = torch.get_default_device()
    # a default device, also the processor, has every call of torch's looked at
    as_usual = nullcontext() if device.type == "cpu" else torch.device("cpu")
    with _dtype.be(torch.float32), torch.inference_mode(False), torch.enable_grad(), as_usual:
        yield


_dtype = ProcessWide(torch.get_default_dtype, torch.set_default_dtype)


def autocast(env: Env, device: torch.device) -> AbstractContextManager:
    """Mixed precision where the config asks for it; ``auto`` means bfloat16 on a GPU that has it."""
    wanted = env.precision in ("bf16-mixed", "16-mixed") or (env.precision == "auto" and has_bfloat16(device))
    return torch.autocast(device.type, torch.float16 if env.precision == "16-mixed" else torch.bfloat16, enabled=wanted)


def has_bfloat16(device: torch.device) -> bool:
    """Whether it is a GPU that has it; not where it is emulated, as on a T4: several times slower than float32."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def rounding(env: Env, device: torch.device) -> AbstractContextManager:
    """Within, a GPU rounds float32 where the config lets it, and nowhere else."""
    return float32_may_round(env.precision != "32") if device.type == "cuda" else nullcontext()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether fewer rows may fit."""
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY))


def resident(split: TensorCache, device: torch.device) -> TensorCache:
    """On the device where it fits, with as much again left for the model; else mapped, or decoded batch by batch, and each batch travels."""
    if device.type == "cuda" and (split.is_streamed or 2 * split.nbytes > torch.cuda.mem_get_info(device)[0]):
        return split
    try:
        return split.to(device)
    except torch.OutOfMemoryError:  # another trial on this GPU was quicker
        return split
