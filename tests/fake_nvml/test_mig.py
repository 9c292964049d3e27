"""The double's MIG devices."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fake_nvml import Machine
from tests.fake_nvml.asking import error_of, nvml, temperature


@pytest.fixture
def sliced(machine: Machine) -> Machine:
    machine.update(
        {
            "gpu0.mig_mode": 1,
            "gpu0.mig.0": "3 0 1g.10gb 9856 1073741824",
            "gpu0.mig.2": "1 0 3g.40gb 40320 0",
            "gpu0.processes": "4711:512:3:0 4712:1024:1:0",
        }
    )
    return machine


def test_mig_devices_are_listed_by_their_index(sliced: Machine, gpu: Any) -> None:
    assert nvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 7
    assert nvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    for index in (1, 3):
        absent = error_of(nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, index)
        assert absent == nvml.NVML_ERROR_NOT_FOUND
    found = [nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index) for index in (0, 2)]

    assert [nvml.nvmlDeviceGetGpuInstanceId(mig) for mig in found] == [3, 1]
    assert [nvml.nvmlDeviceGetAttributes(mig).gpuInstanceSliceCount for mig in found] == [1, 3]
    assert len({nvml.nvmlDeviceGetUUID(mig) for mig in found}) == 2
    assert error_of(nvml.nvmlDeviceGetUtilizationRates, gpu) == nvml.NVML_ERROR_NOT_SUPPORTED


def test_what_nvml_tells_of_a_mig_device(sliced: Machine, gpu: Any) -> None:
    mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)

    assert nvml.nvmlDeviceGetName(mig) == "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    assert nvml.nvmlDeviceGetUUID(mig).startswith("MIG-")
    assert len(nvml.nvmlDeviceGetUUID(mig)) == len("MIG-5a11ab1e-0000-4000-8000-000000000000")
    memory = nvml.nvmlDeviceGetMemoryInfo(mig, version=nvml.nvmlMemory_v2)
    assert (memory.total, memory.used) == (9856 << 20, 1073741824)
    assert nvml.nvmlDeviceGetComputeInstanceId(mig) == 0
    assert nvml.nvmlDeviceIsMigDeviceHandle(mig).value == 1
    assert nvml.nvmlDeviceIsMigDeviceHandle(gpu).value == 0
    parent = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)
    assert nvml.nvmlDeviceGetUUID(parent) == nvml.nvmlDeviceGetUUID(gpu)
    assert [p.pid for p in nvml.nvmlDeviceGetComputeRunningProcesses_v3(mig)] == [4711]
    assert [p.pid for p in nvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu)] == [4711, 4712]
    assert error_of(temperature, mig) == nvml.NVML_ERROR_NOT_SUPPORTED


def test_a_mig_device_has_errors_and_a_uuid_of_its_own(sliced: Machine, gpu: Any) -> None:
    mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)
    sliced.update({"gpu0.mig.0.error.nvmlDeviceGetName": 999, "gpu0.mig.0.uuid": "MIG-of-mine"})

    assert error_of(nvml.nvmlDeviceGetName, mig) == 999
    assert nvml.nvmlDeviceGetName(gpu) == "NVIDIA H100 80GB HBM3"
    assert nvml.nvmlDeviceGetUUID(mig) == "MIG-of-mine"
    assert nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 2)).endswith(" MIG 3g.40gb")
    assert nvml.nvmlDeviceIsMigDeviceHandle(nvml.nvmlDeviceGetHandleByUUID(b"MIG-of-mine")).value == 1


def test_a_mig_device_that_was_removed_is_refused(sliced: Machine, gpu: Any) -> None:
    mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)
    sliced.unset("gpu0.mig.0")

    assert error_of(nvml.nvmlDeviceGetUUID, mig) == nvml.NVML_ERROR_INVALID_ARGUMENT


def test_a_gpu_without_mig(machine: Machine, gpu: Any) -> None:
    assert error_of(nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, 0) == nvml.NVML_ERROR_NOT_SUPPORTED
    machine.set("mig_mode", "n/a")

    assert nvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 0
    assert error_of(nvml.nvmlDeviceGetMigMode, gpu) == nvml.NVML_ERROR_NOT_SUPPORTED
