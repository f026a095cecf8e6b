import numpy as np
import pytest
import torch

from automm_hpo.metrics import find_metric
from automm_hpo.problem import Problem
from automm_hpo.training.ensemble import NUM_ROUNDS, combine_logits, select_members
from automm_hpo.training.evaluate import compute_metric, probabilities, validate, values

CLASSES = Problem("y", "multiclass", (0, 1, 2), "int64")
REGRESSION = Problem("y", "regression", mean=100.0, sd=10.0)


def noisy_models(problem: Problem, noises: list[float], num_rows: int = 300) -> tuple[list[torch.Tensor], np.ndarray]:
    """(logits of models that know the target up to independent errors, target)."""
    rng = np.random.default_rng(0)
    if problem.is_classification:
        target = rng.integers(0, problem.num_outputs, num_rows)
        truth = np.eye(problem.num_outputs)[target]
    else:
        target = 100 + 10 * rng.normal(size=num_rows)
        truth = problem.standardise(target)[:, None]
    return [torch.tensor(truth + noise * rng.normal(size=truth.shape), dtype=torch.float32) for noise in noises], target


def select(problem, metric, logits, target, max_members, **options):
    return select_members(problem, logits, lambda combined: validate(find_metric(metric), problem, combined, target), max_members, **options)


def test_probabilities_and_values_are_averaged():
    logits = [torch.randn(7, 3, generator=torch.Generator().manual_seed(seed)) * 20 for seed in range(3)]
    weights = [0.5, 0.3, 0.2]
    combined = combine_logits(CLASSES, logits, weights)
    assert combined.dtype == torch.float64
    expected = sum(weight * probabilities(each) for weight, each in zip(weights, logits, strict=True))
    assert np.allclose(probabilities(combined), expected, rtol=1e-12, atol=0)

    numbers = [each[:, :1] for each in logits]
    expected = sum(weight * values(REGRESSION, each) for weight, each in zip(weights, numbers, strict=True))
    assert np.allclose(values(REGRESSION, combine_logits(REGRESSION, numbers, weights)), expected, rtol=1e-12)


@pytest.mark.parametrize("problem", [CLASSES, REGRESSION], ids=["classes", "regression"])
def test_a_single_model_is_left_bit_for_bit(problem):
    logits = torch.randn(5, problem.num_outputs)
    assert combine_logits(problem, [logits], [1.0]) is logits


def test_models_that_are_sure_of_opposite_things():
    sure = torch.tensor([[1e4, 0.0, 0.0]]), torch.tensor([[0.0, 1e4, 0.0]])
    combined = combine_logits(CLASSES, sure, [0.5, 0.5])
    assert combined.isfinite().all()
    assert np.allclose(probabilities(combined), [[0.5, 0.5, 0.0]])


@pytest.mark.parametrize(
    ("problem", "metric"), [(CLASSES, "accuracy"), (CLASSES, "log_loss"), (CLASSES, "roc_auc_ovr"), (REGRESSION, "rmse"), (REGRESSION, "r2")]
)
def test_together_they_are_better_than_the_best_alone(problem, metric):
    """Independent errors cancel, also for a metric where lower is better."""
    logits, target = noisy_models(problem, [1.0, 0.8, 0.9, 3.0])
    metric_of = find_metric(metric)
    alone = [metric_of.score(compute_metric(metric_of, problem, each, target)) for each in logits]
    weights, found = select(problem, metric, logits, target, 3)
    assert found.score > max(alone)
    assert 2 <= len(weights) <= 3
    assert sum(weights.values()) == pytest.approx(1)
    assert list(weights.values()) == sorted(weights.values(), reverse=True)
    again = combine_logits(problem, [logits[index] for index in weights], list(weights.values()))
    assert compute_metric(metric_of, problem, again, target) == pytest.approx(found.metric)


def test_weights_come_near_the_best_there_are():
    """For two unbiased models the best weights are proportional to the inverse error variances: 0.8 and 0.2."""
    logits, target = noisy_models(REGRESSION, [0.5, 1.0], num_rows=20_000)
    weights, _ = select(REGRESSION, "rmse", logits, target, 2)
    assert weights[0] == pytest.approx(0.8, abs=1.5 / NUM_ROUNDS)


def test_no_more_distinct_models_than_asked_for():
    logits, target = noisy_models(CLASSES, [1.0] * 6)
    sizes = [len(select(CLASSES, "log_loss", logits, target, size)[0]) for size in (1, 2, 4, 6)]
    assert sizes[:3] == [1, 2, 4]
    assert sizes[3] > 4


def test_one_model_is_the_best_one():
    logits, target = noisy_models(CLASSES, [2.0, 0.5, 1.0])
    weights, found = select(CLASSES, "accuracy", logits, target, 1)
    assert weights == {1: 1.0}
    assert found.metric == compute_metric(find_metric("accuracy"), CLASSES, logits[1], target)


def test_of_equals_the_smaller_ensemble():
    [logits], target = noisy_models(CLASSES, [1.0])
    assert select(CLASSES, "log_loss", [logits, logits.clone(), logits.clone()], target, 3)[0] == {0: 1.0}


def test_a_useless_model_stays_outside():
    logits, target = noisy_models(CLASSES, [0.3, 0.3])
    wrong = torch.from_numpy(np.eye(3, dtype=np.float32)[(target + 1) % 3]) * 50
    weights, _ = select(CLASSES, "log_loss", [wrong, *logits], target, 3)
    assert 0 not in weights


def test_it_ends_when_time_is_up():
    logits, target = noisy_models(CLASSES, [1.0, 1.0, 1.0])
    asked = []
    weights, _ = select(CLASSES, "accuracy", logits, target, 3, out_of_time=lambda: bool(asked.append(1)) or len(asked) > 2)
    assert len(asked) == 3
    assert sum(weights.values()) == pytest.approx(1)
