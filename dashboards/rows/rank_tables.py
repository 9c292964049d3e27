"""The tables of the Ranks dashboard: a row for each rank."""

from __future__ import annotations

from alerts import rank_gpus
from alerts.memory import RESERVED_RATIO
from alerts.thresholds import Thresholds
from dashboards import links
from dashboards.colors import BAD, NEUTRAL, PHASES, WARNING
from dashboards.grafana.panels import DataLink, Threshold, falling, rising
from dashboards.grafana.tables import Column, Table, linked, widths
from dashboards.queries.per_run import age_of_rank
from dashboards.rows.rank_causes import (
    CHOSEN,
    beside_median,
    clock_ratio,
    of_its_gpus,
    phase_share,
    tokens_of_median_rank,
)
from dashboards.variables import of_rank, of_recorded
from exporters import catalog
from exporters.catalog import Metric

_LABELS = {"rank": "Rank", "instance": "Instance", "gpu": "GPU"}
_INSTANCE = f"max by (rank, instance) ({of_rank(catalog.TRAINING_PHASE_ACTIVE)})"
_GPU = f"max by (rank, instance, gpu) ({of_rank(catalog.TRAINING_RUN_GPU_INFO)})"
_ANY_IS_BAD = (Threshold(NEUTRAL, None), Threshold(BAD, 1))
_ANY_IS_A_WARNING = (Threshold(NEUTRAL, None), Threshold(WARNING, 1))
_BAR_PIXELS = 160


def _only(title: str, **choices: str) -> DataLink:
    return links.to(links.RANKS, title, run="${run}", **choices)


def _of_rank(expr: str) -> str:
    """Tables merge rows by the labels that all queries have: the rank alone."""
    return f"max by (rank) ({expr})"


def causes(thresholds: Thresholds) -> Table:
    excess, wait = thresholds.straggler_excess_ratio, thresholds.data_wait_ratio
    return Table.of(
        title="Each rank with what may hold it up",
        description=(
            "The slowest first; click its GPU for all of it. Read its row from the left: it waits for data, "
            "it has more tokens, its GPU is lowered, held down or hot. If nothing differs, look at the node: "
            "other processes on its processors, a slow disk, a worse network. A rank that is missing here "
            "is dead or not scraped."
        ),
        labels=_LABELS,
        columns=[
            Column(
                "Forward",
                _of_rank(beside_median()),
                "percentunit",
                0,
                "color-text",
                rising(1 + excess / 2, 1 + excess, NEUTRAL),
            ),
            Column(
                "Waits for data",
                _of_rank(phase_share("data")),
                "percentunit",
                1,
                "color-text",
                rising(wait / 2, wait, NEUTRAL),
                width=120,
            ),
            Column("Tokens", _of_rank(tokens_of_median_rank()), "percentunit", 0),
            Column(
                "SM clock",
                _of_rank(clock_ratio()),
                "percentunit",
                0,
                "color-text",
                falling(0.75, 0.6, NEUTRAL),
            ),
            Column(
                "Held down",
                _of_rank(of_its_gpus(rank_gpus.HELD_DOWN)),
                "percentunit",
                0,
                "color-text",
                rising(thresholds.gpu_power_brake_ratio, thresholds.gpu_thermal_ratio, NEUTRAL),
            ),
            Column("Temperature", _of_rank(of_its_gpus(rank_gpus.TEMPERATURE)), "celsius", 0, width=110),
            Column(
                "GPU busy",
                _of_rank(of_its_gpus(rank_gpus.UTILIZATION)),
                "percent",
                0,
            ),
            Column(
                "Memory held",
                _of_rank(of_recorded(RESERVED_RATIO, CHOSEN)),
                "percentunit",
                0,
                width=110,
            ),
            Column(
                "Last step",
                _of_rank(age_of_rank(catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS, CHOSEN)),
                "s",
                0,
            ),
            Column(
                "Last progress",
                _of_rank(age_of_rank(catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS, CHOSEN)),
                "s",
                0,
                "color-text",
                rising(thresholds.overdue_seconds, thresholds.hung_seconds, NEUTRAL),
                width=110,
            ),
        ],
        named_by=[_INSTANCE, _GPU],
        overrides=[
            linked("GPU", links.to_gpu(gpu=links.CELL, instance=links.INSTANCE_OF_ROW)),
            *widths({"Rank": 64, "GPU": 56}),
        ],
        data_links=[_only("This rank alone", rank=links.CELL)],
        sorted_by="Forward",
        descending=True,
        no_value="",
    )


