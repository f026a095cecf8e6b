"""Rows as tensors: a whole split (``TensorCache``), and the batches of it that go through a model (``Batch``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import Any, Self, TypeVar

import torch

from .decoding import OnDemand, idle_cores

Item = TypeVar("Item")
Value = TypeVar("Value")
BATCHES_AHEAD = 2
ROWS_AT_ONCE = 1_024  # images copied to a device in one chunk


def text_ends(max_text_len: int) -> tuple[int, int]:
    """How many tokens to keep from the beginning and from the end of a text that is too long.

    Both ends are more informative than the same number of tokens from the beginning (Sun et al. 2019, "How to fine-tune BERT for text
    classification", arXiv:1905.05583). Cutting a text again, to a smaller length, gives the same tokens as cutting the original.
    """
    return max_text_len - max_text_len // 2, max_text_len // 2


@dataclass(frozen=True)
class Pictures:
    """The images of a split, as indices into a store that splits and searches share.

    Attributes:
        store: (M, S, S, 3) uint8, memory-mapped, or an ``OnDemand`` that decodes the requested images. Index 0 is black, for empty cells.
        places: (N, I) int64 indices into ``store``, on the CPU. -i repeats image i, as padding in a row with fewer images than others.
        key: identifies the set of images; equal for stores of the same images.
    """

    store: torch.Tensor | OnDemand
    places: torch.Tensor
    key: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, I, S, S, 3)."""
        return (*self.places.shape, *self.store.shape[1:])

    @property
    def nbytes(self) -> int:
        return prod(self.shape)

    def __getitem__(self, rows: slice) -> Self:
        return replace(self, places=self.places[rows])

    def pixels(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """(B, I, S, S, 3) uint8 on the CPU."""
        places = self.places[rows].abs()
        return self.store.index_select(0, places.flatten()).unflatten(0, places.shape)

    def to(self, device: torch.device) -> torch.Tensor:
        """All pixels on a device, (N, I, S, S, 3) uint8."""
        pixels = torch.empty(self.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(pixels), ROWS_AT_ONCE):
            pixels[start : start + ROWS_AT_ONCE] = self.pixels(slice(start, start + ROWS_AT_ONCE)).to(device)
        return pixels


@dataclass(frozen=True)
class _Rows:
    """The fields of rows. A modality that the table lacks is a tensor with an axis of length 0, or an empty mapping."""

    images: torch.Tensor | Pictures
    image_mask: torch.Tensor
    target: torch.Tensor
    numeric: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    categorical: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    tokens: Mapping[str, torch.Tensor] = field(default_factory=dict)
    token_counts: Mapping[str, torch.Tensor] = field(default_factory=dict)
    weight: torch.Tensor = field(default_factory=lambda: torch.ones(0))
    fold: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))

    def __post_init__(self) -> None:
        num_rows, device = len(self.target), self.target.device
        for name in ("numeric", "categorical", "fold"):
            if not (value := getattr(self, name)).numel() and len(value) != num_rows:
                object.__setattr__(self, name, value.new_zeros(num_rows, 0, device=device))
        if not len(self.weight):
            object.__setattr__(self, "weight", torch.ones(num_rows, device=device))

    def __len__(self) -> int:
        return len(self.target)

    def _values(self, function: Callable[[torch.Tensor], Any], but: Sequence[str] = ()) -> dict[str, Any]:
        """Applies a function to every tensor, except those of the fields ``but``. Results by field name."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in but}
        return {
            name: {key: function(tensor) for key, tensor in value.items()} if isinstance(value, Mapping) else function(value) for name, value in values.items()
        }


@dataclass(frozen=True)
class Batch(_Rows):
    """The rows that go through a model at once.

    Attributes:
        images: (B, I, 3, S, S) uint8, channels last in memory.
        image_mask: (B, I) bool, False for images that the row does not have.
        target: (B,) int64 classes or float32 values.
        numeric: (B, Dn) float32, about N(0, 1), no NaN.
        categorical: (B, Dc) int64 codes.
        tokens: tokenizer -> (B, L) int64, padded on the right to the longest row.
        token_counts: tokenizer -> (B,) int64, number of tokens without padding.
        weight: (B,) float32, weight of each row in the loss.
        fold: (B, F) bool, true for the fold that the row is in; (B, 0) if no network leaves rows out.
    """

    images: torch.Tensor

    def to(self, device: torch.device) -> Self:
        def move(tensor: torch.Tensor) -> torch.Tensor:
            if device.type == "cuda" and tensor.numel():
                return tensor.pin_memory().to(device, non_blocking=True)  # from pinned memory, so the copy is asynchronous
            return tensor.to(device)

        return self if self.target.device == device else replace(self, **self._values(move))

    def with_images(self, images: torch.Tensor) -> Self:
        return replace(self, images=images)

    def text(self, tokenizer: str, max_text_len: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) tokens and (B,) counts, cut to ``max_text_len``. So one cache serves trials with different lengths."""
        tokens, counts = self.tokens[tokenizer], self.token_counts[tokenizer]
        if tokens.shape[1] <= max_text_len:
            return tokens, counts
        first, last = text_ends(max_text_len)
        ends = (counts.unsqueeze(1) - last + torch.arange(last, device=tokens.device)).clamp(min=0)  # (B, last)
        halves = torch.cat([tokens[:, :first], tokens.gather(1, ends)], 1)
        cut = torch.where((counts > max_text_len).unsqueeze(1), halves, tokens[:, :max_text_len])
        return cut, counts.clamp(max=max_text_len)


