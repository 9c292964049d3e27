"""A day of a small fleet in accelerated time: who publishes what when, as promtool reads it.

A fleet has nodes with GPUs, and runs that train on them; what happens to them is said with `at`:

    fleet = Fleet(hours=2)
    n1 = fleet.node("n1", gpus=2)
    run = fleet.run("r1")
    fleet.at("0:05", run.begins, *n1.gpus)
    fleet.at("1:10", run.ends, "finished")

Everything moves in steps of one scrape, and the day begins at time 0. A series that a target
does not publish any more gets a stale marker, as one of a failed scrape does; while Prometheus is away there
is no sample at all. promtool goes on evaluating then, as a Prometheus that is away does not: what it tells
after a gap is shown, not whether it remembers how long an alert has waited.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any, NamedTuple

from exporters import catalog
from exporters.catalog import Metric
from exporters.recordings import FULL_AFTER_END_SECONDS, SKIP_REASONS
from exporters.runs import RUN_STATES, State
from tests.alerts.tape import Tape
from trainer_hooks.recording import PHASES, STEP_DURATION_BOUNDS_SECONDS

GPU_MEMORY_BYTES, HOST_MEMORY_BYTES, VOLUME_BYTES = 80e9, 1e12, 4e12
POWER_LIMIT_WATTS = 700.0
NVLINKS = 18
LAUNCH_SECONDS = 8
COLLECTORS = ("recordings", "history", "gpu", "gpu_health", "gpu_xid")
THROTTLE_REASONS = ("sw_power_cap", "sw_thermal", "hw_thermal", "hw_power_brake")
# How the time of a step goes where nothing is wrong; the ranks wait for each other in the backward pass.
SHARES = {"data": 1 / 32, "forward": 5 / 16, "backward": 1 / 2, "optimizer": 3 / 32, "other": 1 / 16}
# Utilization in percent, watts, and the share of the memory that torch holds, by what a rank does.
LOADS = {
    "init": (0.0, 90.0, 0.1),
    "forward": (95.0, 560.0, 0.7),
    "evaluation": (80.0, 350.0, 0.7),
    "checkpoint": (1.0, 120.0, 0.7),
}
SPINNING, WAITING, IDLE = (100.0, 180.0, 0.7), (0.0, 120.0, 0.7), (0.0, 80.0, 0.0)

Happening = Callable[..., None]


class Published(NamedTuple):
    """One sample of a target's page: the metric's name and its labels, the target's left out."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


def seconds(clock: str) -> int:
    """How long after the day's begin it is "1:30", or "0:05:15"."""
    hours, minutes, *rest = (int(part) for part in clock.split(":"))
    return hours * 3600 + minutes * 60 + (rest[0] if rest else 0)


def _sample(metric: Metric | str, value: float, /, **labels: str) -> Published:
    return Published(str(metric), tuple(labels.items()), value)


