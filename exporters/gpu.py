"""GPUs by NVML: which there are, whether they answer, their memory and their utilization.

NVML is the library beneath nvidia-smi; it needs no root and no daemon. One session is opened and kept: it
ends when the driver says that it is over, and the next round opens another. None of the calls made here
waits for a sample.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pynvml

from exporters import catalog
from exporters.collector import Sample

# A device that answers one of these is gone until it is reset.
LOST = {pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED}
# The session is over, for every device: the driver was unloaded or replaced.
SESSION_OVER = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
}
INFO_LABELS = ("name", "driver_version", "vbios", "pci_bus_id", "serial", "mig_mode")


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    """Who a GPU is; None for what NVML cannot tell of it. `index` is NVML's, which is not CUDA's."""

    index: int
    uuid: str
    name: str | None = None
    driver_version: str | None = None
    vbios: str | None = None
    pci_bus_id: str | None = None
    serial: str | None = None
    mig_mode: str | None = None


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one moment: percentages from 0 to 100; None for what NVML does not give.

    `memory_used_bytes` does not contain `memory_reserved_bytes`, the driver's own share.
    """

    identity: GpuIdentity
    up: bool
    utilization_percent: float | None = None
    memory_controller_active_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    memory_reserved_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class NodeReading:
    """The GPUs of a node: how many the driver counts, and each that answers now or has answered before."""

    devices: int
    gpus: tuple[GpuReading, ...]


class NvmlUnavailableError(RuntimeError):
    """NVML gives nothing at all; `problem` says why, `remedy` the one thing to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class GpuCollector:
    """Reads every GPU of this node; of a GPU that is lost it keeps saying who it was, and that it is down."""

    name = "gpu"
    interval_seconds = 5.0
    deadline_seconds = 10.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._session_open = False
        self._driver_version: str | None = None
        self._devices: dict[int, _Device] = {}
        self._seen: dict[str, GpuIdentity] = {}

    def collect(self) -> list[Sample]:
        """Raises NvmlUnavailableError when there is no library, no driver, or no access to it."""
        return node_samples(self.read())

    def read(self) -> NodeReading:
        """Ask NVML now, opening a session where none is open; raises as `collect` does."""
        with self._lock:
            try:
                self._open()
                return self._read()
            except pynvml.NVMLError as error:
                self._shut_down()
                raise _unavailable(error) from error

    def close(self) -> None:
        """End the NVML session, which keeps the driver from being unloaded.

        Leaves it open when a call into NVML hangs, since this one would hang too.
        """
        if self._lock.acquire(timeout=1.0):
            try:
                self._shut_down()
            finally:
                self._lock.release()

    def _open(self) -> None:
        if not self._session_open:
            _call(pynvml.nvmlInitWithFlags, pynvml.NVML_INIT_FLAG_NO_GPUS)
            self._session_open = True
            self._driver_version = _text(set(), pynvml.nvmlSystemGetDriverVersion)

    def _shut_down(self) -> None:
        self._devices.clear()
        if self._session_open:
            self._session_open = False
            # A driver that went away has ended the session already, and says so.
            with contextlib.suppress(pynvml.NVMLError):
                _call(pynvml.nvmlShutdown)

    def _read(self) -> NodeReading:
        count = int(_call(pynvml.nvmlDeviceGetCount))
        if any(index >= count for index in self._devices):
            self._devices.clear()
        answering = {}
        for index in range(count):
            reading = self._read_gpu(index)
            if reading is not None:
                answering[reading.identity.uuid] = reading
                self._seen[reading.identity.uuid] = reading.identity
        lost = [
            GpuReading(identity, up=False) for uuid, identity in self._seen.items() if uuid not in answering
        ]
        gpus = sorted([*answering.values(), *lost], key=lambda gpu: gpu.identity.index)
        return NodeReading(count, tuple(gpus))

    def _read_gpu(self, index: int) -> GpuReading | None:
        """None when the GPU does not answer."""
        try:
            device = self._devices.get(index) or _identify(index, self._driver_version)
            if device is None:
                return None
            self._devices[index] = device
            return _read_device(device)
        except _GpuLost:
            return None


@dataclass(frozen=True, slots=True)
class _Device:
    """A GPU of the open session: NVML's handle on it, and who it is."""

    handle: Any
    identity: GpuIdentity


class _GpuLost(Exception):  # noqa: N818 - a state of the device, caught in this file
    pass


def _identify(index: int, driver_version: str | None) -> _Device | None:
    """None when the device cannot be addressed; without its uuid there is nothing to publish it under."""
    faults: set[int] = set()
    handle = _answer(faults, pynvml.nvmlDeviceGetHandleByIndex, index)
    uuid = _text(faults, pynvml.nvmlDeviceGetUUID, handle) if handle else None
    if uuid is None:
        return None
    pci = _answer(faults, pynvml.nvmlDeviceGetPciInfo, handle)
    return _Device(
        handle,
        GpuIdentity(
            index,
            uuid,
            name=_text(faults, pynvml.nvmlDeviceGetName, handle),
            driver_version=driver_version,
            vbios=_text(faults, pynvml.nvmlDeviceGetVbiosVersion, handle),
            pci_bus_id=pci.busId if pci else None,
            serial=_text(faults, pynvml.nvmlDeviceGetSerial, handle),
        ),
    )


