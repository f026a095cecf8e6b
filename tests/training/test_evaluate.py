import numpy as np
import pytest
import torch

from automm_hpo.config import Env
from automm_hpo.errors import InvalidHyperparameter
from automm_hpo.metrics import find_metric
from automm_hpo.problem import Problem
from automm_hpo.training.evaluate import compute_metric, find_device, predict_logits, probabilities

REGRESSION = Problem("y", "regression", mean=100.0, sd=10.0)


def test_regression_metrics_are_in_the_labels_own_unit():
    target = np.array([0.0, 1.0], np.float32)  # 100 and 110
    logits = torch.tensor([[0.5], [1.0]])
    assert compute_metric(find_metric("mae"), REGRESSION, logits, target) == pytest.approx(2.5)


def test_probabilities_sum_to_one():
    assert np.allclose(probabilities(torch.randn(5, 3) * 50).sum(axis=1), 1)


def test_logits_do_not_depend_on_the_batch(trial):
    one = trial()
    model = one.state().model
    small, large = (predict_logits(model, one.data.train, one.data.spec, Env(batch_size=size)) for size in (1, 64))
    assert torch.allclose(small, large, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("env", [Env(accelerator="gpu"), Env(num_gpus=1)])
def test_a_gpu_that_is_not_there_is_refused(env):
    with pytest.raises(InvalidHyperparameter, match="torch finds none"):
        find_device(env)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_takes_the_gpu():
    assert find_device(Env()).type == "cuda"