@dataclass(eq=False)
class Gpu:
    """One GPU, sound unless something is set otherwise."""

    node: Node
    index: int
    is_up: bool = True
    memory_of_others_ratio: float = 0.02  # what no training holds
    links_down: int = 0
    uncorrected: int = 0
    throttled_by_heat: bool = False
    _load: tuple[float, float, float] = IDLE
    _xids: dict[tuple[str, str], float] = field(default_factory=dict)
    _throttled: float = 0.0
    _joules: float = 0.0
    _replays: int = 0

    @property
    def uuid(self) -> str:
        return f"GPU-{self.node.name}-{self.index}"

    def works(self, load: tuple[float, float, float]) -> None:
        self._load = load

    def meets_xid(self, xid: str, kind: str) -> None:
        self._xids[xid, kind] = self.node.now

    def falls_off_the_bus(self) -> None:
        self.meets_xid("79", "hardware")
        self.is_up = False

    def resends(self, packets: int) -> None:
        self._replays += packets

    def advance(self, passed: float) -> None:
        self._joules += self._load[1] * passed
        self._throttled += passed if self.throttled_by_heat else 0

    def boots(self) -> None:
        """What it counts in its life stays, what its driver counts begins anew."""
        self.is_up, self.links_down, self.memory_of_others_ratio = True, 0, 0.02
        self._xids, self._throttled, self._joules, self._replays = {}, 0.0, 0.0, 0

    def published(self) -> Iterator[Published]:
        gpu = {"gpu": str(self.index), "uuid": self.uuid}
        yield _sample(catalog.NVIDIA_GPU_UP, self.is_up, **gpu)
        for (xid, kind), at in self._xids.items():
            told = {**gpu, "xid": xid, "class": kind}
            yield _sample(catalog.NVIDIA_GPU_XID_ERRORS_TOTAL, 1, **told)
            yield _sample(catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS, at, **told)
        if not self.is_up:
            return
        utilization, watts, reserved = self._load
        of_gpu: tuple[tuple[Metric, float], ...] = (
            (catalog.NVIDIA_GPU_UTILIZATION_PERCENT, utilization),
            (
                catalog.NVIDIA_GPU_MEMORY_USED_BYTES,
                (self.memory_of_others_ratio + reserved) * GPU_MEMORY_BYTES,
            ),
            (catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES, GPU_MEMORY_BYTES),
            (catalog.NVIDIA_GPU_POWER_WATTS, watts),
            (catalog.NVIDIA_GPU_POWER_LIMIT_WATTS, POWER_LIMIT_WATTS),
            (catalog.NVIDIA_GPU_ENERGY_JOULES_TOTAL, self._joules),
            (catalog.NVIDIA_GPU_ROW_REMAP_PENDING, 0),
            (catalog.NVIDIA_GPU_ROW_REMAP_FAILED, 0),
            (catalog.NVIDIA_GPU_RECOVERY_ACTION, 0),
            (catalog.NVIDIA_GPU_PCIE_REPLAYS_TOTAL, self._replays),
            (catalog.NVIDIA_GPU_PCIE_LINK_GENERATION, 5 if utilization else 1),  # an idle one lowers it
            (catalog.NVIDIA_GPU_PCIE_LINK_GENERATION_MAX, 5),
            (catalog.NVIDIA_GPU_PCIE_LINK_WIDTH, 16),
            (catalog.NVIDIA_GPU_PCIE_LINK_WIDTH_MAX, 16),
        )
        for metric, value in of_gpu:
            yield _sample(metric, value, **gpu)
        for severity, errors in (("corrected", 3), ("uncorrected", self.uncorrected)):
            yield _sample(catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL, errors, **gpu, severity=severity)
        for reason in THROTTLE_REASONS:
            held = self._throttled if reason == "sw_thermal" else 0
            yield _sample(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL, held, **gpu, reason=reason)
        for state, links in (("up", NVLINKS - self.links_down), ("down", self.links_down)):
            yield _sample(catalog.NVIDIA_GPU_NVLINK_LINKS, links, **gpu, state=state)
        missing = {"metric": catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL.name, "reason": "not_supported"}
        yield _sample(catalog.NVIDIA_GPU_METRIC_UNSUPPORTED, 1, **gpu, **missing)


@dataclass(eq=False)
class Node:
    """A machine with GPUs, the service on it, and node_exporter."""

    name: str
    gpus: list[Gpu] = field(default_factory=list)
    now: float = 0.0
    is_up: bool = True
    service_is_up: bool = True
    memory_available_ratio: float = 0.6
    attempts: dict[str, Attempt] = field(default_factory=dict)  # the newest here, by run
    history_steps: float = 0.0

    def service_stops(self) -> None:
        self.service_is_up = False

    def service_starts(self) -> None:
        """What the service itself counts begins anew; what recordings and the driver count goes on."""
        self.service_is_up, self.history_steps = True, 0.0

    def goes_down(self) -> None:
        self.is_up = self.service_is_up = False

    def boots(self) -> None:
        self.service_starts()
        self.is_up = True
        for gpu in self.gpus:
            gpu.boots()

    def of_service(self) -> Iterator[Published]:
        yield _sample(catalog.WALLCLOCK_SECONDS, self.now - 0.25)
        yield _sample(catalog.HISTORY_STEPS_TOTAL, self.history_steps)
        yield _sample(catalog.HISTORY_LOST_STEPS_TOTAL, 0)
        yield _sample(catalog.HISTORY_FAILING_RECORDINGS, 0)
        yield _sample(catalog.RECORDINGS_VOLUME_SIZE_BYTES, HOST_MEMORY_BYTES / 2)
        yield _sample(catalog.RECORDINGS_VOLUME_FREE_BYTES, HOST_MEMORY_BYTES / 4)
        for reason in SKIP_REASONS:
            yield _sample(catalog.RECORDINGS_SKIPPED, 0, reason=reason)
        for collector in COLLECTORS:
            yield _sample(catalog.COLLECTOR_SUCCESS, 1, collector=collector)
        yield _sample(catalog.NVIDIA_GPU_DEVICES, len(self.gpus))
        for gpu in self.gpus:
            yield from gpu.published()
        for attempt in self.attempts.values():
            yield from attempt.published(self)

    def of_node_exporter(self) -> Iterator[Published]:
        yield _sample("node_memory_MemTotal_bytes", HOST_MEMORY_BYTES)
        yield _sample("node_memory_MemAvailable_bytes", self.memory_available_ratio * HOST_MEMORY_BYTES)
        yield _sample("node_vmstat_oom_kill", 0)


