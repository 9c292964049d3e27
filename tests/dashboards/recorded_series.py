"""Series as Prometheus would have recorded them, over two hours, and how their values move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

LENGTH_SECONDS = 2 * 3600
INTERVAL_SECONDS = 15
EVALUATION_SECONDS = 600
GIB = 2**30

SERVICE = {"job": "training-service", "instance": "gpu-node-1:8003"}

Course = Callable[[float], float]


class RecordedSeries(NamedTuple):
    """A series and its value as a function of the seconds since the start.

    That of an `age` is how long before each sample something was; the sample tells when. It begins
    `since_seconds` after the start, so before it where that is negative, and ends `until_seconds` after it.
    """

    metric: str
    labels: Mapping[str, str]
    course: Course
    age: bool = False
    since_seconds: float = 0
    until_seconds: float = LENGTH_SECONDS


def openmetrics(recorded: Iterable[RecordedSeries], end: float) -> str:
    """The recording as OpenMetrics text; its last sample is at `end`, in unix seconds."""
    families: dict[str, list[RecordedSeries]] = {}
    for one in recorded:
        families.setdefault(one.metric, []).append(one)
    lines = []
    for name, members in families.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines.append(f"# TYPE {name.removesuffix('_total')} {kind}")
        for one in members:
            labels = ",".join(f'{label}="{value}"' for label, value in one.labels.items())
            for seconds in range(int(one.since_seconds), int(one.until_seconds) + 1, INTERVAL_SECONDS):
                moment = end - LENGTH_SECONDS + seconds
                value = moment - one.course(seconds) if one.age else one.course(seconds)
                lines.append(f"{name}{{{labels}}} {value:.13g} {moment:.3f}")
    return "\n".join([*lines, "# EOF", ""])


def constant(value: float) -> Course:
    return lambda _: value


def decay(start: float, end: float) -> Course:
    return lambda s: end + (start - end) * math.exp(-s / 1800)


def noisy(course: Course, height: float) -> Course:
    """`course` with a ripple that looks random and is the same at every call."""
    return lambda s: course(s) + height * math.sin(s * 0.37) * math.sin(s * 1.93 + 1)


def held(course: Course) -> Course:
    return lambda s: course(s // EVALUATION_SECONDS * EVALUATION_SECONDS)


def counted(a_second: float, rank: int) -> Course:
    return lambda s: math.floor(a_second * s + 12 * math.sin(s / 250) + rank)
