"""Which events an annotation's query comes to."""

from __future__ import annotations

from dashboards.preview.annotations import events
from dashboards.preview.frames import Series
from dashboards.preview.queries import Window

WINDOW = Window(1000, 2000)


def test_samples_that_follow_each_other_are_one_event() -> None:
    series = [Series({"alertname": "GPULost"}, [(1060, 1), (1120, 1), (1180, 0), (1240, 1)])]
    annotation = {"name": "Alerts", "titleFormat": "{{alertname}}", "iconColor": "orange"}
    assert [
        (one["time"], one["timeEnd"], one["title"], one["color"])
        for one in events(series, annotation, WINDOW, 60)
    ] == [
        (1_060_000, 1_120_000, "GPULost", "orange"),
        (1_240_000, 1_240_000, "GPULost", "orange"),
    ]


def test_a_value_may_be_the_time_and_shows_where_it_lies_in_the_window() -> None:
    series = [Series({}, [(1060, 990_000), (1120, 1_100_000), (1180, 1_100_000), (1240, 1_200_000)])]
    found = events(series, {"name": "Checkpoints", "useValueForTime": True}, WINDOW, 60)
    assert [one["time"] for one in found] == [1_100_000, 1_200_000]
    assert {one["title"] for one in found} == {"Checkpoints"}
