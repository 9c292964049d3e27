"""A C double of libnvidia-ml.so.1: `nvml.c` says what it can do and how a scenario is written."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

CONTROL_VARIABLE = "FAKE_NVML_CONTROL"
CALLS_VARIABLE = "FAKE_NVML_CALLS"
LIBRARY = "libnvidia-ml.so.1"
SOURCES = sorted(Path(__file__).parent.glob("*.c"))
CALLS_ENTRY = struct.Struct("=56sq")  # entry_t of calls.c


def build(directory: Path, without: Iterable[str] = ()) -> Path:
    """Compile the double into `directory` with the system's C compiler and return the library's path.

    Put the directory on a child's LD_LIBRARY_PATH, or load the library by ctypes before NVML is first used.
    The functions named by `without` do not exist in it, as in the library of an older driver.
    """
    library = directory / LIBRARY
    flags = ["-shared", "-fPIC", "-O2", "-std=gnu11", "-pthread", "-Wall", "-Wextra", "-Werror"]
    link = [f"-Wl,-soname,{LIBRARY}", "-Wl,--version-script=/dev/stdin"]
    exports = f"{{ global: nvml*; local: {' '.join(f'{function};' for function in without)} *; }};"
    subprocess.run(
        [os.environ.get("CC", "cc"), *flags, *map(str, SOURCES), *link, "-o", str(library)],
        input=exports.encode(),
        check=True,
    )
    return library


def environment(control: Path, calls: Path | None = None) -> dict[str, str]:
    """What puts a child over the double that was built beside `control`, its calls counted in `calls`."""
    directories = [str(control.parent), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        "LD_LIBRARY_PATH": ":".join(filter(None, directories)),
        CONTROL_VARIABLE: str(control),
        **({} if calls is None else {CALLS_VARIABLE: str(calls)}),
    }


class Machine:
    """The scenario the double plays, kept in its control file; a change counts from the next NVML call on."""

    def __init__(self, control: Path) -> None:
        self.control = control
        self._values: dict[str, bytes] = {}
        self._write()

    def set(self, key: str, value: str | bytes | float) -> None:
        """Set one line of the scenario: `set("gpu1.error", 15)`."""
        self.update({key: value})

    def update(self, values: Mapping[str, str | bytes | float]) -> None:
        """Set several lines in one write of the file."""
        self._values.update(
            {key: value if isinstance(value, bytes) else str(value).encode() for key, value in values.items()}
        )
        self._write()

    def unset(self, *keys: str) -> None:
        for key in keys:
            del self._values[key]
        self._write()

    def _write(self) -> None:
        unfinished = self.control.with_suffix(".unfinished")
        unfinished.write_bytes(b"".join(b"%s = %s\n" % (k.encode(), v) for k, v in self._values.items()))
        # The double tells files apart by it, and the kernel's own clock ticks in milliseconds.
        now = time.time_ns()
        os.utime(unfinished, ns=(now, now))
        unfinished.replace(self.control)


class Calls:
    """What all processes whose CALLS_VARIABLE names `path` have asked the double for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def counts(self) -> dict[str, int]:
        """Calls by the name of the function, failed ones too."""
        return {name: count for name, count in self._entries().items() if not name.startswith("nvml_double_")}

    def live_samples(self) -> int:
        """GPM samples allocated and not freed."""
        return self._entries().get("nvml_double_live_samples", 0)

    def live_event_sets(self) -> int:
        return self._entries().get("nvml_double_live_event_sets", 0)

    def _entries(self) -> dict[str, int]:
        content = self.path.read_bytes() if self.path.exists() else b""
        entries = (
            (name.partition(b"\0")[0].decode(), count) for name, count in CALLS_ENTRY.iter_unpack(content)
        )
        return {name: count for name, count in entries if name}
