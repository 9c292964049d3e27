"""The double's GPM samples, and what a session leaves behind."""

from __future__ import annotations

from typing import Any

from tests.fake_nvml import Calls, Machine
from tests.fake_nvml.asking import error_of, nvml, temperature


def sample_of(gpu: Any, gpu_instance: int | None = None) -> Any:
    sample = nvml.nvmlGpmSampleAlloc()
    if gpu_instance is None:
        return nvml.nvmlGpmSampleGet(gpu, sample)
    return nvml.nvmlGpmMigSampleGet(gpu, gpu_instance, sample)


def metrics(first: Any, second: Any, *ids: int) -> list[tuple[int, float]]:
    """Of each metric its nvmlReturn and value."""
    get = nvml.c_nvmlGpmMetricsGet_t()
    get.version, get.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, len(ids)
    get.sample1, get.sample2 = first, second
    for index, metric_id in enumerate(ids):
        get.metrics[index].metricId = metric_id
    nvml.nvmlGpmMetricsGet(get)
    return [(metric.nvmlReturn, metric.value) for metric in get.metrics[: len(ids)]]


def test_metrics_between_two_samples_of_a_gpu(machine: Machine, gpu: Any) -> None:
    machine.update({"gpu0.gpm.2": 87.5, "gpm.10.error": 3})
    assert nvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice == 1

    assert metrics(sample_of(gpu), sample_of(gpu), 2, 5, 10, 400) == [(0, 87.5), (0, 18.5), (3, 0), (3, 0)]


def test_samples_must_be_filled_and_of_one_gpu(machine: Machine, gpu: Any) -> None:
    other = sample_of(nvml.nvmlDeviceGetHandleByIndex(1))
    empty = nvml.nvmlGpmSampleAlloc()

    for wrong in (other, empty):
        assert error_of(metrics, sample_of(gpu), wrong, 2) == nvml.NVML_ERROR_INVALID_ARGUMENT


def test_an_instance_has_metrics_of_its_own(machine: Machine, gpu: Any) -> None:
    machine.update({"gpu0.mig_mode": 1, "gpu0.mig.0": "3 0 1g.10gb 9856 0", "gpu0.mig.3.gpm.2": 99})

    assert metrics(sample_of(gpu, 3), sample_of(gpu, 3), 2, 5) == [(0, 99), (0, 18.5)]
    assert metrics(sample_of(gpu), sample_of(gpu), 2) == [(0, 35.5)]
    assert error_of(sample_of, gpu, 4) == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert error_of(metrics, sample_of(gpu), sample_of(gpu, 3), 2) == nvml.NVML_ERROR_INVALID_ARGUMENT


def test_a_gpu_without_gpm_says_so(machine: Machine, gpu: Any) -> None:
    machine.set("gpm_supported", 0)

    assert nvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice == 0
    assert error_of(sample_of, gpu) == nvml.NVML_ERROR_NOT_SUPPORTED


def test_samples_not_freed_are_counted(machine: Machine, gpu: Any, calls: Calls) -> None:
    first, second = sample_of(gpu), sample_of(gpu)
    assert calls.live_samples() == 2

    nvml.nvmlGpmSampleFree(first)
    assert error_of(nvml.nvmlGpmSampleFree, first) == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert calls.live_samples() == 1
    nvml.nvmlGpmSampleFree(second)
    assert calls.live_samples() == 0
    assert not any(name.startswith("nvml_double") for name in calls.counts())


def test_what_a_session_leaves_behind_is_refused_by_the_next_and_can_be_freed(
    machine: Machine, gpu: Any, calls: Calls
) -> None:
    sample, freed_later = sample_of(gpu), sample_of(gpu)
    events = nvml.nvmlEventSetCreate()
    nvml.nvmlShutdown()

    assert error_of(metrics, sample, sample, 2) == nvml.NVML_ERROR_UNINITIALIZED
    assert error_of(nvml.nvmlEventSetWait, events, 1) == nvml.NVML_ERROR_UNINITIALIZED
    assert error_of(nvml.nvmlGpmSampleFree, sample) == nvml.NVML_ERROR_UNINITIALIZED
    nvml.nvmlInit()
    new = nvml.nvmlDeviceGetHandleByIndex(0)
    assert error_of(nvml.nvmlGpmSampleGet, new, freed_later) == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert error_of(nvml.nvmlEventSetWait, events, 1) == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert error_of(temperature, gpu) == nvml.NVML_ERROR_INVALID_ARGUMENT
    nvml.nvmlGpmSampleFree(freed_later)
    nvml.nvmlEventSetFree(events)
    assert (calls.live_samples(), calls.live_event_sets()) == (0, 0)
