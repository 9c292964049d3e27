"""What goes wrong with GPUs: clocks held down, XID errors, errors of memory and links, MIG instances."""

from __future__ import annotations

from alerts.gpu_health import PCIE_LINK_RATIO
from alerts.thresholds import Thresholds, duration
from dashboards import links
from dashboards.colors import BAD, GREY, ORANGE, SKY, THROTTLING, WARNING
from dashboards.grafana.panels import Query, Text, TimeSeries, colored, colored_names, dashed
from dashboards.grafana.timelines import Heatmap, StateTimeline
from dashboards.queries import order, top
from dashboards.rows.gpu_lines import DEVICE, GPU, line_a_gpu, of_chosen_runs, pace, rate, row_a_gpu
from dashboards.rows.gpu_tables import OF_GPU
from dashboards.variables import of_gpu, of_recorded
from exporters import catalog
from exporters.catalog import Metric

_MOST_ROWS = 16
_LEAST_SHARE = 0.01
_EVENT = "(cluster, instance, gpu, uuid, xid, class)"
_XID_CLASSES = {"hardware": BAD, "application": WARNING, "noise": GREY}
_INSTANCE = "(cluster, instance, gpu, uuid, mig_instance, mig_profile)"
_MIG = "{{mig_profile}} {{mig_instance}} of GPU {{gpu}} on {{instance}}"


def throttling() -> StateTimeline:
    held = of_chosen_runs(rate(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL))
    chosen = top.highest(
        f"max by {DEVICE} (sum by (cluster, instance, job, gpu, uuid) {held})",
        DEVICE,
        _MOST_ROWS,
    )
    # The first that holds counts: they stand in the order of how bad they are.
    worst = " or ".join(
        f"(max by {DEVICE} ({rate(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL, _reason(reason))})"
        f" > {_LEAST_SHARE}) * 0 + {code}"
        for code, reason in enumerate(THROTTLING, start=1)
    )
    return StateTimeline(
        title="What holds the clocks of each GPU down",
        description=(
            f"The worst reason that took {100 * _LEAST_SHARE:g} % of the time or more; no band is full "
            "clocks. sw_power_cap is a GPU at its power limit, normal in training. hw_thermal and sw_thermal "
            "are heat: look at fans, dust and air. hw_power_brake is the node's power supply that cannot "
            f"keep up. It shows the {_MOST_ROWS} GPUs of which most was held down."
        ),
        no_value="no clock was held down",
        value_texts={
            code: Text(reason, color) for code, (reason, color) in enumerate(THROTTLING.items(), start=1)
        },
        targets=[Query(expr=order.by_gpu(f"(({worst}) and on {DEVICE} ({chosen}))"), legend=GPU)],
        data_links=[links.to_gpu()],
    )


def _reason(reason: str) -> str:
    return f'reason="{reason}"'


def throttled_share() -> TimeSeries:
    held = of_chosen_runs(rate(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL))
    return TimeSeries(
        title="Time held down, by reason",
        description=(
            "Mean share of the time of the chosen GPUs; reasons may overlap, so the sum may pass 100 %. "
            "Warm colours are faults to mend, cool ones are limits that somebody set. Much sw_power_cap on "
            "all GPUs alike: the power limit is what bounds the training, and raising it buys speed."
        ),
        unit="percentunit",
        decimals=1,
        minimum=0,
        stacked=True,
        legend_values=("lastNotNull", "mean", "max"),
        legend_highest="mean",
        targets=[
            Query(
                expr=f"avg by (reason) (max by (cluster, uuid, reason) {held})",
                legend="{{reason}}",
            )
        ],
        overrides=colored_names(THROTTLING),
    )


def xid_timeline(thresholds: Thresholds) -> StateTimeline:
    page = thresholds.xid_page_seconds

    def of_class(code: int, name: str) -> str:
        last = of_chosen_runs(of_gpu(catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS, f'class="{name}"'))
        # However far the zoom is out, one step of it sees the error.
        return f"(time() - max by {_EVENT} {last} < {page:g} + $__interval_ms / 1000) * 0 + {code}"

    return StateTimeline(
        title="XID errors",
        description=(
            f"A band begins where the driver reports an error and lasts for {duration(page)} after the last "
            "one, as its alert does. Red is the hardware: move the run away, reset or exchange the GPU. "
            "Orange is the program that ran there: mostly an index outside of a tensor. Grey asks for "
            "nothing."
        ),
        no_value="no XID error in this time",
        value_texts={
            code: Text(name, color) for code, (name, color) in enumerate(_XID_CLASSES.items(), start=1)
        },
        targets=[
            Query(
                expr=" or ".join(of_class(code, name) for code, name in enumerate(_XID_CLASSES, start=1)),
                legend=f"XID {{{{xid}}}}, {GPU}",
            )
        ],
        data_links=[links.to_gpu()],
    )


