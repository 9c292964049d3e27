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
from exporters.gpu import last_window
from exporters.gpu.mig import MigInstance, gpu_instances, mig_devices
from exporters.gpu.nvml import Device, GpuLostError, Nvml, NvmlCollector, call, code_of
from exporters.gpu.reading import Reading

# What NVML wants between two samples.
SHORTEST_WINDOW_SECONDS = 0.1


class _Activity(NamedTuple):
    """A metric, its labels, and the id of nvml.h for the percentage that is integrated."""

    metric: Metric
    labels: Mapping[str, str]
    gpm: int


_GRAPHICS, _SM, _OCCUPANCY, _INT, _TENSOR, _DRAM, _FP64, _FP32, _FP16 = 1, 2, 3, 4, 5, 10, 11, 12, 13
_PCIE_TRANSMIT, _PCIE_RECEIVE = 20, 21  # MiB a second
_SHOWN = (
    (last_window.SM_ACTIVE, _SM, 0.01),
    (last_window.TENSOR_ACTIVE, _TENSOR, 0.01),
    (last_window.DRAM_ACTIVE, _DRAM, 0.01),
    (last_window.GRAPHICS_ACTIVE, _GRAPHICS, 0.01),
    (last_window.PCIE_TRANSMIT, _PCIE_TRANSMIT, 1024**2),
    (last_window.PCIE_RECEIVE, _PCIE_RECEIVE, 1024**2),
)
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


class ProfileCollector(NvmlCollector):
    """Integrates what GPM says of every GPU and MIG instance."""

    name = "gpu_profile"
    interval_seconds = 5.0
    deadline_seconds = 10.0

    def __init__(self, nvml: Nvml, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(nvml)
        self._monotonic = monotonic
        self._session_number = 0
        self._windows: dict[_Unit, _Window] = {}
        self._seconds: dict[_Key, float] = {}

    def collect(self) -> list[Sample]:
        """Raises NvmlUnavailableError when there is no library, no driver, or no access to it."""
        samples: list[Sample] = []
        seen: set[_Unit] = set()
        with self._nvml.session() as session:
            if session.number != self._session_number:
                # Samples of an ended session are gone with it.
                self._session_number, self._windows = session.number, {}
            for device in session.devices():
                with contextlib.suppress(GpuLostError):
                    reading = Reading(device)
                    self._read(reading, None, _OF_A_GPU, seen)
                    for instance in gpu_instances(mig_devices(device)):
                        self._read(reading, instance, _OF_A_MIG_INSTANCE, seen)
                    samples += reading.samples()
            for gone in self._windows.keys() - seen:
                self._windows.pop(gone).free()
        return samples

    def _read(
        self,
        reading: Reading,
        instance: MigInstance | None,
        activities: tuple[_Activity, ...],
        seen: set[_Unit],
    ) -> None:
        device, gpu_instance = reading.device, instance.gpu_instance if instance else None
        of_instance = instance.labels if instance else {}
        unit = device.uuid, gpu_instance
        window = self._windows.setdefault(unit, _Window(device, gpu_instance, activities))
        seen.add(unit)
        code = window.advance(self._monotonic)
        if code is not None:
            reading.note([each.metric for each in activities], code)
            return
        for each in activities:
            key = unit, each.metric.name, each.labels.get("pipe", "")
            if each.gpm in window.codes:
                reading.note(each.metric, window.codes[each.gpm])
                continue
            if each.gpm in window.values:
                added = window.values[each.gpm] / 100 * window.seconds
                self._seconds[key] = self._seconds.get(key, 0.0) + added
            reading.add(each.metric, self._seconds.get(key), **each.labels, **of_instance)
        for metric, gpm, factor in _SHOWN:
            if gpm in window.values:
                reading.add(metric, window.values[gpm] * factor, **of_instance)


class _Window:
    """Two samples of one GPU or instance, taken by turns, and the means between them."""

    def __init__(self, device: Device, gpu_instance: int | None, activities: tuple[_Activity, ...]) -> None:
        self.values: dict[int, float] = {}
        self.codes: dict[int, int] = {}
        self.seconds = 0.0
        self._device = device
        self._gpu_instance = gpu_instance
        self._gpm = list(dict.fromkeys([each.gpm for each in activities] + [gpm for _, gpm, _ in _SHOWN]))
        self._request: Any = None
        self._samples: list[Any] = []
        self._taken_at: float | None = None

    def advance(self, monotonic: Callable[[], float]) -> int | None:
        """Take a sample, and the means since the last one; NVML's error code where it gives none.

        Raises NVMLError when the session is over.
        """
        self.values, self.codes, self.seconds = {}, {}, 0.0
        before = self._taken_at
        if before is not None and monotonic() - before < SHORTEST_WINDOW_SECONDS:
            return None
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
            first = call(pynvml.nvmlGpmSampleAlloc)
            try:
                self._samples = [first, call(pynvml.nvmlGpmSampleAlloc)]
            except pynvml.NVMLError:
                call(pynvml.nvmlGpmSampleFree, first)
                raise
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
