"""Which simulated GPU, and which run on it, brings about which alert."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from alerts import throughput
from alerts.gpu_health import gpu_health
from alerts.rules import AlertRule
from alerts.thresholds import Thresholds
from exporters.collector import Sample
from exporters.gpu.node import published
from exporters.gpu.simulated import FAULT_AFTER_SECONDS, SimulatedGpus, parse_simulation
from tests.exporters.gpu.double import Clock, of_gpu
from trainer_hooks.recording import NAME_PATTERN
from trainvitals.drill.condition import Drill
from trainvitals.drill.gpus import CONDITIONS, NODES
from trainvitals.node import Node

ALERTS = {rule.name: rule for rule in gpu_health(Thresholds()).rules if isinstance(rule, AlertRule)}
OF_RUNS = {throughput.TRAINING_GPU_IDLE, throughput.TRAINING_COLLECTIVE_HUNG}


class Ground(Drill):
    """Writes down what is to be started, and starts nothing."""

    def __init__(self) -> None:
        self.simulated: dict[str, str] = {}
        self.clusters: dict[str, str | None] = {}
        self.ranks: list[tuple[str, str, int, int]] = []

    def node(self, name: str, simulate_gpus: str = "0", *, cluster: str | None = None, **others: Any) -> Node:
        self.simulated.setdefault(name, simulate_gpus)
        self.clusters.setdefault(name, cluster)
        return Node(name, Path("nowhere"), ())

    def train(
        self, node: Node, run: str, *arguments: str, rank: int = 0, world_size: int = 1, **others: Any
    ) -> Any:
        self.ranks.append((node.name, run, rank, world_size))


def provoked(alert: str) -> tuple[Mapping[str, str], Ground]:
    ground = Ground()
    (condition,) = (each for each in CONDITIONS if each.alert == alert)
    return condition.provoke(ground), ground


def test_every_alert_about_the_health_of_gpus_is_drilled_once() -> None:
    assert sorted(condition.alert for condition in CONDITIONS) == sorted([*ALERTS, *OF_RUNS])


def test_a_service_reads_the_nodes_as_they_are_written() -> None:
    for name, scenarios in NODES.items():
        assert parse_simulation(",".join(scenarios)).scenarios == tuple(scenarios), name


def test_of_every_fault_of_the_nodes_an_alert_is_awaited() -> None:
    """Each alert about a GPU has one of its own, but for those that are known by the node or the run."""
    known = [provoked(alert)[0] for alert in ALERTS]
    gpus = {(labels.get("instance"), labels["gpu"]) for labels in known if "gpu" in labels}

    assert len(gpus) == len(ALERTS) - 2
    assert sum(len(scenarios) for scenarios in NODES.values()) == len(ALERTS) + 3  # one idle, two hang


@pytest.mark.parametrize(
    ("alert", "name", "labels", "differing"),
    [
        ("GPUNvlinkDown", "nvidia_gpu_nvlink_links", {"state": "down"}, {2.0}),
        ("GPUPowerBrake", "nvidia_gpu_throttle_seconds_total", {"reason": "hw_power_brake"}, None),
        ("GPULost", "nvidia_gpu_up", {}, {0.0}),
        ("GPUEccUncorrectable", "nvidia_gpu_ecc_errors_total", {"severity": "uncorrected"}, {1.0}),
    ],
)
def test_an_alert_is_awaited_of_the_gpu_that_has_the_fault(
    alert: str, name: str, labels: Mapping[str, str], differing: set[float] | None
) -> None:
    known, ground = provoked(alert)
    (simulated,) = ground.simulated.values()
    clock = Clock(1_699_999_950.0)
    gpus = SimulatedGpus(parse_simulation(simulated), clock=clock)
    gpus.collect()
    clock.now += FAULT_AFTER_SECONDS + 4

    def told(sample: Sample) -> bool:
        return sample.metric.name == name and labels.items() <= sample.labels.items()

    (found,) = filter(told, of_gpu(published(gpus.collect()), known["gpu"]))
    assert found.value in differing if differing else isinstance(found.value, float) and found.value > 3


def test_a_run_that_idles_has_an_idle_gpu_and_one_that_works() -> None:
    known, ground = provoked(throughput.TRAINING_GPU_IDLE)

    assert known == {"run": "drill-training-gpu-idle"}
    assert ground.ranks == [("gpus", known["run"], 0, 2), ("gpus", known["run"], 1, 2)]
    assert NODES["gpus"][1] == "idle"


def test_all_gpus_of_a_run_that_hangs_spin() -> None:
    known, ground = provoked(throughput.TRAINING_COLLECTIVE_HUNG)

    assert {NODES[node][rank] for node, _, rank, _ in ground.ranks} == {"hung"}
    assert ground.ranks == [("lost-gpus", known["run"], rank, 2) for rank in range(2)]


def test_nodes_whose_gpus_have_the_same_uuids_are_in_clusters_of_their_own() -> None:
    ground = Ground()
    for condition in CONDITIONS:
        condition.provoke(ground)

    assert ground.simulated.keys() == NODES.keys()
    assert len(set(ground.clusters.values())) == len(NODES)


def test_runs_can_be_recorded_and_are_those_of_their_alerts() -> None:
    ground = Ground()
    for condition in CONDITIONS:
        condition.provoke(ground)

    runs = {run for _, run, _, _ in ground.ranks}
    assert len(runs) == 3
    assert all(NAME_PATTERN.fullmatch(run) for run in runs)
