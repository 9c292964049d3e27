"""Whether a run, its GPU or its node runs out of memory.

What the alerts on a node read is node_exporter's, whose `instance` is not the service's. An error of too
little memory mostly ends a run, so it is told of a run that is over too; what is predicted is not.
"""

from __future__ import annotations

from alerts.lifecycle import START, UNFINISHED
from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import Thresholds, duration
from exporters import catalog

TRAINING_OUT_OF_MEMORY = "TrainingOutOfMemory"
TRAINING_OOM_PREDICTED = "TrainingOOMPredicted"
HOST_OOM_KILL = "HostOOMKill"
HOST_MEMORY_LOW = "HostMemoryLow"

# node_exporter's.
NODE_OOM_KILLS = "node_vmstat_oom_kill"
NODE_MEMORY_AVAILABLE = "node_memory_MemAvailable_bytes"
NODE_MEMORY_TOTAL = "node_memory_MemTotal_bytes"

# What torch's allocator holds for a rank, of the memory of its GPUs or MIG instances.
RESERVED_RATIO = f"rank:{catalog.TRAINING_CUDA_MEMORY_RESERVED_BYTES.name.removesuffix('_bytes')}:ratio"


# How many out-of-memory errors the newest attempt has met so far.
OUT_OF_MEMORY = f"run:{catalog.TRAINING_OOM_TOTAL.name.removesuffix('_total')}:sum"


def memory(thresholds: Thresholds) -> Group:
    return Group(
        "memory",
        (
            *_out_of_memory(thresholds),
            *_predicted(thresholds),
            *_of_hosts(thresholds),
        ),
    )


def _out_of_memory(thresholds: Thresholds) -> tuple[RecordingRule, AlertRule]:
    """Also of an attempt that met it before its first scrape, which `increase()` does not see.

    All that such an attempt has counted happened since its start. A node on which an earlier one has ended
    goes on saying what that had counted.
    """
    told = duration(thresholds.oom_told_seconds)
    ooms = catalog.TRAINING_OOM_TOTAL
    so_far = RecordingRule(
        OUT_OF_MEMORY,
        "sum by (cluster, run) (\n"
        "  max by (cluster, run, rank) (\n"
        f"    {ooms}\n"
        "      unless on (cluster, instance, run)\n"
        f"    ({catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS} < on (cluster, run) group_left () {START})\n"
        "  )\n"
        ")",
    )
    alert = AlertRule(
        TRAINING_OUT_OF_MEMORY,
        f"sum by (cluster, run) (max by (cluster, run, rank) (round(increase({ooms}[{told}])))) > 0\n"
        "  or\n"
        "(\n"
        f"  {OUT_OF_MEMORY} > 0\n"
        "    and on (cluster, run)\n"
        f"  time() - {START} < {thresholds.oom_told_seconds}\n"
        ")",
        at_once="The hook has seen the error pass: it is no measurement that could pass.",
        severity="warning",
        scope="run",
        summary="Run {{ $labels.run }} ran out of memory.",
        description=f"Out-of-memory errors within {told}: {{{{ $value | humanize }}}}. Unless its trainer "
        "goes on with less, the rank that met one ends the run.",
    )
    return so_far, alert


