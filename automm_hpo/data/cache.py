"""The table as tensors: encoded once, every image decoded once into a memory-mapped file that all trials share.

On CPU the pages are shared between processes; on a GPU the whole cache moves to the device where it fits, and no loader process runs.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import BadImages
from ..files import read_json, write_json
from .batch import TensorCache, join_rows
from .encoders import EncodedTable
from .images import DECODER_VERSION, Base64, ImageGeometry, ImageSource, UnreadableImage, check_file, decode_image, identify, name_source

MAX_LISTED = 10
MEND = "Mend or remove them, or drop such rows with data.image.missing_value_strategy='skip'; with 'zero' a cell may be empty."
ROWS_A_TASK = 64  # of a decoding thread
CACHE_VERSION = 2  # raise it when the files below would be read differently
PLAIN = ("target", "numeric", "categorical", "weight")  # EncodedTable's arrays, of any table


@dataclass(frozen=True)
class BadImage:
    row: int  # position, not index label
    column: int
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path or '(no path)'}: {self.reason}"


def build_cache(
    table: EncodedTable, geometry: ImageGeometry | None, file: Path | None = None, num_threads: int = 0, strategy: str = "raise"
) -> tuple[TensorCache, list[BadImage]]:
    """Decodes all images of a split.

    Args:
        geometry: None without images.
        file: where the pixels go, memory-mapped; None keeps them in memory.
        num_threads: decoding threads; 0: one per core.
        strategy: with ``zero`` an empty cell is no bad image.

    Returns:
        The cache, and the images that could not be decoded; their pixels are zero and their mask False.
    """
    side = 0 if geometry is None else geometry.side
    shape = (len(table), table.num_images, side, side, 3)
    pixels = np.zeros(shape, np.uint8) if file is None or not math.prod(shape) else _map_file(file, shape)
    mask = np.zeros(shape[:2], dtype=bool)

    def keep(row: int, column: int, image: np.ndarray) -> None:
        pixels[row, column], mask[row, column] = image, True

    bad = [] if geometry is None or not table.num_images else decode_all(table.images, geometry, keep, num_threads, strategy)
    return _as_tensors(table, torch.from_numpy(pixels), mask), bad


def _as_tensors(table: EncodedTable, pixels: torch.Tensor, mask: np.ndarray) -> TensorCache:
    return TensorCache(
        pixels,
        torch.from_numpy(mask),
        torch.tensor(table.target),
        torch.from_numpy(table.numeric),
        torch.from_numpy(table.categorical),
        {name: torch.from_numpy(tokens) for name, tokens in table.tokens.items()},
        {name: torch.from_numpy(counts) for name, counts in table.token_counts.items()},
        torch.from_numpy(table.weight),
    )


def decode_all(
    images: Sequence[Sequence[ImageSource]],
    geometry: ImageGeometry,
    keep: Callable[[int, int, np.ndarray], None] = lambda row, column, image: None,
    num_threads: int = 0,
    strategy: str = "raise",
) -> list[BadImage]:
    """Decodes (N, I) pictures on several threads, hands each to ``keep``, and returns those that are none, in order.

    Args:
        strategy: with ``zero`` an empty cell is no bad image.
    """
    bad: list[BadImage] = []

    def decode_rows(start: int) -> None:
        for row in range(start, min(start + ROWS_A_TASK, len(images))):
            for column, source in enumerate(images[row]):
                if strategy == "zero" and is_missing(source):
                    continue
                try:
                    keep(row, column, decode_image(source, geometry))
                except UnreadableImage as problem:
                    bad.append(BadImage(row, column, name_source(source), str(problem)))

    with ThreadPoolExecutor(num_threads or os.cpu_count() or 1) as pool:  # Pillow decodes and resizes outside the interpreter lock
        for _ in pool.map(decode_rows, range(0, len(images), ROWS_A_TASK)):
            pass
    return sorted(bad, key=lambda image: (image.row, image.column))


def find_absent(images: Sequence[Sequence[ImageSource]], strategy: str = "raise") -> bool:
    """Whether a file is plainly not there or no file; nothing is opened.

    Args:
        strategy: with ``zero`` an empty cell is none of those.
    """
    for row in images:
        for source in row:
            if isinstance(source, str) and not isinstance(source, Base64) and not (strategy == "zero" and is_missing(source)):
                try:
                    check_file(source)
                except UnreadableImage:
                    return True
    return False


def is_missing(source: ImageSource) -> bool:
    """Whether a cell is empty."""
    return isinstance(source, str) and not source


def store_cache(
    folder: Path,
    name: str,
    table: EncodedTable,
    geometry: ImageGeometry | None,
    strategy: str = "raise",
    num_threads: int = 0,
    report: Callable[[str], None] = lambda line: None,
    labels: Sequence[object] | None = None,
) -> None:
    """Builds the cache of a split as files ``<name>.*`` that ``open_cache`` maps; built already, it is kept.

    Args:
        strategy: ``raise`` refuses the split when an image cannot be read; ``skip`` drops those rows and reports them; ``zero`` is ``raise``,
            but that a cell may be empty.
        labels: what the caller's table calls its rows, for messages.

    Raises:
        BadImages: lists the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = cache_key(table, geometry, strategy)
    note = folder / f"{name}.json"
    if note.exists() and read_json(note)["key"] == key:
        return
    for stale in (note, folder / f"{name}.sources.json"):  # from here on the pixels are no longer what they say
        stale.unlink(missing_ok=True)
    cache, bad = build_cache(table, geometry, folder / f"{name}.npy", num_threads, strategy)
    if bad and strategy != "skip":
        raise BadImages(f"{name}: {describe(bad, labels)} {MEND}")
    kept, mask = np.setdiff1d(np.arange(len(cache)), [image.row for image in bad]), cache.image_mask.numpy()
    if bad:
        if not len(kept):
            raise BadImages(f"no row of the {name} split has readable images. " + describe(bad, labels))
        report(f"{len(cache) - len(kept)} rows dropped from {name}: {describe(bad, labels)}")
        pixels = cache.images.numpy()
        # from file to file: all of it at once may be more than the memory
        np.take(pixels, kept, axis=0, out=_map_file(folder / f"{name}.tmp.npy", (len(kept), *pixels.shape[1:])), mode="clip")
        os.replace(folder / f"{name}.tmp.npy", folder / f"{name}.npy")
        table, mask = table.take(kept), mask[kept]
    arrays: dict[str, Any] = {"image_mask": mask, **{each: getattr(table, each) for each in PLAIN}}
    arrays |= {f"token_counts_{index}": counts for index, counts in enumerate(table.token_counts.values())}
    np.savez(folder / f"{name}.npz", **arrays)
    for index, tokens in enumerate(table.tokens.values()):
        np.save(folder / f"{name}.tokens_{index}.npy", tokens)
    if all(isinstance(source, str) and not isinstance(source, Base64) for row in table.images for source in row) and geometry is not None:
        write_json(folder / f"{name}.sources.json", {"paths": [list(row) for row in table.images], "geometry": asdict(geometry)}, sync=False)
    write_json(note, {"key": key, "tokenizers": list(table.tokens), "images": cache.images.shape[1:]})  # last: a cache without its note is unfinished


