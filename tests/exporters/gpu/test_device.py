"""What a GPU that answers says of itself, through the real pynvml over a C double of NVIDIA's library."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from exporters.gpu import last_window
from exporters.gpu.device import DeviceCollector
from exporters.gpu.nvml import Nvml, NvmlUnavailableError
from exporters.gpu.reading import REASONS
from tests import fake_nvml
from tests.exporters.gpu.double import (
    METRICS_OF_THE_DEVICE,
    UUIDS,
    info,
    names_of_gpu,
    of_gpu,
    unsupported,
    values,
)
from tests.fake_nvml import Machine, in_process


@pytest.fixture
def collector(nvml: Nvml) -> DeviceCollector:
    return DeviceCollector(nvml)


def test_two_healthy_gpus_give_every_gpu_metric_of_the_catalog(
    machine: Machine, collector: DeviceCollector
) -> None:
    machine.set("gpu1.memory_used_bytes", 80_000_000_000)

    samples = collector.collect()

    assert names_of_gpu(samples, "0") == names_of_gpu(samples, "1") == METRICS_OF_THE_DEVICE
    assert values(samples, "nvidia_gpu_devices") == {"": 2.0}
    assert values(samples, "nvidia_gpu_up") == {"0": 1.0, "1": 1.0}
    assert values(samples, "nvidia_gpu_utilization_percent") == {"0": 37.0, "1": 37.0}
    assert values(samples, "nvidia_gpu_memory_controller_active_percent") == {"0": 21.0, "1": 21.0}
    assert values(samples, "nvidia_gpu_memory_used_bytes") == {"0": 4294967296.0, "1": 80e9}
    assert values(samples, "nvidia_gpu_memory_total_bytes") == {"0": 85520809984.0, "1": 85520809984.0}
    assert values(samples, "nvidia_gpu_memory_reserved_bytes") == {"0": 577765376.0, "1": 577765376.0}
    first = of_gpu(samples, "0")
    assert values(first, "nvidia_gpu_power_watts") == {"0": 285.431}
    assert values(first, "nvidia_gpu_energy_joules_total") == {"0": 512345678.901}
    assert values(first, "nvidia_gpu_temperature_celsius", "sensor") == {"gpu": 46.0, "memory": 52.0}
    assert values(first, "nvidia_gpu_clock_hertz", "domain") == {"sm": 1.98e9, "memory": 2.619e9}
    assert values(first, "nvidia_gpu_throttle_seconds_total", "reason") == {
        "sw_power_cap": 1.25,
        **dict.fromkeys(("sync_boost", "board_limit", "reliability"), 0.0),
        **dict.fromkeys(("sw_thermal", "hw_thermal", "hw_power_brake"), 0.0),
    }
    assert values(first, "nvidia_gpu_nvlink_transmit_bytes_total") == {"0": 700.0 * 1024**3}
    assert not unsupported(samples)


def test_the_identity_of_a_gpu_is_on_its_info_metric_only(
    machine: Machine, collector: DeviceCollector
) -> None:
    machine.set("gpu1.mig_mode", 1)

    samples = collector.collect()

    assert info(samples, "1") == {
        "gpu": "1",
        "uuid": UUIDS[1],
        "name": "NVIDIA H100 80GB HBM3",
        "driver_version": "570.86.15",
        "vbios": "96.00.74.00.01",
        "pci_bus_id": "00000000:01:00.0",
        "serial": "1653023000001",
        "mig_mode": "enabled",
    }
    assert info(samples, "0")["mig_mode"] == "disabled"
    for sample in samples:
        if sample.metric.scope == "gpu" and sample.metric.kind != "info":
            assert set(sample.labels) == set(sample.metric.labels)


def test_identity_that_nvml_cannot_give_is_left_out(machine: Machine, collector: DeviceCollector) -> None:
    machine.set("error.nvmlDeviceGetSerial", pynvml.NVML_ERROR_NOT_SUPPORTED)
    machine.set("error.nvmlDeviceGetMigMode", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

    assert set(info(collector.collect(), "0")) == {
        "gpu",
        "uuid",
        "name",
        "driver_version",
        "vbios",
        "pci_bus_id",
    }


def test_mig_switched_on_while_the_service_runs_is_seen(machine: Machine, collector: DeviceCollector) -> None:
    assert info(collector.collect(), "0")["mig_mode"] == "disabled"

    machine.set("gpu0.mig_mode", 1)

    assert info(collector.collect(), "0")["mig_mode"] == "enabled"


@pytest.mark.parametrize(
    "error",
    [
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_UNKNOWN,
    ],
)
def test_utilization_that_a_gpu_does_not_give_is_absent_and_the_gpu_is_up(
    machine: Machine, collector: DeviceCollector, error: int
) -> None:
    machine.set("gpu0.error.nvmlDeviceGetUtilizationRates", error)

    samples = collector.collect()

    missing = {"nvidia_gpu_utilization_percent", "nvidia_gpu_memory_controller_active_percent"}
    assert names_of_gpu(samples, "0") == METRICS_OF_THE_DEVICE - missing | {"nvidia_gpu_metric_unsupported"}
    assert set(unsupported(samples)) == missing
    assert set(unsupported(samples).values()) == {REASONS.get(error, "failed")}
    assert values(samples, "nvidia_gpu_up") == {"0": 1.0, "1": 1.0}
    assert names_of_gpu(samples, "1") == METRICS_OF_THE_DEVICE


def test_a_name_beyond_ascii_survives_and_one_that_is_no_utf8_does_no_harm(
    machine: Machine, collector: DeviceCollector
) -> None:
    machine.set("gpu0.name", "NVIDIA H100 試作 Ω")
    machine.set("gpu1.name", b"Qu\xe9bec")

    samples = collector.collect()

    assert info(samples, "0")["name"] == "NVIDIA H100 試作 Ω"
    assert info(samples, "1")["name"] == "Qu\N{REPLACEMENT CHARACTER}bec"
    assert names_of_gpu(samples, "1") == METRICS_OF_THE_DEVICE


def test_power_is_the_average_where_a_gpu_tells_no_other(
    machine: Machine, collector: DeviceCollector
) -> None:
    machine.update({"field.186.error": 3, "gpu0.field.185": 211_000})
    machine.update({"gpu1.field.185.error": 3, "gpu1.power_mw": 99_500})

    samples = collector.collect()

    assert values(samples, "nvidia_gpu_power_watts") == {"0": 211.0, "1": 99.5}
    assert not unsupported(samples) | unsupported(samples, "1")


def test_an_older_gpu_tells_thermal_throttling_as_one(machine: Machine, collector: DeviceCollector) -> None:
    for field in (269, 270, 271):
        machine.set(f"field.{field}.error", pynvml.NVML_ERROR_INVALID_ARGUMENT)
    machine.set("field.75", 2_500_000_000)

    samples = collector.collect()

    throttle = values(of_gpu(samples, "0"), "nvidia_gpu_throttle_seconds_total", "reason")
    assert throttle.keys() == {"sw_power_cap", "sync_boost", "board_limit", "reliability", "thermal"}
    assert throttle["thermal"] == 2.5
    assert unsupported(samples) == {"nvidia_gpu_throttle_seconds_total": "function_not_found"}


def test_a_driver_without_field_values_gives_all_the_rest(
    tmp_path: Path,
) -> None:
    old = fake_nvml.build(tmp_path, without=["nvmlDeviceGetFieldValues"])
    with in_process.machine(old, tmp_path / "control"):
        samples = DeviceCollector(Nvml()).collect()

    assert names_of_gpu(samples, "0") == METRICS_OF_THE_DEVICE - {
        "nvidia_gpu_energy_joules_total",
        "nvidia_gpu_throttle_seconds_total",
        "nvidia_gpu_pcie_transmit_bytes_total",
        "nvidia_gpu_pcie_receive_bytes_total",
        "nvidia_gpu_pcie_replays_total",
        "nvidia_gpu_nvlink_transmit_bytes_total",
        "nvidia_gpu_nvlink_receive_bytes_total",
    } | {"nvidia_gpu_metric_unsupported"}
    assert set(unsupported(samples).values()) == {"function_not_found"}


@pytest.mark.parametrize(
    ("field", "bits", "metric", "scale"),
    [
        (83, 64, "nvidia_gpu_energy_joules_total", 1e-3),
        (197, 32, "nvidia_gpu_pcie_transmit_bytes_total", 1),
        (138, 64, "nvidia_gpu_nvlink_transmit_bytes_total", 1024),
    ],
)
def test_a_counter_of_the_driver_that_wraps_goes_on_rising(
    machine: Machine, collector: DeviceCollector, field: int, bits: int, metric: str, scale: float
) -> None:
    if bits == 32:
        machine.set(f"field.{field}.type", 1)
    values_of_driver = [(1 << bits) - 5000, 3000, 9000]
    seen = []
    for value in values_of_driver:
        machine.set(f"gpu0.field.{field}", value)
        seen.append(values(collector.collect(), metric)["0"])

    assert seen == [
        pytest.approx(scale * value) for value in ((1 << bits) - 5000, (1 << bits) + 3000, (1 << bits) + 9000)
    ]
    assert seen == sorted(seen)


def test_a_counter_that_starts_anew_is_passed_on_as_a_reset(
    machine: Machine, collector: DeviceCollector
) -> None:
    """After the driver's reload too, where a counter stood beyond half of its range."""
    machine.update({"field.197.type": 1, "gpu0.field.197": 4_000_000_000, "gpu0.field.94": 500})
    collector.collect()
    machine.set("driver", "unloaded")
    with pytest.raises(NvmlUnavailableError):
        collector.collect()
    machine.update({"driver": "loaded", "gpu0.field.197": 70, "gpu0.field.94": 2})

    samples = collector.collect()

    assert values(samples, "nvidia_gpu_pcie_transmit_bytes_total")["0"] == 70
    assert values(samples, "nvidia_gpu_pcie_replays_total")["0"] == 2


