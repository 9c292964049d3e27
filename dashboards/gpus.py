"""GPUs: whether they are sound and at work, and all that is measured of each."""

from __future__ import annotations

from typing import Any

import attr

from alerts.gpu_health import UP
from alerts.rank_gpus import HEAT_OR_BRAKE
from alerts.thresholds import Thresholds
from dashboards import events, links
from dashboards.colors import BAD, GOOD, NEUTRAL, WARNING
from dashboards.events import ALERTS, FIRING
from dashboards.grafana.dashboard import Dashboard, DatasourceVariable, LabelVariable, Shelf, stack
from dashboards.grafana.panels import DataLink, Query, Stat, Threshold, falling, thresholds_of
from dashboards.rows import gpu_faults, gpu_tables, gpu_work
from dashboards.rows.gpu_lines import OF_RUN, now, of_chosen_runs, pace
from dashboards.rows.gpu_tables import OF_GPU
from dashboards.variables import GPU_VARIABLE, VARIABLES, of_alerts, of_gpu, of_recorded
from exporters import catalog

UID = links.GPUS

_UP = of_chosen_runs(of_recorded(UP, OF_GPU))
_NONE_IS_GOOD = (Threshold(GOOD, None), Threshold(BAD, 1))


def _figure(
    title: str,
    description: str,
    unit: str,
    expr: str,
    thresholds: list[Threshold] | tuple[Threshold, ...] = (),
    *,
    decimals: int | None = 0,
    no_value: str | None = None,
    data_links: tuple[DataLink, ...] = (),
) -> Stat:
    return Stat(
        title=title,
        description=description,
        unit=unit,
        decimals=decimals,
        named=False,
        course=False,
        colored=bool(thresholds),
        color_mode="thresholds",
        thresholds=[*thresholds] or [Threshold(NEUTRAL, None)],
        no_value=no_value,
        data_links=data_links,
        targets=[Query(expr=expr)],
    )


def counts() -> Stat:
    in_use = of_gpu(catalog.TRAINING_RUN_GPU_INFO, OF_RUN)
    return Stat(
        title="GPUs",
        description=(
            "Of the chosen ones: those that answer, those on which a rank trains now, and those that "
            "answered before and do so no more. Any that is lost is a fault: drain its node, reset the GPU "
            "or reboot the node. A GPU that the driver does not report after a boot is in none of these; "
            "the alert GPUCountChanged tells of it."
        ),
        unit="none",
        decimals=0,
        colored=True,
        course=False,
        color_mode="thresholds",
        thresholds=[Threshold(NEUTRAL, None)],
        targets=[
            Query(expr=f"sum{_UP}", legend="answer"),
            Query(expr=f"count(max by (cluster, uuid) ({in_use})) or vector(0)", legend="in use"),
            Query(expr=f"sum({_UP} == bool 0)", legend="lost"),
        ],
        overrides=[thresholds_of("C", _NONE_IS_GOOD)],
    )


def figures(thresholds: Thresholds) -> list[tuple[Stat, int]]:
    held = pace(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL, HEAT_OR_BRAKE)
    chip = now(catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS, 'sensor="gpu"')
    slowdown = now(catalog.NVIDIA_GPU_TEMPERATURE_LIMIT_CELSIUS, 'limit="slowdown"')
    firing = of_alerts(ALERTS, FIRING, 'scope="hardware"', 'gpu=~"$gpu|"')
    return [
        (counts(), 8),
        (
            _figure(
                "Utilization",
                "Share of time in which the chosen GPUs worked, free ones included. Far below what the GPUs "
                "in use would make of it, some wait: the rows below show which, and since when.",
                "percent",
                f"avg({now(catalog.NVIDIA_GPU_UTILIZATION_PERCENT)})",
            ),
            4,
        ),
        (
            _figure(
                "Alerts",
                "Alerts of GPUs and nodes that fire now, warnings included, of what is chosen. Above 0 "
                "open the list: each has a runbook that says what to do first.",
                "none",
                f"count({firing}) or vector(0)",
                _NONE_IS_GOOD,
                data_links=(links.to(links.ALERTS, "What fires"),),
            ),
            4,
        ),
        (
            _figure(
                "Held down",
                "GPUs whose clocks heat or the power brake lowered for more than "
                f"{100 * thresholds.gpu_thermal_ratio:g} % of the last minutes. A single one slows its whole "
                "run; the timeline below says what holds it.",
                "none",
                f"sum({held} > bool {thresholds.gpu_thermal_ratio})",
                (Threshold(GOOD, None), Threshold(WARNING, 1)),
                no_value="not told",
            ),
            4,
        ),
        (
            _figure(
                "Heat margin",
                "How far the hottest of the chosen GPUs is below the temperature at which it slows itself "
                "down. Below 10 °C look at its cooling before it costs speed; at 0 it does.",
                "celsius",
                f"min({slowdown} - on (cluster, instance, gpu, uuid) {chip})",
                falling(10, 3),
                no_value="not told",
            ),
            4,
        ),
    ]


