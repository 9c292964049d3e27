"""What ranks do, side by side: lines of the slowest, the median and the fastest, and the phase of each."""

from __future__ import annotations

from dashboards.colors import BASELINE, PHASES, TRAINING
from dashboards.grafana.panels import Query, Text, TimeSeries, band, colored_names
from dashboards.grafana.timelines import StateTimeline
from dashboards.queries import order, top
from dashboards.queries.per_run import RANK, RUN
from dashboards.rows.rank_causes import CHOSEN, forward
from dashboards.variables import of_rank
from exporters import catalog
from exporters.catalog import Metric

# The order in which they are told: the codes of phases_now.
_CODES = {phase: code for code, phase in enumerate(PHASES, start=1)}


def _spread(
    title: str,
    description: str,
    unit: str,
    by_rank: str,
    no_value: str,
    *,
    names: tuple[str, str, str] = ("lowest", "median", "highest"),
    axis_label: str = "",
    minimum: float | None = 0,
    decimals: int | None = None,
) -> TimeSeries:
    """The extremes of all chosen ranks as a band, and the median in it."""
    lowest, median, highest = names
    return TimeSeries(
        title=title,
        description=description,
        unit=unit,
        decimals=decimals,
        minimum=minimum,
        axis_label=axis_label,
        no_value=no_value,
        legend_values=("lastNotNull", "mean"),
        targets=[
            Query(expr=f"max by {RUN} ({by_rank})", legend=highest),
            Query(expr=f"quantile by {RUN} (0.5, {by_rank})", legend=median),
            Query(expr=f"min by {RUN} ({by_rank})", legend=lowest),
        ],
        overrides=[*band(lowest, highest, BASELINE), *colored_names({median: TRAINING})],
    )


def forward_spread() -> TimeSeries:
    return _spread(
        "Share of time in the forward pass",
        "Of the slowest, the median and the fastest rank, over ten minutes. A thin band is a run whose ranks "
        "keep together. Where its upper edge leaves the median, one rank computes longer, and all others "
        "wait that much; an even band that rises is more work for all.",
        "percentunit",
        forward(CHOSEN),
        "the trainer shows no forward pass",
        names=("fastest", "median", "slowest"),
        decimals=0,
    )


def _pace(title: str, description: str, axis_label: str, counter: Metric) -> TimeSeries:
    each = f"max by {RANK} (rate({of_rank(counter)}[$__rate_interval]))"
    return _spread(title, description, "none", each, "not running", axis_label=axis_label, decimals=2)


def steps() -> TimeSeries:
    return _pace(
        "Optimizer steps by rank",
        "A second, of the fastest, the median and the slowest rank. In a synchronous run all are one line, "
        "for everybody waits for everybody; a band means that ranks do not train together: see whether they "
        "were started with the right world size.",
        "steps / s",
        catalog.TRAINING_STEPS_TOTAL,
    )


def micro_batches() -> TimeSeries:
    return _pace(
        "Micro-batches by rank",
        "A second. A band is ranks that accumulate a different number of micro-batches a step, or a rank "
        "whose data has run out: give every rank as many. A lower edge at 0 is a rank that stands still.",
        "batches / s",
        catalog.TRAINING_BATCHES_PROCESSED_TOTAL,
    )


def samples() -> TimeSeries:
    return _pace(
        "Samples by rank",
        "A second. With steps alike, a band is batches of different sizes: the sampler drops or pads at the "
        "end of an epoch, or the dataset does not divide by the number of ranks.",
        "samples / s",
        catalog.TRAINING_SAMPLES_PROCESSED_TOTAL,
    )


def losses() -> TimeSeries:
    def per_second(counter: Metric) -> str:
        return f"max by {RANK} (rate({of_rank(counter)}[$__rate_interval]))"

    return _spread(
        "Loss by rank",
        "Mean over the tokens of each rank. A thin band that falls is healthy. One rank far above has other "
        "or broken data in its shard; ranks that drift apart do not share their gradients.",
        "none",
        f"{per_second(catalog.TRAINING_LOSS_TOKEN_SUM_TOTAL)} / on {RANK} "
        f"({per_second(catalog.TRAINING_LOSS_TOKENS_TOTAL)} > 0)",
        "only of a cross-entropy loss",
        minimum=None,
        decimals=3,
    )


def phases_now() -> StateTimeline:
    active = catalog.TRAINING_PHASE_ACTIVE
    each = " or ".join(
        f"max by {RANK} ({of_rank(active, _is(phase))}) * {code}" for phase, code in _CODES.items()
    )
    progress = of_rank(catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS)
    last = f"max by {RANK} (last_over_time({progress}[$__range] @ end()))"
    return StateTimeline(
        title="Phase each rank is in",
        description=(
            f"Of more than {top.MOST_ROWS} ranks, of those that made progress longest ago. As each scrape "
            "finds it, so short phases show as a pattern. In a run that is well all ranks have the same "
            "pattern. One long band in all rows is a stall; the row that differs there is the rank the "
            "others wait for: in data its loader hangs, in checkpoint its disk, and alone in forward while "
            "all are in backward it computes still, or never entered the collective."
        ),
        no_value="not running",
        value_texts={code: Text(phase, PHASES[phase]) for phase, code in _CODES.items()},
        targets=[
            Query(
                expr=order.by_rank(f"({each}) and on {RANK} bottomk({top.MOST_ROWS}, {last})"),
                legend="rank {{rank}}",
            )
        ],
    )


def _is(phase: str) -> str:
    return f'phase="{phase}"'
