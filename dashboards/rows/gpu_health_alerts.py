"""Whether the GPUs can go on working: the panels of the alerts in alerts/gpu_health.py."""

from __future__ import annotations

from alerts import gpu_health
from alerts.thresholds import Thresholds, duration
from dashboards.grafana.panels import Query, TimeSeries
from dashboards.rows.alert_panels import judged, per_second, percent
from dashboards.variables import of_node, of_recorded
from exporters import catalog
from exporters.catalog import Metric

_DEVICE = "(cluster, instance, gpu, uuid)"
_GPU = "GPU {{gpu}} on {{instance}}"
_RECOVERY = {
    0: "nothing",
    1: "reset the GPU",
    2: "reboot the node",
    3: "end peer-to-peer traffic",
    4: "end all work and reset",
    5: "recover the IMEX domain",
    6: "reset its bus",
    7: "reboot the system",
}


def panels(thresholds: Thresholds) -> dict[str, TimeSeries]:
    """The panel of each alert, by the alert's name."""
    return {
        **_errors(thresholds),
        **_memory(thresholds),
        **_held_down(thresholds),
        **_links(thresholds),
        **_on_the_whole(thresholds),
    }


def _of_gpu(metric: Metric, *matchers: str) -> str:
    return f"max by {_DEVICE} ({of_node(metric, *matchers)})"


def _errors(thresholds: Thresholds) -> dict[str, TimeSeries]:
    page = duration(thresholds.xid_page_seconds)
    by_program = of_recorded(gpu_health.XID_APPLICATION_OF_RUN)
    return {
        gpu_health.GPU_XID_HARDWARE: judged(
            title="Age of the last hardware XID",
            worst="lowest",
            description=(
                "How long ago each GPU last reported each XID error that means a fault of the hardware; "
                f"empty while there was none within {page}. The alert holds below the red line, and while "
                "the GPU is lost. Look the number up in its runbook: most ask for a reset or an exchange of "
                "the GPU, so move its runs away."
            ),
            unit="s",
            shown=[
                Query(
                    expr=of_recorded(gpu_health.XID_HARDWARE_AGE),
                    legend=f"XID {{{{xid}}}} of {_GPU}",
                )
            ],
            limit_at=thresholds.xid_page_seconds,
        ),
        gpu_health.GPU_LOST: judged(
            title="Whether each GPU answers",
            worst="lowest",
            description=(
                "1 while the driver gets an answer from the GPU, 0 once it has called it lost. A GPU that is "
                "lost does not come back by itself: drain the node, reset the GPU or reboot the node, and "
                "have it checked when that happens again."
            ),
            unit="none",
            maximum=1,
            shown=[Query(expr=of_recorded(gpu_health.UP), legend=_GPU)],
            value_texts={0: "lost", 1: "answers"},
        ),
        gpu_health.GPU_XID_APPLICATION: judged(
            title="Age of the last XID that a run's program caused",
            worst="lowest",
            description=(
                "How long ago a GPU reported an XID error that means a fault of the program on it, by the "
                f"runs that were on it then; empty while there was none within {page}. The alert holds below "
                "the red line. It mostly ends the process: look at its last lines, run it with "
                "CUDA_LAUNCH_BLOCKING=1, and suspect indices outside of a tensor first."
            ),
            unit="s",
            shown=[
                Query(
                    expr="time() - max by (cluster, run, instance, gpu, uuid) "
                    f"(last_over_time({by_program}[{page}]))",
                    legend=f"{{{{run}}}} on {_GPU}",
                )
            ],
            limit_at=thresholds.xid_page_seconds,
        ),
    }


