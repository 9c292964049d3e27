"""The tables of the GPUs dashboard: a row for each GPU."""

from __future__ import annotations

from alerts.gpu_health import MEMORY_USED_RATIO, PCIE_LINK_RATIO
from alerts.rank_gpus import HEAT_OR_BRAKE
from alerts.thresholds import Thresholds, duration
from dashboards import links
from dashboards.colors import BAD, GOOD, NEUTRAL, SKY, WARNING
from dashboards.events import ALERTS, FIRING
from dashboards.grafana.panels import Text, Threshold, falling, rising
from dashboards.grafana.tables import Column, Table, linked, widths
from dashboards.rows.gpu_lines import (
    OF_RUN,
    ROW,
    ROW_LABELS,
    ROW_WIDTHS,
    TO_GPU_OF_ROW,
    added,
    counted,
    in_row,
    of_chosen_runs,
    rate,
)
from dashboards.variables import of_alerts, of_gpu, of_recorded
from exporters import catalog
from exporters.catalog import Metric

OF_GPU = 'gpu=~"$gpu"'
# What the driver asks for: NVML_GPU_RECOVERY_ACTION_… of nvml.h.
_RECOVERY = {
    0: Text("nothing", NEUTRAL),
    1: Text("reset", BAD),
    2: Text("reboot", BAD),
    3: Text("drain P2P", BAD),
    4: Text("drain, reset", BAD),
    5: Text("IMEX", BAD),
    6: Text("bus reset", BAD),
    7: Text("reboot all", BAD),
}
_ANY_IS_BAD = (Threshold(NEUTRAL, None), Threshold(BAD, 1))
_ANY_IS_A_WARNING = (Threshold(NEUTRAL, None), Threshold(WARNING, 1))
_NARROW, _SMALL, _WIDE, _BAR = 72, 84, 110, 128
_RANK_ON_IT = f"max by (cluster, instance, gpu, run, rank) ({of_gpu(catalog.TRAINING_RUN_GPU_INFO, OF_RUN)})"
_IDENTITY = (
    f"max by (cluster, instance, gpu, name, driver_version) {of_chosen_runs(of_gpu(catalog.NVIDIA_GPU_INFO))}"
)


def _ratio(part: str, whole: str) -> str:
    return f"{part} / on {ROW} {whole}"


def _recorded(name: str) -> str:
    """What is recorded of each chosen GPU, by row of a table."""
    return f"max by {ROW} {of_chosen_runs(of_recorded(name, OF_GPU))}"


def _pace(counter: Metric, *matchers: str) -> str:
    return f"max by {ROW} {of_chosen_runs(rate(counter, *matchers))}"


