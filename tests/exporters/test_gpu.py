"""The GPU collector through the real pynvml, over a C double of NVIDIA's library."""

from __future__ import annotations

import _ctypes
import ctypes
import ctypes.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from exporters.catalog import CATALOG
from exporters.collector import Runner, Sample
from exporters.gpu import GpuCollector, NvmlUnavailableError
from tests import fake_nvml
from tests.fake_nvml import Machine

METRICS_OF_A_GPU = {metric.name for metric in CATALOG.values() if metric.scope == "gpu"}
UUIDS = [f"GPU-5a11ab1e-0000-4000-8000-0000000000{index:02d}" for index in range(64)]
REPOSITORY = Path(__file__).parents[2]
nvml: Any = pynvml


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("fake_nvml"))


@pytest.fixture
def machine(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with two GPUs; the library is unloaded afterwards, so that no other test comes upon it."""
    scenario = Machine(tmp_path / "control")
    scenario.set("devices", 2)
    monkeypatch.setenv(fake_nvml.CONTROL_VARIABLE, str(scenario.control))
    loaded = ctypes.CDLL(str(library))
    monkeypatch.setattr(pynvml, "nvmlLib", loaded)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    yield scenario
    _ctypes.dlclose(loaded._handle)


def values(samples: list[Sample], name: str) -> dict[str, object]:
    """The values of a metric by GPU index."""
    return {sample.labels.get("gpu", ""): sample.value for sample in samples if sample.metric.name == name}


def names_of_gpu(samples: list[Sample], gpu: str) -> set[str]:
    return {sample.metric.name for sample in samples if sample.labels.get("gpu") == gpu}


def info(samples: list[Sample], gpu: str) -> dict[str, str]:
    (labels,) = (s.labels for s in samples if s.metric.name == "nvidia_gpu_info" and s.labels["gpu"] == gpu)
    return labels


def test_two_healthy_gpus_give_every_gpu_metric_of_the_catalog(machine: Machine) -> None:
    machine.set("gpu1.memory_used_bytes", 80_000_000_000)

    samples = GpuCollector().collect()

    assert names_of_gpu(samples, "0") == names_of_gpu(samples, "1") == METRICS_OF_A_GPU
    assert values(samples, "nvidia_gpu_devices") == {"": 2.0}
    assert values(samples, "nvidia_gpu_up") == {"0": 1.0, "1": 1.0}
    assert values(samples, "nvidia_gpu_utilization_percent") == {"0": 37.0, "1": 37.0}
    assert values(samples, "nvidia_gpu_memory_controller_active_percent") == {"0": 21.0, "1": 21.0}
    assert values(samples, "nvidia_gpu_memory_used_bytes") == {"0": 4294967296.0, "1": 80e9}
    assert values(samples, "nvidia_gpu_memory_total_bytes") == {"0": 85520809984.0, "1": 85520809984.0}
    assert values(samples, "nvidia_gpu_memory_reserved_bytes") == {"0": 577765376.0, "1": 577765376.0}


def test_the_identity_of_a_gpu_is_on_its_info_metric_only(machine: Machine) -> None:
    machine.set("gpu1.mig_mode", 1)

    samples = GpuCollector().collect()

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
            assert set(sample.labels) == {"gpu", "uuid"}


def test_identity_that_nvml_cannot_give_is_left_out(machine: Machine) -> None:
    machine.set("error.nvmlDeviceGetSerial", pynvml.NVML_ERROR_NOT_SUPPORTED)
    machine.set("error.nvmlDeviceGetMigMode", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

    assert set(info(GpuCollector().collect(), "0")) == {
        "gpu",
        "uuid",
        "name",
        "driver_version",
        "vbios",
        "pci_bus_id",
    }


def test_mig_switched_on_while_the_service_runs_is_seen(machine: Machine) -> None:
    collector = GpuCollector()
    assert info(collector.collect(), "0")["mig_mode"] == "disabled"

    machine.set("gpu0.mig_mode", 1)

    assert info(collector.collect(), "0")["mig_mode"] == "enabled"


@pytest.mark.parametrize(
    "error", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_UNKNOWN]
)
def test_a_gpu_lost_mid_run_keeps_its_identity_and_leaves_the_others_alone(
    machine: Machine, error: int
) -> None:
    collector = GpuCollector()
    before = collector.collect()

    machine.set("gpu1.error", error)
    for _ in range(2):
        samples = collector.collect()

        assert names_of_gpu(samples, "1") == {"nvidia_gpu_info", "nvidia_gpu_up"}
        assert values(samples, "nvidia_gpu_up") == {"0": 1.0, "1": 0.0}
        assert info(samples, "1") == info(before, "1")
        assert names_of_gpu(samples, "0") == METRICS_OF_A_GPU


def test_a_lost_gpu_that_answers_again_is_whole_again(machine: Machine) -> None:
    collector = GpuCollector()
    whole = collector.collect()
    machine.set("gpu1.error", pynvml.NVML_ERROR_GPU_IS_LOST)
    collector.collect()

    machine.unset("gpu1.error")

    assert collector.collect() == whole


def test_a_gpu_lost_before_the_service_started_does_not_hide_the_others(machine: Machine) -> None:
    machine.set("gpu0.error", pynvml.NVML_ERROR_GPU_IS_LOST)

    samples = GpuCollector().collect()

    assert names_of_gpu(samples, "0") == set()
    assert names_of_gpu(samples, "1") == METRICS_OF_A_GPU
    assert values(samples, "nvidia_gpu_devices") == {"": 2.0}


def test_a_gpu_gone_from_the_drivers_count_is_down_though_another_takes_its_index(machine: Machine) -> None:
    collector = GpuCollector()
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


def test_when_the_count_of_gpus_falls_those_left_are_identified_anew(machine: Machine) -> None:
    collector = GpuCollector()
    collector.collect()

    machine.set("devices", 1)
    machine.set("gpu0.uuid", UUIDS[1])
    samples = collector.collect()

    up = {s.labels["uuid"]: s.value for s in samples if s.metric.name == "nvidia_gpu_up"}
    assert up == {UUIDS[0]: 0.0, UUIDS[1]: 1.0}


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
    machine: Machine, error: int
) -> None:
    machine.set("gpu0.error.nvmlDeviceGetUtilizationRates", error)

    samples = GpuCollector().collect()

    missing = {"nvidia_gpu_utilization_percent", "nvidia_gpu_memory_controller_active_percent"}
    assert names_of_gpu(samples, "0") == METRICS_OF_A_GPU - missing
    assert values(samples, "nvidia_gpu_up") == {"0": 1.0, "1": 1.0}
    assert names_of_gpu(samples, "1") == METRICS_OF_A_GPU


def test_an_unloaded_driver_is_an_error_that_says_what_to_do_until_it_is_back(machine: Machine) -> None:
    collector = GpuCollector()
    before = collector.collect()

    machine.set("driver", "unloaded")
    for _ in range(2):
        with pytest.raises(NvmlUnavailableError, match="not loaded; load it with `modprobe nvidia`"):
            collector.collect()

    machine.set("driver", "loaded")
    assert collector.collect() == before


def test_a_driver_replaced_under_a_running_service_says_to_restart_it(machine: Machine) -> None:
    collector = GpuCollector()
    collector.collect()

    machine.set("error.nvmlDeviceGetMemoryInfo_v2", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    with pytest.raises(NvmlUnavailableError, match="different versions; restart this service"):
        collector.collect()


def test_an_error_without_advice_of_its_own_is_named(machine: Machine) -> None:
    machine.set("error.nvmlInitWithFlags", 4711)

    with pytest.raises(NvmlUnavailableError, match="error 4711 of the double; run `nvidia-smi`"):
        GpuCollector().collect()


def test_sixty_four_gpus_are_read_in_the_order_of_their_index(machine: Machine) -> None:
    machine.set("devices", 64)

    samples = GpuCollector().collect()

    infos = [sample.labels for sample in samples if sample.metric.name == "nvidia_gpu_info"]
    assert [(labels["gpu"], labels["uuid"]) for labels in infos] == [
        (str(index), uuid) for index, uuid in enumerate(UUIDS)
    ]
    assert len(samples) == 1 + 64 * len(METRICS_OF_A_GPU)


def test_a_name_beyond_ascii_survives_and_one_that_is_no_utf8_does_no_harm(machine: Machine) -> None:
    machine.set("gpu0.name", "NVIDIA H100 試作 Ω")
    machine.set("gpu1.name", b"Qu\xe9bec")

    samples = GpuCollector().collect()

    assert info(samples, "0")["name"] == "NVIDIA H100 試作 Ω"
    assert info(samples, "1")["name"] == "Qu\N{REPLACEMENT CHARACTER}bec"
    assert names_of_gpu(samples, "1") == METRICS_OF_A_GPU


def test_closing_ends_the_nvml_session_and_the_next_round_opens_another(machine: Machine) -> None:
    collector = GpuCollector()
    samples = collector.collect()

    collector.close()

    with pytest.raises(pynvml.NVMLError, match="Uninitialized"):
        nvml.nvmlDeviceGetCount()
    assert collector.collect() == samples


def test_many_rounds_keep_one_session(machine: Machine) -> None:
    collector = GpuCollector()
    for _ in range(3):
        collector.collect()

    nvml.nvmlShutdown()

    with pytest.raises(pynvml.NVMLError, match="Uninitialized"):
        nvml.nvmlDeviceGetCount()


def test_a_node_with_a_driver_and_no_gpu_says_zero_devices(machine: Machine) -> None:
    machine.set("devices", 0)

    assert [(sample.metric.name, sample.value) for sample in GpuCollector().collect()] == [
        ("nvidia_gpu_devices", 0.0)
    ]


def collect_in_a_fresh_process(**environment: str) -> str:
    program = (
        "from exporters.gpu import GpuCollector\n"
        "try:\n"
        "    gpus = GpuCollector().read().gpus\n"
        "    print([gpu.identity.name for gpu in gpus])\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return finished.stdout.strip()


def test_the_double_takes_the_place_of_the_library_by_its_name(library: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "control")
    machine.set("devices", 3)

    output = collect_in_a_fresh_process(
        LD_LIBRARY_PATH=str(library.parent), **{fake_nvml.CONTROL_VARIABLE: str(machine.control)}
    )

    assert output == str(["NVIDIA H100 80GB HBM3"] * 3)


@pytest.mark.skipif(ctypes.util.find_library("nvidia-ml") is not None, reason="this machine has a driver")
def test_without_a_driver_the_error_says_so_and_what_to_do() -> None:
    output = collect_in_a_fresh_process()

    assert output.startswith("NvmlUnavailableError no NVIDIA driver here: libnvidia-ml.so.1 is not found; ")
    assert "install the driver" in output


def test_the_runner_turns_a_missing_driver_into_success_zero_and_no_gpu_series(machine: Machine) -> None:
    machine.set("driver", "unloaded")
    runner = Runner(GpuCollector())

    runner.run_once()
    assert values(runner.samples(), "trainvitals_collector_success") == {"": 0.0}
    assert not [sample for sample in runner.samples() if sample.metric.name.startswith("nvidia_")]

    machine.set("driver", "loaded")
    runner.run_once()
    assert values(runner.samples(), "trainvitals_collector_success") == {"": 1.0}
    assert values(runner.samples(), "nvidia_gpu_up") == {"0": 1.0, "1": 1.0}
