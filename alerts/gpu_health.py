"""Whether the GPUs can go on working: their memory, XID errors, heat, power, links, and whether they answer.

A GPU that falls off the bus says XID 79 and then answers no more: GPUXidHardware pages for it, and holds back
GPULost in Alertmanager, as it does GPUEccUncorrectable and GPUNvlinkDown. So that one cause stays one page,
it goes on for as long as the GPU is lost, or links of it. GPUCountChanged is for what GPULost cannot know,
and silent beside it.

Of a GPU that is lost the service says nothing but that, its XIDs and its runs.
"""

from __future__ import annotations

from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import Thresholds, duration
from exporters import catalog
from exporters.catalog import Metric

GPU_MEMORY_HIGH = "GPUMemoryHigh"
GPU_XID_HARDWARE = "GPUXidHardware"
GPU_LOST = "GPULost"
GPU_XID_APPLICATION = "GPUXidApplication"
GPU_ECC_UNCORRECTABLE = "GPUEccUncorrectable"
GPU_ROW_REMAP_PENDING = "GPURowRemapPending"
GPU_ROW_REMAP_FAILURE = "GPURowRemapFailure"
GPU_THERMAL_THROTTLE = "GPUThermalThrottle"
GPU_POWER_BRAKE = "GPUPowerBrake"
GPU_PCIE_REPLAY = "GPUPcieReplay"
GPU_PCIE_LINK_DEGRADED = "GPUPcieLinkDegraded"
GPU_NVLINK_DOWN = "GPUNvlinkDown"
GPU_COUNT_CHANGED = "GPUCountChanged"
GPU_RECOVERY_ACTION_NEEDED = "GPURecoveryActionNeeded"
GPU_METRIC_UNSUPPORTED = "GPUMetricUnsupported"

MEMORY_USED_RATIO = f"gpu:{catalog.NVIDIA_GPU_MEMORY_USED_BYTES.name.removesuffix('_bytes')}:ratio"
# How long ago each hardware XID was last seen.
XID_HARDWARE_AGE = "gpu_xid:nvidia_gpu_xid_hardware_age_seconds:min"
UP = f"gpu:{catalog.NVIDIA_GPU_UP}:max"
# When the newest XID was seen that a program caused, by the runs that were on the GPU then.
XID_APPLICATION_OF_RUN = "run_gpu:nvidia_gpu_xid_application_timestamp_seconds:max"
# Of the bandwidth that GPU and slot have in common, what the link is at now.
PCIE_LINK_RATIO = "gpu:nvidia_gpu_pcie_link:ratio"

# What the alerts of all groups read of GPUs and an older driver, or one that refuses, does not give. XIDs
# are told missing by their count.
ALERTED_METRICS = (
    catalog.NVIDIA_GPU_MEMORY_USED_BYTES,
    catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES,
    catalog.NVIDIA_GPU_MIG_MEMORY_TOTAL_BYTES,
    catalog.NVIDIA_GPU_UTILIZATION_PERCENT,
    catalog.NVIDIA_GPU_POWER_WATTS,
    catalog.NVIDIA_GPU_POWER_LIMIT_WATTS,
    catalog.NVIDIA_GPU_XID_ERRORS_TOTAL,
    catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL,
    catalog.NVIDIA_GPU_ROW_REMAP_PENDING,
    catalog.NVIDIA_GPU_ROW_REMAP_FAILED,
    catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL,
    catalog.NVIDIA_GPU_PCIE_REPLAYS_TOTAL,
    catalog.NVIDIA_GPU_PCIE_LINK_GENERATION,
    catalog.NVIDIA_GPU_PCIE_LINK_GENERATION_MAX,
    catalog.NVIDIA_GPU_PCIE_LINK_WIDTH,
    catalog.NVIDIA_GPU_PCIE_LINK_WIDTH_MAX,
    catalog.NVIDIA_GPU_NVLINK_LINKS,
    catalog.NVIDIA_GPU_RECOVERY_ACTION,
)
# What nvidia_gpu_recovery_action asks for: NVML_GPU_RECOVERY_ACTION_… of nvml.h.
_RECOVERY = {
    "1": "a reset of the GPU",
    "2": "a reboot of the node",
    "3": "an end of peer-to-peer traffic",
    "4": "an end of all work on the GPU, and a reset",
    "5": "a recovery of the IMEX domain",
    "6": "a reset of its bus",
    "7": "a reboot of the whole system",
}
# Aggregated first, so that two jobs scraping a service under one instance make one alert, not a many-to-many
# error. Under two instances its GPUs alert twice.
_DEVICE = "(cluster, instance, gpu, uuid)"
_GPU = "GPU {{ $labels.gpu }} on {{ $labels.instance }}"
# How new an XID must be, by the clock of its node, for the runs on its GPU to be those it met: one scrape may
# be missed.
_XID_MET_SECONDS = 45


