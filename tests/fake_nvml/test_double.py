"""The double of libnvidia-ml.so.1 as the real pynvml sees it."""

from __future__ import annotations

import _ctypes
import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests import fake_nvml
from tests.fake_nvml import Calls, Machine

REPOSITORY = Path(__file__).parents[2]
ALL_LINKS = 0xFFFFFFFF
nvml: Any = pynvml


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("fake_nvml"))


@contextmanager
def loaded(library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    double = ctypes.CDLL(str(library))
    monkeypatch.setattr(pynvml, "nvmlLib", double)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    nvml.nvmlInit()
    yield
    assert double.nvml_double_release() == 0
    _ctypes.dlclose(double._handle)


@pytest.fixture
def machine(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Two GPUs, and an NVML session."""
    scenario = Machine(tmp_path / "control")
    scenario.set("devices", 2)
    monkeypatch.setenv(fake_nvml.CONTROL_VARIABLE, str(scenario.control))
    monkeypatch.setenv(fake_nvml.CALLS_VARIABLE, str(tmp_path / "calls"))
    with loaded(library, monkeypatch):
        yield scenario


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path / "calls")


@pytest.fixture
def gpu(machine: Machine) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(0)


def error_of(call: Callable[..., object], *arguments: object) -> int:
    with pytest.raises(nvml.NVMLError) as raised:
        call(*arguments)
    return int(raised.value.value)


def seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def field(gpu: Any, field_id: int, scope: int = ALL_LINKS) -> Any:
    (value,) = nvml.nvmlDeviceGetFieldValues(gpu, [(field_id, scope)])
    return value


def temperature(gpu: Any) -> int:
    return int(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))


def test_every_change_of_the_scenario_counts_from_the_next_call_on(machine: Machine, gpu: Any) -> None:
    for celsius in range(100, 400):
        machine.set("gpu0.temperature_celsius", celsius)
        assert temperature(gpu) == celsius


def test_a_call_takes_as_long_as_the_scenario_says(machine: Machine, gpu: Any) -> None:
    machine.update({"latency_us": 3000, "latency_us.nvmlDeviceGetUUID": 0, "gpu1.latency_us": 0})

    assert seconds(lambda: [temperature(gpu) for _ in range(5)]) >= 0.015
    assert seconds(nvml.nvmlDeviceGetCount) >= 0.003
    quick = min(seconds(lambda: nvml.nvmlDeviceGetUUID(gpu)) for _ in range(20))
    assert quick < 0.003


def test_a_call_that_hangs_holds_up_no_other_and_goes_on_when_its_line_has_gone(
    machine: Machine, calls: Calls
) -> None:
    gpus = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(2)]
    machine.set("gpu1.hang.nvmlDeviceGetTemperature", 60)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(temperature, gpus[1])
        wait_until(lambda: calls.counts().get("nvmlDeviceGetTemperature") == 1)

        assert temperature(gpus[0]) == 46
        assert not hanging.done()
        machine.unset("gpu1.hang.nvmlDeviceGetTemperature")
        assert hanging.result(timeout=20) == 46


def test_a_call_without_a_device_hangs_for_its_time(machine: Machine) -> None:
    machine.set("hang.nvmlDeviceGetCount_v2", 0.05)

    assert seconds(nvml.nvmlDeviceGetCount) >= 0.05


def test_a_session_that_ends_while_a_call_hangs_fails_the_call(
    machine: Machine, gpu: Any, calls: Calls
) -> None:
    machine.set("hang.nvmlDeviceGetTemperature", 60)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(error_of, temperature, gpu)
        wait_until(lambda: "nvmlDeviceGetTemperature" in calls.counts())
        nvml.nvmlShutdown()
        machine.unset("hang.nvmlDeviceGetTemperature")

        assert hanging.result(timeout=20) == nvml.NVML_ERROR_UNINITIALIZED


def test_threads_read_a_changing_scenario_undisturbed(machine: Machine, gpu: Any, calls: Calls) -> None:
    stop = threading.Event()

    def read() -> int:
        rounds = 0
        while not stop.is_set():
            assert temperature(gpu) % 10 == 6
            assert len(nvml.nvmlDeviceGetFieldValues(gpu, [82, 83, 138])) == 3
            nvml.nvmlGpmSampleFree(nvml.nvmlGpmSampleAlloc())
            rounds += 1
        return rounds

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        for celsius in range(6, 1006, 10):
            machine.set("temperature_celsius", celsius)
        stop.set()
        rounds = sum(reader.result(timeout=20) for reader in readers)

    assert calls.counts()["nvmlDeviceGetTemperature"] == rounds
    assert calls.live_samples() == 0


def test_calls_of_another_process_are_counted_while_it_runs(
    machine: Machine, library: Path, calls: Calls
) -> None:
    program = (
        "import pynvml\n"
        "pynvml.nvmlInit()\n"
        "for _ in range(7): pynvml.nvmlDeviceGetHandleByIndex(1)\n"
        "sample = pynvml.nvmlGpmSampleAlloc()\n"
        "print(flush=True)\n"
        "input()\n"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin
        assert other.stdout
        other.stdout.readline()
        counts, samples = calls.counts(), calls.live_samples()
        other.stdin.write(b"\n")
        other.stdin.close()

    assert counts["nvmlDeviceGetHandleByIndex_v2"] == 7
    assert counts["nvmlInitWithFlags"] == 2  # this process has one too
    assert samples == 1


def test_counts_of_a_file_not_yet_made_are_none(tmp_path: Path) -> None:
    assert Calls(tmp_path / "absent").counts() == {}


def test_an_old_driver_has_not_every_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fake_nvml.CONTROL_VARIABLE, str(Machine(tmp_path / "control").control))
    old = fake_nvml.build(tmp_path, without=["nvmlDeviceGetFieldValues", "nvmlGpmSampleGet"])

    with loaded(old, monkeypatch):
        gpu = nvml.nvmlDeviceGetHandleByIndex(0)
        assert error_of(nvml.nvmlDeviceGetFieldValues, gpu, [82]) == nvml.NVML_ERROR_FUNCTION_NOT_FOUND
        sample = nvml.nvmlGpmSampleAlloc()
        assert error_of(nvml.nvmlGpmSampleGet, gpu, sample) == nvml.NVML_ERROR_FUNCTION_NOT_FOUND
        assert temperature(gpu) == 46


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


FIELDS_UINT = [82, 91, 94, *range(142, 146), 185, 186, 190, 230]
FIELDS_ULL = [*range(3, 7), *range(74, 80), 83, *range(138, 142), *range(161, 164)]
FIELDS_ULL += [197, 198, 202, 204, 269, 270, 271]


@pytest.mark.parametrize("scope", [0, ALL_LINKS])
def test_fields_have_the_type_of_nvml_with_and_without_a_scope(gpu: Any, scope: int) -> None:
    for value_type, ids in (
        (nvml.NVML_VALUE_TYPE_UNSIGNED_INT, FIELDS_UINT),
        (nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, FIELDS_ULL),
    ):
        values = nvml.nvmlDeviceGetFieldValues(gpu, [(field_id, scope) for field_id in ids])
        assert [(v.fieldId, v.nvmlReturn, v.valueType) for v in values] == [(i, 0, value_type) for i in ids]


def test_fields_and_getters_tell_the_same(machine: Machine, gpu: Any) -> None:
    machine.update({"gpu0.power_mw": 650000, "remapped_pending": 1, "gpu0.total_energy_mj": 2**40})

    assert field(gpu, nvml.NVML_FI_DEV_POWER_AVERAGE).value.uiVal == 650000
    assert field(gpu, nvml.NVML_FI_DEV_REMAPPED_PENDING).value.uiVal == 1
    assert field(gpu, nvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION).value.ullVal == 2**40


def test_a_field_has_the_scenarios_value_error_and_type(machine: Machine, gpu: Any) -> None:
    machine.update({"gpu0.field.82": 95, "field.94.error": 999, "field.297": "-2.5", "field.297.type": 0})
    machine.update({"field.139": 5, "field.139.scope.4": 2**63})

    assert field(gpu, 82).value.uiVal == 95
    assert field(nvml.nvmlDeviceGetHandleByIndex(1), 82).value.uiVal == 52
    assert field(gpu, 94).nvmlReturn == 999
    assert (field(gpu, 297).valueType, field(gpu, 297).value.dVal) == (0, -2.5)
    assert [field(gpu, 139, link).value.ullVal for link in (3, 4)] == [5, 2**63]
    assert field(gpu, 306).nvmlReturn == nvml.NVML_ERROR_NOT_SUPPORTED


def test_links_are_up_down_or_beyond_the_count(machine: Machine, gpu: Any) -> None:
    machine.update({"gpu0.nvlinks": 4, "gpu0.nvlink.2.state": 0})

    assert [nvml.nvmlDeviceGetNvLinkState(gpu, link) for link in range(4)] == [1, 1, 0, 1]
    assert [field(gpu, nvml.NVML_FI_DEV_NVLINK_GET_STATE, link).value.uiVal for link in range(4)] == [
        1,
        1,
        0,
        1,
    ]
    assert error_of(nvml.nvmlDeviceGetNvLinkState, gpu, 4) == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert field(gpu, nvml.NVML_FI_DEV_NVLINK_GET_STATE, 4).nvmlReturn == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert field(gpu, nvml.NVML_FI_DEV_NVLINK_LINK_COUNT).value.uiVal == 4


def test_a_gpu_without_nvlink_supports_nothing_of_it(machine: Machine, gpu: Any) -> None:
    machine.set("nvlinks", 0)

    assert error_of(nvml.nvmlDeviceGetNvLinkState, gpu, 0) == nvml.NVML_ERROR_NOT_SUPPORTED
    assert field(gpu, nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX).nvmlReturn == nvml.NVML_ERROR_NOT_SUPPORTED


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


def events_of(*indices: int) -> Any:
    events = nvml.nvmlEventSetCreate()
    for index in indices:
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        assert nvml.nvmlDeviceGetSupportedEventTypes(gpu) & nvml.nvmlEventTypeXidCriticalError
        nvml.nvmlDeviceRegisterEvents(gpu, nvml.nvmlEventTypeXidCriticalError, events)
    return events


def xids(events: Any) -> list[tuple[int, int]]:
    """GPU and XID of each event there is."""
    told: list[tuple[int, int]] = []
    with suppress(nvml.NVMLError_Timeout):
        while True:
            event = nvml.nvmlEventSetWait(events, 20)
            assert event.eventType == nvml.nvmlEventTypeXidCriticalError
            told.append((nvml.nvmlDeviceGetIndex(event.device), event.eventData))
    return told


def test_an_event_is_told_once_in_the_order_of_its_number(machine: Machine) -> None:
    events = events_of(0, 1)
    machine.update({"event.10": "1 48", "event.2": "0 79", "event.3": "0 13 x3"})

    assert xids(events) == [(0, 79), (0, 13), (0, 13), (0, 13), (1, 48)]
    assert xids(events_of(0, 1)) == []
    machine.update({"event.9": "0 31", "event.11": "0 94"})
    assert xids(events) == [(0, 94)]


def test_an_event_goes_to_those_who_registered_its_gpu(machine: Machine) -> None:
    machine.set("event.0", "1 79")

    assert xids(events_of(0)) == []
    assert xids(events_of(1)) == [(1, 79)]


def test_an_event_ends_the_wait_and_the_wait_holds_up_nobody(
    machine: Machine, gpu: Any, calls: Calls
) -> None:
    events = events_of(0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(nvml.nvmlEventSetWait, events, 60_000)
        wait_until(lambda: "nvmlEventSetWait_v2" in calls.counts())

        assert temperature(gpu) == 46
        machine.set("event.0", "0 79")
        assert waiting.result(timeout=20).eventData == 79


def test_a_wait_lasts_for_its_time(machine: Machine) -> None:
    events = events_of(0)

    assert seconds(lambda: error_of(nvml.nvmlEventSetWait, events, 30)) >= 0.03


def test_a_session_that_ends_ends_the_wait(machine: Machine, calls: Calls) -> None:
    events = events_of(0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(error_of, nvml.nvmlEventSetWait, events, 60_000)
        wait_until(lambda: "nvmlEventSetWait_v2" in calls.counts())
        nvml.nvmlShutdown()

        assert waiting.result(timeout=20) == nvml.NVML_ERROR_UNINITIALIZED


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
