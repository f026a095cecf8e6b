"""The device of a trial, and torch's global settings."""

import platform
import subprocess
import sys
import threading

import pytest
import torch
from pretend_gpu import pretend_gpu

from automm_hpo.config import Env
from automm_hpo.errors import InvalidHyperparameter
from automm_hpo.models.folding import float32_may_round
from automm_hpo.training.device import autocast, find_device, is_out_of_memory, pick_device, usual_torch
from automm_hpo.training.evaluate import predict_logits


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("env", [Env(accelerator="gpu"), Env(num_gpus=1)])
def test_a_gpu_that_is_not_there_is_refused(env):
    with pytest.raises(InvalidHyperparameter, match="torch finds none"):
        find_device(env)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_takes_the_gpu():
    assert find_device(Env()).type == "cuda"


@pytest.mark.parametrize(
    ("precision", "is_emulated", "is_mixed"), [("auto", False, True), ("auto", True, False), ("bf16-mixed", True, True), ("32", False, False)]
)
def test_precision_is_mixed_by_itself_only_where_the_gpu_has_bfloat16(precision, is_emulated, is_mixed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or not is_emulated)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with autocast(Env(precision=precision), torch.device("cuda")):
        assert torch.is_autocast_enabled("cuda") is is_mixed


PAGES = """
import resource, torch
from automm_hpo.training.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.ones(2**20) for _ in range(10)]  # each 4 MB, a thousand pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again():
    """Freed memory must not go back to the system, only to be fetched again page by page."""
    assert int(subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True).stdout) < 100


def test_the_last_of_several_threads_puts_the_default_type_back():
    first, second = usual_torch(), usual_torch()
    torch.set_default_dtype(torch.float64)
    try:
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float32  # the second context is still open
        second.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("capability", "built_for", "usable"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 9), ["sm_75", "sm_80", "sm_90"], True),
        ((7, 0), ["sm_75", "sm_80", "compute_90"], False),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_90", "compute_90"], True),  # compiled for this GPU at start
        ((12, 0), ["sm_90a"], False),
        ((9, 0), ["gfx90a", "gfx942"], True),  # another vendor's names say nothing
    ],
)
def test_a_gpu_without_kernels_is_refused_and_nothing_else_is_taken_for_it(capability, built_for, usable, monkeypatch):
    with pretend_gpu():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
        assert pick_device(Env()).type == ("cuda" if usable else "cpu")  # a predictor must work anywhere
        assert find_device(Env(accelerator="cpu")).type == "cpu"
        if usable:
            assert find_device(Env()).type == "cuda"
        else:
            with pytest.raises(InvalidHyperparameter, match=rf"pretended has compute capability {capability[0]}\.{capability[1]}.*accelerator='cpu'"):
                find_device(Env())


def test_memory_that_is_full_has_many_names():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    for words in (
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "GET was unable to find an engine",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "CUDA driver error: out of memory",
        "Triton Error [CUDA]: out of memory",
    ):
        assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(ValueError("CUDA error: out of memory"))


def test_the_last_of_several_threads_puts_rounding_back():
    def may_round():
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()

    before, entered, leave = may_round(), threading.Event(), threading.Event()

    def other():
        with float32_may_round(False):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with float32_may_round(True):
        with float32_may_round(False):
            assert may_round() == (False, "highest")
        assert may_round() == (True, "high")
        thread.start()
        entered.wait()
    assert may_round() == (False, "highest")  # the other thread's context is still open
    leave.set()
    thread.join()
    assert may_round() == before


@pytest.mark.parametrize(("precision", "rounds"), [("32", False), ("auto", True)])
def test_predictions_round_as_the_training_did(trial, precision, rounds):
    one, seen = trial(env__precision=precision), []
    with pretend_gpu():
        state = one.state()
        state.model.to("cuda")

        def look(batch):
            seen.append(torch.backends.cudnn.allow_tf32)
            return state.model(batch)

        predict_logits(state.model, one.data.valid.to(torch.device("cuda", 0)), one.config.env, look)
    assert seen == [rounds]


def test_what_the_caller_casts_stays_outside():
    with torch.autocast("cpu", torch.bfloat16), usual_torch():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
