"""Tables: a row for each series or for each set of labels, a column for each label and each query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import attr

from dashboards.colors import NEUTRAL
from dashboards.grafana.panels import DataLink, DataPanel, Json, Override, Query, Text, Threshold, mappings

# Narrower than Grafana's own, so that names keep the room on a small screen.
NUMBER_COLUMN_PIXELS = 96

Cell = Literal["auto", "color-text", "color-background", "gauge"]


class Column(NamedTuple):
    """A column of a table: the newest value of a query for each row.

    `cell` is how it is drawn: in the colours of `thresholds` or of `texts`, or as a bar from `minimum` to
    `maximum`, in the column's unit; to the highest of the column where there is none.
    """

    title: str
    expr: str
    unit: str
    decimals: int | None = None
    cell: Cell = "auto"
    thresholds: Sequence[Threshold] = ()
    texts: Mapping[int, str | Text] | None = None
    minimum: float | None = None
    maximum: float | None = None
    width: int = NUMBER_COLUMN_PIXELS
    links: Sequence[DataLink] = ()

    def properties(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "decimals": self.decimals,
            "min": self.minimum,
            "max": self.maximum,
            # Else the highest of all columns.
            "fieldMinMax": True if self.cell == "gauge" and self.maximum is None else None,
            "custom.width": self.width,
            "custom.cellOptions": _cell(self.cell) if self.cell != "auto" else None,
            "thresholds": _thresholds(self.thresholds) if self.thresholds else None,
            "mappings": mappings(self.texts) if self.texts else None,
            "links": [link._asdict() for link in self.links] or None,
        }


def _cell(kind: Cell) -> Json:
    match kind:
        case "gauge":
            return {"type": kind, "mode": "basic", "valueDisplayMode": "text"}
        case "color-background":
            return {"type": kind, "mode": "basic"}
        case _:
            return {"type": kind}


def _thresholds(steps: Sequence[Threshold]) -> Json:
    return {"mode": "absolute", "steps": [step._asdict() for step in steps]}


@attr.s(auto_attribs=True, kw_only=True)
class Table(DataPanel):
    """Build it with `Table.of`, a query a column, or with `Table.of_series`, one query in all."""

    kind = "table"

    sorted_by: str
    descending: bool = False

    @classmethod
    def of(
        cls,
        *,
        title: str,
        description: str,
        labels: Mapping[str, str],
        columns: Sequence[Column],
        named_by: Sequence[str] = (),
        overrides: Sequence[Override] = (),
        data_links: Sequence[DataLink] = (),
        sorted_by: str | None = None,
        descending: bool = False,
        no_value: str = "not reported",
    ) -> Table:
        """A row for each set of `labels`, by name and title, that any of the queries has.

        The queries of `named_by` give labels alone, such as info metrics do; the labels that all queries have
        in common tell to which row they belong. The links stand on the first column, and it sorts the rows
        unless another is named. `overrides` are for columns of labels.
        """
        # Grafana numbers the value columns only where there are several queries.
        several = len(columns) + len(named_by) > 1
        value_fields = [f"Value #{chr(ord('A') + i)}" if several else "Value" for i in range(len(columns))]
        titles = {**labels, **dict(zip(value_fields, (column.title for column in columns), strict=True))}
        first, *_ = labels.values()
        first_column = {"links": [link._asdict() for link in data_links] or None}
        of_columns = [Override("byName", first, first_column | {"custom.minWidth": NUMBER_COLUMN_PIXELS})]
        of_columns += [Override("byName", column.title, column.properties()) for column in columns]
        return cls(
            title=title,
            description=description,
            # Of labels, of which some are numbers; the columns have units of their own.
            unit="string",
            no_value=no_value,
            color_mode="thresholds",
            thresholds=[Threshold(NEUTRAL, None)],
            targets=[
                Query(expr=expr, instant=True, format="table")
                for expr in (*(column.expr for column in columns), *named_by)
            ],
            # The queries' other labels, __name__ first of all, would keep their rows from being merged.
            transformations=[
                {"id": "filterFieldsByName", "options": {"include": {"names": list(titles)}}},
                {"id": "merge", "options": {}},
                _organize(titles),
            ],
            overrides=[*of_columns, *overrides],
            sorted_by=sorted_by or first,
            descending=descending,
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
        descending: bool = False,
        value_texts: Mapping[int, str | Text] | None = None,
    ) -> Table:
        """A table of the query's series: columns for `labels`, by name and title, and last for the value.

        The lowest value comes first, unless `descending`.
        """
        titles = {**labels, "Value": value}
        # A label that a series has not is nothing, whatever is said where there is no series at all. One that
        # is a number is no amount of the unit.
        of_labels = [
            Override("byName", title, {"noValue": "", "unit": "string"}) for title in labels.values()
        ]
        return cls(
            title=title,
            description=description,
            unit=unit,
            no_value=no_value,
            color_mode="thresholds",
            thresholds=[Threshold(NEUTRAL, None)],
            targets=[Query(expr=expr, instant=True, format="table")],
            transformations=[
                {"id": "filterFieldsByName", "options": {"include": {"names": list(titles)}}},
                _organize(titles),
            ],
            overrides=[*of_labels, *overrides],
            value_texts=value_texts or {},
            sorted_by=value,
            descending=descending,
        )

    @classmethod
    def of_labels(cls, *, title: str, description: str, expr: str, no_value: str) -> Table:
        """The labels of the query's one series, a row for each: for info metrics, whose labels differ."""
        return cls(
            title=title,
            description=description,
            unit="string",
            no_value=no_value,
            color_mode="thresholds",
            thresholds=[Threshold(NEUTRAL, None)],
            targets=[Query(expr=expr, instant=True)],
            transformations=[
                {"id": "labelsToFields", "options": {"mode": "rows"}},
                _organize({"label": "Fact", "value": "Value"}),
            ],
            sorted_by="Fact",
        )

    def options(self) -> Json:
        return {
            "showHeader": True,
            "cellHeight": "sm",
            "sortBy": [{"displayName": self.sorted_by, "desc": self.descending}],
        }

    def custom_field_options(self) -> Json:
        return {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}


def colored_words(column: str, colors: Mapping[str, str]) -> Override:
    """Write the words of a column of labels each in its colour."""
    words = mappings({word: Text(word, color) for word, color in colors.items()})
    return Override("byName", column, {"mappings": words, "custom.cellOptions": _cell("color-text")})


def linked(column: str, *links: DataLink) -> Override:
    """Make the cells of a column links."""
    return Override("byName", column, {"links": [link._asdict() for link in links]})


def widths(pixels: Mapping[str, int]) -> list[Override]:
    """Give columns of labels a width of their own, by title; the others share what is left."""
    return [Override("byName", title, {"custom.width": width}) for title, width in pixels.items()]


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
