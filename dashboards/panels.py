"""Panels that come out as clean classic Grafana JSON: a thin layer over grafanalib.

grafanalib 0.7.1 alone writes keys that Grafana dropped long ago, the string "null" in thresholds, and empty
threshold lists, which newer tables refuse. The classes here write what Grafana 10.2 and later read.
The house style of panels (data source, colours, lines, legends, tooltips) stands here and nowhere else, that
of whole dashboards in dashboard.py; a dashboard file says only what it shows. What must not be forgotten
(description, unit, a query) is a required argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import attr
from grafanalib import core

# Narrower than Grafana's own, so that names keep the room on a small screen.
NUMBER_COLUMN_PIXELS = 96
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

NEUTRAL = "text"
GOOD = "green"
BAD = "red"

Json = dict[str, Any]


class Threshold(NamedTuple):
    """A colour that holds from `value` upwards; None is the ground below all others."""

    color: str
    value: float | None


# Grafana fails on an empty list of thresholds, so there is always this one.
GROUND = Threshold(GOOD, None)


def limit(value: float) -> list[Threshold]:
    """A red line at `value`, in the panel's unit, and no colour below it."""
    return [Threshold("transparent", None), Threshold(BAD, value)]


class DataLink(NamedTuple):
    """A link on a series or a cell; Grafana fills in `${__field.labels.run}` and the like."""

    title: str
    url: str


@attr.frozen(kw_only=True)
class Query:
    """One PromQL query of a panel; its reference (A, B, …) is its place in the panel.

    `legend` is Grafana's template, `{{run}}` for the label run. A table query is instant: one row a series.
    """

    expr: str
    legend: str = "__auto"
    table: bool = False

    def to_json_data(self, reference: str) -> Json:
        return {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": self.expr,
            "refId": reference,
            "legendFormat": self.legend,
            "format": "table" if self.table else "time_series",
            "instant": self.table,
            "range": not self.table,
        }


@attr.frozen
class Override:
    """Properties for the fields that a matcher finds, such as those of one query."""

    matcher: Literal["byFrameRefID", "byName"]
    argument: str
    properties: Mapping[str, Any]

    def to_json_data(self) -> Json:
        return {
            "matcher": {"id": self.matcher, "options": self.argument},
            "properties": [{"id": id, "value": v} for id, v in self.properties.items() if v is not None],
        }


def dashed_limit(reference: str) -> Override:
    """Draw one query's series as dashed red lines: a limit that moves."""
    return Override(
        "byFrameRefID",
        reference,
        {
            "custom.lineStyle": {"fill": "dash", "dash": [8, 6]},
            "color": {"mode": "fixed", "fixedColor": BAD},
        },
    )


def dashed_steps(reference: str) -> Override:
    """Draw one query's series as dashed steps: values that hold until the next, such as an evaluation's."""
    return Override(
        "byFrameRefID",
        reference,
        {
            "custom.lineStyle": {"fill": "dash", "dash": [8, 6]},
            "custom.lineInterpolation": "stepAfter",
        },
    )


