"""Panels that come out as clean classic Grafana JSON: a thin layer over grafanalib.

grafanalib 0.7.1 alone writes keys that Grafana dropped long ago, the string "null" in thresholds, and empty
threshold lists, which newer tables refuse. The classes here write what Grafana 10.2 and later read.
The house style of panels (data source, lines, legends, tooltips) stands here and in tables.py, timelines.py
and trend.py, that of whole dashboards in dashboard.py, and what colours mean in colors.py; a dashboard file
says only what it shows. What must not be forgotten (description, unit, a query) is a required argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import attr
from grafanalib import core

from dashboards.colors import BAD, BY_NUMBER, GOOD, NEUTRAL, NONE, WARNING

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


class Threshold(NamedTuple):
    """A colour that holds from `value` upwards; None is the ground below all others."""

    color: str
    value: float | None


# Of a panel that sums many series: a day comes in steps of five minutes.
MOST_POINTS = 400
# Of one that draws series by the hundred; a small panel shows no more.
FEW_POINTS = 300
# Grafana fails on an empty list of thresholds, so there is always this one.
GROUND = Threshold(GOOD, None)
# Lower than any value.
_FAR_BELOW = -1e12


def limit(value: float) -> list[Threshold]:
    """A line at `value`, in the panel's unit, in the colour of what is bad, and no colour below it."""
    return [Threshold(NONE, None), Threshold(BAD, value)]


def falling(warning: float, bad: float, good: str = GOOD) -> list[Threshold]:
    """Good from `warning` up, bad below `bad`, in the panel's unit; what has no value has no colour.

    In tables give NEUTRAL for what is good, so that the rest stands out.
    """
    return [
        Threshold(NEUTRAL, None),
        Threshold(BAD, _FAR_BELOW),
        Threshold(WARNING, bad),
        Threshold(good, warning),
    ]


def rising(warning: float, bad: float, good: str = GOOD) -> list[Threshold]:
    """Good below `warning`, bad from `bad` up, in the panel's unit; all else is as with `falling`."""
    return [
        Threshold(NEUTRAL, None),
        Threshold(good, _FAR_BELOW),
        Threshold(WARNING, warning),
        Threshold(BAD, bad),
    ]


class Text(NamedTuple):
    """What a number stands for, and the colour of that."""

    text: str
    color: str | None = None


class DataLink(NamedTuple):
    """A link on a series or a cell; links.py makes those to our dashboards."""

    title: str
    url: str


@attr.frozen(kw_only=True)
class Query:
    """One PromQL query of a panel; its reference (A, B, …) is its place in the panel.

    `legend` is Grafana's template, `{{run}}` for the label run. An instant query asks for the newest value
    only. A table gets the labels as columns, a heatmap buckets by their label le. `exemplar` asks for
    exemplars too.
    """

    expr: str
    legend: str = "__auto"
    instant: bool = False
    format: Literal["time_series", "table", "heatmap"] = "time_series"
    exemplar: bool = False

    def to_json_data(self, reference: str) -> Json:
        return {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "exemplar": self.exemplar,
            "expr": self.expr,
            "refId": reference,
            "legendFormat": self.legend,
            "format": self.format,
            "instant": self.instant,
            "range": not self.instant,
        }


@attr.frozen
class Override:
    """Properties for the fields that a matcher finds, such as those of one query."""

    matcher: Literal["byFrameRefID", "byName", "byRegexp"]
    argument: str
    properties: Mapping[str, Any]

    def to_json_data(self) -> Json:
        return {
            "matcher": {"id": self.matcher, "options": self.argument},
            "properties": [{"id": id, "value": v} for id, v in self.properties.items() if v is not None],
        }


_DASHES = {"custom.lineStyle": {"fill": "dash", "dash": [8, 6]}}


def _fixed(color: str) -> Json:
    return {"color": {"mode": "fixed", "fixedColor": color}}


def dashed_limit(reference: str) -> Override:
    """Draw one query's series as dashes in the colour of what is bad: a limit that moves."""
    return Override("byFrameRefID", reference, {**_DASHES, **_fixed(BAD)})


def dashed_steps(reference: str) -> Override:
    """Draw one query's series as dashed steps: values that hold until the next, such as an evaluation's."""
    return Override("byFrameRefID", reference, {**_DASHES, "custom.lineInterpolation": "stepAfter"})


def dashed(reference: str, color: str) -> Override:
    """Draw one query's series as dashes in a colour: what the others are held against."""
    return Override("byFrameRefID", reference, {**_DASHES, **_fixed(color)})


