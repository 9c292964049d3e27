"""GPUs that do not exist, for demonstrations on a machine without one; their names say so.

The figures are those of an H100 SXM in data-parallel training: busy, with a dip for each evaluation and a
pause for each checkpoint. Everything follows one load: activity of SMs and tensor cores, from it power, from
power temperature and clocks, and counters from all of these over time. A scenario is what goes wrong: for
each alert of a GPU there is one that brings it about.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

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
CHECKPOINT_LEVEL, EVALUATION_LEVEL, TRAINING_LEVEL = 0.04, 0.62, 0.95  # of the load

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
SPINNING_SM_RATIO = 0.4  # kernels that wait in a collective: the GPU draws a quarter of its limit
PCIE_REPLAYS_A_SECOND = 10.0
CRASH_EVERY_SECONDS = 30.0  # a program that is started anew each time
WITHHELD = catalog.NVIDIA_GPU_RECOVERY_ACTION  # a field that older drivers do not know
FAULT_AFTER_SECONDS = 20.0  # from the first look
MOST_GPUS = 64
_STEP_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 600.0  # what is longer was no demonstration but a machine asleep


class Scenario(enum.StrEnum):
    """What happens to a GPU."""

    healthy = "healthy"
    memory_fill = "memory-fill"
    overheat = "overheat"
    xid79 = "xid79"  # falls off the bus
    straggler = "straggler"  # its power brake holds its clocks down, and the others wait for it
    idle = "idle"
    hung = "hung"  # spins in a collective that never ends
    xid31 = "xid31"  # a program on it reads where it must not, again and again
    ecc = "ecc"  # counts a memory error that could not be corrected
    row_remap_pending = "row-remap-pending"
    row_remap_failed = "row-remap-failed"
    pcie_replays = "pcie-replays"
    pcie_degraded = "pcie-degraded"
    nvlink_down = "nvlink-down"
    recovery_action = "recovery-action"
    withheld = "withheld"  # the driver does not tell one of its metrics
    lost = "lost"  # answers no more, and no XID says why
    gone = "gone"  # the driver does not report it any more: what a service sees that starts without it


# Of several GPUs the last one is at fault, but for these.
_BEFALL_ALL = {Scenario.memory_fill, Scenario.overheat, Scenario.idle, Scenario.hung}


@dataclass(frozen=True, slots=True)
class Simulation:
    """So many GPUs and what happens to them, and `more` of them beside; parse_simulation reads its text."""

    count: int
    scenario: Scenario = Scenario.healthy
    more: tuple[Simulation, ...] = ()

    def __str__(self) -> str:
        return ",".join([f"{self.count}:{self.scenario}", *map(str, self.more)])

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """The scenario of each GPU, by its index."""
        others = self.scenario if self.scenario in _BEFALL_ALL else Scenario.healthy
        own = [others] * (self.count - 1) + [self.scenario] * min(1, self.count)
        return (*own, *(scenario for each in self.more for scenario in each.scenarios))


def parse_simulation(text: str) -> Simulation:
    """Read `8`, `8:overheat`, or GPUs of several kinds, as `6,overheat,1:xid79`.

    Raises ValueError with a sentence for what is no number of GPUs from 0 to 64 and no scenario.
    """
    first, *more = [each for each in map(_parse_alike, text.split(",")) if each.count] or [Simulation(0)]
    simulation = replace(first, more=tuple(more))
    count = len(simulation.scenarios)
    if count > MOST_GPUS:
        raise ValueError(f"{count} simulated GPUs cannot be shown; give at most {MOST_GPUS} in all")
    return simulation


def _parse_alike(text: str) -> Simulation:
    if text in set(Scenario):
        return Simulation(1, Scenario(text))
    count, _, scenario = text.partition(":")
    if not count.isdecimal() or int(count) > MOST_GPUS:
        raise ValueError(
            f"{count!r} simulated GPUs cannot be shown; give a number from 0 to {MOST_GPUS}, or a scenario"
        )
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
        step_seconds: float = _STEP_SECONDS,
        level: Callable[[float], float] | None = None,
    ) -> None:
        """Goes on in steps of at most `step_seconds`; `level` is how busy a GPU that trains is at a time.

        By default it saves and evaluates now and then.
        """
        self._step_seconds = step_seconds
        self._level = level or _level
        self.collectors: Sequence[Collector] = (self,)
        self._ranks = ranks
        self._clock = clock
        scenarios = simulation.scenarios
        self._gpus = [
            _Gpu(index, scenario, waits=Scenario.straggler in scenarios and scenario != Scenario.straggler)
            for index, scenario in enumerate(scenarios)
        ]
        self._began: float | None = None
        self._now = 0.0

    def collect(self) -> list[Sample]:
        now = self._clock()
        if self._began is None:
            self._began = self._now = now
        self._now = max(self._now, now - _LONGEST_PAUSE_SECONDS)
        while True:
            seconds = min(self._step_seconds, now - self._now)
            self._now += max(0.0, seconds)
            for gpu in self._gpus:
                gpu.advance(self._now, self._now - self._began, max(0.0, seconds), self._level(self._now))
            if self._now >= now or seconds <= 0:
                break
        reported = [gpu for gpu in self._gpus if gpu.reported]
        samples = [Sample(catalog.NVIDIA_GPU_DEVICES, {}, float(len(reported)))]
        ranks: dict[str, list[RankProcess]] = {}
        for rank in (self._ranks() or ()) if self._gpus else ():
            ranks.setdefault(self._gpus[rank.local_rank % len(self._gpus)].uuid, []).append(rank)
        for gpu in reported:
            samples.extend(gpu.samples(ranks.get(gpu.uuid, [])))
        return samples

    def close(self) -> None:
        """Nothing to end; here because a collector has it."""


class _Gpu:
    """One GPU: `advance` moves it on, `samples` are what it says then."""

    def __init__(self, index: int, scenario: Scenario, *, waits: bool) -> None:
        """`waits` is whether another GPU may become slow, for which this one waits then."""
        self.index = index
        self.uuid = f"SIMULATED-{index}"
        self.labels = {"gpu": str(index), "uuid": self.uuid}
        self.up = self.reported = True
        self.active: dict[str, float] = {}
        self.throttled: tuple[str, ...] = ()
        self._scenario = scenario
        self._waits = waits
        self._fault = Scenario.healthy
        self._load = self._traffic = 0.0
        self._celsius = WARM_CELSIUS
        self._watts = IDLE_WATTS
        self._clock_ratio = 1.0
        self._memory_used_bytes = float(WEIGHTS_AND_OPTIMIZER_BYTES)
        self._xids = 0
        self._xid_at = -math.inf
        self._totals: dict[tuple[Metric, str], float] = {}

    def advance(self, now: float, age_seconds: float, seconds: float, level: float) -> None:
        """Go on by so many seconds to the time `now`; `age_seconds` is that of the demonstration.

        `level` is how busy it is, where its fault does not say.
        """
        faulty = age_seconds >= FAULT_AFTER_SECONDS
        self._fault = fault = self._scenario if faulty else Scenario.healthy
        if fault in _XIDS and self.up and now - self._xid_at >= CRASH_EVERY_SECONDS:
            self._xids += 1
            self._xid_at = now
        self.up = fault not in (Scenario.xid79, Scenario.lost)
        self.reported = fault is not Scenario.gone
        if not (self.up and self.reported):
            return
        self._load = load = _STEADY_LOADS.get(fault, level + _ripple(self.index, now))
        reasons = []
        self._clock_ratio = 1.0
        if self._watts > 0.97 * POWER_LIMIT_WATTS:
            reasons.append("sw_power_cap")
            self._clock_ratio = 0.93
        if fault is Scenario.straggler:
            reasons.append("hw_power_brake")
            self._clock_ratio = SLOW_CLOCK_RATIO
        if self._celsius >= SLOWDOWN_CELSIUS:
            reasons.append("hw_thermal")
            self._clock_ratio = 0.55
        # A kernel that waits for the others in a collective keeps the GPU in use and its tensor cores idle.
        pace = SLOW_CLOCK_RATIO if self._waits and faulty else 1.0
        pace = 0.0 if fault is Scenario.hung else pace
        self.throttled = tuple(reasons)
        self.active = {
            "sm": (SPINNING_SM_RATIO if fault is Scenario.hung else 0.93) * load,
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
        if fault is Scenario.overheat:
            target += 32.0  # the fans stand still
        self._celsius += (target - self._celsius) * (1 - math.exp(-seconds / WARMING_SECONDS))
        self._celsius = min(self._celsius, SHUTDOWN_CELSIUS - 1)
        leaked = 0.0
        if fault is Scenario.memory_fill:
            leaked = (age_seconds - FAULT_AFTER_SECONDS) * LEAKED_BYTES_A_SECOND
        wanted = WEIGHTS_AND_OPTIMIZER_BYTES + ACTIVATIONS_BYTES * load + leaked
        self._memory_used_bytes = min(wanted, FULLEST_MEMORY_RATIO * MEMORY_TOTAL_BYTES)
        self._traffic = load * pace
        self._count(seconds)

    def _count(self, seconds: float) -> None:
        def add(metric: Metric, amount: float, child: str = "") -> None:
            self._totals[metric, child] = self._totals.get((metric, child), 0.0) + amount

        add(catalog.NVIDIA_GPU_ENERGY_JOULES_TOTAL, self._watts * seconds)
        for reason in THROTTLE_REASONS:
            held = seconds if reason in self.throttled else 0.0
            add(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL, held, reason)
        replays = PCIE_REPLAYS_A_SECOND * seconds if self._fault is Scenario.pcie_replays else 0.0
        add(catalog.NVIDIA_GPU_PCIE_REPLAYS_TOTAL, round(replays))
        moving = self._traffic * seconds
        pcie, nvlink = PCIE_BYTES_A_SECOND * moving, NVLINK_BYTES_A_SECOND * moving
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

        def sample(metric: Metric, value: float, /, **labels: str) -> Sample:
            return Sample(metric, {**self.labels, **labels}, float(value))

        yield sample(catalog.NVIDIA_GPU_INFO, 1, name="Simulated H100 (no hardware)")
        yield sample(catalog.NVIDIA_GPU_UP, self.up)
        if self._xids:
            xid = {"xid": _XIDS[self._scenario], "class": xid_class(_XIDS[self._scenario])}
            yield sample(catalog.NVIDIA_GPU_XID_ERRORS_TOTAL, self._xids, **xid)
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
        pcie = PCIE_BYTES_A_SECOND * self._traffic
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
        figures = self._totals | _SOUND | _UNSOUND.get(self._fault, {})
        if self._fault is Scenario.withheld:
            del figures[WITHHELD, ""]
            missing = {"metric": WITHHELD.name, "reason": "function_not_found"}
            yield sample(catalog.NVIDIA_GPU_METRIC_UNSUPPORTED, 1, **missing)
        for (metric, child), value in figures.items():
            yield sample(metric, value, **({metric.labels[-1]: child} if child else {}))
        share = int(self._memory_used_bytes / max(1, len(ranks)))
        for owner in [rank.labels for rank in ranks] or [{"run": "", "rank": ""}]:
            yield sample(catalog.NVIDIA_GPU_PROCESS_MEMORY_BYTES, share, **owner)


_XIDS = {Scenario.xid79: "79", Scenario.xid31: "31"}
_STEADY_LOADS = {Scenario.idle: 0.0, Scenario.hung: 1.0}
# What a sound GPU says of its health all the time, by metric and the value of its own label if it has one.
_SOUND: dict[tuple[Metric, str], float] = {
    **{(catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL, each): 0 for each in ("corrected", "uncorrected")},
    **{(catalog.NVIDIA_GPU_REMAPPED_ROWS, each): 0 for each in ("corrected", "uncorrected")},
    (catalog.NVIDIA_GPU_ROW_REMAP_PENDING, ""): 0,
    (catalog.NVIDIA_GPU_ROW_REMAP_FAILED, ""): 0,
    (catalog.NVIDIA_GPU_RECOVERY_ACTION, ""): 0,
    (catalog.NVIDIA_GPU_PCIE_LINK_GENERATION, ""): 5,
    (catalog.NVIDIA_GPU_PCIE_LINK_GENERATION_MAX, ""): 5,
    (catalog.NVIDIA_GPU_PCIE_LINK_WIDTH, ""): 16,
    (catalog.NVIDIA_GPU_PCIE_LINK_WIDTH_MAX, ""): 16,
    **{(catalog.NVIDIA_GPU_NVLINK_ERRORS_TOTAL, each): 0 for each in ("replay", "recovery", "crc")},
    (catalog.NVIDIA_GPU_NVLINK_LINKS, "up"): NVLINKS,
    (catalog.NVIDIA_GPU_NVLINK_LINKS, "down"): 0,
}
_UNSOUND: dict[Scenario, dict[tuple[Metric, str], float]] = {
    Scenario.ecc: {(catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL, "uncorrected"): 1},
    Scenario.row_remap_pending: {(catalog.NVIDIA_GPU_ROW_REMAP_PENDING, ""): 1},
    Scenario.row_remap_failed: {(catalog.NVIDIA_GPU_ROW_REMAP_FAILED, ""): 1},
    Scenario.recovery_action: {(catalog.NVIDIA_GPU_RECOVERY_ACTION, ""): 1},
    Scenario.pcie_degraded: {(catalog.NVIDIA_GPU_PCIE_LINK_WIDTH, ""): 8},
    Scenario.nvlink_down: {
        (catalog.NVIDIA_GPU_NVLINK_LINKS, "up"): NVLINKS - 2,
        (catalog.NVIDIA_GPU_NVLINK_LINKS, "down"): 2,
    },
}


def _level(seconds: float) -> float:
    """How busy the GPUs of a training are that saves and evaluates now and then, between 0 and 1."""
    into_cycle = seconds % CYCLE_SECONDS
    if into_cycle < CHECKPOINT_SECONDS:
        return CHECKPOINT_LEVEL
    return EVALUATION_LEVEL if into_cycle < CHECKPOINT_SECONDS + EVALUATION_SECONDS else TRAINING_LEVEL


def _ripple(index: int, seconds: float) -> float:
    """What each GPU has of its own."""
    return 0.02 * (math.sin(seconds / 7 + index) + math.sin(seconds / 2.3 + 2.4 * index))