@attr.s(auto_attribs=True, kw_only=True)
class DataPanel(core.Panel):
    """What every panel with data has; each kind of panel adds its own options.

    `unit` is Grafana's id of a unit, `minimum` and `maximum` are in that unit. `value_texts` says in words
    what a number stands for, such as 1 for "answers".
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
    value_texts: Mapping[int, str] = attr.ib(factory=dict)
    data_links: Sequence[DataLink] = ()
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
                    "mappings": _mappings(self.value_texts),
                    "links": [link._asdict() for link in self.data_links],
                    "custom": self.custom_field_options(),
                },
                "overrides": self.overrides,
            },
        }


def _mappings(value_texts: Mapping[int, str]) -> list[Json]:
    options = {
        str(value): {"text": text, "index": place} for place, (value, text) in enumerate(value_texts.items())
    }
    return [{"type": "value", "options": options}] if options else []


@attr.s(auto_attribs=True, kw_only=True)
class TimeSeries(DataPanel):
    """Lines over time, with a legend table below. `threshold_line` draws the thresholds into the picture."""

    kind = "timeseries"

    legend_values: Sequence[str] = ("lastNotNull", "min", "max")
    axis_label: str = ""
    threshold_line: bool = False

    def options(self) -> Json:
        return {
            "legend": {
                "showLegend": True,
                "displayMode": "table",
                "placement": "bottom",
                "calcs": self.legend_values,
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def custom_field_options(self) -> Json:
        return {
            "drawStyle": "line",
            "lineWidth": 2,
            "lineInterpolation": "linear",
            "fillOpacity": 0,
            "showPoints": "never",
            "spanNulls": False,
            "axisLabel": self.axis_label,
            "stacking": {"mode": "none", "group": "A"},
            "scaleDistribution": {"type": "linear"},
            "thresholdsStyle": {"mode": "line" if self.threshold_line else "off"},
        }


@attr.s(auto_attribs=True, kw_only=True)
class Stat(DataPanel):
    """The last value of each series in large figures, its name above, its course behind.

    `colored` gives the figure the colour of its threshold.
    """

    kind = "stat"

    colored: bool = False

    def options(self) -> Json:
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value" if self.colored else "none",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "value_and_name",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
        }


class Column(NamedTuple):
    """A column of a table: the newest value of a query for each row."""

    title: str
    expr: str
    unit: str
    decimals: int | None = None


@attr.s(auto_attribs=True, kw_only=True)
class Table(DataPanel):
    """One row for each value of a label or for each series: build it with `Table.of` or `Table.of_series`."""

    kind = "table"

    sorted_by: str

    @classmethod
    def of(
        cls,
        *,
        title: str,
        description: str,
        label: str,
        label_title: str,
        columns: Sequence[Column],
        data_links: Sequence[DataLink] = (),
    ) -> Table:
        """A table of the label's values and `columns`; the links stand on the first column."""
        # Grafana numbers the value columns only where there are several queries.
        several = len(columns) > 1
        value_fields = [f"Value #{chr(ord('A') + i)}" if several else "Value" for i in range(len(columns))]
        titles = dict(zip([label, *value_fields], [label_title, *(c.title for c in columns)], strict=True))
        first_column = {"links": [link._asdict() for link in data_links] or None}
        overrides = [
            Override("byName", label_title, first_column | {"custom.minWidth": NUMBER_COLUMN_PIXELS})
        ]
        for column in columns:
            properties = {"unit": column.unit, "decimals": column.decimals}
            properties["custom.width"] = NUMBER_COLUMN_PIXELS
            overrides.append(Override("byName", column.title, properties))
        return cls(
            title=title,
            description=description,
            unit="short",
            no_value="not reported",
            color_mode="thresholds",
            thresholds=[Threshold(NEUTRAL, None)],
            targets=[Query(expr=column.expr, table=True) for column in columns],
            # The queries' other labels, __name__ first of all, would keep their rows from being merged.
            transformations=[
                {"id": "filterFieldsByName", "options": {"include": {"names": list(titles)}}},
                {"id": "merge", "options": {}},
                _organize(titles),
            ],
            overrides=overrides,
            sorted_by=label_title,
        )

    @classmethod
    def of_series(
        cls,
        *,
        title: str,
        description: str,
        expr: str,
        labels: Mapping[str, str],
        value: str,
        unit: str,
        no_value: str,
        overrides: Sequence[Override] = (),
    ) -> Table:
        """A table of the query's series: columns for `labels`, by name and title, and last for the value.

        The lowest value comes first.
        """
        titles = {**labels, "Value": value}
        return cls(
            title=title,
            description=description,
            unit=unit,
            no_value=no_value,
            color_mode="thresholds",
            thresholds=[Threshold(NEUTRAL, None)],
            targets=[Query(expr=expr, table=True)],
            transformations=[
                {"id": "filterFieldsByName", "options": {"include": {"names": list(titles)}}},
                _organize(titles),
            ],
            overrides=overrides,
            sorted_by=value,
        )

    def options(self) -> Json:
        return {
            "showHeader": True,
            "cellHeight": "sm",
            "sortBy": [{"displayName": self.sorted_by, "desc": False}],
        }

    def custom_field_options(self) -> Json:
        return {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}


def _organize(titles: Mapping[str, str]) -> Json:
    """Orders a table's columns as `titles` has them, and gives each its title."""
    return {
        "id": "organize",
        "options": {
            "excludeByName": {},
            "indexByName": {name: place for place, name in enumerate(titles)},
            "renameByName": titles,
        },
    }
