"""What the samples of one look of a collector say, and the clocks it goes by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from exporters.catalog import CATALOG
from exporters.collector import Histogram, Sample

Look = Callable[[], list[Sample]]
Series = tuple[str, tuple[tuple[str, str], ...]]


class Clocks:
    """The machine's clocks, ahead by some seconds."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0
        self.wall_set_by_seconds = 0.0
        self.stopped_at_ns: int | None = None

    def monotonic_ns(self) -> int:
        now_ns = time.monotonic_ns() if self.stopped_at_ns is None else self.stopped_at_ns
        return now_ns + int(self.ahead_seconds * 1e9)

    def wall(self) -> float:
        return time.time() + self.ahead_seconds + self.wall_set_by_seconds


def by_series(samples: Iterable[Sample]) -> dict[Series, float | Histogram]:
    """Values by name and labels; no series may be there twice."""
    values: dict[Series, float | Histogram] = {}
    for sample in samples:
        series = sample.metric.name, tuple(sorted(sample.labels.items()))
        assert series not in values, f"{series} is there twice"
        values[series] = sample.value
    return values


def values(samples: Iterable[Sample], name: str, label: str) -> dict[str, float | Histogram]:
    """The values of a metric by one of its labels."""
    return {sample.labels[label]: sample.value for sample in samples if sample.metric.name == name}


def state(samples: Iterable[Sample], run: str = "a-run") -> str:
    """The one state of a run that is 1."""
    (state,) = (
        sample.labels["state"]
        for sample in samples
        if sample.metric.name == "training_run_state" and sample.labels["run"] == run and sample.value == 1
    )
    return state


def value(samples: list[Sample], name: str, **labels: str) -> float | Histogram:
    """The value of the one series of this name that has these labels."""
    (found,) = (
        sample.value
        for sample in samples
        if sample.metric.name == name and labels.items() <= sample.labels.items()
    )
    return found


def names(samples: list[Sample]) -> set[str]:
    return {sample.metric.name for sample in samples}


def published(samples: list[Sample]) -> dict[str, float | Histogram]:
    return values(samples, "trainvitals_runs_published", "detail")


def counters(samples: list[Sample]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every counter and histogram bucket of the runs by series."""
    found = {}
    for (name, labels), number in by_series(samples).items():
        if isinstance(number, Histogram):
            for index, count in enumerate(number.cumulative_counts):
                found[f"{name} {index}", labels] = float(count)
        elif CATALOG[name].kind == "counter":
            found[name, labels] = number
    return found


def timestamps(samples: list[Sample]) -> dict[str, float]:
    return {
        f"{sample.metric.name} {sample.labels}": sample.value
        for sample in samples
        if sample.metric.name.endswith("timestamp_seconds") and not isinstance(sample.value, Histogram)
    }
