"""The GPUs of a scenario's node: each does what its rank does, and has the faults it is given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporters import catalog
from exporters.catalog import Metric
from exporters.collector import Sample
from exporters.gpu.node import Ranks
from exporters.gpu.simulated import EVALUATION_LEVEL, TRAINING_LEVEL, SimulatedGpus, parse_simulation
from exporters.runs import RankProcess

GIB = 1024**3
IDLE, HUNG, HEALTHY, EVALUATING = "idle", "hung", "healthy", "evaluating"
# What a GPU has stays, whoever works on it or not.
_LASTING = ("xid79", "lost", "gone", "ecc", "row-remap", "pcie", "nvlink", "recovery", "withheld")
# Other GPUs of a node have another load at the same moment.
_APART_SECONDS = 1.7
# Short enough for the quicker ripple of a load, which comes back after 14 s.
_STEP_SECONDS = 5.0
_MEMORY_OF_NOBODY_BYTES = 0.6 * GIB
# Names that only events bring stay until the next boot.
_OF_EVENTS = (catalog.NVIDIA_GPU_XID_ERRORS_TOTAL, catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS)
_OF_MEMORY = (catalog.NVIDIA_GPU_MEMORY_USED_BYTES, catalog.NVIDIA_GPU_PROCESS_MEMORY_BYTES)
_NAME = "NVIDIA H100 80GB HBM3 (simulated)"
_DRIVER = "570.86.15"

_Key = tuple[str, ...]  # the name of a metric, and the values of its labels


@dataclass(frozen=True)
class Fault:
    """What happens to a GPU from a moment on, as `--simulate-gpus` reads it: its first GPU is meant."""

    at: float
    simulation: str


class ScenarioGpus:
    """The collector of one node's GPUs; `work` says what each GPU does: idle, hung, healthy or evaluating."""

    name = "gpu"
    interval_seconds = 2.0
    deadline_seconds = 10.0

    def __init__(
        self,
        node: str,
        count: int,
        work: Callable[[int], str],
        ranks: Ranks,
        clock: Callable[[], float],
        faults: Mapping[int, Sequence[Fault]],
        mig: frozenset[int] = frozenset(),
    ) -> None:
        self._work = work
        self._clock = clock
        self._gpus = [
            _Gpu(node, index, ranks, clock, faults.get(index, ()), is_mig=index in mig)
            for index in range(count)
        ]
        self._mig = {index: MigInstances(self._gpus[index].labels) for index in mig}

    def collect(self) -> Iterator[Sample]:
        now = self._clock()
        reported = 0
        for index, gpu in enumerate(self._gpus):
            samples = gpu.samples(now, self._work(index))
            reported += bool(samples)
            yield from samples
        for mig in self._mig.values():
            yield from mig.samples(now)
        yield Sample(catalog.NVIDIA_GPU_DEVICES, {}, float(reported))

    def close(self) -> None:
        """Nothing to end; here because a collector has it."""