def _read_device(device: _Device) -> GpuReading:
    faults: set[int] = set()
    memory = _answer(faults, pynvml.nvmlDeviceGetMemoryInfo, device.handle, pynvml.nvmlMemory_v2)
    utilization = _answer(faults, pynvml.nvmlDeviceGetUtilizationRates, device.handle)
    # MIG can be switched on a Hopper GPU while it is in use, so it is read anew each time.
    mig = _answer(faults, pynvml.nvmlDeviceGetMigMode, device.handle)
    if pynvml.NVML_ERROR_UNKNOWN in faults and memory is None and utilization is None:
        # One call may say "unknown error" of itself; a device that says nothing else is gone.
        raise _GpuLost
    mig_mode = None if mig is None else "enabled" if mig[0] == pynvml.NVML_DEVICE_MIG_ENABLE else "disabled"
    return GpuReading(
        replace(device.identity, mig_mode=mig_mode),
        up=True,
        utilization_percent=utilization.gpu if utilization else None,
        memory_controller_active_percent=utilization.memory if utilization else None,
        memory_used_bytes=memory.used if memory else None,
        memory_total_bytes=memory.total if memory else None,
        memory_reserved_bytes=memory.reserved if memory else None,
    )


def node_samples(node: NodeReading) -> list[Sample]:
    """The series of a reading: an unknown value has none, a lost GPU has only its identity and `up` 0."""
    samples = [Sample(catalog.NVIDIA_GPU_DEVICES, {}, float(node.devices))]
    for gpu in node.gpus:
        samples.extend(gpu_samples(gpu))
    return samples


def gpu_samples(gpu: GpuReading) -> Iterable[Sample]:
    labels = {"gpu": str(gpu.identity.index), "uuid": gpu.identity.uuid}
    known = {label: value for label in INFO_LABELS if (value := getattr(gpu.identity, label))}
    yield Sample(catalog.NVIDIA_GPU_INFO, {**labels, **known}, 1.0)
    yield Sample(catalog.NVIDIA_GPU_UP, labels, float(gpu.up))
    for metric, value in (
        (catalog.NVIDIA_GPU_UTILIZATION_PERCENT, gpu.utilization_percent),
        (catalog.NVIDIA_GPU_MEMORY_CONTROLLER_ACTIVE_PERCENT, gpu.memory_controller_active_percent),
        (catalog.NVIDIA_GPU_MEMORY_USED_BYTES, gpu.memory_used_bytes),
        (catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES, gpu.memory_total_bytes),
        (catalog.NVIDIA_GPU_MEMORY_RESERVED_BYTES, gpu.memory_reserved_bytes),
    ):
        if value is not None:
            yield Sample(metric, labels, float(value))


def _call(function: Callable[..., Any], *arguments: object) -> Any:
    """One call into pynvml, which has no types; raises NVMLError."""
    return function(*arguments)


def _code(error: pynvml.NVMLError) -> int:
    return int(error.value)  # type: ignore[attr-defined]  # set in NVMLError.__new__


def _answer(faults: set[int], function: Callable[..., Any], *arguments: object) -> Any:
    """The answer, or None with NVML's error code put into `faults`.

    Raises _GpuLost when the device is gone, and the NVMLError when the session is over.
    """
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        code = _code(error)
        if code in SESSION_OVER:
            raise
        if code in LOST:
            raise _GpuLost from error
        faults.add(code)
        return None


def _text(faults: set[int], function: Callable[..., Any], *arguments: object) -> str | None:
    """Like `_answer`, for a string; bytes that are no UTF-8 become U+FFFD, where pynvml would give up."""
    try:
        answer = _answer(faults, function, *arguments)
    except UnicodeDecodeError as error:
        return error.object.decode(errors="replace")
    return None if answer is None else str(answer)


def _unavailable(error: pynvml.NVMLError) -> NvmlUnavailableError:
    problem, remedy = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
            "no NVIDIA driver here: libnvidia-ml.so.1 is not found",
            "install the driver, or start the container with its GPUs and the capability `utility`",
        ),
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
            "the NVIDIA driver is installed but not loaded",
            "load it with `modprobe nvidia`",
        ),
        pynvml.NVML_ERROR_NO_PERMISSION: (
            "the NVIDIA driver refuses this user",
            "give it read and write access to /dev/nvidiactl and /dev/nvidia0 …",
        ),
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "the loaded NVIDIA driver and libnvidia-ml.so.1 are of different versions",
            "restart this service, or the machine if nvidia-smi says the same",
        ),
    }.get(_code(error), (f"NVML fails: {error}", "run `nvidia-smi`, which uses the same library"))
    return NvmlUnavailableError(problem, remedy)
