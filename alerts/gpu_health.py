"""Whether the GPUs can go on working."""

from __future__ import annotations

from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import Thresholds, duration
from exporters import catalog

GPU_MEMORY_HIGH = "GPUMemoryHigh"

MEMORY_USED_RATIO = f"gpu:{catalog.NVIDIA_GPU_MEMORY_USED_BYTES.name.removesuffix('_bytes')}:ratio"


def gpu_health(thresholds: Thresholds) -> Group:
    # Aggregated first, so that two jobs scraping a service under one instance make one alert, not a
    # many-to-many error. Under two instances its GPUs alert twice.
    device = "(cluster, instance, gpu, uuid)"
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
        ),
    )
