"""What a fleet of runs and GPUs comes to, by run and by node, for dashboards that must answer at once.

Of a run: what state it is in, how far it is, and what its time went into. That time is split by phase as
`run:training_phase_seconds:share10m` has it, and one more phase is `down`: where a run that has not ended
makes no progress for five minutes outside of start-up, evaluation and checkpoints, and after it was killed or
failed until it is started again or its alert ends. So

    avg_over_time(run:training_goodput:ratio{run="r1"}[7d])

is the share of its time that the run trained, from its start within those seven days to its end. It does not
know of steps that are made a second time after a restart, nor how well the GPUs are used while they work, and
of runs that others tell of without their phases it knows nothing.

Of a node: its GPUs, those that runs train on, those that are lost, how busy they are and what they draw.
"""

from __future__ import annotations

from alerts.gpu_health import UP
from alerts.lifecycle import FAILED, KILLED, LAST_PROGRESS, START, START_ROUNDED_SECONDS, UNFINISHED
from alerts.rules import Group, RecordingRule
from alerts.thresholds import Thresholds, duration
from alerts.throughput import PHASE_SHARE
from exporters import catalog
from exporters.catalog import Metric
from exporters.runs import RUN_STATES

# What a run's state is recorded as.
CODES = {state: code for code, state in enumerate(RUN_STATES, start=1)}
# The phase of a run that should train and does not.
DOWN_PHASE = "down"
PRODUCTIVE_PHASES = ("forward", "backward", "compute", "optimizer")
# Those in which a run may go without progress for long and is not down.
_LONG_PHASES = "init|evaluation|checkpoint"
STANDS_STILL_SECONDS = 300
# The names of what is recorded tell it.
_RATE_WINDOW = "5m"

STATE = f"run:{catalog.TRAINING_RUN_STATE}:code"
PROGRESS = f"run:{catalog.TRAINING_PROGRESS_RATIO.name.removesuffix('_ratio')}:ratio"
ETA = f"run:{catalog.TRAINING_ETA_SECONDS}:max"
# 1 while a run is down, and else absent.
DOWN = "run:training_down:bool"
# Of each moment, by phase; what is 0 is absent.
TIME_SHARE = "run:training_time:share"
# Of each moment, what goes into the phases that train the model.
GOODPUT = "run:training_goodput:ratio"
# Of the FLOP/s that the run's devices could do (MFU), from its start to its end, with what it waits for.
FLOPS_UTILIZATION = "run:training_flops_utilization:rate5m"

GPUS = f"node:{catalog.NVIDIA_GPU_UP}:count"
GPUS_IN_USE = "node:nvidia_gpu_in_use:count"
GPUS_LOST = "node:nvidia_gpu_lost:count"
UTILIZATION = f"node:{catalog.NVIDIA_GPU_UTILIZATION_PERCENT}:avg"
# How many GPUs are at or below `le`, in percent.
UTILIZATION_BUCKET = f"node:{catalog.NVIDIA_GPU_UTILIZATION_PERCENT}:bucket"
POWER = f"node:{catalog.NVIDIA_GPU_POWER_WATTS}:sum"
# Of the GPUs that no run trains on.
IDLE_POWER = "node:nvidia_gpu_idle_power_watts:sum"
# GPUs whose clocks are held down, by reason, each by the share of time: seconds a second. Reasons overlap.
THROTTLED = f"node:{catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL.name.removesuffix('_total')}:rate5m"

_BOUNDS_PERCENT = (20, 40, 60, 80, 100)
_DEVICE = "(cluster, instance, gpu, uuid)"


def fleet(thresholds: Thresholds) -> Group:
    return Group("fleet", (*_runs(thresholds), *_nodes()))


