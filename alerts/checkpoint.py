"""Whether a run that dies now loses little: its checkpoints come, are good, cost little and have room.

The work at risk is the time from the last good checkpoint, or from the start of an attempt that has none, to
the last step. It stands still while a run evaluates or is stalled, so that neither makes a late checkpoint of
one that was in time; of a run whose steps nobody tells it is not known. A run's own interval is the longest
of a day: one that also keeps its best checkpoints does not write at even times.

How full a volume is is known from each checkpoint to the next. Whether a run removes its old ones nobody
tells, so what counts is what they have taken so far, those removed left out: over a day that is little for a
saw tooth, and from one half of it to the next nothing, for only the highest points are compared.
"""

from __future__ import annotations

from alerts.lifecycle import FAILED, START, UNFINISHED
from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import Thresholds, duration
from exporters import catalog
from exporters.catalog import Metric

TRAINING_CHECKPOINT_STALE = "TrainingCheckpointStale"
TRAINING_CHECKPOINT_FAILED = "TrainingCheckpointFailed"
TRAINING_CHECKPOINT_SLOW = "TrainingCheckpointSlow"
TRAINING_CHECKPOINT_VOLUME_FILLING = "TrainingCheckpointVolumeFilling"


def _of_run(metric: Metric) -> str:
    return f"run:{metric}:max"


LAST_CHECKPOINT = _of_run(catalog.TRAINING_CHECKPOINT_LAST_SUCCESS_TIMESTAMP_SECONDS)
INTERVAL = _of_run(catalog.TRAINING_CHECKPOINT_INTERVAL_SECONDS)
# Of runs that have not ended.
FREE = _of_run(catalog.TRAINING_CHECKPOINT_VOLUME_FREE_BYTES)
# By how much the most that was free in the time before exceeds the most of now.
TAKEN = "run:training_checkpoint_volume_taken_bytes:max"

# How many writes have failed in the newest attempt so far.
FAILED_WRITES = "run:training_checkpoints_failed:max"

_RUN = "on (cluster, run)"


def _of_nodes_not_over(series: object) -> str:
    """The highest of a run's nodes. One on which an earlier attempt has ended goes on telling of that."""
    return (
        "max by (cluster, run) (\n"
        f"  {series}\n"
        "    unless on (cluster, instance, run)\n"
        f"  {catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS}\n"
        ")"
    )


def checkpoint(thresholds: Thresholds) -> Group:
    return Group(
        "checkpoint",
        (
            *_stale(thresholds),
            _slow(thresholds),
            *_volume(thresholds),
            *_failed(thresholds),
        ),
    )


def _stale(thresholds: Thresholds) -> tuple[RecordingRule | AlertRule, ...]:
    lookback = duration(thresholds.lookback_seconds)
    last_step = catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS
    return (
        RecordingRule(
            LAST_CHECKPOINT,
            "max by (cluster, run) "
            f"(last_over_time({catalog.TRAINING_CHECKPOINT_LAST_SUCCESS_TIMESTAMP_SECONDS}[{lookback}]))",
        ),
        RecordingRule(
            INTERVAL,
            "max by (cluster, run) "
            f"(max_over_time({catalog.TRAINING_CHECKPOINT_INTERVAL_SECONDS}[{lookback}]))",
        ),
        # A warning: training goes on, and what stops it pages by itself.
        AlertRule(
            TRAINING_CHECKPOINT_STALE,
            f"max by (cluster, run) (last_over_time({last_step}[{lookback}]))\n"
            f"  - {_RUN}\n"
            f"({LAST_CHECKPOINT} >= {_RUN} {UNFINISHED} or {_RUN} {UNFINISHED})\n"
            f"  > {thresholds.checkpoint_stale_seconds}\n"
            f"  > {_RUN}\n"
            f"{thresholds.checkpoint_stale_ratio} * {INTERVAL}",
            for_seconds=thresholds.checkpoint_stale_for_seconds,
            severity="warning",
            scope="run",
            summary="Run {{ $labels.run }} trains without writing a checkpoint.",
            description="Its newest step comes {{ $value | humanizeDuration }} after its last good "
            f"checkpoint, or its start, more than {thresholds.checkpoint_stale_ratio:g} times the longest "
            "that has lain between two: so much is lost if it dies now.",
        ),
    )


