"""What a model must know of a fitted table: plain data, with a JSON round trip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Features:
    """Which inputs there are.

    Attributes:
        num_images: image columns.
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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(values["num_images"], tuple(values["numeric"]), tuple(values["cardinalities"]), values["num_texts"], values["num_scores"])
