"""The CUDA devices of this process: which they are, their memory, and the time work takes on them.

CUDA is never initialised here: there is something to tell once the trainer has done so. Nothing waits for a
device, resets a statistic, or touches a stream on which a graph is being captured.
"""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Sequence
from math import nan
from typing import Any, NamedTuple

from trainer_hooks import peak_flops
from trainer_hooks.recording import DEVICE_PHASES, PHASES, SLOT

LOOK_EVERY_NS = 1_000_000_000
NEVER = 1 << 63
_MOST_EVENTS = 256
_MIG = re.compile(
    r"MIG-(GPU-)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(?(1)/\d+/\d+)", re.IGNORECASE
)  # whole: CUDA takes beginnings, too
_NO_TIME = -1
_PLACES = tuple(DEVICE_PHASES.index(name) if name in DEVICE_PHASES else _NO_TIME for name in PHASES)


class Gpu(NamedTuple):
    """A device by the name the driver gives it, and its uuid in NVML's form; None where that is not known."""

    name: str
    uuid: str | None


class Memory(NamedTuple):
    """Of torch's allocator, summed over the devices; bytes, and how often it had to empty its cache."""

    allocated: int
    reserved: int
    reserved_peak: int
    alloc_retries: int


class Devices:
    """The devices on which the process has memory; before it has any, the current one."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._cuda = torch.cuda

    def look(self) -> tuple[Memory, tuple[int, ...]]:
        """The allocator's statistics, and the devices in use."""
        cuda = self._cuda
        used = []
        sums = [0, 0, 0, 0]
        for index in range(cuda.device_count()):
            statistics = cuda.memory_stats_as_nested_dict(index)
            reserved = statistics["reserved_bytes"]["all"]
            if reserved["peak"]:
                used.append(index)
                sums[0] += statistics["allocated_bytes"]["all"]["current"]
                sums[1] += reserved["current"]
                sums[2] += reserved["peak"]
                sums[3] += statistics["num_alloc_retries"]
        return Memory(*sums), tuple(used) or (cuda.current_device(),)

    def gpu(self, index: int) -> Gpu:
        properties = self._cuda.get_device_properties(index)
        return Gpu(properties.name, self._uuid(index, properties))

    def _uuid(self, index: int, properties: Any) -> str | None:
        visible = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
        told = visible[index] if index < len(visible) else ""
        if told.startswith("MIG-") or " MIG " in properties.name:
            return told if _MIG.fullmatch(told) else None
        uuid = getattr(properties, "uuid", None)  # not before torch 2.4
        return None if uuid is None or self._torch.version.hip else f"GPU-{uuid}"

    def peak_flops(self, gpus: Sequence[Gpu], precision: str | None) -> float | None:
        """FLOP/s of all these at most, at the precision; None where one of them is not known."""
        tf32 = _may_use_tf32(self._torch.backends.cuda.matmul)
        peaks = [peak_flops.of_device(gpu.name, precision, tf32=tf32) for gpu in gpus]
        known = [peak for peak in peaks if peak is not None]
        return sum(known) if len(known) == len(peaks) else None


def visible_to(local_rank: int) -> str | None:
    """The device that CUDA_VISIBLE_DEVICES leaves this rank, as written there: an index, or a uuid.

    It tells a GPU where torch does not, or not yet. The only one is any rank's; of several it is that of the
    rank's place on the node, None where it has none. CUDA sees none from the first on that is not valid.
    """
    entries: list[str] = []
    for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","):
        if not entry.strip() or entry.strip().startswith("-"):
            break
        entries.append(entry.strip()[:128])
    if len(entries) == 1:
        return entries[0]
    return entries[local_rank] if local_rank < len(entries) else None


def initialised() -> Any:
    """The torch module, where its CUDA has been initialised by the trainer; else None."""
    torch = sys.modules.get("torch")
    is_initialised = getattr(getattr(torch, "cuda", None), "is_initialized", None)
    return torch if is_initialised is not None and is_initialised() else None


def _may_use_tf32(matmul: Any) -> bool:
    told = getattr(matmul, "fp32_precision", None)  # since torch 2.9, which warns of the other name
    return bool(matmul.allow_tf32) if told is None else told == "tf32"


class _Border(NamedTuple):
    event: Any  # None where there could be none
    device: int
    place: int  # among DEVICE_PHASES of what begins here


