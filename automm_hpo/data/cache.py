"""The table as tensors: every image decoded once into a memory-mapped file that all trials share.

On CPU the pages are shared between processes; on a GPU the whole cache moves to the device where it fits, and no loader process runs.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import BadImages
from ..files import read_json, write_json
from .images import DECODER_VERSION, ImageGeometry, UnreadableImage, check_file, decode_image

MAX_LISTED = 10
MEND = "Mend or remove them, or drop such rows with data.image.missing_value_strategy='skip'."
ROWS_A_TASK = 64  # of a decoding thread


@dataclass(frozen=True)
class Batch:
    """Rows on their way through a model.

    Attributes:
        images: (B, I, 3, S, S) uint8, channels last in memory.
        image_mask: (B, I) bool, False where a row has no such image.
        target: (B,) int64 classes or float32 values.
        numeric: (B, Dn) float32, about N(0, 1), no NaN.
        categorical: (B, Dc) int64 codes.
        tokens: tokenizer -> (B, L) int64, right-padded.
        token_counts: tokenizer -> (B,) int64, how many are real.
        weight: (B,) float32 sample weights.
    """

    images: torch.Tensor
    image_mask: torch.Tensor
    target: torch.Tensor
    numeric: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    categorical: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    tokens: Mapping[str, torch.Tensor] = field(default_factory=dict)
    token_counts: Mapping[str, torch.Tensor] = field(default_factory=dict)
    weight: torch.Tensor = field(default_factory=lambda: torch.ones(0))

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class TensorCache:
    """A split of the table, encoded; the fields are Batch's for all N rows, the pixels laid out (N, I, S, S, 3)."""

    images: torch.Tensor
    image_mask: torch.Tensor
    target: torch.Tensor

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device) -> TensorCache:
        if device.type == "cpu":
            return self
        return replace(self, images=self.images.to(device), image_mask=self.image_mask.to(device), target=self.target.to(device))

    def head(self, num_rows: int) -> TensorCache:
        return TensorCache(self.images[:num_rows], self.image_mask[:num_rows], self.target[:num_rows])

    def batch(self, rows: torch.Tensor | slice) -> Batch:
        # index_select copies whole images, indexing goes byte by byte
        images = self.images[rows] if isinstance(rows, slice) else self.images.index_select(0, rows)
        return Batch(images.permute(0, 1, 4, 2, 3), self.image_mask[rows], self.target[rows])


@dataclass(frozen=True)
class BadImage:
    row: int  # position, not index label
    column: int
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path or '(no path)'}: {self.reason}"


def build_cache(
    paths: Sequence[Sequence[str]], target: np.ndarray, geometry: ImageGeometry, file: Path | None = None, num_threads: int = 0
) -> tuple[TensorCache, list[BadImage]]:
    """Decodes all images of a split.

    Args:
        paths: (N, I) absolute paths.
        target: (N,) encoded labels.
        file: where the pixels go, memory-mapped; None keeps them in memory.
        num_threads: decoding threads; 0: one per core.

    Returns:
        The cache, and the images that could not be decoded; their pixels are zero and their mask False.
    """
    shape = (len(paths), len(paths[0]) if paths else 0, geometry.side, geometry.side, 3)
    pixels = np.zeros(shape, np.uint8) if file is None or not len(paths) else _map_file(file, shape)
    mask = np.zeros(shape[:2], dtype=bool)

    def keep(row: int, column: int, image: np.ndarray) -> None:
        pixels[row, column], mask[row, column] = image, True

    bad = decode_all(paths, geometry, keep, num_threads)
    return TensorCache(torch.from_numpy(pixels), torch.from_numpy(mask), torch.tensor(target)), bad


def decode_all(
    paths: Sequence[Sequence[str]],
    geometry: ImageGeometry,
    keep: Callable[[int, int, np.ndarray], None] = lambda row, column, image: None,
    num_threads: int = 0,
) -> list[BadImage]:
    """Decodes (N, I) files on several threads, hands each picture to ``keep``, and returns those that are none, in order."""
    bad: list[BadImage] = []

    def decode_rows(start: int) -> None:
        for row in range(start, min(start + ROWS_A_TASK, len(paths))):
            for column, path in enumerate(paths[row]):
                try:
                    keep(row, column, decode_image(path, geometry))
                except UnreadableImage as problem:
                    bad.append(BadImage(row, column, path, str(problem)))

    with ThreadPoolExecutor(num_threads or os.cpu_count() or 1) as pool:  # Pillow decodes and resizes outside the interpreter lock
        for _ in pool.map(decode_rows, range(0, len(paths), ROWS_A_TASK)):
            pass
    return sorted(bad, key=lambda image: (image.row, image.column))


def find_absent(paths: Sequence[Sequence[str]]) -> bool:
    """Whether a file is plainly not there or no file; nothing is opened."""
    for row in paths:
        for path in row:
            try:
                check_file(path)
            except UnreadableImage:
                return True
    return False


