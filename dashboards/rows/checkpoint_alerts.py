"""Whether a run that dies now loses little: the panels of the alerts in alerts/checkpoint.py."""

from __future__ import annotations

from alerts import checkpoint
from alerts.lifecycle import UNFINISHED
from alerts.thresholds import Thresholds, duration
from dashboards.grafana.panels import Query, TimeSeries
from dashboards.rows.alert_panels import judged
from dashboards.variables import of_recorded, of_run
from exporters import catalog

_RUN = "on (cluster, run)"


def panels(thresholds: Thresholds) -> dict[str, TimeSeries]:
    """The panel of each alert, by the alert's name."""
    lookback = duration(thresholds.lookback_seconds)
    told = duration(thresholds.checkpoint_failed_told_seconds)
    last_step = of_run(catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS)
    failed = of_run(catalog.TRAINING_CHECKPOINTS_TOTAL, 'result="failed"')
    took = of_run(catalog.TRAINING_CHECKPOINT_DURATION_SECONDS)
    last_checkpoint = of_recorded(checkpoint.LAST_CHECKPOINT)
    interval = of_recorded(checkpoint.INTERVAL)
    unfinished = of_recorded(UNFINISHED)
    return {
        checkpoint.TRAINING_CHECKPOINT_STALE: judged(
            title="Work of a run that is lost if it dies now",
            description=(
                "Solid: time from the last good checkpoint, or from the start, to the last step. Dashed: "
                f"{thresholds.checkpoint_stale_ratio:g} times the longest that lay between two checkpoints, "
                f"and {duration(thresholds.checkpoint_stale_seconds)} at least. The solid line is a "
                "saw-tooth; above the dashes a checkpoint is late. See whether writes fail or hang, and "
                "whether the trainer still has a reason to write any."
            ),
            unit="s",
            shown=[
                Query(
                    expr=f"max by (cluster, run) (last_over_time({last_step}[{lookback}])) - {_RUN} "
                    f"({last_checkpoint} >= {_RUN} {unfinished} or {_RUN} {unfinished})",
                    legend="{{run}}",
                )
            ],
            moving_limit=Query(
                expr=f"clamp_min({thresholds.checkpoint_stale_ratio:g} * {interval}, "
                f"{thresholds.checkpoint_stale_seconds:g})",
                legend="{{run}} limit",
            ),
        ),
        checkpoint.TRAINING_CHECKPOINT_FAILED: judged(
            title="Checkpoints that failed",
            description=(
                f"Of each run, within {told} and in all of this attempt. Any is told: the next may fail for "
                "the same reason, and what was trained since the last good one is lost if the run ends. Look "
                "at the room and the permissions of the volume, and at the error on the run's page."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"max by (cluster, run) (round(increase({failed}[{told}])))",
                    legend=f"{{{{run}}}} within {told}",
                ),
                Query(expr=of_recorded(checkpoint.FAILED_WRITES), legend="{{run}} in this attempt"),
            ],
        ),
        checkpoint.TRAINING_CHECKPOINT_SLOW: judged(
            title="Time a checkpoint takes, of the time between two",
            description=(
                f"Of each run's last good one, and of the longest time between two within {lookback}. Above "
                "the red line the GPUs wait for much of the time. Write less often, in the background or "
                "sharded by rank, or to a faster disk first."
            ),
            unit="percentunit",
            shown=[
                Query(
                    expr=f"max by (cluster, run) (last_over_time({took}[{lookback}])) / {_RUN} "
                    f"({interval} and {_RUN} {unfinished})",
                    legend="{{run}}",
                )
            ],
            limit_at=thresholds.checkpoint_slow_ratio,
        ),
        checkpoint.TRAINING_CHECKPOINT_VOLUME_FILLING: _volume(thresholds),
    }


def _volume(thresholds: Thresholds) -> TimeSeries:
    trend_seconds = thresholds.checkpoint_volume_trend_seconds
    trend, both = duration(trend_seconds), duration(2 * trend_seconds)
    free = of_recorded(checkpoint.FREE)
    taken = of_recorded(checkpoint.TAKEN)
    written = f"changes({of_recorded(checkpoint.LAST_CHECKPOINT)}[{both}])"
    size = of_run(catalog.TRAINING_CHECKPOINT_SIZE_BYTES)
    eta = of_run(catalog.TRAINING_ETA_SECONDS)
    return judged(
        title="Room on the volume of a run's checkpoints",
        worst="lowest",
        description=(
            "Free after each run's last checkpoint. Dashed: what its next two would take, by what those "
            "before it took for good; of a first one, as much again. Beside it: what the rest of the run "
            f"would take, at the pace of the last {trend}. Where there is less free than either, remove old "
            "checkpoints, keep fewer, or give the run another volume."
        ),
        unit="bytes",
        shown=[
            Query(expr=free, legend="{{run}} free"),
            Query(
                expr=f"clamp_min(max by (cluster, run) ({eta}) * {_RUN} {taken} / {trend_seconds:g}, 0)",
                legend="{{run}} for the rest of the run",
            ),
        ],
        moving_limit=Query(
            expr=f"2 * (max_over_time({free}[{both}]) - {_RUN} {free}) / {_RUN} ({written} > 0) or {_RUN} "
            f"max by (cluster, run) ({size})",
            legend="{{run}} for the next two",
        ),
    )
