import errno
import math
import os
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError

from automm_hpo.errors import CorruptFile, DiskFull
from automm_hpo.files import MANIFEST
from automm_hpo.training import checkpoint
from automm_hpo.training.checkpoint import load_checkpoint, load_predictions, read_weights, save_checkpoint, save_tensors, take_snapshot, write_checkpoint
from automm_hpo.training.checkpoint_folder import (
    FROZEN,
    STATE_TENSORS,
    check_checkpoint,
    inherit_checkpoint,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    weights_bytes,
)
from automm_hpo.training.evaluate import predict_logits
from automm_hpo.training.result import EpochResult, result_from_json, result_to_json

RESULT = EpochResult(1.0, 4, 0.5, 0.5, 1.0, 1.0, 0.1, 2.0)


@pytest.fixture(scope="module")
def five_saved(tmp_path_factory):
    """(trial, folder) -> the folder with a copy of five checkpoints, which are made only once, and their trial."""
    made = []

    def copied(trial, folder):
        if not made:
            one, there = trial(), tmp_path_factory.mktemp("five")
            state = one.state()
            next(one.epochs(state))
            for epoch, score in enumerate([3.0, 5.0, 1.0, 4.0, 2.0], 1):
                save_checkpoint(there, state, replace(RESULT, epoch=float(epoch), score=score))
            made.append((there, one))
        there, one = made[0]
        return shutil.copytree(there, folder, dirs_exist_ok=True), one

    return copied


@pytest.fixture
def saved(trial, tmp_path, five_saved):
    """A folder with checkpoints of epochs 1 to 5 with scores 3, 5, 1, 4, 2, and their trial."""
    return five_saved(trial, tmp_path)


def test_a_full_disk_is_said_with_the_size_of_the_tensors(tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"torn")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(DiskFull, match=rf"^no room in {tmp_path}: 4 MB needed, [\d.e+]+ MB free$"):
        save_tensors({"weight": torch.zeros(1_000_000)}, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def names(folder):
    return [int(float(path.name.split("-")[1])) for path in list_checkpoints(folder)]


def test_a_result_survives_json():
    assert result_from_json(result_to_json(RESULT)) == RESULT
    assert math.isnan(result_from_json(result_to_json(replace(RESULT, score=math.nan, end="diverged"))).score)


def test_pruning_keeps_the_best_weights_and_the_newest_states(saved):
    folder, _ = saved
    prune_checkpoints(folder, num_best=2, num_states=2)
    assert names(folder) == [2, 4, 5]
    assert [(path / STATE_TENSORS).exists() for path in list_checkpoints(folder)] == [False, True, True]
    for path in list_checkpoints(folder):
        check_checkpoint(path)
    prune_checkpoints(folder, num_best=1, num_states=0)
    assert names(folder) == [2]
    prune_checkpoints(folder, num_best=0, num_states=0)
    assert names(folder) == []


def test_names_of_more_digits_are_newer(saved):
    folder, _ = saved
    for path, name in zip(list_checkpoints(folder), ["000-9999.000", "000-10000.000", "000-10001.000", "999-0001.000", "1000-0001.000"], strict=True):
        path.rename(folder / name)
    assert [path.name for path in list_checkpoints(folder)][-2:] == ["999-0001.000", "1000-0001.000"]
    assert names(folder)[:3] == [9_999, 10_000, 10_001]
    assert newest_checkpoint(folder)[0].name == "1000-0001.000"


@pytest.mark.parametrize("file", ["model.safetensors", "predictions.safetensors", "train_state.safetensors", "train_state.json"])
@pytest.mark.parametrize("damage", ["flip", "zero", "truncate", "remove"])
def test_damage_is_found(saved, file, damage):
    folder, one = saved
    path = list_checkpoints(folder)[0] / file
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    if damage == "flip":
        content[half] ^= 1
    elif damage == "zero":
        content[half:] = bytes(len(content) - half)
    elif damage == "truncate":
        del content[half:]
    path.unlink() if damage == "remove" else path.write_bytes(content)
    with pytest.raises(CorruptFile, match=file):
        load_checkpoint(path.parent, one.state())


def test_another_models_weights_are_refused(saved, trial):
    other = trial(model__timm_image__checkpoint_name="test_vit").state()
    with pytest.raises(CorruptFile, match="does not hold this model's weights"):
        load_checkpoint(list_checkpoints(saved[0])[0], other)


def test_validation_logits_are_kept_with_the_weights(trial, tmp_path):
    one = trial()
    state = one.state()
    for result in one.epochs(state):
        save_checkpoint(tmp_path, state, result)
        made_again = predict_logits(state.model, one.data.valid, one.config.env)
        assert torch.equal(load_predictions(list_checkpoints(tmp_path)[-1]), made_again)
    prune_checkpoints(tmp_path, num_best=1, num_states=0)
    [kept] = list_checkpoints(tmp_path)
    assert load_predictions(kept).dtype == torch.float32


def test_validation_logits_never_take_more_room_than_the_weights(trial, tmp_path):
    one = trial()
    state = one.state()
    result = next(one.epochs(state))
    numbers = sum(value.nbytes for value in state.model.state_dict().values()) // 4
    for name, rows, kept in (("most", numbers // 3, True), ("more", numbers // 3 + 10_000, False), ("none", 0, False)):
        state.valid_logits = torch.zeros(rows, 3) if rows else None
        path = save_checkpoint(tmp_path / name, state, result)
        check_checkpoint(path)
        assert (load_predictions(path) is not None) == kept
        assert (path / "predictions.safetensors").exists() == kept


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_frozen_weights_are_stored_once_a_trial(trial, tmp_path, monkeypatch, ema_decay):
    one = trial(model__timm_image__trainable="head", optim__ema_decay=ema_decay)
    state = one.state()
    name, frozen = next((name, parameter) for name, parameter in state.model.named_parameters() if not parameter.requires_grad)
    for model in (state.model, state.predictor):
        model.get_parameter(name).data.add_(1.0)  # as published weights, which a new state would not have
    for result in one.epochs(state):
        save_checkpoint(tmp_path / "a", state, result)
    checkpoints = list_checkpoints(tmp_path / "a")
    assert {(path / FROZEN).stat().st_ino for path in checkpoints} == {(checkpoints[0] / FROZEN).stat().st_ino}
    assert weights_bytes(checkpoints[0]) > 5 * (checkpoints[0] / "model.safetensors").stat().st_size
    prune_checkpoints(tmp_path / "a", num_best=1, num_states=1)
    inherit_checkpoint(checkpoints[-1], tmp_path / "b", segment=1)
    for path in (*list_checkpoints(tmp_path / "a"), *list_checkpoints(tmp_path / "b")):
        check_checkpoint(path)
        weights = read_weights(path)
        assert weights.keys() == state.model.state_dict().keys()
        assert torch.equal(weights[name], frozen)
    resumed = one.state()
    load_checkpoint(checkpoints[-1], resumed)
    for model, other in ((resumed.model, state.model), (resumed.predictor, state.predictor)):
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())

    def no_links(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = save_checkpoint(tmp_path / "a", state, replace(RESULT, epoch=8.0))
    check_checkpoint(path)
    assert (path / FROZEN).stat().st_nlink == 1


def test_a_checkpoint_may_hold_the_learning_weights_whole(trial, tmp_path):
    """As it did before the frozen ones had a file of their own."""
    one = trial(model__timm_image__trainable="head", optim__ema_decay=0.9)
    state = one.state()
    result = next(one.epochs(state))
    snapshot = take_snapshot(state)
    tensors = {**snapshot.tensors, **{f"model.{name}": value for name, value in state.model.state_dict().items()}}
    path = write_checkpoint(tmp_path, replace(snapshot, weights=state.predictor.state_dict(), frozen={}, tensors=tensors), result)
    assert not (path / FROZEN).exists()
    resumed = one.state()
    load_checkpoint(path, resumed)
    assert all(torch.equal(value, state.model.state_dict()[key]) for key, value in resumed.model.state_dict().items())


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"torn"), lambda path: path.unlink(), lambda path: (path.parent / MANIFEST).write_text("[]")])
def test_damaged_frozen_weights_are_not_handed_on(trial, tmp_path, damage):
    one = trial(model__timm_image__trainable="head")
    state = one.state()
    first, second = (save_checkpoint(tmp_path, state, replace(RESULT, epoch=epoch)) for epoch in (1.0, 2.0))
    assert (first / FROZEN).stat().st_nlink == 2
    damage(second / FROZEN)
    with pytest.raises(CorruptFile):
        check_checkpoint(second)
    third = save_checkpoint(tmp_path, state, replace(RESULT, epoch=3.0))
    check_checkpoint(third)
    assert (third / FROZEN).stat().st_nlink == 1


