"""Whole dashboards: their variables, the grid their panels lie on, and the JSON they come out as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attr
from grafanalib import core

from dashboards.grafana.panels import DATASOURCE, DataPanel, Json

SCHEMA_VERSION = 39
GRID_COLUMNS = 24
SHELF_HEIGHT = 8
TAG = "trainvitals"
# Grafana's numbers for the order of a variable's values.
_SORTED_AS_WORDS = 1
_SORTED_AS_NUMBERS = 3


@attr.s(auto_attribs=True, kw_only=True)
class Row(core.RowPanel):
    """A heading over the panels that follow it, or that it holds while it is collapsed."""

    title: str
    collapsed: bool = False
    panels: list[DataPanel] = attr.ib(factory=list)

    def to_json_data(self) -> Json:
        return {
            "type": "row",
            "id": self.id,
            "title": self.title,
            "collapsed": self.collapsed,
            "panels": self.panels,
            "gridPos": self.gridPos,
        }


@attr.frozen
class Shelf:
    """A heading and the panels under it, each with its width in columns of 24, all of one height.

    One that is collapsed shows its heading alone, until somebody opens it or follows a link to a panel of it.
    """

    title: str
    slots: Sequence[tuple[DataPanel, int]]
    height: int = SHELF_HEIGHT
    collapsed: bool = False


def stack(*shelves: Shelf) -> list[Row | DataPanel]:
    """The shelves' headings and panels placed on the grid, from the top; a full line of a shelf wraps.

    Raises ValueError for a panel that is wider than the grid or has no width.
    """
    placed: list[Row | DataPanel] = []
    top = 0
    for shelf in shelves:
        heading = core.GridPos(h=1, w=GRID_COLUMNS, x=0, y=top)
        top += 1
        panels, below = _place(shelf, top)
        if shelf.collapsed:
            placed.append(Row(title=shelf.title, gridPos=heading, collapsed=True, panels=panels))
        else:
            placed += [Row(title=shelf.title, gridPos=heading), *panels]
            top = below
    return placed


def _place(shelf: Shelf, top: int) -> tuple[list[DataPanel], int]:
    """The shelf's panels on the grid from the line `top` on, and the line below them."""
    placed = []
    left = 0
    for panel, width in shelf.slots:
        if not 0 < width <= GRID_COLUMNS:
            raise ValueError(f"panel {panel.title!r} is {width} columns wide; give it 1 to {GRID_COLUMNS}")
        if left + width > GRID_COLUMNS:
            left = 0
            top += shelf.height
        position = core.GridPos(h=shelf.height, w=width, x=left, y=top)
        placed.append(attr.evolve(panel, gridPos=position))
        left += width
    return placed, top + shelf.height


@attr.frozen
class DatasourceVariable:
    """The choice of the Prometheus that all queries go to."""

    name: str = "datasource"

    def to_json_data(self) -> Json:
        return {
            "type": "datasource",
            "name": self.name,
            "label": "Data source",
            "query": "prometheus",
            "regex": "",
            "refresh": 1,
            "hide": 0,
            "multi": False,
            "includeAll": False,
            "options": [],
            "current": {"selected": False, "text": "default", "value": "default"},
        }


@attr.frozen(kw_only=True)
class LabelVariable:
    """A choice among the values of a label; more than one may be chosen, and at first all, or `default`.

    `all_value` is the regular expression behind "All": `.+` leaves out series without the label, `.*` keeps
    them. Of a `single` one a value alone can be chosen, at first the first. One that `opens_on_first` begins
    there too and more can be chosen, but not all with one click: it is for what all would be too much of.
    Values are sorted as words, or as numbers where they are `numbers`.
    """

    name: str
    query: str
    default: str | None = None
    all_value: str = ".+"
    single: bool = False
    opens_on_first: bool = False
    numbers: bool = False
    label: str = ""

    def to_json_data(self) -> Json:
        chosen = (self.default, self.default) if self.default else ("All", "$__all")
        has_all = not (self.single or self.opens_on_first)
        return {
            "type": "query",
            "name": self.name,
            "label": self.label or self.name.capitalize(),
            "datasource": DATASOURCE,
            "definition": self.query,
            "query": {
                "query": self.query,
                "refId": "PrometheusVariableQueryEditor-VariableQuery",
                "qryType": 1,
            },
            "regex": "",
            "refresh": 2,
            "sort": _SORTED_AS_NUMBERS if self.numbers else _SORTED_AS_WORDS,
            "hide": 0,
            "multi": not self.single,
            "includeAll": has_all,
            "allValue": None if self.single else self.all_value,
            "options": [],
            "current": {"selected": True, "text": [chosen[0]], "value": [chosen[1]]} if has_all else {},
        }


@attr.frozen(kw_only=True)
class Annotation:
    """Moments and spans of a query, drawn over all panels with a time axis; at the top it can be hidden.

    `title` and `text` are Grafana's templates, `{{run}}` for the label run. With `at_value` an event lies at
    the time its value says, in unix milliseconds; else wherever the value is above 0.
    """

    name: str
    expr: str
    color: str
    title: str
    text: str = ""
    tags: Sequence[str] = ()
    at_value: bool = False
    enabled: bool = True

    def to_json_data(self) -> Json:
        return {
            "name": self.name,
            "datasource": DATASOURCE,
            "enable": self.enabled,
            "hide": False,
            "iconColor": self.color,
            "expr": self.expr,
            "target": {"expr": self.expr, "refId": "Anno", "datasource": DATASOURCE},
            "titleFormat": self.title,
            "textFormat": self.text,
            "tagKeys": ",".join(self.tags),
            "useValueForTime": self.at_value,
        }


@attr.s(auto_attribs=True, kw_only=True)
class Dashboard(core.Dashboard):
    """A dashboard under a stable `uid`; `to_json_data` is all Grafana needs, in plain lists and dicts."""

    uid: str
    title: str
    description: str
    panels: list[Row | DataPanel]
    variables: Sequence[DatasourceVariable | LabelVariable]
    events: Sequence[Annotation] = ()
    tags: list[str] = attr.ib(factory=list)

    def to_json_data(self) -> Json:
        numbered = self.auto_panel_ids()  # type: ignore[no-untyped-call]
        document: Json = _plain(
            {
                "uid": self.uid,
                "title": self.title,
                "description": self.description,
                "tags": [TAG, *self.tags],
                "schemaVersion": SCHEMA_VERSION,
                "version": 1,
                "editable": False,
                "graphTooltip": 1,
                "timezone": "browser",
                "fiscalYearStartMonth": 0,
                "refresh": "30s",
                "time": {"from": "now-6h", "to": "now"},
                "timepicker": {"refresh_intervals": ["10s", "30s", "1m", "5m", "15m", "1h"]},
                "templating": {"list": self.variables},
                "annotations": {"list": self.events},
                "links": [_LINK_TO_THE_OTHERS],
                "panels": numbered.panels,
            }
        )
        return document


_LINK_TO_THE_OTHERS = {
    "type": "dashboards",
    "title": "Other dashboards",
    "tooltip": "Keeps the time range and the choices made above",
    "tags": [TAG],
    "asDropdown": True,
    "includeVars": True,
    "keepTime": True,
    "targetBlank": False,
    "icon": "external link",
    "url": "",
}


def _plain(value: Any) -> Any:
    """`value` with all objects rendered and all absent keys left out; the ground's null threshold stays."""
    if hasattr(value, "to_json_data"):
        return _plain(value.to_json_data())
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None or key == "value"}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