def colored(reference: str, color: str) -> Override:
    """Draw one query's series in a colour."""
    return Override("byFrameRefID", reference, _fixed(color))


def thresholds_of(reference: str, steps: Sequence[Threshold]) -> Override:
    """Give one query's series thresholds of its own."""
    absolute = {"mode": "absolute", "steps": [step._asdict() for step in steps]}
    return Override("byFrameRefID", reference, {"thresholds": absolute})


def links_of(reference: str, *links: DataLink) -> Override:
    """Put links on one query's series, where the others lack the labels that these are filled in with."""
    return Override("byFrameRefID", reference, {"links": [link._asdict() for link in links]})


def colored_names(colors: Mapping[str, str]) -> list[Override]:
    """Draw the series of these names, as their legends have them, each in its colour."""
    return [Override("byName", name, _fixed(color)) for name, color in colors.items()]


def colored_numbers(word: str) -> list[Override]:
    """Draw the series of legends such as "GPU 3 on n1" in the colour of the number after `word`.

    There are eight colours; from the ninth on they begin anew.
    """
    count = len(BY_NUMBER)
    return [
        Override("byRegexp", rf"/\b{word} ({_numbers_like(rest, count)})\b/", _fixed(color))
        for rest, color in enumerate(BY_NUMBER)
    ]


def _numbers_like(rest: int, count: int) -> str:
    return "|".join(str(number) for number in range(rest, 4 * count, count))


def unit_of(reference: str, unit: str, axis_label: str | None = None) -> Override:
    """Give one query's series a unit of its own, and with `axis_label` an axis at the right."""
    axis = {"custom.axisPlacement": "right", "custom.axisLabel": axis_label} if axis_label else {}
    return Override("byFrameRefID", reference, {"unit": unit, **axis})


def band(lower: str, upper: str, color: str) -> list[Override]:
    """Fill the space between the series of two names, as their legends have them."""
    line = {"custom.lineWidth": 0, **_fixed(color)}
    return [
        Override("byName", upper, {**line, "custom.fillBelowTo": lower, "custom.fillOpacity": 25}),
        Override("byName", lower, {**line, "custom.fillOpacity": 0}),
    ]


@attr.s(auto_attribs=True, kw_only=True)
class DataPanel(core.Panel):
    """What every panel with data has; each kind of panel adds its own options.

    `unit` is Grafana's id of a unit, `minimum` and `maximum` are in that unit. `value_texts` says in words
    what a number stands for, such as 1 for "answers". `most_points` is how many of a series Grafana asks for,
    where as many as there are pixels are too many to wait for.
    """

    kind = ""

    title: str
    description: str
    unit: str
    targets: list[Query] = attr.ib(validator=attr.validators.min_len(1))
    minimum: float | None = None
    maximum: float | None = None
    decimals: int | None = None
    no_value: str | None = None
    color_mode: str = "palette-classic"
    thresholds: list[Threshold] = attr.ib(factory=lambda: [GROUND], validator=attr.validators.min_len(1))
    overrides: Sequence[Override] = ()
    value_texts: Mapping[int, str | Text] = attr.ib(factory=dict)
    data_links: Sequence[DataLink] = ()
    most_points: int | None = None
    # Not to be given: what the layer cannot say belongs into the layer.
    extraJson: None = attr.ib(default=None, init=False)  # noqa: N815 - grafanalib's name

    def options(self) -> Json:
        raise NotImplementedError

    def custom_field_options(self) -> Json:
        return {}

    def to_json_data(self) -> Json:
        return {
            "type": self.kind,
            "id": self.id,
            "title": self.title,
            "description": self.description,
            "gridPos": self.gridPos,
            "datasource": DATASOURCE,
            "targets": [query.to_json_data(chr(ord("A") + i)) for i, query in enumerate(self.targets)],
            "transformations": self.transformations,
            "maxDataPoints": self.most_points,
            "options": self.options(),
            "fieldConfig": {
                "defaults": {
                    "unit": self.unit,
                    "min": self.minimum,
                    "max": self.maximum,
                    "decimals": self.decimals,
                    "noValue": self.no_value,
                    "color": {"mode": self.color_mode},
                    "thresholds": {
                        "mode": "absolute",
                        "steps": [step._asdict() for step in self.thresholds],
                    },
                    "mappings": mappings(self.value_texts),
                    "links": [link._asdict() for link in self.data_links],
                    "custom": self.custom_field_options(),
                },
                "overrides": self.overrides,
            },
        }


