"""Whether a run learns: losses, what they mean, and what moves the weights."""

from __future__ import annotations

from alerts import loss
from alerts.thresholds import Thresholds, duration
from dashboards.colors import BAD, BASELINE, TRAINING, VALIDATION, WARNING
from dashboards.grafana.panels import Query, TimeSeries, colored, dashed, dashed_limit, dashed_steps, unit_of
from dashboards.queries.per_run import ONE, RUN, by_label, counted, newest, rate
from dashboards.variables import of_recorded
from exporters import catalog
from exporters.catalog import Metric


def losses() -> TimeSeries:
    return TimeSeries(
        title="Loss",
        description=(
            "Blue: training loss of the last optimizer step. Orange dashes: validation loss, which holds its "
            "value until the next evaluation; grey dashes are its best of this attempt. Both should fall. "
            "Validation rising away from the grey while training falls is overfitting: stop, or go back to "
            "the checkpoint of the best evaluation. A jump that stays is divergence: lower the learning "
            "rate, or look at the data of those steps."
        ),
        unit="none",
        decimals=3,
        targets=[
            Query(expr=newest(catalog.TRAINING_LOSS), legend="training"),
            # Below the next one, which lies upon it as long as each evaluation is the best.
            Query(expr=newest(catalog.VALIDATION_LOSS_BEST), legend="best validation"),
            Query(expr=newest(catalog.VALIDATION_LOSS), legend="validation"),
        ],
        overrides=[
            colored("A", TRAINING),
            dashed_steps("B"),
            colored("B", BASELINE),
            dashed_steps("C"),
            colored("C", VALIDATION),
        ],
    )


def mean_loss() -> TimeSeries:
    tokens = rate(catalog.TRAINING_LOSS_TOKENS_TOTAL)
    return TimeSeries(
        title="Mean loss of all ranks, on a logarithmic scale",
        description=(
            "The exact mean over all tokens of all ranks between two points, where the panel above shows one "
            "step of one rank: it is smooth, and on this scale the small gains of a late training can be "
            "seen. Still falling in a straight line: more steps will help. Flat: the schedule, the data or "
            "the model is used up. Only of a plain cross-entropy loss."
        ),
        unit="none",
        decimals=3,
        logarithmic=2,
        no_value="the loss is no plain cross-entropy, or comes without its tokens",
        targets=[
            Query(
                expr=f"{rate(catalog.TRAINING_LOSS_TOKEN_SUM_TOTAL)} / {ONE} ({tokens} > 0)",
                legend="training",
            ),
            Query(expr=newest(catalog.VALIDATION_LOSS), legend="validation"),
        ],
        overrides=[colored("A", TRAINING), dashed_steps("B"), colored("B", VALIDATION)],
    )


def perplexities() -> TimeSeries:
    return _training_and_validation(
        title="Perplexity",
        description=(
            "e to the mean loss a token: the number of tokens the model hesitates between, on a logarithmic "
            "scale; 1 is certainty. Blue: training, over its last minutes. Orange dashes: the last "
            "evaluation. Judge the model by the dashes; where they turn up, go back to the checkpoint of "
            "their lowest point. Compare runs with the same tokenizer only."
        ),
        unit="none",
        decimals=2,
        logarithmic=2,
        training=catalog.TRAINING_PERPLEXITY,
        validation=catalog.VALIDATION_PERPLEXITY,
        best="min",
        no_value="the loss is no plain cross-entropy",
    )


def accuracies() -> TimeSeries:
    return _training_and_validation(
        title="Accuracy",
        description=(
            "As the trainer reports it, of training and, in dashes, of the last evaluation. Both should rise "
            "together. Training that rises alone is learnt by heart: more data, more dropout, or stop at the "
            "best evaluation. What the trainer does not log is not here."
        ),
        unit="percentunit",
        decimals=1,
        logarithmic=None,
        training=catalog.TRAINING_ACCURACY,
        validation=catalog.VALIDATION_ACCURACY,
        best="max",
        no_value="the trainer logs no accuracy",
    )


