"""Writing so that a kill at any moment leaves the old or the new, and checksums so that damage is seen."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import CorruptFile

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
    """
    temporary = path.with_name(temporary_name(path.name))
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)


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
