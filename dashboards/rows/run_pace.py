"""How fast a run goes, what its time goes into, and whether its ranks keep together."""

from __future__ import annotations

from typing import Literal

from alerts import rank_gpus, run_efficiency, throughput
from alerts.lifecycle import RANKS
from alerts.thresholds import Thresholds, duration
from dashboards import links
from dashboards.colors import BAD, BASELINE, GOOD, NEUTRAL, PHASES, TRAINING, WARNING
from dashboards.grafana.panels import (
    Query,
    Stat,
    Threshold,
    TimeSeries,
    colored,
    colored_names,
    dashed,
    limit,
    unit_of,
)
from dashboards.grafana.timelines import Heatmap
from dashboards.queries.per_run import ONE, RUN, a_second, age_of_rank, flops_utilization, newest
from dashboards.variables import of_histogram, of_recorded, of_run
from exporters import catalog
from exporters.catalog import Metric

# From below: the work, then what it waits for, then what interrupts it.
_STACKED = ("forward|backward|compute|optimizer", "data", "evaluation|checkpoint|init|other")


def tokens(thresholds: Thresholds) -> TimeSeries:
    usual = duration(thresholds.throughput_usual_seconds)
    window = duration(thresholds.throughput_rate_seconds)
    trained = a_second(catalog.TRAINING_TOKENS_PROCESSED_TOTAL, thresholds, 'kind="trained"')
    return TimeSeries(
        title="Tokens per second",
        description=(
            f"Of all ranks together, over {window}: all tokens, and those whose label counts in the loss. "
            f"Grey is what the run makes at its own median pace of {usual} with the ranks it has now. The "
            "line should lie on the grey, with dips for evaluation and checkpoints. Below it for long: see "
            "at the right what the time goes into, then whether GPUs throttle. Far fewer trained than all: "
            "much of each batch is padding or prompt."
        ),
        unit="short",
        minimum=0,
        axis_label="tokens / s",
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            Query(expr=of_recorded(throughput.TOKENS), legend="all"),
            Query(expr=trained, legend="trained"),
            Query(expr=of_recorded(throughput.TOKENS_MEDIAN), legend="usual"),
        ],
        overrides=[colored("A", TRAINING), colored("B", PHASES["backward"]), dashed("C", BASELINE)],
        no_value="the trainer counts no tokens",
    )


def phases() -> TimeSeries:
    def seconds(function: str, window: str, *matchers: str) -> str:
        counter = of_run(catalog.TRAINING_PHASE_SECONDS_TOTAL, *matchers)
        return f"max by (cluster, run, rank, phase) ({function}({counter}{window}))"

    def share(phases: str) -> str:
        of_phase = "sum by (cluster, run, phase)"
        part = f"{of_phase} ({seconds('rate', '[$__rate_interval]', phases)})"
        # Most runs know either forward and backward or compute.
        known = f"{of_phase} ({seconds('increase', '[$__range] @ end()', phases)}) > 0"
        return f"{part} / {ONE} group_left () ({whole}) and on (cluster, run, phase) ({known})"

    whole = f"sum by {RUN} ({seconds('rate', '[$__rate_interval]')}) > 0"
    return TimeSeries(
        title="What its time goes into",
        description=(
            "Share of the time of all ranks together, by phase. Blue is work and should fill most of it. "
            "Vermilion is waiting for data: more loader workers, more prefetching, or preprocess once and "
            "store. Orange and green are checkpoints and evaluation: if they are wide, make them rarer or "
            "faster. Waits for other ranks lie within backward (or compute), where the host cannot tell "
            "them."
        ),
        unit="percentunit",
        minimum=0,
        maximum=1,
        stacked=True,
        legend_values=("mean",),
        legend_placement="right",
        targets=[Query(expr=share(f'phase=~"{phases}"'), legend="{{phase}}") for phases in _STACKED],
        overrides=colored_names(PHASES),
    )


def step_times() -> Heatmap:
    buckets = of_histogram(catalog.TRAINING_STEP_DURATION_SECONDS, "bucket")
    return Heatmap(
        title="How long its steps take",
        description=(
            "Optimizer steps by duration and time: how many took so long, as the scale of colours below has "
            "it. One narrow band that stays at its height is health. A second band above it: something "
            "interrupts some steps, such as the loader, garbage collection or another job. A band that "
            "climbs: longer sequences, or clocks that fall."
        ),
        unit="s",
        cell_unit="none",
        cell_decimals=1,
        targets=[
            Query(
                expr="sum by (le) (max by (cluster, instance, run, le) "
                f"(increase({buckets}[$__rate_interval])))",
                legend="{{le}}",
                format="heatmap",
            )
        ],
    )


