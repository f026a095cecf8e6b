"""Writing so that a kill at any moment leaves the old or the new, and checksums so that damage is seen."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import CorruptFile, DiskFull

MANIFEST = "MANIFEST.json"


def is_json(value: Any) -> bool:
    """Whether JSON can hold it."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def write_json(path: Path, value: Any, sync: bool = True) -> None:
    """``write_text`` of a value as JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False), sync)


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Writes under a temporary name, flushes to the disk, renames.

    Args:
        sync: False leaves the moment of the flush to the system, where a checksum would find what a power cut tore.

    Raises:
        DiskFull
    """
    temporary = path.with_name(temporary_name(path.name))
    with room_needed(temporary, len(text)), open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)


@contextlib.contextmanager
def room_needed(path: Path, size: int, torn: bool = False) -> Iterator[None]:
    """Within, a file is written.

    Args:
        size: its bytes.
        torn: what was written before there was no room stays; else it is removed, for it is of no use and may be all the room there is.

    Raises:
        DiskFull: there is no room for it.
    """
    try:
        yield
    except Exception as error:  # safetensors has its own error type
        number = error.errno if isinstance(error, OSError) else errno.ENOSPC if f"os error {errno.ENOSPC})" in str(error) else None
        if number != errno.ENOSPC:
            raise
        if not torn:
            path.unlink(missing_ok=True)
        free = free_bytes(path.parent)
        raise DiskFull(f"no room in {path.parent}: {size / 1e6:.3g} MB needed" + ("" if free is None else f", {free / 1e6:.3g} MB free")) from None


def free_bytes(folder: Path) -> int | None:
    """Of the file system that a folder is on, or would be; None where it does not say."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    found = os.statvfs(there)
    free = found.f_bfree if os.geteuid() == 0 else found.f_bavail  # some is kept for root
    return free * found.f_frsize if found.f_blocks else None


def temporary_name(name: str) -> str:
    """What a file is called until it is whole."""
    return f".{name}.tmp"


def read_json(path: Path) -> Any:
    """The value in a file.

    Raises:
        CorruptFile: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFile(f"{path} is damaged: {error}") from None


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """16 hex digits that tell JSON values apart, for the name of a file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def manifest_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """File name -> SHA-256."""
    return {name: sha256(folder / name) for name in names}


def check_files(places: Mapping[str, Path], manifest: Mapping[str, str]) -> None:
    """Compares files with their manifest.

    Args:
        places: name in the manifest -> where that file lies.

    Raises:
        CorruptFile: names the first that is absent or differs.
    """
    for name, expected in manifest.items():
        path = places[name]
        if not path.is_file():
            raise CorruptFile(f"{path} is missing, though the manifest beside it lists it")
        if sha256(path) != expected:
            raise CorruptFile(f"{path} is damaged: its SHA-256 is not the one in the manifest beside it")


def is_predictor(folder: Path) -> bool:
    """Whether the folder holds a committed predictor, whatever its state."""
    return (folder / MANIFEST).is_file() or (folder / f"{MANIFEST}.new").is_file()
