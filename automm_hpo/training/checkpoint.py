"""Writes a training state to a checkpoint, and reads it back."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import CorruptFile
from ..files import MANIFEST, manifest_of, read_json, room_needed, write_json
from .checkpoint_folder import (
    FROZEN,
    PREDICTIONS,
    STATE,
    STATE_TENSORS,
    WEIGHTS,
    begin_checkpoint,
    check_checkpoint,
    finish_checkpoint,
    share_frozen,
    weights_bytes,
)
from .result import EpochResult, result_from_json, result_to_json
from .state import TrainState

LOGITS = "logits"
POSITION = ("step", "best_score", "validations_since_best", "seconds", "total_steps")  # fields of a TrainState
LEARNING = "model."  # prefix for names of trained weights; names of the optimizer's tensors begin with numbers


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Saves tensors to a file with the usual permissions; safetensors by itself makes files that only their owner can read.

    Raises:
        DiskFull
    """
    with room_needed(path, sum(value.nbytes for value in tensors.values())):
        path.touch()
        mode = path.stat().st_mode  # as given by the process's umask
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)  # safetensors accepts contiguous tensors only
    if path.stat().st_mode != mode:  # a mounted disk may have one mode for all files, and refuse chmod
        path.chmod(mode)


def save_weights(model: nn.Module, path: Path) -> None:
    save_tensors(model.state_dict(), path)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights in a file or in a checkpoint's folder."""
    if path.is_file():
        return load_file(path)
    return load_file(path / WEIGHTS) | (load_file(path / FROZEN) if (path / FROZEN).exists() else {})


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads weights, which must be exactly this model's.

    Args:
        path: a file, or a checkpoint's folder.

    Raises:
        CorruptFile: they are not this model's weights.
    """
    try:
        model.load_state_dict(read_weights(path))
    except Exception as error:  # safetensors has its own error type, load_state_dict raises RuntimeError
        raise CorruptFile(f"{path} does not hold this model's weights: {type(error).__name__}: {error}") from None


def digest_weights(model: nn.Module) -> str:
    """16 hex digits that identify weights by name and value."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class Snapshot:
    """The part of a training state that a checkpoint holds.

    Attributes:
        weights: weights of the predictor (``TrainState.predictor``), without the frozen ones.
        frozen: the predictor's weights that training never changes, so that they need no copy.
        tensors: the optimizer's, named ``<parameter number>.<name>``, and the trained weights if their average predicts; None if not resumable.
        values: everything else, for JSON.
        logits: (N, num_outputs) of the validation rows.
    """

    weights: Mapping[str, torch.Tensor]
    frozen: Mapping[str, torch.Tensor]
    tensors: Mapping[str, torch.Tensor] | None
    values: Mapping[str, Any]
    logits: torch.Tensor | None


def take_snapshot(state: TrainState, copy: bool = False, resumable: bool = True) -> Snapshot:
    """Takes a snapshot of a state. All but the frozen weights are on the CPU.

    Args:
        copy: copies tensors, because the state will change before the snapshot is written.
        resumable: includes the tensors needed to resume, which are most of the snapshot.
    """
    optimizer, predicting = state.optimizer.state_dict(), state.predictor.state_dict()
    frozen = _frozen_names(state.model)
    tensors = {f"{index}.{name}": value for index, slots in optimizer["state"].items() for name, value in slots.items() if isinstance(value, torch.Tensor)}
    if state.average is not None:  # the average predicts; the trained weights are needed only to resume
        tensors |= {f"{LEARNING}{name}": value for name, value in state.model.state_dict().items() if name not in frozen}
    best_score = state.best_score if math.isfinite(state.best_score) else None  # JSON has no infinity
    position = {name: getattr(state, name) for name in POSITION} | {"best_score": best_score}
    # some of timm's optimizers count steps in a tensor there, and accept a number in its place
    groups = [{key: value.item() if isinstance(value, torch.Tensor) else value for key, value in group.items()} for group in optimizer["param_groups"]]

    def on_cpu(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.detach().to("cpu", copy=copy, non_blocking=True) for name, value in values.items()}

    weights = on_cpu({name: value for name, value in predicting.items() if name not in frozen})
    learning = on_cpu(tensors) if resumable else None
    if (device := next(state.model.parameters()).device).type == "cuda":
        torch.cuda.synchronize(device)  # one wait for hundreds of copies
    values = {"position": position, "param_groups": groups, "scaler": state.scaler.state_dict()}  # the scaler's is empty if it is off
    return Snapshot(weights, {name: predicting[name] for name in frozen}, learning, values, state.valid_logits)


