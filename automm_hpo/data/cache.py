"""The table as tensors: encoded once for all trials, its images decoded once for all searches on this machine (``pixels.py``).

On a CPU, processes share the memory pages. On a GPU, the whole cache moves to the device if it fits. There are no data loader processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import BadImages
from ..files import read_json, write_json
from .batch import Pictures, TensorCache
from .decoding import MAX_LISTED, BadImage, OnDemand, Watch, count_images, decode_all, describe, find_dark, is_missing, is_path
from .encoders import EncodedTable
from .images import MISSING, ImageGeometry, ImageSource, identify, name_source
from .pixels import ImageSet, Store, open_store, set_key

MEND = "Repair or remove them, or drop these rows with data.image.missing_value_strategy='skip'; 'zero' allows empty cells."
PLAIN = ("target", "numeric", "categorical", "weight", "fold")  # arrays of EncodedTable that every table has
IMAGES, SOURCES = "images.json", "sources.json"


def build_cache(table: EncodedTable, geometry: ImageGeometry | None, num_threads: int = 0, strategy: str = "raise") -> tuple[TensorCache, list[BadImage]]:
    """Decodes all images of a table into memory.

    Args:
        geometry: None without images.
        num_threads: decoding threads; 0: one per core.
        strategy: with ``zero``, an empty cell is not a bad image.

    Returns:
        The cache, and the images that could not be decoded, whose pixels are zero and whose mask is False.
    """
    side = 0 if geometry is None else geometry.side
    pixels = np.zeros((len(table), table.num_images, side, side, 3), np.uint8)
    mask = np.zeros(pixels.shape[:2], dtype=bool)

    def keep(row: int, column: int, image: np.ndarray) -> None:
        pixels[row, column], mask[row, column] = image, True

    bad = [] if geometry is None or not table.num_images else decode_all(table.images, geometry, keep, num_threads, strategy)
    return _as_tensors(table, torch.from_numpy(pixels), mask), bad


def _as_tensors(table: EncodedTable, images: torch.Tensor | Pictures, mask: np.ndarray) -> TensorCache:
    return TensorCache(
        images,
        torch.from_numpy(mask),
        torch.tensor(table.target),
        torch.from_numpy(table.numeric),
        torch.from_numpy(table.categorical),
        {name: torch.from_numpy(tokens) for name, tokens in table.tokens.items()},
        {name: torch.from_numpy(counts) for name, counts in table.token_counts.items()},
        torch.from_numpy(table.weight),
        torch.from_numpy(table.fold),
    )


def store_caches(
    folder: Path,
    tables: Mapping[str, EncodedTable],
    geometry: ImageGeometry | None,
    strategy: str = "raise",
    num_threads: int = 0,
    report: Callable[[str], None] = lambda line: None,
    watch: Watch = lambda done, total: None,
    labels: Mapping[str, Sequence[object]] | None = None,
) -> list[str]:
    """Prepares the splits of a search for ``open_cache``: decodes the images this machine does not have yet, and stores the rest as files ``<name>.*``.

    Args:
        folder: the search's own, empty or from an earlier session of the search.
        tables: split -> its rows.
        strategy: ``raise`` fails if an image cannot be read; ``skip`` drops those rows; ``zero`` is like ``raise``, but allows empty cells.
        watch: called while images are decoded; an exception it raises ends the decoding.
        labels: split -> row labels of the caller's table, for messages.

    Returns:
        One line for each split that rows were dropped from.

    Raises:
        BadImages: images cannot be read, or ``skip`` would leave a split without rows; lists the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places, bad = {name: np.zeros((len(table), 0), np.int64) for name, table in tables.items()}, dict[str, list[BadImage]]()
    note: dict[str, Any] = {"tokenizers": list(next(iter(tables.values())).tokens), "images": None}
    if geometry is not None:
        images, places = _gather(tables, geometry)
        sources = images.sources()
        if dark := find_dark(sources, geometry.max_pixels):
            report(dark)

        def still_bad(wanted: Sequence[int]) -> bool:
            return len(decode_all([[sources[place - 1]] for place in wanted], geometry, num_threads=num_threads)) == len(wanted)

        store = open_store(images, folder, still_bad, num_threads, watch, report)
        bad = {name: _find_bad(table, places[name], store, strategy) for name, table in tables.items()}
        told = {"key": images.key, "geometry": asdict(geometry), "count": images.count, "in_files": images.in_files, "num_threads": num_threads}
        note["images"] = told | {"streamed": isinstance(store.images, OnDemand), "folder": str(store.folder)}
        if images.in_files:
            write_json(folder / SOURCES, sources, sync=False)
    rows = {name: np.arange(len(table)) for name, table in tables.items()}
    problems, dropped = list[str](), list[str]()
    for name, found in bad.items():
        described = describe(found, labels[name] if labels else None) if found else ""
        rows[name] = np.setdiff1d(rows[name], [image.row for image in found])
        if found and strategy != "skip":
            problems.append(f"{name}: {described} {MEND}")
        elif found and not len(rows[name]):
            problems.append(f"no row of the {name} split has readable images. {described}")
        elif found:
            dropped.append(f"{len(places[name]) - len(rows[name])} of {len(places[name]):,} rows dropped from {name}: {described}")
    if problems:
        raise BadImages("\n".join(problems))
    for name, table in tables.items():
        _store_rows(folder, name, table if len(rows[name]) == len(table) else table.take(rows[name]), places[name][rows[name]], rows[name])
    write_json(folder / IMAGES, note, sync=False)
    return dropped