class Killed(BaseException):
    pass


def test_a_kill_between_any_two_steps_leaves_whole_checkpoints(trial, tmp_path, monkeypatch):
    """The process may die at every rename, unlink and directory creation."""
    one = trial()
    state = one.state()
    next(one.epochs(state))

    def commit(folder):
        for epoch in (1.0, 2.0, 3.0):
            prune_checkpoints(folder, num_best=1, num_states=1)
            save_checkpoint(folder, state, replace(RESULT, epoch=epoch, score=-epoch))
            prune_checkpoints(folder, num_best=1, num_states=2)

    steps = 0
    kill_at = None

    def counted(function):
        def call(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == kill_at:
                raise Killed
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(os, "unlink", counted(os.unlink))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    monkeypatch.setattr(checkpoint, "save_file", counted(checkpoint.save_file))
    commit(tmp_path / "uninterrupted")
    assert names(tmp_path / "uninterrupted") == [1, 2, 3]
    total = steps
    assert total > 20
    for kill_at in range(1, total + 1):
        steps = 0
        folder = tmp_path / str(kill_at)
        with pytest.raises(Killed):
            commit(folder)
        for path in list_checkpoints(folder):
            check_checkpoint(path)
        steps, before = 0, kill_at
        kill_at = None
        commit(folder)  # the next run works in spite of what was left behind
        assert names(folder) == [1, 2, 3]
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        kill_at = before


def test_a_checkpoint_holds_no_shared_or_strided_surprises(saved):
    folder, one = saved
    state = one.state()
    load_checkpoint(list_checkpoints(folder)[-1], state)
    for parameter, slots in state.optimizer.state.items():
        for value in slots.values():
            assert value.shape != parameter.shape or value.stride() == parameter.stride()
    assert torch.isfinite(next(iter(state.model.parameters()))).all()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_whoever_may_read_the_folder_may_read_the_weights(saved, umask):
    folder, one = saved
    before = os.umask(umask)
    try:
        path = save_checkpoint(folder, one.state(), replace(RESULT, epoch=9.0))
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in path.iterdir()} == {oct(0o666 & ~umask)}
