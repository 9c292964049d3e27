"""When a scenario takes place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Period(NamedTuple):
    """From `start` to `end`, scraped and evaluated at both and every `step` seconds; unix seconds."""

    start: float
    end: float
    step: float

    def moments(self) -> Iterator[float]:
        for number in range(round((self.end - self.start) / self.step) + 1):
            yield self.start + number * self.step
