"""Curves over optimizer steps instead of time, so that runs of any day and pace lie on each other."""

from __future__ import annotations

from collections.abc import Sequence

import attr

from dashboards.panels import DataLink, DataPanel, Json, Query, legend

_STEP = "Step"
# What Grafana calls the column that groupingToMatrix makes of the steps.
_STEP_BY_RUN = r"Value #B\run"


@attr.s(auto_attribs=True, kw_only=True)
class Trend(DataPanel):
    """A line for each run, by step: build it with `Trend.by_step`."""

    kind = "trend"

    axis_label: str = ""
    logarithmic: int | None = None

    @classmethod
    def by_step(
        cls,
        *,
        title: str,
        description: str,
        unit: str,
        value: str,
        step: str,
        decimals: int | None = None,
        minimum: float | None = None,
        axis_label: str = "",
        logarithmic: int | None = None,
        data_links: Sequence[DataLink] = (),
    ) -> Trend:
        """`value` over `step`: two queries whose series have the label run, and no two the same.

        At each moment a run has a value and a step; Grafana puts them into one row by time and run, and makes
        a column of every run and a row of every step.
        """
        kept = ["Time", "run", "Value #A", "Value #B"]
        return cls(
            title=title,
            description=description,
            unit=unit,
            decimals=decimals,
            minimum=minimum,
            axis_label=axis_label,
            logarithmic=logarithmic,
            data_links=data_links,
            targets=[Query(expr=expr, legend="{{run}}", format="table") for expr in (value, step)],
            transformations=[
                {"id": "filterFieldsByName", "options": {"include": {"names": kept}}},
                {"id": "merge", "options": {}},
                {
                    "id": "groupingToMatrix",
                    "options": {
                        "columnField": "run",
                        "rowField": "Value #B",
                        "valueField": "Value #A",
                        "emptyValue": "null",
                    },
                },
                {
                    "id": "convertFieldType",
                    "options": {
                        "conversions": [{"targetField": _STEP_BY_RUN, "destinationType": "number"}],
                        "fields": {},
                    },
                },
                {"id": "organize", "options": {"renameByName": {_STEP_BY_RUN: _STEP}}},
                {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": _STEP}]}},
            ],
        )

    def options(self) -> Json:
        return {
            "legend": legend(("lastNotNull", "min", "max")),
            "tooltip": {"mode": "multi", "sort": "desc"},
            "xField": _STEP,
        }

    def custom_field_options(self) -> Json:
        scale = {"type": "log", "log": self.logarithmic} if self.logarithmic else {"type": "linear"}
        return {
            "drawStyle": "line",
            "lineWidth": 2,
            "lineInterpolation": "linear",
            "fillOpacity": 0,
            "showPoints": "never",
            # A step of one run is seldom seen of another.
            "spanNulls": True,
            "axisLabel": self.axis_label,
            "scaleDistribution": scale,
        }
