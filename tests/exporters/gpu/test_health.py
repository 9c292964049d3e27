"""What changes rarely: errors, rows, links, limits."""

from __future__ import annotations

import pytest

from exporters.gpu.health import HealthCollector
from exporters.gpu.nvml import Nvml
from tests.exporters.gpu.double import names_of_gpu, of_gpu, unsupported, values
from tests.fake_nvml import Machine

METRICS = {
    "nvidia_gpu_ecc_errors_total",
    "nvidia_gpu_remapped_rows",
    "nvidia_gpu_row_remap_pending",
    "nvidia_gpu_row_remap_failed",
    "nvidia_gpu_recovery_action",
    "nvidia_gpu_power_limit_watts",
    "nvidia_gpu_clock_max_hertz",
    "nvidia_gpu_temperature_limit_celsius",
    "nvidia_gpu_pcie_link_generation",
    "nvidia_gpu_pcie_link_generation_max",
    "nvidia_gpu_pcie_link_width",
    "nvidia_gpu_pcie_link_width_max",
    "nvidia_gpu_nvlink_errors_total",
    "nvidia_gpu_nvlink_links",
}


@pytest.fixture
def collector(nvml: Nvml) -> HealthCollector:
    return HealthCollector(nvml)


def test_a_worn_gpu_is_told_apart_from_a_sound_one(machine: Machine, collector: HealthCollector) -> None:
    machine.update(
        {
            "gpu1.ecc_aggregate_corrected": 1234,
            "gpu1.ecc_aggregate_uncorrected": 7,
            "gpu1.remapped_correctable": 3,
            "gpu1.remapped_uncorrectable": 2,
            "gpu1.remapped_pending": 1,
            "gpu1.remapped_failure": 1,
            "gpu1.recovery_action": 2,
            "gpu1.power_limit_mw": 500_000,
            "gpu1.pcie_generation": 3,
            "gpu1.pcie_width": 8,
            "gpu1.nvlink.4.state": 0,
            "gpu1.nvlink.17.state": 0,
            "gpu1.field.161": 11,
        }
    )

    samples = collector.collect()

    assert names_of_gpu(samples, "0") == names_of_gpu(samples, "1") == METRICS
    worn = of_gpu(samples, "1")
    assert values(worn, "nvidia_gpu_ecc_errors_total", "severity") == {"corrected": 1234, "uncorrected": 7}
    assert values(worn, "nvidia_gpu_remapped_rows", "cause") == {"corrected": 3, "uncorrected": 2}
    assert values(samples, "nvidia_gpu_row_remap_pending") == {"0": 0, "1": 1}
    assert values(samples, "nvidia_gpu_row_remap_failed") == {"0": 0, "1": 1}
    assert values(samples, "nvidia_gpu_recovery_action") == {"0": 0, "1": 2}
    assert values(samples, "nvidia_gpu_power_limit_watts") == {"0": 700, "1": 500}
    assert values(samples, "nvidia_gpu_pcie_link_generation") == {"0": 5, "1": 3}
    assert values(samples, "nvidia_gpu_pcie_link_generation_max") == {"0": 5, "1": 5}
    assert values(samples, "nvidia_gpu_pcie_link_width") == {"0": 16, "1": 8}
    assert values(samples, "nvidia_gpu_pcie_link_width_max") == {"0": 16, "1": 16}
    assert values(worn, "nvidia_gpu_nvlink_links", "state") == {"up": 16, "down": 2}
    assert values(worn, "nvidia_gpu_nvlink_errors_total", "kind") == {"replay": 11, "recovery": 0, "crc": 0}
    assert values(worn, "nvidia_gpu_clock_max_hertz", "domain") == {"sm": 1.98e9, "memory": 2.619e9}
    assert values(worn, "nvidia_gpu_temperature_limit_celsius", "limit") == {"slowdown": 89, "shutdown": 92}


def test_a_gpu_without_ecc_and_nvlink_says_so_and_publishes_no_zero(
    machine: Machine, collector: HealthCollector
) -> None:
    machine.update({"gpu0.ecc_mode": "n/a", "gpu0.nvlinks": 0, "gpu0.ecc_aggregate_corrected": "n/a"})
    machine.update({"gpu0.ecc_aggregate_uncorrected": "n/a", "gpu0.error.nvmlDeviceGetTotalEccErrors": 3})

    samples = collector.collect()

    missing = {
        "nvidia_gpu_ecc_errors_total",
        "nvidia_gpu_nvlink_errors_total",
        "nvidia_gpu_nvlink_links",
    }
    assert set(unsupported(samples)) >= missing
    assert set(unsupported(samples).values()) == {"not_supported"}
    assert not missing & names_of_gpu(samples, "0")


def test_a_lost_gpu_has_none_of_it_and_leaves_the_others(
    machine: Machine, collector: HealthCollector
) -> None:
    machine.set("gpu0.error", 15)

    samples = collector.collect()

    assert of_gpu(samples, "0") == []
    assert names_of_gpu(samples, "1") == METRICS


@pytest.mark.parametrize("function", ["nvmlDeviceGetNvLinkState", "nvmlDeviceGetFieldValues"])
def test_a_gpu_that_is_lost_amid_the_questions_is_left_out_whole(
    machine: Machine, collector: HealthCollector, function: str
) -> None:
    machine.set(f"gpu1.error.{function}", 15)

    assert of_gpu(collector.collect(), "1") == []


def test_a_link_that_does_not_answer_is_neither_up_nor_down(
    machine: Machine, collector: HealthCollector
) -> None:
    machine.set("gpu0.nvlink.3.error", 3)

    links = values(of_gpu(collector.collect(), "0"), "nvidia_gpu_nvlink_links", "state")

    assert links == {"up": 17, "down": 0}
