"""What a model must know about a fitted table. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """The inputs that a table provides.

    Attributes:
        num_images: images per row, over all image columns.
        numeric: column names of the numeric matrix, including missing-value indicators and parts of dates.
        cardinalities: number of codes of each categorical column, 0 .. n-1, where 0 is an unknown category.
        num_texts: number of text columns, which are joined into one text per row.
        num_scores: how many columns at the end of ``numeric`` are n-gram scores of these texts (``ngrams.py``).
    """

    num_images: int = 0
    numeric: tuple[str, ...] = ()
    cardinalities: tuple[int, ...] = ()
    num_texts: int = 0
    num_scores: int = 0
