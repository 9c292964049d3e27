"""What is asked, and of what; how fast, the benchmark says."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path

import pytest

from alerts.thresholds import Thresholds
from dashboards import build
from dashboards.preview.queries import Window
from tests.benchmarks import blocks, dashboards, fleet
from tests.benchmarks.blocks import Series
from tests.benchmarks.dashboards import Answered, Opened, Panel, Request
from tests.benchmarks.fleet import Recorded
from tests.prometheus import PrometheusServer

MINUTE = 60_000
HOUR = 60 * MINUTE


def test_a_prometheus_reads_of_our_blocks_what_was_written(tmp_path: Path) -> None:
    of = random.Random(1)
    end = int(time.time() // 7200 * 7200) * 1000
    moments = range(end - 4 * HOUR, end, 15_000)
    with_gaps = [moment + of.choice([0, 0, 0, 1, -3, 5_000]) for moment in moments if of.random() > 0.2]
    jumping = sorted(of.sample(range(end - 4 * HOUR, end - HOUR), 300))
    samples = {
        "level": [(moment, 3.0) for moment in moments],
        "noise": [(moment, of.gauss(0, 1) * 10 ** of.randint(-9, 9)) for moment in moments],
        "counter": [(moment, float(place // 3)) for place, moment in enumerate(moments)],
        "special": [
            (moment, [math.inf, -math.inf, 0.0, -0.0, 5e-324][place % 5])
            for place, moment in enumerate(moments)
        ],
        "gaps": [(moment, of.random()) for moment in with_gaps],
        "jumping": [(moment, of.random()) for moment in jumping],
        "one": [(end - HOUR, 42.0)],
    }
    courses = {name: blocks.pack(points, 2 * HOUR) for name, points in samples.items()}
    series = sorted(
        Series((("__name__", f"of_{name}"), ("copy", str(copy)), ("of", "é")), course)
        for name, course in courses.items()
        for copy in range(70)
    )
    server = PrometheusServer(tmp_path)
    for start in (end - 4 * HOUR, end - 2 * HOUR):
        blocks.write_block(server.data, series, start, start + 2 * HOUR)
    with server:
        for name, points in samples.items():
            found = server.get("/api/v1/query", query=f"of_{name}[5h]", time=f"{end / 1000}")["result"]
            assert len(found) == 70
            for one in found:
                assert [(round(at * 1000), float(value)) for at, value in one["values"]] == points
        [one] = server.query('of_one{copy="69"}', at=end / 1000 - 3600)
        assert one.labels == {"__name__": "of_one", "copy": "69", "of": "é"}


def test_a_series_that_ends_is_gone_at_the_next_scrape(tmp_path: Path) -> None:
    end = int(time.time() // 7200 * 7200) * 1000
    ends = fleet.with_stale([(end - 300_000, 1.0), (end - 240_000, 2.0)], 15_000, end)
    assert [moment for moment, _ in ends] == [end - 300_000, end - 285_000, end - 240_000, end - 225_000]
    goes_on = fleet.with_stale([(end - 15_000, 1.0), (end, 2.0)], 15_000, end)
    assert goes_on == [(end - 15_000, 1.0), (end, 2.0)]

    server = PrometheusServer(tmp_path)
    blocks.write_block(
        server.data,
        [Series((("__name__", "ends"),), blocks.pack(ends, 2 * HOUR))],
        end - 2 * HOUR,
        end,
    )
    with server:
        found = [server.query("ends", at=(end - ago) / 1000) for ago in (290_000, 280_000, 230_000, 220_000)]
        assert [[one.points[0][1] for one in series] for series in found] == [[1.0], [], [2.0], []]


def test_what_grows_goes_on_and_all_else_begins_anew() -> None:
    length, end = 4 * 15_000, 1_800_000_000_000
    moments = range(end - length + 15_000, end + 1, 15_000)
    start = end - 3 * length

    def over_three(name: str, values: list[float]) -> list[float]:
        series = Recorded({"__name__": name}, list(zip(moments, values, strict=True)))
        made = fleet.repeated(series, start, end, length)
        assert [moment for moment, _ in made] == list(range(start + 15_000, end + 1, 15_000))
        return [value for _, value in made]

    assert over_three("loss", [3, 2, 1, 2]) == [3, 2, 1, 2] * 3
    assert over_three("steps_total", [5, 6, 7, 9]) == [9, 10, 11, 13, 13, 14, 15, 17, 17, 18, 19, 21]
    last_step = [moment / 1000 - 3 for moment in moments]
    assert over_three("last_step_timestamp_seconds", last_step)[0] == start / 1000 + 15 - 3
    assert over_three("start_timestamp_seconds", [1.7e9] * 4) == [1.7e9] * 12


def test_a_panel_asks_what_grafana_would(tmp_path: Path) -> None:
    window = Window(1_800_000_000, 1_800_086_400)
    dashboard = {
        "panels": [
            _panel(1, "wide", 24, [{"expr": 'rate(x{run=~"$run"}[$__rate_interval])'}]),
            _panel(2, "table", 12, [{"expr": "y", "instant": True}, {"expr": "z", "instant": True}]),
            {
                **_panel(3, "row", 24, []),
                "type": "row",
                "collapsed": True,
                "panels": [_panel(4, "inner", 12, [{"expr": "w", "interval": "10m"}])],
            },
        ],
        "annotations": {
            "list": [{"enable": True, "expr": "v", "step": "60s"}, {"enable": False, "expr": "u"}]
        },
    }
    over_day = {"start": "1800000000.000", "end": "1800086400.000"}
    wide, table, inner, marks = dashboards.panels(dashboard, window, {"run": ".+"})
    assert wide == Panel(
        "wide",
        [Request("/api/v1/query_range", {"query": 'rate(x{run=~".+"}[75s])', **over_day, "step": "60"})],
    )
    assert table.requests == [
        Request("/api/v1/query", {"query": name, "time": "1800086400.000"}) for name in ("y", "z")
    ]
    assert [each.at_first for each in (wide, table, inner, marks)] == [True, True, False, True]
    assert inner.requests[0].parameters["step"] == "600"
    assert [(each.parameters["query"], each.parameters["step"]) for each in marks.requests] == [("v", "60")]


def _panel(number: int, title: str, width: int, targets: list[dict[str, object]]) -> dict[str, object]:
    place = {"x": 0, "y": number, "w": width, "h": 8}
    return {"id": number, "type": "timeseries", "title": title, "gridPos": place, "targets": targets}


def test_a_bar_is_kept_up_to_it_and_not_above() -> None:
    def kept(panel_ms: float, whole_ms: float, refused: str = "") -> list[bool]:
        panel = Answered("runs", panel_ms, 1, 1, refused)
        opened = Opened(dashboards.FLEET, [panel], 0, whole_ms, 9999)
        return [each.kept for each in dashboards.promises([opened])]

    assert kept(500, 3000) == [True, True, True]
    assert kept(501, 3001, "too many samples") == [False, False, False]


@pytest.mark.long
def test_every_dashboard_is_asked_of_a_small_fleet(tmp_path: Path) -> None:
    folder, made = dashboards.database(tmp_path, fleet.QUICK)
    assert made.series > 40 * 100 + 8 * 100
    assert dashboards.database(tmp_path, fleet.QUICK) == (folder, made)

    every = dashboards.measure(folder, made.end, fleet.QUICK.hours, build.documents(Thresholds()))
    assert {opened.uid for opened in every} >= {"trainvitals-foundation", dashboards.FLEET}
    assert [panel for opened in every for panel in opened.panels if panel.refused] == []
    [utilization] = [panel for opened in every for panel in opened.panels if panel.title == "GPU utilization"]
    # Of one run, that it is opened on.
    assert utilization.series == fleet.QUICK.gpus / fleet.QUICK.runs
