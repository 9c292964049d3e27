"""XID errors, the driver's reports of a GPU's faults: NVML's events, and the kernel log where it is readable.

Both see the same errors, each perhaps not all: of a GPU that fell off the bus NVML tells nothing more, and a
container has no kernel log. A count is the higher one of the two.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_void_p, cast
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pynvml

from exporters import catalog
from exporters.collector import Sample
from exporters.gpu.nvml import LOST, Device, Nvml, NvmlCollector, NvmlUnavailableError, Session, call, code_of
from exporters.gpu.reading import REASONS, unsupported

XidClass = Literal["hardware", "application", "noise"]

# After NVIDIA's catalogue of XID errors. What is not named here is hardware: somebody has to look.
APPLICATION = frozenset({8, 13, 31, 32, 37, 43, 44, 45, 66, 68, 69, 109, 137})
NOISE = frozenset({63, 92})
MOST_NUMBERS = 32  # of one GPU; the others count together
OTHER = "other"
KERNEL_LOG = Path("/dev/kmsg")

_LINE = re.compile(
    rb"^\d+,\d+,(?P<microseconds>\d+),[^;]*;NVRM: Xid \(PCI:(?P<bus>[0-9a-fA-F:.]+)[^)]*\): (?P<xid>\d+)"
)
_EVENTS_A_ROUND = 1000  # the rest of a storm waits for the next
_WAIT_MILLISECONDS = 10
_LOG_BYTES_A_ROUND = 16 * 1024**2


class Seen(NamedTuple):
    """How often an XID was seen, and when last, in unix seconds."""

    times: int
    last: float


class _Key(NamedTuple):
    gpu: str  # its uuid, or its address on the bus
    xid: str  # its number, or OTHER
    kind: XidClass


class XidCollector(NvmlCollector):
    """Counts XID errors by GPU and number, those of a GPU that is lost since included."""

    name = "gpu_xid"
    interval_seconds = 1.0
    deadline_seconds = 10.0

    def __init__(
        self, nvml: Nvml, *, kernel_log: Path = KERNEL_LOG, wall: Callable[[], float] = time.time
    ) -> None:
        super().__init__(nvml)
        self._wall = wall
        self._kernel_log = _KernelLog(kernel_log)
        self._devices: dict[str, Device] = {}
        self._by_event: dict[_Key, Seen] = {}
        self._by_log: dict[_Key, Seen] = {}
        self._session_number = 0
        self._events: Any = None
        self._must_register = True
        self._registered: set[str] = set()
        self._uuids: dict[int | None, str] = {}
        self._refused: dict[str, int] = {}

    def collect(self) -> list[Sample]:
        """Raises NvmlUnavailableError as the others do, where there is no kernel log to go on with."""
        self._take_log()
        try:
            with self._nvml.session() as session:
                self._listen(session)
        except NvmlUnavailableError:
            # The faults that take NVML along are told by the kernel log alone.
            if not self._kernel_log.readable:
                raise
        return list(self._samples())

    def close(self) -> None:
        self._kernel_log.close()

    def _listen(self, session: Session) -> None:
        devices = session.devices()
        if session.number != self._session_number:
            # The set of an ended session is gone with it.
            self._session_number, self._events, self._must_register = session.number, None, True
        if self._must_register or {each.uuid for each in devices} != self._registered:
            self._register(devices)
        self._take_events()

    def _register(self, devices: Sequence[Device]) -> None:
        if self._events is not None:
            try:
                call(pynvml.nvmlEventSetFree, self._events)
            except pynvml.NVMLError as error:
                code_of(error)  # of a set that has failed
        self._events, self._uuids, self._refused, self._must_register = None, {}, {}, False
        self._registered = {device.uuid for device in devices}
        self._devices.update({device.uuid: device for device in devices})
        try:
            self._events = call(pynvml.nvmlEventSetCreate)
        except pynvml.NVMLError as error:
            self._refused = dict.fromkeys((device.uuid for device in devices), code_of(error))
            return
        for device in devices:
            # Its uuid is kept: a lost GPU cannot be asked.
            self._uuids[_address(device.handle)] = device.uuid
            try:
                call(
                    pynvml.nvmlDeviceRegisterEvents,
                    *(device.handle, pynvml.nvmlEventTypeXidCriticalError, self._events),
                )
            except pynvml.NVMLError as error:
                self._refused[device.uuid] = code_of(error)

    def _take_events(self) -> None:
        if self._events is None:
            return
        for _ in range(_EVENTS_A_ROUND):
            try:
                event = call(pynvml.nvmlEventSetWait_v2, self._events, _WAIT_MILLISECONDS)
            except pynvml.NVMLError as error:
                # A set may fail for good, by a GPU that is lost for example.
                self._must_register = code_of(error) != pynvml.NVML_ERROR_TIMEOUT
                return
            uuid = self._uuids.get(_address(event.device))
            if uuid is not None and event.eventType == pynvml.nvmlEventTypeXidCriticalError:
                _count(self._by_event, uuid, event.eventData, self._wall())

    def _take_log(self) -> None:
        """Count by the address on the bus: the log is read before anybody has asked which GPU that is."""
        boot = self._wall() - time.monotonic()
        for line in self._kernel_log.new_lines():
            found = _LINE.match(line)
            bus = _bus(found["bus"].decode()) if found else None
            if found and bus:
                _count(self._by_log, bus, int(found["xid"]), boot + int(found["microseconds"]) / 1e6)

    def _samples(self) -> Iterator[Sample]:
        by_bus = {_bus(device.pci_bus_id or ""): uuid for uuid, device in self._devices.items()}
        by_log = {
            key._replace(gpu=by_bus[key.gpu]): seen for key, seen in self._by_log.items() if key.gpu in by_bus
        }
        for key in sorted(self._by_event.keys() | by_log.keys()):
            seen = [each[key] for each in (self._by_event, by_log) if key in each]
            labels = {**self._devices[key.gpu].labels, "xid": key.xid, "class": key.kind}
            times = max(each.times for each in seen)
            yield Sample(catalog.NVIDIA_GPU_XID_ERRORS_TOTAL, labels, float(times))
            last = max(each.last for each in seen)
            yield Sample(catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS, labels, round(last, 3))
        if not self._kernel_log.readable:
            for uuid, code in self._refused.items():
                if code not in LOST:
                    reason = REASONS.get(code, "failed")
                    yield unsupported(self._devices[uuid], catalog.NVIDIA_GPU_XID_ERRORS_TOTAL, reason)


def xid_class(xid: str) -> XidClass:
    """Whether the hardware is at fault, the program that ran on it, or nobody."""
    number = int(xid) if xid.isdecimal() else 0
    return "application" if number in APPLICATION else "noise" if number in NOISE else "hardware"


def _count(seen: dict[_Key, Seen], gpu: str, number: int, moment: float) -> None:
    key = _Key(gpu, str(number), xid_class(str(number)))
    numbers = sum(each.gpu == gpu and each.xid != OTHER for each in seen)
    if key not in seen and (numbers >= MOST_NUMBERS or not 0 < number < 1000):
        key = key._replace(xid=OTHER)
    before = seen.get(key, Seen(0, moment))
    seen[key] = Seen(before.times + 1, max(before.last, moment))


def _address(handle: Any) -> int | None:
    return cast(handle, c_void_p).value


def _bus(bus_id: str) -> str | None:
    """Domain, bus and device; NVML writes 00000000:3B:00.0, the kernel log 0000:3b:00. Else None."""
    try:
        domain, bus, device = (int(part, 16) for part in bus_id.partition(".")[0].split(":"))
    except ValueError:
        return None
    return f"{domain:04x}:{bus:02x}:{device:02x}"


class _KernelLog:
    """The kernel's ring of messages, read from its oldest on; empty where it may not be read."""

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        self._rest = b""
        with contextlib.suppress(OSError):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def readable(self) -> bool:
        return self._descriptor is not None

    def new_lines(self) -> Iterator[bytes]:
        taken = 0
        while self._descriptor is not None and taken < _LOG_BYTES_A_ROUND:
            try:
                record = os.read(self._descriptor, 8192)
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # older messages were overwritten: it goes on with the oldest there is
            except OSError:
                self.close()
                return
            if not record:
                return
            taken += len(record)
            *lines, self._rest = (self._rest + record).split(b"\n")
            yield from lines

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
