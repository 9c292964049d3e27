"""The names and labels of dcgm-exporter beside ours, for dashboards that know no others.

What its default list of fields has and NVML tells without waiting: values in dcgm-exporter's units, derived
from our own samples. Profiling fields are means of the last window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pynvml

from exporters import catalog
from exporters.catalog import Kind, Metric
from exporters.collector import Sample
from exporters.gpu.nvml import GpuLostError, Nvml, Reading
from exporters.gpu.profile import LastWindow

LABELS = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION")
MIB = 1024**2


def _field(name: str, kind: Kind, help: str) -> Metric:
    return Metric(name, kind, help, LABELS, "gpu")


class _Derived(NamedTuple):
    """A field of DCGM as one of our samples times a factor."""

    metric: Metric
    ours: Metric
    factor: float = 1.0
    labels: Mapping[str, str] = {}


_DERIVED = (
    _Derived(
        _field("DCGM_FI_DEV_SM_CLOCK", "gauge", "Clock of the SMs in MHz."),
        *(catalog.NVIDIA_GPU_CLOCK_HERTZ, 1e-6, {"domain": "sm"}),
    ),
    _Derived(
        _field("DCGM_FI_DEV_MEM_CLOCK", "gauge", "Clock of the memory in MHz."),
        *(catalog.NVIDIA_GPU_CLOCK_HERTZ, 1e-6, {"domain": "memory"}),
    ),
    _Derived(
        _field("DCGM_FI_DEV_MEMORY_TEMP", "gauge", "Temperature of the memory in degrees Celsius."),
        *(catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS, 1, {"sensor": "memory"}),
    ),
    _Derived(
        _field("DCGM_FI_DEV_GPU_TEMP", "gauge", "Temperature of the chip in degrees Celsius."),
        *(catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS, 1, {"sensor": "gpu"}),
    ),
    _Derived(
        _field("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power drawn in watts."),
        catalog.NVIDIA_GPU_POWER_WATTS,
    ),
    _Derived(
        _field("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "counter", "Energy since the driver's load in mJ."),
        *(catalog.NVIDIA_GPU_ENERGY_JOULES_TOTAL, 1e3),
    ),
    _Derived(
        _field("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "counter", "PCIe packets sent again."),
        catalog.NVIDIA_GPU_PCIE_REPLAYS_TOTAL,
    ),
    _Derived(
        _field("DCGM_FI_DEV_GPU_UTIL", "gauge", "Utilization of the GPU in percent."),
        catalog.NVIDIA_GPU_UTILIZATION_PERCENT,
    ),
    _Derived(
        _field("DCGM_FI_DEV_MEM_COPY_UTIL", "gauge", "Utilization of the memory controller in percent."),
        catalog.NVIDIA_GPU_MEMORY_CONTROLLER_ACTIVE_PERCENT,
    ),
    _Derived(
        _field("DCGM_FI_DEV_FB_USED", "gauge", "Device memory in use in MiB."),
        *(catalog.NVIDIA_GPU_MEMORY_USED_BYTES, 1 / MIB),
    ),
    _Derived(
        _field("DCGM_FI_DEV_FB_RESERVED", "gauge", "Device memory the driver keeps in MiB."),
        *(catalog.NVIDIA_GPU_MEMORY_RESERVED_BYTES, 1 / MIB),
    ),
    _Derived(
        _field("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "counter", "Rows replaced, uncorrectable errors."),
        *(catalog.NVIDIA_GPU_REMAPPED_ROWS, 1, {"cause": "uncorrected"}),
    ),
    _Derived(
        _field("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "counter", "Rows replaced, correctable errors."),
        *(catalog.NVIDIA_GPU_REMAPPED_ROWS, 1, {"cause": "corrected"}),
    ),
    _Derived(
        _field("DCGM_FI_DEV_ROW_REMAP_FAILURE", "gauge", "1 when a row could not be replaced."),
        catalog.NVIDIA_GPU_ROW_REMAP_FAILED,
    ),
)
FB_FREE = _field("DCGM_FI_DEV_FB_FREE", "gauge", "Device memory that is free in MiB.")
XID_ERRORS = _field("DCGM_FI_DEV_XID_ERRORS", "gauge", "Number of the last XID error, 0 before the first.")
NVLINK_BANDWIDTH = _field(
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "counter", "Data over all NVLinks, both directions, in KiB."
)
ENCODER = _field("DCGM_FI_DEV_ENC_UTIL", "gauge", "Utilization of the video encoder in percent.")
DECODER = _field("DCGM_FI_DEV_DEC_UTIL", "gauge", "Utilization of the video decoder in percent.")
_OF_THE_LAST_WINDOW: tuple[tuple[Metric, Callable[[LastWindow], float | None]], ...] = (
    (
        _field("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "gauge", "Share of time the graphics engine was active."),
        lambda window: window.graphics_active,
    ),
    (
        _field("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "gauge", "Share of cycles the tensor cores were active."),
        lambda window: window.tensor_active,
    ),
    (
        _field("DCGM_FI_PROF_DRAM_ACTIVE", "gauge", "Share of cycles the memory moved data."),
        lambda window: window.dram_active,
    ),
    (
        _field("DCGM_FI_PROF_PCIE_TX_BYTES", "gauge", "Bytes a second sent over PCIe."),
        lambda window: window.pcie_transmit_bytes_per_second,
    ),
    (
        _field("DCGM_FI_PROF_PCIE_RX_BYTES", "gauge", "Bytes a second received over PCIe."),
        lambda window: window.pcie_receive_bytes_per_second,
    ),
)


class VideoCollector:
    """Asks what dcgm-exporter has and a training does not need: the use of the video engines."""

    name = "gpu_video"
    interval_seconds = 15.0
    deadline_seconds = 10.0

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml

    def collect(self) -> list[Sample]:
        """Samples with our own labels. Raises NvmlUnavailableError when NVML gives nothing."""
        samples: list[Sample] = []
        with self._nvml.session() as session:
            for device in session.devices():
                reading = Reading(device)
                try:
                    for metric, function in (
                        (ENCODER, pynvml.nvmlDeviceGetEncoderUtilization),
                        (DECODER, pynvml.nvmlDeviceGetDecoderUtilization),
                    ):
                        answer = reading.ask((), function, device.handle)
                        reading.add(metric, answer[0] if answer else None)
                except GpuLostError:
                    continue
                samples += reading.samples
        return samples

    def close(self) -> None:
        """Nothing to end: the session is the other collectors' too."""


