"""The checkpoints of a trial: one folder each, named by segment and epoch, complete or absent, checksummed, without pickle.

This module lists, verifies and prunes them. It needs no torch.

checkpoints/000-0003.000/   model.safetensors        weights that training changes
                            frozen.safetensors       the other weights, if there are any; one file for all checkpoints of a trial and of
                                                     those that take over from it, by hard links
(segment and epoch)         predictions.safetensors  logits of the validation rows, used to select ensembles
                            train_state.json         the EpochResult, and the optimizer's plain values
                            train_state.safetensors  the optimizer's tensors; only in the newest checkpoints, and not once the trial has ended for good
                            MANIFEST.json            SHA-256 of the files above

The checkpoint of a user's objective has only train_state.json, MANIFEST.json, and a folder ``saved`` with what the objective saved.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from ..errors import CorruptFile
from ..files import MANIFEST, check_files, manifest_of, read_json, temporary_name, write_json
from .result import NO_RANK, EpochResult, result_from_json, result_to_json

WEIGHTS, FROZEN, PREDICTIONS = "model.safetensors", "frozen.safetensors", "predictions.safetensors"
STATE, STATE_TENSORS = "train_state.json", "train_state.safetensors"
SAVED = "saved"


def checkpoint_name(result: EpochResult) -> str:
    """The name of a result's checkpoint. ``checkpoint_order`` sorts names in the order of writing; a new segment may go back in epochs.

    Epochs of more than a thousand steps need six decimals instead of three, because they may be cut short one step after a validation.
    """
    digits = 3 if result.step <= 1_000.5 * result.epoch else 6
    return f"{result.segment:03d}-{result.epoch:0{5 + digits}.{digits}f}"


def checkpoint_order(name: str) -> list[tuple[int, str]]:
    """Sort key for names of checkpoints. Shorter numbers come first, because epochs after 9,999 have more digits."""
    return [(len(number), number) for number in name.split("-")]


def newest_checkpoint(folder: Path, is_end: Callable[[str | None], bool] = lambda end: False) -> tuple[Path, EpochResult] | None:
    """The newest intact checkpoint that a trial can resume from, and its result. Skips damaged ones.

    Args:
        is_end: whether the ``end`` of a result is final, so that its checkpoint needs no optimizer.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            check_checkpoint(path)
            result = result_from_json(read_json(path / STATE)["result"])
            if (path / STATE_TENSORS).exists() or is_end(result.end):
                return path, result
        except (CorruptFile, OSError):
            continue
    return None


def begin_checkpoint(folder: Path, result: EpochResult) -> Path:
    """Creates an empty folder under a temporary name, to be filled and passed to ``finish_checkpoint``. Unfinished ones are pruned."""
    unfinished = folder / temporary_name(checkpoint_name(result))
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def finish_checkpoint(unfinished: Path, result: EpochResult) -> Path:
    """Gives a complete checkpoint its final name, replacing any checkpoint of that name."""
    final = unfinished.with_name(checkpoint_name(result))
    remove_checkpoint(final)
    return unfinished.rename(final)


def inherit_checkpoint(source: Path, folder: Path, segment: int) -> EpochResult:
    """Makes another trial's checkpoint the start of a new segment. Files of tensors are shared.

    Raises:
        CorruptFile, OSError: the source is damaged, or was removed meanwhile.
    """
    stored = read_json(source / STATE)
    result = replace(result_from_json(stored["result"]), segment=segment, end=None)
    temporary = begin_checkpoint(folder, result)
    names = [WEIGHTS, *([FROZEN] if (source / FROZEN).exists() else []), STATE_TENSORS]
    for name in names:
        share_file(source / name, temporary / name)
    write_json(temporary / STATE, stored | {"result": result_to_json(result), "inherited": True}, sync=False)
    write_json(temporary / MANIFEST, manifest_of(temporary, [*names, STATE]), sync=False)
    finish_checkpoint(temporary, result)
    return result


def share_file(source: Path, target: Path) -> None:
    """Hard-links a file that never changes, or copies it if the file system has no links.

    Raises:
        OSError
    """
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def share_frozen(folder: Path, unfinished: Path) -> dict[str, str]:
    """Gives an unfinished checkpoint the frozen weights of the newest checkpoint in the folder, if they are there and intact.

    Returns:
        The file's entry in the manifest; nothing if there is no such file.
    """
    if not (checkpoints := list_checkpoints(folder)):
        return {}
    try:
        entry = {FROZEN: read_json(checkpoints[-1] / MANIFEST)[FROZEN]}
        share_file(checkpoints[-1] / FROZEN, unfinished / FROZEN)
        check_files({FROZEN: unfinished / FROZEN}, entry)
    except (CorruptFile, OSError, KeyError, TypeError):
        (unfinished / FROZEN).unlink(missing_ok=True)
        return {}
    return entry


def weights_bytes(path: Path) -> int:
    """The size of a checkpoint's weights; 0 if it has none."""
    return sum(file.stat().st_size for file in (path / WEIGHTS, path / FROZEN) if file.exists())


def is_inherited(path: Path) -> bool:
    return bool(read_json(path / STATE).get("inherited"))


def check_checkpoint(path: Path, needed: Collection[str] = (WEIGHTS, STATE)) -> None:
    """Verifies a checkpoint against its manifest.

    Raises:
        CorruptFile: a file is damaged or missing, or the manifest does not list what is needed.
    """
    if not (path / MANIFEST).is_file():
        raise CorruptFile(f"{path} has no {MANIFEST}")
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or not manifest.keys() >= set(needed):
        raise CorruptFile(f"{path / MANIFEST} does not list {' and '.join(needed)}")
    check_files({name: path / name for name in manifest}, manifest)


def list_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints, oldest first."""
    found = [path for path in folder.glob("*") if not path.name.startswith(".")] if folder.is_dir() else []
    return sorted(found, key=lambda path: checkpoint_order(path.name))


def prune_checkpoints(folder: Path, num_best: int, num_states: int) -> None:
    """Keeps the newest ``num_states`` checkpoints resumable, and the best ``num_best`` of all, older ones without their optimizer. Removes the rest."""
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
            remove_checkpoint(path)


def _rank(path: Path) -> tuple[float, float]:
    try:
        stored = read_json(path / STATE)
        # the score of an inherited checkpoint is another trial's
        return NO_RANK if stored.get("inherited") else result_from_json(stored["result"]).rank
    except (CorruptFile, OSError, KeyError, TypeError):
        return NO_RANK


def _strip(path: Path) -> None:
    """Removes the optimizer's tensors, from the manifest first, so that the checkpoint is intact at every moment."""
    if (path / STATE_TENSORS).exists():
        manifest = read_json(path / MANIFEST)
        manifest.pop(STATE_TENSORS, None)
        write_json(path / MANIFEST, manifest, sync=False)
        (path / STATE_TENSORS).unlink()


def remove_checkpoint(path: Path) -> None:
    """Deletes a checkpoint. It is renamed first, so that a half-deleted one never has a checkpoint's name."""
    doomed = path.with_name(f".{path.name}.old")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(doomed)  # of a process that was killed while it deleted one of that name
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, doomed)
        shutil.rmtree(doomed)