class _Gpu:
    """One GPU: a simulated one for each thing it does, whose counters go on one after the other."""

    def __init__(
        self,
        node: str,
        index: int,
        ranks: Ranks,
        clock: Callable[[], float],
        faults: Sequence[Fault],
        *,
        is_mig: bool,
    ) -> None:
        digest = hashlib.md5(f"{node}/{index}".encode(), usedforsecurity=False).hexdigest()
        parts = (digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:])
        self.labels = {"gpu": str(index), "uuid": "GPU-" + "-".join(parts)}
        self._identity = {
            "name": _NAME,
            "driver_version": _DRIVER,
            "vbios": "96.00.74.00.1A",
            "pci_bus_id": f"00000000:{16 + 27 * index:02X}:00.0",
            "serial": str(int(digest[:8], 16)),
            "mig_mode": "enabled" if is_mig else "disabled",
        }
        self._index = index
        self._ranks = ranks
        self._clock = clock
        self._faults = faults
        self._simulated: dict[str, SimulatedGpus] = {}
        self._doing = ""
        self._level = TRAINING_LEVEL
        self._labels: dict[_Key, dict[str, str]] = {}
        self._seen: dict[_Key, float] = {}  # of what it does now
        self._totals: dict[_Key, float] = {}
        self._events: dict[_Key, Sample] = {}

    def samples(self, now: float, work: str) -> list[Sample]:
        fault = next((each.simulation for each in reversed(self._faults) if now >= each.at), HEALTHY)
        self._level = EVALUATION_LEVEL if work == EVALUATING else TRAINING_LEVEL
        work = HEALTHY if work == EVALUATING else work
        doing = fault if work == HEALTHY or fault.rpartition(":")[2].startswith(_LASTING) else work
        if doing != self._doing:
            self._doing, self._seen = doing, {}
        if doing not in self._simulated:
            self._simulated[doing] = self._simulation(doing)
        ranks = self._own_ranks()
        samples = [
            self._told(sample, bool(ranks))
            for sample in self._simulated[doing].collect()
            if sample.labels.get("gpu") == "0"
        ]
        told = {each.metric for each in samples}
        if not samples or told.issuperset(_OF_EVENTS):
            return samples
        return [*samples, *self._events.values()]

    def _simulation(self, text: str) -> SimulatedGpus:
        clock, behind = self._clock, _APART_SECONDS * self._index
        simulation = parse_simulation(f"1:{text}" if ":" not in text else text)
        return SimulatedGpus(
            simulation,
            self._own_ranks,
            clock=lambda: clock() - behind,
            step_seconds=_STEP_SECONDS,
            level=lambda seconds: self._level,
        )

    def _own_ranks(self) -> Sequence[RankProcess]:
        return [rank._replace(local_rank=0) for rank in self._ranks() or () if rank.local_rank == self._index]

    def _told(self, sample: Sample, is_in_use: bool) -> Sample:
        """The sample under this GPU's own name; its counters go on from those of what it did before."""
        metric, counted = sample.metric, sample.value
        assert isinstance(counted, float | int)  # a GPU has no histogram
        value: float = counted
        key = _key(sample)
        labels = self._labels.get(key)
        if labels is None:
            identity = self._identity if metric is catalog.NVIDIA_GPU_INFO else {}
            labels = self._labels[key] = {**sample.labels, **self.labels, **identity}
        if metric in _OF_MEMORY and not is_in_use:
            value = _MEMORY_OF_NOBODY_BYTES
        if metric.kind == "counter":
            before = self._seen.get(key, 0.0 if metric in _OF_EVENTS else value)
            self._seen[key] = value
            value = self._totals.get(key, 0.0) + max(0.0, value - before)
            if metric is catalog.NVIDIA_GPU_ECC_ERRORS_TOTAL:  # counts from the first look on
                value = max(value, counted)
            self._totals[key] = value
        told = Sample(metric, labels, value)
        if metric in _OF_EVENTS:
            self._events[key] = told
        return told


class MigInstances:
    """A GPU cut into two MIG instances at work, which the simulation of GPUs does not know."""

    _SIZES = (("1", "3g.40gb", 40 * GIB, 0.8), ("2", "1g.10gb", 10 * GIB, 0.35))

    def __init__(self, gpu: dict[str, str]) -> None:
        self._gpu = gpu
        self._since: float | None = None

    def samples(self, now: float) -> Iterator[Sample]:
        self._since = now if self._since is None else self._since
        passed = now - self._since
        for instance, profile, size, load in self._SIZES:
            labels = {**self._gpu, "mig_instance": instance, "mig_profile": profile}
            figures: tuple[tuple[Metric, float], ...] = (
                (catalog.NVIDIA_GPU_MIG_MEMORY_TOTAL_BYTES, size),
                (catalog.NVIDIA_GPU_MIG_MEMORY_USED_BYTES, (0.55 + 0.02 * (passed // 300 % 5)) * size),
                (catalog.NVIDIA_GPU_MIG_SM_ACTIVE_SECONDS_TOTAL, load * passed),
                (catalog.NVIDIA_GPU_MIG_TENSOR_ACTIVE_SECONDS_TOTAL, 0.5 * load * passed),
                (catalog.NVIDIA_GPU_MIG_DRAM_ACTIVE_SECONDS_TOTAL, 0.6 * load * passed),
            )
            for metric, value in figures:
                yield Sample(metric, labels, value)


def _key(sample: Sample) -> _Key:
    return (sample.metric.name, *sample.labels.values())
