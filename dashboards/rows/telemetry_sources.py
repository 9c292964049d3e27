"""Whether each source of metrics works: the services, their collectors, what they keep."""

from __future__ import annotations

from alerts.thresholds import Thresholds
from dashboards import links
from dashboards.colors import BAD, GOOD, TRAINING, WARNING
from dashboards.grafana.dashboard import Shelf
from dashboards.grafana.panels import FEW_POINTS, Query, Text, TimeSeries, colored_names, rising
from dashboards.grafana.tables import Column, Table, widths
from dashboards.queries import top
from dashboards.rows.telemetry_alerts import SCRAPE_DURATION_SECONDS, UP
from dashboards.variables import of_node, of_target
from exporters import catalog

SCRAPE_SAMPLES_SCRAPED = "scrape_samples_scraped"

_SERVICE = "(cluster, instance)"
# Of each once, however many jobs scrape the service.
_COLLECTOR = "(cluster, instance, collector)"
_SKIPPED = "(cluster, instance, reason)"
_DETAIL = "(cluster, instance, detail)"


def shelves(thresholds: Thresholds) -> list[Shelf]:
    return [
        Shelf("Is the telemetry sound?", [(services(thresholds), 24)], height=8),
        Shelf(
            "Does each source of metrics work?",
            [
                (collectors(), 8),
                (collector_age(), 8),
                (collector_duration(), 8),
                (published(), 6),
                (recordings_volume(), 6),
                (history_steps(), 6),
                (history_size(), 6),
            ],
        ),
    ]


def services(thresholds: Thresholds) -> Table:
    by_service = f"max by {_SERVICE}"
    clock = of_node(catalog.WALLCLOCK_SECONDS)
    success = of_node(catalog.COLLECTOR_SUCCESS)
    skipped = of_node(catalog.RECORDINGS_SKIPPED)
    runs = of_node(catalog.RUNS_PUBLISHED)
    free = of_node(catalog.RECORDINGS_VOLUME_FREE_BYTES)
    up = f"min by {_SERVICE} ({of_target(UP)})"
    return Table.of(
        title="Services, a row a node",
        description=(
            "What Prometheus says of scraping each training service, and each service of itself. All should "
            "answer, with no collector failing (those of GPUs fail on a node without one) and no recording "
            "skipped. A clock that is off by more than a few seconds makes ages wrong: look at the node's "
            "NTP. A scrape that takes seconds belongs to a node with too many runs, or too little CPU."
        ),
        labels={"instance": "Instance", "cluster": "Cluster"},
        columns=[
            Column(
                "Answers",
                up,
                "none",
                cell="color-text",
                texts={0: Text("no", BAD), 1: Text("yes", GOOD)},
            ),
            Column(
                "Scrape",
                f"{by_service} ({of_target(SCRAPE_DURATION_SECONDS)})",
                "s",
                3,
                cell="color-text",
                thresholds=rising(thresholds.scrape_slow_seconds / 2, thresholds.scrape_slow_seconds),
            ),
            Column("Samples", f"{by_service} ({of_target(SCRAPE_SAMPLES_SCRAPED)})", "short", 0),
            Column(
                "Clock off",
                f"abs({by_service} (timestamp({clock})) - on {_SERVICE} {by_service} ({clock}))",
                "s",
                1,
                cell="color-text",
                thresholds=rising(thresholds.clock_skew_seconds / 2, thresholds.clock_skew_seconds),
            ),
            Column("Failing", f"sum by {_SERVICE} (1 - min by {_COLLECTOR} ({success}))", "none", 0),
            Column("Skipped", f"sum by {_SERVICE} (max by {_SKIPPED} ({skipped}))", "none", 0),
            Column("Runs", f"sum by {_SERVICE} (max by {_DETAIL} ({runs}))", "none", 0),
            Column("GPUs", f"{by_service} ({of_node(catalog.NVIDIA_GPU_DEVICES)})", "none", 0),
            Column("Volume free", f"{by_service} ({free})", "bytes", 1),
        ],
        overrides=widths({"Cluster": 90}),
        data_links=[
            links.to(
                links.GPUS,
                f"GPUs of {links.CELL}",
                cluster=links.CLUSTER_OF_ROW,
                instance=links.CELL,
            )
        ],
        sorted_by="Answers",
    )


def collectors() -> TimeSeries:
    failing = f"1 - min by {_COLLECTOR} ({of_node(catalog.COLLECTOR_SUCCESS)})"
    return TimeSeries(
        title="Services on which a collector fails",
        description=(
            "By collector: on how many services its last round did not succeed within its deadline. Its "
            "series are gone there, and nothing else; alerts on them are silent meanwhile. The service's "
            "log says why: mostly a driver that hangs, or a permission. On a node without a GPU those of "
            "GPUs fail for good."
        ),
        unit="none",
        most_points=FEW_POINTS,
        decimals=0,
        minimum=0,
        soft_maximum=1,
        stacked=True,
        legend_values=("lastNotNull", "max"),
        legend_highest="max",
        targets=[Query(expr=f"sum by (collector) ({failing})", legend="{{collector}}")],
    )


