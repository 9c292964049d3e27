"""The panels about energy of the dashboard Goodput and energy.

Energy is the power of the boards, added up minute by minute; what the nodes draw besides their GPUs, and what
cools them, is not in it.
"""

from __future__ import annotations

from alerts import fleet, run_efficiency, throughput
from dashboards import colors, links
from dashboards.grafana.panels import (
    MOST_POINTS,
    Query,
    Stat,
    Threshold,
    TimeSeries,
    colored_names,
    links_of,
    rising,
)
from dashboards.grafana.tables import Column, Table
from dashboards.queries import over_range, per_run, top
from dashboards.rows.fleet_gpus import CLUSTER, CLUSTER_WIDTH
from dashboards.variables import of_recorded

_MOST_BANDS = 6
_NOTHING = "-"


def total() -> Stat:
    return Stat(
        title="Energy of all GPUs",
        description=(
            "What the boards of all GPUs took over the time range, idle ones among them; not the rest of "
            "their nodes and not the cooling, which mostly add a third to a half. By run it stands below."
        ),
        unit="kwatth",
        decimals=1,
        no_value="no GPUs",
        targets=[Query(expr=f"sum({over_range.kilowatt_hours(of_recorded(fleet.POWER))})", instant=True)],
        named=False,
        course=False,
    )


def idle_share() -> Stat:
    idle, everything = (
        f"sum({over_range.kilowatt_hours(of_recorded(name))})" for name in (fleet.IDLE_POWER, fleet.POWER)
    )
    return Stat(
        title="Energy of idle GPUs",
        description=(
            "The share of that energy which went into GPUs that no run trained on. Where it is much, switch "
            "nodes off that nothing waits for, or let the queue fill them."
        ),
        unit="percentunit",
        decimals=1,
        no_value="no GPUs",
        targets=[Query(expr=f"{idle} / on () {everything}", instant=True)],
        thresholds=rising(0.1, 0.3),
        colored=True,
        color_mode="thresholds",
        named=False,
        course=False,
    )


def power() -> TimeSeries:
    of_runs = of_recorded(run_efficiency.POWER)
    most = f"topk({_MOST_BANDS}, {of_runs} @ end())"
    shown = f"{of_runs} and on (cluster, run) {most}"
    rest = f"sum({of_runs} unless on (cluster, run) {most})"
    return TimeSeries(
        title="Power by run",
        description=(
            f"What the GPUs of the {_MOST_BANDS} runs draw that draw most at the end of the time range, one "
            "upon the other, then all other runs, then the GPUs that no run trains on. A GPU that runs share "
            "is divided equally among them. A band that sinks while its run goes on is a run that waits."
        ),
        unit="watt",
        minimum=0,
        stacked=True,
        most_points=MOST_POINTS,
        no_value="no GPUs",
        legend_values=("lastNotNull", "mean"),
        legend_placement="right",
        targets=[
            Query(expr=shown, legend="{{run}}"),
            Query(expr=rest, legend="other runs"),
            Query(expr=f"sum({of_recorded(fleet.IDLE_POWER)})", legend="no run"),
        ],
        overrides=[
            links_of("A", links.to_run(cluster=links.CLUSTER_OF_SERIES)),
            *colored_names({"other runs": colors.SKY, "no run": colors.BASELINE}),
        ],
    )


def runs() -> Table:
    power = f"sum_over_time({of_recorded(run_efficiency.POWER)}[$__range])"
    tokens = f"sum_over_time({of_recorded(throughput.TOKENS)}[$__range])"
    energy = over_range.kilowatt_hours(of_recorded(run_efficiency.POWER))
    return Table.of(
        title="What each run took, and what it made of it",
        description=(
            "Over the time range, the most energy first, all attempts of a run together; click a name for "
            "it. Joules per token holds energy against tokens, pauses included: of two runs of one model "
            "the lower one is the better set-up, of two models it is mostly the smaller."
        ),
        labels={"run": "Run", **CLUSTER},
        columns=[
            Column(
                "kWh",
                energy,
                "none",
                2,
                cell="gauge",
                thresholds=[Threshold(colors.TRAINING, None)],
                minimum=0,
                width=150,
            ),
            Column("J / token", f"{power} / on (cluster, run) ({tokens} > 0)", "joule", 1, width=76),
        ],
        data_links=[links.to_run(links.CELL, cluster=links.CLUSTER_OF_ROW)],
        overrides=[CLUSTER_WIDTH],
        sorted_by="kWh",
        descending=True,
        no_value=_NOTHING,
    )


def tokens_per_joule() -> TimeSeries:
    return TimeSeries(
        title="Tokens per joule",
        description=(
            "What each run makes of a joule, over five minutes; the ten highest runs. It should be level "
            "but for evaluations and checkpoints. Falling without a change of the training: a GPU is held "
            "down, or all wait for one; zero: the GPUs draw power and nothing is trained."
        ),
        unit="none",
        axis_label="tokens / J",
        minimum=0,
        most_points=MOST_POINTS,
        no_value="no GPU tells its energy",
        legend_values=(),
        targets=[
            Query(
                expr=top.highest(of_recorded(run_efficiency.TOKENS_PER_JOULE), per_run.RUN), legend="{{run}}"
            )
        ],
        data_links=[links.to_run(cluster=links.CLUSTER_OF_SERIES)],
    )
