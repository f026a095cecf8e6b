import math
from dataclasses import replace

import pytest
import torch

from automm_hpo.config import Optim
from automm_hpo.training.checkpoint import load_checkpoint, save_checkpoint
from automm_hpo.training.checkpoint_folder import checkpoint_name
from automm_hpo.training.loop import num_validations
from automm_hpo.training.result import EpochResult

RESULT = EpochResult(1.0, 4, 0.5, 0.5, 1.0, 1.0, 0.1, 2.0)


def comparable(result):
    return replace(result, seconds=0.0)


def weights(state):
    return {key: value.clone() for key, value in state.model.state_dict().items()}


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"optim__optim_type": "sgd", "optim__lr": 0.05},
        {"model__timm_image__drop_rate": 0.5, "optim__val_check_interval": 0.5},
        {"env__per_gpu_batch_size": 4, "optim__lr_schedule": "linear_decay"},
        {"model__timm_image__trainable": "head", "optim__ema_decay": 0.9},
        pytest.param({"env__precision": "16-mixed", "optim__lr": 0.03}, marks=pytest.mark.slow),  # slow, because a CPU has to emulate it
    ],
    ids=["adamw", "sgd", "dropout and half epochs", "accumulation", "frozen and averaged", "float16"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(trial, tmp_path, overrides):
    one = trial(**overrides)
    whole = one.state()
    expected = [comparable(result) for result in one.epochs(whole)]

    interrupted = one.state()
    first = next(one.epochs(interrupted))
    path = save_checkpoint(tmp_path, interrupted, first)
    torch.manual_seed(12345)  # the global random state in between must not matter
    resumed = one.state()
    restored = load_checkpoint(path, resumed)
    rest = [comparable(result) for result in one.epochs(resumed)]

    assert restored == first
    assert [comparable(first), *rest] == expected
    assert all(torch.equal(value, weights(whole)[key]) for key, value in weights(resumed).items())


def test_the_same_seed_repeats_and_another_differs(trial):
    runs = [[comparable(result) for result in one.epochs(one.state())] for one in (trial(0), trial(0), trial(1))]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_it_learns(trial):
    one = trial(optim__max_epochs=8)
    results = list(one.epochs(one.state()))
    assert results[-1].train_loss < results[0].train_loss
    assert max(result.score for result in results) > 0.6
    assert results[-1].end == "max_epochs"


@pytest.mark.parametrize(
    ("interval", "positions"),
    [(1.0, [1, 2]), (0.5, [0.5, 1, 1.5, 2]), (0.25, [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2]), (0.01, 8), (2, [0.5, 1, 1.5, 2]), (50, [1, 2])],
)
def test_validations_are_spread_evenly(trial, interval, positions):
    one = trial(optim__max_epochs=2, optim__val_check_interval=interval)
    found = [result.epoch for result in one.epochs(one.state())]
    assert found == positions if isinstance(positions, list) else len(found) == positions


def test_max_steps_ends_within_an_epoch(trial):
    one = trial(optim__max_steps=6)
    assert [(result.step, result.end) for result in one.epochs(one.state())] == [(4, None), (6, "max_epochs")]


def test_patience_counts_validations_without_gain(trial):
    one = trial(optim__lr=1e-12, optim__max_epochs=50, optim__patience=3)
    results = list(one.epochs(one.state()))
    assert results[-1].end == "patience"
    assert len(results) < 20


def test_being_interrupted_costs_no_patience(trial, tmp_path):
    """A validation at an interrupted step is one that an uninterrupted training does not have."""
    one = trial(optim__lr=1e-12, optim__max_epochs=50, optim__patience=3)
    state = one.state()
    for _ in range(3):
        [cut] = one.epochs(state, lambda epoch, ahead: "interrupted")
        assert cut.end == "interrupted"
        path, state = save_checkpoint(tmp_path, state, cut), one.state()
        load_checkpoint(path, state)
    results = list(one.epochs(state))
    assert [result.epoch for result in results] == [1.0, 2.0, 3.0]  # the first interrupted validation was the best
    assert results[-1].end == "patience"


def test_divergence_is_seen_within_one_validation(trial):
    one = trial(optim__lr=1e30, optim__gradient_clip_val=0, optim__warmup_steps=0)
    results = list(one.epochs(one.state()))
    assert results[-1].end == "diverged"
    assert math.isnan(results[-1].score)
    assert len(results) <= 2


def test_a_stop_validates_what_was_trained(trial):
    one = trial()
    results = list(one.epochs(one.state(), lambda epoch, ahead: "time_limit"))
    assert [(result.step, result.end) for result in results] == [(1, "time_limit")]
    assert math.isfinite(results[0].score)


def test_accumulation_takes_the_same_steps(trial):
    # a transformer, because batch norm would see other batches
    overrides = {"model__timm_image__checkpoint_name": "test_vit", "model__timm_image__train_transforms": [], "optim__max_epochs": 2}
    whole, parts = trial(**overrides), trial(**overrides, env__per_gpu_batch_size=3)
    for expected, found in zip(whole.epochs(whole.state()), parts.epochs(parts.state()), strict=True):
        assert found.valid_loss == pytest.approx(expected.valid_loss, rel=1e-3)


def test_fewer_rows_than_a_batch(trial):
    one = trial(env__batch_size=128, optim__max_epochs=2)
    assert [result.step for result in one.epochs(one.state())] == [1, 2]


class Clock:
    """A should_stop for which each step takes a second and a validation nothing."""

    def __init__(self, state, seconds):
        self.state, self.seconds = state, seconds

    def __call__(self, epoch, ahead):
        return "time_limit" if self.state.step + ahead > self.seconds else None


def test_where_time_is_short_the_schedule_ends_with_it(trial, monkeypatch):
    one = trial(optim__max_epochs=100, optim__patience=100)  # 400 steps
    state = one.state()
    monkeypatch.setattr("automm_hpo.training.pace.StepClock", SteadyClock)
    results = list(one.epochs(state, Clock(state, 40)))
    assert results[-1].end == "time_limit"
    assert 34 <= results[-1].step <= 40  # some of the time is for validating
    assert results[1].lr > 0.5 * one.config.optim.lr
    assert results[-1].lr < 0.02 * one.config.optim.lr
    assert [result.lr for result in results[1:]] == sorted([result.lr for result in results[1:]], reverse=True)


def test_where_time_is_not_short_nothing_changes(trial, monkeypatch):
    one = trial()
    expected = [comparable(result) for result in one.epochs(one.state())]
    monkeypatch.setattr("automm_hpo.training.pace.StepClock", SteadyClock)
    state = one.state()
    assert [comparable(result) for result in one.epochs(state, Clock(state, 1_000))] == expected


class SteadyClock:
    """A clock on which each step takes a second."""

    seconds, steps, waits_for_compiler = 1.0, 0, False

    def start(self):
        pass

    def settle(self):
        pass

    def tick(self):
        self.steps += 1
        return self.steps >= 4


def test_rows_that_do_not_fit_go_in_smaller_parts(trial, monkeypatch):
    # simulated, because the device's refusal cannot be provoked here
    overrides = {"model__timm_image__checkpoint_name": "test_vit", "model__timm_image__train_transforms": []}
    one = trial(**overrides)
    expected = list(one.epochs(one.state()))
    state = one.state()
    fits, answer, asked = 4, state.model.training_logits, []

    def small_memory(batch):
        asked.append(len(batch))
        if len(batch) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(batch)

    monkeypatch.setattr(state.model, "training_logits", small_memory)
    found = list(one.epochs(state))
    assert asked[:6] == [10, 5, 3, 3, 2, 2]
    assert set(asked[6:]) == {3, 2}
    assert state.micro_batch_size == 3
    for one_result, other in zip(found, expected, strict=True):
        assert one_result.step == other.step
        assert one_result.valid_loss == pytest.approx(other.valid_loss, rel=1e-3)


@pytest.mark.parametrize("rows", [9, 2, 1])
def test_no_row_of_a_batch_is_left_alone(trial, rows):
    """Batch norm refuses a single value, which has no variance."""
    one = trial(
        env__per_gpu_batch_size=rows, env__batch_size=10 if rows == 9 else 9, model__timm_image__checkpoint_name="mobilenetv3_small_050", optim__max_epochs=1
    )
    assert [result.step for result in one.epochs(one.state())] == [4]


def test_a_library_whose_memory_is_full_is_asked_for_less(trial, monkeypatch):
    one = trial(optim__max_epochs=1)
    state = one.state()
    answer = state.model.training_logits

    def small_memory(batch):
        if len(batch) > 5:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return answer(batch)

    monkeypatch.setattr(state.model, "training_logits", small_memory)
    assert [result.step for result in one.epochs(state)] == [4]
    assert state.micro_batch_size == 5


def test_parts_of_a_batch_add_to_gradients_that_no_recorded_graph_overwrites(trial, monkeypatch):
    """The gradients that a CUDA graph computes lie in the graph's own memory."""
    one = trial(env__per_gpu_batch_size=5, optim__max_epochs=1, model__timm_image__train_transforms=[])
    expected = [result.valid_loss for result in one.epochs(one.state())]
    state, held = one.state(), []
    answer = state.model.training_logits

    def look(batch):
        held.append(all(weight.grad is not None for weight in state.model.parameters()))
        return answer(batch)

    monkeypatch.setattr(state.model, "training_logits", look)
    monkeypatch.setattr("automm_hpo.training.gradients.records_graphs", lambda env, device: True)
    assert [result.valid_loss for result in one.epochs(state)] == pytest.approx(expected, rel=1e-5)
    assert held == [True] * 8


def test_a_row_that_does_not_fit_is_an_error(trial, monkeypatch):
    one = trial()
    state = one.state()

    def no_memory(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(state.model, "training_logits", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        list(one.epochs(state))


@pytest.mark.parametrize("steps", [1, 7, 499, 500, 501, 750, 999, 1_000, 1_001, 1_499, 20_011])
@pytest.mark.parametrize("interval", [1.0, 0.3, 0.002, 0.0005, 1e-9])
def test_no_two_validations_name_their_checkpoints_alike(steps, interval):
    """Otherwise the best epoch would have another epoch's weights."""
    count = num_validations(Optim(val_check_interval=interval), steps)
    due = [step for step in range(1, steps + 1) if step * count // steps > (step - 1) * count // steps]
    assert len(due) == count
    assert len({checkpoint_name(replace(RESULT, epoch=3 + step / steps)) for step in due}) == count


def test_a_cut_just_after_a_validation_has_a_name_of_its_own():
    names = {checkpoint_name(replace(RESULT, epoch=step / 4_000, step=step)) for step in range(3_990, 4_010)}
    assert len(names) == 20
    assert sorted(names) == [checkpoint_name(replace(RESULT, epoch=step / 4_000, step=step)) for step in range(3_990, 4_010)]


def test_float16_halves_its_scale_and_leaves_out_a_step_that_overflows(trial):
    one = trial(env__precision="16-mixed")
    state = one.state()
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    before = weights(state)
    next(one.epochs(state))
    assert state.scaler.get_scale() == 2.0**96  # halved at each of four steps
    parameters = dict(state.model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in parameters.items())


def test_sgd_survives_a_first_step_that_overflows(trial):
    """torch's fused kernel skips such a step, but left the momentum as uninitialised memory, which the next step took for the momentum."""
    one = trial(env__precision="16-mixed", optim__optim_type="sgd", optim__lr=1e-3)
    state = one.state()
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, backoff_factor=2.0**-90)
    held = [torch.full((2**20,), math.nan) for _ in range(8)]
    del held  # what is allocated next may have its content
    results = list(one.epochs(state))
    assert state.scaler.get_scale() == 2.0**10
    assert all(math.isfinite(result.valid_loss) for result in results)
    assert all(value.isfinite().all() for value in weights(state).values())


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped(trial, algorithm, monkeypatch):
    one = trial(optim__gradient_clip_algorithm=algorithm, optim__gradient_clip_val=1e-3, optim__max_epochs=1)
    state, largest = one.state(), []
    step = state.optimizer.step

    def looked_at(*args, **kwargs):
        gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
        largest.append((max(float(each.abs().max()) for each in gradients), float(torch.stack([each.norm() for each in gradients]).norm())))
        return step(*args, **kwargs)

    monkeypatch.setattr(state.optimizer, "step", looked_at)
    list(one.epochs(state))
    values, norms = zip(*largest, strict=True)
    assert max(values) <= 1.001e-3
    assert (max(norms) <= 1.001e-3) == (algorithm == "norm")
