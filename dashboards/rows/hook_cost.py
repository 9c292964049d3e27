"""What the hook costs a training, and what of it is lost."""

from __future__ import annotations

from alerts.thresholds import Thresholds
from dashboards import links
from dashboards.colors import BAD
from dashboards.grafana.dashboard import Shelf
from dashboards.grafana.panels import FEW_POINTS, Query, TimeSeries, dashed, limit
from dashboards.queries import top
from dashboards.variables import of_run
from exporters import catalog

_RANK = "(cluster, run, rank)"


def shelf(thresholds: Thresholds) -> Shelf:
    return Shelf(
        "What does the hook cost?",
        [(hook_share(thresholds), 12), (hook_faults(), 12)],
        collapsed=True,
    )


def hook_share(thresholds: Thresholds) -> TimeSeries:
    seconds = of_run(catalog.HOOK_SECONDS_TOTAL)
    return TimeSeries(
        title="Share of a rank's time that the hook takes",
        description=(
            "The five ranks with most; measured by the hook itself, inside the trainer. Below a thousandth "
            "is usual. At the red line the alert TelemetryHookSlow begins to count: the trainer logs very "
            "many values a step, its steps are very short, or the disk under the recordings is slow."
        ),
        unit="percentunit",
        most_points=FEW_POINTS,
        minimum=0,
        thresholds=limit(thresholds.hook_slow_ratio),
        threshold_line=True,
        legend_values=("lastNotNull", "mean", "max"),
        legend_highest="max",
        targets=[
            Query(
                expr=top.highest(f"max by {_RANK} (rate({seconds}[$__rate_interval]))", _RANK, top.FEW_LINES),
                legend="{{run}} rank {{rank}}",
            )
        ],
        data_links=[links.to_run(cluster=links.CLUSTER_OF_SERIES)],
    )


def hook_faults() -> TimeSeries:
    errors = of_run(catalog.HOOK_ERRORS_TOTAL)
    dropped = of_run(catalog.HOOK_DROPPED_TOTAL)
    return TimeSeries(
        title="Errors of the hook, and values it dropped",
        description=(
            "A minute, by run. Errors are caught before they reach the trainer, which goes on; its output "
            "has one line that names the first. Dropped are values and events beyond what a recording "
            "takes: more names or events than it has room for. Both should be 0 nearly always."
        ),
        unit="none",
        most_points=FEW_POINTS,
        axis_label="a minute",
        minimum=0,
        soft_maximum=1,
        legend_values=("lastNotNull", "max"),
        legend_highest="max",
        targets=[
            Query(
                expr="60 * sum by (cluster, run) (max by (cluster, run, rank) "
                f"(rate({errors}[$__rate_interval])))",
                legend="{{run}} errors",
            ),
            Query(
                expr="60 * sum by (cluster, run) (max by (cluster, run, rank) "
                f"(rate({dropped}[$__rate_interval])))",
                legend="{{run}} dropped",
            ),
        ],
        overrides=[dashed("A", BAD)],
        data_links=[links.to_run(cluster=links.CLUSTER_OF_SERIES)],
    )
