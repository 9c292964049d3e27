"""One curve made of those of all ranks: their sum, or the value of their pooled totals."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from exporters.history.attempts import Column, Part
from exporters.history.curves import Curve

T = TypeVar("T")


class Places:
    """What one rank has in the bins that all ranks share, by their places on the axis."""

    def __init__(
        self, values: Mapping[int, float], grown: Mapping[int, Sequence[float]] | None = None
    ) -> None:
        self.grown = grown or {}
        self._values = values
        self._places = sorted(values)

    @classmethod
    def of(cls, parts: Sequence[Part], columns: Sequence[Column]) -> Places:
        """Of a column of each part."""
        return cls(_by_place(parts, columns))

    @classmethod
    def of_curve(cls, parts: Sequence[Part], curve: Curve) -> Places:
        grown = _by_place(parts, [part.grown(curve) for part in parts])
        return cls(_by_place(parts, [part.values(curve)[0] for part in parts]), grown)

    def __bool__(self) -> bool:
        return bool(self._places)

    def until(self, place: int) -> float:
        """The value here or in the nearest bin before; 0 where there is none."""
        here = self._values.get(place)
        if here is not None:
            return here
        index = bisect.bisect_right(self._places, place)
        return self._values[self._places[index - 1]] if index else 0.0

    def since(self, place: int) -> float | None:
        """The value here or in the next bin, whose time began here; 0 behind a rank's end.

        None just behind its newest bin: there it may only be a little late.
        """
        here = self._values.get(place)
        if here is not None:
            return here
        index = bisect.bisect_left(self._places, place)
        if index < len(self._places):
            return self._values[self._places[index]]
        return None if self._places and place - self._places[-1] <= 1 else 0.0


def over_ranks(curve: Curve, ranks: Sequence[Places], place: int) -> float | None:
    """The curve of the run at a place; None where it is not known."""
    if curve.over_ranks == "pool":
        grown = [rank.grown[place] for rank in ranks if place in rank.grown]
        return curve.value([sum(each) for each in zip(*grown, strict=True)], 0.0) if grown else None
    if not any(ranks):
        return None
    total = 0.0
    for rank in ranks:
        value = rank.since(place)
        if value is None:
            return None
        total += value
    return total


def _by_place(parts: Iterable[Part], columns: Iterable[Sequence[T | None]]) -> dict[int, T]:
    """What is known of a column of each part."""
    return {
        place: value
        for part, column in zip(parts, columns, strict=True)
        for place, value in zip(part.places, column, strict=True)
        if value is not None
    }
