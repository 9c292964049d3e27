"""Whether a run is as fast as it was, and what holds it up.

Pauses are the phases init, evaluation and checkpoint: no tokens are due in them. A run's pace is what a rank
makes in the rest of its time. As a mean of ranks it stays what it is when a node is not scraped, or when the
run goes on with more or fewer of them.

A rate of phase seconds is a share of the rank's time. Where a mean would hide the one rank that all others
wait for, the worst one counts.

A straggler shows itself only in what a rank does before it meets the others in a collective. In a synchronous
run all of them take equally long in the end: the wait of the fast ones is inside their backward pass (or
inside phase compute, where a hook sees no border), so there the straggler is no slower than anybody else, but
often faster. So the forward pass is compared: on the device's own clock where there is one, for the host only
hands out the work and waits somewhere else; else on the host's. Nothing can be known of a run that shows
compute alone, and little of one that meets within the forward pass: sharded parameters (FSDP, ZeRO-3) and
tensor parallel.

The age of the last progress is taken between two times of one scrape, on the node's own clock: it does not
grow while nobody scrapes, and no clock has to agree with Prometheus's. TrainingStalled sees what this cannot.
"""

from __future__ import annotations

from alerts.lifecycle import LAST_PROGRESS, RANKS, UNFINISHED
from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import Thresholds, duration
from exporters import catalog

TRAINING_THROUGHPUT_REGRESSED = "TrainingThroughputRegressed"
TRAINING_DATA_LOADER_BOUND = "TrainingDataLoaderBound"
TRAINING_GPU_IDLE = "TrainingGPUIdle"
TRAINING_STRAGGLER_RANK = "TrainingStragglerRank"
TRAINING_STEP_OVERDUE = "TrainingStepOverdue"
TRAINING_COLLECTIVE_HUNG = "TrainingCollectiveHung"
TRAINING_DEADLINE_AT_RISK = "TrainingDeadlineAtRisk"

_PAUSES = "init|evaluation|checkpoint"
_LEAST_RANKS = 4
_LEAST_STEPS = 20
# Of ranks on whole GPUs: nobody knows how busy a MIG instance is, or what it draws.
_INFO = f'{catalog.TRAINING_RUN_GPU_INFO}{{mig_instance=""}}'
_GPU_OF_RUN = f"max by (cluster, run, uuid) ({_INFO})"
_STEP = catalog.TRAINING_STEP_DURATION_SECONDS

# These names tell the windows that are shipped.
# Tokens per second, of all ranks together.
TOKENS = "run:training_tokens:rate5m"
# Tokens per second of a rank outside of pauses: the mean of ranks, and its median over six hours.
PACE = "run:training_tokens_of_rank:rate5m"
PACE_MEDIAN = "run:training_tokens_of_rank:rate5m_median6h"
# What run:training_tokens:rate5m would be at the median pace with the ranks of now and no pause.
TOKENS_MEDIAN = "run:training_tokens:rate5m_median6h"
# Of the time of all ranks together, by phase.
PHASE_SHARE = "run:training_phase_seconds:share10m"
# Time in the forward pass, a second; and the median of ranks, of runs that have enough of them.
FORWARD = "rank:training_forward_seconds:rate10m"
FORWARD_MEDIAN = "run:training_forward_seconds:rate10m_median"
# Of runs that have not ended: those that have are published for a day.
PROGRESS_AGE = "run:training_progress_age_seconds:min"
STEP_MEAN = f"run:{_STEP}:mean"
STEP_P99 = f"run:{_STEP}:p99"


