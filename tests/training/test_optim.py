from itertools import pairwise

import pytest
from timm import create_model

from automm_hpo.config import Optim
from automm_hpo.training.optim import LR_SCHEDULES, OPTIMIZERS, build_optimizer, lr_factor


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_a_schedule_warms_up_peaks_and_falls(schedule):
    optim = Optim(lr_schedule=schedule, warmup_steps=0.1)
    factors = [lr_factor(optim, step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert all(later <= earlier for earlier, later in pairwise(factors[10:]))
    assert min(factors) > 0
    assert factors[-1] == 1 if schedule == "constant" else factors[-1] < 0.02


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_are_not_decayed(name):
    model = create_model("test_resnet", num_classes=0)
    groups = build_optimizer(model, Optim(optim_type=name, weight_decay=0.1, lr=0.5)).param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    assert all(parameter.ndim > 1 for group in groups if group["weight_decay"] for parameter in group["params"])
    assert sum(parameter.numel() for group in groups for parameter in group["params"]) == sum(parameter.numel() for parameter in model.parameters())
    assert {group["lr"] for group in groups} == {0.5}
