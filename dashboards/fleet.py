"""Fleet: every run in a row, every GPU in a sum, and what needs somebody first.

It reads recorded series and alerts alone, so that a thousand GPUs and a day of them are no wait.
"""

from __future__ import annotations

from alerts import fleet, lifecycle, run_efficiency, throughput
from alerts.thresholds import Thresholds, duration
from dashboards import colors, events, links
from dashboards.events import ALERTS, FIRING
from dashboards.grafana.dashboard import Dashboard, Shelf, stack
from dashboards.grafana.panels import (
    MOST_POINTS,
    Query,
    Stat,
    Threshold,
    TimeSeries,
    colored_names,
    dashed,
    falling,
)
from dashboards.grafana.tables import Column, Table
from dashboards.grafana.timelines import StateTimeline
from dashboards.queries import over_range, per_run
from dashboards.rows import fleet_gpus
from dashboards.states import STATE_TEXTS
from dashboards.variables import VARIABLES_OF_ALL_CLUSTERS, of_alerts, of_recorded
from exporters.runs import State

UID = links.FLEET

_ZERO_IS_GOOD = Threshold(colors.GOOD, None)
_NOTHING = "-"
_OF_RUNS = 'run!=""'
# Of runs, whose work and whose trouble come first.
_ROWS_OF_STATES = 20
_IN_TROUBLE: tuple[State, ...] = ("stalled", "failed", "killed")
_LATER_THAN_ANY_START = "1e10"
# What a run's time should go into the training, and what is too little.
GOODPUT_STEPS = falling(0.9, 0.7)


def _firing(severity: str, *matchers: str) -> str:
    return of_alerts(ALERTS, FIRING, f'severity="{severity}"', *matchers)


def pages() -> Stat:
    return Stat(
        title="Pages",
        description=(
            "Critical alerts that fire now, of runs, machines and telemetry together. Each has called "
            "somebody already. Click through to Alerts and telemetry health for which they are; in the "
            "table below each run has its own."
        ),
        unit="none",
        decimals=0,
        targets=[Query(expr=f"count({_firing('critical')}) or vector(0)")],
        thresholds=[_ZERO_IS_GOOD, Threshold(colors.BAD, 1)],
        colored=True,
        color_mode="thresholds",
        named=False,
        data_links=[links.to(links.ALERTS, "What fires")],
    )


def warnings() -> Stat:
    return Stat(
        title="Warnings",
        description=(
            "Alerts of severity warning that fire now. They can wait until the morning, but not for a week: "
            "a line that only climbs is a team that no longer reads them. Click through to Alerts and "
            "telemetry health for which they are."
        ),
        unit="none",
        decimals=0,
        targets=[Query(expr=f"count({_firing('warning')}) or vector(0)")],
        thresholds=[_ZERO_IS_GOOD, Threshold(colors.WARNING, 1)],
        colored=True,
        color_mode="thresholds",
        named=False,
        data_links=[links.to(links.ALERTS, "What fires")],
    )


def running() -> Stat:
    return Stat(
        title="Runs at work",
        description=(
            "Runs in the state running, on whichever nodes. The line behind it is the load of the fleet: a "
            "step down at one moment is a node, a switch or a file system that took several runs with it."
        ),
        unit="none",
        decimals=0,
        targets=[Query(expr=f"count({of_recorded(fleet.STATE)} == {fleet.CODES['running']}) or vector(0)")],
        named=False,
    )


def down(thresholds: Thresholds) -> Stat:
    return Stat(
        title="Runs down",
        description=(
            "Runs that should train and do not: without progress for five minutes outside of start-up, "
            "evaluation and checkpoints, or killed or failed within "
            f"{duration(thresholds.killed_page_seconds)} and not started again. The table below names them: "
            "their GPUs wait, and are paid for."
        ),
        unit="none",
        decimals=0,
        targets=[Query(expr=f"count({of_recorded(fleet.DOWN)}) or vector(0)")],
        thresholds=[_ZERO_IS_GOOD, Threshold(colors.BAD, 1)],
        colored=True,
        color_mode="thresholds",
        named=False,
    )