def step_durations() -> TimeSeries:
    def mean_rate(part: Literal["count", "sum"]) -> str:
        series = of_histogram(catalog.TRAINING_STEP_DURATION_SECONDS, part)
        return f"max by {RUN} (rate({series}[$__rate_interval]))"

    buckets = of_histogram(catalog.TRAINING_STEP_DURATION_SECONDS, "bucket")
    by_bucket = f"max by (cluster, run, le) (rate({buckets}[$__rate_interval]))"
    return TimeSeries(
        title="Step time, on average and at worst",
        description=(
            "The mean of the optimizer steps between two points, and the time that 99 of 100 of them stay "
            "below, as far as the histogram's buckets tell. p99 far above the mean: single steps are held "
            "up; look for the loader, for evaluation inside a step, or for a rank that is late. Both "
            "climbing: the work itself takes longer, so look at sequence lengths and clocks."
        ),
        unit="s",
        minimum=0,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            # Nothing is drawn where no step ended: there the quotients are NaN.
            Query(expr=f"histogram_quantile(0.99, {by_bucket}) >= 0", legend="p99"),
            Query(expr=f"{mean_rate('sum')} / {ONE} {mean_rate('count')} >= 0", legend="mean"),
        ],
        overrides=[dashed("A", WARNING), colored("B", TRAINING)],
        no_value="no step has ended",
    )


def utilization(thresholds: Thresholds) -> TimeSeries:
    window = duration(thresholds.throughput_rate_seconds)
    busy = f"avg_over_time({of_recorded(rank_gpus.UTILIZATION)}[{window}])"
    return TimeSeries(
        title="How well its GPUs are used",
        description=(
            f"Over {window}. Busy: at least one kernel runs. Tensor: the tensor cores work. MFU: what the "
            "model's tokens need of the FLOP/s the devices could do, the figure that counts; 30 to 50 % is "
            "good for large models. Busy low: the GPUs wait, see what the time goes into. Busy high and "
            "tensor low: small kernels, or a slow number format. Tensor high and MFU low: recomputation or "
            "padding."
        ),
        unit="percentunit",
        decimals=1,
        minimum=0,
        maximum=1,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            Query(expr=f"avg by {RUN} ({busy}) / 100", legend="busy"),
            Query(expr=of_recorded(run_efficiency.TENSOR_ACTIVE), legend="tensor"),
            Query(expr=flops_utilization(thresholds), legend="MFU"),
        ],
        overrides=[dashed("A", BASELINE), colored("B", PHASES["backward"]), colored("C", TRAINING)],
        no_value="neither its GPUs nor the model's FLOPs are known",
    )


def data_loading() -> TimeSeries:
    return TimeSeries(
        title="Waiting for data",
        description=(
            "Waiting: how long the last optimizer step stood still for its data. Preprocessing: the time its "
            "last batch took, which workers hide as long as they keep up. Waiting should be near zero. Where "
            "it is a visible part of a step, give the loader more workers, let it prefetch further, or "
            "preprocess once and store the result."
        ),
        unit="s",
        minimum=0,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            Query(expr=newest(catalog.TRAINING_DATA_LOADING_TIME_SECONDS), legend="waiting"),
            Query(expr=newest(catalog.TRAINING_PREPROCESSING_TIME_SECONDS), legend="preprocessing"),
        ],
        overrides=[colored("A", PHASES["data"]), dashed("B", BASELINE)],
        no_value="the trainer loads no data that the hook sees",
    )


def counts(thresholds: Thresholds) -> TimeSeries:
    seconds = thresholds.throughput_rate_seconds
    steps = f"increase({of_run(catalog.TRAINING_STEPS_TOTAL)}[{duration(seconds)}])"
    return TimeSeries(
        title="Steps and samples per second",
        description=(
            "Optimizer steps of the run, and micro-batches and samples of all ranks together; samples on the "
            f"right axis; over {duration(seconds)}. The three move together as long as the batch stays what "
            "it is. Samples that fall alone: sequences are packed otherwise, or the last batches are small. "
            "Steps that fall alone: more micro-batches are accumulated."
        ),
        unit="none",
        decimals=2,
        minimum=0,
        axis_label="steps, batches / s",
        legend_values=("lastNotNull", "mean"),
        targets=[
            Query(expr=f"max by {RUN} ({steps}) / {seconds:g}", legend="steps"),
            Query(
                expr=a_second(catalog.TRAINING_BATCHES_PROCESSED_TOTAL, thresholds), legend="micro-batches"
            ),
            Query(expr=a_second(catalog.TRAINING_SAMPLES_PROCESSED_TOTAL, thresholds), legend="samples"),
        ],
        overrides=[
            colored("A", TRAINING),
            colored("B", PHASES["backward"]),
            dashed("C", BASELINE),
            unit_of("C", "none", "samples / s"),
        ],
    )