def _frozen_names(model: nn.Module) -> set[str]:
    """The weights that training never changes; they are equal to their average."""
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}


def save_checkpoint(folder: Path, state: TrainState, result: EpochResult) -> Path:
    """Writes a checkpoint of the current state; see ``write_checkpoint``."""
    return write_checkpoint(folder, take_snapshot(state), result)


def write_checkpoint(folder: Path, snapshot: Snapshot, result: EpochResult) -> Path:
    """Writes a checkpoint's folder under a temporary name, and renames it when it is complete.

    Validation logits that are larger than the weights (many rows times many classes) are left out, and predicted again when needed.
    """
    temporary = begin_checkpoint(folder, result)
    save_tensors(snapshot.weights, temporary / WEIGHTS)
    write_json(temporary / STATE, {"result": result_to_json(result), **snapshot.values}, sync=False)
    names, shared = [WEIGHTS, STATE], share_frozen(folder, temporary) if snapshot.frozen else {}
    if snapshot.frozen and not shared:
        save_tensors(snapshot.frozen, temporary / FROZEN)
        names.append(FROZEN)
    if snapshot.tensors is not None:
        save_tensors(snapshot.tensors, temporary / STATE_TENSORS)
        names.append(STATE_TENSORS)
    if snapshot.logits is not None and snapshot.logits.nbytes <= weights_bytes(temporary):
        save_tensors({LOGITS: snapshot.logits}, temporary / PREDICTIONS)
        names.append(PREDICTIONS)
    write_json(temporary / MANIFEST, manifest_of(temporary, names) | shared, sync=False)
    return finish_checkpoint(temporary, result)


def load_checkpoint(path: Path, state: TrainState) -> EpochResult:
    """Restores a state in place from a checkpoint that still has its optimizer.

    Raises:
        CorruptFile: a file is missing, damaged, or another model's.
    """
    check_checkpoint(path)
    stored = read_json(path / STATE)
    load_weights(state.predictor, path)
    tensors = load_file(path / STATE_TENSORS)
    if state.average is not None:
        learning = {name.removeprefix(LEARNING): tensors.pop(name) for name in list(tensors) if name.startswith(LEARNING)}
        average = state.predictor.state_dict()
        state.model.load_state_dict({name: average[name] for name in _frozen_names(state.model)} | learning)
    slots: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        # fused optimizers walk raw memory, so their state must have the memory layout of its weight
        slots.setdefault(int(index), {})[name] = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
    state.optimizer.load_state_dict({"state": slots, "param_groups": stored["param_groups"]})
    if stored["scaler"]:
        state.scaler.load_state_dict(stored["scaler"])
    for name in POSITION:
        value = stored["position"][name]
        setattr(state, name, -math.inf if value is None else value)
    result = result_from_json(stored["result"])
    state.segment = result.segment
    return result


def load_predictions(path: Path) -> torch.Tensor | None:
    """(N, num_outputs) float32: the validation logits of a verified checkpoint; None if it has none.

    Raises:
        CorruptFile: the file holds something else.
    """
    if PREDICTIONS not in read_json(path / MANIFEST):
        return None
    try:
        return load_file(path / PREDICTIONS)[LOGITS]
    except Exception as error:  # safetensors has its own error type
        raise CorruptFile(f"{path / PREDICTIONS} does not hold predictions: {type(error).__name__}: {error}") from None
