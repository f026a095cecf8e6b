"""What training minimises: weights of rows and classes, mixed labels, and losses that discount easy rows or outliers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from automm_hpo.config import Mixup, Optim
from automm_hpo.data.batch import Batch, TensorCache
from automm_hpo.problem import Problem
from automm_hpo.training.losses import CLASS_LOSSES, build_loss, class_weights, weighted
from automm_hpo.training.mixing import build_mixing

CLASSES = Problem("y", "multiclass", ("a", "b", "c"))
VALUES = Problem("y", "regression")


def rows(target, weight=None) -> TensorCache:
    target = torch.as_tensor(target)
    return TensorCache(torch.zeros(len(target), 0, 0, 0, 3), torch.zeros(len(target), 0), target, weight=torch.ones(len(target)) if weight is None else weight)


def loss_of(problem, logits, target, weight=None, **optim) -> float:
    batch = weighted(rows(target, weight), Optim(**optim), problem).batch(slice(None))
    return float(build_loss(Optim(**optim), problem)([(logits, 1.0)], batch))


def test_weights_count_in_the_loss():
    logits, target = torch.randn(4, 3), [0, 1, 2, 1]
    once = loss_of(CLASSES, logits, target, label_smoothing=0.1)
    assert once == pytest.approx(float(F.cross_entropy(logits, torch.tensor(target), label_smoothing=0.1)))
    only = loss_of(CLASSES, logits, target, torch.tensor([0.0, 4.0, 0.0, 0.0]), label_smoothing=0.1)
    assert only == pytest.approx(loss_of(CLASSES, logits[[1]], [1], label_smoothing=0.1))
    assert loss_of(VALUES, torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 0.0]), torch.tensor([2.0, 0.0])) == 1


@pytest.mark.parametrize("given", ["balanced", (1.0, 5.0, 2.0)])
def test_class_weights_are_1_on_average_over_the_rows(given):
    target = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = class_weights(given, CLASSES, rows(target))
    assert weights[target].mean() == pytest.approx(1)
    ratio = weights / weights[0]
    assert ratio.tolist() == pytest.approx([1, 2, 6] if given == "balanced" else [1, 5, 2])
    assert class_weights(None, CLASSES, rows(target)) is None


def test_a_class_without_rows_has_no_weight():
    assert class_weights("balanced", CLASSES, rows([0, 2])).tolist() == [1, 0, 1]


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_shares_of_classes_that_are_whole_are_those_classes(name):
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    compute, optim = CLASS_LOSSES[name], Optim()
    assert torch.allclose(compute(logits, target, optim), compute(logits, F.one_hot(target, 3).float(), optim), atol=1e-6)


def test_focal_loss_looks_away_from_what_is_right():
    logits, target = torch.tensor([[4.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 0])
    plain, focal = (CLASS_LOSSES[name](logits, target, Optim()) for name in ("cross_entropy", "focal_loss"))
    assert focal[0] / plain[0] < 0.01 < 0.3 < focal[1] / plain[1] < 1
    assert torch.allclose(CLASS_LOSSES["focal_loss"](logits, target, Optim(focal_loss={"gamma": 0})), plain, atol=1e-5)


def test_losses_of_numbers_mind_the_far_off_less():
    logits, target = torch.tensor([[0.0], [0.0]]), torch.tensor([0.1, 10.0])
    mse, mae, huber = (loss_of(VALUES, logits, target, loss_func=name) for name in ("mse", "mae", "huber"))
    assert huber < mae < mse


# ------------------------------------------------------------------------------------------------------------------- mixing


def pictures() -> Batch:
    """Eight images, each of one grey, and their classes."""
    greys = torch.tensor([0, 100, 200, 0, 100, 200, 0, 100], dtype=torch.uint8)
    return Batch(greys.view(8, 1, 1, 1, 1).expand(8, 1, 3, 8, 8), torch.ones(8, 1, dtype=torch.bool), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))


def mixed(epoch=0, seed=0, **mixup) -> Batch:
    torch.manual_seed(seed)
    return build_mixing(Mixup(turn_on=True, label_smoothing=0.0, **mixup), CLASSES)(pictures(), epoch)


def test_mixup_mixes_greys_and_labels_by_the_same_shares():
    batch = mixed(cutmix_alpha=0.0, mixup_alpha=5.0)
    grey_of_class = torch.tensor([0.0, 100.0, 200.0])
    assert torch.allclose(batch.images.mean((1, 2, 3, 4)), batch.target @ grey_of_class, atol=1e-3)
    assert torch.allclose(batch.target.sum(1), torch.ones(8))
    assert (batch.target.max(1).values < 0.99).any()


def test_cutmix_replaces_an_area_and_as_much_of_the_label():
    found = [mixed(mixup_alpha=0.0, seed=seed) for seed in range(8)]
    grey_of_class = torch.tensor([0.0, 100.0, 200.0])
    for batch in found:
        assert set(batch.images.unique().tolist()) <= {0.0, 100.0, 200.0}
        assert torch.allclose(batch.images.mean((1, 2, 3, 4)), batch.target @ grey_of_class, atol=1e-3)
    assert any((batch.target.max(1).values < 0.99).any() for batch in found)


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_the_label_of_a_row_that_weighs_nothing_is_not_mixed_in(kind):
    weight = torch.tensor([1.0, 0.0, 3.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    torch.manual_seed(0)
    batch = build_mixing(Mixup(turn_on=True, label_smoothing=0.0, **{kind: 0.0}), CLASSES)(replace(pictures(), weight=weight), 0)
    share = mixed(**{kind: 0.0}).target[0, 0]  # a row's own share in the same draw; the rest comes from the row before it
    assert torch.allclose(batch.weight, share * weight + (1 - share) * weight.roll(1), atol=1e-5)
    assert batch.target[1].tolist() == [1, 0, 0]  # entirely row 0's label
    assert batch.target[2].tolist() == [0, 0, 1]
    assert torch.allclose(batch.target.sum(1), torch.tensor([1.0] * 7 + [0.0]))
    assert batch.weight[7] == 0


def test_class_weights_count_in_mixed_rows_as_the_rows_own_do():
    """A row that is half of a class with weight 9 and half of one with weight 1 has nine tenths of its pull towards the first."""
    shares, logits = torch.tensor([[9.0, 1.0, 1.0]]), torch.randn(8, 3)
    train = TensorCache(torch.zeros(8, 1, 1, 1, 3), torch.ones(8, 1), pictures().target)
    weight = class_weights((9.0, 1.0, 1.0), CLASSES, train)
    torch.manual_seed(0)
    batch = build_mixing(Mixup(turn_on=True, label_smoothing=0.0, cutmix_alpha=0.0, mixup_alpha=5.0), CLASSES)(
        replace(pictures(), weight=weighted(train, Optim(class_weights=(9.0, 1.0, 1.0)), CLASSES).weight), 0
    )
    plain = mixed(cutmix_alpha=0.0, mixup_alpha=5.0)  # the same draw
    by_hand = (plain.target * weight * -logits.log_softmax(1)).sum(1).mean()
    assert float(build_loss(Optim(), CLASSES)([(logits, 1.0)], batch)) == pytest.approx(float(by_hand), abs=1e-5)
    assert weight[0] / weight[1] == pytest.approx(shares[0, 0])


def test_mixed_rows_are_smoothed_once():
    logits, target = torch.randn(4, 3), torch.eye(3)[[0, 1, 2, 0]]
    for name in CLASS_LOSSES:
        assert torch.equal(CLASS_LOSSES[name](logits, target, Optim(label_smoothing=0.1)), CLASS_LOSSES[name](logits, target, Optim()))


def test_mixing_ends_when_it_is_told_to_and_off_it_does_nothing():
    assert torch.equal(mixed(epoch=5).target, pictures().target)
    assert torch.equal(mixed(prob=0.0).images, pictures().images)
    plain = build_mixing(Mixup(), CLASSES)(pictures(), 0)
    assert torch.equal(plain.images, pictures().images)


def test_mixed_labels_train(trial):
    one = trial(data__mixup__turn_on=True, optim__max_epochs=8, data__mixup__turn_off_epoch=100, data__mixup__prob=0.5)
    results = list(one.epochs(one.state()))
    assert max(result.score for result in results) > 0.6
    plain = trial(optim__max_epochs=8)
    assert results[-1].train_loss > next(plain.epochs(plain.state())).train_loss / 4  # mixed images are never quite right


def test_a_running_average_predicts_and_resumes(trial, tmp_path):
    from automm_hpo.training.checkpoint import load_checkpoint, save_checkpoint
    from automm_hpo.training.evaluate import predict_logits

    one = trial(optim__ema_decay=0.9)
    state = one.state()
    course = one.epochs(state)
    first = next(course)
    assert torch.allclose(state.valid_logits, predict_logits(state.average.module, one.data.valid, one.config.env))
    assert not torch.allclose(state.valid_logits, predict_logits(state.model, one.data.valid, one.config.env))
    path = save_checkpoint(tmp_path, state, first)
    expected = [replace(result, seconds=0.0) for result in course]
    resumed = one.state()
    load_checkpoint(path, resumed)
    assert [replace(result, seconds=0.0) for result in one.epochs(resumed)] == expected