def _training_and_validation(
    *,
    title: str,
    description: str,
    unit: str,
    decimals: int,
    logarithmic: int | None,
    training: Metric,
    validation: Metric,
    best: str,
    no_value: str,
) -> TimeSeries:
    return TimeSeries(
        title=title,
        description=description,
        unit=unit,
        decimals=decimals,
        logarithmic=logarithmic,
        no_value=no_value,
        legend_values=("lastNotNull", best),
        targets=[
            Query(expr=newest(training), legend="training"),
            Query(expr=newest(validation), legend="validation"),
        ],
        overrides=[colored("A", TRAINING), dashed_steps("B"), colored("B", VALIDATION)],
    )


def learning_rates() -> TimeSeries:
    return TimeSeries(
        title="Learning rate",
        description=(
            "Of the last optimizer step, a line for each group of parameters. It should follow the schedule "
            "you meant: up in the warm-up, then down to its end at the last step. A line that lies on 0 "
            "before the end trains nothing; one that does not move has no schedule. A jump after a restart "
            "means that the schedule was not restored with the checkpoint."
        ),
        unit="sci",
        decimals=2,
        minimum=0,
        legend_values=("lastNotNull", "max"),
        targets=[Query(expr=by_label(catalog.TRAINING_LEARNING_RATE, "group"), legend="group {{group}}")],
        no_value="the trainer has told no learning rate",
    )


def gradient_norm(thresholds: Thresholds) -> TimeSeries:
    usual = duration(thresholds.loss_usual_seconds)
    median = f"max by {RUN} ({of_recorded(loss.GRADIENT_NORM_MEDIAN)})"
    ratio, least = thresholds.gradient_norm_ratio, thresholds.gradient_norm_minimum
    return TimeSeries(
        title="Gradient norm",
        description=(
            "Of the last optimizer step before clipping, on a logarithmic scale; grey is its median of "
            f"{usual}. Noise around the grey is health, single peaks too: clipping is for those. A norm that "
            "stays at the red dashes means exploding gradients: lower the learning rate, or look for broken "
            "data. One that sinks to nothing means that nothing is learnt."
        ),
        unit="none",
        decimals=2,
        logarithmic=10,
        targets=[
            Query(expr=newest(catalog.TRAINING_GRADIENT_NORM), legend="norm"),
            Query(expr=median, legend="usual"),
            Query(expr=f"clamp_min({ratio:g} * {median}, {least:g})", legend="too high"),
        ],
        overrides=[colored("A", TRAINING), dashed("B", BASELINE), dashed_limit("C")],
        no_value="the trainer computes no gradient norm",
    )


def not_finite() -> TimeSeries:
    skipped = catalog.TRAINING_OPTIMIZER_STEPS_SKIPPED_TOTAL
    return TimeSeries(
        title="NaN, skipped steps, loss scale",
        description=(
            "Counts between two points, of all ranks: losses and gradients that were NaN or infinite, and "
            "optimizer steps left out. All should be 0; a NaN in the loss is the end of the training: go "
            "back to a checkpoint before it. In fp16 a step is left out now and then, and the loss scale "
            "(right axis) halves; where it falls again and again, train in bf16."
        ),
        unit="none",
        decimals=0,
        minimum=0,
        soft_maximum=1,
        legend_values=("lastNotNull", "max"),
        targets=[
            *(
                Query(
                    expr=f"round({counted(catalog.TRAINING_NONFINITE_TOTAL, '$__rate_interval', matcher)})",
                    legend=f"{what} not finite",
                )
                for what, matcher in (("loss", 'what="loss"'), ("gradient", 'what="gradient"'))
            ),
            Query(expr=f"round({counted(skipped, '$__rate_interval')})", legend="steps skipped"),
            Query(expr=newest(catalog.TRAINING_LOSS_SCALE), legend="loss scale"),
        ],
        overrides=[
            colored("A", BAD),
            colored("B", WARNING),
            colored("C", TRAINING),
            dashed("D", BASELINE),
            unit_of("D", "short", "loss scale"),
        ],
    )