def _gather(tables: Mapping[str, EncodedTable], geometry: ImageGeometry) -> tuple[ImageSet, dict[str, np.ndarray]]:
    """The distinct images of all splits, and each cell's index among them, counted from 1; 0 if the cell is empty, negative for padding.

    The images are sorted by identity, so that splitting the same rows differently gives the same set.
    """
    sources: dict[tuple[object, ...], ImageSource] = {}
    cells: dict[str, list[list[tuple[object, ...]]]] = {}
    for name, table in tables.items():
        cells[name] = [[() if source is None or is_missing(source) else identify(source) for source in row] for row in table.images]
        for identities, row in zip(cells[name], table.images, strict=True):
            sources.update((identity, source) for identity, source in zip(identities, row, strict=True) if source is not None)
    sources.pop((), None)
    order = sorted(sources, key=repr)
    place = {(): 0, **{identity: number for number, identity in enumerate(order, 1)}}
    places = {
        name: np.array(
            [_filled_up([place[identity] for identity in row], sources) for row, sources in zip(cells[name], table.images, strict=True)], np.int64
        ).reshape(len(table), table.num_images)
        for name, table in tables.items()
    }
    listed = [sources[identity] for identity in order]
    return ImageSet(set_key(order, geometry), geometry, len(order), all(map(is_path, listed)), lambda: listed), places


def _filled_up(places: list[int], sources: Sequence[ImageSource | None]) -> list[int]:
    """The indices of a row. Padding repeats the row's own images, negated, because black images would distort batch norm's statistics."""
    own = itertools.cycle([-place for place in places if place] or [0])
    return [next(own) if source is None else place for place, source in zip(places, sources, strict=True)]


def _find_bad(table: EncodedTable, places: np.ndarray, store: Store, strategy: str) -> list[BadImage]:
    """The cells of a split whose image cannot be read."""
    bad = np.isin(places, list(store.bad)) | ((places == 0) & (strategy != "zero"))
    return [
        BadImage(row, column, name_source(source), store.bad.get(int(places[row, column]), MISSING))
        for row, column in zip(*(each.tolist() for each in np.nonzero(bad)), strict=True)
        if (source := table.images[row][column]) is not None
    ]


def _store_rows(folder: Path, name: str, table: EncodedTable, places: np.ndarray, rows: np.ndarray) -> None:
    arrays: dict[str, Any] = {"places": places, "rows": rows, **{each: getattr(table, each) for each in PLAIN}}
    arrays |= {f"token_counts_{index}": counts for index, counts in enumerate(table.token_counts.values())}
    np.savez(folder / f"{name}.npz", **arrays)
    for index, tokens in enumerate(table.tokens.values()):
        file = folder / f"{name}.tokens_{index}.npy"
        file.unlink(missing_ok=True)  # a process of an earlier session may still map it
        np.save(file, tokens)


def stored_labels(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a stored split: (N,) int64, their positions among those it was stored from, of which ``skip`` may have dropped some; (N,) their targets."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
        return stored["rows"], stored["target"]


def open_cache(folder: Path, name: str) -> TensorCache:
    """Maps a stored split. All processes of the machine share its pixels; a machine that does not have them decodes them.

    Raises:
        BadImages: an image of the split cannot be read on this machine.
    """
    note = read_json(folder / IMAGES)
    with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    table = EncodedTable(
        [],
        **{each: arrays[each] for each in PLAIN},
        tokens={each: _map(folder / f"{name}.tokens_{index}.npy") for index, each in enumerate(note["tokenizers"])},
        token_counts={each: arrays[f"token_counts_{index}"] for index, each in enumerate(note["tokenizers"])},
    )
    places = arrays["places"]
    return _as_tensors(table, _open_images(folder, note["images"], places), places > 0)


def _open_images(folder: Path, note: Mapping[str, Any] | None, places: np.ndarray) -> torch.Tensor | Pictures:
    if note is None:
        return torch.zeros(len(places), 0, 0, 0, 3, dtype=torch.uint8)

    def sources() -> list[ImageSource]:
        return read_json(folder / SOURCES)

    def none_wanted(bad: Sequence[int]) -> bool:
        return not np.isin(places, bad).any()

    images = ImageSet(note["key"], ImageGeometry(**note["geometry"]), note["count"], note["in_files"], sources)
    if note["streamed"]:
        return Pictures(OnDemand(sources(), images.geometry, note["num_threads"]), torch.from_numpy(places), images.key)
    store = open_store(images, folder, none_wanted, note["num_threads"], elsewhere=Path(note["folder"]))
    if not none_wanted(list(store.bad)):
        wanted = [f"{name_source(source)}: {store.bad[place]}" for place, source in enumerate(sources(), 1) if place in store.bad and (places == place).any()]
        raise BadImages(f"{count_images(len(wanted))} cannot be read on this machine: {'; '.join(wanted[:MAX_LISTED])}")
    return Pictures(store.images, torch.from_numpy(places), images.key)


def _map(file: Path) -> np.ndarray:
    """Maps an array copy-on-write, because torch expects writable memory. Nobody writes to it."""
    return np.load(file, mmap_mode="c", allow_pickle=False)
