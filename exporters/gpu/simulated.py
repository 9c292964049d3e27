"""GPUs that do not exist, for demonstrations on a machine without one; their names say so.

The figures are those of an H100 SXM in data-parallel training: busy, with a dip for each evaluation and a
pause for each checkpoint. Everything follows one load: activity of SMs and tensor cores, from it power, from
power temperature and clocks, and counters from all of these over time. A scenario is what goes wrong.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from exporters import catalog
from exporters.catalog import Metric
from exporters.collector import Collector, Sample
from exporters.gpu import last_window
from exporters.gpu.node import Ranks
from exporters.gpu.xid import xid_class
from exporters.runs import RankProcess

MIB = 1024**2
MEMORY_TOTAL_BYTES = 81559 * MIB
MEMORY_RESERVED_BYTES = 551 * MIB
WEIGHTS_AND_OPTIMIZER_BYTES = 52_000 * MIB
ACTIVATIONS_BYTES = 14_000 * MIB  # at full load
LEAKED_BYTES_A_SECOND = 300 * MIB
FULLEST_MEMORY_RATIO = 0.97

CYCLE_SECONDS = 240.0
EVALUATION_SECONDS = 20.0
CHECKPOINT_SECONDS = 8.0

POWER_LIMIT_WATTS = 700.0
IDLE_WATTS = 75.0
ROOM_CELSIUS = 30.0
CELSIUS_A_WATT = 0.055
WARM_CELSIUS = ROOM_CELSIUS + CELSIUS_A_WATT * 0.9 * POWER_LIMIT_WATTS  # it has worked before the first look
WARMING_SECONDS = 25.0  # the time constant
SLOWDOWN_CELSIUS, SHUTDOWN_CELSIUS = 87.0, 92.0
SM_HERTZ, MEMORY_HERTZ = 1980e6, 2619e6
NVLINKS = 18
PCIE_TRANSMIT_SHARE = 0.2  # of what it receives
PCIE_BYTES_A_SECOND, NVLINK_BYTES_A_SECOND = 2e9, 120e9  # at full load
THROTTLE_REASONS = (
    *("sw_power_cap", "sync_boost", "board_limit", "reliability"),
    *("sw_thermal", "hw_thermal", "hw_power_brake"),
)
SLOW_CLOCK_RATIO = 0.6  # of the straggler
FAULT_AFTER_SECONDS = 20.0  # from the first look
XID_OFF_THE_BUS = 79
_STEP_SECONDS = 1.0  # of the simulation, at most
_LONGEST_PAUSE_SECONDS = 600.0  # what is longer was no demonstration but a machine asleep


class Scenario(enum.StrEnum):
    """What happens to the GPUs. The last of them is the one at fault, but for memory and heat."""

    healthy = "healthy"
    memory_fill = "memory-fill"
    overheat = "overheat"
    xid79 = "xid79"
    straggler = "straggler"


@dataclass(frozen=True, slots=True)
class Simulation:
    """How many GPUs, and what happens to them: `8` or `8:overheat` on a command line."""

    count: int
    scenario: Scenario = Scenario.healthy

    def __str__(self) -> str:
        return f"{self.count}:{self.scenario}"


def parse_simulation(text: str) -> Simulation:
    """Raises ValueError with a sentence for what is no number of GPUs from 0 to 64 and no scenario."""
    count, _, scenario = text.partition(":")
    if not count.isdecimal() or int(count) > 64:
        raise ValueError(f"{count!r} simulated GPUs cannot be shown; give a number from 0 to 64")
    if scenario and scenario not in set(Scenario):
        raise ValueError(f"there is no scenario {scenario!r}; there are {', '.join(Scenario)}")
    if scenario and int(count) == 0:
        raise ValueError(f"no GPU to simulate {scenario} on; give their number before it, 1:{scenario}")
    return Simulation(int(count), Scenario(scenario or Scenario.healthy))


class SimulatedGpus:
    """Stands in for NvmlGpus, and is its only collector; `clock` gives seconds, and any will do."""

    name = "gpu"
    interval_seconds = 2.0
    deadline_seconds = 10.0
    nvml = None

    def __init__(
        self,
        simulation: Simulation,
        ranks: Ranks = tuple,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.collectors: Sequence[Collector] = (self,)
        self._simulation = simulation
        self._ranks = ranks
        self._clock = clock
        self._gpus = [_Gpu(index, simulation) for index in range(simulation.count)]
        self._began: float | None = None
        self._now = 0.0

    def collect(self) -> list[Sample]:
        now = self._clock()
        if self._began is None:
            self._began = self._now = now
        self._now = max(self._now, now - _LONGEST_PAUSE_SECONDS)
        while True:
            seconds = min(_STEP_SECONDS, now - self._now)
            self._now += max(0.0, seconds)
            for gpu in self._gpus:
                gpu.advance(self._now, self._now - self._began, max(0.0, seconds))
            if self._now >= now or seconds <= 0:
                break
        samples = [Sample(catalog.NVIDIA_GPU_DEVICES, {}, float(len(self._gpus)))]
        ranks: dict[str, list[RankProcess]] = {}
        for rank in (self._ranks() or ()) if self._gpus else ():
            ranks.setdefault(self._gpus[rank.local_rank % len(self._gpus)].uuid, []).append(rank)
        for gpu in self._gpus:
            samples.extend(gpu.samples(ranks.get(gpu.uuid, [])))
        return samples

    def close(self) -> None:
        """Nothing to end; here because a collector has it."""


class _Gpu:
    """One GPU: `advance` moves it on, `samples` are what it says then."""

    def __init__(self, index: int, simulation: Simulation) -> None:
        self.index = index
        self.uuid = f"SIMULATED-{index}"
        self.labels = {"gpu": str(index), "uuid": self.uuid}
        self.up = True
        self.active: dict[str, float] = {}
        self.throttled: tuple[str, ...] = ()
        self._scenario = simulation.scenario
        self._is_last = index == simulation.count - 1
        self._load = 0.0
        self._celsius = WARM_CELSIUS
        self._watts = IDLE_WATTS
        self._clock_ratio = 1.0
        self._memory_used_bytes = float(WEIGHTS_AND_OPTIMIZER_BYTES)
        self._xid_at: float | None = None
        self._totals: dict[tuple[Metric, str], float] = {}

    def advance(self, now: float, age_seconds: float, seconds: float) -> None:
        """Go on by so many seconds to the time `now`; `age_seconds` is that of the demonstration."""
        faulty = age_seconds >= FAULT_AFTER_SECONDS
        if self._scenario is Scenario.xid79 and self._is_last and faulty:
            self._xid_at = self._xid_at if self._xid_at is not None else now
            self.up = False
            return
        self._load = load = _load(self.index, now)
        reasons = []
        self._clock_ratio = 1.0
        if self._watts > 0.97 * POWER_LIMIT_WATTS:
            reasons.append("sw_power_cap")
            self._clock_ratio = 0.93
        if self._scenario is Scenario.straggler and self._is_last and faulty:
            reasons.append("hw_power_brake")
            self._clock_ratio = SLOW_CLOCK_RATIO
        if self._celsius >= SLOWDOWN_CELSIUS:
            reasons.append("hw_thermal")
            self._clock_ratio = 0.55
        # A kernel that waits for the others in a collective keeps the GPU in use and its tensor cores idle.
        waiting = self._scenario is Scenario.straggler and not self._is_last and faulty
        pace = SLOW_CLOCK_RATIO if waiting else 1.0
        self.throttled = tuple(reasons)
        self.active = {
            "sm": 0.93 * load,
            "tensor": 0.55 * load * pace,
            "dram": 0.58 * load * pace,
            "occupancy": 0.34 * load,
            "fp64": 0.0,
            "fp32": 0.09 * load * pace,
            "fp16": 0.02 * load * pace,
            "int": 0.11 * load,
        }
        effort = 0.35 * self.active["sm"] / 0.93 + 0.65 * self.active["tensor"] / 0.55
        self._watts = IDLE_WATTS + (POWER_LIMIT_WATTS - IDLE_WATTS) * effort * self._clock_ratio**1.5
        target = ROOM_CELSIUS + CELSIUS_A_WATT * self._watts
        if self._scenario is Scenario.overheat and faulty:
            target += 32.0  # the fans stand still
        self._celsius += (target - self._celsius) * (1 - math.exp(-seconds / WARMING_SECONDS))
        self._celsius = min(self._celsius, SHUTDOWN_CELSIUS - 1)
        leaked = 0.0
        if self._scenario is Scenario.memory_fill:
            leaked = max(0.0, age_seconds - FAULT_AFTER_SECONDS) * LEAKED_BYTES_A_SECOND
        wanted = WEIGHTS_AND_OPTIMIZER_BYTES + ACTIVATIONS_BYTES * load + leaked
        self._memory_used_bytes = min(wanted, FULLEST_MEMORY_RATIO * MEMORY_TOTAL_BYTES)
        self._count(seconds, load * pace)

    def _count(self, seconds: float, traffic: float) -> None:
        def add(metric: Metric, amount: float, child: str = "") -> None:
            self._totals[metric, child] = self._totals.get((metric, child), 0.0) + amount

        add(catalog.NVIDIA_GPU_ENERGY_JOULES_TOTAL, self._watts * seconds)
        for reason in THROTTLE_REASONS:
            held = seconds if reason in self.throttled else 0.0
            add(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL, held, reason)
        pcie, nvlink = PCIE_BYTES_A_SECOND * traffic * seconds, NVLINK_BYTES_A_SECOND * traffic * seconds
        add(catalog.NVIDIA_GPU_PCIE_TRANSMIT_BYTES_TOTAL, round(PCIE_TRANSMIT_SHARE * pcie))
        add(catalog.NVIDIA_GPU_PCIE_RECEIVE_BYTES_TOTAL, round(pcie))
        add(catalog.NVIDIA_GPU_NVLINK_TRANSMIT_BYTES_TOTAL, round(nvlink))
        add(catalog.NVIDIA_GPU_NVLINK_RECEIVE_BYTES_TOTAL, round(nvlink))
        for metric, what in (
            (catalog.NVIDIA_GPU_SM_ACTIVE_SECONDS_TOTAL, "sm"),
            (catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL, "tensor"),
            (catalog.NVIDIA_GPU_DRAM_ACTIVE_SECONDS_TOTAL, "dram"),
            (catalog.NVIDIA_GPU_SM_OCCUPANCY_SECONDS_TOTAL, "occupancy"),
        ):
            add(metric, self.active[what] * seconds)
        for pipe in ("fp64", "fp32", "fp16", "int"):
            add(catalog.NVIDIA_GPU_PIPE_ACTIVE_SECONDS_TOTAL, self.active[pipe] * seconds, pipe)

    def samples(self, ranks: Sequence[RankProcess]) -> Iterator[Sample]:
        """What it says now; `ranks` train on it, or would if it were there."""

        def sample(metric: Metric, value: float, **labels: str) -> Sample:
            return Sample(metric, {**self.labels, **labels}, float(value))

        yield sample(catalog.NVIDIA_GPU_INFO, 1, name="Simulated H100 (no hardware)")
        yield sample(catalog.NVIDIA_GPU_UP, self.up)
        if self._xid_at is not None:
            xid = {"xid": str(XID_OFF_THE_BUS), "class": xid_class(str(XID_OFF_THE_BUS))}
            yield sample(catalog.NVIDIA_GPU_XID_ERRORS_TOTAL, 1, **xid)
            yield sample(catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS, self._xid_at, **xid)
        for rank in ranks:
            yield sample(catalog.TRAINING_RUN_GPU_INFO, 1, **rank.labels)
        if not self.up:
            return
        yield sample(catalog.NVIDIA_GPU_UTILIZATION_PERCENT, round(100 * self._load))
        yield sample(catalog.NVIDIA_GPU_MEMORY_CONTROLLER_ACTIVE_PERCENT, round(100 * self.active["dram"]))
        yield sample(catalog.NVIDIA_GPU_MEMORY_USED_BYTES, int(self._memory_used_bytes))
        yield sample(catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES, MEMORY_TOTAL_BYTES)
        yield sample(catalog.NVIDIA_GPU_MEMORY_RESERVED_BYTES, MEMORY_RESERVED_BYTES)
        yield sample(catalog.NVIDIA_GPU_POWER_WATTS, round(self._watts, 3))
        yield sample(catalog.NVIDIA_GPU_POWER_LIMIT_WATTS, POWER_LIMIT_WATTS)
        yield sample(catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS, round(self._celsius), sensor="gpu")
        yield sample(catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS, round(self._celsius + 8), sensor="memory")
        yield sample(catalog.NVIDIA_GPU_TEMPERATURE_LIMIT_CELSIUS, SLOWDOWN_CELSIUS, limit="slowdown")
        yield sample(catalog.NVIDIA_GPU_TEMPERATURE_LIMIT_CELSIUS, SHUTDOWN_CELSIUS, limit="shutdown")
        clock = round(SM_HERTZ * self._clock_ratio / 15e6) * 15e6
        yield sample(catalog.NVIDIA_GPU_CLOCK_HERTZ, clock, domain="sm")
        yield sample(catalog.NVIDIA_GPU_CLOCK_HERTZ, MEMORY_HERTZ, domain="memory")
        yield sample(catalog.NVIDIA_GPU_CLOCK_MAX_HERTZ, SM_HERTZ, domain="sm")
        yield sample(catalog.NVIDIA_GPU_CLOCK_MAX_HERTZ, MEMORY_HERTZ, domain="memory")
        pcie = PCIE_BYTES_A_SECOND * self._load
        for metric, value in (
            (last_window.SM_ACTIVE, self.active["sm"]),
            (last_window.TENSOR_ACTIVE, self.active["tensor"]),
            (last_window.DRAM_ACTIVE, self.active["dram"]),
            (last_window.GRAPHICS_ACTIVE, self._load),
            (last_window.PCIE_TRANSMIT, PCIE_TRANSMIT_SHARE * pcie),
            (last_window.PCIE_RECEIVE, pcie),
        ):
            yield sample(metric, value)
        for reason in self.throttled:
            yield sample(last_window.THROTTLED, 1, reason=reason)
        child_of = {
            catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL: "reason",
            catalog.NVIDIA_GPU_PIPE_ACTIVE_SECONDS_TOTAL: "pipe",
        }
        for (metric, child), total in self._totals.items():
            yield sample(metric, total, **({child_of[metric]: child} if child else {}))
        yield from (sample(metric, value, **labels) for metric, labels, value in _SOUND)
        share = int(self._memory_used_bytes / max(1, len(ranks)))
        for owner in [rank.labels for rank in ranks] or [{"run": "", "rank": ""}]:
            yield sample(catalog.NVIDIA_GPU_PROCESS_MEMORY_BYTES, share, **owner)


# What a sound GPU says of its health all the time.
_SOUND: tuple[tuple[Metric, dict[str, str], float], ...] = (
    *((catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL, {"severity": each}, 0) for each in ("corrected", "uncorrected")),
    *((catalog.NVIDIA_GPU_REMAPPED_ROWS, {"cause": each}, 0) for each in ("corrected", "uncorrected")),
    (catalog.NVIDIA_GPU_ROW_REMAP_PENDING, {}, 0),
    (catalog.NVIDIA_GPU_ROW_REMAP_FAILED, {}, 0),
    (catalog.NVIDIA_GPU_RECOVERY_ACTION, {}, 0),
    (catalog.NVIDIA_GPU_PCIE_REPLAYS_TOTAL, {}, 0),
    (catalog.NVIDIA_GPU_PCIE_LINK_GENERATION, {}, 5),
    (catalog.NVIDIA_GPU_PCIE_LINK_GENERATION_MAX, {}, 5),
    (catalog.NVIDIA_GPU_PCIE_LINK_WIDTH, {}, 16),
    (catalog.NVIDIA_GPU_PCIE_LINK_WIDTH_MAX, {}, 16),
    *((catalog.NVIDIA_GPU_NVLINK_ERRORS_TOTAL, {"kind": each}, 0) for each in ("replay", "recovery", "crc")),
    (catalog.NVIDIA_GPU_NVLINK_LINKS, {"state": "up"}, NVLINKS),
    (catalog.NVIDIA_GPU_NVLINK_LINKS, {"state": "down"}, 0),
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
