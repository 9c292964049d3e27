"""Two hours of training: two runs, two GPUs, the service's container, and what the alerts judge beside them.

As happens, the container was restarted and its predecessor is still seen, and a second job scrapes the
service.

The numbers are made up, but move as in a training, so that a picture of them can be judged by eye.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from dashboards import foundation
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
    held,
    noisy,
)

SECOND_JOB = {**SERVICE, "job": "pods"}
CONTAINER = {
    "job": "kubelet",
    "instance": "10.0.0.7:10250",
    "namespace": "pixelated-training",
    "pod": "training-service-6d5f",
    "container": "trainer",
    "id": "/kubepods/pod1/restarted",
}
PREDECESSOR = {**CONTAINER, "id": "/kubepods/pod1/killed"}
# The sums cAdvisor adds for the pod: no panel may count them.
WHOLE_POD = {**CONTAINER, "container": "", "id": "/kubepods/pod1"}


def series() -> Iterator[RecordedSeries]:
    yield from _service()
    yield from _run("wayfarer-lora", ranks=2, pace=3.4, loss=decay(3.2, 1.3))
    yield from _run("tiny-chat", ranks=1, pace=2.3, loss=decay(2.2, 1.7))
    yield from _gpu("0", "GPU-2b9b5a1e-0000-4000-8000-000000000000", utilization_percent=95, memory_gib=58)
    yield from _gpu("1", "GPU-2b9b5a1e-0000-4000-8000-000000000001", utilization_percent=86, memory_gib=46)
    yield from _containers()


def _service() -> Iterator[RecordedSeries]:
    """One collector of two fails, two recordings are skipped, three steps a second go into the history."""
    for target in (SERVICE, SECOND_JOB):
        for collector, success in (("gpu", 1), ("processes", 0)):
            labels = {**target, "collector": collector}
            yield RecordedSeries(catalog.COLLECTOR_SUCCESS.name, labels, constant(success))
        yield RecordedSeries(catalog.RECORDINGS_SKIPPED.name, {**target, "reason": "corrupt"}, constant(2))
        yield RecordedSeries(catalog.RUNS_PUBLISHED.name, {**target, "detail": "full"}, constant(2))
        yield RecordedSeries(catalog.HISTORY_STEPS_TOTAL.name, target, lambda s: 3 * s)
        yield RecordedSeries(catalog.HISTORY_LOST_STEPS_TOTAL.name, target, lambda s: s)
        yield RecordedSeries(catalog.HISTORY_FAILING_RECORDINGS.name, target, constant(1))


def _run(run: str, ranks: int, pace: float, loss: Course) -> Iterator[RecordedSeries]:
    courses: dict[Metric, Course] = {
        catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS: lambda _: 1_700_000_000,
        catalog.TRAINING_EPOCH_CURRENT: lambda s: pace * s / 8000,
        catalog.TRAINING_LOSS: noisy(loss, 0.06),
        catalog.VALIDATION_LOSS: held(lambda s: loss(s) + 0.12 + s / 40_000),
        catalog.TRAINING_ACCURACY: lambda s: 0.9 - loss(s) / 6,
        catalog.TRAINING_PERPLEXITY: lambda s: math.exp(loss(s)),
        catalog.TRAINING_DATA_LOADING_TIME_SECONDS: noisy(lambda _: 0.012, 0.003),
        catalog.TRAINING_PREPROCESSING_TIME_SECONDS: noisy(lambda _: 0.034, 0.006),
    }
    for target in (SERVICE, SECOND_JOB):
        labels = {**target, "run": run}
        for metric, course in courses.items():
            yield RecordedSeries(metric.name, labels, course)
        for rank in range(ranks):
            yield RecordedSeries(
                catalog.TRAINING_BATCHES_PROCESSED_TOTAL.name,
                {**labels, "rank": str(rank)},
                counted(pace, rank),
            )


def _gpu(index: str, uuid: str, utilization_percent: float, memory_gib: float) -> Iterator[RecordedSeries]:
    courses: dict[Metric, Course] = {
        catalog.NVIDIA_GPU_UTILIZATION_PERCENT: noisy(lambda _: utilization_percent, 3.5),
        catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES: lambda _: 80 * GIB,
        catalog.NVIDIA_GPU_MEMORY_USED_BYTES: lambda s: (
            (memory_gib + 15 * (1 - math.exp(-s / 2000)) + 0.5 * math.sin(s / 200)) * GIB
        ),
    }
    for metric, course in courses.items():
        for target in (SERVICE, SECOND_JOB):
            yield RecordedSeries(metric.name, {**target, "gpu": index, "uuid": uuid}, course)
    labels = {**SERVICE, "run": "wayfarer-lora", "rank": index, "gpu": index, "uuid": uuid}
    yield RecordedSeries(catalog.TRAINING_RUN_GPU_INFO.name, labels, lambda _: 1)


def _containers() -> Iterator[RecordedSeries]:
    for labels in (CONTAINER, WHOLE_POD):
        yield RecordedSeries(
            foundation.CONTAINER_CPU_USAGE_SECONDS_TOTAL,
            labels,
            lambda s: 6.2 * s + 20 * math.sin(s / 300),
        )
        yield RecordedSeries(foundation.CONTAINER_MEMORY_USAGE_BYTES, labels, lambda s: (30 + s / 900) * GIB)
        yield RecordedSeries(foundation.CONTAINER_SPEC_MEMORY_LIMIT_BYTES, labels, lambda _: 64 * GIB)
    yield RecordedSeries(foundation.CONTAINER_CPU_USAGE_SECONDS_TOTAL, PREDECESSOR, lambda _: 900)
    yield RecordedSeries(foundation.CONTAINER_MEMORY_USAGE_BYTES, PREDECESSOR, lambda _: 2 * GIB)
    yield RecordedSeries(foundation.CONTAINER_SPEC_MEMORY_LIMIT_BYTES, PREDECESSOR, lambda _: 64 * GIB)
