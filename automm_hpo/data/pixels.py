"""This machine's cache of decoded images: one file per set of images, reused by every search on the same set.

The folder holds ``<key>.pixels``, raw bytes that processes map, and ``<key>.json``, which lists the unreadable images. A process that has an entry
open holds a shared lock on its file, so that nobody removes it to make room. A process that decodes holds an exclusive lock on ``<key>.part``, and
others that want the same images wait for it. A lock ends with its process, however that dies, and the next process that wants the images continues:
behind the pixels, ``<key>.part`` has a checksum of each decoded image, which reveals images that a kill or a power cut left incomplete.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import math
import mmap
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import AutoMMHPOError, CorruptFile, InvalidArgument
from ..files import read_json, write_json
from .decoding import OnDemand, Watch, decode_all
from .images import DECODER_VERSION, ImageGeometry, ImageSource

FOLDER, MOST_GIGABYTES = "AUTOMM_HPO_CACHE_DIR", "AUTOMM_HPO_CACHE_GB"
DEFAULT_GIGABYTES = 20.0
SPARE_BYTES = 1e9  # disk space left to others
PIXELS, PART = ".pixels", ".part"
CACHE_VERSION = 3  # raise it when the file format changes
# reserves no memory for copies, so the file may be larger than the memory; Python has the flag from 3.13 on, the fallback is Linux's value
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
CHECKSUM = np.dtype("<u4")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Keep = Callable[[int, int, np.ndarray], None]


@dataclass(frozen=True)
class ImageSet:
    """A set of images, all decoded in the same way.

    Attributes:
        key: digest of everything that their pixels depend on.
        count: number of images; their store has a black one before them, at index 0.
        in_files: all images are files, which any process can read, also on other machines.
        sources: returns the images' sources, when they must be decoded.
    """

    key: str
    geometry: ImageGeometry
    count: int
    in_files: bool
    sources: Callable[[], Sequence[ImageSource]]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (1 + self.count, self.geometry.side, self.geometry.side, 3)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Store:
    """The pixels of a set of images.

    Attributes:
        images: (1 + count, S, S, 3) uint8, memory-mapped, or an ``OnDemand`` that decodes the requested images.
        bad: index -> reason of the unreadable images, which are black.
        folder: where the pixels are stored, or would be.
    """

    images: torch.Tensor | OnDemand
    bad: Mapping[int, str]
    folder: Path


def set_key(identities: Sequence[tuple[object, ...]], geometry: ImageGeometry) -> str:
    """Digest of everything that pixels depend on: the images' identities (``identify``), the geometry, and the versions of decoder and cache."""
    digest = hashlib.sha256(repr((CACHE_VERSION, DECODER_VERSION, geometry)).encode())
    for identity in identities:
        digest.update(repr(identity).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def machine_folder() -> Path:
    """The folder of this machine's decoded images."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.abspath(os.path.expanduser(os.environ.get(FOLDER) or f"{base}/automm_hpo")))


def most_bytes() -> float:
    """The number of bytes that the machine's folder may hold.

    Raises:
        InvalidArgument: the environment variable is not a number >= 0.
    """
    text = os.environ.get(MOST_GIGABYTES) or str(DEFAULT_GIGABYTES)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not gigabytes >= 0:
        raise InvalidArgument(f"{MOST_GIGABYTES}={text!r} in the environment: expected a number of gigabytes >= 0, such as {DEFAULT_GIGABYTES:g}")
    return 1e9 * gigabytes


def open_store(
    images: ImageSet,
    own: Path,
    is_right: Callable[[Sequence[int]], bool],
    num_threads: int = 0,
    watch: Watch = lambda done, total: None,
    report: Callable[[str], None] = lambda line: None,
    elsewhere: Path | None = None,
) -> Store:
    """The pixels of a set of images: found in this machine's folder, or decoded once and stored there, while other processes that want them wait.

    Args:
        own: the search's folder, used for images that are not files, and if the machine's folder cannot be written.
        is_right: whether an entry that lists these indices as unreadable can be used.
        report: receives a line about anything unusual.
        elsewhere: another folder that may have the pixels, for a process whose environment names no folder.

    Raises:
        OSError: there is no room for images that are not files.
    """
    entry, most = (_Entry(machine_folder(), images), most_bytes()) if images.in_files else (_Entry(own, images), math.inf)
    others = [_Entry(own, images), *([_Entry(elsewhere, images)] if elsewhere is not None and not os.environ.get(FOLDER) else [])]
    while True:
        for each in (entry, *others):
            if found := each.open(is_right):
                return found
        try:
            claim = entry.claim(watch, report)
        except OSError as error:
            if entry.folder == own or isinstance(error, AutoMMHPOError):  # TimeLimitTooShort is a TimeoutError, and so an OSError
                raise
            report(f"{entry.folder} cannot be written ({error.strerror}); the decoded images go to {own}")
            entry, most = _Entry(own, images), math.inf
            continue
        if claim is None:
            continue
        try:
            if found := entry.open(is_right):  # another process has just finished it
                return found
            if entry.reserve(claim, most):
                return entry.fill(claim, num_threads, watch, report)
            size, free = _told(images.nbytes), _told(shutil.disk_usage(entry.folder).free)
            if not images.in_files:
                raise OSError(errno.ENOSPC, f"{entry.folder} has no room for the decoded images, {size}, with {free} free")
            cap = "" if most == math.inf else f"at most {_told(most)} by {MOST_GIGABYTES}, "
            full = f"no room for the decoded images, {size} (in {entry.folder}: {cap}{free} free)"
            report(f"{full if most else f'keeping decoded images is switched off ({MOST_GIGABYTES}=0)'}: images are decoded again for each batch")
            return entry.stream(is_right, num_threads, watch)
        finally:
            kept = entry.release(claim)
            if kept and entry.folder != own:  # the search's own folder may be deleted
                report(f"kept {kept} of {images.count} images that were decoded: the next call continues from there")


class _Entry:
    """The files of a set of images in one folder."""

    def __init__(self, folder: Path, images: ImageSet) -> None:
        self.folder, self.images = folder, images
        self.pixels, self.part, self.note = (folder / f"{images.key}{suffix}" for suffix in (PIXELS, PART, ".json"))

    def open(self, is_right: Callable[[Sequence[int]], bool]) -> Store | None:
        """Opens the stored pixels. None if they are absent, incomplete or refused by ``is_right``."""
        with contextlib.suppress(OSError), _opened(self.pixels, os.O_RDONLY) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            bad = self._noted()
            if bad is not None and os.fstat(descriptor).st_size == self.images.nbytes and is_right(list(bad)):
                with contextlib.suppress(OSError):  # another user's file, for example
                    os.utime(self.pixels)  # marks it as recently used
                return Store(self._map(descriptor), bad, self.folder)
        return None

    def claim(self, watch: Watch, report: Callable[[str], None]) -> int | None:
        """The descriptor of the unfinished file, locked for this process alone. None if another process had it, and has finished or given up.

        Raises:
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _locked_alone(descriptor):
                report("another process is decoding the same images: waiting for it")
            while not _locked_alone(descriptor):
                watch(0, 0)
                time.sleep(0.1)
            if self._is(descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def release(self, claim: int) -> int:
        """Unlocks the unfinished file for the next process, and returns how many decoded images it holds. A file with none is removed."""
        kept = 0
        if self._is(claim):
            kept = int(np.count_nonzero(self._checksums(claim)))
            if not kept:
                self.part.unlink()
        os.close(claim)
        return kept

    def _is(self, claim: int) -> bool:
        try:
            return os.path.samestat(os.fstat(claim), os.stat(self.part))
        except FileNotFoundError:
            return False

    def reserve(self, claim: int, most: float) -> bool:
        """Reserves room on the disk. If necessary, removes entries that nobody has open, the least recently used first. False if there is no room.

        Args:
            most: bytes that the folder may hold.
        """
        needed, spare = self.images.nbytes, SPARE_BYTES if self.images.in_files else 0
        there = 512 * os.fstat(claim).st_blocks  # that an unfinished file already has

        def fits() -> bool:
            return needed + sum(_size(file) for file in self._others()) <= most and needed + spare <= shutil.disk_usage(self.folder).free + there

        with _opened(self.folder / "lock", os.O_RDONLY | os.O_CREAT) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the descriptor is closed
            for file in self._others() if needed <= most else []:
                if fits():
                    break
                _remove_unused(file)
            if not fits():
                os.ftruncate(claim, 0)
                return False
            try:
                os.posix_fallocate(claim, 0, needed + CHECKSUM.itemsize * self.images.count)
            except (AttributeError, OSError) as error:
                if getattr(error, "errno", None) in NO_ROOM:
                    os.ftruncate(claim, 0)
                    return False
                os.ftruncate(claim, needed)  # no fallocate on this system
        return True

    def fill(self, claim: int, num_threads: int, watch: Watch, report: Callable[[str], None]) -> Store:
        """Decodes the images that the unfinished file lacks, and finishes it."""
        sources, size = self.images.sources(), self.images.nbytes // (1 + self.images.count)
        places = self._find_undecoded(claim, size, watch)
        if len(places) < len(sources):
            report(f"{len(sources) - len(places)} of {len(sources)} images were decoded before")

        def keep(row: int, column: int, image: np.ndarray) -> None:
            place, checksum = places[row], zlib.crc32(image.data).to_bytes(CHECKSUM.itemsize, "little")
            written = os.pwrite(claim, image.data, place * size) + os.pwrite(claim, checksum, self.images.nbytes + (place - 1) * len(checksum))
            if written != size + len(checksum):
                raise OSError(errno.ENOSPC, f"no room for the decoded images: {self.folder}")

        try:
            found = self._decode([sources[place - 1] for place in places], self.images.geometry, keep, num_threads, watch)
        except OSError as error:
            if error.errno in NO_ROOM:  # frees the room on a full disk
                os.ftruncate(claim, 0)
            raise
        bad = {places[number - 1]: reason for number, reason in found.items()}
        os.fsync(claim)  # a power cut must not leave black images in a file with the name of a complete one
        write_json(self.note, list(bad.items()))
        os.ftruncate(claim, self.images.nbytes)
        os.replace(self.part, self.pixels)
        fcntl.flock(claim, fcntl.LOCK_SH)
        return Store(self._map(claim), bad, self.folder)

    def _checksums(self, claim: int) -> np.ndarray:
        """Checksums of the images in the unfinished file, 0 for absent ones. One image in four billion has checksum 0 too, and is decoded again."""
        stored = os.pread(claim, CHECKSUM.itemsize * self.images.count, self.images.nbytes)
        return np.frombuffer(stored.ljust(CHECKSUM.itemsize * self.images.count, b"\0"), CHECKSUM)

    def _find_undecoded(self, claim: int, size: int, watch: Watch) -> list[int]:
        """Indices of the images that the unfinished file lacks, or has damaged."""
        absent = []
        for place, checksum in enumerate(self._checksums(claim).tolist(), 1):
            if not checksum or zlib.crc32(os.pread(claim, size, place * size)) != checksum:
                absent.append(place)
            watch(0, self.images.count)
        return absent

    def stream(self, is_right: Callable[[Sequence[int]], bool], num_threads: int, watch: Watch) -> Store:
        """A store that decodes on demand. Keeps only the list of unreadable images, found by decoding all of them at the smallest, fastest size."""
        sources, bad = self.images.sources(), self._noted()
        if bad is None or not is_right(list(bad)):
            bad = self._decode(sources, replace(self.images.geometry, side=1), lambda row, column, image: None, num_threads, watch)
            write_json(self.note, list(bad.items()))
        return Store(OnDemand(sources, self.images.geometry, num_threads), bad, self.folder)

    @staticmethod
    def _decode(sources: Sequence[ImageSource], geometry: ImageGeometry, keep: Keep, num_threads: int, watch: Watch) -> dict[int, str]:
        return {1 + image.row: image.reason for image in decode_all([[source] for source in sources], geometry, keep, num_threads, watch=watch)}

    def _map(self, descriptor: int) -> torch.Tensor:
        """Maps the pixels copy-on-write, because torch expects writable memory; nobody writes. The map's own descriptor keeps the lock while it lives."""
        mapped = mmap.mmap(descriptor, self.images.nbytes, mmap.MAP_PRIVATE | NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE)
        return torch.frombuffer(mapped, dtype=torch.uint8).view(self.images.shape)

    def _noted(self) -> dict[int, str] | None:
        try:
            return dict(read_json(self.note))
        except (OSError, CorruptFile, TypeError, ValueError):
            return None

    def _others(self) -> list[Path]:
        """The folder's other files of pixels: unfinished ones first, then the least recently used."""
        files = [file for file in self.folder.iterdir() if file.suffix in (PIXELS, PART) and file != self.part]
        return sorted(files, key=lambda file: (file.suffix == PIXELS, _last_use(file)))


@contextlib.contextmanager
def _opened(file: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(file, flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locked_alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unused(file: Path) -> None:
    """Removes an entry unless a process has it open."""
    with contextlib.suppress(OSError), _opened(file, os.O_RDWR) as descriptor:  # another user's file, for example
        if _locked_alone(descriptor):
            file.unlink()
            file.with_suffix(".json").unlink(missing_ok=True)


def _told(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # removed meanwhile
        return 0


def _last_use(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
