"""Many images at once: decoded on threads, with its course told and an end when there must be one, or batch by batch as they are wanted."""

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

MAX_LISTED = 10  # images, or reasons
MAX_ROWS = 5  # of a reason
NUM_LOOKED_AT, MOSTLY_DARK = 20, 8_192  # pictures, and a value that 16-bit ones hardly go without
SECONDS_BETWEEN_LOOKS = 0.1
FIRST_LINE, SECONDS_BETWEEN_LINES = 3.0, 10.0  # of a decoding that takes long

Watch = Callable[[int, int], None]
"""Told now and then how many of how many images are decoded; what it raises ends the decoding. 0 of 0: another process decodes them."""


@dataclass(frozen=True)
class BadImage:
    row: int  # position, not index label
    column: int
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path or '(no path)'}: {self.reason}"


class Course:
    """A ``Watch`` that tells people how far it is, and ends it at a deadline or when it is cancelled.

    Args:
        deadline: time.time() at which there must be an end; None: no limit.
        cancelled: set by another thread that needs the images no more.

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
            needed = "" if left is None else f", the others take about {max(1.0, left):.0f} s more"
            raise TimeLimitTooShort(f"time_limit: decoding the images took it all ({far}{needed}); give more")
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
    """Decodes (N, I) pictures, but for those that are None, on several threads, hands each to ``keep``, and returns those that are none, in order.

    Args:
        num_threads: 0: one per core.
        strategy: with ``zero`` an empty cell is no bad image.
        watch: what it raises is raised here, and no thread goes on.
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
    with ThreadPoolExecutor(num_threads, "decoding") as pool:  # Pillow decodes and resizes outside the interpreter lock
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
    """Cores that torch does not use. Its threads wait for each other: with decoding ones on the same cores they would be many times slower."""
    return max(0, usable_cores() - torch.get_num_threads())


class OnDemand:
    """Pictures that are decoded each time they are asked for; to a split it looks like the (1 + M, S, S, 3) tensor of them.

    Args:
        sources: M pictures; the first of the tensor is black and none of them.
        num_threads: decoding threads; 0: one per core that torch leaves idle, or where it leaves none one per core, for then it waits.
    """

    def __init__(self, sources: Sequence[ImageSource], geometry: ImageGeometry, num_threads: int = 0) -> None:
        self.sources, self.geometry, self.num_threads = ["", *sources], geometry, num_threads or idle_cores()
        self.shape = (len(self.sources), geometry.side, geometry.side, 3)

    def index_select(self, dim: int, places: torch.Tensor) -> torch.Tensor:
        """The pictures at these places, decoded now.

        Raises:
            BadImages: an image can be read no more.
        """
        pixels = np.zeros((len(places), *self.shape[1:]), np.uint8)

        def keep(row: int, column: int, image: np.ndarray) -> None:
            pixels[row] = image

        if bad := decode_all([[self.sources[place]] for place in places.tolist()], self.geometry, keep, self.num_threads, "zero"):
            raise BadImages(f"{count_images(len(bad))} could be read when the fit began, and no more: {'; '.join(map(str, bad[:MAX_LISTED]))}")
        return torch.from_numpy(pixels)


def find_absent(images: Sequence[Sequence[ImageSource | None]], strategy: str = "raise") -> bool:
    """Whether a file is plainly not there or no file; nothing is opened.

    Args:
        strategy: with ``zero`` an empty cell is none of those.
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
    """The unreadable images in one sentence: those of a reason together, the most frequent one first.

    Args:
        labels: what the caller's table calls its rows.
    """
    alike: dict[str, list[BadImage]] = {}
    for image in bad:
        alike.setdefault(image.reason, []).append(image)

    def name(image: BadImage) -> str:
        row = f"row {image.row if labels is None else labels[image.row]!r}"
        # of what is in memory the reason says enough
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
    """What to say of 16-bit pictures whose values are low, of which little is left in 8 bits; a few are looked at. Empty where there are none."""
    largest = [value for source in sources[:: max(1, len(sources) // NUM_LOOKED_AT)][:NUM_LOOKED_AT] if (value := largest_of_16_bits(source, max_pixels))]
    if not largest or max(largest) >= MOSTLY_DARK:
        return ""
    return (
        f"16-bit pictures come out dark: the largest value in {len(largest)} that were looked at is {max(largest):,} of 65,535, and all are divided by 257; "
        "scale them to the whole range, or give 8-bit ones or uint8 arrays"
    )