@dataclass(eq=False)
class Attempt:
    """What the recordings of one attempt of a run say, of rank i on the i-th GPU; counters begin at 0."""

    run: Run
    number: int  # on its node
    gpus: tuple[Gpu, ...]
    started: float
    resumed_from_step: float
    now: float = 0.0
    ended: float | None = None
    state: State = "running"
    phase: str = "init"
    hangs: bool = False
    dead_ranks: set[int] = field(default_factory=set)
    progress: float = 0.0
    last_step: float = 0.0
    steps: float = 0.0
    phases: list[dict[str, float]] = field(default_factory=list)
    nonfinite: int = 0
    ooms: int = 0
    checkpoints: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = self.progress = self.last_step = self.started
        self.phases = [dict.fromkeys(PHASES, 0.0) for _ in self.gpus]

    def ends(self, state: State) -> None:
        self.ended, self.state = self.now, state
        for gpu in self.gpus:
            gpu.works(IDLE)

    def advance(self, now: float) -> None:
        """What happens up to `now`."""
        if self.ended is not None:
            return
        passed, before = now - self.now, self.phase
        self.now = now
        if self.hangs:
            self._waits(passed)
            return
        self.phase = self.run.phase_at(now - self.started)
        if self.phase != before == "checkpoint":
            self.checkpoints.append(now)
        if self.phase != before == "evaluation":
            self.validation_losses.append(1.05 * self.run.loss_at(self.resumed_from_step + self.steps))
        if self.phase == "forward":
            self._trains(passed)
            return
        if self.phase == "evaluation" or before == "checkpoint":
            self.progress = now - 1
        for phases in self.phases:
            phases[self.phase] += passed
        for gpu in self.gpus:
            gpu.works(LOADS[self.phase])

    def _trains(self, passed: float) -> None:
        run = self.run
        others = 1 - run.data_share  # of the time that is not spent waiting for data
        pace = run.pace * others / (1 - SHARES["data"])
        for phases in self.phases:
            phases["data"] += run.data_share * passed
            for phase in ("forward", "optimizer", "other"):
                phases[phase] += SHARES[phase] * pace * passed
            rest = 1 - run.data_share - pace * sum(SHARES[each] for each in ("forward", "optimizer", "other"))
            phases["backward"] += rest * passed
        self.steps += passed / run.step_seconds * pace
        self.last_step = self.progress = max(self.progress, self.now - run.step_seconds / 2)
        self.nonfinite += run.loss_is_nan
        utilization, watts, reserved = LOADS["forward"]
        for gpu in self.gpus:
            gpu.works((utilization * others, watts * others, reserved))
            gpu.node.history_steps += passed / run.step_seconds * pace

    def _waits(self, passed: float) -> None:
        for rank, (gpu, phases) in enumerate(zip(self.gpus, self.phases, strict=True)):
            if rank in self.dead_ranks:
                gpu.works(IDLE)
            else:
                phases[self.phase] += passed
                gpu.works(SPINNING if self.phase == "backward" else WAITING)

    def published(self, node: Node) -> Iterator[Published]:
        """What the service of a node says of it: of its own ranks, and with rank 0 of the run."""
        is_over = self.ended is not None and node.now - self.ended > FULL_AFTER_END_SECONDS
        if self.gpus[0].node is node:
            yield from self._of_run_for_long()
            if not is_over:
                yield from self._of_run()
        for rank, gpu in enumerate(self.gpus):
            if gpu.node is node:
                of_rank = {"run": self.run.name, "rank": str(rank)}
                yield _sample(catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS, self.last_step, **of_rank)
                yield _sample(catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS, self.progress, **of_rank)
                if not is_over:
                    yield from self._of_rank(rank, gpu, of_rank)

    def _of_run_for_long(self) -> Iterator[Published]:
        run = self.run.name
        yield _sample(catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS, self.started, run=run)
        if self.ended is not None:
            yield _sample(catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS, self.ended, run=run)
        for state in RUN_STATES:
            yield _sample(catalog.TRAINING_RUN_STATE, state == self.state, run=run, state=state)

    def _of_run(self) -> Iterator[Published]:
        name, step = self.run.name, self.resumed_from_step + self.steps
        known: list[tuple[Metric, float]] = [
            (catalog.TRAINING_RESTARTS_TOTAL, self.number - 1),
            (catalog.TRAINING_WORLD_SIZE, len(self.gpus)),
            (catalog.TRAINING_STEP_CURRENT, math.floor(step)),
            (catalog.TRAINING_STEPS_EXPECTED, self.run.steps_expected),
            (catalog.TRAINING_PROGRESS_RATIO, step / self.run.steps_expected),
            (catalog.TRAINING_CHECKPOINT_VOLUME_SIZE_BYTES, VOLUME_BYTES),
            (catalog.TRAINING_CHECKPOINT_VOLUME_FREE_BYTES, VOLUME_BYTES / 2),
        ]
        if self.steps and not self.run.loss_is_nan:
            known += [
                (catalog.TRAINING_LOSS, self.run.loss_at(step)),
                (catalog.TRAINING_GRADIENT_NORM, 0.8 * self.run.noise(0.2)),
            ]
        if self.steps and self.state == "running":
            known.append((catalog.TRAINING_ETA_SECONDS, self.run.seconds_left(step)))
        if self.run.deadline is not None:
            known.append((catalog.TRAINING_DEADLINE_TIMESTAMP_SECONDS, self.run.deadline))
        if self.validation_losses:
            known += [
                (catalog.VALIDATION_LOSS, self.validation_losses[-1]),
                (catalog.VALIDATION_LOSS_BEST, min(self.validation_losses)),
            ]
        if self.checkpoints:
            known += [
                (catalog.TRAINING_CHECKPOINT_LAST_SUCCESS_TIMESTAMP_SECONDS, self.checkpoints[-1]),
                (catalog.TRAINING_CHECKPOINT_DURATION_SECONDS, self.run.checkpoints[1]),
                (catalog.TRAINING_CHECKPOINT_SIZE_BYTES, 40e9),
            ]
        if len(self.checkpoints) > 1:
            between = self.checkpoints[-1] - self.checkpoints[-2]
            known.append((catalog.TRAINING_CHECKPOINT_INTERVAL_SECONDS, between))
        for metric, value in known:
            yield _sample(metric, value, run=name)
        for result, count in (("ok", len(self.checkpoints)), ("failed", 0)):
            yield _sample(catalog.TRAINING_CHECKPOINTS_TOTAL, count, run=name, result=result)
        if self.steps:
            rate = self.run.learning_rate_at(step)
            yield _sample(catalog.TRAINING_LEARNING_RATE, rate, run=name, group="0")
        durations = catalog.TRAINING_STEP_DURATION_SECONDS
        for bound in (*STEP_DURATION_BOUNDS_SECONDS, math.inf):
            count = math.floor(self.steps) if bound >= self.run.step_seconds else 0
            le = "+Inf" if bound == math.inf else str(bound)
            yield _sample(f"{durations}_bucket", count, run=name, le=le)
        yield _sample(f"{durations}_count", math.floor(self.steps), run=name)
        yield _sample(f"{durations}_sum", math.floor(self.steps) * self.run.step_seconds, run=name)

    def _of_rank(self, rank: int, gpu: Gpu, labels: dict[str, str]) -> Iterator[Published]:
        tokens = math.floor(self.steps * self.run.tokens_a_step / len(self.gpus))
        counted: tuple[tuple[Metric, float], ...] = (
            (catalog.TRAINING_STEPS_TOTAL, math.floor(self.steps)),
            (catalog.TRAINING_OPTIMIZER_STEPS_SKIPPED_TOTAL, 0),
            (catalog.TRAINING_OOM_TOTAL, self.ooms if rank == 0 else 0),
            (catalog.TRAINING_CUDA_ALLOC_RETRIES_TOTAL, 0),
            (catalog.HOOK_SECONDS_TOTAL, 0.001 * (self.now - self.started)),
            (catalog.HOOK_ERRORS_TOTAL, 0),
            (catalog.HOOK_DROPPED_TOTAL, 0),
        )
        for metric, value in counted:
            yield _sample(metric, value, **labels)
        yield _sample(catalog.TRAINING_TOKENS_PROCESSED_TOTAL, tokens, **labels, kind="all")
        for what in ("loss", "gradient"):
            yield _sample(catalog.TRAINING_NONFINITE_TOTAL, self.nonfinite, **labels, what=what)
        for phase, spent in self.phases[rank].items():
            yield _sample(catalog.TRAINING_PHASE_SECONDS_TOTAL, spent, **labels, phase=phase)
        forward = self.phases[rank]["forward"]
        yield _sample(catalog.TRAINING_DEVICE_SECONDS_TOTAL, forward, **labels, phase="forward")
        if self.ended is None and rank not in self.dead_ranks:
            yield _sample(catalog.TRAINING_PHASE_ACTIVE, 1, **labels, phase=self.phase)
            reserved = LOADS.get(self.phase, SPINNING)[2] * GPU_MEMORY_BYTES
            yield _sample(catalog.TRAINING_CUDA_MEMORY_RESERVED_BYTES, reserved, **labels)
            on_gpu = {"gpu": str(gpu.index), "uuid": gpu.uuid}
            yield _sample(catalog.TRAINING_RUN_GPU_INFO, 1, **labels, **on_gpu)


