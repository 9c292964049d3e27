"""What works inside a GPU, by GPM (GPU performance monitoring, Hopper and later).

NVML gives a mean between two samples. Each round takes one and integrates the mean since the last into
counters of seconds, so that `rate()` is the exact mean over any window, at any scrape interval.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pynvml

from exporters import catalog
from exporters.catalog import Metric
from exporters.collector import Sample
from exporters.gpu.mig import gpu_instances, mig_devices
from exporters.gpu.nvml import Device, GpuLostError, Nvml, Reading, call, code_of

# What NVML wants between two samples.
SHORTEST_WINDOW_SECONDS = 0.1


class _Activity(NamedTuple):
    """A metric, its labels, and the id of nvml.h for the percentage that is integrated."""

    metric: Metric
    labels: Mapping[str, str]
    gpm: int


_GRAPHICS, _SM, _OCCUPANCY, _INT, _TENSOR, _DRAM, _FP64, _FP32, _FP16 = 1, 2, 3, 4, 5, 10, 11, 12, 13
_PCIE_TRANSMIT, _PCIE_RECEIVE = 20, 21  # MiB a second
_ONLY_OF_THE_LAST_WINDOW = (_GRAPHICS, _PCIE_TRANSMIT, _PCIE_RECEIVE)
_OF_A_GPU = (
    _Activity(catalog.NVIDIA_GPU_SM_ACTIVE_SECONDS_TOTAL, {}, _SM),
    _Activity(catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL, {}, _TENSOR),
    _Activity(catalog.NVIDIA_GPU_DRAM_ACTIVE_SECONDS_TOTAL, {}, _DRAM),
    _Activity(catalog.NVIDIA_GPU_SM_OCCUPANCY_SECONDS_TOTAL, {}, _OCCUPANCY),
    *(
        _Activity(catalog.NVIDIA_GPU_PIPE_ACTIVE_SECONDS_TOTAL, {"pipe": pipe}, gpm)
        for pipe, gpm in (("fp64", _FP64), ("fp32", _FP32), ("fp16", _FP16), ("int", _INT))
    ),
)
_OF_A_MIG_INSTANCE = (
    _Activity(catalog.NVIDIA_GPU_MIG_SM_ACTIVE_SECONDS_TOTAL, {}, _SM),
    _Activity(catalog.NVIDIA_GPU_MIG_TENSOR_ACTIVE_SECONDS_TOTAL, {}, _TENSOR),
    _Activity(catalog.NVIDIA_GPU_MIG_DRAM_ACTIVE_SECONDS_TOTAL, {}, _DRAM),
)
# The GPU's uuid, and the number of the GPU instance where MIG divides it.
_Unit = tuple[str, int | None]
_Key = tuple[_Unit, str, str]


class LastWindow(NamedTuple):
    """What GPM said of a GPU's last window: means, 0 to 1, and bytes a second; None is unknown."""

    sm_active: float | None = None
    tensor_active: float | None = None
    dram_active: float | None = None
    graphics_active: float | None = None
    pcie_transmit_bytes_per_second: float | None = None
    pcie_receive_bytes_per_second: float | None = None