def variables() -> list[DatasourceVariable | LabelVariable]:
    """As on other dashboards; but one instance at first, and all runs are with the GPUs that no run is on."""
    changed: dict[str, dict[str, Any]] = {"instance": {"opens_on_first": True}, "run": {"all_value": ".*"}}
    return [*(attr.evolve(each, **changed.get(each.name, {})) for each in VARIABLES), GPU_VARIABLE]


def dashboard(thresholds: Thresholds) -> Dashboard:
    return Dashboard(
        uid=UID,
        title="GPUs",
        description=(
            "Whether the GPUs are sound and at work, who uses them, and all that is measured of each. It "
            "opens on one instance, for a thousand GPUs at once are a long wait: click a row or choose above "
            "for others. A run that is chosen leaves the GPUs it is on."
        ),
        variables=variables(),
        events=events.of_fleet(),
        panels=stack(
            Shelf("Which nodes work, and since when?", [(gpu_work.heat_of_nodes(), 24)], height=9),
            Shelf("Are these GPUs sound, and do they work?", figures(thresholds), height=4),
            Shelf("Which ones work, and since when?", [(gpu_work.heat(), 24)], height=9),
            Shelf("Which one is in trouble?", [(gpu_tables.health(thresholds), 24)], height=10),
            Shelf("Who uses them?", [(gpu_tables.work(thresholds), 24)], height=10),
            Shelf(
                "What do they do with their time?",
                [
                    (gpu_work.activity(), 14),
                    (gpu_work.pipes(), 10),
                    (gpu_work.sm_activity(), 8),
                    (gpu_work.tensor_activity(), 8),
                    (gpu_work.bandwidth(), 8),
                ],
                height=10,
            ),
            Shelf(
                "Does it fit?",
                [(gpu_work.memory_in_use(thresholds), 10), (gpu_tables.memory(thresholds), 14)],
                height=10,
            ),
            Shelf(
                "What holds their clocks down?",
                [(gpu_faults.throttling(), 14), (gpu_faults.throttled_share(), 10)],
                height=10,
            ),
            Shelf(
                "How hot are they, and what do they draw?",
                [
                    (gpu_work.chip_temperature(), 8),
                    (gpu_work.memory_temperature(), 8),
                    (gpu_work.power(), 8),
                    (gpu_work.sm_clock(), 14),
                    (gpu_work.energy(), 10),
                ],
                height=10,
            ),
            Shelf(
                "Which errors were there?",
                [
                    (gpu_faults.xid_timeline(thresholds), 12),
                    (gpu_tables.xids(thresholds), 12),
                    (gpu_faults.memory_errors(), 12),
                    (gpu_faults.pcie_link(), 12),
                ],
            ),
            Shelf(
                "Are the links sound, and what goes over them?",
                [
                    (gpu_tables.link_state(thresholds), 24),
                    (gpu_faults.pcie_traffic(), 8),
                    (gpu_faults.nvlink_traffic(), 8),
                    (gpu_faults.nvlink_by_gpu(), 8),
                ],
                height=9,
            ),
            Shelf(
                "MIG instances",
                [
                    (gpu_faults.mig_memory(), 12),
                    (
                        gpu_faults.mig_activity(
                            "SM activity", catalog.NVIDIA_GPU_MIG_SM_ACTIVE_SECONDS_TOTAL
                        ),
                        12,
                    ),
                    (
                        gpu_faults.mig_activity(
                            "Tensor core activity", catalog.NVIDIA_GPU_MIG_TENSOR_ACTIVE_SECONDS_TOTAL
                        ),
                        12,
                    ),
                    (
                        gpu_faults.mig_activity(
                            "Memory bandwidth", catalog.NVIDIA_GPU_MIG_DRAM_ACTIVE_SECONDS_TOTAL
                        ),
                        12,
                    ),
                ],
                collapsed=True,
            ),
            Shelf("What is not told, and why?", [(gpu_tables.unsupported(), 24)], collapsed=True),
        ),
    )