def gpu_health(thresholds: Thresholds) -> Group:
    xid_page = duration(thresholds.xid_page_seconds)
    clock = f"{catalog.WALLCLOCK_SECONDS}[{xid_page}]"
    xid_seen = f'{catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS}{{class="hardware"}}[{xid_page}]'
    return Group(
        "gpu_health",
        (
            RecordingRule(
                MEMORY_USED_RATIO,
                f"max by {_DEVICE} ({catalog.NVIDIA_GPU_MEMORY_USED_BYTES})\n"
                f"  / on {_DEVICE}\n"
                f"max by {_DEVICE} ({catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES})",
            ),
            AlertRule(
                GPU_MEMORY_HIGH,
                f"{MEMORY_USED_RATIO} > {thresholds.gpu_memory_ratio}",
                for_seconds=thresholds.gpu_memory_for_seconds,
                keep_firing_for_seconds=thresholds.gpu_memory_keep_firing_seconds,
                severity="warning",
                scope="hardware",
                summary="GPU {{ $labels.gpu }} on {{ $labels.instance }} is almost out of memory.",
                description="{{ $value | humanizePercentage }} of its memory is in use, more than "
                f"{100 * thresholds.gpu_memory_ratio:g}% for {duration(thresholds.gpu_memory_for_seconds)}.",
            ),
            # The timestamp and not the count: a number's series is born at its first event, which
            # `increase()` misses. Both times are of the node's clock, whatever Prometheus's says. A range,
            # because the error may take the node or the service with it before the next scrape.
            RecordingRule(
                XID_HARDWARE_AGE,
                f"max by (cluster, instance) (last_over_time({clock}))\n"
                "  - on (cluster, instance) group_right ()\n"
                f"max by (cluster, instance, gpu, uuid, xid) (last_over_time({xid_seen}))",
            ),
            RecordingRule(UP, f"max by {_DEVICE} ({catalog.NVIDIA_GPU_UP})"),
            AlertRule(
                GPU_LOST,
                f"{UP} == 0",
                for_seconds=thresholds.gpu_lost_for_seconds,
                severity="critical",
                scope="hardware",
                summary="GPU {{ $labels.gpu }} on {{ $labels.instance }} does not answer any more.",
                description="The driver has called it lost, or got no answer from it, for "
                f"{duration(thresholds.gpu_lost_for_seconds)}, and no hardware XID was seen that says why.",
            ),
            *_xids_of_programs(thresholds),
            *_memory_errors(thresholds),
            *_held_down(thresholds),
            *_links(thresholds),
            *_on_the_whole(thresholds),
            _xids_of_the_gpu(thresholds),
        ),
    )


def _xids_of_the_gpu(thresholds: Thresholds) -> AlertRule:
    """What fires goes on while the GPU or links of it are lost.

    Else GPULost or GPUNvlinkDown would page for the same fault once this is over. An older XID of a GPU that
    is lost for another reason does not come back by it. A scrape may be missed: all else ends with it.
    """
    held = duration(max(60, 4 * thresholds.evaluation_interval_seconds))
    return AlertRule(
        GPU_XID_HARDWARE,
        f"{XID_HARDWARE_AGE} < {thresholds.xid_page_seconds}\n"
        "  or\n"
        "(\n"
        f"  {XID_HARDWARE_AGE}\n"
        "    and on (cluster, instance, uuid, xid)\n"
        f'  ALERTS{{alertname="{GPU_XID_HARDWARE}", alertstate="firing"}}\n'
        "    and on (cluster, instance, uuid)\n"
        "  (\n"
        f"    last_over_time({UP}[{held}]) == 0\n"
        "      or on (cluster, instance, uuid)\n"
        f'    last_over_time(ALERTS{{alertname="{GPU_NVLINK_DOWN}"}}[{held}])\n'
        "  )\n"
        ")",
        at_once="The driver has reported the error: it is no measurement that could pass.",
        severity="critical",
        scope="hardware",
        summary="GPU {{ $labels.gpu }} on {{ $labels.instance }} reported the hardware error "
        "XID {{ $labels.xid }}.",
        description="It was last seen {{ $value | humanizeDuration }} ago. XID errors of this class "
        "mean that the GPU, its memory, its link or its driver is at fault, not the program on it.",
    )


