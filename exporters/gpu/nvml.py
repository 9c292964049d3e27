"""One session with NVML, shared by all collectors, and the errors of its calls.

A collector holds the session for a round by `Nvml.session()`; it is closed only when nobody holds it, so no
call ever meets a library that another thread has shut down. The session ends when the driver says that it is
over or when it is released; the next round opens another.
"""

from __future__ import annotations

import abc
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pynvml

from exporters.collector import Sample

# A device that answers one of these is gone until it is reset.
LOST = {pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED}
# The session is over, for every device: the driver was unloaded or replaced.
SESSION_OVER = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
}
_CLOSE_SECONDS = 1.0
_OPEN_SECONDS = 5.0  # less than any deadline


class NvmlUnavailableError(RuntimeError):
    """NVML gives nothing at all; `problem` says why, `remedy` the one thing to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


class GpuLostError(Exception):
    """The device does not answer any more."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU of the open session: NVML's handle on it, and who it is. `index` is NVML's, not CUDA's.

    None is what NVML cannot tell of it.
    """

    handle: Any
    index: int
    uuid: str
    name: str | None
    driver_version: str | None
    vbios: str | None
    pci_bus_id: str | None
    serial: str | None

    @property
    def labels(self) -> dict[str, str]:
        return {"gpu": str(self.index), "uuid": self.uuid}


class Session:
    """NVML from its opening to its closing, for all collectors; no other session has its `number`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.driver_version = None
        with contextlib.suppress(GpuLostError):  # no answer of a machine, but no reason to fail
            self.driver_version = text(pynvml.nvmlSystemGetDriverVersion)
        self.count = 0
        self._devices: dict[int, Device] = {}

    def devices(self) -> list[Device]:
        """The GPUs that can be addressed, by index; `count` is how many the driver reports.

        Without its uuid there is nothing to publish a GPU under. Raises NVMLError when the session is over.
        """
        count = int(call(pynvml.nvmlDeviceGetCount))
        if count != self.count:
            # One that went or came may have moved the others to another index.
            self._devices, self.count = {}, count
        known = self._devices
        for index in range(count):
            if index not in known:
                with contextlib.suppress(GpuLostError):
                    device = _identify(index, self.driver_version)
                    if device is not None:
                        known[index] = device
        return [known[index] for index in sorted(known)]


class Nvml:
    """Opens the session when it is asked for, and closes it when it is over or released.

    NVML is never called with the lock held: a library that hangs as it opens or closes holds up those who
    want the session, and nobody else.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._state: Literal["closed", "opening", "open", "closing"] = "closed"
        self._session: Session | None = None
        self._holders = 0
        self._over = False
        self._opened = 0
        self._released_until = -math.inf

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Hold the session for a round, opened where there is none.

        Raises NvmlUnavailableError when there is no library, no driver, no access to it, or NVML is released.
        """
        try:
            session = self._acquire()
        except pynvml.NVMLError as error:
            raise _unavailable(error) from error
        try:
            yield session
        except pynvml.NVMLError as error:
            self._over = True
            raise _unavailable(error) from error
        finally:
            with self._changed:
                self._holders -= 1
                self._close_if_idle()

    def release(self, seconds: float, *, wait_seconds: float = 5.0) -> bool:
        """Close the session, and open none for so long: for a driver's reload, or a change of MIG.

        False when a call into NVML does not return within `wait_seconds`: the session closes once it does.
        """
        self._released_until = self._monotonic() + seconds
        return self._close_within(wait_seconds)

    @property
    def released_seconds(self) -> float:
        """How long NVML stays released yet; 0 when it is not."""
        return max(0.0, self._released_until - self._monotonic())

    @property
    def is_closed(self) -> bool:
        return self._state == "closed"

    def resume(self) -> None:
        """End a release before its time."""
        self._released_until = -math.inf

    def close(self) -> None:
        """End the session; one in which a call hangs is left, and ends when it returns."""
        self._close_within(_CLOSE_SECONDS)

    def _acquire(self) -> Session:
        with self._changed:
            if not self._changed.wait_for(lambda: self._state in ("closed", "open"), _OPEN_SECONDS):
                raise NvmlUnavailableError(
                    "the driver does not answer as NVML is opened or closed", "look for NVRM lines in `dmesg`"
                )
            if self.released_seconds:
                raise NvmlUnavailableError("NVML is released", "it is taken up again by itself")
            if self._session is not None:
                if self._over:
                    self._close_if_idle()
                    raise NvmlUnavailableError(
                        "the session with NVML is over, and a call of it goes on",
                        "look for NVRM lines in `dmesg` if this lasts",
                    )
                self._holders += 1
                return self._session
            self._state, self._over = "opening", False
            self._opened += 1
        session = None
        try:
            session = _open(self._opened)
            return session
        finally:
            with self._changed:
                self._session = session
                self._state = "closed" if session is None else "open"
                self._holders += session is not None
                self._changed.notify_all()

    def _close_within(self, seconds: float) -> bool:
        with self._changed:
            opened = self._opened
            self._over = self._state in ("opening", "open")
            self._close_if_idle()
            return self._changed.wait_for(lambda: self._state == "closed" or self._opened > opened, seconds)

    def _close_if_idle(self) -> None:
        if self._over and not self._holders and self._state == "open":
            with contextlib.suppress(RuntimeError):  # no thread to be had: the next round tries again
                threading.Thread(target=self._shut_down, name="nvml-shutdown", daemon=True).start()
                self._state, self._session = "closing", None

    def _shut_down(self) -> None:
        try:
            # A driver that went away has ended the session already, and says so.
            with contextlib.suppress(pynvml.NVMLError):
                call(pynvml.nvmlShutdown)
        finally:
            with self._changed:
                self._state = "closed"
                self._changed.notify_all()


