"""The double's XID events."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from tests.fake_nvml import Calls, Machine
from tests.fake_nvml.asking import error_of, nvml, seconds, temperature
from tests.trainer_hooks.processes import wait_until


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
