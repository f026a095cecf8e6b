"""What a model must know of a fitted table: plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """Which inputs there are.

    Attributes:
        num_images: pictures of a row, those of all image columns.
        numeric: names of the numeric matrix's columns, indicators and parts of dates among them.
        cardinalities: codes of each categorical column, 0 .. n-1; 0 is what training did not have.
        num_texts: text columns; a row's are joined into one text.
        num_scores: of ``numeric``, the last so many are what the words of these texts say of the target (``ngrams.py``).
    """

    num_images: int = 0
    numeric: tuple[str, ...] = ()
    cardinalities: tuple[int, ...] = ()
    num_texts: int = 0
    num_scores: int = 0
