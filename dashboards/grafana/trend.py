"""Curves over optimizer steps instead of time, so that runs of any day and pace lie on each other."""

from __future__ import annotations

from collections.abc import Sequence

import attr

from dashboards.grafana.panels import DataLink, DataPanel, Json, Override, Query, legend

_STEP = "Step"
# What Grafana calls the column that groupingToMatrix makes of the steps.
_STEP_BY_RUN = r"Value #A\run"
# A line's name is its run; it has no labels any more.
RUN_OF_LINE = "${__field.name}"


@attr.s(auto_attribs=True, kw_only=True)
class Trend(DataPanel):
    """A line for each run, by step: build it with `Trend.by_step`."""

    kind = "trend"

    axis_label: str = ""
    logarithmic: int | None = None
    legend_values: Sequence[str] = ()

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
        no_value: str | None = None,
        legend_values: Sequence[str] = (),
        data_links: Sequence[DataLink] = (),
    ) -> Trend:
        """`value` over `step`: two queries whose series have the labels cluster and run, no two the same.

        At each moment a run has a value and a step; Grafana puts them into one row by time and run, and makes
        a column of every run and a row of every step. Of a step that was made twice the newer value counts.
        The steps come first, so that a run has its colour on all panels, also where another has no value.
        """
        kept = ["Time", "run", "Value #A", "Value #B"]
        where_known = f"({value}) and on (cluster, run) ({step})"
        return cls(
            title=title,
            description=description,
            unit=unit,
            decimals=decimals,
            minimum=minimum,
            axis_label=axis_label,
            logarithmic=logarithmic,
            no_value=no_value,
            legend_values=legend_values,
            data_links=data_links,
            targets=[Query(expr=expr, legend="{{run}}", format="table") for expr in (step, where_known)],
            transformations=[
                {"id": "filterFieldsByName", "options": {"include": {"names": kept}}},
                {"id": "merge", "options": {}},
                {
                    "id": "groupingToMatrix",
                    "options": {
                        "columnField": "run",
                        "rowField": "Value #A",
                        "valueField": "Value #B",
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
            overrides=[Override("byName", _STEP, {"unit": "locale", "decimals": 0})],
        )

    def options(self) -> Json:
        return {
            "legend": legend(self.legend_values),
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
