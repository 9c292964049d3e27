"""What is lost if a run dies now: its checkpoints, and the room for more of them."""

from __future__ import annotations

from alerts import checkpoint
from alerts.lifecycle import UNFINISHED
from alerts.thresholds import Thresholds
from dashboards.colors import BASELINE, GREEN, ORANGE
from dashboards.grafana.panels import (
    Query,
    Stat,
    TimeSeries,
    colored,
    dashed,
    dashed_limit,
    unit_of,
)
from dashboards.queries.per_run import ONE, newest
from dashboards.rows.alert_panels import percent
from dashboards.variables import of_recorded, of_run
from exporters import catalog


def checkpoint_age() -> str:
    """How long ago the last good checkpoint of a run that has not ended was complete, in seconds."""
    last = newest(catalog.TRAINING_CHECKPOINT_LAST_SUCCESS_TIMESTAMP_SECONDS)
    return f"time() - {last} and {ONE} {of_recorded(UNFINISHED)}"


def age(thresholds: Thresholds) -> TimeSeries:
    ratio = thresholds.checkpoint_stale_ratio
    return TimeSeries(
        title="Age of the last good checkpoint",
        description=(
            "What would be trained again if the run died now. An even saw-tooth is health: its height is the "
            f"interval. Above the red dashes, {ratio:g} times the longest interval so far, no checkpoint "
            "came when one was due: see whether they fail, whether the volume is full, or whether the run "
            "does something else."
        ),
        unit="s",
        minimum=0,
        legend_values=("lastNotNull", "max"),
        targets=[
            Query(expr=checkpoint_age(), legend="age"),
            Query(expr=f"{ratio:g} * {of_recorded(checkpoint.INTERVAL)}", legend="late"),
        ],
        overrides=[colored("A", GREEN), dashed_limit("B")],
        no_value="no checkpoint yet",
    )


def cost(thresholds: Thresholds) -> TimeSeries:
    duration = newest(catalog.TRAINING_CHECKPOINT_DURATION_SECONDS)
    interval = newest(catalog.TRAINING_CHECKPOINT_INTERVAL_SECONDS)
    return TimeSeries(
        title="Time a checkpoint takes",
        description=(
            "Solid: how long the last good checkpoint took. Grey, on the right axis: its share of the time "
            "between two, which is what checkpoints cost. Above "
            f"{percent(thresholds.checkpoint_slow_ratio)} make them rarer, smaller, or write them in the "
            "background; a duration that grows points to a slow or crowded volume."
        ),
        unit="s",
        minimum=0,
        legend_values=("lastNotNull", "max"),
        targets=[
            Query(expr=duration, legend="duration"),
            Query(expr=f"{duration} / {ONE} {interval}", legend="share of the time"),
        ],
        overrides=[
            colored("A", ORANGE),
            dashed("B", BASELINE),
            unit_of("B", "percentunit", "share of the time"),
        ],
        no_value="no checkpoint yet",
    )


def interval() -> TimeSeries:
    return TimeSeries(
        title="Time between checkpoints",
        description=(
            "Between the last two good ones. It says how much a death can cost. Level is health; one that "
            "grows means that steps have become slower, or that a checkpoint failed in between. Choose it so "
            "that losing so much work is worth less than the time the checkpoints take."
        ),
        unit="s",
        minimum=0,
        legend_values=("lastNotNull", "max"),
        targets=[Query(expr=newest(catalog.TRAINING_CHECKPOINT_INTERVAL_SECONDS), legend="interval")],
        overrides=[colored("A", GREEN)],
        no_value="fewer than two checkpoints",
    )


def room() -> TimeSeries:
    return TimeSeries(
        title="Room for checkpoints",
        description=(
            "Free space of the volume right after the last checkpoint, and what one checkpoint takes; grey "
            "is the whole volume. Free space that falls by a checkpoint each time will run out: divide to "
            "see how many more fit. Below the red line the next one fails: delete old checkpoints, or keep "
            "fewer."
        ),
        unit="bytes",
        minimum=0,
        legend_values=("lastNotNull", "min"),
        targets=[
            Query(expr=newest(catalog.TRAINING_CHECKPOINT_VOLUME_FREE_BYTES), legend="free"),
            Query(expr=newest(catalog.TRAINING_CHECKPOINT_VOLUME_SIZE_BYTES), legend="volume"),
            Query(expr=newest(catalog.TRAINING_CHECKPOINT_SIZE_BYTES), legend="one checkpoint"),
        ],
        overrides=[colored("A", GREEN), dashed("B", BASELINE), dashed_limit("C")],
        no_value="no checkpoint yet",
    )


def results() -> Stat:
    written = f"increase({of_run(catalog.TRAINING_CHECKPOINTS_TOTAL)}[$__range])"
    return Stat(
        title="Checkpoints written",
        description=(
            "How many within the time range, by result. Any that failed left the run with an older one to go "
            "back to, and left its files behind: look at the volume's free space and at the trainer's log. "
            "None at all in hours: ask whether the run writes any."
        ),
        unit="none",
        decimals=0,
        course=False,
        targets=[
            Query(
                expr=f"round(sum by (result) (max by (cluster, instance, run, result) ({written})))",
                legend="{{result}}",
                instant=True,
            )
        ],
    )
