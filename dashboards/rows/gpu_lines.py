"""What the panels of the GPUs dashboard have in common: how they choose GPUs, and a line for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from dashboards import links
from dashboards.grafana.panels import GROUND, Query, Threshold, TimeSeries, dashed_limit, links_of
from dashboards.grafana.timelines import Heatmap
from dashboards.queries import order, top
from dashboards.variables import of_gpu
from exporters import catalog
from exporters.catalog import Metric

DEVICE = "(cluster, instance, gpu, uuid)"
GPU = "GPU {{gpu}} on {{instance}}"
# The columns of tables whose rows are GPUs, and what those rows are called by.
ROW = "(cluster, instance, gpu)"
ROW_LABELS = {"gpu": "GPU", "instance": "Instance"}
ROW_WIDTHS = {"GPU": 56, "Instance": 130}
TO_GPU_OF_ROW = links.to_gpu(gpu=links.CELL, instance=links.INSTANCE_OF_ROW)

# A GPU has no label run. On this dashboard all runs are `.*`, which matches that: then every GPU is shown.
OF_RUN = 'run=~"$run"'
# How long a GPU is still shown as one of a run that has ended.
_AFTER_ITS_END = "1h"
_OF_CHOSEN_RUNS = (
    f"last_over_time({of_gpu(catalog.TRAINING_RUN_GPU_INFO, OF_RUN)}[{_AFTER_ITS_END}])"
    f" or {of_gpu(catalog.NVIDIA_GPU_UP, OF_RUN)}"
)


def of_chosen_runs(expr: str) -> str:
    """Of series with the labels cluster, instance and gpu, those of the GPUs that the chosen runs are on."""
    return f"({expr} and on {ROW} ({_OF_CHOSEN_RUNS}))"


def now(metric: Metric, *matchers: str) -> str:
    """The newest value of each chosen GPU; of several series of one GPU, the highest."""
    return f"max by {DEVICE} {of_chosen_runs(of_gpu(metric, *matchers))}"


def pace(counter: Metric, *matchers: str) -> str:
    """How much each chosen GPU adds a second; of several series of one GPU, the highest."""
    return f"max by {DEVICE} {of_chosen_runs(rate(counter, *matchers))}"


def rate(counter: Metric, *matchers: str) -> str:
    """How much each series of the GPUs that the variables choose, but for the run, adds a second."""
    return f"rate({of_gpu(counter, *matchers)}[$__rate_interval])"


def added(counter: Metric, *matchers: str) -> str:
    """How many each chosen GPU has counted over the time range, by row of a table."""
    return f"max by {ROW} {of_chosen_runs(f'round({counted(counter, *matchers)})')}"


def counted(counter: Metric, *matchers: str) -> str:
    """What each series of the GPUs that the variables choose, but for the run, adds over the time range."""
    return f"increase({of_gpu(counter, *matchers)}[$__range])"


def in_row(metric: Metric, *matchers: str) -> str:
    """The newest value of each chosen GPU, by row of a table."""
    return f"max by {ROW} {of_chosen_runs(of_gpu(metric, *matchers))}"


def line_a_gpu(
    *,
    title: str,
    description: str,
    unit: str,
    expr: str,
    first: Literal["highest", "lowest"] = "highest",
    limits: Mapping[str, str] | None = None,
    minimum: float | None = 0,
    maximum: float | None = None,
    decimals: int | None = None,
    axis_label: str = "",
    thresholds: Sequence[Threshold] = (),
    no_value: str | None = None,
) -> TimeSeries:
    """`expr` has a series for each chosen GPU; of more than ten those are drawn that are `first`.

    `limits` are drawn as red dashes: queries for one line each, by its name. `thresholds` are drawn as lines.
    """
    chosen = top.highest(expr, DEVICE) if first == "highest" else top.lowest(expr, DEVICE)
    dashes = limits or {}
    return TimeSeries(
        title=title,
        description=f"{description} Of more than ten chosen GPUs it shows the ten with the {first} means.",
        unit=unit,
        minimum=minimum,
        maximum=maximum,
        decimals=decimals,
        axis_label=axis_label,
        no_value=no_value,
        legend_values=("lastNotNull", "max" if first == "highest" else "min"),
        legend_highest="max" if first == "highest" else None,
        legend_lowest="min" if first == "lowest" else None,
        thresholds=[*thresholds] or [GROUND],
        threshold_line=bool(thresholds),
        targets=[
            Query(expr=chosen, legend=GPU),
            *(Query(expr=query, legend=name) for name, query in dashes.items()),
        ],
        overrides=[
            links_of("A", links.to_gpu()),
            *(dashed_limit(chr(ord("B") + place)) for place in range(len(dashes))),
        ],
    )


def row_a_gpu(*, title: str, description: str, unit: str, expr: str, maximum: float | None) -> Heatmap:
    """`expr` has a series for each chosen GPU; of more than 64 those are drawn with the lowest means."""
    return Heatmap(
        title=title,
        description=f"A row for each chosen GPU. {description} Of more than {top.MOST_ROWS} it shows those "
        "with the lowest means: choose an instance for its own.",
        unit="none",
        cell_unit=unit,
        cell_decimals=0,
        minimum=0,
        maximum=maximum,
        shown="shares",
        from_top=True,
        no_value="not told by these GPUs",
        targets=[
            Query(
                expr=order.by_gpu(top.lowest(expr, DEVICE, top.MOST_ROWS)), legend="{{instance}} GPU {{gpu}}"
            )
        ],
        data_links=[links.to_gpu()],
    )
