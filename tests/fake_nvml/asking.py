"""Questions to the double by the real pynvml."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pynvml
import pytest

ALL_LINKS = 0xFFFFFFFF
nvml: Any = pynvml


def error_of(call: Callable[..., object], *arguments: object) -> int:
    with pytest.raises(nvml.NVMLError) as raised:
        call(*arguments)
    return int(raised.value.value)


def seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def field(gpu: Any, field_id: int, scope: int = ALL_LINKS) -> Any:
    (value,) = nvml.nvmlDeviceGetFieldValues(gpu, [(field_id, scope)])
    return value


def temperature(gpu: Any) -> int:
    return int(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))