def _failed(thresholds: Thresholds) -> tuple[RecordingRule, AlertRule]:
    """Also of an attempt that met it before its first scrape, which `increase()` does not see.

    All that such an attempt has counted happened since its start. Where the run has failed, that tells it,
    and for as long: this could be told alone at the end.
    """
    told = duration(thresholds.checkpoint_failed_told_seconds)
    failed = f'{catalog.TRAINING_CHECKPOINTS_TOTAL}{{result="failed"}}'
    alert = AlertRule(
        TRAINING_CHECKPOINT_FAILED,
        "(\n"
        f"  max by (cluster, run) (round(increase({failed}[{told}]))) > 0\n"
        "    or\n"
        "  (\n"
        f"    {FAILED_WRITES} > 0\n"
        f"      and {_RUN}\n"
        f"    time() - {START} < {thresholds.checkpoint_failed_told_seconds}\n"
        "  )\n"
        ")\n"
        f"  unless {_RUN}\n"
        f"{FAILED}",
        at_once="The hook has seen the write fail: it is no measurement that could pass.",
        severity="warning",
        scope="run",
        summary="Run {{ $labels.run }} could not write a checkpoint.",
        description=f"Writes that failed within {told}: {{{{ $value | humanize }}}}. What it has trained "
        "since its last good checkpoint is lost if it ends now, and the next write may fail for the same "
        "reason.",
    )
    return RecordingRule(FAILED_WRITES, _of_nodes_not_over(failed)), alert


def _slow(thresholds: Thresholds) -> AlertRule:
    """The throughput's rules leave these pauses out, and their usual length is no news to any of them."""
    return AlertRule(
        TRAINING_CHECKPOINT_SLOW,
        f"{_of_nodes_not_over(catalog.TRAINING_CHECKPOINT_DURATION_SECONDS)}\n"
        f"  / {_RUN}\n"
        f"({INTERVAL} and {_RUN} {UNFINISHED})\n"
        f"  > {thresholds.checkpoint_slow_ratio}",
        for_seconds=thresholds.checkpoint_slow_for_seconds,
        severity="info",
        scope="run",
        summary="Run {{ $labels.run }} spends much of its time on checkpoints.",
        description="The last one took {{ $value | humanizePercentage }} of the longest time between two "
        f"(limit {100 * thresholds.checkpoint_slow_ratio:g}%): for so long its GPUs wait.",
    )


def _volume(thresholds: Thresholds) -> tuple[RecordingRule | AlertRule, ...]:
    trend_seconds = thresholds.checkpoint_volume_trend_seconds
    trend, both = duration(trend_seconds), duration(2 * trend_seconds)
    free, size = catalog.TRAINING_CHECKPOINT_VOLUME_FREE_BYTES, catalog.TRAINING_CHECKPOINT_SIZE_BYTES
    written = f"changes({LAST_CHECKPOINT}[{both}]) > 0"
    return (
        RecordingRule(FREE, f"{_of_nodes_not_over(free)}\n  and {_RUN}\n{UNFINISHED}"),
        RecordingRule(
            TAKEN,
            f"max_over_time({FREE}[{trend}] offset {trend}) - {_RUN} max_over_time({FREE}[{trend}])",
        ),
        # A first checkpoint says how much the next one takes; each further one, what one of them takes for
        # good. And where the past half took more than is left, the same again must not fill the volume before
        # the run ends; what is left, against the mean of that half, says whether it still falls: where a run
        # has begun to remove its old ones, it does not.
        AlertRule(
            TRAINING_CHECKPOINT_VOLUME_FILLING,
            f"({FREE} < {_RUN} max by (cluster, run) ({size}) unless {_RUN} {written})\n"
            "  or\n"
            "(\n"
            f"  {FREE} < {_RUN}\n"
            f"  2 * (max_over_time({FREE}[{both}]) - {_RUN} {FREE}) / {_RUN} ({written})\n"
            ")\n"
            "  or\n"
            "(\n"
            f"  {FREE} < {_RUN} {TAKEN}\n"
            f"    and {_RUN}\n"
            f"  {FREE} < {_RUN} 3 * (avg_over_time({FREE}[{trend}]) - {_RUN} {FREE})\n"
            f"    and {_RUN}\n"
            f"  max by (cluster, run) ({catalog.TRAINING_ETA_SECONDS}) * {_RUN} {TAKEN}\n"
            f"    > {_RUN} {trend_seconds} * {FREE}\n"
            ")",
            at_once="What is free is measured at a checkpoint, and stands until the next.",
            severity="warning",
            scope="run",
            summary="The volume of run {{ $labels.run }}'s checkpoints is filling up.",
            description="{{ $value | humanize1024 }}B were free after its last checkpoint: less than the "
            "next needs, or two of them by what the last ones took, or the rest of the run by the pace of "
            f"{trend}.",
        ),
    )