def _over_range(counter: str, by: str = "rank") -> str:
    """What each rank counted within the time range: where it was started again elsewhere, on all nodes."""
    return f"sum by (rank) (max by (cluster, instance, run, {by}) (increase({counter}[$__range])))"


def _bar(phase: str) -> Column:
    """The phase's share of the rank's wall time over the time range."""
    wall = of_rank(catalog.TRAINING_PHASE_SECONDS_TOTAL)
    spent = of_rank(catalog.TRAINING_PHASE_SECONDS_TOTAL, f'phase="{phase}"')
    return Column(
        phase.capitalize(),
        f"{_over_range(spent)} / on (rank) ({_over_range(wall, 'rank, phase')} > 0)",
        "percentunit",
        1,
        "gauge",
        [Threshold(PHASES[phase], None)],
        minimum=0,
        maximum=1,
        width=_BAR_PIXELS,
    )


def phases() -> Table:
    return Table.of(
        title="Wall time by phase over the time range",
        description=(
            "How each rank spent its time; the phases of a row make 100 %. Blue is work, red waiting for "
            "data. Rows should be alike: a rank with less backward than the others has less waiting in it, "
            "because it is the one that the others wait for. Compute is all of a step where the trainer "
            "shows no borders."
        ),
        labels={"rank": "Rank"},
        columns=[_bar(phase) for phase in PHASES],
        data_links=[_only("This rank alone", rank=links.CELL)],
    )


def memory_and_faults() -> Table:
    def newest(metric: Metric) -> str:
        return f"max by (rank) ({of_rank(metric)})"

    def counted(counter: Metric) -> str:
        return f"round({_over_range(of_rank(counter))})"

    nonfinite = _over_range(of_rank(catalog.TRAINING_NONFINITE_TOTAL), "rank, what")
    return Table.of(
        title="Memory and faults of each rank",
        description=(
            "Memory is the newest, faults are those of the time range. Allocated far below reserved with "
            "retries is fragmentation: try expandable segments. Non-finite values on one rank alone come "
            "from its data or its GPU's memory, on all at once from the learning rate. What the hook drops "
            "or stumbles over is a fault of the telemetry, not of the training."
        ),
        labels={"rank": "Rank", "instance": "Instance"},
        columns=[
            Column("Allocated", newest(catalog.TRAINING_CUDA_MEMORY_ALLOCATED_BYTES), "bytes", 1),
            Column("Reserved", newest(catalog.TRAINING_CUDA_MEMORY_RESERVED_BYTES), "bytes", 1),
            Column("Peak", newest(catalog.TRAINING_CUDA_MEMORY_RESERVED_PEAK_BYTES), "bytes", 1),
            Column("Host memory", newest(catalog.TRAINING_HOST_MEMORY_BYTES), "bytes", 1, width=110),
            Column(
                "Retries",
                counted(catalog.TRAINING_CUDA_ALLOC_RETRIES_TOTAL),
                "none",
                0,
                "color-text",
                _ANY_IS_A_WARNING,
            ),
            Column(
                "Out of memory",
                counted(catalog.TRAINING_OOM_TOTAL),
                "none",
                0,
                "color-text",
                _ANY_IS_BAD,
                width=120,
            ),
            Column(
                "Non-finite",
                f"round({nonfinite})",
                "none",
                0,
                "color-text",
                _ANY_IS_BAD,
            ),
            Column(
                "Steps skipped", counted(catalog.TRAINING_OPTIMIZER_STEPS_SKIPPED_TOTAL), "none", 0, width=120
            ),
            Column(
                "Hook errors",
                counted(catalog.HOOK_ERRORS_TOTAL),
                "none",
                0,
                "color-text",
                _ANY_IS_A_WARNING,
                width=110,
            ),
            Column(
                "Hook drops",
                counted(catalog.HOOK_DROPPED_TOTAL),
                "none",
                0,
                "color-text",
                _ANY_IS_A_WARNING,
                width=110,
            ),
            Column(
                "Hook time",
                f"max by (rank) (rate({of_rank(catalog.HOOK_SECONDS_TOTAL)}[$__rate_interval]))",
                "percentunit",
                2,
            ),
        ],
        named_by=[_INSTANCE],
        overrides=widths({"Rank": 64}),
        data_links=[_only("This rank alone", rank=links.CELL)],
    )
