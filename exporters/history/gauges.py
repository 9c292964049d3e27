"""The collector that keeps gauges of runs and GPUs: what no step record holds, every ten seconds."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from exporters import catalog
from exporters.catalog import Metric
from exporters.collector import Histogram, Sample
from exporters.gpu import last_window
from exporters.history.database import Database

WIDTHS_SECONDS = (10, 60, 600)

OF_RUNS: tuple[Metric, ...] = (
    catalog.TRAINING_CUDA_MEMORY_ALLOCATED_BYTES,
    catalog.TRAINING_CUDA_MEMORY_RESERVED_BYTES,
    catalog.TRAINING_HOST_MEMORY_BYTES,
    catalog.TRAINING_ACCURACY,
    catalog.TRAINING_LOSS_SCALE,
    catalog.TRAINING_EPOCH_CURRENT,
    catalog.TRAINING_SCALAR,
    # Counters, whose newest value a report tells.
    catalog.HOOK_SECONDS_TOTAL,
    catalog.HOOK_ERRORS_TOTAL,
    catalog.HOOK_DROPPED_TOTAL,
    catalog.TRAINING_NONFINITE_TOTAL,
)
OF_GPUS: tuple[Metric, ...] = (
    catalog.NVIDIA_GPU_UTILIZATION_PERCENT,
    catalog.NVIDIA_GPU_MEMORY_USED_BYTES,
    catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES,
    catalog.NVIDIA_GPU_POWER_WATTS,
    catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS,
    last_window.SM_ACTIVE,
    last_window.TENSOR_ACTIVE,
    last_window.DRAM_ACTIVE,
)
KEPT = {metric.name: metric for metric in (*OF_RUNS, *OF_GPUS)}

_KEEP = """
    INSERT INTO samples VALUES (:series, :width, :bucket, :value, :value, :value, 1)
    ON CONFLICT DO UPDATE SET
        min = min(min, :value), max = max(max, :value), sum = sum + :value, count = count + 1
"""


class GpuOfRun(NamedTuple):
    """A GPU on which a rank was seen to train, and when first and last, in unix seconds."""

    gpu_uuid: str
    rank: int
    first_seen_at: float
    last_seen_at: float


def of_run(database: Database, run: str) -> list[GpuOfRun]:
    """The GPUs of a run, by rank."""
    with database.read() as connection:
        rows = connection.execute(
            "SELECT gpu_uuid, rank, first_seen_at, last_seen_at FROM gpus_of_runs WHERE run = ? "
            "ORDER BY rank, gpu_uuid",
            (run,),
        ).fetchall()
    return [GpuOfRun(*row) for row in rows]


class GaugesCollector:
    """Keeps, of what the other collectors last said, the gauges of KEPT."""

    name = "history_gauges"
    interval_seconds = 10.0
    deadline_seconds = 30.0

    def __init__(
        self,
        samples: Callable[[], Iterable[Sample]],
        database: Database,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._samples = samples
        self._database = database
        self._wall = wall

    def collect(self) -> Iterator[Sample]:
        """Raises sqlite3.Error where the database cannot be written."""
        now = self._wall()
        with self._database.write() as connection:
            for sample in self._samples():
                if sample.metric is catalog.TRAINING_RUN_GPU_INFO:
                    _keep_gpu_of_run(connection, sample.labels, now)
                elif sample.metric.name in KEPT and not isinstance(sample.value, Histogram):
                    series, value = _series_of(connection, sample), float(sample.value)
                    for width in WIDTHS_SECONDS:
                        bucket = int(now // width)
                        values = {"series": series, "width": width, "bucket": bucket, "value": value}
                        connection.execute(_KEEP, values)
        yield from ()

    def close(self) -> None: ...


def _series_of(connection: sqlite3.Connection, sample: Sample) -> int:
    """The number of the sample's series, which is made where it is new."""
    values = (
        *(sample.metric.name, json.dumps(sample.labels, sort_keys=True)),
        *(sample.labels.get("run"), sample.labels.get("uuid")),
    )
    (number,) = connection.execute(
        "INSERT INTO series (metric, labels, run, gpu_uuid) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET run = run RETURNING id",
        values,
    ).fetchone()
    return int(number)


def _keep_gpu_of_run(connection: sqlite3.Connection, labels: dict[str, str], now: float) -> None:
    connection.execute(
        "INSERT INTO gpus_of_runs VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET last_seen_at = excluded.last_seen_at",
        (labels["run"], int(labels["rank"]), labels["uuid"], now, now),
    )
