import pytest
import torch

from automm_hpo.config import Env
from automm_hpo.training.compiling import gpu_kernels, wants_compiling

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("turn_on", "device", "seconds_left", "wanted"),
    [("auto", GPU, 1000.0, True), ("auto", GPU, 100.0, False), ("auto", CPU, 1e6, False), (True, CPU, 0.0, True), (False, GPU, 1e6, False)],
)
def test_it_compiles_where_that_is_repaid_or_asked_for(turn_on, device, seconds_left, wanted):
    assert wants_compiling(Env.model_validate({"compile": {"turn_on": turn_on}}), device, seconds_left) is wanted


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
    def settings():
        return torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision()

    before = settings()
    with gpu_kernels(Env.model_validate(given), GPU):
        assert settings() == expected
        assert torch.are_deterministic_algorithms_enabled() is expected[1]
    assert settings() == before
    assert not torch.are_deterministic_algorithms_enabled()
    with gpu_kernels(Env.model_validate(given), CPU):
        assert settings() == before
