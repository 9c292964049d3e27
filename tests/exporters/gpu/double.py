"""The C double in the place of NVIDIA's library, within this process, and questions to samples."""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pynvml

from exporters.catalog import CATALOG, Metric
from exporters.collector import Histogram, Sample
from tests import fake_nvml
from tests.fake_nvml import Machine

nvml: Any = pynvml
METRICS_OF_A_GPU = {metric.name for metric in CATALOG.values() if metric.scope == "gpu"}
UUIDS = [f"GPU-5a11ab1e-0000-4000-8000-0000000000{index:02d}" for index in range(64)]
NOT_PRIVILEGED = 4  # NVML_ERROR_NO_PERMISSION
FIRST_PID_NAMESPACE = 0xEFFFFFFC


@contextlib.contextmanager
def machine(library: Path, control: Path) -> Iterator[Machine]:
    """A machine with two GPUs; the library is unloaded afterwards, so that no other test comes upon it."""
    scenario = Machine(control)
    scenario.set("devices", 2)
    before = nvml.nvmlLib, nvml._nvmlGetFunctionPointer_cache, os.environ.get(fake_nvml.CONTROL_VARIABLE)
    os.environ[fake_nvml.CONTROL_VARIABLE] = str(control)
    loaded = ctypes.CDLL(str(library))
    nvml.nvmlLib, nvml._nvmlGetFunctionPointer_cache = loaded, {}
    try:
        yield scenario
    finally:
        loaded.nvml_double_release()
        nvml.nvmlLib, nvml._nvmlGetFunctionPointer_cache = before[:2]
        if before[2] is None:
            del os.environ[fake_nvml.CONTROL_VARIABLE]
        else:
            os.environ[fake_nvml.CONTROL_VARIABLE] = before[2]
        _ctypes.dlclose(loaded._handle)


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
