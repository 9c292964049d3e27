"""The panels about GPUs of the dashboard Fleet: how many, in use by whom, how busy, at what power."""

from __future__ import annotations

from alerts import fleet
from dashboards import colors, links
from dashboards.grafana.panels import MOST_POINTS, Query, Stat, Threshold, TimeSeries, colored_names, falling
from dashboards.grafana.tables import Column, Table, widths
from dashboards.grafana.timelines import Heatmap
from dashboards.variables import of_recorded

_ZERO_IS_GOOD = Threshold(colors.GOOD, None)
# A column of tables over all clusters; Grafana leaves it out where no cluster is told.
CLUSTER = {"cluster": "Cluster"}
[CLUSTER_WIDTH] = widths({"Cluster": 80})


def in_use() -> Stat:
    return Stat(
        title="GPUs in use",
        description=(
            "The share of GPUs that a run trains on, of all that are known, lost ones among them. Which "
            "nodes are idle is at the top of GPUs. In use does not mean busy: see the utilization below."
        ),
        unit="percentunit",
        decimals=0,
        minimum=0,
        maximum=1,
        no_value="no GPUs",
        targets=[
            Query(expr=f"sum({of_recorded(fleet.GPUS_IN_USE)}) / on () sum({of_recorded(fleet.GPUS)})"),
        ],
        named=False,
    )


def lost() -> Stat:
    return Stat(
        title="GPUs lost",
        description=(
            "GPUs that were seen before and do not answer any more. It should be 0: the runs on them are "
            "dead or hang, and the node needs a reset or a technician. Which they are is in the alert "
            "GPULost of each: click through to what fires."
        ),
        unit="none",
        decimals=0,
        no_value="no GPUs",
        targets=[Query(expr=f"sum({of_recorded(fleet.GPUS_LOST)})")],
        thresholds=[_ZERO_IS_GOOD, Threshold(colors.BAD, 1)],
        colored=True,
        color_mode="thresholds",
        named=False,
        data_links=[links.to(links.ALERTS, "What fires")],
    )


def known() -> Stat:
    return Stat(
        title="GPUs and nodes",
        description=(
            "All GPUs that are known, lost ones among them, and the nodes they are in. Fewer nodes than you "
            "own: one is not scraped, and TrainingServiceDown says so; fewer GPUs: one did not come back "
            "after a boot, and GPUCountChanged says so."
        ),
        unit="none",
        decimals=0,
        no_value="no GPUs",
        targets=[
            Query(expr=f"sum({of_recorded(fleet.GPUS)})", legend="GPUs"),
            Query(expr=f"count({of_recorded(fleet.GPUS)})", legend="nodes"),
        ],
        course=False,
    )


def over_time() -> TimeSeries:
    all_gpus, used, gone = (
        f"sum({of_recorded(name)})" for name in (fleet.GPUS, fleet.GPUS_IN_USE, fleet.GPUS_LOST)
    )
    return TimeSeries(
        title="GPUs by what becomes of them",
        description=(
            "Training: a run holds the GPU and it answers. Idle: no run holds it; start something, or give "
            "it back. Lost: it does not answer any more. The whole height is what the fleet has; a step in "
            "it is a node that appears or goes."
        ),
        unit="none",
        decimals=0,
        minimum=0,
        axis_label="GPUs",
        stacked=True,
        most_points=MOST_POINTS,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            Query(expr=used, legend="training"),
            Query(expr=f"{all_gpus} - on () {used} - on () {gone}", legend="idle"),
            Query(expr=gone, legend="lost"),
        ],
        overrides=colored_names({"training": colors.TRAINING, "idle": colors.BASELINE, "lost": colors.BAD}),
        data_links=[links.to(links.GPUS, "All GPUs")],
    )


def utilization() -> Heatmap:
    return Heatmap(
        title="Utilization of all GPUs",
        description=(
            "At each moment, how many GPUs are how busy: the further from the ground's colour, the more. A "
            "fleet at work is one band at the top; idle GPUs are one at the bottom. What lies between is "
            "GPUs that wait for their data or for each other: the nodes below are where to begin."
        ),
        unit="percent",
        cell_unit="none",
        cell_decimals=0,
        most_points=MOST_POINTS,
        targets=[
            Query(
                expr=f"sum by (le) ({of_recorded(fleet.UTILIZATION_BUCKET)})",
                legend="{{le}}",
                format="heatmap",
            )
        ],
    )


def lazy_nodes() -> Table:
    in_use = f"{of_recorded(fleet.GPUS_IN_USE)} > 0"

    def of_those(expr: str) -> str:
        return f"{expr} and on (cluster, instance) {in_use}"

    return Table.of(
        title="Nodes in use, the least busy first",
        description=(
            "The nodes on which something trains, and how much their GPUs worked over the time range. A low "
            "one among equals is a slow disk, a slow link or a hanging run; click it for its GPUs. Nodes "
            "that nothing trains on are left out: they are idle above."
        ),
        labels={"instance": "Node", **CLUSTER},
        columns=[
            Column(
                "Utilization",
                of_those(f"avg_over_time({of_recorded(fleet.UTILIZATION)}[$__range])"),
                "percent",
                0,
                cell="gauge",
                thresholds=falling(80, 50),
                minimum=0,
                maximum=100,
                width=110,
            ),
            Column("GPUs", of_those(of_recorded(fleet.GPUS)), "none", 0, width=56),
            Column("In use", in_use, "none", 0, width=60),
            Column(
                "Lost",
                of_those(of_recorded(fleet.GPUS_LOST)),
                "none",
                0,
                cell="color-text",
                thresholds=[Threshold(colors.NEUTRAL, None), Threshold(colors.BAD, 1)],
                width=52,
            ),
            Column("Power", of_those(of_recorded(fleet.POWER)), "watt", 1, width=80),
        ],
        data_links=[
            links.to(
                links.GPUS,
                f"GPUs of {links.CELL}",
                instance=links.CELL,
                cluster=links.CLUSTER_OF_ROW,
            )
        ],
        overrides=[CLUSTER_WIDTH],
        sorted_by="Utilization",
        no_value="-",
    )


def power() -> TimeSeries:
    idle = f"sum({of_recorded(fleet.IDLE_POWER)})"
    return TimeSeries(
        title="Power of all GPUs",
        description=(
            "What the boards draw, those that runs train on and those that none does, one upon the other. "
            "An idle one draws some tens of watts for nothing. Where training GPUs draw little, they wait: "
            "power follows work more closely than utilization does. Who draws it is on Goodput and energy."
        ),
        unit="watt",
        minimum=0,
        stacked=True,
        most_points=MOST_POINTS,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            Query(expr=f"sum({of_recorded(fleet.POWER)}) - on () {idle}", legend="training"),
            Query(expr=idle, legend="idle"),
        ],
        overrides=colored_names({"training": colors.TRAINING, "idle": colors.BASELINE}),
        data_links=[links.to(links.GOODPUT, "Where the energy went")],
    )
