"""What goes wrong with GPUs: every alert about their health, and those of runs whose GPUs idle or spin.

The GPUs are simulated, each with one fault, on two nodes: where a GPU is lost, nobody is told that there are
fewer of them, and where one is slow, the others wait for it and do not become hot. Simulated GPUs of two
nodes have the same uuids, so each node is a cluster of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from alerts import gpu_health, throughput
from exporters.gpu.simulated import FAULT_AFTER_SECONDS, WITHHELD, Scenario
from trainvitals.drill.condition import Condition, Drill
from trainvitals.drill.runs import run_of
from trainvitals.drill.trainer import Fault

# By name of the node, the scenario of each GPU by its index. Ranks are on the GPU of their local rank.
NODES: Mapping[str, Sequence[Scenario]] = {
    "gpus": (
        Scenario.xid31,
        Scenario.idle,
        Scenario.memory_fill,
        Scenario.overheat,
        Scenario.ecc,
        Scenario.row_remap_pending,
        Scenario.row_remap_failed,
        Scenario.pcie_replays,
        Scenario.pcie_degraded,
        Scenario.nvlink_down,
        Scenario.recovery_action,
        Scenario.withheld,
        Scenario.gone,
    ),
    "lost-gpus": (Scenario.hung, Scenario.hung, Scenario.xid79, Scenario.lost, Scenario.straggler),
}

_Provoke = Callable[[Drill], Mapping[str, str]]


def _with(scenario: Scenario, *labels: str, **others: str) -> _Provoke:
    """The node that has a GPU of this scenario; of its labels these tell the alert, and `others`."""

    def provoke(drill: Drill) -> Mapping[str, str]:
        name, scenarios = next(each for each in NODES.items() if scenario in each[1])
        drill.node(name, ",".join(scenarios), cluster=name)
        known = {"instance": name, "gpu": str(scenarios.index(scenario))}
        return {label: known[label] for label in labels} | others

    return provoke


def _with_gpu(scenario: Scenario) -> _Provoke:
    return _with(scenario, "instance", "gpu")


def _with_run(alert: str, scenario: Scenario, ranks: int, *arguments: str, **labels: str) -> _Provoke:
    """A run of so many ranks on the first GPUs of the node that has this scenario."""

    def provoke(drill: Drill) -> Mapping[str, str]:
        run = run_of(alert)
        node = drill.node(_with(scenario, "instance")(drill)["instance"])
        for rank in range(ranks):
            drill.train(node, run, *arguments, rank=rank, world_size=ranks)
        return {"run": run, **labels}

    return provoke


CONDITIONS = (
    Condition(
        gpu_health.GPU_MEMORY_HIGH,
        "the memory of a simulated GPU fills up",
        _with_gpu(Scenario.memory_fill),
    ),
    Condition(
        gpu_health.GPU_XID_HARDWARE,
        "a simulated GPU falls off the bus with XID 79",
        _with_gpu(Scenario.xid79),
    ),
    Condition(
        gpu_health.GPU_LOST,
        "a simulated GPU answers no more, and no XID says why",
        _with_gpu(Scenario.lost),
    ),
    Condition(
        gpu_health.GPU_XID_APPLICATION,
        "a simulated GPU reports XID 31 while a training is on it",
        _with_run(gpu_health.GPU_XID_APPLICATION, Scenario.xid31, 1, gpu="0"),
    ),
    Condition(
        gpu_health.GPU_ECC_UNCORRECTABLE,
        "a simulated GPU counts an uncorrectable memory error",
        _with_gpu(Scenario.ecc),
    ),
    Condition(
        gpu_health.GPU_ROW_REMAP_PENDING,
        "a simulated GPU waits for a reset, to replace a row of its memory",
        _with_gpu(Scenario.row_remap_pending),
    ),
    Condition(
        gpu_health.GPU_ROW_REMAP_FAILURE,
        "a simulated GPU has no spare row for its memory",
        _with_gpu(Scenario.row_remap_failed),
    ),
    Condition(
        gpu_health.GPU_THERMAL_THROTTLE,
        "the fans of a simulated GPU stand still, and heat slows it down",
        _with_gpu(Scenario.overheat),
    ),
    Condition(
        gpu_health.GPU_POWER_BRAKE,
        "a simulated GPU is slowed down by its power brake",
        _with_gpu(Scenario.straggler),
    ),
    Condition(
        gpu_health.GPU_PCIE_REPLAY,
        "a simulated GPU sends much again over PCIe",
        _with_gpu(Scenario.pcie_replays),
    ),
    Condition(
        gpu_health.GPU_PCIE_LINK_DEGRADED,
        "a simulated GPU that is at work loses half of its PCIe lanes",
        _with_gpu(Scenario.pcie_degraded),
    ),
    Condition(
        gpu_health.GPU_NVLINK_DOWN,
        "two NVLinks of a simulated GPU go down",
        _with_gpu(Scenario.nvlink_down),
    ),
    Condition(
        gpu_health.GPU_COUNT_CHANGED,
        "the driver reports one simulated GPU fewer than before",
        _with(Scenario.gone, "instance"),
    ),
    Condition(
        gpu_health.GPU_RECOVERY_ACTION_NEEDED,
        "the driver asks for a reset of a simulated GPU",
        _with_gpu(Scenario.recovery_action),
    ),
    Condition(
        gpu_health.GPU_METRIC_UNSUPPORTED,
        f"the driver of a simulated GPU gives {WITHHELD} no more",
        _with(Scenario.withheld, "instance", metric=WITHHELD.name),
    ),
    Condition(
        throughput.TRAINING_GPU_IDLE,
        "one of the two simulated GPUs of a training does nothing",
        _with_run(throughput.TRAINING_GPU_IDLE, Scenario.idle, 2),
    ),
    # They stop once their GPUs spin.
    Condition(
        throughput.TRAINING_COLLECTIVE_HUNG,
        "both ranks of a training stop, and their simulated GPUs spin",
        _with_run(
            throughput.TRAINING_COLLECTIVE_HUNG,
            *(Scenario.hung, 2, "--fault", Fault.hang, "--after", f"{FAULT_AFTER_SECONDS:g}"),
        ),
    ),
)
