"""What the alerts judge, recorded beside the training: healthy but for what fires at the end of it.

The series that rules record are made up, too, with the labels that their levels keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from alerts import checkpoint, gpu_health, lifecycle, loss, memory, throughput
from dashboards import telemetry_alerts
from exporters import catalog
from exporters.catalog import Metric
from tests.dashboards.recorded_series import (
    GIB,
    SERVICE,
    Course,
    RecordedSeries,
    constant,
    counted,
    decay,
    noisy,
)

RANKS = {"wayfarer-lora": 2, "tiny-chat": 1}
GPUS = {
    "0": "GPU-2b9b5a1e-0000-4000-8000-000000000000",
    "1": "GPU-2b9b5a1e-0000-4000-8000-000000000001",
}
NODE = {"job": "node", "instance": "gpu-node-1:9100"}
PROMETHEUS = {"job": "prometheus", "instance": "127.0.0.1:9090"}
ALERTMANAGER = {"job": "alertmanager", "instance": "127.0.0.1:9093"}
# Only some alerts and what tells of the clusters carry them: all else is of a Prometheus that names none.
CLUSTERS = ("east", "west")
_HOUR = 3600.0


def series() -> Iterator[RecordedSeries]:
    for run, ranks in RANKS.items():
        yield from _run(run, ranks)
        for rank in range(ranks):
            yield from _rank(run, str(rank), str(rank))
    for gpu, uuid in GPUS.items():
        yield from _gpu({"gpu": gpu, "uuid": uuid})
    yield from _service()
    yield from _others()
    yield from _alerts()


def _run(run: str, ranks: int) -> Iterator[RecordedSeries]:
    labels = {**SERVICE, "run": run}
    for metric, course in {
        catalog.TRAINING_WORLD_SIZE: constant(ranks),
        catalog.TRAINING_ETA_SECONDS: lambda s: 5 * _HOUR - s,
        catalog.TRAINING_CHECKPOINT_DURATION_SECONDS: constant(20),
        catalog.TRAINING_CHECKPOINT_SIZE_BYTES: constant(14 * GIB),
    }.items():
        yield RecordedSeries(metric.name, labels, course)
    yield _of(catalog.TRAINING_LEARNING_RATE, labels, decay(2e-5, 1e-6), group="0")
    yield _of(catalog.TRAINING_RUN_STATE, labels, constant(1), state="running")
    yield _of(catalog.TRAINING_CHECKPOINTS_TOTAL, labels, constant(0), result="failed")
    yield RecordedSeries(
        catalog.TRAINING_DEADLINE_TIMESTAMP_SECONDS.name, labels, lambda s: s - 6 * _HOUR, age=True
    )

    last_loss, recorded = decay(3.2, 1.3), {"run": run}
    attempt = {"run": run, "start": "1700000000"}
    for name, course in {
        lifecycle.ATTEMPT_STARTED: constant(1),
        loss.ATTEMPT: constant(1),
        loss.LOSS: noisy(last_loss, 0.06),
        loss.LOSS_LOWEST: last_loss,
        loss.GRADIENT_NORM: noisy(constant(0.8), 0.2),
        loss.GRADIENT_NORM_MEDIAN: constant(0.8),
        loss.VALIDATION: lambda s: last_loss(s) + 0.12 + s / 40_000,
        loss.VALIDATION_BEST: lambda s: last_loss(s) + 0.12,
    }.items():
        yield RecordedSeries(name, attempt, course)
    # Over more than the six hours by which it is compared.
    yield RecordedSeries(loss.LOSS_MEDIAN, attempt, decay(3.0, 1.3), since_seconds=-7 * _HOUR)
    for name, course in {
        loss.STEPS_SKIPPED_RATIO: constant(0.004),
        lifecycle.RANKS: constant(ranks),
        throughput.PACE: noisy(constant(2900), 120),
        throughput.PACE_MEDIAN: constant(3000),
        throughput.FORWARD_MEDIAN: constant(0.31),
        throughput.PROGRESS_AGE: lambda s: s % 15,
        throughput.STEP_P99: constant(1.2),
        checkpoint.INTERVAL: constant(600),
        checkpoint.FREE: lambda s: (900 - s // 600 * 14) * GIB,
        checkpoint.TAKEN: constant(160 * GIB),
    }.items():
        yield RecordedSeries(name, recorded, course)
    for name, course in {
        lifecycle.LAST_PROGRESS: lambda s: s % 15,
        lifecycle.UNFINISHED: lambda s: s,
        lifecycle.START: lambda s: s,
        lifecycle.KILLED: lambda s: 600 + s,
        lifecycle.FAILED: lambda s: 1200 + s,
        checkpoint.LAST_CHECKPOINT: lambda s: s % 600,
    }.items():
        yield RecordedSeries(name, recorded, course, age=True)


def _rank(run: str, rank: str, gpu: str) -> Iterator[RecordedSeries]:
    labels = {**SERVICE, "run": run, "rank": rank}
    yield _of(catalog.TRAINING_NONFINITE_TOTAL, labels, constant(0), what="loss")
    yield _of(catalog.TRAINING_PHASE_SECONDS_TOTAL, labels, lambda s: 0.02 * s, phase="data")
    yield _of(catalog.TRAINING_RUN_GPU_INFO, labels, constant(1), gpu=gpu, uuid=GPUS[gpu])
    for metric, course in {
        catalog.TRAINING_OOM_TOTAL: constant(0),
        catalog.HOOK_ERRORS_TOTAL: constant(0),
        catalog.HOOK_DROPPED_TOTAL: lambda s: s // 1800,
        catalog.HOOK_SECONDS_TOTAL: lambda s: 0.0004 * s,
    }.items():
        yield RecordedSeries(metric.name, labels, course)
    yield RecordedSeries(
        catalog.TRAINING_LAST_STEP_TIMESTAMP_SECONDS.name, labels, lambda s: s % 15, age=True
    )
    recorded = {"run": run, "rank": rank}
    yield RecordedSeries(throughput.FORWARD, recorded, noisy(constant(0.31 + 0.01 * int(rank)), 0.01))
    yield RecordedSeries(memory.RESERVED_RATIO, recorded, lambda s: 0.7 + s / 200_000)
    yield RecordedSeries(
        gpu_health.XID_APPLICATION_OF_RUN,
        {"run": run, "instance": SERVICE["instance"], "gpu": gpu, "uuid": GPUS[gpu]},
        lambda s: s,
        age=True,
    )


def _gpu(device: Mapping[str, str]) -> Iterator[RecordedSeries]:
    labels = {**SERVICE, **device}
    for metric, course in {
        catalog.NVIDIA_GPU_POWER_WATTS: noisy(constant(610), 40),
        catalog.NVIDIA_GPU_POWER_LIMIT_WATTS: constant(700),
        catalog.NVIDIA_GPU_ROW_REMAP_PENDING: constant(0),
        catalog.NVIDIA_GPU_ROW_REMAP_FAILED: constant(0),
        catalog.NVIDIA_GPU_PCIE_REPLAYS_TOTAL: lambda s: s // 900,
        catalog.NVIDIA_GPU_RECOVERY_ACTION: constant(0),
    }.items():
        yield RecordedSeries(metric.name, labels, course)
    yield _of(catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL, labels, constant(2), severity="uncorrected")
    for reason in ("hw_thermal", "hw_power_brake"):
        yield _of(catalog.NVIDIA_GPU_THROTTLE_SECONDS_TOTAL, labels, lambda s: 0.002 * s, reason=reason)
    yield _of(catalog.NVIDIA_GPU_NVLINK_LINKS, labels, lambda s: 18 if s < 6000 else 17, state="up")
    yield _of(
        catalog.NVIDIA_GPU_METRIC_UNSUPPORTED,
        labels,
        constant(1),
        metric=catalog.NVIDIA_GPU_RECOVERY_ACTION.name,
        reason="function_not_found",
    )
    recorded = {"instance": SERVICE["instance"], **device}
    yield RecordedSeries(gpu_health.MEMORY_USED_RATIO, recorded, lambda s: 0.8 + s / 60_000)
    yield RecordedSeries(gpu_health.UP, recorded, constant(1))
    yield RecordedSeries(gpu_health.PCIE_LINK_RATIO, recorded, constant(1))
    yield RecordedSeries(gpu_health.XID_HARDWARE_AGE, {**recorded, "xid": "63"}, lambda s: s % 900)


def _service() -> Iterator[RecordedSeries]:
    for name, course in {
        catalog.NVIDIA_GPU_DEVICES.name: constant(len(GPUS)),
        catalog.HISTORY_STEPS_TOTAL.name: counted(2.3, 0),
        catalog.HISTORY_LOST_STEPS_TOTAL.name: constant(0),
        catalog.HISTORY_FAILING_RECORDINGS.name: constant(0),
        catalog.RECORDINGS_VOLUME_FREE_BYTES.name: lambda s: 9 * GIB - 4e4 * s,
        telemetry_alerts.UP: constant(1),
        telemetry_alerts.SCRAPE_DURATION_SECONDS: noisy(constant(0.03), 0.01),
    }.items():
        yield RecordedSeries(name, SERVICE, course)
    yield _of(catalog.RECORDINGS_SKIPPED, SERVICE, constant(0), reason="corrupt")
    yield RecordedSeries(catalog.WALLCLOCK_SECONDS.name, SERVICE, constant(0.2), age=True)


def _others() -> Iterator[RecordedSeries]:
    group = {**PROMETHEUS, "rule_group": "/etc/prometheus/rules/loss.yaml;trainvitals.loss"}
    for name, labels, course in (
        (memory.NODE_OOM_KILLS, NODE, constant(0)),
        (memory.NODE_MEMORY_AVAILABLE, NODE, noisy(constant(180 * GIB), 4 * GIB)),
        (memory.NODE_MEMORY_TOTAL, NODE, constant(512 * GIB)),
        (telemetry_alerts.RULE_EVALUATION_FAILURES_TOTAL, group, constant(0)),
        (telemetry_alerts.RULE_GROUP_ITERATIONS_MISSED_TOTAL, group, constant(0)),
        (
            telemetry_alerts.NOTIFICATIONS_FAILED_TOTAL,
            {**ALERTMANAGER, "integration": "slack"},
            constant(0),
        ),
    ):
        yield RecordedSeries(name, labels, course)


def _alerts() -> Iterator[RecordedSeries]:
    gpu = {"instance": SERVICE["instance"], "gpu": "0", "uuid": GPUS["0"]}
    for name, severity, scope, labels in (
        ("Watchdog", "none", "telemetry", {}),
        ("TrainingLossPlateau", "info", "run", {"run": "tiny-chat"}),
        ("TrainingDataLoaderBound", "warning", "run", {"run": "wayfarer-lora"}),
        ("GPUNvlinkDown", "critical", "hardware", gpu),
        *(("GPULost", "critical", "hardware", {"cluster": cluster, **gpu}) for cluster in CLUSTERS),
    ):
        alert = {"alertname": name, "severity": severity, "scope": scope, **labels}
        yield RecordedSeries("ALERTS", {**alert, "alertstate": "firing"}, constant(1))
        yield RecordedSeries("ALERTS_FOR_STATE", alert, lambda s: 900 + s, age=True)


def _of(metric: Metric, labels: Mapping[str, str], course: Course, /, **more: str) -> RecordedSeries:
    return RecordedSeries(metric.name, {**labels, **more}, course)
