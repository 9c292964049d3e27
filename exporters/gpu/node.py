"""The GPUs of this node as the service has them: their collectors, and what a person is shown of each GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from exporters import catalog
from exporters.catalog import Metric
from exporters.collector import Collector, Sample
from exporters.gpu import last_window
from exporters.gpu.device import DeviceCollector
from exporters.gpu.health import HealthCollector
from exporters.gpu.mig import MigCollector
from exporters.gpu.nvml import Nvml
from exporters.gpu.processes import ProcessCollector
from exporters.gpu.profile import ProfileCollector
from exporters.gpu.xid import KERNEL_LOG, XidCollector
from exporters.runs import RankProcess
from trainer_hooks import recording

# Those that live on this node; None while that is not known.
Ranks = Callable[[], Sequence[RankProcess] | None]


class Gpus(Protocol):
    """The GPUs of a node, real or simulated. `nvml` is what can be released; simulated GPUs have none."""

    @property
    def nvml(self) -> Nvml | None: ...

    @property
    def collectors(self) -> Sequence[Collector]: ...

    def close(self) -> None: ...


class NvmlGpus:
    """Those that NVML knows, in one session of it."""

    def __init__(
        self,
        ranks: Ranks = tuple,
        *,
        more: Sequence[Callable[[Nvml], Collector]] = (),
        kernel_log: Path = KERNEL_LOG,
        pid_namespace: Callable[[], int] = recording.pid_namespace,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`more` makes further collectors of the same session."""
        self.nvml = Nvml(monotonic=monotonic)
        self.collectors: Sequence[Collector] = (
            DeviceCollector(self.nvml),
            ProfileCollector(self.nvml, monotonic=monotonic),
            HealthCollector(self.nvml),
            MigCollector(self.nvml),
            ProcessCollector(self.nvml, ranks, pid_namespace=pid_namespace, monotonic=monotonic),
            XidCollector(self.nvml, kernel_log=kernel_log, wall=wall),
            *(collector(self.nvml) for collector in more),
        )

    def close(self) -> None:
        """End the session; one in which a call hangs is left."""
        self.nvml.close()


# What stays of a GPU that is lost; who trains on it is asked then above all.
_OF_THE_LOST = {
    catalog.TRAINING_RUN_GPU_INFO,
    catalog.NVIDIA_GPU_INFO,
    catalog.NVIDIA_GPU_UP,
    catalog.NVIDIA_GPU_XID_ERRORS_TOTAL,
    catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS,
}


def without_the_lost(samples: Iterable[Sample]) -> list[Sample]:
    """The samples but for what is not known any more of a GPU that is lost.

    Each collector learns of a loss in its own round: what the others said before is not true any more.
    """
    samples = list(samples)
    lost = {
        each.labels["uuid"] for each in samples if each.metric is catalog.NVIDIA_GPU_UP and each.value == 0
    }
    if not lost:
        return samples
    return [each for each in samples if each.metric in _OF_THE_LOST or each.labels.get("uuid") not in lost]


def published(samples: Iterable[Sample]) -> list[Sample]:
    """What goes on the page: nothing that is only shown, and little of a GPU that is lost."""
    return [each for each in without_the_lost(samples) if each.metric.scope != "window"]


@dataclass(frozen=True, order=True)
class RankOnGpu:
    """A rank that trains on a GPU."""

    run: str
    rank: int


@dataclass(frozen=True)
class GpuStatus:
    """One GPU as API and terminal tell it; None is unknown. Ratios, 0 to 1, are the last window's means.

    `throttled` are the reasons for which its clocks were held down in that window, `xids` those ever seen.
    """

    gpu: int
    uuid: str
    up: bool
    name: str | None = None
    utilization_percent: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    sm_active_ratio: float | None = None
    tensor_active_ratio: float | None = None
    dram_active_ratio: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    temperature_celsius: float | None = None
    throttled: tuple[str, ...] = ()
    xids: tuple[str, ...] = ()
    unsupported: dict[str, str] = field(default_factory=dict)
    ranks: tuple[RankOnGpu, ...] = ()


def gpu_statuses(samples: Iterable[Sample]) -> list[GpuStatus]:
    """Every GPU of which these samples say whether it is up, by index.

    `unsupported` has the reason by the name of the metric.
    """
    by_uuid: dict[str, list[Sample]] = {}
    for sample in without_the_lost(samples):
        if "uuid" in sample.labels:
            by_uuid.setdefault(sample.labels["uuid"], []).append(sample)
    statuses = [
        _status(uuid, of_gpu)
        for uuid, of_gpu in by_uuid.items()
        if any(sample.metric is catalog.NVIDIA_GPU_UP for sample in of_gpu)
    ]
    return sorted(statuses, key=lambda status: status.gpu)


def _status(uuid: str, samples: Sequence[Sample]) -> GpuStatus:
    def value(metric: Metric, **labels: str) -> float | None:
        return value_of(samples, metric, uuid, **labels)

    def of(metric: Metric) -> list[dict[str, str]]:
        return [sample.labels for sample in samples if sample.metric is metric]

    info = of(catalog.NVIDIA_GPU_INFO)
    ranks = {RankOnGpu(labels["run"], int(labels["rank"])) for labels in of(catalog.TRAINING_RUN_GPU_INFO)}
    return GpuStatus(
        gpu=int(samples[0].labels["gpu"]),
        uuid=uuid,
        up=value(catalog.NVIDIA_GPU_UP) == 1,
        name=info[0].get("name") if info else None,
        utilization_percent=value(catalog.NVIDIA_GPU_UTILIZATION_PERCENT),
        memory_used_bytes=value(catalog.NVIDIA_GPU_MEMORY_USED_BYTES),
        memory_total_bytes=value(catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES),
        sm_active_ratio=value(last_window.SM_ACTIVE),
        tensor_active_ratio=value(last_window.TENSOR_ACTIVE),
        dram_active_ratio=value(last_window.DRAM_ACTIVE),
        power_watts=value(catalog.NVIDIA_GPU_POWER_WATTS),
        power_limit_watts=value(catalog.NVIDIA_GPU_POWER_LIMIT_WATTS),
        temperature_celsius=value(catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS, sensor="gpu"),
        throttled=tuple(labels["reason"] for labels in of(last_window.THROTTLED)),
        xids=tuple(dict.fromkeys(labels["xid"] for labels in of(catalog.NVIDIA_GPU_XID_ERRORS_TOTAL))),
        unsupported={
            labels["metric"]: labels["reason"] for labels in of(catalog.NVIDIA_GPU_METRIC_UNSUPPORTED)
        },
        ranks=tuple(sorted(ranks)),
    )


def value_of(samples: Iterable[Sample], metric: Metric, uuid: str, **labels: str) -> float | None:
    """The value of a GPU's series with these further labels and no others; None when there is none."""
    for sample in samples:
        wanted = {"gpu": sample.labels.get("gpu"), "uuid": uuid, **labels}
        if sample.metric is metric and sample.labels == wanted and isinstance(sample.value, float):
            return sample.value
    return None
