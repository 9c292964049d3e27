"""What Grafana's Prometheus source makes of answers: frames of named fields, as its components read them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Json = dict[str, Any]

AUTOMATIC_LEGEND = "__auto"


class Series(NamedTuple):
    """A series: its labels, its name among them, and (unix seconds, value) in order of time."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


def series_of(answer: Json) -> list[Series]:
    """The series under `data` of Prometheus's answer to a query; a scalar is one without labels."""
    if answer["resultType"] in ("scalar", "string"):
        return [Series({}, _points([answer["result"]]))]
    return [Series(one["metric"], _points(one.get("values") or [one["value"]])) for one in answer["result"]]


def over_time(series: Sequence[Series], target: Json, step_seconds: float) -> list[Json]:
    """A frame for each series. A gap of more than the step is drawn as one."""
    return [
        {
            "refId": target["refId"],
            "name": name_of(one.labels, target.get("legendFormat", "")) or "",
            "meta": {"type": "timeseries-multi"},
            "fields": [
                {
                    "name": "Time",
                    "type": "time",
                    "config": {"interval": step_seconds * 1000},
                    "values": [moment * 1000 for moment, _ in one.points],
                },
                {
                    "name": "Value",
                    "type": "number",
                    "labels": dict(one.labels),
                    "config": _named(name_of(one.labels, target.get("legendFormat", "")), target["expr"]),
                    "values": [value for _, value in one.points],
                },
            ],
        }
        for one in series
    ]


def as_table(series: Sequence[Series], target: Json, *, alone: bool) -> list[Json]:
    """One frame: a row for each point, a column for each label; `alone` is whether no other query is a table.

    The column of values is then called `Value`, else `Value #A`. No series make no frame.
    """
    if not series:
        return []
    labels = sorted({label for one in series for label in one.labels})
    rows = [(one, moment, value) for one in series for moment, value in one.points]
    fields: list[Json] = [
        {"name": "Time", "type": "time", "config": {}, "values": [moment * 1000 for _, moment, _ in rows]}
    ]
    fields += [
        {
            "name": label,
            "type": "string",
            "config": {"filterable": True},
            "values": [one.labels.get(label, "") for one, _, _ in rows],
        }
        for label in labels
    ]
    fields.append(
        {
            "name": "Value" if alone else f"Value #{target['refId']}",
            "type": "number",
            "config": {},
            "values": [value for _, _, value in rows],
        }
    )
    return [{"refId": target["refId"], "meta": {"preferredVisualisationType": "table"}, "fields": fields}]


def as_heatmap(series: Sequence[Series], target: Json, step_seconds: float) -> list[Json]:
    """One frame: a field for each bucket, named by its bound, from low to high, less what lies below it.

    Series without `le` are buckets of their own, named by their legend, as they are.
    """
    if not series:
        return []
    moments = sorted({moment for one in series for moment, _ in one.points})
    cumulative = all("le" in one.labels for one in series)
    if cumulative:
        series = sorted(series, key=lambda one: float(one.labels["le"]))
    fields: list[Json] = [
        {
            "name": "Time",
            "type": "time",
            "config": {"interval": step_seconds * 1000},
            "values": [moment * 1000 for moment in moments],
        }
    ]
    below = dict.fromkeys(moments, 0.0)
    for one in series:
        counts = dict(one.points)
        name = one.labels["le"] if cumulative else name_of(one.labels, target.get("legendFormat", ""))
        fields.append(
            {
                "name": name or _text(one.labels),
                "type": "number",
                "config": {},
                "values": [
                    max(0.0, counts[at] - below[at]) if at in counts and cumulative else counts.get(at)
                    for at in moments
                ],
            }
        )
        if cumulative:
            below |= counts
    return [{"refId": target["refId"], "meta": {"type": "heatmap-rows"}, "fields": fields}]


def name_of(labels: Mapping[str, str], legend: str) -> str | None:
    """What the legend's template makes of the labels; None where Grafana is to find a name itself."""
    if legend == AUTOMATIC_LEGEND:
        return None
    if not legend:
        return _text(labels)
    return re.sub(r"\{\{\s*(.+?)\s*\}\}", lambda name: labels.get(name[1], ""), legend)


def _named(name: str | None, expr: str) -> Json:
    if name is None:
        return {}
    return {"displayNameFromDS": name if name and name != "{}" else expr}


def _text(labels: Mapping[str, str]) -> str:
    others = ", ".join(f'{name}="{value}"' for name, value in sorted(labels.items()) if name != "__name__")
    return f"{labels.get('__name__', '')}{{{others}}}"


def _points(pairs: Sequence[Sequence[Any]]) -> list[tuple[float, float]]:
    return [(float(moment), float(value)) for moment, value in pairs]