def dcgm_samples(
    samples: Iterable[Sample], windows: Mapping[str, LastWindow], hostname: str
) -> Iterator[Sample]:
    """Ours, those of the video engines excepted, and dcgm-exporter's of the same GPUs."""
    of_gpu: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.metric in (ENCODER, DECODER):
            of_gpu.setdefault(sample.labels["uuid"], []).append(sample)
            continue
        yield sample
        if sample.metric.scope == "gpu":
            of_gpu.setdefault(sample.labels["uuid"], []).append(sample)
    for uuid, known in of_gpu.items():
        yield from _of_gpu(known, windows.get(uuid, LastWindow()), hostname)


def _of_gpu(samples: Sequence[Sample], window: LastWindow, hostname: str) -> Iterator[Sample]:
    info = next((each.labels for each in samples if each.metric is catalog.NVIDIA_GPU_INFO), {})
    is_up = _value(samples, catalog.NVIDIA_GPU_UP) == 1
    index = samples[0].labels["gpu"]
    labels = {
        "gpu": index,
        "UUID": samples[0].labels["uuid"],
        "pci_bus_id": info.get("pci_bus_id", ""),
        "device": f"nvidia{index}",
        "modelName": info.get("name", ""),
        "Hostname": hostname,
        "DCGM_FI_DRIVER_VERSION": info.get("driver_version", ""),
    }
    for each in _DERIVED:
        value = _value(samples, each.ours, each.labels)
        if value is not None:
            yield Sample(each.metric, labels, value * each.factor)
    total, reserved, used = (
        _value(samples, metric)
        for metric in (
            catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES,
            catalog.NVIDIA_GPU_MEMORY_RESERVED_BYTES,
            catalog.NVIDIA_GPU_MEMORY_USED_BYTES,
        )
    )
    if total is not None and reserved is not None and used is not None:
        yield Sample(FB_FREE, labels, (total - reserved - used) / MIB)
    sent = _value(samples, catalog.NVIDIA_GPU_NVLINK_TRANSMIT_BYTES_TOTAL)
    received = _value(samples, catalog.NVIDIA_GPU_NVLINK_RECEIVE_BYTES_TOTAL)
    if sent is not None and received is not None:
        yield Sample(NVLINK_BANDWIDTH, labels, (sent + received) / 1024)
    last = {
        each.labels["xid"]: each.value
        for each in samples
        if each.metric is catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS and isinstance(each.value, float)
    }
    newest = max(last, key=lambda xid: last[xid]) if last else "0"
    if newest.isdecimal():
        yield Sample(XID_ERRORS, labels, float(newest))
    for metric in (ENCODER, DECODER):
        value = _value(samples, metric)
        if value is not None:
            yield Sample(metric, labels, value)
    for metric, of_window in _OF_THE_LAST_WINDOW if is_up else ():
        value = of_window(window)
        if value is not None:
            yield Sample(metric, labels, value)


def _value(samples: Iterable[Sample], metric: Metric, labels: Mapping[str, str] = {}) -> float | None:
    for sample in samples:
        if sample.metric is metric and labels.items() <= sample.labels.items():
            return sample.value if isinstance(sample.value, float) else None
    return None