def slowest_rank(thresholds: Thresholds) -> TimeSeries:
    forward = of_recorded(throughput.FORWARD)
    median = f"quantile by {RUN} (0.5, {forward})"
    return TimeSeries(
        title="Slowest rank beside the median rank",
        description=(
            "Time of the slowest and of the fastest rank in its forward passes, as a share of the median "
            "rank's: all others wait for the slowest in every step. Around 100 % all keep together. Above "
            "the red line a rank is a straggler: open Ranks for which one, and look at its GPU's clocks and "
            "heat, its node's load and its sequences. A run with a single rank lies on 100 %."
        ),
        unit="percentunit",
        decimals=0,
        thresholds=limit(round(1 + thresholds.straggler_excess_ratio, 6)),
        threshold_line=True,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            Query(expr=f"max by {RUN} ({forward}) / {ONE} {median}", legend="slowest"),
            Query(expr=f"min by {RUN} ({forward}) / {ONE} {median}", legend="fastest"),
        ],
        overrides=[colored("A", TRAINING), dashed("B", BASELINE)],
        data_links=[links.to(links.RANKS, "Which rank it is", run=links.RUN_OF_SERIES)],
        no_value="nothing is known of its forward passes",
    )


def waiting_ranks(thresholds: Thresholds) -> TimeSeries:
    data = of_run(catalog.TRAINING_PHASE_SECONDS_TOTAL, 'phase="data"')
    waits = f"max by (cluster, run, rank) (rate({data}[$__rate_interval]))"
    return TimeSeries(
        title="Ranks that wait for data",
        description=(
            "Share of its time that a rank waits for its data: the one that waits longest, and the median. "
            "Both low is health. The highest alone above the red line: that rank's disk, network or shard is "
            "slower than the others', and all wait for it. Both high: the loader is too slow everywhere."
        ),
        unit="percentunit",
        minimum=0,
        thresholds=limit(thresholds.data_wait_ratio),
        threshold_line=True,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            Query(expr=f"max by {RUN} ({waits})", legend="longest"),
            Query(expr=f"quantile by {RUN} (0.5, {waits})", legend="median"),
        ],
        overrides=[colored("A", PHASES["data"]), dashed("B", BASELINE)],
        data_links=[links.to(links.RANKS, "Which rank it is", run=links.RUN_OF_SERIES)],
    )


def silence() -> TimeSeries:
    def age(moment: Metric) -> str:
        return f"max by {RUN} ({age_of_rank(moment)})"

    return TimeSeries(
        title="How long ago a rank made progress",
        description=(
            "Of the living rank that was silent longest: its last batch, evaluation or checkpoint, and its "
            "last optimizer step. Dashes: what 99 of 100 of the run's steps take at most. A low saw-tooth is "
            "health, with taller teeth of the steps over an evaluation. A line that climbs without end is a "
            "run that hangs: open Ranks for where each rank stands, and take stack traces."
        ),
        unit="s",
        minimum=0,
        legend_values=("lastNotNull", "max"),
        targets=[
            Query(expr=age(catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS), legend="step"),
            Query(expr=age(catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS), legend="progress"),
            Query(expr=of_recorded(throughput.STEP_P99), legend="p99 of steps"),
        ],
        overrides=[colored("A", PHASES["evaluation"]), colored("B", TRAINING), dashed("C", BASELINE)],
        data_links=[links.to(links.RANKS, "Which rank it is", run=links.RUN_OF_SERIES)],
    )


def ranks() -> Stat:
    size = newest(catalog.TRAINING_WORLD_SIZE)
    return Stat(
        title="Ranks",
        description=(
            "Share of the run's ranks that live and are scraped, and how many it has in all. Below 100 % a "
            "rank has died, or its node's service is not scraped: the others wait for it in the next "
            "collective. See Ranks for which one, and the target's state in Alerts and telemetry health."
        ),
        unit="percentunit",
        decimals=0,
        colored=True,
        color_mode="thresholds",
        thresholds=[Threshold(NEUTRAL, None), Threshold(BAD, 0), Threshold(GOOD, 1)],
        course=False,
        targets=[
            Query(expr=f"{of_recorded(RANKS)} / {ONE} {size}", legend="alive", instant=True),
            Query(expr=size, legend="in all", instant=True),
        ],
        no_value="none live",
        overrides=[unit_of("B", "none")],
        data_links=[links.to(links.RANKS, "All ranks", run=links.RUN_OF_SERIES)],
    )