def goodput_of_all() -> Stat:
    return Stat(
        title="Goodput",
        description=(
            "The share of all runs' time, over the time range, that went into forward, backward and "
            "optimizer; each run counts by its time, whatever its GPUs. Above 90 % is good. What took the "
            "rest, waiting for data, checkpoints or downtime, is on Goodput and energy. Steps made again "
            "after a restart count as good, for nobody can tell them."
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
        data_links=[links.to(links.GOODPUT, "Where the time went")],
    )


def runs(thresholds: Thresholds) -> Table:
    unfinished = of_recorded(lifecycle.UNFINISHED)
    quiet = f"round(time() - ({of_recorded(lifecycle.LAST_PROGRESS)} and on (cluster, run) {unfinished}))"

    of_its_alerts = links.to(links.ALERTS, "Its alerts", run=links.RUN_OF_ROW, cluster=links.CLUSTER_OF_ROW)

    def alerts(severity: str) -> str:
        return f"count by (cluster, run) ({_firing(severity, _OF_RUNS)})"

    return Table.of(
        title="Every run",
        description=(
            "Every run of the time range, those with pages first; click a name for all of it. Of usual holds "
            "the pace outside of pauses against the run's own median of six hours: red is where "
            f"{throughput.TRAINING_THROUGHPUT_REGRESSED} begins to count. Goodput and GPU hours are of the "
            "time range. Quiet for is the age of the last progress of any rank: more than a step's time is "
            "a pause, more than some minutes is trouble. What ended more than a day ago has no state any "
            "more."
        ),
        labels={"run": "Run", **fleet_gpus.CLUSTER},
        columns=[
            Column("State", of_recorded(fleet.STATE), "none", texts=STATE_TEXTS, cell="color-text", width=72),
            Column(
                "Pages",
                alerts("critical"),
                "none",
                0,
                cell="color-background",
                thresholds=[Threshold(colors.NONE, None), Threshold(colors.BAD, 1)],
                width=76,
                links=[of_its_alerts],
            ),
            Column(
                "Warnings",
                alerts("warning"),
                "none",
                0,
                cell="color-background",
                thresholds=[Threshold(colors.NONE, None), Threshold(colors.WARNING, 1)],
                width=76,
                links=[of_its_alerts],
            ),
            Column(
                "Progress",
                # Of those that have ended, too. Five minutes old is new enough, and quicker to ask for.
                f"last_over_time({of_recorded(fleet.PROGRESS)}[$__range:5m])",
                "percentunit",
                0,
                cell="gauge",
                thresholds=[Threshold(colors.TRAINING, None)],
                minimum=0,
                maximum=1,
                width=96,
            ),
            Column("Ends in", of_recorded(fleet.ETA), "s", 1, width=84),
            Column("Quiet for", quiet, "s", 0, width=76),
            Column("Tokens/s", of_recorded(throughput.TOKENS), "short", 1, width=72),
            Column(
                "Of usual",
                per_run.usual_pace(),
                "percentunit",
                0,
                cell="color-text",
                thresholds=falling(0.95, thresholds.throughput_ratio),
                width=76,
            ),
            Column(
                "Goodput",
                over_range.goodput(),
                "percentunit",
                0,
                cell="color-text",
                thresholds=GOODPUT_STEPS,
                width=72,
            ),
            Column("GPUs", of_recorded(run_efficiency.GPUS), "none", 0, width=52),
            Column(
                "GPU h",
                over_range.hours(of_recorded(run_efficiency.GPUS)),
                "short",
                1,
                width=64,
            ),
        ],
        data_links=[links.to_run(links.CELL, cluster=links.CLUSTER_OF_ROW)],
        overrides=[fleet_gpus.CLUSTER_WIDTH],
        sorted_by="Pages",
        descending=True,
        no_value=_NOTHING,
    )


def states() -> StateTimeline:
    start = of_recorded(lifecycle.START)
    bad = " or ".join(f"{of_recorded(fleet.STATE)} @ end() == {fleet.CODES[state]}" for state in _IN_TROUBLE)
    first = f"({start} @ end() + {_LATER_THAN_ANY_START} and on (cluster, run) ({bad}))"
    rank = f"{first} or on (cluster, run) {start} @ end()"
    return StateTimeline(
        title=f"States of runs: those in trouble and the newest, {_ROWS_OF_STATES} at most",
        description=(
            "How each run of the last day went. A change to stalled, killed or failed in several rows at "
            "one moment is something they share: a node, the network, a file system. A row that goes back "
            "and forth between killed and running restarts without getting anywhere. Click a band for the "
            "run."
        ),
        value_texts=STATE_TEXTS,
        targets=[
            Query(
                expr=f"{of_recorded(fleet.STATE)} and on (cluster, run) topk({_ROWS_OF_STATES}, {rank})",
                legend="{{run}}",
            )
        ],
        data_links=[links.to_run(cluster=links.CLUSTER_OF_SERIES)],
    )


def tokens() -> TimeSeries:
    now = of_recorded(throughput.TOKENS)
    usual = of_recorded(throughput.TOKENS_MEDIAN)
    return TimeSeries(
        title="Tokens per second of all runs",
        description=(
            "Solid: what all runs make together. Dashed: what they would make at the median pace of their "
            "last six hours without a pause; a run that has no such median yet counts with what it makes. "
            "Short dips are evaluations and checkpoints. A gap that stays is runs that became slower: see "
            "Of usual in the table."
        ),
        unit="short",
        axis_label="tokens / s",
        minimum=0,
        most_points=MOST_POINTS,
        filled=True,
        legend_values=("lastNotNull", "mean", "max"),
        legend_placement="right",
        targets=[
            Query(expr=f"sum({now})", legend="now"),
            Query(expr=f"sum({usual} or on (cluster, run) {now})", legend="usual"),
        ],
        overrides=[*colored_names({"now": colors.TRAINING}), dashed("B", colors.BASELINE)],
    )


def dashboard(thresholds: Thresholds) -> Dashboard:
    return Dashboard(
        uid=UID,
        title="Fleet",
        description=(
            "All runs and all GPUs: what needs somebody, how far each run is, what the GPUs are doing. "
            "Click a run or a node for all of it."
        ),
        variables=VARIABLES_OF_ALL_CLUSTERS,
        events=events.of_fleet(),
        panels=stack(
            Shelf(
                "Does anything need somebody?",
                [
                    (pages(), 6),
                    (warnings(), 6),
                    (down(thresholds), 6),
                    (fleet_gpus.lost(), 6),
                    (running(), 6),
                    (goodput_of_all(), 6),
                    (fleet_gpus.in_use(), 6),
                    (fleet_gpus.known(), 6),
                ],
                height=4,
            ),
            Shelf("How is each run?", [(runs(thresholds), 24)], height=11),
            Shelf("How did they go?", [(states(), 24)], height=11),
            Shelf("What comes out of it?", [(tokens(), 24)], height=7),
            Shelf(
                "Are the GPUs at work?",
                [
                    (fleet_gpus.over_time(), 12),
                    (fleet_gpus.utilization(), 12),
                    (fleet_gpus.power(), 12),
                    (fleet_gpus.lazy_nodes(), 12),
                ],
                height=9,
            ),
        ),
    )