@dataclass(eq=False)
class Run:
    """A training; its `evaluations` and `checkpoints`: every so many seconds, each so many long."""

    name: str
    fleet: Fleet
    hours_expected: float = 24.0
    step_seconds: float = 2.0
    tokens_a_step: int = 65536
    init_seconds: float = 6 * 60
    evaluations: tuple[float, float] = (2 * 3600, 10 * 60)
    checkpoints: tuple[float, float] = (3600, 3 * 60)
    loss_falls_for_hours: float = 8.0
    deadline: float | None = None
    pace: float = 1.0
    data_share: float = SHARES["data"]
    loss_factor: float = 1.0
    loss_is_nan: bool = False
    attempt: Attempt | None = None
    _random: Random = field(default_factory=lambda: Random(7))

    @property
    def newest_attempt(self) -> Attempt:
        assert self.attempt is not None, f"{self.name} has not begun"
        return self.attempt

    @property
    def steps_expected(self) -> int:
        return math.ceil(self.hours_expected * 3600 / self.step_seconds)

    def begins(self, *gpus: Gpu) -> None:
        """Also anew, or elsewhere: it goes on from its newest step."""
        before = self.attempt
        here = gpus[0].node.attempts.get(self.name)
        step = before.resumed_from_step + before.steps if before else 0.0
        started = self.fleet.now + LAUNCH_SECONDS
        self.attempt = Attempt(self, here.number + 1 if here else 1, gpus, started, step)
        for gpu in gpus:
            gpu.node.attempts[self.name] = self.attempt

    def ends(self, state: State) -> None:
        self.newest_attempt.ends(state)

    def hangs_in(self, phase: str) -> None:
        self.newest_attempt.phase, self.newest_attempt.hangs = phase, True

    def loses_rank(self, rank: int) -> None:
        """It dies, not on rank 0's node; the others end their batch and wait for it in a collective."""
        self.newest_attempt.dead_ranks.add(rank)
        self.newest_attempt.progress = self.fleet.now
        self.hangs_in("backward")

    def runs_out_of_memory(self) -> None:
        """And goes on with a smaller batch."""
        self.newest_attempt.ooms += 1

    def phase_at(self, age: float) -> str:
        if age <= self.init_seconds:
            return "init"
        for phase, (every, lasting) in (("evaluation", self.evaluations), ("checkpoint", self.checkpoints)):
            if age > every and age % every < lasting:
                return phase
        return "forward"

    def noise(self, ratio: float) -> float:
        return 1 + self._random.gauss(0, ratio)

    def loss_at(self, step: float) -> float:
        fallen = math.exp(-step * self.step_seconds / (self.loss_falls_for_hours * 3600))
        return (1 + 2 * fallen) * self.noise(0.01) * self.loss_factor

    def learning_rate_at(self, step: float) -> float:
        return 1e-4 * min(step / 100, 1) * max(0.0, 1 - step / self.steps_expected)

    def seconds_left(self, step: float) -> float:
        return max(0.0, self.steps_expected - step) * self.step_seconds * 1.1 / self.pace