def mappings(texts: Mapping[int, str | Text] | Mapping[str, str | Text]) -> list[Json]:
    """Grafana's value mappings; empty for no texts."""
    options: Json = {}
    for place, (value, text) in enumerate(texts.items()):
        shown = Text(text) if isinstance(text, str) else text
        options[str(value)] = {"text": shown.text, "color": shown.color, "index": place}
    return [{"type": "value", "options": options}] if options else []


# What Grafana calls the columns of legends by which they can be sorted.
_TITLES_OF_CALCULATIONS = {"lastNotNull": "Last *", "mean": "Mean", "max": "Max", "min": "Min"}


def legend(
    values: Sequence[str],
    placement: Literal["bottom", "right"] = "bottom",
    highest: str | None = None,
    lowest: str | None = None,
) -> Json:
    """A legend that is a table of these calculations; without any, a list of names.

    The series with the highest or lowest value of a calculation comes first, where one is named.
    """
    first = highest or lowest
    return {
        "sortBy": _TITLES_OF_CALCULATIONS[first] if first else None,
        "sortDesc": bool(highest) if first else None,
        "showLegend": True,
        "displayMode": "table" if values else "list",
        "placement": placement,
        "calcs": values,
    }


@attr.s(auto_attribs=True, kw_only=True)
class TimeSeries(DataPanel):
    """Lines over time, with a legend table below. `threshold_line` draws the thresholds into the picture.

    `stacked` series are filled and lie upon each other, `to_full_height` as shares of their sum; `filled`
    ones are so down to the axis. `logarithmic` is the base of the axis' scale. `legend_highest` or
    `legend_lowest` is one of the legend's values: who has most or least of it comes first. The axis reaches
    `soft_maximum` at least.
    """

    kind = "timeseries"

    legend_values: Sequence[str] = ("lastNotNull", "min", "max")
    legend_placement: Literal["bottom", "right"] = "bottom"
    legend_highest: str | None = None
    legend_lowest: str | None = None
    soft_maximum: float | None = None
    axis_label: str = ""
    threshold_line: bool = False
    stacked: bool = False
    to_full_height: bool = False
    filled: bool = False
    logarithmic: int | None = None

    def options(self) -> Json:
        return {
            "legend": legend(
                self.legend_values, self.legend_placement, self.legend_highest, self.legend_lowest
            ),
            "tooltip": {"mode": "multi", "sort": "none" if self.stacked else "desc"},
        }

    def custom_field_options(self) -> Json:
        scale = {"type": "log", "log": self.logarithmic} if self.logarithmic else {"type": "linear"}
        stacking = "percent" if self.to_full_height else "normal"
        return {
            "drawStyle": "line",
            "lineWidth": 1 if self.stacked else 2,
            "lineInterpolation": "linear",
            "fillOpacity": 60 if self.stacked else 20 if self.filled else 0,
            "showPoints": "never",
            "axisLabel": self.axis_label,
            "axisSoftMax": self.soft_maximum,
            "stacking": {"mode": stacking if self.stacked else "none", "group": "A"},
            "scaleDistribution": scale,
            "thresholdsStyle": {"mode": "line" if self.threshold_line else "off"},
        }


# A series' value is its last.
_REDUCED = {"calcs": ["lastNotNull"], "fields": "", "values": False}


@attr.s(auto_attribs=True, kw_only=True)
class Stat(DataPanel):
    """One value of each series in large figures, its name above, its course behind.

    `colored` gives the figure the colour of its threshold or of its text. `named` is False where the title
    says it all.
    """

    kind = "stat"

    colored: bool = False
    named: bool = True
    course: bool = True

    def options(self) -> Json:
        return {
            "reduceOptions": _REDUCED,
            "colorMode": "value" if self.colored else "none",
            "graphMode": "area" if self.course else "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "value_and_name" if self.named else "value",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
        }


@attr.s(auto_attribs=True, kw_only=True)
class BarGauge(DataPanel):
    """A bar for each series, its name at the left and its value at the right, from `minimum` to `maximum`."""

    kind = "bargauge"

    color_mode: str = "thresholds"

    def options(self) -> Json:
        return {
            "displayMode": "basic",
            "orientation": "horizontal",
            "valueMode": "text",
            "namePlacement": "left",
            "showUnfilled": True,
            "sizing": "manual",
            "minVizWidth": 8,
            "minVizHeight": 16,
            "maxVizHeight": 32,
            # Smaller than the names are measured in, so that none is cut off.
            "text": {"titleSize": 11, "valueSize": 14},
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
            "reduceOptions": _REDUCED,
        }
