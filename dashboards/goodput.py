"""Goodput and energy: what became of the runs' time, of the GPUs' hours, and of the energy."""

from __future__ import annotations

from alerts import fleet, run_efficiency
from alerts.thresholds import Thresholds, duration
from dashboards import colors, events, links
from dashboards.fleet import GOODPUT_STEPS
from dashboards.grafana.dashboard import Dashboard, Shelf, stack
from dashboards.grafana.panels import MOST_POINTS, BarGauge, Query, Stat, Threshold, TimeSeries, colored_names
from dashboards.grafana.tables import Column, Table
from dashboards.queries import over_range, per_run
from dashboards.rows import energy
from dashboards.rows.fleet_gpus import CLUSTER, CLUSTER_WIDTH
from dashboards.variables import VARIABLES_OF_ALL_CLUSTERS, of_recorded

UID = links.GOODPUT

_PHASES = {**colors.PHASES, fleet.DOWN_PHASE: colors.PINK}
# No training makes more of its devices than this.
_MOST_FLOPS_UTILIZATION = 0.7
_NOTHING = "-"


def goodput() -> Stat:
    return Stat(
        title="Goodput",
        description=(
            "The share of all runs' time, over the time range, that went into the phases that train the "
            "model; each run counts by its time, whatever its GPUs. What took the rest stands below. Steps "
            "made again after a restart count as good, for nobody can tell them: the restarts in the table "
            "below say how many may be."
        ),
        unit="percentunit",
        decimals=1,
        no_value="no run",
        targets=[Query(expr=over_range.goodput_of_all(), instant=True)],
        thresholds=GOODPUT_STEPS,
        colored=True,
        color_mode="thresholds",
        named=False,
        course=False,
    )


def time_by_phase() -> TimeSeries:
    def phases(matcher: str) -> Query:
        return Query(expr=f"sum by (phase) ({of_recorded(fleet.TIME_SHARE, matcher)})", legend="{{phase}}")

    productive = "|".join(fleet.PRODUCTIVE_PHASES)
    return TimeSeries(
        title="Where the time goes",
        description=(
            "The time of all runs at each moment, by phase, every run alike; a run's is that of its last ten "
            "minutes. The blue block at the bottom trains the model, and its height is the goodput; all "
            "above is what it waits for or is interrupted by. A colour that swells at one time of the day "
            "is a file system or a network that others use then. Point at it for how many runs that is."
        ),
        unit="short",
        stacked=True,
        to_full_height=True,
        most_points=MOST_POINTS,
        legend_values=(),
        targets=[
            phases(f'phase=~"{productive}"'),
            phases(f'phase!~"{productive}|{fleet.DOWN_PHASE}"'),
            phases(f'phase="{fleet.DOWN_PHASE}"'),
        ],
        overrides=colored_names(_PHASES),
    )


def lost() -> BarGauge:
    not_productive = f'phase!~"{"|".join(fleet.PRODUCTIVE_PHASES)}"'
    hours = over_range.hours(of_recorded(fleet.TIME_SHARE, not_productive))
    return BarGauge(
        title="Run hours that trained nothing",
        description=(
            "Over the time range, by what took them, the most first: what to work on next. Data: more loader "
            "workers, longer prefetch. Down: restart sooner, or by machine. Init: caches for data and "
            "compiled kernels. Evaluation and checkpoint: more rarely, or asynchronously. Other is what the "
            "training does between its phases."
        ),
        unit="short",
        decimals=1,
        minimum=0,
        no_value="no run",
        targets=[Query(expr=f"sort_desc(sum by (phase) ({hours}))", legend="{{phase}}", instant=True)],
        overrides=colored_names(_PHASES),
    )


def runs() -> Table:
    def spent(title: str, phase: str, width: int = 92) -> Column:
        matcher = f'phase="{phase}"'
        return Column(title, over_range.seconds(of_recorded(fleet.TIME_SHARE, matcher)), "s", 1, width=width)

    return Table.of(
        title="What took the time of each run",
        description=(
            "The least goodput first; click a name for the run. Goodput is the share of its time within the "
            "time range that trained the model. Down is without progress for "
            f"{duration(fleet.STANDS_STILL_SECONDS)} outside of start-up, evaluation and checkpoints, or "
            "dead and not started again while its alert tells it. The other columns are how long it did "
            "what. A run with many restarts makes steps again that count as good here."
        ),
        labels={"run": "Run", **CLUSTER},
        columns=[
            Column(
                "Goodput",
                over_range.goodput(),
                "percentunit",
                1,
                cell="gauge",
                thresholds=GOODPUT_STEPS,
                minimum=0,
                maximum=1,
                width=130,
            ),
            spent("Down", fleet.DOWN_PHASE),
            spent("Data", "data"),
            spent("Evaluation", "evaluation"),
            spent("Checkpoint", "checkpoint"),
            spent("Start-up", "init"),
            Column("Restarts", per_run.restarts(), "none", 0, width=80),
        ],
        data_links=[links.to_run(links.CELL, cluster=links.CLUSTER_OF_ROW)],
        overrides=[CLUSTER_WIDTH],
        sorted_by="Goodput",
        no_value=_NOTHING,
    )


