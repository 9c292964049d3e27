"""XID errors by NVML's events and by the kernel log."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters.gpu import nvml as nvml_module
from exporters.gpu.device import DeviceCollector
from exporters.gpu.nvml import Nvml, NvmlUnavailableError
from exporters.gpu.xid import MOST_NUMBERS, XidCollector, xid_class
from tests import fake_nvml
from tests.exporters.gpu.double import UUIDS, of_gpu, unsupported, values
from tests.fake_nvml import Calls, Machine, in_process
from tests.trainer_hooks.processes import wait_until

TOTAL, LAST = "nvidia_gpu_xid_errors_total", "nvidia_gpu_xid_last_timestamp_seconds"
NO_LOG = Path("/nonexistent/kmsg")


@pytest.fixture
def collector(nvml: Nvml) -> Iterator[XidCollector]:
    collector = XidCollector(nvml, kernel_log=NO_LOG, wall=lambda: 1_700_000_000.0)
    yield collector
    collector.close()


def line(xid: int, *, bus: str = "0000:01:00", seconds: float | None = None) -> str:
    """A record of /dev/kmsg as the driver writes it, that many seconds after the boot; now if not said."""
    since_boot = time.monotonic() if seconds is None else seconds
    return (
        f"4,1234,{since_boot * 1e6:.0f},-;NVRM: Xid (PCI:{bus}): {xid}, pid=4711, name=python, "
        "GPU has fallen off the bus.\n"
    )


def test_nothing_is_published_before_the_first(machine: Machine, collector: XidCollector) -> None:
    assert collector.collect() == []


def test_events_are_counted_by_gpu_number_and_class(machine: Machine, collector: XidCollector) -> None:
    collector.collect()
    machine.update({"event.0": "1 31", "event.1": "1 79", "event.2": "1 31", "event.3": "0 63"})

    samples = collector.collect()

    assert values(of_gpu(samples, "1"), TOTAL, "xid") == {"31": 2, "79": 1}
    assert values(of_gpu(samples, "0"), TOTAL, "xid") == {"63": 1}
    assert values(of_gpu(samples, "1"), LAST, "xid") == {"31": 1_700_000_000, "79": 1_700_000_000}
    assert {(s.labels["xid"], s.labels["class"]) for s in samples} == {
        ("31", "application"),
        ("79", "hardware"),
        ("63", "noise"),
    }
    assert collector.collect() == samples, "and stay"


@pytest.mark.parametrize(
    ("xid", "kind"),
    [
        *((xid, "hardware") for xid in (48, 62, 64, 74, 79, 94, 95, 119, 120, 0, 999)),
        *((xid, "application") for xid in (13, 31, 43, 45, 68, 109)),
        *((xid, "noise") for xid in (63, 92)),
    ],
)
def test_a_number_says_whose_fault_it_is_and_an_unknown_one_that_somebody_has_to_look(
    xid: int, kind: str
) -> None:
    assert xid_class(str(xid)) == kind


def test_the_errors_of_a_gpu_that_was_lost_by_them_stay(machine: Machine, collector: XidCollector) -> None:
    collector.collect()
    machine.update({"event.0": "1 79", "gpu1.error": 15})

    for _ in range(2):
        assert values(collector.collect(), TOTAL, "gpu") == {"1": 1}


def test_after_the_driver_was_away_events_are_heard_again(machine: Machine, collector: XidCollector) -> None:
    machine.set("event.0", "0 31")
    collector.collect()
    machine.set("driver", "unloaded")
    with pytest.raises(NvmlUnavailableError):
        collector.collect()
    machine.update({"driver": "loaded", "event.1": "0 31"})

    collector.collect()

    assert values(collector.collect(), TOTAL, "gpu") == {"0": 2}


def test_a_gpu_that_is_added_is_heard_too_and_no_set_of_events_is_left(
    calls: Calls, machine: Machine, collector: XidCollector
) -> None:
    collector.collect()
    machine.set("devices", 3)
    collector.collect()
    machine.set("event.0", "2 48")

    assert values(collector.collect(), TOTAL, "gpu") == {"2": 1}
    assert calls.live_event_sets() == 1


def test_a_set_of_events_that_fails_is_made_anew_and_given_back(
    calls: Calls, machine: Machine, collector: XidCollector
) -> None:
    machine.set("error.nvmlEventSetWait_v2", 15)
    for _ in range(5):
        collector.collect()
    machine.unset("error.nvmlEventSetWait_v2")
    collector.collect()
    machine.set("event.0", "0 48")

    assert values(collector.collect(), TOTAL, "gpu") == {"0": 1}
    assert calls.live_event_sets() == 1


def test_a_set_that_fails_to_be_given_back_ends_nobodys_session(
    machine: Machine, collector: XidCollector
) -> None:
    collector.collect()
    machine.update({"error.nvmlEventSetWait_v2": 999, "error.nvmlEventSetFree": 999})
    for _ in range(3):
        assert collector.collect() == []
    machine.unset("error.nvmlEventSetWait_v2", "error.nvmlEventSetFree")
    machine.set("event.0", "0 48")
    collector.collect()

    assert values(collector.collect(), TOTAL, "gpu") == {"0": 1}


def test_a_gpu_lost_as_it_is_registered_is_no_gpu_without_events(
    machine: Machine, collector: XidCollector
) -> None:
    machine.set("gpu1.error.nvmlDeviceRegisterEvents", 15)

    assert collector.collect() == []


def test_a_storm_is_counted_whole_without_taking_the_service_along(
    machine: Machine, collector: XidCollector
) -> None:
    collector.collect()
    machine.set("event.0", "0 31 x2500")
    rounds = []
    for _ in range(4):
        began = time.perf_counter()
        rounds.append(values(collector.collect(), TOTAL, "gpu")["0"])
        print(f"a round of the storm: {time.perf_counter() - began:.3f} s")

    assert rounds == [1000, 2000, 2500, 2500]


def test_numbers_without_end_are_lumped_together(machine: Machine, collector: XidCollector) -> None:
    collector.collect()
    numbers = range(200, 200 + MOST_NUMBERS + 9)
    machine.update({f"event.{index}": f"0 {xid}" for index, xid in enumerate(numbers)})
    machine.set(f"event.{len(numbers)}", "0 123456789")

    machine.set(f"event.{len(numbers) + 1}", "0 13")

    samples = [sample for sample in collector.collect() if sample.metric.name == TOTAL]

    assert len(samples) == MOST_NUMBERS + 2
    lumped = {s.labels["class"]: s.value for s in samples if s.labels["xid"] == "other"}
    assert lumped == {"hardware": 10, "application": 1}, "whose fault it is stays told"


def test_a_gpu_that_reports_no_events_says_why_where_there_is_no_kernel_log(
    machine: Machine, collector: XidCollector, nvml: Nvml, tmp_path: Path
) -> None:
    machine.set("gpu0.error.nvmlDeviceRegisterEvents", 3)

    assert unsupported(collector.collect()) == {TOTAL: "not_supported"}
    assert unsupported(collector.collect(), "1") == {}
    (tmp_path / "kmsg").write_text("")
    assert XidCollector(nvml, kernel_log=tmp_path / "kmsg").collect() == []


def test_a_driver_without_events_says_so(tmp_path: Path) -> None:
    old = fake_nvml.build(tmp_path, without=["nvmlEventSetCreate"])
    with in_process.machine(old, tmp_path / "control"):
        samples = XidCollector(Nvml(), kernel_log=NO_LOG).collect()

    assert unsupported(samples) == unsupported(samples, "1") == {TOTAL: "function_not_found"}


def test_the_kernel_log_tells_what_happened_before_and_what_nvml_does_not(
    machine: Machine, nvml: Nvml, tmp_path: Path
) -> None:
    """Written before the service came, with the time of each; lines of others are passed over."""
    log = tmp_path / "kmsg"
    boot = time.time() - time.monotonic()
    since_boot = time.monotonic() / 2
    log.write_text(
        line(63, seconds=since_boot)
        + "6,1,2,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module\n"
        + " SUBSYSTEM=pci\n"
        + "garbage\n"
        + line(79, seconds=since_boot + 10)
        + line(13, bus="0000:7f:00")
    )
    collector = XidCollector(nvml, kernel_log=log)
    samples = collector.collect()
    assert values(samples, TOTAL, "xid") == {"63": 1, "79": 1}, "in the order of the log"
    assert {s.labels["uuid"] for s in samples} == {UUIDS[1]}
    assert values(samples, LAST, "xid") == {
        "63": pytest.approx(boot + since_boot, abs=2),
        "79": pytest.approx(boot + since_boot + 10, abs=2),
    }

    with log.open("a") as more:
        more.write(line(79)[:40])
        more.flush()
        assert values(collector.collect(), TOTAL, "xid") == {"63": 1, "79": 1}, "half a line is none yet"
        more.write(line(79)[40:])
    assert values(collector.collect(), TOTAL, "xid") == {"63": 1, "79": 2}
    collector.close()


def test_an_error_that_both_report_is_one(machine: Machine, nvml: Nvml, tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("")
    collector = XidCollector(nvml, kernel_log=log)
    collector.collect()
    machine.update({"event.0": "1 31", "event.1": "1 31"})
    with log.open("a") as more:
        more.write(line(31) + line(31) + line(31))

    assert values(collector.collect(), TOTAL, "xid") == {"31": 3}
    collector.close()


def test_the_kernel_log_names_the_instance_of_a_divided_gpu(
    machine: Machine, nvml: Nvml, tmp_path: Path
) -> None:
    log = tmp_path / "kmsg"
    log.write_text(line(31, bus="0000:01:00 GPU-I:05 GPU-CI:00") + line(31, bus="zz:::") + line(13))
    collector = XidCollector(nvml, kernel_log=log)

    assert values(collector.collect(), TOTAL, "xid") == {"31": 1, "13": 1}
    collector.close()


def test_the_time_of_the_last_is_the_later_of_both(machine: Machine, nvml: Nvml, tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text(line(31, seconds=time.monotonic() / 2))
    machine.set("event.0", "1 31")
    collector = XidCollector(nvml, kernel_log=log, wall=lambda: 1_700_000_000.0)

    assert values(collector.collect(), LAST, "xid") == {"31": 1_700_000_000}
    collector.close()


def test_while_nvml_is_away_the_kernel_log_goes_on_telling(
    machine: Machine, nvml: Nvml, tmp_path: Path
) -> None:
    """The faults that take the driver along are told by it alone."""
    log = tmp_path / "kmsg"
    log.write_text("")
    collector = XidCollector(nvml, kernel_log=log)
    collector.collect()
    machine.set("driver", "unloaded")
    with log.open("a") as more:
        more.write(line(119))

    assert values(collector.collect(), TOTAL, "xid") == {"119": 1}
    collector.close()


def test_what_the_kernel_log_said_before_a_gpu_is_known_is_told_once_it_is(
    machine: Machine, nvml: Nvml, tmp_path: Path
) -> None:
    """The service starts while the driver is away, or while one GPU does not answer."""
    log = tmp_path / "kmsg"
    log.write_text(line(79) + line(31, bus="0000:00:00"))
    machine.update({"driver": "unloaded", "gpu1.error.nvmlDeviceGetUUID": 15})
    collector = XidCollector(nvml, kernel_log=log)
    assert collector.collect() == []

    machine.set("driver", "loaded")
    assert values(collector.collect(), TOTAL, "gpu") == {"0": 1}
    machine.unset("gpu1.error.nvmlDeviceGetUUID")
    assert values(collector.collect(), TOTAL, "gpu") == {"0": 1, "1": 1}
    collector.close()


def test_the_kernel_log_tells_though_the_driver_hangs_as_it_opens(
    machine: Machine, nvml: Nvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml_module, "_OPEN_SECONDS", 0.05)
    log = tmp_path / "kmsg"
    log.write_text("")
    collector = XidCollector(nvml, kernel_log=log)
    collector.collect()
    nvml.close()
    wait_until(lambda: nvml.is_closed)
    machine.set("hang.nvmlInitWithFlags", 60)
    hanging = threading.Thread(target=DeviceCollector(nvml).collect, daemon=True)
    hanging.start()
    wait_until(lambda: not nvml.is_closed)
    with log.open("a") as more:
        more.write(line(119))

    assert values(collector.collect(), TOTAL, "xid") == {"119": 1}
    machine.unset("hang.nvmlInitWithFlags")
    hanging.join(20)
    collector.close()


class Log:
    """A pipe in the place of the kernel's log: it can be empty, and it can fail."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._writer = os.open(path, os.O_RDWR)

    def write(self, text: str) -> None:
        os.write(self._writer, text.encode())

    def close(self) -> None:
        os.close(self._writer)