class ProfileCollector:
    """Integrates what GPM says of every GPU and MIG instance; `windows` are the last, by uuid."""

    name = "gpu_profile"
    interval_seconds = 5.0
    deadline_seconds = 10.0

    def __init__(self, nvml: Nvml, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.windows: dict[str, LastWindow] = {}
        self._nvml = nvml
        self._monotonic = monotonic
        self._session_number = 0
        self._open: dict[_Unit, _Window] = {}
        self._seconds: dict[_Key, float] = {}

    def collect(self) -> list[Sample]:
        """Raises NvmlUnavailableError when there is no library, no driver, or no access to it."""
        samples: list[Sample] = []
        windows: dict[str, LastWindow] = {}
        seen: set[_Unit] = set()
        with self._nvml.session() as session:
            if session.number != self._session_number:
                # Samples of an ended session are gone with it.
                self._session_number, self._open = session.number, {}
            for device in session.devices():
                try:
                    reading = self._read(device, None, Reading(device), _OF_A_GPU, seen)
                    samples += [*reading.samples, *reading.unsupported()]
                    for instance in gpu_instances(mig_devices(device)):
                        part = Reading(device, **instance.labels)
                        self._read(device, instance.gpu_instance, part, _OF_A_MIG_INSTANCE, seen)
                        samples += [*part.samples, *part.unsupported()]
                except GpuLostError:
                    continue
                windows[device.uuid] = self._open[device.uuid, None].last()
            for gone in self._open.keys() - seen:
                self._open.pop(gone).free()
        self.windows = windows
        return samples

    def close(self) -> None:
        """Nothing to end: the session is the other collectors' too."""

    def _read(
        self,
        device: Device,
        gpu_instance: int | None,
        reading: Reading,
        activities: tuple[_Activity, ...],
        seen: set[_Unit],
    ) -> Reading:
        unit = device.uuid, gpu_instance
        window = self._open.setdefault(unit, _Window(device, gpu_instance, activities))
        seen.add(unit)
        code = window.advance(self._monotonic)
        if code is not None:
            reading.note([each.metric for each in activities], code)
            return reading
        for each in activities:
            key = unit, each.metric.name, each.labels.get("pipe", "")
            if each.gpm in window.codes:
                reading.note(each.metric, window.codes[each.gpm])
                continue
            if each.gpm in window.values:
                added = window.values[each.gpm] / 100 * window.seconds
                self._seconds[key] = self._seconds.get(key, 0.0) + added
            reading.add(each.metric, self._seconds.get(key), **each.labels)
        return reading


class _Window:
    """Two samples of one GPU or instance, taken by turns, and the means between them."""

    def __init__(self, device: Device, gpu_instance: int | None, activities: tuple[_Activity, ...]) -> None:
        self.values: dict[int, float] = {}
        self.codes: dict[int, int] = {}
        self.seconds = 0.0
        self._device = device
        self._gpu_instance = gpu_instance
        self._gpm = [*(each.gpm for each in activities), *_ONLY_OF_THE_LAST_WINDOW]
        self._request: Any = None
        self._samples: list[Any] = []
        self._taken_at: float | None = None

    def advance(self, monotonic: Callable[[], float]) -> int | None:
        """Take a sample, and the means since the last one; NVML's error code where it gives none.

        Raises GpuLostError, and NVMLError when the session is over.
        """
        self.values, self.codes, self.seconds = {}, {}, 0.0
        before = self._taken_at
        if before is not None and monotonic() - before < SHORTEST_WINDOW_SECONDS:
            return None
        self._taken_at = None
        try:
            self._take()
            self._taken_at = monotonic()
            if before is not None:
                self._measure()
                self.seconds = self._taken_at - before
        except pynvml.NVMLError as error:
            self._taken_at = None
            return code_of(error)
        self._samples.reverse()
        return None

    def last(self) -> LastWindow:
        """What the last window came to."""

        def scaled(gpm: int, factor: float) -> float | None:
            return self.values[gpm] * factor if gpm in self.values else None

        return LastWindow(
            *(scaled(gpm, 0.01) for gpm in (_SM, _TENSOR, _DRAM, _GRAPHICS)),
            *(scaled(gpm, 1024**2) for gpm in (_PCIE_TRANSMIT, _PCIE_RECEIVE)),
        )

    def free(self) -> None:
        """Give back the samples of a unit that is gone, in the session they were made in."""
        for sample in self._samples:
            with contextlib.suppress(pynvml.NVMLError):
                call(pynvml.nvmlGpmSampleFree, sample)

    def _take(self) -> None:
        handle = self._device.handle
        if not self._samples:
            support = call(pynvml.nvmlGpmQueryDeviceSupport, handle)
            if not support.isSupportedDevice:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)  # type: ignore[no-untyped-call]
            for _ in range(2):
                self._samples.append(call(pynvml.nvmlGpmSampleAlloc))
            self._request = pynvml.c_nvmlGpmMetricsGet_t()
            self._request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
            self._request.numMetrics = len(self._gpm)
            for index, gpm in enumerate(self._gpm):
                self._request.metrics[index].metricId = gpm
        newer = self._samples[1]
        if self._gpu_instance is None:
            call(pynvml.nvmlGpmSampleGet, handle, newer)
        else:
            call(pynvml.nvmlGpmMigSampleGet, handle, self._gpu_instance, newer)

    def _measure(self) -> None:
        request = self._request
        request.sample1, request.sample2 = self._samples
        call(pynvml.nvmlGpmMetricsGet, request)
        for index, gpm in enumerate(self._gpm):
            answer = request.metrics[index]
            if answer.nvmlReturn != pynvml.NVML_SUCCESS:
                self.codes[gpm] = answer.nvmlReturn
            elif math.isfinite(answer.value):
                most = math.inf if gpm in (_PCIE_TRANSMIT, _PCIE_RECEIVE) else 100.0
                self.values[gpm] = min(most, max(0.0, answer.value))
            else:
                self.codes[gpm] = pynvml.NVML_ERROR_NO_DATA
