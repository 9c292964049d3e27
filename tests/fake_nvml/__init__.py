"""A C double of libnvidia-ml.so.1: `nvml.c` says what it can do and how a scenario is written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

CONTROL_VARIABLE = "FAKE_NVML_CONTROL"
LIBRARY = "libnvidia-ml.so.1"
SOURCE = Path(__file__).with_name("nvml.c")


def build(directory: Path) -> Path:
    """Compile the double into `directory` with the system's C compiler and return the library's path.

    Put the directory on a child's LD_LIBRARY_PATH, or load the library by ctypes before NVML is first used.
    """
    library = directory / LIBRARY
    flags = ["-shared", "-fPIC", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-Wl,-soname,{LIBRARY}"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, str(SOURCE), "-o", str(library)], check=True)
    return library


class Machine:
    """The scenario the double plays, kept in its control file; a change counts from the next NVML call on."""

    def __init__(self, control: Path) -> None:
        self.control = control
        self._values: dict[str, bytes] = {}
        self._write()

    def set(self, key: str, value: str | bytes | int) -> None:
        """Set one line of the scenario: `set("gpu1.error", 15)`."""
        self._values[key] = value if isinstance(value, bytes) else str(value).encode()
        self._write()

    def unset(self, key: str) -> None:
        del self._values[key]
        self._write()

    def _write(self) -> None:
        unfinished = self.control.with_suffix(".unfinished")
        unfinished.write_bytes(b"".join(b"%s = %s\n" % (k.encode(), v) for k, v in self._values.items()))
        unfinished.replace(self.control)
