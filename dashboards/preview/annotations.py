"""The events a dashboard's annotations find: moments and stretches of time that its pictures mark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboards.preview.frames import Series, name_of
from dashboards.preview.queries import Window

Json = dict[str, Any]


def events(series: Sequence[Series], annotation: Json, window: Window, step_seconds: float) -> list[Json]:
    """The annotation's events within the window; their times are in milliseconds.

    Samples that are not 0 and follow each other are one event. With `useValueForTime` the value is the time
    of an event instead, in milliseconds.
    """
    found = []
    for one in series:
        if annotation.get("useValueForTime"):
            stretches = [(value / 1000, value / 1000) for value in sorted({value for _, value in one.points})]
        else:
            stretches = _stretches([moment for moment, value in one.points if value], step_seconds)
        for start, end in stretches:
            if start <= window.end and end >= window.start:
                found.append(
                    {
                        "color": annotation.get("iconColor", "red"),
                        "title": name_of(one.labels, annotation.get("titleFormat") or annotation["name"]),
                        "time": start * 1000,
                        "timeEnd": end * 1000,
                    }
                )
    return found


def _stretches(moments: Sequence[float], step_seconds: float) -> list[tuple[float, float]]:
    stretches: list[tuple[float, float]] = []
    for moment in moments:
        if stretches and moment - stretches[-1][1] <= step_seconds:
            stretches[-1] = (stretches[-1][0], moment)
        else:
            stretches.append((moment, moment))
    return stretches
