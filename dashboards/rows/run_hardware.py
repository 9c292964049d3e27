"""Whether a run fits its memory, and how its GPUs do."""

from __future__ import annotations

from alerts import rank_gpus
from alerts.thresholds import Thresholds
from dashboards import links
from dashboards.colors import BAD, BASELINE, PHASES, SKY, TRAINING, WARNING
from dashboards.grafana.panels import Query, TimeSeries, band, colored, dashed, dashed_limit, rising
from dashboards.grafana.tables import Column, Table
from dashboards.grafana.timelines import Heatmap
from dashboards.queries import order, top
from dashboards.queries.per_run import RANK, RUN, counted
from dashboards.variables import of_recorded, of_run
from exporters import catalog
from exporters.catalog import Metric

_GPU = "(cluster, instance, run, rank, gpu, uuid)"
_NO_GPU = "none of its GPUs is known, or they are MIG instances"


def cuda_memory() -> TimeSeries:
    def fullest(metric: Metric) -> str:
        return f"max by {RUN} ({of_run(metric)})"

    return TimeSeries(
        title="CUDA memory of the fullest rank",
        description=(
            "What tensors take (allocated), what torch's allocator holds (reserved), and the most it has "
            "held. Red dashes: the memory of the GPU. Reserved may lie high and flat, for the allocator "
            "keeps what it once took. Allocated that climbs from step to step is a leak. Reserved at the "
            "dashes with retries beside it: smaller micro-batches, shorter sequences, or checkpointing of "
            "activations."
        ),
        unit="bytes",
        minimum=0,
        legend_values=("lastNotNull", "max"),
        targets=[
            Query(expr=fullest(catalog.TRAINING_CUDA_MEMORY_ALLOCATED_BYTES), legend="allocated"),
            Query(expr=fullest(catalog.TRAINING_CUDA_MEMORY_RESERVED_BYTES), legend="reserved"),
            Query(expr=fullest(catalog.TRAINING_CUDA_MEMORY_RESERVED_PEAK_BYTES), legend="most reserved"),
            Query(expr=f"min by {RUN} ({of_recorded(rank_gpus.MEMORY_TOTAL)})", legend="of the GPU"),
        ],
        overrides=[
            colored("A", TRAINING),
            colored("B", PHASES["backward"]),
            dashed("C", BASELINE),
            dashed_limit("D"),
        ],
        no_value="no rank of it uses CUDA",
    )


def allocation_trouble() -> TimeSeries:
    return TimeSeries(
        title="Retries and out of memory",
        description=(
            "Counts between two points, of all ranks. A retry of an allocation empties the allocator's cache "
            "and slows the step: a few at the start are harmless, regular ones say that memory is full. An "
            "out-of-memory error mostly ends the run. Make micro-batches smaller and accumulate more of "
            "them, shorten sequences, or set expandable segments."
        ),
        unit="none",
        decimals=0,
        minimum=0,
        soft_maximum=1,
        legend_values=("lastNotNull", "max"),
        targets=[
            Query(
                expr=f"round({counted(catalog.TRAINING_CUDA_ALLOC_RETRIES_TOTAL, '$__rate_interval')})",
                legend="retries",
            ),
            Query(
                expr=f"round({counted(catalog.TRAINING_OOM_TOTAL, '$__rate_interval')})",
                legend="out of memory",
            ),
        ],
        overrides=[colored("A", WARNING), colored("B", BAD)],
    )


def host_memory() -> TimeSeries:
    memory = of_run(catalog.TRAINING_HOST_MEMORY_BYTES)
    return TimeSeries(
        title="Host memory",
        description=(
            "Resident memory with loader workers: of the largest rank, of the median rank, and of all ranks "
            "on the node where they take most. Level after the first minutes is health. Climbing from epoch "
            "to epoch is a leak, mostly in loader workers, and ends with the kernel killing the run: look "
            "for lists that grow, or restart the workers each epoch."
        ),
        unit="bytes",
        minimum=0,
        legend_values=("lastNotNull", "max"),
        targets=[
            Query(
                expr=f"max by {RUN} (sum by (cluster, instance, run) "
                f"(max by (cluster, instance, run, rank) ({memory})))",
                legend="fullest node",
            ),
            Query(expr=f"max by {RUN} ({memory})", legend="largest rank"),
            Query(expr=f"quantile by {RUN} (0.5, {memory})", legend="median rank"),
        ],
        overrides=[colored("A", PHASES["backward"]), colored("B", TRAINING), dashed("C", BASELINE)],
        no_value="not known: another container's processes are not seen",
    )


