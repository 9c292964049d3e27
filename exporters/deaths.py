"""How the process of a rank died, as far as somebody beside it can know without being its parent.

Its end by signal or exit status is asked of a pidfd that was opened while it lived: PIDFD_GET_INFO of
include/uapi/linux/pidfd.h tells it since Linux 6.15, once the parent has fetched the status; before that, and
on older kernels, /proc/<pid>/stat shows it of a process of our own user that is not yet fetched. Whether the
kernel ran out of memory is what the control group of the process counts (`oom_kill`), or, where it has no
count, the whole machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from trainer_hooks.recording import Static, pid_namespace, process_start_ticks

# struct pidfd_info: mask, cgroupid, pid, tgid, ppid, eight ids of user and group, exit_code
_INFO = struct.Struct("@QQ3I8Ii")
_INFO_EXIT = 1 << 3
_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11  # _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)
# The kernel counts first, and then takes back the memory: a large process is seen alive for seconds more.
_TEAR_DOWN_SECONDS = 15.0
_EXIT_CODE_IN_STAT = 49  # field 52 of proc(5), counted behind the name


class Death(NamedTuple):
    """How a process ended: by this signal, or with this exit status; and whether for want of memory."""

    signal: int | None = None
    exit_status: int | None = None
    out_of_memory: bool = False

    @property
    def signal_name(self) -> str | None:
        """Such as SIGKILL."""
        if self.signal is None:
            return None
        try:
            return signal.Signals(self.signal).name
        except ValueError:  # a real-time one
            return f"signal {self.signal}"


class Witness:
    """Stands by a living process, and knows afterwards how it died."""

    def __init__(
        self, pid: int, *, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises OSError where the process is gone, or the kernel knows no pidfd."""
        self._pid = pid
        self._root = root
        self._clock = clock
        self._fd = os.pidfd_open(pid)
        self._counter = _oom_counter(root, pid)
        self._oom_kills = deque([(clock(), self._counted())])

    def look(self) -> None:
        """While it lives, now and then: who died of memory long before has nothing to do with it."""
        now = self._clock()
        self._oom_kills.append((now, self._counted()))
        while len(self._oom_kills) > 1 and self._oom_kills[1][0] <= now - _TEAR_DOWN_SECONDS:
            self._oom_kills.popleft()

    def death(self) -> Death | None:
        """How it died; None while nobody knows, which may stay so."""
        status = self._status()
        if status is None:
            return None
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            memory = number == signal.SIGKILL and self._counted() > self._oom_kills[0][1]
            return Death(signal=number, out_of_memory=memory)
        return Death(exit_status=os.WEXITSTATUS(status))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _status(self) -> int | None:
        """Its wait status; None while it is not known."""
        info = bytearray(_INFO.size)
        struct.pack_into("@Q", info, 0, _INFO_EXIT)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._fd, _GET_INFO, info)
            mask, *_, status = _INFO.unpack(info)
            if mask & _INFO_EXIT:
                return int(status)
        with contextlib.suppress(OSError, IndexError, ValueError):
            after_name = (self._root / f"proc/{self._pid}/stat").read_bytes().rpartition(b")")[2].split()
            if after_name[0] == b"Z":
                return int(after_name[_EXIT_CODE_IN_STAT])
        return None

    def _counted(self) -> int:
        """How many processes the kernel has killed for want of memory where this one is; 0 is unknown."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in self._counter.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0


def witness(static: Static) -> Witness | None:
    """One beside the living process of a recording; None where it cannot be seen from here."""
    if static.pid_namespace != pid_namespace():
        return None
    try:
        found = Witness(static.pid)
    except OSError:
        return None
    # The pidfd is of whoever has the number now; if that is the writer, it was so before.
    if process_start_ticks(static.pid) == static.process_start_ticks:
        return found
    found.close()
    return None


def _oom_counter(root: Path, pid: int) -> Path:
    """The file that counts for this process: of its control group, version 2 or 1, or of the machine."""
    groups: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in (root / f"proc/{pid}/cgroup").read_text(errors="replace").splitlines():
            _, controllers, path = line.split(":", 2)
            groups |= dict.fromkeys(controllers.split(","), path.lstrip("/"))
    mounted = root / "sys/fs/cgroup"
    for controller, folder, name in (
        ("", mounted, "memory.events"),
        ("", mounted / "unified", "memory.events"),
        ("memory", mounted / "memory", "memory.oom_control"),
    ):
        if controller in groups and (file := folder / groups[controller] / name).exists():
            return file
    return root / "proc/vmstat"
