import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from automm_hpo.config import Env
from automm_hpo.training.compiling import compile_networks, gpu_kernels, records_graphs, wants_compiling

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("turn_on", "device", "seconds_left", "wanted"),
    [("auto", GPU, 1000.0, True), ("auto", GPU, 100.0, False), ("auto", CPU, 1e6, False), (True, CPU, 0.0, True), (False, GPU, 1e6, False)],
)
def test_it_compiles_where_that_is_repaid_or_asked_for(turn_on, device, seconds_left, wanted):
    assert wants_compiling(Env.model_validate({"compile": {"turn_on": turn_on}}), device, seconds_left) is wanted


def test_it_compiles_unasked_only_where_there_is_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert not wants_compiling(Env(), GPU, 1e6)
    assert wants_compiling(Env.model_validate({"compile": {"turn_on": True}}), GPU, 1e6)
    monkeypatch.setenv("CC", "mine")
    assert wants_compiling(Env(), GPU, 1e6)


@pytest.mark.parametrize(("turn_on", "mode", "recorded"), [("auto", "reduce-overhead", True), (True, "default", False), (False, "reduce-overhead", False)])
def test_which_modes_record_graphs(turn_on, mode, recorded):
    env = Env.model_validate({"compile": {"turn_on": turn_on, "mode": mode}})
    assert records_graphs(env, GPU) is recorded
    assert not records_graphs(env, CPU)


def test_every_model_of_a_process_is_compiled():
    """torch compiles the same code only so many times in a process; later models would run uncompiled, and nobody would know."""
    from torch import _dynamo

    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    with _dynamo.config.patch(recompile_limit=2):
        for number in range(1, 6):
            network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(number / 10))
            model = SimpleNamespace(networks=lambda network=network: [network])
            compile_networks(model, SimpleNamespace(compile=SimpleNamespace(mode="default", backend=backend)))
            network(torch.zeros(2, 3))
            assert len(compiled) == number


def test_a_compiled_model_learns_the_same_and_is_stored_alike(trial):
    one = trial(optim__max_epochs=2)
    compiled = trial(optim__max_epochs=2, env__compile__turn_on=True, env__compile__backend="eager")
    plain_state, state = one.state(), compiled.state()
    expected, found = list(one.epochs(plain_state)), list(compiled.epochs(state))
    assert [result.valid_loss for result in found] == pytest.approx([result.valid_loss for result in expected], rel=1e-3)
    assert state.model.state_dict().keys() == plain_state.model.state_dict().keys()
    assert all(network._compiled_call_impl is not None for network in state.model.networks())


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, (True, False, "high")), ({"precision": "32"}, (True, False, "highest")), ({"deterministic": True}, (False, True, "high"))],
)
def test_the_settings_of_kernels_hold_within_and_are_put_back(given, expected):
    cuda = torch.backends.cuda

    def settings():
        return torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision()

    before = settings()
    assert before[2] == "highest"
    with gpu_kernels(Env.model_validate(given), GPU):
        assert settings() == expected
        assert torch.are_deterministic_algorithms_enabled() is expected[1]
        assert {cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()} == {not expected[1]}
        assert cuda.math_sdp_enabled()
    assert cuda.flash_sdp_enabled() and cuda.mem_efficient_sdp_enabled() and cuda.cudnn_sdp_enabled()
    assert settings() == before
    assert not torch.are_deterministic_algorithms_enabled()
    with gpu_kernels(Env.model_validate(given), CPU):
        assert settings() == before


@pytest.mark.parametrize("warn_only", [True, False])
def test_who_wants_repeatable_kernels_gets_them_as_before(warn_only):
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        with gpu_kernels(Env(), GPU):
            assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() is warn_only
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("mode", "forgets"), [("default", False), ("reduce-overhead", True)])
def test_compiled_code_that_may_hold_graphs_ends_with_the_block(mode, forgets, monkeypatch):
    """Their memory would not be free for the process's next trial."""
    forgotten = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: forgotten.append(True))
    with gpu_kernels(Env.model_validate({"compile": {"mode": mode}}), GPU):
        assert not forgotten
    assert bool(forgotten) is forgets


IN_NEWER_WORDS = """
import os, torch
from automm_hpo.config import Env
from automm_hpo.training.compiling import gpu_kernels

def check():
    words = lambda: (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)
    before = words()
    for precision, expected in (("auto", "tf32"), ("32", "ieee")):
        with gpu_kernels(Env(precision=precision), torch.device("cuda")):
            assert words() == (expected, expected), words()
        assert words() == before, words()

for said in ("backends.fp32_precision = 'tf32'", "backends.cuda.matmul.fp32_precision = 'tf32'", "backends.cudnn.conv.fp32_precision = 'ieee'"):
    if not os.fork():
        exec(f"torch.{said}")
        check()
        print("as expected after", said, flush=True)
        os._exit(0)
    os.wait()
"""


def test_precision_may_be_set_in_torchs_newer_words():
    """In separate processes, because these settings cannot be undone, forked from one that has imported torch."""
    done = subprocess.run([sys.executable, "-c", IN_NEWER_WORDS], check=True, timeout=100, capture_output=True, text=True)
    assert done.stdout.count("as expected after") == 3, done.stderr


class Network(nn.Module):  # our own class, because some versions of torch do not compile one of its own modules alone
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs):
        return self.layer(inputs).tanh()


def test_what_cannot_be_compiled_is_an_error_only_where_it_was_asked_for():
    for turn_on in (True, "auto"):
        network = Network()
        network.compile(backend=_no_compiler)
        with gpu_kernels(Env.model_validate({"compile": {"turn_on": turn_on}}), GPU):
            if turn_on == "auto":
                assert network(torch.zeros(1, 2)).shape == (1, 2)
            else:
                with pytest.raises(Exception, match="no compiler"):
                    network(torch.zeros(1, 2))


def _no_compiler(graph, inputs):
    raise RuntimeError("there is no compiler")