def memory_errors() -> TimeSeries:
    errors = f"increase({of_gpu(catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL)}[$__rate_interval])"
    return TimeSeries(
        title="Memory errors",
        description=(
            "ECC errors of the chosen GPUs together, between two points of the line. Corrected ones do no "
            "harm, but many of them on one GPU announce a row that fails. An uncorrected one has ended a "
            "process or falsified it: the table above says whose GPU; reset it once its run is away."
        ),
        unit="none",
        minimum=0,
        soft_maximum=1,
        filled=True,
        legend_values=("lastNotNull", "max"),
        targets=[
            Query(
                expr="sum by (severity) (max by (cluster, uuid, severity) "
                f"{of_chosen_runs(f'round({errors})')})",
                legend="{{severity}}",
            )
        ],
        overrides=colored_names({"corrected": SKY, "uncorrected": BAD}),
    )


def pcie_traffic() -> TimeSeries:
    return _traffic(
        "PCIe traffic",
        "Mean of the chosen GPUs. Data between GPU and host: batches in, checkpoints and offloaded state "
        "out. A few GB/s at most in training; near 25 GB/s (generation 4) or 50 GB/s (generation 5) the "
        "link is what bounds the run: look at offloading, and at peer traffic that ought to take NVLink.",
        catalog.NVIDIA_GPU_PCIE_RECEIVE_BYTES_TOTAL,
        catalog.NVIDIA_GPU_PCIE_TRANSMIT_BYTES_TOTAL,
        "not told by these GPUs or this driver",
    )


def nvlink_traffic() -> TimeSeries:
    return _traffic(
        "NVLink traffic",
        "Mean of the chosen GPUs. Data between GPUs of a node, mostly collectives. Both directions are "
        "alike where all goes well. None at all in a run of several ranks on a node means that its traffic "
        "takes PCIe: look at the links' state, and at what NCCL logs of its rings.",
        catalog.NVIDIA_GPU_NVLINK_RECEIVE_BYTES_TOTAL,
        catalog.NVIDIA_GPU_NVLINK_TRANSMIT_BYTES_TOTAL,
        "no NVLinks, or not told",
    )


def _traffic(title: str, description: str, receive: Metric, transmit: Metric, no_value: str) -> TimeSeries:
    return TimeSeries(
        title=title,
        description=description,
        unit="Bps",
        minimum=0,
        no_value=no_value,
        legend_values=("lastNotNull", "mean", "max"),
        targets=[
            Query(expr=f"avg({pace(receive)})", legend="received"),
            Query(expr=f"avg({pace(transmit)})", legend="sent"),
        ],
        overrides=[colored("A", SKY), dashed("B", ORANGE)],
    )


def nvlink_by_gpu() -> Heatmap:
    receive, transmit = (
        pace(counter)
        for counter in (
            catalog.NVIDIA_GPU_NVLINK_RECEIVE_BYTES_TOTAL,
            catalog.NVIDIA_GPU_NVLINK_TRANSMIT_BYTES_TOTAL,
        )
    )
    return row_a_gpu(
        title="NVLink traffic by GPU",
        description=(
            "Both directions together. The GPUs of a run move alike; a row that is faint among its "
            "neighbours is left out of the ring or has lost links, and the collectives of all go at its pace."
        ),
        unit="Bps",
        maximum=None,
        expr=f"{receive} + on {DEVICE} {transmit}",
    )


def pcie_link() -> TimeSeries:
    return line_a_gpu(
        title="PCIe link beside its best",
        description=(
            "Bandwidth of the link as it is, as a share of what GPU and slot could do. An idle GPU lowers "
            "it and raises it again under load. A busy one below 100 % lacks lanes or a generation: reseat "
            "it, look at the firmware's settings for the slot."
        ),
        unit="percentunit",
        decimals=0,
        maximum=1,
        first="lowest",
        expr=of_chosen_runs(of_recorded(PCIE_LINK_RATIO, OF_GPU)),
    )


def mig_memory() -> TimeSeries:
    used, total = catalog.NVIDIA_GPU_MIG_MEMORY_USED_BYTES, catalog.NVIDIA_GPU_MIG_MEMORY_TOTAL_BYTES
    return _line_a_mig_instance(
        "Memory of MIG instances",
        "Share of its own memory that each instance has in use. Full is an out-of-memory error for the rank "
        "on it alone: give it a larger profile, or a smaller micro-batch.",
        f"{_of_instances(of_gpu(used))} / on {_INSTANCE} {_of_instances(of_gpu(total))}",
    )


def mig_activity(title: str, counter: Metric) -> TimeSeries:
    return _line_a_mig_instance(
        f"{title} of MIG instances",
        "Share of the instance's own, not of the whole GPU. Read it as for a whole GPU above; an instance "
        "that stays at 0 is held for nothing.",
        _of_instances(rate(counter)),
    )


def _of_instances(expr: str) -> str:
    """Each MIG instance of the GPUs that are chosen, once."""
    return f"max by {_INSTANCE} {of_chosen_runs(expr)}"


def _line_a_mig_instance(title: str, description: str, expr: str) -> TimeSeries:
    return TimeSeries(
        title=title,
        description=f"{description} Of more than ten instances it shows the ten with the highest means.",
        unit="percentunit",
        decimals=0,
        minimum=0,
        maximum=1,
        legend_values=("lastNotNull", "mean", "max"),
        no_value="no MIG instances",
        targets=[Query(expr=top.highest(expr, _INSTANCE), legend=_MIG)],
        data_links=[links.to_gpu()],
    )
