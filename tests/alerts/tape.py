"""Samples by series and scrape, written as promtool reads them."""

from __future__ import annotations

from collections.abc import Iterable


class Tape:
    """What a Prometheus has scraped; what a scrape does not bring any more gets a stale marker, None."""

    def __init__(self) -> None:
        self._points: dict[str, list[tuple[int, float | None]]] = {}
        self._present: set[str] = set()

    def record(self, index: int, samples: Iterable[tuple[str, float]]) -> None:
        now = dict(samples)
        for key, value in now.items():
            self._points.setdefault(key, []).append((index, _rounded(float(value))))
        for key in self._present - now.keys():
            self._points[key].append((index, None))
        self._present = set(now)

    def input_series(self) -> list[dict[str, str]]:
        return [{"series": key, "values": notation(points)} for key, points in self._points.items()]


def _rounded(value: float) -> float:
    """To a 1024th, of which sums are exact: promtool adds step to step, and a counter must not fall."""
    return round(value * 1024) / 1024 if abs(value) >= 0.5 else round(value, 9)


def notation(points: Iterable[tuple[int, float | None]]) -> str:
    """Samples by number of scrape as promtool reads them: `5x3` is 5 four times, `_` none, `stale` an end."""
    words: list[str] = []
    line: _Line | None = None
    following = 0
    for index, value in points:
        if line and index == following and value is not None and line.takes(value):
            following += 1
            continue
        words += [str(line)] if line else []
        words += [f"_x{index - following}"] if index > following else []
        words += ["stale"] if value is None else []
        line = None if value is None else _Line(value)
        following = index + 1
    return " ".join([*words, str(line)] if line else words)


class _Line:
    """Samples of which each is the one before and a step."""

    def __init__(self, first: float) -> None:
        self._first, self._last, self._step, self._more = first, first, 0.0, 0

    def takes(self, value: float) -> bool:
        step = value - self._last
        if step and not (_is_exact(self._last) and _is_exact(value)):
            return False
        if self._more and step != self._step:
            return False
        self._last, self._step, self._more = value, step, self._more + 1
        return True

    def __str__(self) -> str:
        step = f"{self._step:+}" if self._step else ""
        return f"{self._first}{step}x{self._more}" if self._more else f"{self._first}"


def _is_exact(value: float) -> bool:
    return (value * 1024).is_integer()