class Fleet:
    """Nodes, runs, a Prometheus and an Alertmanager, and what happens to them in some hours."""

    def __init__(self, hours: float, scrape_seconds: int = 60) -> None:
        self.hours = hours
        self.scrape_seconds = scrape_seconds
        self.now = 0.0
        self.prometheus_is_up = True
        self.scrapes_fail: set[str] = set()
        self.notifications_failed = 0
        self._rules_since = 0.0
        self.nodes: dict[str, Node] = {}
        self._runs: list[Run] = []
        self._happenings: dict[int, list[Callable[[], None]]] = {}

    def node(self, name: str, *, gpus: int) -> Node:
        node = Node(name)
        node.gpus = [Gpu(node, index) for index in range(gpus)]
        self.nodes[name] = node
        return node

    def run(self, name: str, **figures: Any) -> Run:
        run = Run(name, self, **figures)
        self._runs.append(run)
        return run

    def at(self, clock: str, happening: Happening, *arguments: Any) -> None:
        """At this time, right after the scrape of then."""
        moment = seconds(clock) // self.scrape_seconds
        self._happenings.setdefault(moment, []).append(lambda: happening(*arguments))

    def between(self, clock: str, until: str, of: object, **values: Any) -> None:
        """Attributes of something are these for a while, and then again what they were."""
        before = {name: getattr(of, name) for name in values}
        self.at(clock, _set, of, values)
        self.at(until, _set, of, before)

    def prometheus_stops(self) -> None:
        self.prometheus_is_up = False

    def prometheus_starts(self) -> None:
        self.prometheus_is_up = True
        self._rules_since = self.now

    def input_series(self) -> list[dict[str, str]]:
        """What Prometheus scrapes in those hours, in promtool's notation."""
        tape = Tape()
        for index in range(round(self.hours * 3600) // self.scrape_seconds + 1):
            self._advance(index)
            if self.prometheus_is_up:
                tape.record(index, self._scraped())
        return tape.input_series()

    def _advance(self, index: int) -> None:
        for happening in self._happenings.get(index - 1, []):
            happening()
        self.now = float(index * self.scrape_seconds)
        for node in self.nodes.values():
            node.now = self.now
        for run in self._runs:
            if run.attempt is not None and run.attempt.started < self.now:
                run.attempt.advance(self.now)
        for node in self.nodes.values():
            for gpu in node.gpus:
                gpu.advance(self.scrape_seconds)

    def _scraped(self) -> Iterator[tuple[str, float]]:
        for node in self.nodes.values():
            service, exporter = f"{node.name}:8003", f"{node.name}:9100"
            is_up = node.service_is_up and node.name not in self.scrapes_fail
            yield from _of_target("training-service", service, is_up, node.of_service())
            yield from _of_target("node", exporter, node.is_up, node.of_node_exporter())
        yield from _of_target("prometheus", "prometheus:9090", True, self._of_prometheus())
        failed = _sample("alertmanager_notifications_failed_total", self.notifications_failed)
        of_webhook = failed._replace(labels=(("integration", "webhook"),))
        yield from _of_target("alertmanager", "alertmanager:9093", True, [of_webhook])

    def _of_prometheus(self) -> Iterator[Published]:
        for group in ("lifecycle", "loss", "throughput", "memory", "checkpoint", "gpu_health", "telemetry"):
            of_group = {"rule_group": f"/etc/prometheus/rules/{group}.yaml;trainvitals.{group}"}
            yield _sample("prometheus_rule_evaluation_failures_total", 0, **of_group)
            # It begins late.
            missed = 1.0 if self._rules_since and self.now - self._rules_since > 60 else 0.0
            yield _sample("prometheus_rule_group_iterations_missed_total", missed, **of_group)


def _set(of: object, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(of, name, value)


def _of_target(
    job: str, instance: str, is_up: bool, page: Iterable[Published]
) -> Iterator[tuple[str, float]]:
    yield _key("up", (), job, instance), float(is_up)
    yield _key("scrape_duration_seconds", (), job, instance), 0.25 if is_up else 0.0
    if is_up:
        for name, labels, value in page:
            yield _key(name, labels, job, instance), value


@cache
def _key(name: str, labels: tuple[tuple[str, str], ...], job: str, instance: str) -> str:
    told = {"cluster": "c", "job": job, "instance": instance, **dict(labels)}
    matched = ", ".join(f'{label}="{value}"' for label, value in told.items())
    return f"{name}{{{matched}}}"
