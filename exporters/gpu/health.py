"""Whether a GPU is sound: memory errors, replaced rows, links, limits, and what the driver asks for.

These change rarely and take many calls, so they are read at a slower pace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

from exporters import catalog
from exporters.catalog import Metric
from exporters.collector import Sample
from exporters.gpu.nvml import Device, EachGpuCollector, call, code_of, raise_if_lost
from exporters.gpu.reading import ALL_LINKS, CLOCKS, Reading, fields

_ECC = {
    "corrected": pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
    "uncorrected": pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
}
_LIMITS = {
    "slowdown": pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN,
    "shutdown": pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN,
}
_LINK_NUMBERS: tuple[tuple[Metric, Callable[..., Any]], ...] = (
    (catalog.NVIDIA_GPU_PCIE_LINK_GENERATION, pynvml.nvmlDeviceGetCurrPcieLinkGeneration),
    (catalog.NVIDIA_GPU_PCIE_LINK_GENERATION_MAX, pynvml.nvmlDeviceGetMaxPcieLinkGeneration),
    (catalog.NVIDIA_GPU_PCIE_LINK_WIDTH, pynvml.nvmlDeviceGetCurrPcieLinkWidth),
    (catalog.NVIDIA_GPU_PCIE_LINK_WIDTH_MAX, pynvml.nvmlDeviceGetMaxPcieLinkWidth),
)
# Metric, labels, field of nvml.h, scope.
_FIELDS: tuple[tuple[Metric, dict[str, str], int, int], ...] = (
    (catalog.NVIDIA_GPU_REMAPPED_ROWS, {"cause": "corrected"}, 142, 0),
    (catalog.NVIDIA_GPU_REMAPPED_ROWS, {"cause": "uncorrected"}, 143, 0),
    (catalog.NVIDIA_GPU_ROW_REMAP_PENDING, {}, 144, 0),
    (catalog.NVIDIA_GPU_ROW_REMAP_FAILED, {}, 145, 0),
    (catalog.NVIDIA_GPU_RECOVERY_ACTION, {}, 230, 0),
    (catalog.NVIDIA_GPU_NVLINK_ERRORS_TOTAL, {"kind": "replay"}, 161, ALL_LINKS),
    (catalog.NVIDIA_GPU_NVLINK_ERRORS_TOTAL, {"kind": "recovery"}, 162, ALL_LINKS),
    (catalog.NVIDIA_GPU_NVLINK_ERRORS_TOTAL, {"kind": "crc"}, 163, ALL_LINKS),
)


class HealthCollector(EachGpuCollector):
    """Reads what changes rarely of every GPU."""

    name = "gpu_health"
    interval_seconds = 30.0
    deadline_seconds = 30.0

    def read(self, device: Device) -> list[Sample]:
        reading = Reading(device)
        _read(reading)
        return reading.samples()


def _read(reading: Reading) -> None:
    handle = reading.device.handle
    for severity, kind in _ECC.items():
        reading.take(
            catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL,
            *(pynvml.nvmlDeviceGetTotalEccErrors, handle, kind, pynvml.NVML_AGGREGATE_ECC),
            labels={"severity": severity},
        )
    for metric, function in _LINK_NUMBERS:
        reading.take(metric, function, handle)
    reading.take(
        catalog.NVIDIA_GPU_POWER_LIMIT_WATTS, pynvml.nvmlDeviceGetEnforcedPowerLimit, handle, factor=1e-3
    )
    for domain, clock in CLOCKS.items():
        reading.take(
            catalog.NVIDIA_GPU_CLOCK_MAX_HERTZ,
            *(pynvml.nvmlDeviceGetMaxClockInfo, handle, clock),
            factor=1e6,
            labels={"domain": domain},
        )
    for limit, threshold in _LIMITS.items():
        reading.take(
            catalog.NVIDIA_GPU_TEMPERATURE_LIMIT_CELSIUS,
            *(pynvml.nvmlDeviceGetTemperatureThreshold, handle, threshold),
            labels={"limit": limit},
        )
    _read_fields(reading)
    _read_nvlinks(reading)


def _read_fields(reading: Reading) -> None:
    answers = fields(reading.device, [(field, scope) for _, _, field, scope in _FIELDS])
    for metric, labels, field, scope in _FIELDS:
        answer = answers[field, scope]
        if answer.code == pynvml.NVML_SUCCESS:
            reading.add(metric, answer.value, **labels)
        else:
            reading.note(metric, answer.code)


def _read_nvlinks(reading: Reading) -> None:
    """Ask link by link until NVML says that there is no such link."""
    states = []
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            states.append(bool(call(pynvml.nvmlDeviceGetNvLinkState, reading.device.handle, link)))
        except pynvml.NVMLError as error:
            code = code_of(error)
            raise_if_lost(code)
            if code == pynvml.NVML_ERROR_INVALID_ARGUMENT or not states:
                break
    if not states:
        known = code != pynvml.NVML_ERROR_INVALID_ARGUMENT
        reading.note(catalog.NVIDIA_GPU_NVLINK_LINKS, code if known else pynvml.NVML_ERROR_NOT_SUPPORTED)
        return
    reading.add(catalog.NVIDIA_GPU_NVLINK_LINKS, sum(states), state="up")
    reading.add(catalog.NVIDIA_GPU_NVLINK_LINKS, len(states) - sum(states), state="down")
