"""What samples say of GPUs, what the double calls its own, and a clock that a test moves."""

from __future__ import annotations

from collections.abc import Iterable

from exporters.catalog import CATALOG, Metric
from exporters.collector import Histogram, Sample

METRICS_OF_A_GPU = {metric.name for metric in CATALOG.values() if metric.scope == "gpu"}
METRICS_OF_THE_DEVICE = {  # of a healthy one, by the collector `gpu`
    "nvidia_gpu_info",
    "nvidia_gpu_up",
    "nvidia_gpu_utilization_percent",
    "nvidia_gpu_memory_controller_active_percent",
    "nvidia_gpu_memory_used_bytes",
    "nvidia_gpu_memory_total_bytes",
    "nvidia_gpu_memory_reserved_bytes",
    "nvidia_gpu_power_watts",
    "nvidia_gpu_energy_joules_total",
    "nvidia_gpu_temperature_celsius",
    "nvidia_gpu_clock_hertz",
    "nvidia_gpu_throttle_seconds_total",
    "nvidia_gpu_pcie_transmit_bytes_total",
    "nvidia_gpu_pcie_receive_bytes_total",
    "nvidia_gpu_pcie_replays_total",
    "nvidia_gpu_nvlink_transmit_bytes_total",
    "nvidia_gpu_nvlink_receive_bytes_total",
}
UUIDS = [f"GPU-5a11ab1e-0000-4000-8000-0000000000{index:02d}" for index in range(64)]
NOT_PRIVILEGED = 4  # NVML_ERROR_NO_PERMISSION
FIRST_PID_NAMESPACE = 0xEFFFFFFC


class Clock:
    """Seconds that go on when they are told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def values(samples: Iterable[Sample], name: str, label: str = "gpu") -> dict[str, float]:
    """The values of a metric by the value of a label, the GPU's index if no other is named."""
    found: dict[str, float] = {}
    for sample in samples:
        if sample.metric.name == name:
            assert not isinstance(sample.value, Histogram)
            key = sample.labels.get(label, "")
            assert key not in found, f"{name} has several values for {label}={key!r}"
            found[key] = sample.value
    return found


def shown(samples: Iterable[Sample], metric: Metric) -> dict[str, float]:
    """What is only shown of a last window, by the GPU's index."""
    return values([sample for sample in samples if sample.metric is metric], metric.name)


def of_gpu(samples: Iterable[Sample], gpu: str) -> list[Sample]:
    return [sample for sample in samples if sample.labels.get("gpu") == gpu]


def names_of_gpu(samples: Iterable[Sample], gpu: str) -> set[str]:
    """The names of its published metrics."""
    return {sample.metric.name for sample in of_gpu(samples, gpu) if sample.metric.scope != "window"}


def info(samples: Iterable[Sample], gpu: str) -> dict[str, str]:
    (labels,) = (s.labels for s in of_gpu(samples, gpu) if s.metric.name == "nvidia_gpu_info")
    return labels


def unsupported(samples: Iterable[Sample], gpu: str = "0") -> dict[str, str]:
    """The reasons by metric."""
    return {
        sample.labels["metric"]: sample.labels["reason"]
        for sample in of_gpu(samples, gpu)
        if sample.metric.name == "nvidia_gpu_metric_unsupported"
    }
