"""What may hold a rank up, a row for each rank over time, and the queries that say it.

What stands out is always the side on which the cause lies, so that a rank that stands out here and in the
first panel is explained.
"""

from __future__ import annotations

from alerts import rank_gpus
from alerts.memory import RESERVED_RATIO
from alerts.thresholds import Thresholds
from alerts.throughput import FORWARD
from dashboards.grafana.panels import Query
from dashboards.grafana.timelines import Heatmap
from dashboards.queries import order, top
from dashboards.queries.per_run import RANK, RUN
from dashboards.variables import of_rank, of_recorded, of_run
from exporters import catalog

CHOSEN = 'rank=~"$rank"'


def forward(*matchers: str) -> str:
    """Seconds a second in the forward pass, by rank: of the chosen run, all its ranks."""
    return of_recorded(FORWARD, *matchers)


def forward_of_median() -> str:
    """Of the median of all ranks, however few; the recorded one leaves out runs with few."""
    return f"quantile by {RUN} (0.5, {forward()})"


def beside_median() -> str:
    """Forward time of each chosen rank as a share of the median rank's."""
    return f"{forward(CHOSEN)} / on {RUN} group_left () {forward_of_median()}"


def phase_share(phases: str) -> str:
    """Share of each chosen rank's time in phases that a regular expression names."""
    spent = of_rank(catalog.TRAINING_PHASE_SECONDS_TOTAL, f'phase=~"{phases}"')
    return f"sum by {RANK} (max by (cluster, run, rank, phase) (rate({spent}[$__rate_interval])))"


def of_its_gpus(recorded: str) -> str:
    """What is recorded of each chosen rank's GPUs: the highest of them."""
    return f"max by {RANK} ({of_recorded(recorded, CHOSEN)})"


def clock_ratio() -> str:
    """The SM clock of the slowest of each chosen rank's GPUs, as a share of its highest."""
    return f"min by {RANK} ({of_recorded(rank_gpus.CLOCK, CHOSEN)})"


def tokens_of_median_rank() -> str:
    """Tokens a second of each chosen rank as a share of the median rank's."""

    def each(selected: str) -> str:
        return f"max by {RANK} (rate({selected}[$__rate_interval]))"

    tokens, all_of_them = catalog.TRAINING_TOKENS_PROCESSED_TOTAL, 'kind="all"'
    median = f"quantile by {RUN} (0.5, {each(of_run(tokens, all_of_them))})"
    return f"{each(of_rank(tokens, all_of_them))} / on {RUN} group_left () ({median} > 0)"


def _by_rank(
    title: str,
    description: str,
    unit: str,
    expr: str,
    least: float,
    most: float | None,
    no_value: str,
    decimals: int = 0,
) -> Heatmap:
    return Heatmap(
        title=title,
        description=f"A row for each rank, or for the {top.MOST_ROWS} with the highest values. {description}",
        unit="none",
        cell_unit=unit,
        cell_decimals=decimals,
        minimum=least,
        maximum=most,
        shown="shares",
        from_top=True,
        no_value=no_value,
        targets=[Query(expr=order.by_rank(top.highest(expr, RANK, top.MOST_ROWS)), legend="rank {{rank}}")],
    )


def slowness(thresholds: Thresholds) -> Heatmap:
    excess = thresholds.straggler_excess_ratio
    return _by_rank(
        "Forward time beside the median, by rank",
        "Faint is as fast as the median or faster; a row that stands out is a straggler, "
        f"from {100 + 100 * excess:g} % on one that is told of: see since when, and where below it stands "
        "out, too. All rows are alike where ranks meet within the forward pass (FSDP, tensor parallel).",
        "percentunit",
        beside_median(),
        1,
        round(1 + 2 * excess, 6),
        "the trainer shows no forward pass",
    )


def data_waits(thresholds: Thresholds) -> Heatmap:
    return _by_rank(
        "Waiting for data, by rank",
        "Share of its time that it stands still for the next batch. All rows stand out: the loader or the "
        "disk is too slow for the run. One does: its node's disk or processor is, or its samples are longer.",
        "percentunit",
        phase_share("data"),
        0,
        2 * thresholds.data_wait_ratio,
        "not running",
    )


def tokens_beside_median() -> Heatmap:
    return _by_rank(
        "Tokens beside the median, by rank",
        "A rank that stands out has more to do than the others: its sequences are longer. Sort or pack "
        "sequences by length, so that every rank gets as many tokens a step.",
        "percentunit",
        tokens_of_median_rank(),
        1,
        1.3,
        "no tokens recorded",
    )


def beside_training() -> Heatmap:
    return _by_rank(
        "Time beside training, by rank",
        "Share of its time in evaluation, checkpoints, its start and what no phase covers. Often rank 0 "
        "alone stands out, which logs, evaluates or writes for all, and the others wait: let it do so in the "
        "background, or spread it.",
        "percentunit",
        phase_share("evaluation|checkpoint|init|other"),
        0,
        0.5,
        "not running",
    )


def clocks_lowered() -> Heatmap:
    return _by_rank(
        "GPU clock below its highest, by rank",
        "By how much the SM clock of its GPU is lowered. 5 to 20 % on all alike is the power limit. One "
        "that stands out computes slower by as much: see what holds it down beside this.",
        "percentunit",
        f"1 - {clock_ratio()}",
        0,
        0.5,
        "no GPU",
    )


def held_down(thresholds: Thresholds) -> Heatmap:
    return _by_rank(
        "GPU held down, by rank",
        "Share of the time in which heat or the power brake lower the clocks of its GPU. Any row that stands "
        "out is a fault of cooling or of power: move the rank to another GPU, and have the node looked at.",
        "percentunit",
        of_its_gpus(rank_gpus.HELD_DOWN),
        0,
        4 * thresholds.gpu_thermal_ratio,
        "no GPU, or not told",
    )


def device_still() -> Heatmap:
    spent = of_rank(catalog.TRAINING_DEVICE_SECONDS_TOTAL)
    busy = f"sum by {RANK} (max by (cluster, run, rank, phase) (rate({spent}[$__rate_interval])))"
    return _by_rank(
        "CUDA device without work, by rank",
        "Share of the time that no phase has on the device's own clock: Python, the launch of many small "
        "kernels, waiting for data. All alike and much: compile the model, or make its pieces larger. One "
        "alone: its host is slow or busy with something else.",
        "percentunit",
        f"clamp_min(1 - {busy}, 0)",
        0,
        0.5,
        "no CUDA device",
    )


def reserved() -> Heatmap:
    return _by_rank(
        "Device memory held by torch, by rank",
        "Share of its GPU that torch's allocator holds. Much and level can be healthy; one that grows "
        "step by step runs out of memory first. A rank above the others has longer sequences or does more: "
        "rank 0 that gathers results, for example.",
        "percentunit",
        of_recorded(RESERVED_RATIO, CHOSEN),
        0,
        1,
        "no GPU",
    )


def host_memory() -> Heatmap:
    return _by_rank(
        "Host memory, by rank",
        "Resident memory of the rank with its loader workers. It is level after the first epoch; a row that "
        "goes on growing is a leak, mostly in the loader, and ends with the kernel killing it.",
        "bytes",
        f"max by {RANK} ({of_rank(catalog.TRAINING_HOST_MEMORY_BYTES)})",
        0,
        None,
        "not running",
        decimals=1,
    )
