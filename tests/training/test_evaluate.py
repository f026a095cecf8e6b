import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_percentage_error, mean_squared_log_error

from automm_hpo.config import Env
from automm_hpo.errors import InvalidArgument
from automm_hpo.metrics import find_metric
from automm_hpo.problem import Problem
from automm_hpo.training.evaluate import Validation, compute_metric, predict_logits, probabilities, undefined_on, validate, values

REGRESSION = Problem("y", "regression", mean=100.0, sd=10.0)


def test_regression_metrics_are_in_the_labels_own_unit():
    target, logits = np.array([100.0, 110.0]), torch.tensor([[0.5], [1.0]])
    assert compute_metric(find_metric("mae"), REGRESSION, logits, target) == pytest.approx(2.5)


def test_labels_are_judged_as_they_are():
    """In float32, the mape of a label near 0 would differ, and 0 could become negative."""
    problem = Problem("y", "regression", mean=1e5, sd=3e5)
    target, logits = np.array([0.0, 1e-3, 1.7e6]), torch.tensor([[0.0], [0.1], [5.0]])
    predicted = values(problem, logits)
    for name, expected in [("mape", mean_absolute_percentage_error), ("neg_mean_squared_log_error", lambda *both: -mean_squared_log_error(*both))]:
        assert compute_metric(find_metric(name), problem, logits, target) == pytest.approx(expected(target, predicted), rel=1e-12)


def test_a_metric_that_refuses_some_predictions_is_tried_with_values_that_occur():
    metric, target = find_metric("neg_mean_poisson_deviance"), np.array([90.0, 100.0, 110.0])
    assert undefined_on(metric, REGRESSION, target) == ""
    refused = validate(metric, REGRESSION, torch.tensor([[0.0], [0.0], [-50.0]]), target)
    assert refused.is_finite and math.isnan(refused.metric)
    with pytest.raises(InvalidArgument, match="neg_mean_poisson_deviance: cannot be computed here"):
        undefined_on(metric, REGRESSION, target - 100)


def test_what_beats_what():
    def validation(score, loss=1.0):
        return Validation(torch.zeros(0, 1), score, score, loss)

    good = validation(0.9)
    assert good.beats(validation(0.8, loss=0.1))
    assert good.beats(validation(0.9, loss=1.1))
    assert not good.beats(good)
    assert not good.beats(validation(0.9, loss=0.5))
    # rounding errors of score or loss decide nothing
    assert not validation(0.9 + 1e-9).beats(good)
    assert not validation(0.9, 1 - 1e-8).beats(good)
    assert validation(0.9 + 1e-9, loss=0.5).beats(good)
    # having no score is worst
    assert good.beats(validation(math.nan))
    assert not validation(math.nan).beats(validation(math.nan))
    assert not validation(math.nan).beats(validation(-5.0))


def test_predictions_that_are_not_finite_have_no_score():
    target = np.array([100.0, 110.0])
    assert validate(find_metric("rmse"), REGRESSION, torch.tensor([[0.0], [math.nan]]), target).rank == (-math.inf, -math.inf)
    found = validate(find_metric("rmse"), REGRESSION, torch.tensor([[0.0], [0.9]]), target)
    assert found.metric == pytest.approx(math.sqrt(0.5))
    assert found.loss == pytest.approx(0.005)
    assert found.rank == (-found.metric, -found.loss)


def test_probabilities_sum_to_one():
    assert np.allclose(probabilities(torch.randn(5, 3) * 50).sum(axis=1), 1)


def test_logits_do_not_depend_on_the_batch(trial):
    one = trial()
    model = one.state().model
    small, large = (predict_logits(model, one.data.train, Env(batch_size=size)) for size in (1, 64))
    assert torch.allclose(small, large, atol=1e-5)


def test_a_batch_may_be_of_any_row_order_and_weights_follow(trial):
    """Of two rows with the same image and opposite labels, the model learns the heavier one."""
    one = trial(optim__max_epochs=6)
    train = one.data.train
    target = torch.cat([torch.zeros(20, dtype=torch.int64), torch.ones(20, dtype=torch.int64)])
    images = train.images[:20].repeat(2, 1, 1, 1, 1)
    for heavy in (0, 1):
        weight = torch.where(target == heavy, 1.9, 0.1)
        one.data = replace(one.data, train=replace(train, images=images, target=target, weight=weight))
        state = one.state()
        list(one.epochs(state))
        assert (predict_logits(state.model, one.data.train, Env())[:20, :2].argmax(1) == heavy).float().mean() > 0.8


def test_a_batch_that_does_not_fit_is_split(trial):
    one = trial()
    state = one.state()
    expected = predict_logits(state.model, one.data.valid, one.config.env)
    asked = []

    def small_memory(batch):
        asked.append(len(batch))
        if len(batch) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return state.model(batch)

    found = predict_logits(state.model, one.data.valid, one.config.env, small_memory)
    assert asked == [20, 10, 5, 5, 5, 5]
    assert torch.allclose(found, expected, atol=1e-5)
    asked.clear()
    predict_logits(state.model, one.data.valid, one.config.env, small_memory)
    assert asked == [5] * 4  # the size that fits is known now
