"""The session with NVML that collectors share: opened, held, closed, released."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest

from exporters.collector import Runner
from exporters.gpu.device import DeviceCollector
from exporters.gpu.health import HealthCollector
from exporters.gpu.nvml import Nvml, NvmlUnavailableError
from tests import fake_nvml
from tests.exporters.gpu.double import Clock, values
from tests.fake_nvml import Machine
from tests.trainer_hooks.processes import wait_until

REPOSITORY = Path(__file__).parents[3]
library: Any = pynvml


@pytest.fixture
def collector(nvml: Nvml) -> DeviceCollector:
    return DeviceCollector(nvml)


def session_is_open() -> bool:
    try:
        library.nvmlDeviceGetCount()
    except library.NVMLError_Uninitialized:
        return False
    return True


def test_closing_ends_the_session_and_the_next_round_opens_another(machine: Machine, nvml: Nvml) -> None:
    collector = DeviceCollector(nvml)
    samples = collector.collect()
    assert session_is_open()

    nvml.close()

    wait_until(lambda: nvml.is_closed)  # which it does not wait for long
    assert not session_is_open()
    assert collector.collect() == samples


def test_many_rounds_of_several_collectors_keep_one_session(machine: Machine, nvml: Nvml) -> None:
    for collector in (DeviceCollector(nvml), HealthCollector(nvml), DeviceCollector(nvml)):
        collector.collect()

    library.nvmlShutdown()

    assert not session_is_open()


def test_a_driver_replaced_under_a_running_service_says_to_restart_it(machine: Machine, nvml: Nvml) -> None:
    collector = DeviceCollector(nvml)
    collector.collect()

    machine.set("error.nvmlDeviceGetMemoryInfo_v2", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    with pytest.raises(NvmlUnavailableError, match="different versions; restart this service"):
        collector.collect()
    wait_until(lambda: nvml.is_closed)
    assert not session_is_open()


def test_an_error_without_advice_of_its_own_is_named(machine: Machine, nvml: Nvml) -> None:
    machine.set("error.nvmlInitWithFlags", 4711)

    with pytest.raises(NvmlUnavailableError, match="error 4711 of the double; run `nvidia-smi`"):
        DeviceCollector(nvml).collect()


def test_released_it_stays_closed_for_the_time_that_was_asked_for(machine: Machine, clock: Clock) -> None:
    nvml = Nvml(monotonic=clock)
    collector = DeviceCollector(nvml)
    samples = collector.collect()

    assert nvml.release(60)

    assert not session_is_open()
    for now in (1000, 1030, 1059):
        clock.now = now
        with pytest.raises(NvmlUnavailableError, match="NVML is released; it is taken up again by itself"):
            collector.collect()
        assert not session_is_open()
        assert nvml.released_seconds == 1060 - now
    clock.now = 1060
    assert collector.collect() == samples
    nvml.close()


def test_a_release_can_be_ended_before_its_time(machine: Machine, nvml: Nvml) -> None:
    nvml.release(3600)
    with pytest.raises(NvmlUnavailableError):
        DeviceCollector(nvml).collect()

    nvml.resume()

    assert DeviceCollector(nvml).collect()


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_a_release_waits_for_a_round_that_goes_on_and_closes_after_it(machine: Machine, nvml: Nvml) -> None:
    machine.set("hang.nvmlDeviceGetUtilizationRates", 60)
    rounds: list[object] = []
    collector = DeviceCollector(nvml)
    thread = in_thread(lambda: rounds.append(collector.collect()))
    wait_until(session_is_open)

    assert not nvml.release(60, wait_seconds=0.05), "a call has not returned"
    assert session_is_open()

    machine.unset("hang.nvmlDeviceGetUtilizationRates")
    thread.join(20)
    assert rounds, "the round that held the session was whole"
    wait_until(lambda: nvml.is_closed)
    assert not session_is_open()


def test_a_round_that_hangs_keeps_no_other_from_its_own(machine: Machine, nvml: Nvml) -> None:
    machine.set("hang.nvmlDeviceGetUtilizationRates", 60)
    hanging = in_thread(DeviceCollector(nvml).collect)
    wait_until(session_is_open)

    assert HealthCollector(nvml).collect()

    machine.unset("hang.nvmlDeviceGetUtilizationRates")
    hanging.join(20)
    assert not hanging.is_alive()


def test_a_session_that_is_over_is_not_closed_under_a_call_that_hangs(machine: Machine, nvml: Nvml) -> None:
    machine.set("hang.nvmlDeviceGetUtilizationRates", 60)
    hanging = in_thread(DeviceCollector(nvml).collect)
    wait_until(session_is_open)

    machine.set("error.nvmlDeviceGetTotalEccErrors", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    with pytest.raises(NvmlUnavailableError, match="different versions"):
        HealthCollector(nvml).collect()
    with pytest.raises(NvmlUnavailableError, match="a call of it goes on"):
        HealthCollector(nvml).collect()
    assert session_is_open()

    machine.unset("hang.nvmlDeviceGetUtilizationRates", "error.nvmlDeviceGetTotalEccErrors")
    hanging.join(20)
    assert HealthCollector(nvml).collect(), "and then another session is opened"


def test_closing_beside_a_call_that_hangs_does_not_wait_for_it(machine: Machine, nvml: Nvml) -> None:
    machine.set("hang.nvmlDeviceGetUtilizationRates", 60)
    hanging = in_thread(DeviceCollector(nvml).collect)
    wait_until(session_is_open)

    began = time.monotonic()
    nvml.close()

    assert time.monotonic() - began < 20, "the call would take a minute"
    machine.unset("hang.nvmlDeviceGetUtilizationRates")
    hanging.join(20)


def test_a_release_while_the_library_hangs_as_it_opens_closes_it_once_it_is_open(
    machine: Machine, nvml: Nvml
) -> None:
    machine.set("hang.nvmlInitWithFlags", 60)
    rounds: list[object] = []
    hanging = in_thread(lambda: rounds.append(DeviceCollector(nvml).collect()))
    wait_until(lambda: not nvml.is_closed)

    assert not nvml.release(600, wait_seconds=0.05)
    machine.unset("hang.nvmlInitWithFlags")
    hanging.join(20)

    wait_until(lambda: nvml.is_closed)
    assert not session_is_open()
    with pytest.raises(NvmlUnavailableError, match="released"):
        DeviceCollector(nvml).collect()


def test_a_library_that_hangs_as_it_closes_holds_up_neither_a_release_nor_the_end(
    machine: Machine, nvml: Nvml
) -> None:
    DeviceCollector(nvml).collect()
    machine.set("hang.nvmlShutdown", 60)

    began = time.monotonic()
    assert not nvml.release(0.1, wait_seconds=0.05)
    nvml.close()
    seconds = time.monotonic() - began

    assert seconds < 20, "the call would take a minute"
    machine.unset("hang.nvmlShutdown")
    wait_until(lambda: nvml.is_closed)
    assert DeviceCollector(nvml).collect(), "and then another session is opened"


def test_a_release_waits_for_a_round_that_is_about_to_end(machine: Machine, nvml: Nvml) -> None:
    machine.set("hang.nvmlDeviceGetUtilizationRates", 60)
    going_on = in_thread(DeviceCollector(nvml).collect)
    wait_until(session_is_open)
    threading.Timer(0.2, lambda: machine.unset("hang.nvmlDeviceGetUtilizationRates")).start()

    assert nvml.release(600, wait_seconds=30)
    going_on.join(20)


def test_a_session_that_ends_as_it_is_opened_leaves_no_hold_on_the_driver(
    machine: Machine, nvml: Nvml
) -> None:
    machine.set("error.nvmlSystemGetDriverVersion", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    for _ in range(3):
        with pytest.raises(NvmlUnavailableError):
            DeviceCollector(nvml).collect()

    assert not session_is_open()


def test_an_unloaded_driver_is_an_error_that_says_what_to_do_until_it_is_back(
    machine: Machine, collector: DeviceCollector
) -> None:
    before = collector.collect()

    machine.set("driver", "unloaded")
    for _ in range(2):
        with pytest.raises(NvmlUnavailableError, match="not loaded; load it with `modprobe nvidia`"):
            collector.collect()

    machine.set("driver", "loaded")
    assert collector.collect() == before


def test_a_session_that_ended_without_a_word_is_opened_anew(
    machine: Machine, collector: DeviceCollector
) -> None:
    whole = collector.collect()
    library.nvmlShutdown()

    with pytest.raises(NvmlUnavailableError):
        collector.collect()
    assert collector.collect() == whole


def collect_in_a_fresh_process(**environment: str) -> str:
    program = (
        "from exporters.gpu.device import DeviceCollector\n"
        "from exporters.gpu.nvml import Nvml\n"
        "try:\n"
        "    samples = DeviceCollector(Nvml()).collect()\n"
        "    print([each.labels['name'] for each in samples if each.metric.name == 'nvidia_gpu_info'])\n"
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


def test_the_double_takes_the_place_of_the_library_by_its_name(tmp_path: Path) -> None:
    fake_nvml.build(tmp_path)
    machine = Machine(tmp_path / "control")
    machine.set("devices", 3)

    output = collect_in_a_fresh_process(**fake_nvml.environment(machine.control))

    assert output == str(["NVIDIA H100 80GB HBM3"] * 3)


@pytest.mark.skipif(ctypes.util.find_library("nvidia-ml") is not None, reason="this machine has a driver")
def test_without_a_driver_the_error_says_so_and_what_to_do() -> None:
    output = collect_in_a_fresh_process()

    assert output.startswith("NvmlUnavailableError no NVIDIA driver here: libnvidia-ml.so.1 is not found; ")
    assert "install the driver" in output


def test_the_runner_turns_a_missing_driver_into_success_zero_and_no_gpu_series(
    machine: Machine, collector: DeviceCollector
) -> None:
    machine.set("driver", "unloaded")
    runner = Runner(collector)

    runner.run_once()
    assert values(runner.samples(), "trainvitals_collector_success") == {"": 0.0}
    assert not [sample for sample in runner.samples() if sample.metric.name.startswith("nvidia_")]

    machine.set("driver", "loaded")
    runner.run_once()
    assert values(runner.samples(), "trainvitals_collector_success") == {"": 1.0}
    assert values(runner.samples(), "nvidia_gpu_up") == {"0": 1.0, "1": 1.0}