def _map_file(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A new memory-mapped .npy file of uint8, all of its disk space taken.

    Raises:
        OSError: the disk is full. Without asking first, the process would die of it in the middle (SIGBUS).
    """
    pixels = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with open(file, "r+b") as opened:
            try:
                os.posix_fallocate(opened.fileno(), 0, os.path.getsize(file))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # a file system that cannot be asked
                    return pixels
                file.unlink()
                raise OSError(error.errno, f"{file.parent} has no room for the decoded images, {pixels.nbytes / 1e9:.1f} GB: {error.strerror}") from None
    return pixels


def open_cache(folder: Path, name: str) -> TensorCache:
    """Maps a stored split; the pixels are read from the page cache, shared by all processes of the machine.

    A machine of a cluster whose way to the search's folder is long decodes the images for itself, once: ``AUTOMM_HPO_CACHE_DIR`` in
    its environment names a folder of its own.
    """
    if own := os.environ.get("AUTOMM_HPO_CACHE_DIR"):
        folder = _own_cache(folder, name, Path(own))
    note = read_json(folder / f"{name}.json")
    with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    table = EncodedTable(
        [],
        **{each: arrays[each] for each in PLAIN},
        tokens={each: _map(folder / f"{name}.tokens_{index}.npy") for index, each in enumerate(note["tokenizers"])},
        token_counts={each: arrays[f"token_counts_{index}"] for index, each in enumerate(note["tokenizers"])},
    )
    shape = (len(table), *note["images"])
    return _as_tensors(table, torch.from_numpy(_map(folder / f"{name}.npy") if math.prod(shape) else np.zeros(shape, np.uint8)), arrays["image_mask"])


def _map(file: Path) -> np.ndarray:
    """Copy-on-write: torch wants writable memory, and nobody writes."""
    return np.load(file, mmap_mode="c", allow_pickle=False)


def _own_cache(folder: Path, name: str, own: Path) -> Path:
    """This machine's copy of a split, made by the first process that wants it; the others wait."""
    place = own / read_json(folder / f"{name}.json")["key"][:16]
    place.mkdir(parents=True, exist_ok=True)
    with open(place / f"{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / f"{name}.json").exists():
            pixels, sources = folder / f"{name}.npy", folder / f"{name}.sources.json"
            for file in folder.glob(f"{name}.*"):
                if file.suffix != ".json" and not (file == pixels and sources.exists()):
                    shutil.copyfile(file, place / file.name)
            if sources.exists():
                _decode_again(read_json(sources), place / f"{name}.npy", folder / f"{name}.npz")
            shutil.copyfile(folder / f"{name}.json", place / f"{name}.json.tmp")
            os.replace(place / f"{name}.json.tmp", place / f"{name}.json")  # last, as above
    return place


def _decode_again(sources: Mapping[str, Any], file: Path, arrays: Path) -> None:
    """Fills a new file of pixels from the images themselves, of which those count that were decoded before."""
    geometry = ImageGeometry(**sources["geometry"])
    with np.load(arrays, allow_pickle=False) as stored:
        mask = stored["image_mask"]
    pixels = _map_file(file, (*mask.shape, geometry.side, geometry.side, 3))
    wanted = [[path if there else "" for path, there in zip(row, found, strict=True)] for row, found in zip(sources["paths"], mask, strict=True)]

    def keep(row: int, column: int, image: np.ndarray) -> None:
        pixels[row, column] = image

    if bad := decode_all(wanted, geometry, keep, strategy="zero"):
        raise BadImages(f"{file.parent}: {describe(bad)}")


def join_caches(parts: Sequence[TensorCache], file: Path) -> TensorCache:
    """Splits one after another; their pixels in a memory-mapped file, for all of them at once may be more than the memory."""
    shape = (sum(map(len, parts)), *parts[0].images.shape[1:])
    pixels = _map_file(file, shape) if math.prod(shape) else np.zeros(shape, np.uint8)
    np.concatenate([part.images.numpy() for part in parts], out=pixels)
    return join_rows(parts, torch.from_numpy(pixels))


def cache_key(table: EncodedTable, geometry: ImageGeometry | None, strategy: str) -> str:
    """SHA-256 of all that the tensors depend on: the encoded columns, each file's path, size and time, the geometry and the decoder."""
    digest = hashlib.sha256(repr((CACHE_VERSION, DECODER_VERSION, geometry, strategy)).encode())
    arrays = [getattr(table, name) for name in PLAIN] + [array for each in (table.tokens, table.token_counts) for _, array in sorted(each.items())]
    for array in arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(array.tobytes())
    digest.update(repr(sorted(table.tokens)).encode())
    for row in table.images:
        for source in row:
            digest.update(repr(identify(source)).encode())
    return digest.hexdigest()


def describe(bad: list[BadImage], labels: Sequence[object] | None = None) -> str:
    """The unreadable images in one sentence.

    Args:
        labels: what the caller's table calls its rows.
    """
    listed = "; ".join(f"row {image.row if labels is None else labels[image.row]!r}: {image}" for image in bad[:MAX_LISTED])
    more = f"; and {len(bad) - MAX_LISTED} more" if len(bad) > MAX_LISTED else ""
    return f"{len(bad)} images cannot be read: {listed}{more}."