def health(thresholds: Thresholds) -> Table:
    firing = of_alerts(ALERTS, FIRING, 'scope="hardware"', OF_GPU)
    last_xid = (
        f"topk by {ROW} (1, max by (cluster, instance, gpu, xid) "
        f"{of_chosen_runs(of_gpu(catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS))})"
    )
    return Table.of(
        title="Health of each GPU",
        description=(
            "GPUs with alerts first. Sound is: answers, no XID of late, the driver asks for nothing, no "
            "uncorrected memory error, no row that waits for its spare one or has none. An XID's number is "
            "in its alert's runbook. What is uncorrected or lost costs a run: move it, then reset the GPU "
            "or reboot its node; a GPU that does it again has its board exchanged. Errors are those of the "
            "time range."
        ),
        labels={**ROW_LABELS, "name": "Model", "driver_version": "Driver", "xid": "Last XID"},
        columns=[
            Column("XID seen", f"time() - {last_xid}", "s", 0, width=_WIDE),
            Column(
                "Alerts",
                f"count by {ROW} {of_chosen_runs(firing)}",
                "none",
                0,
                "color-text",
                _ANY_IS_BAD,
                width=_NARROW,
            ),
            Column(
                "Answers",
                in_row(catalog.NVIDIA_GPU_UP),
                "none",
                cell="color-text",
                texts={0: Text("lost", BAD), 1: Text("yes", GOOD)},
                width=_NARROW,
            ),
            Column(
                "Driver asks",
                in_row(catalog.NVIDIA_GPU_RECOVERY_ACTION),
                "none",
                cell="color-text",
                texts=_RECOVERY,
            ),
            Column(
                "Uncorrected",
                added(catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL, 'severity="uncorrected"'),
                "none",
                0,
                "color-text",
                _ANY_IS_BAD,
            ),
            Column(
                "Corrected", added(catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL, 'severity="corrected"'), "none", 0
            ),
            Column(
                "Rows replaced",
                f"sum by {ROW} (max by (cluster, instance, gpu, cause) "
                f"{of_chosen_runs(of_gpu(catalog.NVIDIA_GPU_REMAPPED_ROWS))})",
                "none",
                0,
                width=_WIDE,
            ),
            Column(
                "Row waits",
                in_row(catalog.NVIDIA_GPU_ROW_REMAP_PENDING),
                "none",
                cell="color-text",
                texts={0: Text("no", NEUTRAL), 1: Text("for a reset", WARNING)},
            ),
            Column(
                "No spare row",
                in_row(catalog.NVIDIA_GPU_ROW_REMAP_FAILED),
                "none",
                cell="color-text",
                texts={0: Text("no", NEUTRAL), 1: Text("exchange it", BAD)},
                width=_WIDE,
            ),
        ],
        named_by=[_IDENTITY],
        overrides=widths({**ROW_WIDTHS, "Driver": 96, "Last XID": 80}),
        data_links=[TO_GPU_OF_ROW],
        sorted_by="Alerts",
        descending=True,
        no_value="",
    )


def work(thresholds: Thresholds) -> Table:
    temperature = in_row(catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS, 'sensor="gpu"')
    slowdown = in_row(catalog.NVIDIA_GPU_TEMPERATURE_LIMIT_CELSIUS, 'limit="slowdown"')

    def of_highest_clock(domain: str) -> str:
        one = f'domain="{domain}"'
        highest = in_row(catalog.NVIDIA_GPU_CLOCK_MAX_HERTZ, one)
        return _ratio(in_row(catalog.NVIDIA_GPU_CLOCK_HERTZ, one), highest)

    power = in_row(catalog.NVIDIA_GPU_POWER_WATTS)
    busy = [Threshold(SKY, None)]
    return Table.of(
        title="What each GPU does, and for whom",
        description=(
            "The newest values; click a GPU for it alone, or a run for all of it. A GPU with a run and "
            "little utilization waits for data or for other ranks. Busy with idle tensor cores is work in a "
            "slow number format or in small pieces. Below 10 °C of margin look at its cooling: at 0 it slows "
            "down. Clocks are shares of the highest. Held down is the share of time in which heat or the "
            "power brake lower them."
        ),
        labels={**ROW_LABELS, "run": "Run", "rank": "Rank"},
        columns=[
            Column(
                "Utilization",
                in_row(catalog.NVIDIA_GPU_UTILIZATION_PERCENT),
                "percent",
                0,
                "gauge",
                busy,
                minimum=0,
                maximum=100,
                width=_BAR,
            ),
            Column(
                "Tensor cores",
                _pace(catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL),
                "percentunit",
                0,
                "gauge",
                busy,
                minimum=0,
                maximum=1,
                width=_BAR,
            ),
            Column(
                "Memory",
                _recorded(MEMORY_USED_RATIO),
                "percentunit",
                0,
                "gauge",
                [Threshold(SKY, None), Threshold(WARNING, thresholds.gpu_memory_ratio)],
                minimum=0,
                maximum=1,
                width=_BAR,
            ),
            Column("Power", power, "watt", 0),
            Column(
                "Of its limit",
                _ratio(power, in_row(catalog.NVIDIA_GPU_POWER_LIMIT_WATTS)),
                "percentunit",
                0,
                "gauge",
                busy,
                minimum=0,
                maximum=1,
                width=_BAR,
            ),
            Column("Temperature", temperature, "celsius", 0, width=_WIDE),
            Column(
                "Margin",
                f"{slowdown} - on {ROW} {temperature}",
                "celsius",
                0,
                "color-text",
                falling(10, 3, NEUTRAL),
            ),
            Column(
                "SM clock",
                of_highest_clock("sm"),
                "percentunit",
                0,
                "color-text",
                falling(0.75, 0.6, NEUTRAL),
                width=84,
            ),
            Column("Memory clock", of_highest_clock("memory"), "percentunit", 0, width=_WIDE),
            Column(
                "Held down",
                _pace(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL, HEAT_OR_BRAKE),
                "percentunit",
                0,
                "color-text",
                rising(thresholds.gpu_power_brake_ratio, thresholds.gpu_thermal_ratio, NEUTRAL),
            ),
        ],
        named_by=[_RANK_ON_IT],
        overrides=[linked("Run", links.to_run(links.CELL)), *widths({**ROW_WIDTHS, "Rank": 60})],
        data_links=[TO_GPU_OF_ROW],
        sorted_by="Instance",
        no_value="",
    )


