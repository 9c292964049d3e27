"""Whether a run learns: its losses, its gradients, its learning rate, its loss scaler.

What is compared over time is recorded per attempt, with the attempt's start as label `start`. So an attempt
that takes up at an earlier step, or begins anew, is never compared with the one before it, every window of a
young one is empty instead of half filled, and nothing outlives its attempt.

Some losses are negative or around zero: those of reinforcement learning for example. Ratios are therefore of
the magnitude, and a rise must also exceed `loss_rise_minimum`.

The gauge of a step stands still until the next, which makes one bad step before a pause look like many. So
nothing is recorded of it while the run evaluates or writes a checkpoint, no median while it does not change,
and a jump counts only when every value of the window is too high, and several differ. Where a step takes
minutes they are too few to judge by.
"""

from __future__ import annotations

from alerts.lifecycle import ATTEMPT_STARTED, UNFINISHED
from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import LEAST_CHANGES, Thresholds, duration
from exporters import catalog
from exporters.catalog import Metric

TRAINING_LOSS_NON_FINITE = "TrainingLossNonFinite"
TRAINING_LOSS_SPIKE = "TrainingLossSpike"
TRAINING_LOSS_DIVERGING = "TrainingLossDiverging"
TRAINING_LOSS_PLATEAU = "TrainingLossPlateau"
TRAINING_GRAD_NORM_EXPLOSION = "TrainingGradNormExplosion"
TRAINING_LEARNING_RATE_ZERO = "TrainingLearningRateZero"
TRAINING_EVAL_REGRESSED = "TrainingEvalRegressed"
TRAINING_OPTIMIZER_STEPS_SKIPPED = "TrainingOptimizerStepsSkipped"

# 1 for the newest attempt of each run that is not known to have ended.
ATTEMPT = "run_attempt:training_run_unfinished:count"
LOSS = f"run_attempt:{catalog.TRAINING_LOSS}:max"
LOSS_MEDIAN = f"run_attempt:{catalog.TRAINING_LOSS}:median"
LOSS_LOWEST = f"run_attempt:{catalog.TRAINING_LOSS}:median_min"
GRADIENT_NORM = f"run_attempt:{catalog.TRAINING_GRADIENT_NORM}:max"
GRADIENT_NORM_MEDIAN = f"run_attempt:{catalog.TRAINING_GRADIENT_NORM}:median"
VALIDATION = f"run_attempt:{catalog.VALIDATION_LOSS}:max"
VALIDATION_BEST = f"run_attempt:{catalog.VALIDATION_LOSS}:min"
# The share of optimizer steps that were left out.
STEPS_SKIPPED_RATIO = "run:training_optimizer_steps_skipped:ratio"

_ON = "on (cluster, run, start)"
# Of fewer steps a share says nothing.
_STEPS = 20