def test_an_empty_kernel_log_is_not_waited_for(machine: Machine, nvml: Nvml, tmp_path: Path) -> None:
    log = Log(tmp_path / "kmsg")
    collector = XidCollector(nvml, kernel_log=log.path)
    log.write(line(79))
    for _ in range(2):
        assert values(collector.collect(), TOTAL, "xid") == {"79": 1}
    log.close()
    collector.close()


@pytest.mark.parametrize(
    ("fault", "goes_on"), [(BrokenPipeError(), True), (OSError(5, "Input/output error"), False)]
)
def test_messages_that_were_overwritten_are_passed_over_and_a_log_that_fails_is_let_go(
    machine: Machine,
    nvml: Nvml,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: OSError,
    goes_on: bool,
) -> None:
    log = Log(tmp_path / "kmsg")
    collector = XidCollector(nvml, kernel_log=log.path)
    log.write(line(79))
    collector.collect()
    faults, read = [fault], os.read

    def read_faulty(descriptor: int, length: int) -> bytes:
        if faults:
            raise faults.pop()
        return read(descriptor, length)

    monkeypatch.setattr(os, "read", read_faulty)
    log.write(line(79))

    assert values(collector.collect(), TOTAL, "xid") == {"79": 2 if goes_on else 1}
    log.close()
    collector.close()
