"""The GPUs of a scenario do what their ranks do, and their counters never fall."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from exporters import catalog
from exporters.catalog import Metric
from exporters.collector import Sample
from exporters.gpu.simulated import TRAINING_LEVEL, SimulatedGpus, parse_simulation
from trainvitals.scenarios.clock import Clock
from trainvitals.scenarios.gpus import EVALUATING, HEALTHY, HUNG, IDLE, Fault, ScenarioGpus

START = 1_800_000_000.0


class Watched:
    """Two GPUs that do the same, the second with a fault 100 s after the start."""

    def __init__(self, fault: str = "overheat") -> None:
        self.work = IDLE
        self._clock = Clock(START)
        faults = {1: [Fault(START + 100, fault)]}
        self._gpus = ScenarioGpus("node", 2, lambda gpu: self.work, tuple, self._clock.wall, faults)

    def until(self, seconds: float, work: str) -> list[Sample]:
        """Work for a while, looked at every five seconds; what is told at last."""
        self.work = work
        samples: list[Sample] = []
        while self._clock.now < START + seconds:
            self._clock.set(self._clock.now + 5)
            samples = list(self._gpus.collect())
        return samples


def value(samples: Sequence[Sample], metric: Metric, gpu: str, **labels: str) -> float:
    wanted = {"gpu": gpu, **labels}
    (found,) = (
        each.value for each in samples if each.metric is metric and wanted.items() <= each.labels.items()
    )
    assert isinstance(found, float | int)
    return found


def test_a_gpu_is_idle_at_work_evaluates_or_hangs_as_its_rank_does() -> None:
    gpus = Watched()
    shown = []
    for seconds, work in ((30, IDLE), (60, HEALTHY), (90, HUNG), (120, EVALUATING)):
        samples = gpus.until(seconds, work)
        shown.append(
            (
                value(samples, catalog.NVIDIA_GPU_UTILIZATION_PERCENT, "0"),
                value(samples, catalog.NVIDIA_GPU_POWER_WATTS, "0"),
            )
        )
    idle, busy, hung, evaluating = shown

    assert idle[0] == 0 < evaluating[0] < 80 < busy[0]
    assert hung[0] == 100
    assert idle[1] < hung[1] < evaluating[1] < busy[1]


def test_counters_go_on_when_it_does_something_else() -> None:
    gpus = Watched()
    seen: dict[tuple[str, ...], float] = {}
    for end, work in ((40, HEALTHY), (60, IDLE), (80, HUNG), (140, HEALTHY)):
        for sample in gpus.until(end, work):
            if sample.metric.kind == "counter":
                key = (sample.metric.name, *sample.labels.values())
                assert isinstance(sample.value, float | int)
                assert sample.value >= seen.get(key, 0.0), key
                seen[key] = sample.value

    assert seen


def test_a_fault_begins_at_its_moment_on_its_own_gpu() -> None:
    gpus = Watched()
    before = gpus.until(90, HEALTHY)
    after = gpus.until(300, HEALTHY)

    thermal = catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL
    assert value(before, thermal, "1", reason="hw_thermal") == 0
    assert value(after, thermal, "1", reason="hw_thermal") > 60
    assert value(after, thermal, "0", reason="hw_thermal") == 0


def test_a_gpu_that_is_lost_stays_lost_and_its_xid_told() -> None:
    gpus = Watched("xid79")
    gpus.until(150, HEALTHY)
    samples = gpus.until(200, IDLE)

    assert value(samples, catalog.NVIDIA_GPU_UP, "1") == 0
    assert value(samples, catalog.NVIDIA_GPU_XID_ERRORS_TOTAL, "1", xid="79") == 1
    assert value(samples, catalog.NVIDIA_GPU_UP, "0") == 1


def test_no_two_gpus_of_a_fleet_have_one_uuid() -> None:
    uuids = {
        sample.labels["uuid"]
        for node in ("one", "two")
        for sample in ScenarioGpus(node, 2, lambda gpu: IDLE, tuple, Clock(START).wall, {}).collect()
        if sample.metric is catalog.NVIDIA_GPU_UP
    }

    assert len(uuids) == 4


def test_its_counters_grow_as_those_of_a_gpu_that_is_simulated_second_by_second() -> None:
    clock = Clock(START)
    scenario = ScenarioGpus("node", 1, lambda gpu: HEALTHY, tuple, lambda: clock.now, {})
    closely = SimulatedGpus(
        parse_simulation("1"), clock=lambda: clock.now, level=lambda seconds: TRAINING_LEVEL
    )
    grown = {}
    for gpus in (scenario, closely):
        seen = []
        for seconds in range(0, 960, 20):
            clock.now = START + seconds
            seen.append(value(list(gpus.collect()), catalog.NVIDIA_GPU_ENERGY_JOULES_TOTAL, "0"))
        grown[gpus] = seen[-1] - seen[0]

    assert grown[scenario] == pytest.approx(grown[closely], rel=0.03)
