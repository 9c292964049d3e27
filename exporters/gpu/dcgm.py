"""The names and labels of dcgm-exporter beside ours, for dashboards that know no others.

What its default list of fields has and NVML tells without waiting: values in dcgm-exporter's units, derived
from our own samples. Profiling fields are means of the last window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pynvml

from exporters import catalog
from exporters.catalog import Kind, Metric
from exporters.collector import Sample
from exporters.gpu import last_window
from exporters.gpu.node import value_of, without_the_lost
from exporters.gpu.nvml import Device, EachGpuCollector, answer
from exporters.gpu.reading import Reading

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


FB_USED = _field("DCGM_FI_DEV_FB_USED", "gauge", "Device memory in use in MiB.")
GRAPHICS_ACTIVE = _field(
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE", "gauge", "Share of time the graphics engine was active."
)
TENSOR_ACTIVE = _field(
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "gauge", "Share of cycles the tensor cores were active."
)
DRAM_ACTIVE = _field("DCGM_FI_PROF_DRAM_ACTIVE", "gauge", "Share of cycles the memory moved data.")
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
    _Derived(FB_USED, catalog.NVIDIA_GPU_MEMORY_USED_BYTES, 1 / MIB),
    _Derived(GRAPHICS_ACTIVE, last_window.GRAPHICS_ACTIVE),
    _Derived(TENSOR_ACTIVE, last_window.TENSOR_ACTIVE),
    _Derived(DRAM_ACTIVE, last_window.DRAM_ACTIVE),
    _Derived(
        _field("DCGM_FI_PROF_PCIE_TX_BYTES", "gauge", "Bytes a second sent over PCIe."),
        last_window.PCIE_TRANSMIT,
    ),
    _Derived(
        _field("DCGM_FI_PROF_PCIE_RX_BYTES", "gauge", "Bytes a second received over PCIe."),
        last_window.PCIE_RECEIVE,
    ),
    _Derived(
        _field("DCGM_FI_DEV_ENC_UTIL", "gauge", "Utilization of the video encoder in percent."),
        last_window.ENCODER,
    ),
    _Derived(
        _field("DCGM_FI_DEV_DEC_UTIL", "gauge", "Utilization of the video decoder in percent."),
        last_window.DECODER,
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
_OF_MIG = {
    catalog.NVIDIA_GPU_MIG_MEMORY_USED_BYTES: (FB_USED, 1 / MIB),
    last_window.TENSOR_ACTIVE: (TENSOR_ACTIVE, 1.0),
    last_window.DRAM_ACTIVE: (DRAM_ACTIVE, 1.0),
    last_window.GRAPHICS_ACTIVE: (GRAPHICS_ACTIVE, 1.0),
}
_NO_XID = "No Error"


class VideoCollector(EachGpuCollector):
    """Asks what dcgm-exporter has and a training does not need: the use of the video engines."""

    name = "gpu_video"
    interval_seconds = 15.0
    deadline_seconds = 10.0

    def read(self, device: Device) -> list[Sample]:
        """Nothing is said of an engine that the GPU does not have: this is no metric of ours."""
        reading = Reading(device)
        for metric, function in (
            (last_window.ENCODER, pynvml.nvmlDeviceGetEncoderUtilization),
            (last_window.DECODER, pynvml.nvmlDeviceGetDecoderUtilization),
        ):
            percent_and_period = answer(function, device.handle)
            reading.add(metric, percent_and_period[0] if percent_and_period else None)
        return reading.samples()


def dcgm_samples(samples: Iterable[Sample], hostname: str) -> Iterator[Sample]:
    """The series that dcgm-exporter would have of the GPUs in these samples; of a lost one its XID only."""
    samples = without_the_lost(samples)
    of_gpu: dict[str, list[Sample]] = {}
    success: dict[str, bool] = {}
    for sample in samples:
        if "uuid" in sample.labels:
            of_gpu.setdefault(sample.labels["uuid"], []).append(sample)
        elif sample.metric is catalog.COLLECTOR_SUCCESS:
            success[sample.labels["collector"]] = sample.value == 1
    hears_xids = success.get("gpu_xid", success.get("gpu", False))
    for uuid, known in of_gpu.items():
        # Without its identity its series would be others than before.
        info = next((each.labels for each in known if each.metric is catalog.NVIDIA_GPU_INFO), None)
        if info is not None:
            is_up = value_of(known, catalog.NVIDIA_GPU_UP, uuid) == 1
            yield from _of_gpu(known, _labels(info, hostname), hears_xids=hears_xids and is_up)


def _labels(info: Mapping[str, str], hostname: str) -> dict[str, str]:
    return {
        "gpu": info["gpu"],
        "UUID": info["uuid"],
        "pci_bus_id": info.get("pci_bus_id", ""),
        "device": f"nvidia{info['gpu']}",
        "modelName": info.get("name", ""),
        "Hostname": hostname,
        "DCGM_FI_DRIVER_VERSION": info.get("driver_version", ""),
    }


def _of_gpu(samples: Sequence[Sample], labels: dict[str, str], *, hears_xids: bool) -> Iterator[Sample]:
    def value(metric: Metric, more: Mapping[str, str] = {}) -> float | None:
        return value_of(samples, metric, labels["UUID"], **more)

    for each in _DERIVED:
        known = value(each.ours, each.labels)
        if known is not None:
            yield Sample(each.metric, labels, known * each.factor)
    total, reserved, used = (
        value(catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES),
        value(catalog.NVIDIA_GPU_MEMORY_RESERVED_BYTES),
        value(catalog.NVIDIA_GPU_MEMORY_USED_BYTES),
    )
    if total is not None and reserved is not None and used is not None:
        yield Sample(FB_FREE, labels, (total - reserved - used) / MIB)
    sent = value(catalog.NVIDIA_GPU_NVLINK_TRANSMIT_BYTES_TOTAL)
    received = value(catalog.NVIDIA_GPU_NVLINK_RECEIVE_BYTES_TOTAL)
    if sent is not None and received is not None:
        yield Sample(NVLINK_BANDWIDTH, labels, (sent + received) / 1024)
    yield from _last_xid(samples, labels, hears_xids)
    for sample in samples:
        if sample.metric in _OF_MIG and "mig_instance" in sample.labels:
            assert isinstance(sample.value, float)
            metric, factor = _OF_MIG[sample.metric]
            instance = {
                "GPU_I_PROFILE": sample.labels["mig_profile"],
                "GPU_I_ID": sample.labels["mig_instance"],
            }
            yield Sample(metric, {**labels, **instance}, sample.value * factor)


def _last_xid(samples: Sequence[Sample], labels: dict[str, str], hears_xids: bool) -> Iterator[Sample]:
    """The number of the last XID, 0 where none was and one would have been heard."""
    last: dict[str, float] = {}
    for sample in samples:
        if sample.metric is catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS:
            assert isinstance(sample.value, float)
            if sample.labels["xid"].isdecimal():
                last[sample.labels["xid"]] = sample.value
        elif sample.metric is catalog.NVIDIA_GPU_METRIC_UNSUPPORTED:
            hears_xids &= sample.labels["metric"] != catalog.NVIDIA_GPU_XID_ERRORS_TOTAL.name
    newest = max(last, key=lambda xid: last[xid]) if last else "0"
    if last or hears_xids:
        text = f"Xid {newest}" if last else _NO_XID
        yield Sample(XID_ERRORS, {**labels, "err_code": newest, "err_msg": text}, float(newest))
