"""Whether a run learns: the panels of the alerts in alerts/loss.py."""

from __future__ import annotations

from alerts import loss
from alerts.thresholds import Thresholds, duration
from dashboards.grafana.panels import Query, TimeSeries
from dashboards.rows.alert_panels import judged, percent
from dashboards.variables import of_recorded, of_run
from exporters import catalog

_ATTEMPT = "on (cluster, run, start)"


def panels(thresholds: Thresholds) -> dict[str, TimeSeries]:
    """The panel of each alert, by the alert's name."""
    recent = duration(thresholds.loss_recent_seconds)
    usual = duration(thresholds.loss_usual_seconds)
    lookback = duration(thresholds.loss_lookback_seconds)
    nonfinite_page = duration(thresholds.nonfinite_page_seconds)
    skipped_window = duration(thresholds.steps_skipped_window_seconds)
    median = of_recorded(loss.LOSS_MEDIAN)
    norm = of_recorded(loss.GRADIENT_NORM)
    norm_median = of_recorded(loss.GRADIENT_NORM_MEDIAN)
    return {
        loss.TRAINING_LOSS_NON_FINITE: judged(
            title=f"NaN and infinite values within {nonfinite_page}",
            description=(
                "What the worst rank of each run has counted. It should be 0: a single NaN in a gradient "
                "makes every weight NaN, and all further training is in vain. Stop the run and go back to a "
                "checkpoint before it. Beside a few optimizer steps that mixed precision leaves out, "
                "infinite gradients are no harm, and no alert."
            ),
            unit="none",
            shown=[
                Query(
                    expr="round(max by (cluster, run, what) "
                    f"(increase({of_run(catalog.TRAINING_NONFINITE_TOTAL)}[{nonfinite_page}])))",
                    legend="{{run}} {{what}}",
                )
            ],
        ),
        loss.TRAINING_LOSS_SPIKE: judged(
            title=f"Lowest loss of the last {recent}, beside what is usual",
            description=(
                f"Solid: the least that each run's loss was within {recent}, so one bad step does not show. "
                f"Dashed: {percent(thresholds.loss_spike_ratio)} above its median of the {usual} before. A "
                "solid line above the dashes is a jump that stays: look at the data of those steps and at "
                "the gradient norm, and go back to a checkpoint if it does not come down."
            ),
            unit="none",
            minimum=None,
            shown=[
                Query(
                    expr=_newest(f"min_over_time({of_recorded(loss.LOSS)}[{recent}])"),
                    legend="{{run}}",
                )
            ],
            moving_limit=Query(
                expr=_risen_from(
                    _newest(f"{median} offset {recent}"),
                    thresholds.loss_spike_ratio,
                    thresholds.loss_rise_minimum,
                ),
                legend="{{run}} limit",
            ),
        ),
        loss.TRAINING_LOSS_DIVERGING: judged(
            title=f"Median loss over {usual}, beside its lowest of {lookback}",
            description=(
                f"Solid: the median of each run's loss. Dashed: {percent(thresholds.loss_diverging_ratio)} "
                "above the lowest that median was. The solid line should fall and the dashes follow it down; "
                "where it crosses them upwards the run unlearns. Lower the learning rate or clip harder, "
                "from the checkpoint of the lowest point."
            ),
            unit="none",
            minimum=None,
            shown=[Query(expr=_newest(median), legend="{{run}}")],
            moving_limit=Query(
                expr=_risen_from(
                    _newest(of_recorded(loss.LOSS_LOWEST)),
                    thresholds.loss_diverging_ratio,
                    thresholds.loss_rise_minimum,
                ),
                legend="{{run}} limit",
            ),
        ),
        loss.TRAINING_LOSS_PLATEAU: judged(
            title=f"By how much the median loss has moved in {lookback}",
            worst="lowest",
            description=(
                f"The change of each run's median loss over {usual} since {lookback} ago, up or down, as a "
                "share of what it was then. Below the red line the run stands still. Late in a schedule that "
                "is as it should be: compare the validation loss, and end the run early or change its "
                "learning rate."
            ),
            unit="percentunit",
            shown=[
                Query(
                    expr="max by (cluster, run) ("
                    f"abs({median} - {_ATTEMPT} {median} offset {lookback}) / {_ATTEMPT} "
                    f"abs({median} offset {lookback}))",
                    legend="{{run}}",
                )
            ],
            limit_at=thresholds.loss_plateau_ratio,
        ),
        loss.TRAINING_GRAD_NORM_EXPLOSION: judged(
            title=f"Lowest gradient norm of the last {recent}, beside what is usual",
            description=(
                f"Solid: the least that each run's gradient norm before clipping was within {recent}. "
                f"Dashed: {thresholds.gradient_norm_ratio:g} times its median of the {usual} before, and "
                f"{thresholds.gradient_norm_minimum:g} at least. Above the dashes the gradients explode: "
                "clipping hides it for a while. Lower the learning rate, or look for broken data."
            ),
            unit="none",
            shown=[
                Query(
                    expr=_newest(f"min_over_time({norm}[{recent}])"),
                    legend="{{run}}",
                )
            ],
            moving_limit=Query(
                expr=f"clamp_min({thresholds.gradient_norm_ratio:g} * "
                f"{_newest(f'{norm_median} offset {recent}')}, {thresholds.gradient_norm_minimum:g})",
                legend="{{run}} limit",
            ),
        ),
        loss.TRAINING_LEARNING_RATE_ZERO: judged(
            title="Highest learning rate of all parameter groups",
            worst="lowest",
            description=(
                "Of each run. Between a warm-up and the end of the schedule it must be above 0: at exactly 0 "
                "no step changes a weight. A line that lies on 0 while the run makes steps is mostly a "
                "schedule that ends too early, or one that counts its steps otherwise than the trainer does."
            ),
            unit="sci",
            shown=[
                Query(
                    expr=f"max by (cluster, run) ({of_run(catalog.TRAINING_LEARNING_RATE)})",
                    legend="{{run}}",
                )
            ],
        ),
        loss.TRAINING_EVAL_REGRESSED: judged(
            title="Validation loss, beside the best of the attempt",
            description=(
                "Solid: the last validation loss of each run. Dashed: "
                f"{percent(thresholds.evaluation_regressed_ratio)} above the best of this attempt. A solid "
                "line above the dashes while the training loss falls is overfitting: stop, or go back to the "
                "checkpoint of the best evaluation."
            ),
            unit="none",
            minimum=None,
            shown=[
                Query(
                    expr=_newest(f"last_over_time({of_recorded(loss.VALIDATION)}[{lookback}])"),
                    legend="{{run}}",
                )
            ],
            moving_limit=Query(
                expr=_risen_from(
                    _newest(of_recorded(loss.VALIDATION_BEST)),
                    thresholds.evaluation_regressed_ratio,
                    thresholds.loss_rise_minimum,
                ),
                legend="{{run}} limit",
            ),
        ),
        loss.TRAINING_OPTIMIZER_STEPS_SKIPPED: judged(
            title=f"Share of optimizer steps left out, over {skipped_window}",
            description=(
                "Of the worst rank of each run. Mixed precision leaves out a step now and then to find its "
                "loss scale; above the red line the gradients overflow again and again, and much is trained "
                "in vain. Look at the loss scale and the gradient norm, or train in bf16."
            ),
            unit="percentunit",
            shown=[Query(expr=of_recorded(loss.STEPS_SKIPPED_RATIO), legend="{{run}}")],
            limit_at=thresholds.steps_skipped_ratio,
        ),
    }


def _risen_from(level: str, ratio: float, minimum: float) -> str:
    return f"{level} + on (cluster, run) clamp_min({ratio:g} * abs({level}), {minimum:g})"


def _newest(of_attempts: str) -> str:
    """Of each run's attempt that has not ended: what is remembered of earlier ones is no limit."""
    return f"max by (cluster, run) ({of_attempts} and {_ATTEMPT} {of_recorded(loss.ATTEMPT)})"