def _memory(thresholds: Thresholds) -> dict[str, TimeSeries]:
    # As the alert has it.
    ecc_page = duration(thresholds.xid_page_seconds * 2 / 3)
    uncorrected = of_node(catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL, 'severity="uncorrected"')
    return {
        gpu_health.GPU_MEMORY_HIGH: judged(
            title="Device memory in use",
            description=(
                "Of each GPU, as a share of what it has. Frameworks keep what they once took, so high and "
                "level can be healthy; a line that still climbs above the red one ends in an out-of-memory "
                "error. Use smaller micro-batches with more accumulation, or see who else is on the GPU."
            ),
            unit="percentunit",
            maximum=1,
            shown=[Query(expr=of_recorded(gpu_health.MEMORY_USED_RATIO), legend=_GPU)],
            limit_at=thresholds.gpu_memory_ratio,
        ),
        gpu_health.GPU_ECC_UNCORRECTABLE: judged(
            title=f"Uncorrectable memory errors within {ecc_page}",
            description=(
                "Of each GPU's memory. Any pages: values were lost, and the process they belonged to dies or "
                "computes with wrong ones. Go back to a checkpoint before it, reset the GPU so that it "
                "replaces the row, and have it exchanged when errors come back."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"max by {_DEVICE} (round(increase({uncorrected}[{ecc_page}])))",
                    legend=_GPU,
                )
            ],
        ),
        gpu_health.GPU_ROW_REMAP_PENDING: judged(
            title="Whether a row of GPU memory waits to be replaced",
            description=(
                "1 while a row with errors waits for its spare one, which it gets at the next reset. The GPU "
                "works on without that memory: let its run end, then reset it. A GPU that waits again and "
                "again wears out."
            ),
            unit="none",
            maximum=1,
            shown=[Query(expr=_of_gpu(catalog.NVIDIA_GPU_ROW_REMAP_PENDING), legend=_GPU)],
            value_texts={0: "none", 1: "waits for a reset"},
        ),
        gpu_health.GPU_ROW_REMAP_FAILURE: judged(
            title="Whether a row of GPU memory could not be replaced",
            description=(
                "1 once the GPU has no spare row left where it needs one, which stays so: the next error "
                "there ends a process again. Let its run end, take the GPU out of service and have its board "
                "exchanged."
            ),
            unit="none",
            maximum=1,
            shown=[Query(expr=_of_gpu(catalog.NVIDIA_GPU_ROW_REMAP_FAILED), legend=_GPU)],
            value_texts={0: "none", 1: "exchange it"},
        ),
    }


def _held_down(thresholds: Thresholds) -> dict[str, TimeSeries]:
    window = duration(thresholds.gpu_rate_seconds)

    # The highest of several reasons, for they overlap.
    def share(reasons: str) -> str:
        held = of_node(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL, f'reason=~"{reasons}"')
        return f"max by {_DEVICE} ({per_second(held, thresholds.gpu_rate_seconds)})"

    return {
        gpu_health.GPU_THERMAL_THROTTLE: judged(
            title=f"Share of time in which heat holds clocks down, over {window}",
            description=(
                "Of each GPU. It should be 0; above the red line the GPU is slower than the others, and all "
                "ranks wait for the slowest. Look at its fans, the dust before them and the air that comes "
                "in; a single hot GPU among cool ones is mostly badly seated in its cooler."
            ),
            unit="percentunit",
            shown=[Query(expr=share("hw_thermal|sw_thermal|thermal"), legend=_GPU)],
            limit_at=thresholds.gpu_thermal_ratio,
        ),
        gpu_health.GPU_POWER_BRAKE: judged(
            title=f"Share of time in which the power brake holds clocks down, over {window}",
            description=(
                "Of each GPU. It should be 0: the node or the rack pulls the brake when it cannot deliver "
                "what its GPUs draw. Above the red line look at the node's power supplies and their feeds, "
                "or lower the GPUs' power limits until they are mended."
            ),
            unit="percentunit",
            shown=[Query(expr=share("hw_power_brake"), legend=_GPU)],
            limit_at=thresholds.gpu_power_brake_ratio,
        ),
    }


