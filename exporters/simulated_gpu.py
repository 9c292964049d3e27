"""GPUs that do not exist, for demonstrations on a machine without one; their names say so.

The figures are those of an H100 SXM in data-parallel training: busy, with a dip for each evaluation and a
pause for each checkpoint. Memory, its controller and utilization follow one load, which depends on nothing
but the clock, so the same moment always gives the same figures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from exporters.collector import Sample
from exporters.gpu import GpuIdentity, GpuReading, NodeReading, node_samples

MEBIBYTE = 1024**2
MEMORY_TOTAL_BYTES = 81559 * MEBIBYTE
MEMORY_RESERVED_BYTES = 551 * MEBIBYTE
WEIGHTS_AND_OPTIMIZER_BYTES = 52_000 * MEBIBYTE
ACTIVATIONS_AT_FULL_LOAD_BYTES = 14_000 * MEBIBYTE
MEMORY_CONTROLLER_PERCENT_AT_FULL_LOAD = 58.0

CYCLE_SECONDS = 240.0
EVALUATION_SECONDS = 20.0
CHECKPOINT_SECONDS = 8.0


class SimulatedGpuCollector:
    """Stands in for GpuCollector; `clock` gives seconds, and any will do."""

    name = "gpu"
    interval_seconds = 5.0
    deadline_seconds = 10.0

    def __init__(self, count: int, *, clock: Callable[[], float] = time.time) -> None:
        if count < 1:
            raise ValueError(f"{count} simulated GPUs cannot be shown; give 1 or more")
        self._count = count
        self._clock = clock

    def collect(self) -> list[Sample]:
        now = self._clock()
        gpus = tuple(simulated_gpu(index, now) for index in range(self._count))
        return node_samples(NodeReading(self._count, gpus))

    def close(self) -> None:
        """Nothing to end; here because GpuCollector has it."""


def simulated_gpu(index: int, seconds: float) -> GpuReading:
    """The simulated GPU of this index at this time."""
    load = _load(index, seconds)
    return GpuReading(
        GpuIdentity(index, f"SIMULATED-{index}", name="Simulated H100 (no hardware)"),
        up=True,
        utilization_percent=round(100 * load),
        memory_controller_active_percent=round(MEMORY_CONTROLLER_PERCENT_AT_FULL_LOAD * load),
        memory_used_bytes=WEIGHTS_AND_OPTIMIZER_BYTES + int(ACTIVATIONS_AT_FULL_LOAD_BYTES * load),
        memory_total_bytes=MEMORY_TOTAL_BYTES,
        memory_reserved_bytes=MEMORY_RESERVED_BYTES,
    )


def _load(index: int, seconds: float) -> float:
    """Between 0 and 1; the GPUs of one training rise and fall together, each with a ripple of its own."""
    into_cycle = seconds % CYCLE_SECONDS
    if into_cycle < CHECKPOINT_SECONDS:
        level = 0.04
    elif into_cycle < CHECKPOINT_SECONDS + EVALUATION_SECONDS:
        level = 0.62
    else:
        level = 0.95
    ripple = math.sin(seconds / 7 + index) + math.sin(seconds / 2.3 + 2.4 * index)
    return level + 0.02 * ripple