def memory(thresholds: Thresholds) -> Table:
    def of_processes(whose: str) -> str:
        each = of_chosen_runs(of_gpu(catalog.NVIDIA_GPU_PROCESS_MEMORY_BYTES, whose))
        return f"sum by {ROW} (max by (cluster, instance, gpu, run, rank) {each})"

    return Table.of(
        title="Whose memory it is",
        description=(
            "Device memory in use on each GPU: of its ranks, and of all other processes together, which on "
            "a training node are mostly forgotten ones: find and end them. The driver's reserve is on top of "
            "what is used. Fullest first; from the limit of the alert GPUMemoryHigh on it is marked."
        ),
        labels={**ROW_LABELS, "run": "Run", "rank": "Rank"},
        columns=[
            Column(
                "In use",
                _recorded(MEMORY_USED_RATIO),
                "percentunit",
                1,
                "color-text",
                [Threshold(NEUTRAL, None), Threshold(WARNING, thresholds.gpu_memory_ratio)],
                width=_SMALL,
            ),
            Column("Used", in_row(catalog.NVIDIA_GPU_MEMORY_USED_BYTES), "bytes", 1, width=_SMALL),
            Column("Of ranks", of_processes('run!=""'), "bytes", 1, width=_SMALL),
            Column("Of others", of_processes('run=""'), "bytes", 1, width=_SMALL),
            Column("Reserved", in_row(catalog.NVIDIA_GPU_MEMORY_RESERVED_BYTES), "bytes", 1, width=_SMALL),
            Column("Total", in_row(catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES), "bytes", 1, width=_SMALL),
        ],
        named_by=[_RANK_ON_IT],
        overrides=[linked("Run", links.to_run(links.CELL)), *widths({**ROW_WIDTHS, "Rank": 60})],
        data_links=[TO_GPU_OF_ROW],
        sorted_by="In use",
        descending=True,
        no_value="",
    )