def _open(number: int) -> Session:
    call(pynvml.nvmlInitWithFlags, pynvml.NVML_INIT_FLAG_NO_GPUS)
    try:
        return Session(number)
    except BaseException:
        # Each initialization wants its own shutdown, or the driver stays held.
        with contextlib.suppress(pynvml.NVMLError):
            call(pynvml.nvmlShutdown)
        raise


class NvmlCollector:
    """What collectors over the shared session have in common."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml

    def close(self) -> None:
        """Nothing to end: the session is the other collectors' too."""


class EachGpuCollector(NvmlCollector, abc.ABC):
    """A collector that asks GPU by GPU, and leaves out one that is lost."""

    def collect(self) -> list[Sample]:
        """Raises NvmlUnavailableError when there is no library, no driver, or no access to it."""
        samples: list[Sample] = []
        with self._nvml.session() as session:
            for device in session.devices():
                with contextlib.suppress(GpuLostError):
                    samples += self.read(device)
        return samples

    @abc.abstractmethod
    def read(self, device: Device) -> list[Sample]:
        """What the device says; raises GpuLostError, and NVMLError when the session is over."""


def call(function: Callable[..., Any], *arguments: object) -> Any:
    """One call into pynvml, which has no types; raises NVMLError."""
    return function(*arguments)


def code_of(error: pynvml.NVMLError) -> int:
    """NVML's error code. Raises the error itself when the session is over."""
    code = int(error.value)  # type: ignore[attr-defined]  # set in NVMLError.__new__
    if code in SESSION_OVER:
        raise error
    return code


def raise_if_lost(code: int) -> None:
    if code in LOST:
        raise GpuLostError


def answer(function: Callable[..., Any], *arguments: object) -> Any:
    """The answer, None where there is none for whatever reason.

    Raises GpuLostError, and NVMLError when the session is over.
    """
    try:
        return call(function, *arguments)
    except pynvml.NVMLError as error:
        raise_if_lost(code_of(error))
        return None


def text(function: Callable[..., Any], *arguments: object) -> str | None:
    """The answer as text, None where there is none; bytes that are no UTF-8 become U+FFFD.

    Raises GpuLostError, and NVMLError when the session is over.
    """
    try:
        told = answer(function, *arguments)
    except UnicodeDecodeError as error:  # pynvml gives up on them
        return error.object.decode(errors="replace")
    return None if told is None else str(told)


def _bus_id(handle: Any) -> str:
    """Raises NVMLError, and UnicodeDecodeError for bytes that are no UTF-8."""
    return str(call(pynvml.nvmlDeviceGetPciInfo, handle).busId)


def _identify(index: int, driver_version: str | None) -> Device | None:
    """None when the device cannot be addressed."""
    handle = answer(pynvml.nvmlDeviceGetHandleByIndex, index)
    uuid = None if handle is None else text(pynvml.nvmlDeviceGetUUID, handle)
    if uuid is None:
        return None
    return Device(
        handle,
        index,
        uuid,
        name=text(pynvml.nvmlDeviceGetName, handle),
        driver_version=driver_version,
        vbios=text(pynvml.nvmlDeviceGetVbiosVersion, handle),
        pci_bus_id=text(_bus_id, handle),
        serial=text(pynvml.nvmlDeviceGetSerial, handle),
    )


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
    }.get(
        int(error.value),  # type: ignore[attr-defined]
        (f"NVML fails: {error}", "run `nvidia-smi`, which uses the same library"),
    )
    return NvmlUnavailableError(problem, remedy)
