"""Checkpoints of a trial: a folder each, named by its segment and epoch, complete or absent, checksummed, without pickle.

checkpoints/000-0003.000/   model.safetensors        weights
(segment and epoch)         predictions.safetensors  logits of the validation rows, from which ensembles are chosen
                            train_state.json         the EpochResult, and the optimizer's plain values
                            train_state.safetensors  the optimizer's tensors; only the newest keep it
                            MANIFEST.json            SHA-256 of the files above
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import CorruptFile
from ..files import MANIFEST, check_files, manifest_of, read_json, write_json
from .loop import EpochResult, TrainState

WEIGHTS, PREDICTIONS, STATE, STATE_TENSORS = "model.safetensors", "predictions.safetensors", "train_state.json", "train_state.safetensors"
LOGITS = "logits"


def result_to_json(result: EpochResult) -> dict[str, Any]:
    """JSON has no nan: None stands for it."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in asdict(result).items()}


def result_from_json(values: Mapping[str, Any]) -> EpochResult:
    fields: dict[str, Any] = {key: math.nan if value is None and key != "end" else value for key, value in values.items()}
    return EpochResult(**fields)


def save_weights(model: nn.Module, path: Path) -> None:
    save_file({key: value.detach().contiguous() for key, value in model.state_dict().items()}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads weights of exactly this model.

    Raises:
        CorruptFile: the file does not hold them.
    """
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:  # safetensors has its own error type, load_state_dict raises RuntimeError
        raise CorruptFile(f"{path} does not hold this model's weights: {type(error).__name__}: {error}") from None


def checkpoint_name(result: EpochResult) -> str:
    """Names sort in the order of writing; a new segment may go back in epochs."""
    return f"{result.segment:03d}-{result.epoch:08.3f}"


def save_checkpoint(folder: Path, state: TrainState, result: EpochResult) -> Path:
    """Writes the checkpoint's folder under a temporary name and renames it when it is whole.

    Validation logits that would take more room than the weights (many rows times many classes) are left out; who wants them predicts again.
    """
    final = folder / checkpoint_name(result)
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    optimizer = state.optimizer.state_dict()
    tensors = {f"{index}.{name}": value for index, slots in optimizer["state"].items() for name, value in slots.items()}
    save_weights(state.model, temporary / WEIGHTS)
    save_file({name: value.contiguous() for name, value in tensors.items() if isinstance(value, torch.Tensor)}, temporary / STATE_TENSORS)
    best_score = state.best_score if math.isfinite(state.best_score) else None  # JSON has no infinity either
    position = {"step": state.step, "best_score": best_score, "validations_since_best": state.validations_since_best, "seconds": state.seconds}
    # some of timm's optimizers count their steps in a tensor there, and take a number back
    groups = [{key: value.item() if isinstance(value, torch.Tensor) else value for key, value in group.items()} for group in optimizer["param_groups"]]
    write_json(temporary / STATE, {"result": result_to_json(result), "position": position, "param_groups": groups}, sync=False)
    names = [WEIGHTS, STATE, STATE_TENSORS]
    if state.valid_logits is not None and state.valid_logits.nbytes <= (temporary / WEIGHTS).stat().st_size:
        save_file({LOGITS: state.valid_logits.contiguous()}, temporary / PREDICTIONS)
        names.append(PREDICTIONS)
    write_json(temporary / MANIFEST, manifest_of(temporary, names), sync=False)
    _remove(final)
    os.replace(temporary, final)
    return final


def load_checkpoint(path: Path, state: TrainState) -> EpochResult:
    """Restores a state in place from a checkpoint that still has its optimizer.

    Raises:
        CorruptFile: a file is absent, damaged, or another model's.
    """
    check_checkpoint(path)
    stored = read_json(path / STATE)
    load_weights(state.model, path / WEIGHTS)
    slots: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    for key, value in load_file(path / STATE_TENSORS).items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        # the fused optimizers walk raw memory: a state must lie in memory the way its weight does
        slots.setdefault(int(index), {})[name] = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
    state.optimizer.load_state_dict({"state": slots, "param_groups": stored["param_groups"]})
    for key, value in stored["position"].items():
        setattr(state, key, -math.inf if value is None else value)
    result = result_from_json(stored["result"])
    state.segment = result.segment
    return result


def newest_checkpoint(folder: Path, resumable: bool = True) -> tuple[Path, EpochResult] | None:
    """The newest intact checkpoint and its result; damaged ones are passed over.

    Args:
        resumable: only those that still have their optimizer.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            check_checkpoint(path)
            if (path / STATE_TENSORS).exists() or not resumable:
                return path, result_from_json(read_json(path / STATE)["result"])
        except (CorruptFile, OSError):
            continue
    return None


def inherit_checkpoint(source: Path, folder: Path, segment: int) -> EpochResult:
    """Makes another trial's checkpoint the start of a new segment. Its tensors are linked, not copied, where the file system can.

    Raises:
        CorruptFile, OSError: the source is damaged, or has gone meanwhile.
    """
    stored = read_json(source / STATE)
    result = replace(result_from_json(stored["result"]), segment=segment, end=None)
    final = folder / checkpoint_name(result)
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name in (WEIGHTS, STATE_TENSORS):
        try:
            os.link(source / name, temporary / name)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(source / name, temporary / name)
    write_json(temporary / STATE, stored | {"result": result_to_json(result), "inherited": True}, sync=False)
    write_json(temporary / MANIFEST, manifest_of(temporary, (WEIGHTS, STATE, STATE_TENSORS)), sync=False)
    _remove(final)
    os.replace(temporary, final)
    return result


def is_inherited(path: Path) -> bool:
    return bool(read_json(path / STATE).get("inherited"))


def check_checkpoint(path: Path) -> None:
    """Raises:
    CorruptFile
    """
    if not (path / MANIFEST).is_file():
        raise CorruptFile(f"{path} has no {MANIFEST}")
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or not {WEIGHTS, STATE} <= set(manifest):
        raise CorruptFile(f"{path / MANIFEST} does not list {WEIGHTS} and {STATE}")
    check_files({name: path / name for name in manifest}, manifest)


def load_predictions(path: Path) -> torch.Tensor | None:
    """(N, num_outputs) float32: the validation logits of a checkpoint that was checked; None where it keeps none.

    Raises:
        CorruptFile: the file holds something else.
    """
    if PREDICTIONS not in read_json(path / MANIFEST):
        return None
    try:
        return load_file(path / PREDICTIONS)[LOGITS]
    except Exception as error:  # safetensors has its own error type
        raise CorruptFile(f"{path / PREDICTIONS} does not hold predictions: {type(error).__name__}: {error}") from None


def list_checkpoints(folder: Path) -> list[Path]:
    """Oldest first; unfinished ones are not among them."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith(".")) if folder.is_dir() else []


def prune_checkpoints(folder: Path, num_best: int, num_states: int) -> None:
    """Keeps the newest ``num_states`` resumable, of the others the best ``num_best`` without their optimizer, and no more."""
    for leftover in folder.glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)
    checkpoints = list_checkpoints(folder)
    newest = checkpoints[len(checkpoints) - num_states :]
    best = sorted(checkpoints, key=_rank, reverse=True)[:num_best]
    for path in checkpoints:
        if path in newest:
            continue
        if path in best:
            _strip(path)
        else:
            _remove(path)


def _rank(path: Path) -> tuple[float, float]:
    try:
        stored = read_json(path / STATE)
        # an inherited one is its parent's achievement, and has no row here
        return (-math.inf, -math.inf) if stored.get("inherited") else result_from_json(stored["result"]).rank
    except (CorruptFile, OSError, KeyError, TypeError):
        return -math.inf, -math.inf


def _strip(path: Path) -> None:
    """Drops the optimizer; the manifest forgets it first, so that the checkpoint is whole at every moment."""
    if (path / STATE_TENSORS).exists():
        manifest = read_json(path / MANIFEST)
        manifest.pop(STATE_TENSORS, None)
        write_json(path / MANIFEST, manifest, sync=False)
        (path / STATE_TENSORS).unlink()


def _remove(path: Path) -> None:
    """Renames before deleting, so that no half-deleted checkpoint ever bears a checkpoint's name."""
    doomed = path.with_name(f".{path.name}.old")
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, doomed)
        shutil.rmtree(doomed)
