"""What a GPU does: whether it answers, its memory, utilization, power, temperature, clocks, bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import pynvml

from exporters import catalog
from exporters.catalog import Metric
from exporters.collector import Sample
from exporters.gpu import last_window
from exporters.gpu.nvml import Device, GpuLostError, Nvml, NvmlCollector, Session, answer
from exporters.gpu.reading import ALL_LINKS, CLOCKS, Reading, Unwrapped, fields

MIG_MODES = {pynvml.NVML_DEVICE_MIG_DISABLE: "disabled", pynvml.NVML_DEVICE_MIG_ENABLE: "enabled"}
_INFO = ("name", "driver_version", "vbios", "pci_bus_id", "serial")
_MEMORY = (
    catalog.NVIDIA_GPU_MEMORY_USED_BYTES,
    catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES,
    catalog.NVIDIA_GPU_MEMORY_RESERVED_BYTES,
)
_UTILIZATION = (
    catalog.NVIDIA_GPU_UTILIZATION_PERCENT,
    catalog.NVIDIA_GPU_MEMORY_CONTROLLER_ACTIVE_PERCENT,
)


class _FieldMetric(NamedTuple):
    """A metric whose value times `factor` is the first of these fields (ids of nvml.h) that a GPU has."""

    metric: Metric
    ids: tuple[int, ...]
    factor: float = 1.0
    labels: Mapping[str, str] = {}
    scope: int = 0


_THERMAL = _FieldMetric(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL, (75,), 1e-9, {"reason": "thermal"})
_THROTTLE = tuple(
    _FieldMetric(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL, (field,), 1e-9, {"reason": reason})
    for reason, field in {
        "sw_power_cap": 74,
        "sync_boost": 76,
        "board_limit": 77,
        "reliability": 79,
        "sw_thermal": 269,
        "hw_thermal": 270,
        "hw_power_brake": 271,
    }.items()
)
_FIELDS = (
    _FieldMetric(catalog.NVIDIA_GPU_POWER_WATTS, (186, 185), 1e-3),
    _FieldMetric(catalog.NVIDIA_GPU_ENERGY_JOULES_TOTAL, (83,), 1e-3),
    _FieldMetric(catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS, (82,), labels={"sensor": "memory"}),
    _FieldMetric(catalog.NVIDIA_GPU_PCIE_TRANSMIT_BYTES_TOTAL, (197,)),
    _FieldMetric(catalog.NVIDIA_GPU_PCIE_RECEIVE_BYTES_TOTAL, (198,)),
    _FieldMetric(catalog.NVIDIA_GPU_PCIE_REPLAYS_TOTAL, (94,)),
    _FieldMetric(catalog.NVIDIA_GPU_NVLINK_TRANSMIT_BYTES_TOTAL, (138,), 1024, scope=ALL_LINKS),
    _FieldMetric(catalog.NVIDIA_GPU_NVLINK_RECEIVE_BYTES_TOTAL, (139,), 1024, scope=ALL_LINKS),
    *_THROTTLE,
)
_WANTED = [(field, each.scope) for each in (*_FIELDS, _THERMAL) for field in each.ids]


class DeviceCollector(NvmlCollector):
    """Reads every GPU of this node; of a GPU that is lost it keeps saying who it was, and that it is down."""

    name = "gpu"
    interval_seconds = 5.0
    deadline_seconds = 10.0

    def __init__(self, nvml: Nvml) -> None:
        super().__init__(nvml)
        self._seen: dict[str, tuple[Device, str | None]] = {}
        self._counters = Unwrapped()
        self._throttle_seconds: dict[tuple[str, str], float] = {}

    def collect(self) -> list[Sample]:
        """Raises NvmlUnavailableError when there is no library, no driver, or no access to it."""
        answering: dict[str, list[Sample]] = {}
        with self._nvml.session() as session:
            for device in session.devices():
                try:
                    samples, mig_mode = self._read(session, device)
                except GpuLostError:
                    continue
                answering[device.uuid] = [*samples, *self._throttled(device, samples)]
                self._seen[device.uuid] = device, mig_mode
            samples = [Sample(catalog.NVIDIA_GPU_DEVICES, {}, float(session.count))]
        for device, mig_mode in sorted(self._seen.values(), key=lambda seen: seen[0].index):
            is_up = device.uuid in answering
            samples.append(_info(device, mig_mode))
            samples.append(Sample(catalog.NVIDIA_GPU_UP, device.labels, float(is_up)))
            samples.extend(answering.get(device.uuid, ()))
        return samples

    def _throttled(self, device: Device, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The reasons for which its clocks were held down since the last round."""
        for sample in samples:
            if sample.metric is catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL:
                assert isinstance(sample.value, float)
                reason = sample.labels["reason"]
                before = self._throttle_seconds.get((device.uuid, reason), sample.value)
                self._throttle_seconds[device.uuid, reason] = sample.value
                if sample.value > before:
                    yield Sample(last_window.THROTTLED, {**device.labels, "reason": reason}, 1.0)

    def _read(self, session: Session, device: Device) -> tuple[list[Sample], str | None]:
        """Its samples, and whether MIG is on; raises GpuLostError."""
        reading, handle = Reading(device), device.handle
        memory = reading.ask(_MEMORY, pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
        if memory is not None:
            reading.add(catalog.NVIDIA_GPU_MEMORY_USED_BYTES, memory.used)
            reading.add(catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES, memory.total)
            reading.add(catalog.NVIDIA_GPU_MEMORY_RESERVED_BYTES, memory.reserved)
        utilization = reading.ask(_UTILIZATION, pynvml.nvmlDeviceGetUtilizationRates, handle)
        if utilization is not None:
            reading.add(catalog.NVIDIA_GPU_UTILIZATION_PERCENT, utilization.gpu)
            reading.add(catalog.NVIDIA_GPU_MEMORY_CONTROLLER_ACTIVE_PERCENT, utilization.memory)
        codes = {reading.missing.get(metric) for metric in (_MEMORY[0], _UTILIZATION[0])}
        if codes == {pynvml.NVML_ERROR_UNKNOWN}:
            # One call may say "unknown error" of itself; a device that says nothing else is gone.
            raise GpuLostError
        reading.take(
            catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS,
            *(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
            labels={"sensor": "gpu"},
        )
        for domain, clock in CLOCKS.items():
            reading.take(
                catalog.NVIDIA_GPU_CLOCK_HERTZ,
                *(pynvml.nvmlDeviceGetClockInfo, handle, clock),
                factor=1e6,
                labels={"domain": domain},
            )
        self._read_fields(session, reading)
        # MIG can be switched on a Hopper GPU while it is in use, so it is read anew each time.
        mig = answer(pynvml.nvmlDeviceGetMigMode, handle)
        return reading.samples(), MIG_MODES.get(mig[0]) if mig else None

    def _read_fields(self, session: Session, reading: Reading) -> None:
        answers = fields(reading.device, _WANTED)
        told_apart = False

        def add(wanted: _FieldMetric) -> bool:
            found = [answers[field, wanted.scope] for field in wanted.ids]
            known = next((each for each in found if each.code == pynvml.NVML_SUCCESS), None)
            if known is None:
                return False
            value = known.value
            if wanted.metric.kind == "counter" and math.isfinite(value):
                key = reading.device.uuid, wanted.metric.name, *wanted.labels.values()
                value = self._counters.take(key, int(value), known.bits, session.number)
            reading.add(wanted.metric, value * wanted.factor, **wanted.labels)
            return True

        for wanted in _FIELDS:
            if add(wanted):
                told_apart |= wanted.labels.get("reason") in ("sw_thermal", "hw_thermal")
            elif wanted.metric is not catalog.NVIDIA_GPU_POWER_WATTS or not _read_power(reading):
                reading.note(wanted.metric, answers[wanted.ids[0], wanted.scope].code)
        if not told_apart:
            add(_THERMAL)


def _read_power(reading: Reading) -> bool:
    """Of a driver that has no field for it; true when it told."""
    milliwatts = answer(pynvml.nvmlDeviceGetPowerUsage, reading.device.handle)
    reading.add(catalog.NVIDIA_GPU_POWER_WATTS, None if milliwatts is None else milliwatts * 1e-3)
    return milliwatts is not None


def _info(device: Device, mig_mode: str | None) -> Sample:
    known = {label: value for label in _INFO if (value := getattr(device, label))}
    if mig_mode is not None:
        known["mig_mode"] = mig_mode
    return Sample(catalog.NVIDIA_GPU_INFO, {**device.labels, **known}, 1.0)