def gpu_time() -> Stat:
    used, known = (
        f"sum(sum_over_time({of_recorded(name)}[$__range]))" for name in (fleet.GPUS_IN_USE, fleet.GPUS)
    )
    return Stat(
        title="GPU time in runs",
        description=(
            "The share of the hours of all GPUs, over the time range, in which a run held them. What is "
            "missing is what could have been trained besides. In a run is not the same as well used: see "
            "goodput beside it, and below how hard the GPUs worked."
        ),
        unit="percentunit",
        decimals=1,
        no_value="no GPUs",
        targets=[Query(expr=f"{used} / on () {known}", instant=True)],
        named=False,
        course=False,
    )


def work() -> Table:
    return Table.of(
        title="How well each run used its GPUs",
        description=(
            "Means over the time range, the run with the most GPU hours first. MFU is the FLOPs that the "
            "model's tokens took, against what the devices could do at that precision; 40 % and more is good "
            "for a large model. Tensor is how much the tensor cores did, with all that ran on them. Both "
            "low: it waits, or the micro-batches are small. Tensor alone high: recomputation or padding."
        ),
        labels={"run": "Run", **CLUSTER},
        columns=[
            Column("GPU h", over_range.hours(of_recorded(run_efficiency.GPUS)), "short", 1, width=72),
            _bar("MFU", _mean(fleet.FLOPS_UTILIZATION), _MOST_FLOPS_UTILIZATION),
            _bar("Tensor", _mean(run_efficiency.TENSOR_ACTIVE), 1),
        ],
        data_links=[links.to_run(links.CELL, cluster=links.CLUSTER_OF_ROW)],
        overrides=[CLUSTER_WIDTH],
        sorted_by="GPU h",
        descending=True,
        no_value=_NOTHING,
    )


def _bar(title: str, expr: str, maximum: float) -> Column:
    return Column(
        title,
        expr,
        "percentunit",
        1,
        cell="gauge",
        thresholds=[Threshold(colors.TRAINING, None)],
        minimum=0,
        maximum=maximum,
        width=110,
    )


def _mean(recorded: str) -> str:
    return f"avg_over_time({of_recorded(recorded)}[$__range])"


def held_down() -> TimeSeries:
    return TimeSeries(
        title="GPUs whose clocks are held down",
        description=(
            "How many at each moment, by reason, each by the share of its time. One GPU may have several "
            "reasons, so the lines do not add up. Heat and power brake are faults of the machine room; "
            "the power cap is the limit that was set, and normal at full load."
        ),
        unit="short",
        decimals=1,
        minimum=0,
        soft_maximum=1,
        axis_label="GPUs",
        no_value="none is",
        legend_values=("lastNotNull", "mean", "max"),
        legend_placement="right",
        targets=[Query(expr=f"sum by (reason) ({of_recorded(fleet.THROTTLED)})", legend="{{reason}}")],
        overrides=colored_names(colors.THROTTLING),
        data_links=[links.to(links.GPUS, "All GPUs")],
    )


def held_down_hours() -> BarGauge:
    hours = over_range.hours(of_recorded(fleet.THROTTLED))
    return BarGauge(
        title="GPU hours with clocks held down",
        description=(
            "Over the time range, by reason; reasons overlap. They are hours at lower clocks and not hours "
            "lost: what they cost depends on how far the clocks went down, and every rank waits for the "
            "slowest GPU. Anything but the power cap is a fault to be found on GPUs."
        ),
        unit="short",
        decimals=1,
        minimum=0,
        no_value="none was",
        targets=[Query(expr=f"sort_desc(sum by (reason) ({hours}))", legend="{{reason}}", instant=True)],
        overrides=colored_names(colors.THROTTLING),
    )


def dashboard(_: Thresholds) -> Dashboard:
    return Dashboard(
        uid=UID,
        title="Goodput and energy",
        description=(
            "Where the time, the GPU hours and the energy of the chosen time range went, over all runs and "
            "by run. Choose a day or a week, and click a run for its own course."
        ),
        variables=VARIABLES_OF_ALL_CLUSTERS,
        events=events.of_fleet(),
        panels=stack(
            Shelf(
                "What came of it?",
                [(goodput(), 6), (gpu_time(), 6), (energy.total(), 6), (energy.idle_share(), 6)],
                height=4,
            ),
            Shelf("Where did the time go?", [(time_by_phase(), 15), (lost(), 9), (runs(), 24)], height=10),
            Shelf("How hard did the GPUs work?", [(work(), 12), (held_down_hours(), 12), (held_down(), 24)]),
            Shelf(
                "Where did the energy go?",
                [(energy.power(), 24), (energy.runs(), 12), (energy.tokens_per_joule(), 12)],
                height=9,
            ),
        ),
    )