def collector_age() -> TimeSeries:
    last = of_node(catalog.COLLECTOR_LAST_SUCCESS_TIMESTAMP_SECONDS)
    clock = of_node(catalog.WALLCLOCK_SECONDS)
    return TimeSeries(
        title="Age of what is told",
        description=(
            "On the service where it is longest: how long ago each collector last succeeded, by the clock "
            "of its node. It should stay within seconds; a line that climbs evenly belongs to a collector "
            "that hangs or fails, and what it told last is no longer told. See the panel at the left and the "
            "service's log."
        ),
        unit="s",
        most_points=FEW_POINTS,
        minimum=0,
        legend_values=("lastNotNull", "max"),
        legend_highest="max",
        targets=[
            Query(
                expr=f"max by (collector) (max by {_SERVICE} ({clock}) - on {_SERVICE} group_right () "
                f"min by {_COLLECTOR} ({last}))",
                legend="{{collector}}",
            )
        ],
    )


def collector_duration() -> TimeSeries:
    return TimeSeries(
        title="Time a round takes",
        description=(
            "The five longest: how long a collector's last finished round took. Milliseconds are usual. "
            "Seconds mean a driver that answers slowly, a slow disk under the recordings, or a node whose "
            "trainings leave no CPU: the figures are still right, only older."
        ),
        unit="s",
        most_points=FEW_POINTS,
        minimum=0,
        legend_values=("lastNotNull", "max"),
        legend_highest="max",
        targets=[
            Query(
                expr=top.highest(
                    f"max by {_COLLECTOR} ({of_node(catalog.COLLECTOR_DURATION_SECONDS)})",
                    _COLLECTOR,
                    top.FEW_LINES,
                ),
                legend="{{collector}} on {{instance}}",
            )
        ],
    )


def published() -> TimeSeries:
    return TimeSeries(
        title="Runs published",
        description=(
            "Full: all metrics. Lifecycle: of one that ended, state and times only. Hidden: beyond what a "
            "node publishes; they are in its history and on its page. Hidden runs on a node that few use "
            "point to a script that starts a new run again and again: give it one name with --run."
        ),
        unit="none",
        most_points=FEW_POINTS,
        decimals=0,
        minimum=0,
        stacked=True,
        legend_values=("lastNotNull", "max"),
        targets=[
            Query(
                expr=f"sum by (detail) (max by {_DETAIL} ({of_node(catalog.RUNS_PUBLISHED)}))",
                legend="{{detail}}",
            )
        ],
        overrides=colored_names({"full": GOOD, "lifecycle": TRAINING, "hidden": WARNING}),
    )


def recordings_volume() -> TimeSeries:
    free = of_node(catalog.RECORDINGS_VOLUME_FREE_BYTES)
    size = of_node(catalog.RECORDINGS_VOLUME_SIZE_BYTES)
    return TimeSeries(
        title="Recordings: room",
        description=(
            "The five with least: free share of the file system that recordings are on. A rank that records "
            "has its room already; the next one that starts on a full volume is recorded on a slower disk "
            "or not at all. Mostly something else fills the tmpfs: see what lies there, or choose another "
            "with TRAINVITALS_DIR."
        ),
        unit="percentunit",
        most_points=FEW_POINTS,
        minimum=0,
        maximum=1,
        legend_values=("lastNotNull", "min"),
        legend_lowest="min",
        targets=[
            Query(
                expr=top.lowest(
                    f"max by {_SERVICE} ({free}) / on {_SERVICE} max by {_SERVICE} ({size})",
                    _SERVICE,
                    top.FEW_LINES,
                ),
                legend="{{instance}}",
            )
        ],
    )


def history_steps() -> TimeSeries:
    steps = of_node(catalog.HISTORY_STEPS_TOTAL)
    lost = of_node(catalog.HISTORY_LOST_STEPS_TOTAL)
    failing = of_node(catalog.HISTORY_FAILING_RECORDINGS)
    return TimeSeries(
        title="History: steps",
        description=(
            "Step records a second that services wrote into their history, those that were overwritten "
            "before they could be, and how many recordings could not be kept at the last try. The last two "
            "should be 0: the disk of the history is full or slow. Metrics and alerts do not read the "
            "history."
        ),
        unit="none",
        most_points=FEW_POINTS,
        axis_label="records / s",
        minimum=0,
        legend_values=("lastNotNull", "max"),
        legend_highest="max",
        targets=[
            Query(expr=f"sum(max by {_SERVICE} (rate({steps}[$__rate_interval])))", legend="kept"),
            Query(expr=f"sum(max by {_SERVICE} (rate({lost}[$__rate_interval])))", legend="lost"),
            Query(expr=f"sum(max by {_SERVICE} ({failing}))", legend="recordings that fail"),
        ],
        overrides=colored_names({"kept": GOOD, "lost": BAD, "recordings that fail": WARNING}),
    )


def history_size() -> TimeSeries:
    size = of_node(catalog.HISTORY_SIZE_BYTES)
    return TimeSeries(
        title="History: size",
        description=(
            "Of the five largest databases. It grows with the steps that are made and levels off, since "
            "older steps are thinned. One that only climbs has more trainings than its retention was made "
            "for: shorten it, or give the volume more room."
        ),
        unit="bytes",
        most_points=FEW_POINTS,
        minimum=0,
        legend_values=("lastNotNull", "max"),
        legend_highest="max",
        targets=[
            Query(
                expr=top.highest(f"max by {_SERVICE} ({size})", _SERVICE, top.FEW_LINES),
                legend="{{instance}}",
            )
        ],
    )
