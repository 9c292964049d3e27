"""How much GPUs work, what that takes of memory, power and heat: panels of the GPUs dashboard."""

from __future__ import annotations

from alerts import fleet, rank_gpus
from alerts.gpu_health import MEMORY_USED_RATIO
from alerts.thresholds import Thresholds
from dashboards import links
from dashboards.colors import BLUE, GREY, ORANGE, PINK, SKY
from dashboards.grafana.panels import (
    MOST_POINTS,
    BarGauge,
    Query,
    Threshold,
    TimeSeries,
    colored,
    dashed,
    limit,
)
from dashboards.grafana.timelines import Heatmap
from dashboards.queries import over_range, top
from dashboards.rows.gpu_lines import (
    DEVICE,
    GPU,
    counted,
    line_a_gpu,
    now,
    of_chosen_runs,
    pace,
    rate,
    row_a_gpu,
)
from dashboards.rows.gpu_tables import OF_GPU
from dashboards.variables import of_every_instance, of_recorded
from exporters import catalog
from exporters.catalog import Metric

# Work in blues, memory in orange.
_ACTIVITY_COLORS = {"A": GREY, "B": SKY, "C": BLUE, "D": ORANGE, "F": PINK}
_NODE = "(cluster, instance)"


def heat() -> Heatmap:
    return row_a_gpu(
        title="Utilization by GPU",
        description=(
            "It stands out while the GPU works, is faint while it idles, and is empty where nothing is known "
            "of it. Rows faint for long are free, or held for nothing; all rows of a run faint together are "
            "a pause or a stall, one alone is a rank that is lost."
        ),
        unit="percent",
        maximum=100,
        expr=now(catalog.NVIDIA_GPU_UTILIZATION_PERCENT),
    )


def heat_of_nodes() -> Heatmap:
    of_run = f"avg by {_NODE} ({of_every_instance(rank_gpus.UTILIZATION)})"
    each = f"{of_every_instance(fleet.UTILIZATION)} or on {_NODE} {of_run}"
    return Heatmap(
        title="Utilization by node",
        description=(
            "Every node, whatever instance is chosen, by the mean of its GPUs; with a run chosen above, the "
            "nodes of that run by the GPUs it has there. All below is of one instance at first: click a row "
            f"for another, or choose more of them above. Of more than {top.MOST_ROWS} nodes it shows those "
            "with the lowest means."
        ),
        unit="none",
        cell_unit="percent",
        cell_decimals=0,
        minimum=0,
        maximum=100,
        shown="shares",
        from_top=True,
        most_points=MOST_POINTS,
        no_value="no GPUs",
        targets=[Query(expr=top.lowest(each, _NODE, top.MOST_ROWS), legend="{{instance}}")],
        data_links=[
            links.to(links.GPUS, f"GPUs of {links.INSTANCE_OF_SERIES}", instance=links.INSTANCE_OF_SERIES)
        ],
    )


def activity() -> TimeSeries:
    def mean(percentage: Metric) -> str:
        return f"avg({now(percentage)}) / 100"

    return TimeSeries(
        title="Mean activity",
        description=(
            "Mean of the chosen GPUs. From the top: a kernel runs at all, the multiprocessors (SMs) have "
            "work, device memory is accessed, its bandwidth is used, the tensor cores compute, warps fill "
            "the SMs. Good training has SMs above 80 % and tensor cores at 40 to 60 %. A gap below "
            "utilization: pieces of work too small. Bandwidth above tensor cores: bound by memory; fuse "
            "kernels, use flash attention. Tensor cores near 0: use bf16."
        ),
        unit="percentunit",
        decimals=0,
        minimum=0,
        maximum=1,
        legend_values=("lastNotNull", "mean", "min"),
        legend_highest="mean",
        targets=[
            Query(expr=mean(catalog.NVIDIA_GPU_UTILIZATION_PERCENT), legend="utilization"),
            Query(expr=_mean_share(catalog.NVIDIA_GPU_SM_ACTIVE_SECONDS_TOTAL), legend="SMs"),
            Query(expr=_mean_share(catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL), legend="tensor cores"),
            Query(expr=_mean_share(catalog.NVIDIA_GPU_DRAM_ACTIVE_SECONDS_TOTAL), legend="memory bandwidth"),
            Query(expr=mean(catalog.NVIDIA_GPU_MEMORY_CONTROLLER_ACTIVE_PERCENT), legend="memory accessed"),
            Query(expr=_mean_share(catalog.NVIDIA_GPU_SM_OCCUPANCY_SECONDS_TOTAL), legend="SM occupancy"),
        ],
        overrides=[
            *(colored(reference, color) for reference, color in _ACTIVITY_COLORS.items()),
            dashed("E", ORANGE),
        ],
    )


def _mean_share(counter: Metric) -> str:
    return f"avg({pace(counter)})"


def sm_activity() -> Heatmap:
    return _share_by_gpu(
        "SM activity by GPU",
        "Share of its multiprocessors that had work. A row fainter than its neighbours has less to do: it "
        "waits for the host, or gets smaller batches.",
        catalog.NVIDIA_GPU_SM_ACTIVE_SECONDS_TOTAL,
    )


def tensor_activity() -> Heatmap:
    return _share_by_gpu(
        "Tensor core activity by GPU",
        "Share of the tensor cores' peak, the closest a GPU tells to useful FLOPs. In one run a row that "
        "stands out does the work for longer while the others wait: it is the slow one.",
        catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL,
    )


