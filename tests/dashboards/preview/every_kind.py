"""A dashboard with a panel of every kind the preview draws, over tests/dashboards/recorded_training.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

BROKEN = "Broken"
EMPTY = "Empty"

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_STATE = 'floor(training_loss{run=~"$run"} * 2) % 3'
_STATES = [
    {
        "type": "value",
        "options": {
            "0": {"text": "training", "color": "blue", "index": 0},
            "1": {"text": "evaluating", "color": "orange", "index": 1},
            "2": {"text": "failed", "color": "red", "index": 2},
        },
    }
]
_STEPS = [{"color": "green", "value": None}, {"color": "red", "value": 1.5}]
_LINES = {
    "drawStyle": "line",
    "lineWidth": 2,
    "fillOpacity": 20,
    "showPoints": "never",
    "thresholdsStyle": {"mode": "line"},
}
_LEGEND = {"showLegend": True, "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]}
_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_BOUNDS = (0.02, 0.03, 0.035, 0.04)


def dashboard() -> Json:
    panels = [
        _panel("timeseries", ['training_loss{run=~"$run"}'], {"legend": _LEGEND}, _LINES),
        _panel(
            "stat", ["training_loss"], {"reduceOptions": _LAST, "colorMode": "value", "graphMode": "area"}
        ),
        _panel("gauge", ["training_loss"], {"reduceOptions": _LAST}),
        _panel("bargauge", ["training_loss"], {"reduceOptions": _LAST, "displayMode": "gradient"}),
        _panel("state-timeline", [_STATE], {"legend": _LEGEND}, mappings=_STATES),
        _panel("status-history", [_STATE], {"legend": _LEGEND}, mappings=_STATES, interval="5m"),
        _panel("heatmap", [_buckets()], {"yAxis": {"unit": "s"}}, format="heatmap"),
        _panel("trend", ["training_loss", "training_batches_processed_total"], {"legend": _LEGEND}, _LINES)
        | _over_the_count(),
        _panel("table", ["training_loss", "training_accuracy"], {}, format="table", instant=True)
        | {"transformations": [{"id": "merge", "options": {}}]},
        _panel("text", [], {"mode": "markdown", "content": "# Words\nof **explanation**"}),
        _panel("timeseries", ["sum("], {"legend": _LEGEND}, _LINES) | {"title": BROKEN},
        _panel("timeseries", ["no_such_metric"], {"legend": _LEGEND}, _LINES) | {"title": EMPTY},
    ]
    for place, panel in enumerate(panels):
        panel["id"] = place + 1
        panel["gridPos"] = {"x": place % 3 * 8, "y": place // 3 * 7, "w": 8, "h": 7}
    return {
        "uid": "every-kind",
        "title": "Every kind of panel",
        "links": [],
        "annotations": {"list": [_evaluations()]},
        "templating": {"list": [_run()]},
        "panels": panels,
    }


def _panel(
    kind: str,
    exprs: Sequence[str],
    options: Json,
    custom: Json | None = None,
    *,
    format: str = "time_series",
    instant: bool = False,
    mappings: Sequence[Json] = (),
    interval: str | None = None,
) -> Json:
    return {
        "type": kind,
        "title": kind,
        "description": f"A panel of the kind {kind}.",
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": expr,
                "format": format,
                "instant": instant,
                "legendFormat": "{{run}}",
            }
            for place, expr in enumerate(exprs)
        ],
        "options": options,
        "fieldConfig": {
            "defaults": {
                "unit": "short",
                "min": 0,
                "max": 4,
                "color": {"mode": "thresholds"},
                "thresholds": {"mode": "absolute", "steps": _STEPS},
                "mappings": mappings,
                "custom": custom or {},
            },
            "overrides": [],
        },
        "interval": interval,
    }


def _buckets() -> str:
    """No histogram is recorded, so its buckets are made of a duration that varies."""
    duration = 'training_preprocessing_time_seconds{run="tiny-chat"}'
    bounds = [
        f'label_replace(10 * ({bound} - {duration} > bool 0), "le", "{bound}", "", "")' for bound in _BOUNDS
    ]
    return " or ".join([*bounds, f'label_replace(0 * {duration} + 10, "le", "+Inf", "", "")'])


def _over_the_count() -> Json:
    return {
        "targets": [
            {"refId": "A", "expr": 'training_loss{run="tiny-chat"}', "legendFormat": "Loss"},
            {
                "refId": "B",
                "expr": 'training_batches_processed_total{run="tiny-chat"}',
                "legendFormat": "Batches",
            },
        ],
        "transformations": [{"id": "joinByField", "options": {"byField": "Time", "mode": "outer"}}],
        "options": {"xField": "Batches", "legend": _LEGEND},
        "fieldConfig": {"defaults": {"custom": _LINES}, "overrides": []},
    }


def _evaluations() -> Json:
    return {
        "name": "Evaluations",
        "datasource": _SOURCE,
        "enable": True,
        "expr": 'changes(validation_loss{run="tiny-chat"}[1m]) > 0',
        "step": "60s",
        "iconColor": "purple",
        "titleFormat": "Evaluation of {{run}}",
    }


def _run() -> Json:
    return {
        "type": "query",
        "name": "run",
        "label": "Run",
        "query": {"query": "label_values(training_loss, run)"},
        "multi": False,
        "includeAll": False,
        "current": {},
    }
