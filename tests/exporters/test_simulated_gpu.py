from __future__ import annotations

import itertools

import pytest

from exporters.catalog import CATALOG
from exporters.collector import Histogram, Sample
from exporters.simulated_gpu import SimulatedGpuCollector, simulated_gpu

A_CYCLE = range(1_700_000_000, 1_700_000_240)


def value(samples: list[Sample], name: str) -> float:
    (sample,) = (sample for sample in samples if sample.metric.name == name)
    assert not isinstance(sample.value, Histogram)
    return sample.value


def test_simulated_gpus_give_the_series_of_real_ones() -> None:
    samples = SimulatedGpuCollector(2).collect()

    of_second = {sample.metric.name for sample in samples if sample.labels.get("uuid") == "SIMULATED-1"}
    assert of_second == {metric.name for metric in CATALOG.values() if metric.scope == "gpu"}
    assert value(samples, "nvidia_gpu_devices") == 2


def test_every_simulated_gpu_is_named_as_one() -> None:
    infos = [s.labels for s in SimulatedGpuCollector(3).collect() if s.metric.name == "nvidia_gpu_info"]

    assert [labels["uuid"] for labels in infos] == ["SIMULATED-0", "SIMULATED-1", "SIMULATED-2"]
    assert {labels["name"] for labels in infos} == {"Simulated H100 (no hardware)"}


def test_the_same_moment_gives_the_same_figures() -> None:
    assert (
        SimulatedGpuCollector(2, clock=lambda: 1234.5).collect()
        == SimulatedGpuCollector(2, clock=lambda: 1234.5).collect()
    )


def test_figures_stay_within_what_an_h100_can_show_and_below_the_memory_alert() -> None:
    for index, second in itertools.product(range(8), A_CYCLE):
        gpu = simulated_gpu(index, second)
        assert gpu.utilization_percent is not None
        assert gpu.memory_controller_active_percent is not None
        assert gpu.memory_used_bytes is not None
        assert gpu.memory_total_bytes is not None
        assert 0 <= gpu.memory_controller_active_percent <= gpu.utilization_percent <= 100
        assert 0.5 < gpu.memory_used_bytes / gpu.memory_total_bytes < 0.9


def test_memory_and_its_controller_rise_and_fall_with_utilization() -> None:
    readings = [simulated_gpu(0, second) for second in A_CYCLE]

    def utilization(second: int) -> float:
        return readings[second].utilization_percent or 0.0

    idlest, busiest = (pick(range(len(readings)), key=utilization) for pick in (min, max))
    assert utilization(idlest) < 10
    assert utilization(busiest) > 90
    for field in ("memory_controller_active_percent", "memory_used_bytes"):
        assert getattr(readings[idlest], field) < getattr(readings[busiest], field)


def test_no_simulated_gpus_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="give 1 or more"):
        SimulatedGpuCollector(0)