def _xids_of_programs(thresholds: Thresholds) -> tuple[RecordingRule | AlertRule, ...]:
    """Told to the owner of the run: a program without a run has nobody to be told.

    The program is mostly dead by the time its XID is scraped, and the next one may be on the GPU soon, so who
    was there is kept at the first evaluations that see the XID. All XIDs of a GPU are one here: several
    numbers and several runs would be a join of many to many. Programs that share a GPU are all told.
    """
    page, met = duration(thresholds.xid_page_seconds), duration(_XID_MET_SECONDS)
    clock, by_run = catalog.WALLCLOCK_SECONDS, "max by (cluster, run, instance, gpu, uuid)"
    seen = f'{catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS}{{class="application"}}'
    return (
        RecordingRule(
            XID_APPLICATION_OF_RUN,
            f"{by_run} (last_over_time({catalog.TRAINING_RUN_GPU_INFO}[1m]))\n"
            "  * on (cluster, instance, uuid) group_left ()\n"
            "(\n"
            f"  max by (cluster, instance, uuid) (last_over_time({seen}[{met}]))\n"
            "    > on (cluster, instance) group_left ()\n"
            f"  (max by (cluster, instance) (last_over_time({clock}[{met}])) - {_XID_MET_SECONDS})\n"
            ")",
        ),
        # No question of whether the run lives: the error is mostly its end.
        AlertRule(
            GPU_XID_APPLICATION,
            f"max by (cluster, instance) (last_over_time({clock}[{page}]))\n"
            "  - on (cluster, instance) group_right ()\n"
            f"{by_run} (last_over_time({XID_APPLICATION_OF_RUN}[{page}]))\n"
            f"  < {thresholds.xid_page_seconds}",
            at_once="The driver has reported the error: it is no measurement that could pass.",
            severity="warning",
            scope="run",
            summary=f"The program of run {{{{ $labels.run }}}} on {_GPU} caused an XID error.",
            description="It was last seen {{ $value | humanizeDuration }} ago, while the run was on the GPU. "
            "XID errors of this class mean that a program did something the GPU cannot do, as an access "
            "outside its memory: it mostly ends the process.",
        ),
    )


def _memory_errors(thresholds: Thresholds) -> tuple[AlertRule, ...]:
    ecc_page = duration(thresholds.ecc_page_seconds)
    uncorrected = f'{catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL}{{severity="uncorrected"}}'
    return (
        # Counted over the GPU's life and there from the start, so `increase()` sees each. The XID that tells
        # the same comes before, and holds this back: it pages for longer than this looks back.
        AlertRule(
            GPU_ECC_UNCORRECTABLE,
            f"max by {_DEVICE} (round(increase({uncorrected}[{ecc_page}]))) > 0",
            at_once="The GPU has counted the error: it is no measurement that could pass.",
            severity="critical",
            scope="hardware",
            summary=f"{_GPU} has had an uncorrectable memory error.",
            description=f"It counted {{{{ $value | humanize }}}} within {ecc_page}: values in its memory "
            "were lost. The process they belonged to dies, or computes with wrong ones.",
        ),
        AlertRule(
            GPU_ROW_REMAP_PENDING,
            f"max by {_DEVICE} ({catalog.NVIDIA_GPU_ROW_REMAP_PENDING}) > 0",
            for_seconds=thresholds.gpu_state_for_seconds,
            severity="warning",
            scope="hardware",
            summary=f"{_GPU} needs a reset, to replace a row of its memory.",
            description=f"A row with errors has waited for {duration(thresholds.gpu_state_for_seconds)} for "
            "its spare one. The GPU works on without that memory; a run need not end for it.",
        ),
        # Not critical although it is final: the error that led to it pages, and this stays until exchange.
        AlertRule(
            GPU_ROW_REMAP_FAILURE,
            f"max by {_DEVICE} ({catalog.NVIDIA_GPU_ROW_REMAP_FAILED}) > 0",
            at_once="The GPU says so until its board is exchanged.",
            severity="warning",
            scope="hardware",
            summary=f"{_GPU} could not replace a row of its memory.",
            description="It has no spare row left where it needs one: the next error there ends a process "
            "again. The board is due for exchange.",
        ),
    )


