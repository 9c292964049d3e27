"""Whether the GPUs can go on working: their memory, their XID errors, and whether they answer.

A GPU that falls off the bus says XID 79 and then answers no more: GPUXidHardware pages for it, and holds back
GPULost in Alertmanager. So that one cause stays one page, it goes on for as long as the GPU is lost.
"""

from __future__ import annotations

from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import Thresholds, duration
from exporters import catalog

GPU_MEMORY_HIGH = "GPUMemoryHigh"
GPU_XID_HARDWARE = "GPUXidHardware"
GPU_LOST = "GPULost"

MEMORY_USED_RATIO = f"gpu:{catalog.NVIDIA_GPU_MEMORY_USED_BYTES.name.removesuffix('_bytes')}:ratio"
# How long ago each hardware XID was last seen.
XID_HARDWARE_AGE = "gpu_xid:nvidia_gpu_xid_hardware_age_seconds:min"
UP = f"gpu:{catalog.NVIDIA_GPU_UP}:max"


def gpu_health(thresholds: Thresholds) -> Group:
    # Aggregated first, so that two jobs scraping a service under one instance make one alert, not a
    # many-to-many error. Under two instances its GPUs alert twice.
    device = "(cluster, instance, gpu, uuid)"
    xid_page = duration(thresholds.xid_page_seconds)
    clock = f"{catalog.WALLCLOCK_SECONDS}[{xid_page}]"
    xid_seen = f'{catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS}{{class="hardware"}}[{xid_page}]'
    return Group(
        "gpu_health",
        (
            RecordingRule(
                MEMORY_USED_RATIO,
                f"max by {device} ({catalog.NVIDIA_GPU_MEMORY_USED_BYTES})\n"
                f"  / on {device}\n"
                f"max by {device} ({catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES})",
            ),
            AlertRule(
                GPU_MEMORY_HIGH,
                f"{MEMORY_USED_RATIO} > {thresholds.gpu_memory_ratio}",
                for_seconds=thresholds.gpu_memory_for_seconds,
                keep_firing_for_seconds=thresholds.gpu_memory_keep_firing_seconds,
                severity="warning",
                scope="hardware",
                summary="GPU {{ $labels.gpu }} on {{ $labels.instance }} is almost out of memory.",
                description="{{ $value | humanizePercentage }} of its memory is in use, more than "
                f"{100 * thresholds.gpu_memory_ratio:g}% for {duration(thresholds.gpu_memory_for_seconds)}.",
            ),
            # The timestamp and not the count: a number's series is born at its first event, which
            # `increase()` misses. Both times are of the node's clock, whatever Prometheus's says. A range,
            # because the error may take the node or the service with it before the next scrape.
            RecordingRule(
                XID_HARDWARE_AGE,
                f"max by (cluster, instance) (last_over_time({clock}))\n"
                "  - on (cluster, instance) group_right ()\n"
                f"max by (cluster, instance, gpu, uuid, xid) (last_over_time({xid_seen}))",
            ),
            RecordingRule(UP, f"max by {device} ({catalog.NVIDIA_GPU_UP})"),
            # What fires goes on while the GPU is lost: else GPULost would page for the same fault once this
            # is over. An older XID of a GPU that is lost for another reason does not come back by it.
            AlertRule(
                GPU_XID_HARDWARE,
                f"{XID_HARDWARE_AGE} < {thresholds.xid_page_seconds}\n"
                "  or\n"
                "(\n"
                f"  {XID_HARDWARE_AGE}\n"
                "    and on (cluster, instance, uuid, xid)\n"
                f'  ALERTS{{alertname="{GPU_XID_HARDWARE}", alertstate="firing"}}\n'
                "    and on (cluster, instance, uuid)\n"
                f"  {UP} == 0\n"
                ")",
                severity="critical",
                scope="hardware",
                summary="GPU {{ $labels.gpu }} on {{ $labels.instance }} reported the hardware error "
                "XID {{ $labels.xid }}.",
                description="It was last seen {{ $value | humanizeDuration }} ago. XID errors of this class "
                "mean that the GPU, its memory, its link or its driver is at fault, not the program on it.",
            ),
            AlertRule(
                GPU_LOST,
                f"{UP} == 0",
                for_seconds=thresholds.gpu_lost_for_seconds,
                severity="critical",
                scope="hardware",
                summary="GPU {{ $labels.gpu }} on {{ $labels.instance }} does not answer any more.",
                description="The driver has called it lost, or got no answer from it, for "
                f"{duration(thresholds.gpu_lost_for_seconds)}, and no hardware XID was seen that says why.",
            ),
        ),
    )
