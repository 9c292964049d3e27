"""Whether a run is as fast as it was: the panels of the alerts in alerts/throughput.py."""

from __future__ import annotations

from alerts import throughput
from alerts.thresholds import Thresholds, duration
from dashboards.grafana.panels import Override, Query, TimeSeries
from dashboards.rows.alert_panels import judged, per_second, percent
from dashboards.variables import of_node, of_recorded, of_run
from exporters import catalog

# Of ranks on whole GPUs.
_INFO = of_run(catalog.TRAINING_RUN_GPU_INFO, 'mig_instance=""')
_GPU_OF_RUN = f"max by (cluster, run, gpu, uuid) ({_INFO})"
_TIMES = "* on (cluster, uuid) group_left ()"


def panels(thresholds: Thresholds) -> dict[str, TimeSeries]:
    """The panel of each alert, by the alert's name."""
    window = duration(thresholds.throughput_window_seconds)
    data_waits = per_second(
        of_run(catalog.TRAINING_PHASE_SECONDS_TOTAL, 'phase="data"'), thresholds.throughput_window_seconds
    )
    return {
        throughput.TRAINING_THROUGHPUT_REGRESSED: judged(
            title="Pace of a run, beside what it usually is",
            worst="lowest",
            description=(
                "Tokens a second of each run's ranks, evaluations and checkpoints left out, as a share of "
                f"their median of {duration(thresholds.throughput_usual_seconds)}. It should lie around 100 "
                "%; below the red line the run has become slower. Look at data loading, at the slowest rank "
                "and at GPUs that are held down. Longer sequences or a new stage move it, too."
            ),
            unit="percentunit",
            shown=[
                Query(
                    expr=f"last_over_time({of_recorded(throughput.PACE)}[{window}]) / on (cluster, run) "
                    f"{of_recorded(throughput.PACE_MEDIAN)}",
                    legend="{{run}}",
                )
            ],
            limit_at=thresholds.throughput_ratio,
        ),
        throughput.TRAINING_DATA_LOADER_BOUND: judged(
            title=f"Share of time a run waits for data, over {window}",
            description=(
                "Of the rank that waits longest, for which all others wait. It should be near 0; above the "
                "red line the GPUs starve. Give the loader more workers, let it prefetch further, preprocess "
                "once and store the result, or move the data to a faster disk."
            ),
            unit="percentunit",
            shown=[Query(expr=f"max by (cluster, run) ({data_waits})", legend="{{run}}")],
            limit_at=thresholds.data_wait_ratio,
        ),
        throughput.TRAINING_GPU_IDLE: judged(
            title=f"Utilization of the GPUs that a run holds, over {window}",
            worst="lowest",
            description=(
                "The mean of each GPU on which a rank trains, MIG instances left out. Training keeps it "
                "high; a GPU below the red line is held and not used, unless its run is starting, evaluating "
                "or writing a checkpoint. Look at whether the run hangs or waits for data, and end it if "
                "nobody needs it."
            ),
            unit="percent",
            maximum=100,
            shown=[
                Query(
                    expr=f"{_GPU_OF_RUN} {_TIMES} max by (cluster, uuid) "
                    f"(avg_over_time({of_node(catalog.NVIDIA_GPU_UTILIZATION_PERCENT)}[{window}]))",
                    legend="{{run}} GPU {{gpu}}",
                )
            ],
            limit_at=round(100 * thresholds.gpu_idle_ratio, 6),
        ),
        throughput.TRAINING_STRAGGLER_RANK: judged(
            title="Time of each rank's forward passes, beside the median rank's",
            description=(
                "As a share of the median of its run; runs with few ranks are left out. All ranks should lie "
                "around 100 %: one above the red line is slower than the others, and they wait for it. Look "
                "at its GPU's clocks, heat and PCIe link, at its node's load, and at how long its sequences "
                "are."
            ),
            unit="percentunit",
            minimum=None,
            shown=[
                Query(
                    expr=f"{of_recorded(throughput.FORWARD)} / on (cluster, run) group_left () "
                    f"{of_recorded(throughput.FORWARD_MEDIAN)}",
                    legend="{{run}} rank {{rank}}",
                )
            ],
            limit_at=round(1 + thresholds.straggler_excess_ratio, 6),
        ),
        throughput.TRAINING_STEP_OVERDUE: judged(
            title="Age of a run's last progress, beside what its steps take",
            description=(
                "Solid: how long ago any rank of the run last made progress, by its node's clock. Dashed: "
                f"{thresholds.overdue_steps_ratio:g} times what 99 of 100 of its steps take at most, and "
                f"{duration(thresholds.overdue_seconds)} at least. The solid line is a low saw-tooth; where "
                "it climbs above the dashes the run may hang, unless it is starting, evaluating or writing a "
                "checkpoint."
            ),
            unit="s",
            shown=[Query(expr=of_recorded(throughput.PROGRESS_AGE), legend="{{run}}")],
            moving_limit=Query(
                expr=f"clamp_min({thresholds.overdue_steps_ratio:g} * {of_recorded(throughput.STEP_P99)}, "
                f"{thresholds.overdue_seconds:g})",
                legend="{{run}} limit",
            ),
        ),
        throughput.TRAINING_COLLECTIVE_HUNG: judged(
            title="Age of a run's last progress, with the work and the power of its GPUs",
            description=(
                "In seconds: how long ago any rank last made progress; red is its limit. On the other axis: "
                "the least utilization of the run's GPUs, which is "
                f"{percent(thresholds.hung_utilization_ratio)} or more in a collective that hangs, and the "
                "most power one draws of its limit, which then is below "
                f"{percent(thresholds.hung_power_ratio)}. All three together: the ranks spin and wait for "
                "each other. Take a stack trace of each rank, then restart the run."
            ),
            unit="s",
            shown=[
                Query(expr=of_recorded(throughput.PROGRESS_AGE), legend="{{run}} last progress"),
                Query(
                    expr=f"min by (cluster, run) ({_GPU_OF_RUN} {_TIMES} max by (cluster, uuid) "
                    f"({of_node(catalog.NVIDIA_GPU_UTILIZATION_PERCENT)})) / 100",
                    legend="{{run}} least utilization",
                ),
                Query(
                    expr=f"max by (cluster, run) ({_GPU_OF_RUN} {_TIMES} max by (cluster, uuid) "
                    f"({of_node(catalog.NVIDIA_GPU_POWER_WATTS)}) / on (cluster, uuid) group_left () "
                    f"max by (cluster, uuid) ({of_node(catalog.NVIDIA_GPU_POWER_LIMIT_WATTS)}))",
                    legend="{{run}} most power of the limit",
                ),
            ],
            limit_at=thresholds.hung_seconds,
            overrides=[_share("B"), _share("C")],
        ),
        throughput.TRAINING_DEADLINE_AT_RISK: judged(
            title="How long after its deadline a run will end",
            description=(
                "At the pace of the service's estimate; below 0 it ends in time, and so far before. Only of "
                "runs that have a deadline: that of their Slurm job, or one they were told. Above the red "
                "line at 0 the time will not do: ask for more, make fewer steps, or see to it that a "
                "checkpoint is written before the end."
            ),
            unit="s",
            minimum=None,
            shown=[
                Query(
                    expr=f"time() + max by (cluster, run) ({of_run(catalog.TRAINING_ETA_SECONDS)}) "
                    "- on (cluster, run) "
                    f"max by (cluster, run) ({of_run(catalog.TRAINING_DEADLINE_TIMESTAMP_SECONDS)})",
                    legend="{{run}}",
                )
            ],
            limit_at=0,
        ),
    }


def _share(reference: str) -> Override:
    """Draws one query's series against an axis of its own, from none to all."""
    return Override("byFrameRefID", reference, {"unit": "percentunit", "min": 0, "max": 1})