def bandwidth() -> Heatmap:
    return _share_by_gpu(
        "Memory bandwidth by GPU",
        "Share of the device memory's peak. Rows that stand out here and are faint in tensor cores are bound "
        "by memory: larger matrices and fused kernels help more than a faster clock.",
        catalog.NVIDIA_GPU_DRAM_ACTIVE_SECONDS_TOTAL,
    )


def _share_by_gpu(title: str, description: str, counter: Metric) -> Heatmap:
    return row_a_gpu(title=title, description=description, unit="percentunit", maximum=1, expr=pace(counter))


def pipes() -> TimeSeries:
    each = of_chosen_runs(rate(catalog.NVIDIA_GPU_PIPE_ACTIVE_SECONDS_TOTAL))
    return TimeSeries(
        title="Other pipes",
        description=(
            "Mean activity of what is no tensor core, by kind of number. In mixed-precision training fp32 "
            "and int stay low, fp64 at 0. fp32 that rises while tensor cores fall is work that left them: "
            "look for casts, or for a layer that autocast leaves out."
        ),
        unit="percentunit",
        decimals=1,
        minimum=0,
        legend_values=("lastNotNull", "mean", "max"),
        no_value="no profiling metrics of this GPU",
        targets=[
            Query(
                expr=f"avg by (pipe) (max by (cluster, uuid, pipe) {each})",
                legend="{{pipe}}",
            )
        ],
    )


def memory_in_use(thresholds: Thresholds) -> TimeSeries:
    return line_a_gpu(
        title="Memory in use",
        description=(
            "Share of each GPU's memory. High and level is healthy, frameworks keep what they once took. "
            "Climbing towards the red line, where the alert GPUMemoryHigh begins to count, ends in an "
            "out-of-memory error: use smaller micro-batches or gradient checkpointing."
        ),
        unit="percentunit",
        decimals=0,
        maximum=1,
        expr=of_chosen_runs(of_recorded(MEMORY_USED_RATIO, OF_GPU)),
        thresholds=limit(thresholds.gpu_memory_ratio),
    )


def power() -> Heatmap:
    return row_a_gpu(
        title="Power by GPU",
        description=(
            "What its board draws; the table of who uses them has it beside its limit. Training at the limit "
            "is normal and shows as sw_power_cap above. A busy GPU that draws a quarter of its limit waits "
            "in a collective; one fainter than its neighbours gets less work or lower clocks."
        ),
        unit="watt",
        maximum=None,
        expr=now(catalog.NVIDIA_GPU_POWER_WATTS),
    )


def energy() -> BarGauge:
    added = f"max by {DEVICE} {of_chosen_runs(counted(catalog.NVIDIA_GPU_ENERGY_JOULES_TOTAL))}"
    return BarGauge(
        title="Energy over the time range",
        description=(
            "What each board took since the beginning of the time range, highest first, of the chosen GPUs "
            "ten at most. A GPU far below its neighbours worked less; one without a run that still takes a "
            "third of theirs is held at high clocks by a forgotten process. The Goodput dashboard has it by "
            "run."
        ),
        unit="kwatth",
        decimals=2,
        minimum=0,
        thresholds=[Threshold(SKY, None)],
        targets=[
            Query(
                expr=f"sort_desc(topk({top.MOST_LINES}, {added})) / {over_range.JOULES_A_KILOWATT_HOUR}",
                legend=GPU,
                instant=True,
            )
        ],
        data_links=[links.to_gpu()],
    )


def chip_temperature() -> TimeSeries:
    slowdown = now(catalog.NVIDIA_GPU_TEMPERATURE_LIMIT_CELSIUS, 'limit="slowdown"')
    shutdown = now(catalog.NVIDIA_GPU_TEMPERATURE_LIMIT_CELSIUS, 'limit="shutdown"')
    return line_a_gpu(
        title="Chip temperature",
        description=(
            "Dashed: the lowest temperatures among the chosen GPUs at which they slow down, and at which "
            "they switch off. All should lie together and 10 °C or more below. One hot among cool ones is "
            "badly seated in its cooler; all rising together is the air that comes in."
        ),
        unit="celsius",
        minimum=None,
        expr=now(catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS, 'sensor="gpu"'),
        limits={"slows down": f"min({slowdown})", "switches off": f"min({shutdown})"},
    )


def memory_temperature() -> TimeSeries:
    return line_a_gpu(
        title="Memory temperature",
        description=(
            "Of the device memory, on GPUs that tell it. It runs some degrees above the chip, and HBM is "
            "held back from about 95 °C on although the chip is cool. One far above its neighbours wears "
            "out: watch its memory errors."
        ),
        unit="celsius",
        minimum=None,
        expr=now(catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS, 'sensor="memory"'),
        no_value="not told by this GPU",
    )


def sm_clock() -> TimeSeries:
    highest = now(catalog.NVIDIA_GPU_CLOCK_MAX_HERTZ, 'domain="sm"')
    return line_a_gpu(
        title="SM clock",
        description=(
            "Dashed: the highest clock the chosen GPUs have. Some way below it under load is normal, for "
            "the power limit lowers it; an idle GPU lowers it, too. One busy GPU below all others makes its "
            "rank a straggler: what holds it down is in the row below."
        ),
        unit="hertz",
        first="lowest",
        expr=now(catalog.NVIDIA_GPU_CLOCK_HERTZ, 'domain="sm"'),
        limits={"highest possible": f"max({highest})"},
    )