def _predicted(thresholds: Thresholds) -> tuple[RecordingRule | AlertRule, ...]:
    """Each third of the past must lead to full memory: one step up, as an evaluation makes it, does not.

    What the allocator holds is compared with the whole memory, although CUDA itself and NCCL take some: at
    the pace of a leak that is minutes. A GPU that several ranks share fills up sooner than this sees.
    """
    third = duration(thresholds.oom_trend_seconds / 3)
    retries = f"{catalog.TRAINING_CUDA_ALLOC_RETRIES_TOTAL}[{duration(thresholds.oom_retries_seconds)}]"

    def leads_to_full(offset: str) -> str:
        return f"predict_linear({RESERVED_RATIO}[{third}]{offset}, {thresholds.oom_ahead_seconds}) >= 1"

    trend = "\n      and on (cluster, run, rank)\n    ".join(
        leads_to_full(offset)
        for offset in (
            "",
            f" offset {third}",
            f" offset {duration(2 * thresholds.oom_trend_seconds / 3)}",
        )
    )
    return (
        # A rank's allocator counts all its devices together. A whole GPU has no mig_instance on either side.
        RecordingRule(
            RESERVED_RATIO,
            f"max by (cluster, run, rank) ({catalog.TRAINING_CUDA_MEMORY_RESERVED_BYTES})\n"
            "  / on (cluster, run, rank)\n"
            "sum by (cluster, run, rank) (\n"
            f"  max by (cluster, run, rank, uuid, mig_instance) ({catalog.TRAINING_RUN_GPU_INFO})\n"
            "    * on (cluster, uuid, mig_instance) group_left ()\n"
            "  (\n"
            f"    max by (cluster, uuid, mig_instance) ({catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES})\n"
            "      or\n"
            f"    max by (cluster, uuid, mig_instance) ({catalog.NVIDIA_GPU_MIG_MEMORY_TOTAL_BYTES})\n"
            "  )\n"
            ")",
        ),
        # The run's start instead of its mere being: an attempt that is younger than what is looked at is
        # compared with nothing of the one before.
        AlertRule(
            TRAINING_OOM_PREDICTED,
            "max by (cluster, run) (\n"
            f"  {RESERVED_RATIO}\n"
            "    and on (cluster, run, rank)\n"
            "  (\n"
            f"    {trend}\n"
            "      or\n"
            f"    max by (cluster, run, rank) (increase({retries})) > 0\n"
            "  )\n"
            ")\n"
            "  and on (cluster, run)\n"
            f"time() - {UNFINISHED} > {thresholds.oom_trend_seconds}",
            for_seconds=thresholds.oom_predicted_for_seconds,
            severity="warning",
            scope="run",
            summary="Run {{ $labels.run }} is about to run out of GPU memory.",
            description="The allocator of a rank holds {{ $value | humanizePercentage }} of its GPU's "
            f"memory. At the pace of the last {duration(thresholds.oom_trend_seconds)} it holds all within "
            f"{duration(thresholds.oom_ahead_seconds)}, or it has had to empty its cache again and again.",
        ),
    )


def _of_hosts(thresholds: Thresholds) -> tuple[AlertRule, ...]:
    page = duration(thresholds.host_oom_page_seconds)
    return (
        # The kernel's count since the boot, of all control groups.
        AlertRule(
            HOST_OOM_KILL,
            f"max by (cluster, instance) (round(increase({NODE_OOM_KILLS}[{page}]))) > 0",
            at_once="The kernel has killed the process: it does not come back.",
            severity="critical",
            scope="hardware",
            summary="The kernel of {{ $labels.instance }} killed a process for lack of memory.",
            description=f"It killed {{{{ $value | humanize }}}} within {page}, as the node or a container "
            "had no memory left. Where it was a rank or a worker of its data loader, the run dies or hangs.",
        ),
        AlertRule(
            HOST_MEMORY_LOW,
            f"max by (cluster, instance) ({NODE_MEMORY_AVAILABLE})\n"
            "  / on (cluster, instance)\n"
            f"max by (cluster, instance) ({NODE_MEMORY_TOTAL})\n"
            f"  < {thresholds.host_memory_ratio}",
            for_seconds=thresholds.host_memory_for_seconds,
            severity="warning",
            scope="hardware",
            summary="{{ $labels.instance }} is almost out of main memory.",
            description="{{ $value | humanizePercentage }} of it is available, less than "
            f"{100 * thresholds.host_memory_ratio:g}% for {duration(thresholds.host_memory_for_seconds)}: "
            "the kernel will swap, or kill a process.",
        ),
    )
