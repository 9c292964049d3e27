"""Which GPUs there are, and which of them answer: one that is lost, one that comes, one that goes."""

from __future__ import annotations

import pynvml
import pytest

from exporters.gpu.device import DeviceCollector
from exporters.gpu.nvml import Nvml, NvmlUnavailableError
from tests.exporters.gpu.double import METRICS_OF_THE_DEVICE, UUIDS, info, names_of_gpu, of_gpu, values
from tests.fake_nvml import Machine


@pytest.fixture
def collector(nvml: Nvml) -> DeviceCollector:
    return DeviceCollector(nvml)


@pytest.mark.parametrize(
    "error", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_UNKNOWN]
)
def test_a_gpu_lost_mid_run_keeps_its_identity_and_leaves_the_others_alone(
    machine: Machine, collector: DeviceCollector, error: int
) -> None:
    before = collector.collect()

    machine.set("gpu1.error", error)
    for _ in range(2):
        samples = collector.collect()

        assert names_of_gpu(samples, "1") == {"nvidia_gpu_info", "nvidia_gpu_up"}
        assert values(samples, "nvidia_gpu_up") == {"0": 1.0, "1": 0.0}
        assert info(samples, "1") == info(before, "1")
        assert names_of_gpu(samples, "0") == METRICS_OF_THE_DEVICE


def test_a_lost_gpu_that_answers_again_is_whole_again(machine: Machine, collector: DeviceCollector) -> None:
    whole = collector.collect()
    machine.set("gpu1.error", pynvml.NVML_ERROR_GPU_IS_LOST)
    collector.collect()

    machine.unset("gpu1.error")

    assert collector.collect() == whole


def test_a_gpu_lost_before_the_service_started_does_not_hide_the_others(
    machine: Machine, collector: DeviceCollector
) -> None:
    machine.set("gpu0.error", pynvml.NVML_ERROR_GPU_IS_LOST)

    samples = collector.collect()

    assert names_of_gpu(samples, "0") == set()
    assert names_of_gpu(samples, "1") == METRICS_OF_THE_DEVICE
    assert values(samples, "nvidia_gpu_devices") == {"": 2.0}


def test_a_gpu_gone_from_the_drivers_count_is_down_though_another_takes_its_index(
    machine: Machine, collector: DeviceCollector
) -> None:
    collector.collect()
    machine.set("driver", "unloaded")
    with pytest.raises(NvmlUnavailableError):
        collector.collect()
    machine.set("driver", "loaded")
    machine.set("devices", 1)
    machine.set("gpu0.uuid", UUIDS[1])

    samples = collector.collect()

    up = {s.labels["uuid"]: s.value for s in samples if s.metric.name == "nvidia_gpu_up"}
    assert up == {UUIDS[0]: 0.0, UUIDS[1]: 1.0}


def test_when_the_count_of_gpus_falls_those_left_are_identified_anew(
    machine: Machine, collector: DeviceCollector
) -> None:
    collector.collect()

    machine.set("devices", 1)
    machine.set("gpu0.uuid", UUIDS[1])
    samples = collector.collect()

    up = {s.labels["uuid"]: s.value for s in samples if s.metric.name == "nvidia_gpu_up"}
    assert up == {UUIDS[0]: 0.0, UUIDS[1]: 1.0}


def test_sixty_four_gpus_are_read_in_the_order_of_their_index(
    machine: Machine, collector: DeviceCollector
) -> None:
    machine.set("devices", 64)

    samples = collector.collect()

    infos = [sample.labels for sample in samples if sample.metric.name == "nvidia_gpu_info"]
    assert [(labels["gpu"], labels["uuid"]) for labels in infos] == [
        (str(index), uuid) for index, uuid in enumerate(UUIDS)
    ]
    assert len(samples) == 1 + 64 * len(of_gpu(samples, "0"))


def test_a_node_with_a_driver_and_no_gpu_says_zero_devices(
    machine: Machine, collector: DeviceCollector
) -> None:
    machine.set("devices", 0)

    assert [(sample.metric.name, sample.value) for sample in collector.collect()] == [
        ("nvidia_gpu_devices", 0.0)
    ]


def test_a_gpu_that_is_added_is_read_from_then_on(machine: Machine, collector: DeviceCollector) -> None:
    collector.collect()

    machine.set("devices", 3)

    samples = collector.collect()
    assert values(samples, "nvidia_gpu_up") == {"0": 1.0, "1": 1.0, "2": 1.0}
    assert values(samples, "nvidia_gpu_devices") == {"": 3.0}


def test_a_gpu_without_memory_of_its_own_is_not_lost_when_one_call_fails(
    machine: Machine, collector: DeviceCollector
) -> None:
    machine.set("gpu0.error.nvmlDeviceGetMemoryInfo_v2", pynvml.NVML_ERROR_NOT_SUPPORTED)
    machine.set("gpu0.error.nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_UNKNOWN)

    assert values(collector.collect(), "nvidia_gpu_up") == {"0": 1, "1": 1}


def test_a_divided_gpu_is_not_lost_when_one_call_fails(machine: Machine, collector: DeviceCollector) -> None:
    """It never tells its utilization."""
    machine.update({"gpu0.mig_mode": 1, "gpu0.error.nvmlDeviceGetMemoryInfo_v2": pynvml.NVML_ERROR_UNKNOWN})

    assert values(collector.collect(), "nvidia_gpu_up") == {"0": 1, "1": 1}


def test_a_bus_address_that_is_no_text_hides_no_gpu(machine: Machine, collector: DeviceCollector) -> None:
    machine.set("gpu0.pci_bus_id", b"0000:\xff:00.0")

    samples = collector.collect()

    assert info(samples, "0")["pci_bus_id"] == "0000:\N{REPLACEMENT CHARACTER}:00.0"
    assert values(samples, "nvidia_gpu_up") == {"0": 1, "1": 1}