def loss(thresholds: Thresholds) -> Group:
    recent = duration(thresholds.loss_recent_seconds)
    usual = duration(thresholds.loss_usual_seconds)
    lookback = duration(thresholds.loss_lookback_seconds)
    nonfinite_page = duration(thresholds.nonfinite_page_seconds)
    skipped_window = duration(thresholds.steps_skipped_window_seconds)
    minimum = thresholds.loss_rise_minimum
    half_of_usual = thresholds.loss_usual_seconds / thresholds.evaluation_interval_seconds / 2

    def record_median(name: str, values: str) -> RecordingRule:
        """Of attempts that move and are known for half of the time: not at first, nor after a gap."""
        return RecordingRule(
            name,
            f"quantile_over_time(0.5, {values}[{usual}])\n"
            f"  and {_ON}\n"
            f"count_over_time({values}[{usual}]) >= {half_of_usual:g}\n"
            f"  and {_ON}\n"
            f"changes({values}[{recent}]) > 0\n"
            f"  and {_ON}\n"
            f"{ATTEMPT}",
        )

    def lasts_above(values: str, limit: str) -> str:
        return (
            "max by (cluster, run) (\n"
            f"  min_over_time({values}[{recent}])\n"
            f"    > {_ON}\n"
            f"  {limit}\n"
            f"    and {_ON}\n"
            f"  changes({values}[{recent}]) >= {LEAST_CHANGES}\n"
            f"    and {_ON}\n"
            f"  {ATTEMPT}\n"
            ")"
        )

    def risen_from(level: str, ratio: float) -> str:
        return f"({level} + {_ON} clamp_min({ratio} * abs({level}), {minimum}))"

    skipped, made = (
        f"max by (cluster, run, rank) (increase({counter}[{skipped_window}]))"
        for counter in (catalog.TRAINING_OPTIMIZER_STEPS_SKIPPED_TOTAL, catalog.TRAINING_STEPS_TOTAL)
    )
    many_skipped = f"{STEPS_SKIPPED_RATIO} > {thresholds.steps_skipped_ratio}"
    learning_rate = f"max by (cluster, run) ({catalog.TRAINING_LEARNING_RATE})"
    step, progress = catalog.TRAINING_STEP_CURRENT, catalog.TRAINING_PROGRESS_RATIO
    return Group(
        "loss",
        (
            RecordingRule(ATTEMPT, f"{ATTEMPT_STARTED}\n  and on (cluster, run)\n{UNFINISHED}"),
            RecordingRule(LOSS, _while_training(catalog.TRAINING_LOSS)),
            record_median(LOSS_MEDIAN, LOSS),
            RecordingRule(LOSS_LOWEST, f"min_over_time({LOSS_MEDIAN}[{lookback}])"),
            RecordingRule(GRADIENT_NORM, _while_training(catalog.TRAINING_GRADIENT_NORM)),
            record_median(GRADIENT_NORM_MEDIAN, GRADIENT_NORM),
            RecordingRule(VALIDATION, _of_attempt(catalog.VALIDATION_LOSS)),
            # Ranks that evaluate a share of the data each do not agree on the best: then it is what was seen.
            RecordingRule(
                VALIDATION_BEST,
                f"{_of_attempt(catalog.VALIDATION_LOSS_BEST)}\n"
                f"  or {_ON}\n"
                f"min_over_time({VALIDATION}[{duration(thresholds.lookback_seconds)}])",
            ),
            # Not of the beginning, where a loss scaler finds its scale by steps that it leaves out.
            RecordingRule(
                STEPS_SKIPPED_RATIO,
                "max by (cluster, run) (\n"
                f"  {skipped}\n"
                "    / on (cluster, run, rank)\n"
                f"  ({skipped}\n"
                "    + on (cluster, run, rank)\n"
                f"  {made} >= {_STEPS})\n"
                ")\n"
                "  and on (cluster, run)\n"
                f"(time() - {UNFINISHED} > {2 * thresholds.steps_skipped_window_seconds:g})",
            ),
            # The count as it stands, too: what an earlier attempt counted says nothing of this one. A loss
            # scaler leaves out the steps whose gradients are not finite: no harm, unless they are many. A
            # loss that is NaN is none of its doing.
            AlertRule(
                TRAINING_LOSS_NON_FINITE,
                "round(max by (cluster, run, what) "
                f"(increase({catalog.TRAINING_NONFINITE_TOTAL}[{nonfinite_page}]))) > 0\n"
                "  and on (cluster, run, what)\n"
                f"max by (cluster, run, what) ({catalog.TRAINING_NONFINITE_TOTAL}) > 0\n"
                "  and on (cluster, run)\n"
                f"{UNFINISHED}\n"
                "  unless on (cluster, run, what)\n"
                "(\n"
                f'  {catalog.TRAINING_NONFINITE_TOTAL}{{what="gradient"}}\n'
                "    and on (cluster, run)\n"
                "  max by (cluster, run) "
                f"(increase({catalog.TRAINING_OPTIMIZER_STEPS_SKIPPED_TOTAL}[{nonfinite_page}])) > 0\n"
                "    unless on (cluster, run)\n"
                f"  {many_skipped}\n"
                ")",
                at_once="One step with a NaN gradient makes every weight NaN: no later step mends it.",
                severity="critical",
                scope="run",
                summary="Run {{ $labels.run }} has a {{ $labels.what }} that is NaN or infinite.",
                description="A rank has counted {{ $value | humanize }} of them in the last "
                f"{nonfinite_page}. Weights that took one in are lost, and all further training is in vain.",
            ),
            AlertRule(
                TRAINING_LOSS_SPIKE,
                lasts_above(LOSS, risen_from(f"{LOSS_MEDIAN} offset {recent}", thresholds.loss_spike_ratio)),
                at_once="Every loss of the window was too high: the window is the wait.",
                severity="warning",
                scope="run",
                summary="The loss of run {{ $labels.run }} has jumped and stays up.",
                description=f"For {recent} it has been {{{{ $value | humanize }}}} or more, which is over "
                f"{_percent(thresholds.loss_spike_ratio)} (and over {minimum:g}) above its median of the "
                f"{usual} before.",
            ),
            AlertRule(
                TRAINING_LOSS_DIVERGING,
                "max by (cluster, run) (\n"
                f"  {LOSS_MEDIAN}\n"
                f"    > {_ON}\n"
                f"  {risen_from(LOSS_LOWEST, thresholds.loss_diverging_ratio)}\n"
                ")",
                for_seconds=thresholds.loss_diverging_for_seconds,
                severity="warning",
                scope="run",
                summary="The loss of run {{ $labels.run }} is rising.",
                description=f"Its median over {usual} is {{{{ $value | humanize }}}}, which is over "
                f"{_percent(thresholds.loss_diverging_ratio)} (and over {minimum:g}) above its lowest of the "
                f"last {lookback}.",
            ),
            # A loss of exactly 0 has no share that it could move by.
            AlertRule(
                TRAINING_LOSS_PLATEAU,
                "max by (cluster, run) (\n"
                f"  abs({LOSS_MEDIAN} - {_ON} {LOSS_MEDIAN} offset {lookback})\n"
                f"    / {_ON}\n"
                f"  (abs({LOSS_MEDIAN} offset {lookback}) > 0)\n"
                f") < {thresholds.loss_plateau_ratio}",
                for_seconds=thresholds.loss_plateau_for_seconds,
                severity="info",
                scope="run",
                summary="The loss of run {{ $labels.run }} has come to a standstill.",
                description=f"Its median over {usual} has moved by {{{{ $value | humanizePercentage }}}} in "
                f"{lookback}, less than {_percent(thresholds.loss_plateau_ratio)}.",
            ),
            AlertRule(
                TRAINING_GRAD_NORM_EXPLOSION,
                lasts_above(
                    GRADIENT_NORM,
                    f"clamp_min({thresholds.gradient_norm_ratio} * {GRADIENT_NORM_MEDIAN} offset {recent}, "
                    f"{thresholds.gradient_norm_minimum})",
                ),
                at_once="Every norm of the window was too high: the window is the wait.",
                severity="warning",
                scope="run",
                summary="The gradients of run {{ $labels.run }} have exploded.",
                description=f"For {recent} their norm before clipping has been {{{{ $value | humanize }}}} "
                f"or more, over {thresholds.gradient_norm_ratio:g} times its median of the {usual} before.",
            ),
            # Of all groups: one may be frozen on purpose. Without expected steps it also fires at the end.
            AlertRule(
                TRAINING_LEARNING_RATE_ZERO,
                f"max by (cluster, run) ({step}) > {thresholds.warmup_steps}\n"
                "  and on (cluster, run)\n"
                f"{learning_rate} == 0\n"
                "  and on (cluster, run)\n"
                f"max by (cluster, run) (changes({step}[{recent}])) > 0\n"
                "  and on (cluster, run)\n"
                f"{UNFINISHED}\n"
                "  unless on (cluster, run)\n"
                f"max by (cluster, run) ({progress}) >= {thresholds.schedule_end_ratio}",
                for_seconds=thresholds.learning_rate_zero_for_seconds,
                severity="warning",
                scope="run",
                summary="Run {{ $labels.run }} trains at a learning rate of zero.",
                description="At step {{ $value | humanize }} the learning rate of every parameter group has "
                f"been 0 for {duration(thresholds.learning_rate_zero_for_seconds)}, before "
                f"{_percent(thresholds.schedule_end_ratio)} of the expected steps: no step changes a weight.",
            ),
            # A range, for the loss is absent while some ranks still evaluate, which would end the wait.
            AlertRule(
                TRAINING_EVAL_REGRESSED,
                "max by (cluster, run) (\n"
                f"  last_over_time({VALIDATION}[{lookback}])\n"
                f"    > {_ON}\n"
                f"  {risen_from(VALIDATION_BEST, thresholds.evaluation_regressed_ratio)}\n"
                f"    and {_ON}\n"
                f"  {ATTEMPT}\n"
                ")",
                for_seconds=thresholds.evaluation_regressed_for_seconds,
                severity="warning",
                scope="run",
                summary="The validation loss of run {{ $labels.run }} has got worse.",
                description="It is {{ $value | humanize }}, which is over "
                f"{_percent(thresholds.evaluation_regressed_ratio)} (and over {minimum:g}) above the best of "
                f"this attempt, and has been for {duration(thresholds.evaluation_regressed_for_seconds)}.",
            ),
            AlertRule(
                TRAINING_OPTIMIZER_STEPS_SKIPPED,
                many_skipped,
                for_seconds=thresholds.steps_skipped_for_seconds,
                severity="warning",
                scope="run",
                summary="Run {{ $labels.run }} leaves out many of its optimizer steps.",
                description="In the last "
                f"{skipped_window} {{{{ $value | humanizePercentage }}}} of them were skipped, more than "
                f"{_percent(thresholds.steps_skipped_ratio)}: their batches are trained on in vain.",
            ),
        ),
    )


def _of_attempt(metric: Metric) -> str:
    return f"max by (cluster, run) ({metric})\n  * on (cluster, run) group_right ()\n{ATTEMPT}"


def _while_training(metric: Metric) -> str:
    paused = f'max by (cluster, run) ({catalog.TRAINING_PHASE_ACTIVE}{{phase=~"evaluation|checkpoint"}})'
    return f"{_of_attempt(metric)}\n  unless on (cluster, run)\n{paused}"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:g}%"
