"""What the hook takes of a process besides time: memory over a million steps; and its import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trainer_hooks.monitor import BACKWARD, DATA, FORWARD, OPTIMIZER, Monitor

STEPS = 1_000_000
FIRST_STEPS = 20_000  # the ring is full before


def step(monitor: Monitor, loss: float = 1.5) -> None:
    """What a trainer says of one step: four phases, a batch, the learning rate, the end."""
    monitor.enter(DATA)
    monitor.enter(FORWARD)
    monitor.enter(BACKWARD)
    monitor.enter(OPTIMIZER)
    monitor.learning_rates([1e-3])
    monitor.batch(loss=loss, samples=4, tokens=512, trained_tokens=500)
    monitor.end_step()


def grown_bytes(folder: Path, steps: int = STEPS) -> int:
    """By how much this process's resident memory grows while the hook records so many steps."""
    with Monitor(run="memory", directory=folder) as monitor:
        for _ in range(FIRST_STEPS):
            step(monitor)
        before = _resident_bytes()
        for number in range(steps):
            step(monitor, loss=1.5 + 1 / (number + 1))
        return _resident_bytes() - before


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def import_milliseconds(module: str, folder: Path, runs: int = 9) -> list[float]:
    """Milliseconds of the import in each of several fresh interpreters, compiled as an installer leaves it.

    The compiled files go into the folder.
    """
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    compiling = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def once() -> float:
        command = [sys.executable, "-c", code]
        environment = {**compiling, "PYTHONPYCACHEPREFIX": str(folder)}
        return 1e3 * float(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    once()
    return [once() for _ in range(runs)]


if __name__ == "__main__":
    print(grown_bytes(Path(sys.argv[1])))