def gpu_utilization() -> Heatmap:
    busy = f"avg by {RANK} ({of_recorded(rank_gpus.UTILIZATION)})"
    return Heatmap(
        title="Utilization of its GPUs",
        description=(
            f"A row for the GPUs of each rank, or of the {top.MOST_ROWS} least busy ones; 100 % on the scale "
            "below is busy all the time. One even colour is health, with stripes through all rows at "
            "evaluation and checkpoints. One row that differs is a GPU that waits or is waited for: see its "
            "rank in Ranks. Dark rows all through: the run holds GPUs that it does not use."
        ),
        unit="none",
        cell_unit="percent",
        cell_decimals=0,
        minimum=0,
        maximum=100,
        shown="shares",
        from_top=True,
        targets=[
            Query(
                expr=order.by_rank(top.lowest(busy, RANK, top.MOST_ROWS)),
                legend="rank {{rank}}",
            )
        ],
        no_value=_NO_GPU,
    )


def _spread(of_each: str) -> list[Query]:
    return [
        Query(expr=f"max by {RUN} ({of_each})", legend="highest"),
        Query(expr=f"quantile by {RUN} (0.5, {of_each})", legend="median"),
        Query(expr=f"min by {RUN} ({of_each})", legend="lowest"),
    ]


def gpu_power() -> TimeSeries:
    allowed = of_recorded(rank_gpus.POWER_LIMIT)
    return TimeSeries(
        title="Power of its GPUs",
        description=(
            "What the GPUs of the run draw: the median in a band from the lowest to the highest, and the "
            "power limit in red dashes. Training at full speed lies near the limit. Far below it the GPUs "
            "wait, whatever their utilization says. A wide band: they do not have the same work, or one is "
            "throttled."
        ),
        unit="watt",
        minimum=0,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            *_spread(of_recorded(rank_gpus.POWER)),
            Query(expr=f"min by {RUN} ({allowed})", legend="limit"),
        ],
        overrides=[*band("lowest", "highest", SKY), colored("B", TRAINING), dashed_limit("D")],
        no_value=_NO_GPU,
    )


def gpu_temperature() -> TimeSeries:
    celsius, slows = of_recorded(rank_gpus.TEMPERATURE), of_recorded(rank_gpus.TEMPERATURE_LIMIT)
    return TimeSeries(
        title="Temperature of its GPUs",
        description=(
            "Of the chips: the median in a band from the coolest to the hottest; at the red dashes a GPU "
            "slows down to save itself. Level and some ten degrees below is health. One hot GPU (a wide "
            "band) is a matter of its fan or its place: tell whoever looks after the machine. All hot: the "
            "room's cooling."
        ),
        unit="celsius",
        decimals=0,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[*_spread(celsius), Query(expr=f"min by {RUN} ({slows})", legend="slows down")],
        overrides=[*band("lowest", "highest", WARNING), colored("B", WARNING), dashed_limit("D")],
        no_value=_NO_GPU,
    )


def gpu_table(thresholds: Thresholds) -> Table:
    power, power_limit = of_recorded(rank_gpus.POWER), of_recorded(rank_gpus.POWER_LIMIT)
    return Table.of(
        title="Each of its GPUs now",
        description=(
            "A row for each rank and GPU; a GPU's number leads to all that is known of it. Held down is the "
            "share of the last five minutes in which heat or the power brake lowered its clocks, which is "
            "never meant. A GPU that differs from the others in clocks, power or temperature holds up the "
            "whole run."
        ),
        labels={"gpu": "GPU", "rank": "Rank", "instance": "Instance"},
        columns=[
            Column(
                "Utilization",
                of_recorded(rank_gpus.UTILIZATION),
                "percent",
                0,
                cell="gauge",
                minimum=0,
                maximum=100,
                width=160,
            ),
            Column(
                "Memory",
                of_recorded(rank_gpus.MEMORY_USED),
                "percentunit",
                0,
                cell="gauge",
                minimum=0,
                maximum=1,
                width=160,
            ),
            Column(
                "Temperature",
                of_recorded(rank_gpus.TEMPERATURE),
                "celsius",
                0,
            ),
            Column("Power", power, "watt", 0),
            Column("Of its limit", f"{power} / on {_GPU} {power_limit}", "percentunit", 0),
            Column("SM clock", of_recorded(rank_gpus.CLOCK), "percentunit", 0),
            Column(
                "Held down",
                of_recorded(rank_gpus.HELD_DOWN),
                "percentunit",
                0,
                cell="color-text",
                thresholds=rising(thresholds.gpu_power_brake_ratio, thresholds.gpu_thermal_ratio),
            ),
        ],
        data_links=[links.to_gpu(links.CELL, links.INSTANCE_OF_ROW)],
        sorted_by="Rank",
        no_value="not known",
    )
