"""Which rank trains on which GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from exporters.collector import Sample
from exporters.gpu.nvml import Nvml
from exporters.gpu.processes import ProcessCollector
from exporters.runs import RankProcess
from tests import fake_nvml
from tests.exporters.gpu.double import FIRST_PID_NAMESPACE, UUIDS, Clock, of_gpu, unsupported, values
from tests.fake_nvml import Calls, Machine, in_process

MEMORY = "nvidia_gpu_process_memory_bytes"
OTHER_NAMESPACE = FIRST_PID_NAMESPACE + 1
MIG_UUID = "MIG-6d0f7b8e-3c4a-5b6d-8e9f-001122334455"


def rank(
    number: int = 0,
    *,
    run: str = "a-run",
    pid: int = 100,
    namespace: int = FIRST_PID_NAMESPACE,
    uuids: Sequence[str] = (),
    visible: str | None = None,
) -> RankProcess:
    return RankProcess(run, number, number, pid, namespace, tuple(uuids), visible)


class Node:
    """The collector over ranks that a test sets, and a clock that it moves."""

    def __init__(self, nvml: Nvml, clock: Clock) -> None:
        self.ranks: list[RankProcess] | None = []
        self.pid_namespace = FIRST_PID_NAMESPACE
        self.clock = clock
        self.collector = ProcessCollector(
            nvml, lambda: self.ranks, pid_namespace=lambda: self.pid_namespace, monotonic=clock
        )

    def collect(self, *ranks: RankProcess) -> list[Sample]:
        """One look at NVML and these ranks."""
        self.ranks = list(ranks)
        self.clock.now += 10
        return self.collector.collect()

    def joined(self, *ranks: RankProcess) -> set[tuple[str, str, str]]:
        """Run, rank and GPU of every series of the join."""
        return {
            (s.labels["run"], s.labels["rank"], s.labels["gpu"])
            for s in self.collect(*ranks)
            if s.metric.name == "training_run_gpu_info"
        }


@pytest.fixture
def node(nvml: Nvml, clock: Clock) -> Node:
    return Node(nvml, clock)


def test_a_rank_is_where_its_recording_says(machine: Machine, node: Node) -> None:
    samples = node.collect(rank(3, uuids=[UUIDS[1]]))

    (info,) = (s for s in samples if s.metric.name == "training_run_gpu_info")
    assert info.labels == {"run": "a-run", "rank": "3", "gpu": "1", "uuid": UUIDS[1]}
    assert info.value == 1


def test_a_stray_context_of_a_rank_on_another_gpu_joins_nothing(machine: Machine, node: Node) -> None:
    """The classic fault: every rank of a node holds some memory of GPU 0."""
    machine.update({"gpu0.processes": "100:500 101:500", "gpu1.processes": "101:70000"})

    joined = node.joined(rank(0, pid=100, uuids=[UUIDS[0]]), rank(1, pid=101, uuids=[UUIDS[1]]))

    assert joined == {("a-run", "0", "0"), ("a-run", "1", "1")}


def test_a_rank_whose_recording_names_no_gpu_is_where_nvml_sees_its_process(
    machine: Machine, node: Node
) -> None:
    machine.set("gpu1.processes", "4711:1000 100:2000")

    assert node.joined(rank(pid=100)) == {("a-run", "0", "1")}
    assert node.joined(rank(pid=5)) == set(), "and nowhere when nothing tells"


def test_a_pid_of_another_namespace_is_not_taken_for_one_of_here(machine: Machine, node: Node) -> None:
    machine.set("gpu1.processes", "100:2000")

    assert node.joined(rank(pid=100, namespace=OTHER_NAMESPACE)) == set()
    assert node.joined(rank(pid=100, namespace=OTHER_NAMESPACE, uuids=[UUIDS[0]])) == {("a-run", "0", "0")}


def test_a_model_over_several_gpus_is_on_each(machine: Machine, node: Node) -> None:
    assert node.joined(rank(uuids=UUIDS[:2])) == {("a-run", "0", "0"), ("a-run", "0", "1")}


def test_two_runs_on_one_gpu_and_none_of_one_that_has_ended(machine: Machine, node: Node) -> None:
    one, two, three = (rank(run=name, pid=pid, uuids=[UUIDS[0]]) for pid, name in enumerate("abc"))

    assert node.joined(one, two, three) == {(run, "0", "0") for run in "abc"}
    assert node.joined(one, three) == {("a", "0", "0"), ("c", "0", "0")}


def test_an_ended_rank_is_gone_before_nvml_is_asked_again(machine: Machine, node: Node) -> None:
    assert node.joined(rank(uuids=[UUIDS[0]]))
    node.ranks = []
    node.clock.now += 1

    assert not [s for s in node.collector.collect() if s.metric.name == "training_run_gpu_info"]


@pytest.mark.parametrize(
    ("visible", "gpu"),
    [
        (UUIDS[1], "1"),
        (UUIDS[1][:-1] + "1", "1"),
        ("GPU-5a11ab1e", None),  # the beginning of both
        ("1", "1"),
        ("7", None),
        ("GPU-ffff", None),
        ("-1", None),
        ("NoDevFiles", None),
    ],
)
def test_cuda_visible_devices_tells_where_neither_torch_nor_nvml_does(
    machine: Machine, node: Node, visible: str, gpu: str | None
) -> None:
    assert node.joined(rank(visible=visible)) == ({("a-run", "0", gpu)} if gpu else set())


def test_a_rank_stays_on_its_gpu_when_that_is_lost(machine: Machine, node: Node) -> None:
    """It does not move to where it holds a stray context, nor to the one GPU that is left with its prefix."""
    machine.set("gpu0.processes", "101:500")
    machine.set("gpu1.processes", "102:9000")
    seen = rank(4, pid=102)
    recorded = rank(1, pid=101, uuids=[UUIDS[1]])
    named = rank(2, pid=7, visible=UUIDS[1])
    ambiguous = rank(3, pid=8, visible="GPU-5a11ab1e")
    before = node.joined(recorded, named, ambiguous, seen)
    assert before == {("a-run", "1", "1"), ("a-run", "2", "1"), ("a-run", "4", "1")}

    machine.update({"gpu1.error": 15, "gpu0.processes": "101:500 102:400"})

    assert node.joined(recorded, named, ambiguous, seen) - {("a-run", "4", "0")} == before


def test_an_index_means_nothing_in_another_container(machine: Machine, node: Node) -> None:
    assert node.joined(rank(visible="1", namespace=OTHER_NAMESPACE)) == set()
    assert node.joined(rank(visible=UUIDS[1], namespace=OTHER_NAMESPACE)) == {("a-run", "0", "1")}


def test_an_index_means_nothing_among_unlike_gpus_which_cuda_orders_by_speed(
    machine: Machine, node: Node
) -> None:
    machine.set("gpu1.name", "NVIDIA L4")

    assert node.joined(rank(visible="1")) == set()


@pytest.fixture
def divided(machine: Machine) -> Machine:
    """GPU 1 is divided in two."""
    machine.update(
        {
            "gpu1.mig_mode": 1,
            "gpu1.mig.0": "1 0 3g.40gb 40448 0",
            "gpu1.mig.1": "2 0 3g.40gb 40448 0",
            "gpu1.mig.1.uuid": MIG_UUID,
        }
    )
    return machine


@pytest.mark.parametrize("told", ["recording", "process", "environment"])
def test_a_rank_on_a_mig_device_names_its_gpu_and_the_instance(
    divided: Machine, node: Node, told: str
) -> None:
    divided.set("gpu1.processes", "100:3000:2:0" if told == "process" else "")
    who = {
        "recording": rank(uuids=[MIG_UUID]),
        "process": rank(pid=100),
        "environment": rank(visible=MIG_UUID, namespace=OTHER_NAMESPACE),
    }[told]

    (info,) = (s for s in node.collect(who) if s.metric.name == "training_run_gpu_info")

    assert info.labels == {
        "run": "a-run",
        "rank": "0",
        "gpu": "1",
        "uuid": UUIDS[1],
        "mig_instance": "2",
        "mig_profile": "3g.40gb",
    }


@pytest.mark.parametrize("how", ["recorded", "visible"])
def test_a_mig_device_is_known_by_the_name_of_older_drivers_too(
    divided: Machine, node: Node, how: str
) -> None:
    older = f"MIG-{UUIDS[1]}/2/0"
    who = rank(uuids=[older]) if how == "recorded" else rank(visible=older, namespace=OTHER_NAMESPACE)

    (info,) = (s for s in node.collect(who) if s.metric.name == "training_run_gpu_info")

    assert (info.labels["gpu"], info.labels["mig_instance"]) == ("1", "2")


def test_compute_instances_of_one_gpu_instance_are_one_series(divided: Machine, node: Node) -> None:
    divided.update(
        {
            "gpu1.mig.0": "4 0 1c.3g.40gb 40448 0",
            "gpu1.mig.1": "4 1 2c.3g.40gb 40448 0",
            "gpu1.processes": "100:3000:4:1",
        }
    )

    assert len([s for s in node.collect(rank(pid=100)) if s.metric.name == "training_run_gpu_info"]) == 1


def test_an_index_means_nothing_while_a_gpu_is_divided(divided: Machine, node: Node) -> None:
    assert node.joined(rank(visible="0")) == set()
    divided.set("gpu1.mig_mode", 0)
    assert node.joined(rank(visible="0")) == {("a-run", "0", "0")}


def test_an_instance_that_was_made_anew_is_joined_as_it_is_now(divided: Machine, node: Node) -> None:
    divided.set("gpu1.processes", "100:3000:2:0")
    assert node.joined(rank(pid=100))
    divided.unset("gpu1.mig.1.uuid")
    divided.update({"gpu1.mig.0": "2 0 4g.40gb 40448 0", "gpu1.mig.1": "6 0 1g.10gb 9856 0"})

    (info,) = (s for s in node.collect(rank(pid=100)) if s.metric.name == "training_run_gpu_info")

    assert (info.labels["mig_instance"], info.labels["mig_profile"]) == ("2", "4g.40gb")


def memory(samples: Sequence[Sample], gpu: str) -> dict[tuple[str, str], float | object]:
    return {
        (s.labels["run"], s.labels["rank"]): s.value for s in of_gpu(samples, gpu) if s.metric.name == MEMORY
    }


def test_memory_is_told_by_rank_and_that_of_all_others_together(machine: Machine, node: Node) -> None:
    machine.update({"gpu0.processes": "100:5000 101:7000 4711:30 4712:12", "gpu1.processes": "4711:9"})

    samples = node.collect(rank(0, pid=100, uuids=[UUIDS[0]]), rank(1, pid=101, uuids=[UUIDS[0]]))

    assert memory(samples, "0") == {("a-run", "0"): 5000, ("a-run", "1"): 7000, ("", ""): 42}
    assert memory(samples, "1") == {("", ""): 9}


def test_memory_that_nvml_does_not_tell_is_absent_not_zero(machine: Machine, node: Node) -> None:
    machine.update({"gpu0.processes": "100:- 4711:30", "gpu1.processes": "4711:- 4712:5"})

    samples = node.collect(rank(pid=100))

    assert memory(samples, "0") == {("", ""): 30}
    assert memory(samples, "1") == {}


def test_while_the_ranks_are_not_known_their_memory_is_not_taken_for_that_of_others(
    machine: Machine, node: Node
) -> None:
    machine.set("gpu0.processes", "100:5000 4711:30")
    node.ranks = None

    assert node.collector.collect() == []


def test_in_a_container_only_its_own_processes_are_told_and_the_reason_is(
    machine: Machine, node: Node
) -> None:
    machine.set("gpu0.processes", "100:5000")
    node.pid_namespace = OTHER_NAMESPACE

    samples = node.collect(rank(pid=100, namespace=OTHER_NAMESPACE))

    assert memory(samples, "0") == {("a-run", "0"): 5000}
    assert memory(samples, "1") == {}, "that others hold none is not known"
    assert unsupported(samples) == {MEMORY: "pid_namespace"}


def test_processes_that_may_not_be_listed_are_absent_with_the_reason_and_the_join_stays(
    machine: Machine, node: Node
) -> None:
    machine.set("error.nvmlDeviceGetComputeRunningProcesses_v3", 4)

    samples = node.collect(rank(uuids=[UUIDS[0]]))

    assert unsupported(samples) == {MEMORY: "no_permission"}
    assert memory(samples, "0") == {}
    assert node.joined(rank(uuids=[UUIDS[0]])) == {("a-run", "0", "0")}


def test_an_older_driver_lists_processes_by_the_older_call(tmp_path: Path, clock: Clock) -> None:
    old = fake_nvml.build(tmp_path, without=["nvmlDeviceGetComputeRunningProcesses_v3"])
    with in_process.machine(old, tmp_path / "control") as machine:
        machine.set("gpu1.processes", "100:5000")
        node = Node(Nvml(), clock)

        samples = node.collect(rank(pid=100))

    assert values(of_gpu(samples, "1"), MEMORY, "run") == {"a-run": 5000, "": 0}
    assert unsupported(samples) == {}


def test_a_gpu_lost_before_the_first_look_joins_nothing_and_leaves_the_others(
    machine: Machine, node: Node
) -> None:
    machine.set("gpu0.error", 15)

    samples = node.collect(rank(0, uuids=[UUIDS[0]]), rank(1, uuids=[UUIDS[1]]))

    assert {s.labels["gpu"] for s in samples} == {"1"}


def test_nvml_is_asked_every_five_seconds_only(calls: Calls, machine: Machine, node: Node) -> None:
    for _ in range(20):
        node.clock.now += 1
        node.collector.collect()

    assert calls.counts()["nvmlDeviceGetComputeRunningProcesses_v3"] == 2 * 4