def link_state(thresholds: Thresholds) -> Table:
    window = duration(thresholds.gpu_pcie_replay_seconds)
    return Table.of(
        title="State of each GPU's links",
        description=(
            "PCIe as it is, as a share of the best that GPU and slot have in common: an idle GPU lowers its "
            "generation, a busy one with fewer lanes or an older generation is badly seated or in a wrong "
            "slot. NVLinks that are down make collectives fail or crawl, but for links without a bridge. "
            f"More than {thresholds.gpu_pcie_replays} packets sent again within {window} are a bad link; "
            "here are those of the time range."
        ),
        labels=ROW_LABELS,
        overrides=widths({"GPU": 56}),
        columns=[
            Column(
                "PCIe now",
                _recorded(PCIE_LINK_RATIO),
                "percentunit",
                0,
                "color-text",
                [Threshold(WARNING, None), Threshold(NEUTRAL, 1)],
            ),
            Column("PCIe gen.", in_row(catalog.NVIDIA_GPU_PCIE_LINK_GENERATION), "none", 0),
            Column("Best gen.", in_row(catalog.NVIDIA_GPU_PCIE_LINK_GENERATION_MAX), "none", 0),
            Column("Lanes", in_row(catalog.NVIDIA_GPU_PCIE_LINK_WIDTH), "none", 0),
            Column("Best lanes", in_row(catalog.NVIDIA_GPU_PCIE_LINK_WIDTH_MAX), "none", 0),
            Column(
                "Sent again",
                added(catalog.NVIDIA_GPU_PCIE_REPLAYS_TOTAL),
                "none",
                0,
                "color-text",
                [Threshold(NEUTRAL, None), Threshold(WARNING, thresholds.gpu_pcie_replays)],
            ),
            Column("NVLinks up", in_row(catalog.NVIDIA_GPU_NVLINK_LINKS, 'state="up"'), "none", 0),
            Column(
                "Down",
                in_row(catalog.NVIDIA_GPU_NVLINK_LINKS, 'state="down"'),
                "none",
                0,
                "color-text",
                _ANY_IS_A_WARNING,
            ),
            Column(
                "NVLink errors",
                f"sum by {ROW} (max by (cluster, instance, gpu, kind) "
                f"{of_chosen_runs(f'round({counted(catalog.NVIDIA_GPU_NVLINK_ERRORS_TOTAL)})')})",
                "none",
                0,
                "color-text",
                _ANY_IS_A_WARNING,
                width=_WIDE,
            ),
        ],
        data_links=[TO_GPU_OF_ROW],
        sorted_by="PCIe now",
        no_value="",
    )


def unsupported() -> Table:
    told = of_chosen_runs(f"max_over_time({of_gpu(catalog.NVIDIA_GPU_METRIC_UNSUPPORTED)}[$__range])")
    return Table.of_series(
        title="Metrics that GPUs do not give, and why",
        description=(
            "At any moment of the time range. not_supported: this kind of GPU does not have it, and nothing "
            "can be done. no_permission: give the service the capability its guide names. "
            "function_not_found: the driver is too old. pid_namespace: the service sees no processes of "
            "others; let it share the host's process ids. What is missing here is missing on the panels "
            "above, too."
        ),
        expr="count by (cluster, instance, metric, reason) "
        f"(max by (cluster, instance, gpu, uuid, metric, reason) {told})",
        labels={"metric": "Metric", "reason": "Reason", "instance": "Instance"},
        value="GPUs",
        unit="none",
        no_value="every GPU gives everything",
        descending=True,
    )


def xids(thresholds: Thresholds) -> Table:
    last = of_chosen_runs(of_gpu(catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS))
    again = of_chosen_runs(f"round({counted(catalog.NVIDIA_GPU_XID_ERRORS_TOTAL)})")
    event = "(cluster, instance, gpu, xid, class)"
    return Table.of(
        title="XID errors since the service started",
        description=(
            "The driver's error numbers by GPU, the newest first. Class hardware asks for a reset or an "
            "exchange of the GPU, application for a look at the program that ran there, noise for nothing. "
            "How often is counted from the second time in the range on: a number's first error makes its "
            "series. Look the number up in the runbook of GPUXidHardware or GPUXidApplication."
        ),
        labels={"xid": "XID", "class": "Class", **ROW_LABELS},
        columns=[
            Column(
                "Last seen",
                f"time() - max by {event} {last}",
                "s",
                0,
                "color-text",
                [Threshold(BAD, None), Threshold(NEUTRAL, thresholds.xid_page_seconds)],
            ),
            Column("Again", f"max by {event} {again}", "none", 0, width=_NARROW),
        ],
        overrides=[linked("GPU", TO_GPU_OF_ROW), *widths({"XID": 64, "Class": 100, "GPU": 56})],
        sorted_by="Last seen",
        no_value="none",
    )