def _links(thresholds: Thresholds) -> dict[str, TimeSeries]:
    window = duration(thresholds.gpu_rate_seconds)
    replay_window = duration(thresholds.gpu_pcie_replay_seconds)
    remembered = duration(thresholds.gpu_remembered_seconds)
    links_up = of_node(catalog.NVIDIA_GPU_NVLINK_LINKS, 'state="up"')
    replays = of_node(catalog.NVIDIA_GPU_PCIE_REPLAYS_TOTAL)
    utilization = of_node(catalog.NVIDIA_GPU_UTILIZATION_PERCENT)
    return {
        gpu_health.GPU_PCIE_REPLAY: judged(
            title=f"PCIe packets sent again within {replay_window}",
            description=(
                "Of each GPU. A few now and then are no harm; above the red line its link is bad. Reseat the "
                "GPU, then its riser or cable, and compare with its neighbours: one GPU alone is its own, "
                "several are the board's or the switch's."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"max by {_DEVICE} (round(increase({replays}[{replay_window}])))",
                    legend=_GPU,
                )
            ],
            limit_at=thresholds.gpu_pcie_replays,
        ),
        gpu_health.GPU_PCIE_LINK_DEGRADED: judged(
            title=f"Bandwidth of the PCIe link and work of the GPU, over {window}",
            worst="lowest",
            description=(
                "The best of the bandwidth that GPU and slot have in common, and for how much of the time "
                "the GPU worked: an idle one lowers its link. A link below the red line, of a GPU that works "
                f"for more than {percent(thresholds.gpu_link_busy_ratio)} of the time, lacks lanes or a "
                "generation: reseat it, and look at what the firmware has set for the slot."
            ),
            unit="percentunit",
            maximum=1,
            shown=[
                Query(
                    expr=f"max_over_time({of_recorded(gpu_health.PCIE_LINK_RATIO)}[{window}])",
                    legend=f"Link of {_GPU}",
                ),
                Query(
                    expr=f"max by {_DEVICE} (avg_over_time({utilization}[{window}])) / 100",
                    legend=f"Work of {_GPU}",
                ),
            ],
            limit_at=1,
        ),
        gpu_health.GPU_NVLINK_DOWN: judged(
            title="NVLinks that are up",
            worst="lowest",
            description=(
                f"Solid: of each GPU now. Dashed: the most that were up within {remembered}. The two should "
                "lie on each other: below the dashes links are lost, and collectives fail, hang or crawl. "
                "Restart the fabric manager and reset the GPUs of the node; links that stay down are a "
                "matter for the vendor."
            ),
            unit="none",
            shown=[Query(expr=f"max by {_DEVICE} ({links_up})", legend=_GPU)],
            moving_limit=Query(
                expr=f"max by {_DEVICE} (max_over_time({links_up}[{remembered}]))",
                legend=f"{_GPU} before",
            ),
        ),
    }


def _on_the_whole(thresholds: Thresholds) -> dict[str, TimeSeries]:
    remembered = duration(thresholds.gpu_remembered_seconds)
    devices = of_node(catalog.NVIDIA_GPU_DEVICES)
    metrics = "|".join(metric.name for metric in gpu_health.ALERTED_METRICS)
    unsupported = of_node(
        catalog.NVIDIA_GPU_METRIC_UNSUPPORTED,
        f'metric=~"{metrics}"',
        'reason=~"no_permission|function_not_found"',
    )
    return {
        gpu_health.GPU_COUNT_CHANGED: judged(
            title="GPUs that the driver reports",
            worst="lowest",
            description=(
                f"Solid: on each instance now. Dashed: the most within {remembered}. Below the dashes GPUs "
                "did not come back after a boot or a restart, or were taken out on purpose. Look at the "
                "kernel's log for what the driver says of them, and at whether the bus still lists them."
            ),
            unit="none",
            shown=[Query(expr=f"max by (cluster, instance) ({devices})", legend="{{instance}}")],
            moving_limit=Query(
                expr=f"max by (cluster, instance) (max_over_time({devices}[{remembered}]))",
                legend="{{instance}} before",
            ),
        ),
        gpu_health.GPU_RECOVERY_ACTION_NEEDED: judged(
            title="What the driver asks for, to recover a GPU",
            description=(
                "Of each GPU; 0 is nothing. Anything else is what has to be done before the GPU works again "
                "with all it has: a reset, an end of its work, a reboot of its node. Drain it first; the "
                "error that led to it is mostly told beside it."
            ),
            unit="none",
            shown=[Query(expr=_of_gpu(catalog.NVIDIA_GPU_RECOVERY_ACTION), legend=_GPU)],
            value_texts=_RECOVERY,
        ),
        gpu_health.GPU_METRIC_UNSUPPORTED: judged(
            title="GPUs that withhold a metric on which alerts rest",
            description=(
                "How many GPUs of an instance withhold it, and why: the service lacks a permission, or the "
                "driver is too old to know it. Empty is healthy; otherwise the alerts that read the metric "
                "are blind there. Give the service the permission, or update the driver."
            ),
            unit="none",
            shown=[
                Query(
                    expr="count by (cluster, instance, metric, reason) "
                    f"(max by (cluster, instance, gpu, uuid, metric, reason) ({unsupported}))",
                    legend="{{metric}} on {{instance}}: {{reason}}",
                )
            ],
        ),
    }
