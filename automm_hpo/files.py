"""Atomic writes, so that a kill at any moment leaves either the old file or the new one, and checksums that detect damage."""

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
    """Whether JSON can hold the value; it cannot hold nan and infinity."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def write_json(path: Path, value: Any, sync: bool = True) -> None:
    """Writes a value as JSON, see ``write_text``."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False), sync)


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Writes under a temporary name, flushes to the disk, then renames.

    Args:
        sync: False leaves the flush to the system. For files that a power cut may damage: a checksum would reveal it, or they are easily made again.

    Raises:
        DiskFull: there is no room for the text.
    """
    temporary = path.with_name(temporary_name(path.name))
    with room_needed(temporary, len(text.encode())), open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)


@contextlib.contextmanager
def room_needed(path: Path, size: int, torn: bool = False) -> Iterator[None]:
    """Context for writing a file: an error that means a full disk becomes DiskFull.

    Args:
        size: of the file in bytes, for the message.
        torn: True keeps what was written before the disk was full. False deletes it: it is of no use, and its room may be needed.

    Raises:
        DiskFull: there is no room for the file.
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
    """Free bytes of the file system that a folder is on, or would be on; None if the file system does not report them."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    found = os.statvfs(there)
    free = found.f_bfree if os.geteuid() == 0 else found.f_bavail  # some blocks are reserved for root
    return free * found.f_frsize if found.f_blocks else None


def temporary_name(name: str) -> str:
    """The name of a file until it is complete."""
    return f".{name}.tmp"


def read_json(path: Path) -> Any:
    """Reads the value in a JSON file.

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
    """16 hex digits that identify a JSON value, for names of files."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def manifest_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """File name -> SHA-256."""
    return {name: sha256(folder / name) for name in names}


def check_files(places: Mapping[str, Path], manifest: Mapping[str, str]) -> None:
    """Compares files with their manifest.

    Args:
        places: name in the manifest -> path of the file.

    Raises:
        CorruptFile: a file is missing or differs; the message names the first.
    """
    for name, expected in manifest.items():
        path = places[name]
        if not path.is_file():
            raise CorruptFile(f"{path} is missing, though the manifest beside it lists it")
        if sha256(path) != expected:
            raise CorruptFile(f"{path} is damaged: its SHA-256 is not the one in the manifest beside it")


def is_predictor(folder: Path) -> bool:
    """Whether the folder holds a committed predictor, intact or not."""
    return (folder / MANIFEST).is_file() or (folder / f"{MANIFEST}.new").is_file()