def store_cache(
    folder: Path,
    name: str,
    paths: Sequence[Sequence[str]],
    target: np.ndarray,
    geometry: ImageGeometry,
    on_bad: str = "raise",
    num_threads: int = 0,
    report: Callable[[str], None] = lambda line: None,
    labels: Sequence[object] | None = None,
) -> None:
    """Builds the cache of a split as files ``<name>.npy`` and ``<name>.npz`` that ``open_cache`` maps; built already, it is kept.

    Args:
        on_bad: ``raise`` refuses the split when an image cannot be read; ``skip`` drops those rows and reports them.
        labels: what the caller's table calls its rows, for messages.

    Raises:
        BadImages: lists the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = cache_key(paths, target, geometry, on_bad)
    note = folder / f"{name}.json"
    if note.exists() and read_json(note)["key"] == key:
        return
    note.unlink(missing_ok=True)  # from here on the pixels are no longer what it says
    cache, bad = build_cache(paths, target, geometry, folder / f"{name}.npy", num_threads)
    if bad and on_bad == "raise":
        raise BadImages(f"{name}: {describe(bad, labels)} {MEND}")
    kept = np.setdiff1d(np.arange(len(cache)), [image.row for image in bad])
    if bad:
        if not len(kept):
            raise BadImages(f"no row of the {name} split has readable images. " + describe(bad, labels))
        report(f"{len(cache) - len(kept)} rows dropped from {name}: {describe(bad, labels)}")
        pixels = cache.images.numpy()
        # from file to file: all of it at once may be more than the memory
        np.take(pixels, kept, axis=0, out=_map_file(folder / f"{name}.tmp.npy", (len(kept), *pixels.shape[1:])), mode="clip")
        os.replace(folder / f"{name}.tmp.npy", folder / f"{name}.npy")
    np.savez(folder / f"{name}.npz", image_mask=cache.image_mask.numpy()[kept], target=target[kept])
    write_json(folder / f"{name}.sources.json", {"paths": [list(paths[row]) for row in kept], "geometry": asdict(geometry)}, sync=False)
    write_json(note, {"key": key})  # last: a cache without its note is unfinished


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
    # copy-on-write: torch wants writable memory, and nobody writes
    pixels = np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
    with np.load(folder / f"{name}.npz", allow_pickle=False) as columns:
        return TensorCache(torch.from_numpy(pixels), torch.from_numpy(columns["image_mask"]), torch.from_numpy(columns["target"]))


def _own_cache(folder: Path, name: str, own: Path) -> Path:
    """This machine's copy of a split, decoded by the first process that wants it; the others wait."""
    place = own / read_json(folder / f"{name}.json")["key"][:16]
    place.mkdir(parents=True, exist_ok=True)
    with open(place / f"{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / f"{name}.json").exists():
            sources = read_json(folder / f"{name}.sources.json")
            with np.load(folder / f"{name}.npz", allow_pickle=False) as columns:
                target = columns["target"]
            store_cache(place, name, sources["paths"], target, ImageGeometry(**sources["geometry"]))
    return place


def join_caches(parts: Sequence[TensorCache], file: Path) -> TensorCache:
    """Splits one after another; their pixels in a memory-mapped file, for all of them at once may be more than the memory."""
    pixels = _map_file(file, (sum(map(len, parts)), *parts[0].images.shape[1:]))
    np.concatenate([part.images.numpy() for part in parts], out=pixels)
    return TensorCache(torch.from_numpy(pixels), torch.cat([part.image_mask for part in parts]), torch.cat([part.target for part in parts]))


def cache_key(paths: Sequence[Sequence[str]], target: np.ndarray, geometry: ImageGeometry, on_bad: str) -> str:
    """SHA-256 of all that the pixels depend on: each file's path, size and time, the geometry and the decoder."""
    digest = hashlib.sha256(repr((DECODER_VERSION, geometry, on_bad)).encode())
    digest.update(target.tobytes())
    for row in paths:
        for path in row:
            try:
                status = check_file(path)
                identity: tuple[object, ...] = (path, status.st_size, status.st_mtime_ns)
            except UnreadableImage as problem:
                identity = (path, -1, str(problem))
            digest.update(repr(identity).encode())
    return digest.hexdigest()


def describe(bad: list[BadImage], labels: Sequence[object] | None = None) -> str:
    """The unreadable images in one sentence.

    Args:
        labels: what the caller's table calls its rows.
    """
    listed = "; ".join(f"row {image.row if labels is None else labels[image.row]!r}: {image}" for image in bad[:MAX_LISTED])
    more = f"; and {len(bad) - MAX_LISTED} more" if len(bad) > MAX_LISTED else ""
    return f"{len(bad)} images cannot be read: {listed}{more}."
