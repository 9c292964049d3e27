"""The double's scenario: what a change does, calls that take long or hang, the count of calls."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests import fake_nvml
from tests.fake_nvml import Calls, Machine, in_process
from tests.fake_nvml.asking import error_of, nvml, seconds, temperature
from tests.trainer_hooks.processes import wait_until

REPOSITORY = Path(__file__).parents[2]


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
    environment = {
        **os.environ,
        **fake_nvml.environment(machine.control, calls.path),
        "LD_LIBRARY_PATH": str(library.parent),
    }
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


def test_an_old_driver_has_not_every_function(tmp_path: Path) -> None:
    old = fake_nvml.build(tmp_path, without=["nvmlDeviceGetFieldValues", "nvmlGpmSampleGet"])

    with in_process.machine(old, tmp_path / "of the old one"):
        nvml.nvmlInit()
        gpu = nvml.nvmlDeviceGetHandleByIndex(0)
        assert error_of(nvml.nvmlDeviceGetFieldValues, gpu, [82]) == nvml.NVML_ERROR_FUNCTION_NOT_FOUND
        sample = nvml.nvmlGpmSampleAlloc()
        assert error_of(nvml.nvmlGpmSampleGet, gpu, sample) == nvml.NVML_ERROR_FUNCTION_NOT_FOUND
        assert temperature(gpu) == 46
