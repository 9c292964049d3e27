"""What one GPU says in one round: values, fields, counters, and why something is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import pynvml

from exporters import catalog
from exporters.catalog import Metric
from exporters.collector import Sample
from exporters.gpu.nvml import Device, call, code_of, raise_if_lost

# Why a metric is missing, by NVML's code; any other is `failed`.
REASONS = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: "not_supported",
    pynvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED: "not_supported",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "function_not_found",
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: "function_not_found",
    pynvml.NVML_ERROR_NO_PERMISSION: "no_permission",
}
ALL_LINKS = 0xFFFFFFFF
CLOCKS = {"sm": pynvml.NVML_CLOCK_SM, "memory": pynvml.NVML_CLOCK_MEM}  # by our name of the domain


class Reading:
    """What one GPU says in one round: samples, and why others are missing."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.missing: dict[Metric, int] = {}
        self._samples: list[Sample] = []

    def ask(
        self, metrics: Metric | Sequence[Metric], function: Callable[..., Any], *arguments: object
    ) -> Any:
        """The answer, or None with the reason noted for these metrics.

        Raises GpuLostError when the device is gone, and the NVMLError when the session is over.
        """
        try:
            return call(function, *arguments)
        except pynvml.NVMLError as error:
            self.note(metrics, code_of(error))
            return None

    def take(
        self,
        metric: Metric,
        function: Callable[..., Any],
        *arguments: object,
        factor: float = 1.0,
        labels: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """The answer times `factor` as a sample, or the reason why there is none; raises as `ask` does."""
        value = self.ask(metric, function, *arguments)
        self.add(metric, None if value is None else value * factor, **labels)

    def note(self, metrics: Metric | Sequence[Metric], code: int) -> None:
        """Note that these metrics are missing by NVML's error code, which may be that the device is lost."""
        raise_if_lost(code)
        for metric in (metrics,) if isinstance(metrics, Metric) else metrics:
            self.missing.setdefault(metric, code)

    def add(self, metric: Metric, value: float | None, **labels: str) -> None:
        """A sample, of a value that is known; one that is no number is noted as missing."""
        if value is None:
            return
        if math.isfinite(value):
            self._samples.append(Sample(metric, {**self.device.labels, **labels}, float(value)))
        else:
            self.note(metric, pynvml.NVML_ERROR_NO_DATA)

    def samples(self) -> list[Sample]:
        """Those that were added, and one for each metric that is missing."""
        missing = [
            unsupported(self.device, metric, REASONS.get(code, "failed"))
            for metric, code in self.missing.items()
        ]
        return [*self._samples, *missing]


def unsupported(device: Device, metric: Metric, reason: str) -> Sample:
    labels = {**device.labels, "metric": metric.name, "reason": reason}
    return Sample(catalog.NVIDIA_GPU_METRIC_UNSUPPORTED, labels, 1.0)


class Field(NamedTuple):
    """A value of nvmlDeviceGetFieldValues, or NVML's error code for it."""

    value: float
    code: int
    bits: int


def fields(device: Device, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Field]:
    """The fields of these ids and scopes, in one call, each with its own error code.

    Raises GpuLostError, and NVMLError when the session is over.
    """
    try:
        answers = call(pynvml.nvmlDeviceGetFieldValues, device.handle, wanted)
    except pynvml.NVMLError as error:
        code = code_of(error)
        raise_if_lost(code)
        return dict.fromkeys(wanted, Field(0, code, 64))
    found = {}
    for key, answer in zip(wanted, answers, strict=True):
        raise_if_lost(answer.nvmlReturn)
        member, bits = _FIELD_TYPES.get(answer.valueType, ("ullVal", 64))
        code = answer.nvmlReturn
        if code == pynvml.NVML_ERROR_INVALID_ARGUMENT:  # what a driver says of a field it does not know
            code = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
        found[key] = Field(getattr(answer.value, member), code, bits)
    return found


_FIELD_TYPES: Mapping[int, tuple[str, int]] = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: ("dVal", 64),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: ("uiVal", 32),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: ("ulVal", 64),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: ("ullVal", 64),
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: ("sllVal", 64),
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: ("siVal", 32),
}


class Unwrapped:
    """Counters of the driver without their wraps: each starts at what the driver says, and grows with it.

    A fall by more than half of the counter's range is a wrap. Any other fall, or one since the last session,
    is a reset and is passed on: a counter that falls is what Prometheus takes for one.
    """

    def __init__(self) -> None:
        self._last: dict[object, tuple[int, int]] = {}
        self._wrapped: dict[object, int] = {}

    def take(self, key: object, value: int, bits: int, session_number: int) -> int:
        """The value of the counter `key`, of `bits` bits, that stands at `value` now."""
        last, last_session = self._last.get(key, (value, session_number))
        self._last[key] = value, session_number
        if value < last:
            wraps = last - value > 1 << (bits - 1) and session_number == last_session
            self._wrapped[key] = self._wrapped.get(key, 0) + (1 << bits) if wraps else 0
        return self._wrapped.get(key, 0) + value