def throughput(thresholds: Thresholds) -> Group:
    unfinished = f"  and on (cluster, run)\n{UNFINISHED}"
    window = duration(thresholds.throughput_window_seconds)
    rate = duration(thresholds.throughput_rate_seconds)
    usual = duration(thresholds.throughput_usual_seconds)
    older_than_window = (
        f"  and on (cluster, run)\ntime() - {UNFINISHED} > {thresholds.throughput_window_seconds}"
    )
    # Told as overdue, hung or stalled: a window that reaches back to that says nothing of the pace.
    has_stood_still = (
        f"  unless on (cluster, run)\nmax_over_time({PROGRESS_AGE}[{window}])\n"
        "  > on (cluster, run)\n"
        f"clamp_min({thresholds.overdue_steps_ratio} * {STEP_P99}, {thresholds.overdue_told_seconds})\n"
    )
    history = round(thresholds.throughput_history_seconds / thresholds.evaluation_interval_seconds)
    data_waits = f'{catalog.TRAINING_PHASE_SECONDS_TOTAL}{{phase="data"}}[{window}]'
    pauses = f'{catalog.TRAINING_PHASE_SECONDS_TOTAL}{{phase=~"{_PAUSES}"}}[{window}]'
    return Group(
        "throughput",
        (
            RecordingRule(TOKENS, f"sum by (cluster, run) (\n  {_tokens_of_rank(rate)}\n)"),
            # Only of ranks that were outside of pauses for half of the window. An attempt that is over stands
            # still for another 15 minutes, in its tokens and in its phases.
            RecordingRule(
                PACE,
                "avg by (cluster, run) (\n"
                f"  {_tokens_of_rank(rate)}\n"
                "    / on (cluster, run, rank)\n"
                "  (\n"
                "    sum by (cluster, run, rank) (\n"
                "      max by (cluster, run, rank, phase) (\n"
                f'        rate({catalog.TRAINING_PHASE_SECONDS_TOTAL}{{phase!~"{_PAUSES}"}}[{rate}])\n'
                "      )\n"
                "    ) > 0.5\n"
                "  )\n"
                ")",
            ),
            RecordingRule(
                PACE_MEDIAN,
                f"quantile_over_time(0.5, {PACE}[{usual}]) > 0\n"
                "  and on (cluster, run)\n"
                f"count_over_time({PACE}[{usual}]) >= {history}",
            ),
            RecordingRule(TOKENS_MEDIAN, f"{PACE_MEDIAN} * on (cluster, run) {RANKS}"),
            RecordingRule(
                PHASE_SHARE,
                "(\n"
                "  1 /\n"
                f"  (sum by (cluster, run) ({_phase_rate(window)}) > 0)\n"
                ")\n"
                "  * on (cluster, run) group_right ()\n"
                f"sum by (cluster, run, phase) ({_phase_rate(window)})",
            ),
            RecordingRule(
                FORWARD,
                "(\n"
                "  max by (cluster, run, rank) (\n"
                f'    rate({catalog.TRAINING_DEVICE_SECONDS_TOTAL}{{phase="forward"}}[{window}])\n'
                "  )\n"
                "    or on (cluster, run, rank)\n"
                "  max by (cluster, run, rank) (\n"
                f'    rate({catalog.TRAINING_PHASE_SECONDS_TOTAL}{{phase="forward"}}[{window}])\n'
                "  )\n"
                ") > 0",
            ),
            RecordingRule(
                FORWARD_MEDIAN,
                f"quantile by (cluster, run) (0.5, {FORWARD})\n"
                "  and on (cluster, run)\n"
                f"count by (cluster, run) ({FORWARD}) >= {_LEAST_RANKS}",
            ),
            RecordingRule(
                PROGRESS_AGE,
                "min by (cluster, run) (\n"
                f"  max by (cluster, instance) ({catalog.WALLCLOCK_SECONDS})\n"
                "    - on (cluster, instance) group_right ()\n"
                "  max by (cluster, instance, run, rank) "
                f"({catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS})\n"
                ")\n"
                f"{unfinished}",
            ),
            # Of all steps of the attempt, once it has made some: the first ones compile and warm up.
            RecordingRule(
                STEP_MEAN,
                f"max by (cluster, run) ({_STEP}_sum)\n"
                "  / on (cluster, run)\n"
                f"(min by (cluster, run) ({_STEP}_count) >= {_LEAST_STEPS})",
            ),
            # Beyond the histogram's last bound a quantile is that bound; there the mean tells more.
            RecordingRule(
                STEP_P99,
                "(\n"
                "  max by (cluster, run) (\n"
                f"    histogram_quantile(0.99, max by (cluster, instance, run, le) ({_STEP}_bucket))\n"
                "  )\n"
                "    > on (cluster, run)\n"
                f"  {STEP_MEAN}\n"
                ")\n"
                "  or on (cluster, run)\n"
                f"{STEP_MEAN}",
            ),
            # The last known pace, for some minutes into a pause: those of a run that checkpoints for long and
            # often would else begin its wait anew each time. A run that stands still is no slow one; its rate
            # falls at once, and its progress is too old before the wait is over.
            AlertRule(
                TRAINING_THROUGHPUT_REGRESSED,
                f"last_over_time({PACE}[{window}])\n"
                "  / on (cluster, run)\n"
                f"{PACE_MEDIAN} < {thresholds.throughput_ratio}\n"
                "  and on (cluster, run)\n"
                f"time() - {LAST_PROGRESS} < {thresholds.throughput_for_seconds}\n"
                f"{unfinished}",
                for_seconds=thresholds.throughput_for_seconds,
                severity="warning",
                scope="run",
                summary="Run {{ $labels.run }} has become slower.",
                description="It makes {{ $value | humanizePercentage }} of the tokens a second that it made "
                f"in the median of the last {usual} (limit {100 * thresholds.throughput_ratio:g}%), for "
                f"{duration(thresholds.throughput_for_seconds)}; evaluations and checkpoints do not count.",
            ),
            # The mean and not the maximum: a starved GPU still works now and then. Only GPUs that the run has
            # had for the whole window. A run in a pause for most of it leaves its GPUs alone on purpose: one
            # rank that writes a checkpoint is enough. One that hangs in a pause pages as stalled.
            AlertRule(
                TRAINING_GPU_IDLE,
                "count by (cluster, run) (\n"
                f"  {_GPU_OF_RUN}\n"
                "    and on (cluster, run, uuid)\n"
                f"  max by (cluster, run, uuid) ({_INFO} offset {window})\n"
                "    and on (cluster, uuid)\n"
                "  max by (cluster, uuid) (\n"
                f"    avg_over_time({catalog.NVIDIA_GPU_UTILIZATION_PERCENT}[{window}])\n"
                f"  ) < {100 * thresholds.gpu_idle_ratio:g}\n"
                ")\n"
                "  unless on (cluster, run)\n"
                "max by (cluster, run) (\n"
                "  sum by (cluster, run, rank) (\n"
                f"    max by (cluster, run, rank, phase) (rate({pauses}))\n"
                "  )\n"
                ") > 0.5\n"
                f"{has_stood_still}"
                f"{unfinished}",
                for_seconds=thresholds.gpu_idle_for_seconds,
                severity="warning",
                scope="run",
                summary="Run {{ $labels.run }} holds GPUs that it does not use.",
                description="{{ $value | humanize }} of its GPUs worked for less than "
                f"{100 * thresholds.gpu_idle_ratio:g}% of the last {window}, while it was neither starting "
                "nor in an evaluation or a checkpoint.",
            ),
            AlertRule(
                TRAINING_DATA_LOADER_BOUND,
                f"max by (cluster, run) (rate({data_waits})) > {thresholds.data_wait_ratio}\n"
                f"{has_stood_still}"
                f"{older_than_window}",
                for_seconds=thresholds.data_wait_for_seconds,
                severity="warning",
                scope="run",
                summary="Run {{ $labels.run }} waits for its data.",
                description="The rank that waits longest spends {{ $value | humanizePercentage }} of its "
                f"time waiting for batches (limit {100 * thresholds.data_wait_ratio:g}%), for "
                f"{duration(thresholds.data_wait_for_seconds)}; the others wait for that rank.",
            ),
            AlertRule(
                TRAINING_STRAGGLER_RANK,
                f"{FORWARD}\n"
                "  / on (cluster, run) group_left ()\n"
                f"{FORWARD_MEDIAN} > {1 + thresholds.straggler_excess_ratio:g}\n"
                "  and on (cluster, run, rank)\n"
                f"{FORWARD}\n"
                "  - on (cluster, run) group_left ()\n"
                f"{FORWARD_MEDIAN} > {thresholds.straggler_wait_ratio}\n"
                f"{older_than_window}",
                for_seconds=thresholds.straggler_for_seconds,
                severity="warning",
                scope="run",
                summary="Rank {{ $labels.rank }} of run {{ $labels.run }} is slower than the others.",
                description="Its forward passes take {{ $value | humanizePercentage }} of the time that they "
                f"take the median rank (limit {100 + 100 * thresholds.straggler_excess_ratio:g}%), for "
                f"{duration(thresholds.straggler_for_seconds)}, and the others wait for it.",
            ),
            AlertRule(
                TRAINING_DEADLINE_AT_RISK,
                f"time() + max by (cluster, run) ({catalog.TRAINING_ETA_SECONDS})\n"
                "  - on (cluster, run)\n"
                f"max by (cluster, run) ({catalog.TRAINING_DEADLINE_TIMESTAMP_SECONDS}) > 0\n"
                "  and on (cluster, run)\n"
                f"time() - {UNFINISHED} > {thresholds.deadline_after_seconds}",
                for_seconds=thresholds.deadline_for_seconds,
                severity="warning",
                scope="run",
                summary="Run {{ $labels.run }} will not end within its time.",
                description="At its pace it ends {{ $value | humanizeDuration }} after its deadline, and has "
                f"said so for {duration(thresholds.deadline_for_seconds)}.",
            ),
            AlertRule(
                TRAINING_STEP_OVERDUE,
                f"{PROGRESS_AGE}\n"
                "  > on (cluster, run)\n"
                f"clamp_min({thresholds.overdue_steps_ratio} * {STEP_P99}, {thresholds.overdue_seconds})\n"
                "  and on (cluster, run)\n"
                f"{PROGRESS_AGE} <= {thresholds.stall_seconds}\n"
                "  unless on (cluster, run)\n"
                f'{catalog.TRAINING_PHASE_ACTIVE}{{phase=~"{_PAUSES}"}}',
                for_seconds=thresholds.overdue_for_seconds,
                severity="warning",
                scope="run",
                summary="A step of run {{ $labels.run }} is overdue.",
                description="Its last progress was {{ $value | humanizeDuration }} ago: more than "
                f"{thresholds.overdue_steps_ratio:g} times what 99 of 100 of its steps take at most, and "
                f"more than {duration(thresholds.overdue_seconds)}. It may hang.",
            ),
            # A kernel of NCCL that waits spins: it keeps its GPU at work, and draws little more than an idle
            # one. Where a rank is missing or works, its GPU shows it. The run's own steps may be as long, and
            # the first ones, of which nothing is known yet, longer. Before them ranks may fail to meet.
            AlertRule(
                TRAINING_COLLECTIVE_HUNG,
                f"{PROGRESS_AGE} > {thresholds.hung_seconds}\n"
                "  and on (cluster, run)\n"
                "(\n"
                f"  {STEP_P99} < on (cluster, run) {PROGRESS_AGE}\n"
                "    or on (cluster, run)\n"
                f'  {catalog.TRAINING_PHASE_ACTIVE}{{phase="init"}}\n'
                "    unless on (cluster, run)\n"
                f"  {STEP_P99}\n"
                ")\n"
                "  unless on (cluster, run)\n"
                f'{catalog.TRAINING_PHASE_ACTIVE}{{phase="checkpoint"}}\n'
                "  and on (cluster, run)\n"
                f"count by (cluster, run) ({_GPU_OF_RUN}) > 1\n"
                "  and on (cluster, run)\n"
                "min by (cluster, run) (\n"
                f"  {_GPU_OF_RUN}\n"
                "    * on (cluster, uuid) group_left ()\n"
                f"  max by (cluster, uuid) ({catalog.NVIDIA_GPU_UTILIZATION_PERCENT})\n"
                f") >= {100 * thresholds.hung_utilization_ratio:g}\n"
                "  and on (cluster, run)\n"
                "max by (cluster, run) (\n"
                f"  {_GPU_OF_RUN}\n"
                "    * on (cluster, uuid) group_left ()\n"
                f"  max by (cluster, uuid) ({catalog.NVIDIA_GPU_POWER_WATTS})\n"
                "    / on (cluster, uuid) group_left ()\n"
                f"  max by (cluster, uuid) ({catalog.NVIDIA_GPU_POWER_LIMIT_WATTS})\n"
                f") < {thresholds.hung_power_ratio}",
                for_seconds=thresholds.hung_for_seconds,
                keep_firing_for_seconds=2 * thresholds.evaluation_interval_seconds,
                severity="critical",
                scope="run",
                summary="Run {{ $labels.run }} hangs in a collective.",
                description="It has made no progress for {{ $value | humanizeDuration }} (limit "
                f"{duration(thresholds.hung_seconds)}), while all its GPUs spin: at work for "
                f"{100 * thresholds.hung_utilization_ratio:g}% of the time or more, at less than "
                f"{100 * thresholds.hung_power_ratio:g}% of their power limit.",
            ),
        ),
    )


def _tokens_of_rank(window: str) -> str:
    """Of each rank once, however often it is scraped."""
    tokens = f'{catalog.TRAINING_TOKENS_PROCESSED_TOTAL}{{kind="all"}}'
    return f"max by (cluster, run, rank) (rate({tokens}[{window}]))"


def _phase_rate(window: str) -> str:
    seconds = catalog.TRAINING_PHASE_SECONDS_TOTAL
    return f"max by (cluster, run, rank, phase) (rate({seconds}[{window}]))"