@dataclass(frozen=True)
class TensorCache(_Rows):
    """An encoded split of the table.

    Has the fields of ``Batch`` for all N rows, with two differences: images are (N, I, S, S, 3) or indices into a store (``Pictures``), and tokens
    are int32 and one column wider than the longest row, so that the last column is padding. ``token_counts`` stay on the CPU, so that finding
    a batch's longest row does not wait for the device.
    """

    @property
    def is_streamed(self) -> bool:
        """Whether the images are decoded every time they are requested."""
        return isinstance(self.images, Pictures) and isinstance(self.images.store, OnDemand)

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu":
            return self
        return replace(self, **self._values(lambda tensor: tensor.to(device), but=["token_counts"]))

    def without_folds(self) -> Self:
        return replace(self, fold=self.fold[:, :0])

    def head(self, num_rows: int) -> Self:
        return replace(self, **self._values(lambda tensor: tensor[:num_rows]))

    @property
    def nbytes(self) -> int:
        held = self._values(lambda tensor: tensor.nbytes).values()
        return sum(sum(value.values()) if isinstance(value, dict) else value for value in held)

    def batch(self, rows: torch.Tensor | slice) -> Batch:
        """The batch of the given rows.

        Args:
            rows: a slice, or a tensor of row positions on the CPU.
        """
        there = rows if isinstance(rows, slice) else rows.to(self.target.device, non_blocking=True)

        def take(values: torch.Tensor) -> torch.Tensor:  # index_select copies whole rows, indexing copies byte by byte
            return values[there] if isinstance(there, slice) else values.index_select(0, there)

        images = self.images.pixels(rows) if isinstance(self.images, Pictures) else take(self.images)
        counts = {name: each[rows] for name, each in self.token_counts.items()}
        return Batch(
            images.permute(0, 1, 4, 2, 3),
            take(self.image_mask),
            take(self.target),
            take(self.numeric),
            take(self.categorical),
            {name: take(tokens[:, : int(counts[name].max()) if len(counts[name]) else 0]).long() for name, tokens in self.tokens.items()},
            {name: each.to(self.target.device, non_blocking=True) for name, each in counts.items()},
            take(self.weight),
            take(self.fold),
        )


def batches(data: TensorCache, blocks: Iterable[torch.Tensor | slice], device: torch.device) -> Iterator[Batch]:
    """Yields one batch on the device for each block of rows.

    If the data are not on the device yet, or not decoded, a thread prepares the next batches meanwhile; on a CPU only if torch leaves a core idle.

    Args:
        blocks: slices, or tensors of row positions on the CPU.
    """

    def fetch(rows: torch.Tensor | slice) -> Batch:
        return data.batch(rows).to(device)

    at_hand = data.target.device == device and not data.is_streamed
    return map(fetch, blocks) if at_hand or (device.type == "cpu" and not idle_cores()) else ahead(fetch, blocks, BATCHES_AHEAD)


def ahead(function: Callable[[Item], Value], items: Iterable[Item], count: int) -> Iterator[Value]:
    """Like ``map``, but computed in a background thread, up to ``count`` values ahead of the consumer."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        tasks: deque[Future[Value]] = deque()
        try:
            for item in items:
                tasks.append(pool.submit(function, item))
                if len(tasks) > count:
                    yield tasks.popleft().result()
            while tasks:
                yield tasks.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def join_rows(parts: Sequence[TensorCache]) -> TensorCache:
    """Concatenates splits. Splits that share a store of images keep sharing it.

    Raises:
        ValueError: the splits have different tokenizers or different stores of images.
    """
    if any(part.tokens.keys() != parts[0].tokens.keys() for part in parts):
        raise ValueError("splits of different tokenizers")
    tokens, counts = {}, {}
    for name in parts[0].tokens:
        longest = max(part.tokens[name].shape[1] for part in parts)
        wide = [part.tokens[name][:, [-1]].expand(-1, longest - part.tokens[name].shape[1]) for part in parts]  # the last column is padding
        tokens[name] = torch.cat([torch.cat([part.tokens[name], padding], 1) for part, padding in zip(parts, wide, strict=True)])
        counts[name] = torch.cat([part.token_counts[name] for part in parts])
    plain = ("image_mask", "target", "numeric", "categorical", "weight", "fold")
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in plain}
    return TensorCache(images=_join_images([part.images for part in parts]), tokens=tokens, token_counts=counts, **joined)


def _join_images(parts: Sequence[torch.Tensor | Pictures]) -> torch.Tensor | Pictures:
    pictures, tensors = [part for part in parts if isinstance(part, Pictures)], [part for part in parts if isinstance(part, torch.Tensor)]
    if not pictures:
        return torch.cat(tensors)
    if tensors or any(part.key != pictures[0].key for part in pictures):
        raise ValueError("splits of different stores of images")
    return replace(pictures[0], places=torch.cat([part.places for part in pictures]))