def _runs(thresholds: Thresholds) -> tuple[RecordingRule, ...]:
    lookback = duration(thresholds.lookback_seconds)
    # A node on which an earlier attempt ended goes on telling of it.
    by_newest_attempt = (
        "and on (cluster, instance, run)\n"
        "  (\n"
        f"    {catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS}\n"
        f"      >= on (cluster, run) group_left () ({START} - {START_ROUNDED_SECONDS})\n"
        "  )\n"
    )
    told = "\n      or\n".join(
        f'    {catalog.TRAINING_RUN_STATE}{{state="{state}"}} * {code} == {code}'
        for state, code in CODES.items()
    )
    return (
        # Of several that tell of one attempt, one that sees it run is right. Of what nobody tells of any
        # more, because its node is gone, the last that was known.
        RecordingRule(
            STATE,
            "min by (cluster, run) (\n"
            f"  (\n{told}\n  )\n"
            f"    {by_newest_attempt})\n"
            f"  or on (cluster, run)\n{KILLED} * 0 + {CODES['killed']}\n"
            f"  or on (cluster, run)\n{FAILED} * 0 + {CODES['failed']}\n"
            "  or on (cluster, run)\n"
            f"(time() - {LAST_PROGRESS} > bool {thresholds.stall_seconds}) + {CODES['running']}\n"
            f"  and on (cluster, run)\n{UNFINISHED}",
        ),
        RecordingRule(
            PROGRESS,
            f"max by (cluster, run) (\n  {catalog.TRAINING_PROGRESS_RATIO}\n    {by_newest_attempt})",
        ),
        RecordingRule(
            ETA,
            "max by (cluster, run) (\n"
            f"  {catalog.TRAINING_ETA_SECONDS}\n"
            "    unless on (cluster, instance, run)\n"
            f"  {catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS}\n"
            ")",
        ),
        RecordingRule(
            DOWN,
            "count by (cluster, run) (\n"
            f"  time() - {LAST_PROGRESS} > {STANDS_STILL_SECONDS}\n"
            "    and on (cluster, run)\n"
            f"  {UNFINISHED}\n"
            "    unless on (cluster, run)\n"
            f'  {catalog.TRAINING_PHASE_ACTIVE}{{phase=~"{_LONG_PHASES}"}}\n'
            "    or on (cluster, run)\n"
            f"  time() - {KILLED} < {thresholds.killed_page_seconds}\n"
            "    or on (cluster, run)\n"
            f"  time() - {FAILED} < {thresholds.killed_page_seconds}\n"
            ")\n"
            "  and on (cluster, run)\n"
            f'last_over_time({PHASE_SHARE}{{phase="init"}}[{lookback}])',
        ),
        RecordingRule(
            TIME_SHARE,
            f"{PHASE_SHARE} > 0\n"
            f"  and on (cluster, run)\n{UNFINISHED}\n"
            f"  unless on (cluster, run)\n{DOWN}\n"
            "  or\n"
            f'label_replace({DOWN}, "phase", "{DOWN_PHASE}", "", "")',
        ),
        RecordingRule(
            GOODPUT,
            f'sum by (cluster, run) ({TIME_SHARE}{{phase=~"{"|".join(PRODUCTIVE_PHASES)}"}})\n'
            "  or on (cluster, run)\n"
            f"0 * count by (cluster, run) ({TIME_SHARE})",
        ),
        RecordingRule(
            FLOPS_UTILIZATION,
            "sum by (cluster, run) (\n"
            "  max by (cluster, run, rank) "
            f"(rate({catalog.TRAINING_MODEL_FLOPS_TOTAL}[{_RATE_WINDOW}]))\n"
            ")\n"
            "  / on (cluster, run)\n"
            f"max by (cluster, run) ({catalog.TRAINING_PEAK_FLOPS})\n"
            f"  and on (cluster, run)\n{UNFINISHED}",
        ),
    )


def _nodes() -> tuple[RecordingRule, ...]:
    utilization = _of_devices(catalog.NVIDIA_GPU_UTILIZATION_PERCENT)
    power = _of_devices(catalog.NVIDIA_GPU_POWER_WATTS)
    in_use = catalog.TRAINING_RUN_GPU_INFO
    held = f"rate({catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL}[{_RATE_WINDOW}])"
    return (
        RecordingRule(GPUS, f"count by (cluster, instance) ({UP})"),
        # A GPU that is lost is not in use, whoever holds it.
        RecordingRule(
            GPUS_IN_USE,
            f"count by (cluster, instance) ({UP} == 1 and on (cluster, uuid) {in_use})\n"
            "  or on (cluster, instance)\n"
            f"0 * {GPUS}",
        ),
        RecordingRule(GPUS_LOST, f"sum by (cluster, instance) (1 - {UP})"),
        RecordingRule(UTILIZATION, f"avg by (cluster, instance) ({utilization})"),
        RecordingRule(
            UTILIZATION_BUCKET,
            "\n  or\n".join(
                "label_replace(\n"
                f"  sum by (cluster, instance) ({utilization} <= bool {bound}),\n"
                f'  "le", "{bound}", "", ""\n'
                ")"
                for bound in _BOUNDS_PERCENT
            ),
        ),
        RecordingRule(POWER, f"sum by (cluster, instance) ({power})"),
        RecordingRule(
            IDLE_POWER,
            f"sum by (cluster, instance) ({power} unless on (cluster, uuid) {in_use})\n"
            "  or on (cluster, instance)\n"
            f"0 * {POWER}",
        ),
        RecordingRule(
            THROTTLED,
            "sum by (cluster, instance, reason) (\n"
            f"  max by (cluster, instance, gpu, uuid, reason) ({held})\n"
            ") > 0",
        ),
    )


def _of_devices(metric: Metric) -> str:
    """Of each GPU once, however often it is scraped."""
    return f"max by {_DEVICE} ({metric})"