def _held_down(thresholds: Thresholds) -> tuple[AlertRule, ...]:
    held_for = duration(thresholds.gpu_throttle_for_seconds)
    window = duration(thresholds.gpu_rate_seconds)

    # The highest of several reasons, for they overlap.
    def share(reasons: str) -> str:
        held = f'{catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL}{{reason=~"{reasons}"}}'
        return f"max by {_DEVICE} (rate({held}[{window}]))"

    return (
        AlertRule(
            GPU_THERMAL_THROTTLE,
            f"{share('hw_thermal|sw_thermal|thermal')} > {thresholds.gpu_thermal_ratio}",
            for_seconds=thresholds.gpu_throttle_for_seconds,
            severity="warning",
            scope="hardware",
            summary=f"{_GPU} is slowed down by heat.",
            description="Its clocks are held down {{ $value | humanizePercentage }} of the time, more than "
            f"{100 * thresholds.gpu_thermal_ratio:g}% for {held_for}. All ranks wait for the slowest GPU.",
        ),
        AlertRule(
            GPU_POWER_BRAKE,
            f"{share('hw_power_brake')} > {thresholds.gpu_power_brake_ratio}",
            for_seconds=thresholds.gpu_throttle_for_seconds,
            severity="warning",
            scope="hardware",
            summary=f"{_GPU} is slowed down by its node's power supply.",
            description="The power brake holds its clocks down {{ $value | humanizePercentage }} of the "
            f"time, more than {100 * thresholds.gpu_power_brake_ratio:g}% for {held_for}: the node or the "
            "rack cannot deliver what its GPUs draw.",
        ),
    )


def _links(thresholds: Thresholds) -> tuple[RecordingRule | AlertRule, ...]:
    replay_window = duration(thresholds.gpu_pcie_replay_seconds)
    remembered = duration(thresholds.gpu_remembered_seconds)
    window = duration(thresholds.gpu_rate_seconds)
    links_up = f'{catalog.NVIDIA_GPU_NVLINK_LINKS}{{state="up"}}'

    def now(metric: Metric) -> str:
        return f"max by {_DEVICE} ({metric})"

    return (
        AlertRule(
            GPU_PCIE_REPLAY,
            f"max by {_DEVICE} (round(increase({catalog.NVIDIA_GPU_PCIE_REPLAYS_TOTAL}[{replay_window}])))\n"
            f"  > {thresholds.gpu_pcie_replays}",
            for_seconds=thresholds.gpu_pcie_replay_seconds,
            severity="warning",
            scope="hardware",
            summary=f"{_GPU} has to send much again over PCIe.",
            description=f"{{{{ $value | humanize }}}} packets within {replay_window} (limit "
            f"{thresholds.gpu_pcie_replays}): its link is bad, by its seating, its riser or its cable.",
        ),
        # Each generation has twice the bandwidth of the one before.
        RecordingRule(
            PCIE_LINK_RATIO,
            f"{now(catalog.NVIDIA_GPU_PCIE_LINK_WIDTH)}\n"
            f"  / on {_DEVICE}\n"
            f"{now(catalog.NVIDIA_GPU_PCIE_LINK_WIDTH_MAX)}\n"
            f"  * on {_DEVICE}\n"
            f"2 ^ (\n"
            f"  {now(catalog.NVIDIA_GPU_PCIE_LINK_GENERATION)}\n"
            f"    - on {_DEVICE}\n"
            f"  {now(catalog.NVIDIA_GPU_PCIE_LINK_GENERATION_MAX)}\n"
            ")",
        ),
        # An idle GPU lowers its link, so the best of a while counts, and only of a GPU that is at work.
        AlertRule(
            GPU_PCIE_LINK_DEGRADED,
            f"max_over_time({PCIE_LINK_RATIO}[{window}]) < 1\n"
            f"  and on {_DEVICE}\n"
            f"max by {_DEVICE} (avg_over_time({catalog.NVIDIA_GPU_UTILIZATION_PERCENT}[{window}]))\n"
            f"  > {100 * thresholds.gpu_link_busy_ratio:g}",
            for_seconds=thresholds.gpu_link_for_seconds,
            severity="warning",
            scope="hardware",
            summary=f"The PCIe link of {_GPU} is slower than it can be.",
            description="It gives {{ $value | humanizePercentage }} of the bandwidth that GPU and slot have "
            f"in common, and has for {duration(thresholds.gpu_link_for_seconds)} while the GPU was at work: "
            "lanes are missing, or a generation.",
        ),
        # Not all that are down: links without a bridge or a peer are so for ever. By uuid, for the index of a
        # GPU may change.
        AlertRule(
            GPU_NVLINK_DOWN,
            f"max by (cluster, instance, uuid) (max_over_time({links_up}[{remembered}]))\n"
            "  - on (cluster, instance, uuid) group_right ()\n"
            f"max by {_DEVICE} ({links_up})\n"
            "  > 0",
            for_seconds=thresholds.gpu_state_for_seconds,
            severity="critical",
            scope="hardware",
            summary=f"{_GPU} has lost NVLinks.",
            description=f"{{{{ $value | humanize }}}} of those that were up within {remembered} have been "
            f"down for {duration(thresholds.gpu_state_for_seconds)}: collectives fail, hang, or crawl.",
        ),
    )


