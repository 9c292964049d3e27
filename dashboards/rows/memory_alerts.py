"""Whether a run, its GPU or its node runs out of memory: the panels of the alerts in alerts/memory.py."""

from __future__ import annotations

from alerts import memory
from alerts.thresholds import Thresholds, duration
from dashboards.grafana.panels import Query, TimeSeries
from dashboards.rows.alert_panels import judged
from dashboards.variables import of_other_exporter, of_recorded, of_run
from exporters import catalog

_NODE = "(cluster, instance)"


def panels(thresholds: Thresholds) -> dict[str, TimeSeries]:
    """The panel of each alert, by the alert's name."""
    told = duration(thresholds.oom_told_seconds)
    third = duration(thresholds.oom_trend_seconds / 3)
    ahead = duration(thresholds.oom_ahead_seconds)
    killed = duration(thresholds.host_oom_page_seconds)
    ooms = of_run(catalog.TRAINING_OOM_TOTAL)
    reserved = of_recorded(memory.RESERVED_RATIO)
    kills = of_other_exporter(memory.NODE_OOM_KILLS)
    available = of_other_exporter(memory.NODE_MEMORY_AVAILABLE)
    total = of_other_exporter(memory.NODE_MEMORY_TOTAL)
    return {
        memory.TRAINING_OUT_OF_MEMORY: judged(
            title="Out-of-memory errors of a run",
            description=(
                f"Those of all ranks within {told}, and all that this attempt has met: an attempt may meet "
                "its first before anybody looks. Any is told, and mostly it ends the run. Use smaller "
                "micro-batches with more accumulation, shorter sequences or gradient checkpointing."
            ),
            unit="none",
            shown=[
                Query(
                    expr="sum by (cluster, run) (max by (cluster, run, rank) "
                    f"(round(increase({ooms}[{told}]))))",
                    legend=f"{{{{run}}}} within {told}",
                ),
                Query(
                    expr=of_recorded(memory.OUT_OF_MEMORY),
                    legend="{{run}} in this attempt",
                ),
            ],
        ),
        memory.TRAINING_OOM_PREDICTED: judged(
            title="GPU memory that a rank's allocator holds, and where that leads",
            description=(
                "Solid: the share of its GPU's memory that torch's allocator holds for a rank. The others: "
                f"what it will hold in {ahead} at the pace of the last {third}. High and level is healthy; a "
                "line that leads over the red one at 100 % is a leak, or sequences that grow. Look for "
                "tensors that are kept, such as losses with their graph, and write a checkpoint soon."
            ),
            unit="percentunit",
            shown=[
                Query(expr=reserved, legend="{{run}} rank {{rank}}"),
                Query(
                    expr=f"predict_linear({reserved}[{third}], {thresholds.oom_ahead_seconds:g})",
                    legend=f"{{{{run}}}} rank {{{{rank}}}} in {ahead}",
                ),
            ],
            limit_at=1,
        ),
        memory.HOST_OOM_KILL: judged(
            title=f"Processes the kernel killed for lack of memory within {killed}",
            description=(
                "On each node, as node_exporter tells; a node or a container had no memory left. Any pages: "
                "where it was a rank or a worker of its data loader, the run dies or hangs. The kernel's log "
                "names the process. Give the container more memory, or use fewer workers."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"max by {_NODE} (round(increase({kills}[{killed}])))",
                    legend="{{instance}}",
                )
            ],
        ),
        memory.HOST_MEMORY_LOW: judged(
            title="Main memory that is available",
            worst="lowest",
            description=(
                "Of each node, as node_exporter tells; what the kernel could give back counts as available. "
                "Below the red line it will swap or kill a process. Look for what takes it: mostly workers "
                "of a data loader that each hold a copy of the data set."
            ),
            unit="percentunit",
            maximum=1,
            shown=[
                Query(
                    expr=f"max by {_NODE} ({available}) / on {_NODE} max by {_NODE} ({total})",
                    legend="{{instance}}",
                )
            ],
            limit_at=thresholds.host_memory_ratio,
        ),
    }