def test_what_holds_the_clocks_down_is_told_of_the_last_round_only(
    machine: Machine, collector: DeviceCollector
) -> None:
    def held() -> set[tuple[str, str]]:
        looked = [each.labels for each in collector.collect() if each.metric is last_window.THROTTLED]
        return {(labels["gpu"], labels["reason"]) for labels in looked}

    assert held() == set()
    machine.set("gpu1.field.270", 3_000_000_000)
    assert held() == {("1", "hw_thermal")}
    assert held() == set()


def test_a_value_that_is_no_number_is_not_published(machine: Machine, collector: DeviceCollector) -> None:
    machine.update({"gpu0.field.186.type": 0, "gpu0.field.186": "nan"})
    machine.update({"gpu0.field.83.type": 0, "gpu0.field.83": "inf"})

    samples = collector.collect()

    assert values(samples, "nvidia_gpu_power_watts") == {"1": 285.431}
    assert values(samples, "nvidia_gpu_energy_joules_total").keys() == {"1"}
    assert unsupported(samples) == {
        "nvidia_gpu_power_watts": "failed",
        "nvidia_gpu_energy_joules_total": "failed",
    }


def test_a_struct_of_another_version_is_the_drivers_age(machine: Machine, collector: DeviceCollector) -> None:
    machine.set("error.nvmlDeviceGetMemoryInfo_v2", pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)

    assert unsupported(collector.collect())["nvidia_gpu_memory_used_bytes"] == "function_not_found"