def _on_the_whole(thresholds: Thresholds) -> tuple[AlertRule, ...]:
    devices = catalog.NVIDIA_GPU_DEVICES
    remembered = duration(thresholds.gpu_remembered_seconds)
    state_for = duration(thresholds.gpu_state_for_seconds)
    unsupported = catalog.NVIDIA_GPU_METRIC_UNSUPPORTED
    metrics = "|".join(metric.name for metric in ALERTED_METRICS)
    withheld = f'metric=~"{metrics}", reason=~"no_permission|function_not_found"'
    recovery = "{{ else ".join(f'if eq . "{action}" }}}}{meaning}' for action, meaning in _RECOVERY.items())
    return (
        # GPULost pages while the service that saw the GPU lives; what it cannot know, after a restart or a
        # boot without that GPU, is told here. No run is at stake then: those that were on it have paged.
        AlertRule(
            GPU_COUNT_CHANGED,
            f"max by (cluster, instance) (max_over_time({devices}[{remembered}]))\n"
            "  - on (cluster, instance)\n"
            f"max by (cluster, instance) ({devices})\n"
            "  > 0\n"
            "  unless on (cluster, instance)\n"
            f"({UP} == 0)",
            for_seconds=thresholds.gpu_state_for_seconds,
            severity="warning",
            scope="hardware",
            summary="{{ $labels.instance }} has fewer GPUs than before.",
            description=f"{{{{ $value | humanize }}}} of those that its driver reported within {remembered} "
            f"have been missing for {state_for}: they did not come back after a boot or a restart.",
        ),
        AlertRule(
            GPU_RECOVERY_ACTION_NEEDED,
            f"max by {_DEVICE} ({catalog.NVIDIA_GPU_RECOVERY_ACTION}) > 0",
            for_seconds=thresholds.gpu_state_for_seconds,
            severity="warning",
            scope="hardware",
            summary=f"The driver asks for a recovery of {_GPU}.",
            description="It asks for {{ with $value | humanize }}{{ "
            f"{recovery}{{{{ else }}}}action {{{{ . }}}}{{{{ end }}}}{{{{ end }}}}, and has for {state_for}. "
            "Until then the GPU does not work, or not with all it has.",
        ),
        # Not `not_supported`: nothing can be done about what a GPU does not have.
        AlertRule(
            GPU_METRIC_UNSUPPORTED,
            "count by (cluster, instance, metric, reason) (\n"
            "  max by (cluster, instance, gpu, uuid, metric, reason) (\n"
            f"    {unsupported}{{{withheld}}}\n"
            "  )\n"
            ")",
            for_seconds=thresholds.gpu_unsupported_for_seconds,
            severity="warning",
            scope="hardware",
            summary="{{ $labels.instance }} does not give {{ $labels.metric }}, on which alerts rest.",
            description="GPUs of it that have withheld it for "
            f"{duration(thresholds.gpu_unsupported_for_seconds)}: {{{{ $value | humanize }}}} (reason "
            "{{ $labels.reason }}). Alerts that read it are blind there.",
        ),
    )
