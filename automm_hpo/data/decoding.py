"""Decodes many images: all at once on threads, with progress reports and a deadline, or batch by batch on demand."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from operator import length_hint

import numpy as np
import torch

from ..errors import BadImages, TimeLimitTooShort
from ..process import usable_cores
from .images import URL, Base64, ImageGeometry, ImageSource, UnreadableImage, check_file, decode_image, largest_of_16_bits, name_source

MAX_LISTED = 10  # images or reasons in a message
MAX_ROWS = 5  # rows listed for a reason
NUM_LOOKED_AT, MOSTLY_DARK = 20, 8_192  # images sampled, and a value that the brightest pixel of 16-bit images usually exceeds
SECONDS_BETWEEN_LOOKS = 0.1
FIRST_LINE, SECONDS_BETWEEN_LINES = 3.0, 10.0  # until the first progress line, and between later ones

Watch = Callable[[int, int], None]
"""Called at intervals with (decoded, total) images; an exception it raises ends the decoding. (0, 0): another process decodes them."""


@dataclass(frozen=True)
class BadImage:
    row: int  # position, not index label
    column: int
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path or '(no path)'}: {self.reason}"


class Course:
    """A ``Watch`` that reports progress, and ends the decoding at a deadline or when cancelled.

    Args:
        deadline: time.time() at which decoding must end; None: no limit.
        cancelled: set by another thread that no longer needs the images.

    Raises:
        TimeLimitTooShort, CancelledError
    """

    def __init__(self, say: Callable[[str], None], deadline: float | None, cancelled: threading.Event) -> None:
        self.say, self.deadline, self.cancelled = say, deadline, cancelled
        self.started = time.time()
        self.next_line = self.started + FIRST_LINE

    def __call__(self, done: int, total: int) -> None:
        if self.cancelled.is_set():
            raise CancelledError
        now = time.time()
        far = f"{done:,} of {total:,}" if total else "another process has not finished them"
        left = (now - self.started) / done * (total - done) if done else None
        if self.deadline is not None and now > self.deadline:
            needed = "" if left is None else f", the rest takes about {max(1.0, left):.0f} s more"
            raise TimeLimitTooShort(f"time_limit: ran out while decoding the images ({far}{needed}); increase it")
        if now > self.next_line:
            self.next_line = now + SECONDS_BETWEEN_LINES
            self.say(f"decoding images: {far}" + ("" if left is None else f", {left:.0f} s left"))


def decode_all(
    images: Sequence[Sequence[ImageSource | None]],
    geometry: ImageGeometry,
    keep: Callable[[int, int, np.ndarray], None] = lambda row, column, image: None,
    num_threads: int = 0,
    strategy: str = "raise",
    watch: Watch = lambda done, total: None,
) -> list[BadImage]:
    """Decodes (N, I) images on several threads, passes each to ``keep``, and returns the unreadable ones in order. Skips those that are None.

    Args:
        num_threads: 0: one per core.
        strategy: with ``zero``, an empty cell is not a bad image.
        watch: called at intervals; an exception it raises stops all threads and is raised here.
    """
    bad: list[BadImage] = []
    rows, stopped = iter(range(len(images))), threading.Event()  # each thread takes the next row from the same iterator

    def decode_rows() -> None:
        for row in rows:
            if stopped.is_set():
                return
            for column, source in enumerate(images[row]):
                if source is None or (strategy == "zero" and is_missing(source)):
                    continue
                try:
                    keep(row, column, decode_image(source, geometry))
                except UnreadableImage as problem:
                    bad.append(BadImage(row, column, name_source(source), str(problem)))

    num_threads = max(1, min(num_threads or usable_cores(), len(images)))
    with ThreadPoolExecutor(num_threads, "decoding") as pool:  # Pillow releases the GIL while it decodes and resizes
        tasks = [pool.submit(decode_rows) for _ in range(num_threads)]
        try:
            done, going_on = wait(tasks, SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION)
            while going_on and not any(task.exception() for task in done):
                watch(max(0, len(images) - length_hint(rows) - num_threads), len(images))
                done, going_on = wait(tasks, SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION)
        finally:
            stopped.set()
        for task in tasks:
            task.result()
    return sorted(bad, key=lambda image: (image.row, image.column))


def idle_cores() -> int:
    """Number of cores that torch does not use. Its threads wait for each other, so decoding on the same cores would make them many times slower."""
    return max(0, usable_cores() - torch.get_num_threads())


class OnDemand:
    """Images that are decoded every time they are requested. A split uses it like their (1 + M, S, S, 3) tensor.

    Args:
        sources: M images; the tensor has a black one before them, at index 0.
        num_threads: decoding threads; 0: one per core that torch leaves idle, or one per core if it leaves none, because torch then waits for them.
    """

    def __init__(self, sources: Sequence[ImageSource], geometry: ImageGeometry, num_threads: int = 0) -> None:
        self.sources, self.geometry, self.num_threads = ["", *sources], geometry, num_threads or idle_cores()
        self.shape = (len(self.sources), geometry.side, geometry.side, 3)

    def index_select(self, dim: int, places: torch.Tensor) -> torch.Tensor:
        """Decodes the images at these indices.

        Raises:
            BadImages: an image can no longer be read.
        """
        pixels = np.zeros((len(places), *self.shape[1:]), np.uint8)

        def keep(row: int, column: int, image: np.ndarray) -> None:
            pixels[row] = image

        if bad := decode_all([[self.sources[place]] for place in places.tolist()], self.geometry, keep, self.num_threads, "zero"):
            raise BadImages(f"{count_images(len(bad))} could be read when the fit began, and no longer can: {'; '.join(map(str, bad[:MAX_LISTED]))}")
        return torch.from_numpy(pixels)


def find_absent(images: Sequence[Sequence[ImageSource | None]], strategy: str = "raise") -> bool:
    """Whether any image file is missing, empty or not a regular file. Opens no file.

    Args:
        strategy: with ``zero``, an empty cell does not count as missing.
    """
    for row in images:
        for source in row:
            if isinstance(source, str) and is_path(source) and not (strategy == "zero" and is_missing(source)):
                try:
                    check_file(source)
                except UnreadableImage:
                    return True
    return False


def is_missing(source: ImageSource) -> bool:
    """Whether a cell is empty."""
    return isinstance(source, str) and not source


def is_path(source: ImageSource | None) -> bool:
    return isinstance(source, str) and not isinstance(source, Base64)


def describe(bad: Sequence[BadImage], labels: Sequence[object] | None = None) -> str:
    """Describes the unreadable images in one sentence, grouped by reason, the most frequent reason first.

    Args:
        labels: row labels of the caller's table; None: row positions.
    """
    alike: dict[str, list[BadImage]] = {}
    for image in bad:
        alike.setdefault(image.reason, []).append(image)

    def name(image: BadImage) -> str:
        row = f"row {image.row if labels is None else labels[image.row]!r}"
        # for images in memory, the reason is enough
        return f"{row}: {image.path}" if os.path.isabs(image.path) or URL.match(image.path) else row

    groups = []
    for reason, images in sorted(alike.items(), key=lambda group: -len(group[1])):
        names = ", ".join([name(image) for image in images[:MAX_ROWS]] + ["..."] * (len(images) > MAX_ROWS))
        groups.append((len(images), f"({names}): {reason}"))
    whole = f"{count_images(len(bad))} cannot be read"
    if len(groups) == 1:
        return f"{whole} {groups[0][1]}."
    listed = "; ".join(f"{count} {group}" for count, group in groups[:MAX_LISTED])
    more = sum(count for count, _ in groups[MAX_LISTED:])
    return f"{whole}: {listed}{f'; and {more} more' if more else ''}."


def count_images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def find_dark(sources: Sequence[ImageSource], max_pixels: int) -> str:
    """A warning if 16-bit images have such low values that little of them remains in 8 bits; empty otherwise. Checks only a sample of the images."""
    largest = [value for source in sources[:: max(1, len(sources) // NUM_LOOKED_AT)][:NUM_LOOKED_AT] if (value := largest_of_16_bits(source, max_pixels))]
    if not largest or max(largest) >= MOSTLY_DARK:
        return ""
    return (
        f"16-bit images will be dark: they are divided by 257, and the largest value in {len(largest)} sampled images is {max(largest):,} of 65,535; "
        "scale them to the full range, or use 8-bit images or uint8 arrays"
    )
