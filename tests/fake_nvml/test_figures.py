"""What the double says of a GPU and its processes, call by call."""

from __future__ import annotations

from typing import Any

from tests.fake_nvml import Machine
from tests.fake_nvml.asking import ALL_LINKS, error_of, field, nvml


def test_the_figures_of_an_h100(gpu: Any) -> None:
    assert nvml.nvmlSystemGetNVMLVersion() == "12.570.86.15"
    assert nvml.nvmlSystemGetCudaDriverVersion_v2() == 12080
    assert nvml.nvmlDeviceGetCudaComputeCapability(gpu) == (9, 0)
    assert nvml.nvmlDeviceGetArchitecture(gpu) == nvml.NVML_DEVICE_ARCH_HOPPER
    assert nvml.nvmlDeviceGetTemperatureThreshold(gpu, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN) == 89
    assert nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM) == 2619
    assert nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM) == 1980
    assert nvml.nvmlDeviceGetPowerUsage(gpu) == 285431
    assert nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) == nvml.nvmlDeviceGetPowerManagementLimit(gpu) == 700000
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) == 512345678901
    assert (
        nvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu) == nvml.nvmlDeviceGetGpuMaxPcieLinkGeneration(gpu) == 5
    )
    assert nvml.nvmlDeviceGetCurrPcieLinkWidth(gpu) == nvml.nvmlDeviceGetMaxPcieLinkWidth(gpu) == 16
    assert nvml.nvmlDeviceGetEccMode(gpu) == [1, 1]
    assert nvml.nvmlDeviceGetRemappedRows(gpu) == (0, 0, 0, 0)
    assert nvml.nvmlDeviceGetMinorNumber(gpu) == 0
    assert nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu) == 0
    assert nvml.nvmlDeviceGetMemoryInfo(gpu).used == 4294967296 + 577765376
    assert nvml.nvmlDeviceGetPciInfo(gpu).busIdLegacy == "0000:00:00.0"


def test_a_figure_is_the_scenarios_or_not_supported_or_an_error(machine: Machine, gpu: Any) -> None:
    machine.update({"gpu0.power_mw": "n/a", "gpu0.clocks_event_reasons": "0x48"})
    machine.set("error.nvmlDeviceGetEccMode", nvml.NVML_ERROR_NO_PERMISSION)
    machine.set("gpu0.ecc_aggregate_uncorrected", 12)

    assert error_of(nvml.nvmlDeviceGetPowerUsage, gpu) == nvml.NVML_ERROR_NOT_SUPPORTED
    assert field(gpu, nvml.NVML_FI_DEV_POWER_INSTANT).nvmlReturn == nvml.NVML_ERROR_NOT_SUPPORTED
    assert nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu) == 0x48
    assert error_of(nvml.nvmlDeviceGetEccMode, gpu) == nvml.NVML_ERROR_NO_PERMISSION
    counted = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_AGGREGATE_ECC)
    assert nvml.nvmlDeviceGetTotalEccErrors(gpu, *counted) == 12


def test_a_gpu_is_found_by_its_uuid(machine: Machine) -> None:
    machine.set("gpu1.uuid", "GPU-of-mine")

    found = nvml.nvmlDeviceGetHandleByUUID(b"GPU-of-mine")

    assert nvml.nvmlDeviceGetIndex(found) == 1
    assert error_of(nvml.nvmlDeviceGetHandleByUUID, b"GPU-of-none") == nvml.NVML_ERROR_NOT_FOUND


def test_processes_come_by_the_two_calls_of_nvml(machine: Machine, gpu: Any) -> None:
    assert nvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu) == []
    machine.set("gpu0.processes", "4711:1073741824 4712:- 4713:5:2:1 4714:-:3:0")

    processes = nvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu)

    assert [(p.pid, p.usedGpuMemory, p.gpuInstanceId, p.computeInstanceId) for p in processes] == [
        (4711, 1073741824, ALL_LINKS, ALL_LINKS),
        (4712, None, ALL_LINKS, ALL_LINKS),
        (4713, 5, 2, 1),
        (4714, None, 3, 0),
    ]
    assert nvml.nvmlDeviceGetComputeRunningProcesses_v3(nvml.nvmlDeviceGetHandleByIndex(1)) == []