class Timeline:
    """Time on the device of each of DEVICE_PHASES: from one border to the next, as the device came to them.

    A border is an event on the stream that is current, so waits within a phase, the device's for the host
    too, are part of it. Phases whose events cannot be had (all in flight, a graph being captured, a change
    of device) are left out and told to `dropped`.
    """

    def __init__(self, torch: Any, dropped: Callable[[], None]) -> None:
        self.seconds = [0.0] * len(DEVICE_PHASES)
        self._cuda = torch.cuda
        self._capturing = torch.cuda.is_current_stream_capturing
        self._dropped = dropped
        self._borders: deque[_Border] = deque()
        self._free: dict[int, list[Any]] = {}
        self._made = 0

    def border(self, before: int, after: int) -> None:
        """Phase `before` of PHASES ends here, and `after` begins."""
        place = _PLACES[after]
        if place != _PLACES[before]:
            device = self._cuda.current_device()
            self._borders.append(_Border(self._event(device), device, place))
            if len(self._borders) > 2 * _MOST_EVENTS:  # a long capture
                self.abandon()

    def _event(self, device: int) -> Any:
        if self._capturing():
            return None
        free = self._free.setdefault(device, [])
        if not free:
            if self._made < _MOST_EVENTS:
                self._made += 1
                free.append(self._cuda.Event(enable_timing=True))
            else:
                self.resolve()
        if not free:
            return None
        free[-1].record(self._cuda.current_stream(device))  # without the device torch takes longer to find it
        return free.pop()

    def resolve(self) -> None:
        """Add up what the device has come to. Raises RuntimeError where the device fails."""
        if self._capturing():
            return
        borders = self._borders
        try:
            while len(borders) > 1:
                begin, end = borders[0], borders[1]
                if end.event is not None and not end.event.query():
                    return
                if begin.place != _NO_TIME and begin.event is not None and not begin.event.query():
                    return  # of a stream that is further behind
                self._pass_over()
        except Exception:
            self.abandon()
            raise

    def _pass_over(self) -> None:
        """Take the oldest border away, and what lies behind it into account."""
        begin = self._borders.popleft()
        if self._borders and begin.place != _NO_TIME:
            end = self._borders[0]
            if begin.event is None or end.event is None or begin.device != end.device:
                self._dropped()
            else:
                self.seconds[begin.place] += begin.event.elapsed_time(end.event) / 1000
        if begin.event is not None:
            self._free[begin.device].append(begin.event)

    def abandon(self) -> None:
        """Nobody asks any more; what has not been added up is left out."""
        borders, self._borders = self._borders, deque()
        for at, border in enumerate(borders):
            if border.event is not None:
                self._free[border.device].append(border.event)
            if border.place != _NO_TIME and at + 1 < len(borders):
                self._dropped()


class Watch:
    """What a recording holds of the devices: nothing before the trainer has brought CUDA up.

    A look that fails is the last, and so is a device that fails: it is not asked again.

    Args:
        dropped: told of each phase whose time on a device is left out.
        event: told of the devices in use, whenever there are others.
    """

    def __init__(self, dropped: Callable[[], None], event: Callable[..., None]) -> None:
        self.timeline: Timeline | None = None
        self._dropped = dropped
        self._event = event
        self._devices: Devices | None = None
        self._used: tuple[int, ...] = ()

    def look(self, doubles: Any, now: int, precision: str | None) -> int:
        """Take what torch's allocator says, and which devices there are; the time of the next look, in ns."""
        if self._devices is None:
            torch = initialised()
            if torch is None or torch.cuda.is_current_stream_capturing():
                return now + LOOK_EVERY_NS
            self._devices = Devices(torch)
            self.timeline = Timeline(torch, self._dropped)
            self.take_time(doubles)
        memory, used = self._devices.look()
        doubles[_ALLOCATED], doubles[_RESERVED], doubles[_RESERVED_PEAK], doubles[_ALLOC_RETRIES] = memory
        if used != self._used:
            self._used = used
            gpus = [self._devices.gpu(index) for index in used]
            names = ",".join(sorted({gpu.name for gpu in gpus}))
            uuids = ",".join(gpu.uuid for gpu in gpus if gpu.uuid)
            self._event("info", device=names, **({"gpu_uuid": uuids} if uuids else {}))
            peak = self._devices.peak_flops(gpus, precision)
            doubles[_PEAK_FLOPS] = nan if peak is None else peak
        return now + LOOK_EVERY_NS

    def forget(self) -> None:
        """At the next look, tell of the devices as if there were others."""
        self._used = ()

    def take_time(self, doubles: Any) -> None:
        """Take the time of the phases on the devices, as far as they have come."""
        timeline, self.timeline = self.timeline, None
        if timeline is not None:
            timeline.resolve()
            self.timeline = timeline
            for slot, seconds in enumerate(timeline.seconds, _DEVICE_SECONDS):
                doubles[slot] = seconds


_DEVICE_SECONDS = SLOT["device_seconds"]
_ALLOCATED, _RESERVED = SLOT["cuda_allocated_bytes"], SLOT["cuda_reserved_bytes"]
_RESERVED_PEAK, _ALLOC_RETRIES = SLOT["cuda_reserved_peak_bytes"], SLOT["cuda_alloc_retries"]
_PEAK_FLOPS = SLOT["peak_flops"]
