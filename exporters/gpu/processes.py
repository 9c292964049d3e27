"""Which rank trains on which GPU, and how much of its memory it holds.

A rank's GPU is the one its recording names, as torch told its uuid. Where it names none it is the one on
which NVML sees the rank's process, or the one CUDA_VISIBLE_DEVICES leaves it. The order has a reason: a rank
may hold a stray context on a GPU it does not train on.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pynvml

from exporters import catalog
from exporters.collector import Sample
from exporters.gpu.mig import MigInstance, mig_devices
from exporters.gpu.nvml import Device, GpuLostError, Nvml, Reading, Session, call, code_of, unsupported
from exporters.runs import RankProcess
from trainer_hooks import recording

_LOOK_EVERY_SECONDS = 5.0
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # its number in every Linux


class Place(NamedTuple):
    """Where a rank can train: a GPU, or one of its MIG devices."""

    device: Device
    mig: MigInstance | None = None

    @property
    def uuid(self) -> str:
        return self.mig.uuid if self.mig else self.device.uuid

    @property
    def labels(self) -> dict[str, str]:
        return {**self.device.labels, **(self.mig.labels if self.mig else {})}


class Process(NamedTuple):
    """A process with a context on a GPU; None for memory that NVML does not tell."""

    pid: int
    memory_bytes: int | None
    gpu_instance: int | None


class Look(NamedTuple):
    """The GPUs of the node and the processes on each, by uuid; None where NVML does not tell them."""

    places: list[Place]
    processes: dict[str, list[Process] | None]
    unsupported: list[Sample]


class ProcessCollector:
    """Joins the ranks that live on this node to its GPUs; asks NVML every five seconds only."""

    name = "gpu_processes"
    interval_seconds = 1.0
    deadline_seconds = 10.0

    def __init__(
        self,
        nvml: Nvml,
        ranks: Callable[[], Sequence[RankProcess]],
        *,
        pid_namespace: Callable[[], int] = recording.pid_namespace,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nvml = nvml
        self._ranks = ranks
        self._pid_namespace = pid_namespace
        self._monotonic = monotonic
        self._look: Look | None = None
        self._looked_at = -math.inf

    def collect(self) -> list[Sample]:
        """Raises NvmlUnavailableError when there is no library, no driver, or no access to it."""
        now = self._monotonic()
        with self._nvml.session() as session:
            if self._look is None or now - self._looked_at >= _LOOK_EVERY_SECONDS:
                self._look = None
                self._look, self._looked_at = self._ask(session), now
            look = self._look
        here = self._pid_namespace()
        ranks = self._ranks()
        samples = [*look.unsupported]
        for rank in ranks:
            for place in places_of(rank, look, here):
                samples.append(Sample(catalog.TRAINING_RUN_GPU_INFO, {**rank.labels, **place.labels}, 1.0))
        owners = {rank.pid: rank for rank in ranks if rank.pid_namespace == here}
        for device in {place.device.uuid: place.device for place in look.places}.values():
            processes = look.processes.get(device.uuid)
            if processes is not None:
                samples += _memory(device, processes, owners, all_visible=here == _FIRST_PID_NAMESPACE)
        return samples

    def close(self) -> None:
        """Nothing to end: the session is the other collectors' too."""

    def _ask(self, session: Session) -> Look:
        look = Look([], {}, [])
        for device in session.devices():
            reading = Reading(device)
            try:
                migs = mig_devices(device)
                listed = _listed(reading)
            except GpuLostError:
                continue
            look.places.append(Place(device))
            look.places.extend(Place(device, mig) for mig in migs)
            look.processes[device.uuid] = listed
            look.unsupported.extend(reading.unsupported())
            if listed is not None and self._pid_namespace() != _FIRST_PID_NAMESPACE:
                metric = catalog.NVIDIA_GPU_PROCESS_MEMORY_BYTES
                look.unsupported.append(unsupported(device, metric, "pid_namespace"))
        return look


def places_of(rank: RankProcess, look: Look, pid_namespace: int) -> list[Place]:
    """The GPUs the rank trains on, none where nothing tells; pids count in this service's own namespace."""
    by_uuid = {place.uuid: place for place in look.places}
    told = [by_uuid[uuid] for uuid in rank.gpu_uuids if uuid in by_uuid]
    if told:
        return told
    is_here = rank.pid_namespace == pid_namespace
    if is_here and (seen := list(_places_of_process(rank.pid, look))):
        return seen
    visible = rank.visible_devices
    if not visible:
        return []
    chosen = visible[rank.local_rank] if len(visible) > rank.local_rank else visible[0]
    return _named(chosen, look.places, indices=is_here)


def _places_of_process(pid: int, look: Look) -> Iterator[Place]:
    for place in look.places:
        for process in look.processes.get(place.device.uuid) or ():
            instance = place.mig.gpu_instance if place.mig else None
            if process.pid == pid and process.gpu_instance == instance:
                yield place
                break


def _named(chosen: str, places: Sequence[Place], *, indices: bool) -> list[Place]:
    """What an entry of CUDA_VISIBLE_DEVICES names: a uuid, the beginning of one, or an index.

    Another container counts its own GPUs only, and CUDA orders GPUs of different kinds by their speed: an
    index means something on a node of equal GPUs, to its own processes.
    """
    if not chosen.isdecimal():
        found = [place for place in places if place.uuid.startswith(chosen)]
        return found if len(found) == 1 else []
    names = {place.device.name for place in places}
    if not indices or len(names) > 1:
        return []
    return [place for place in places if place.mig is None and place.device.index == int(chosen)]


def _listed(reading: Reading) -> list[Process] | None:
    metric, handle = catalog.NVIDIA_GPU_PROCESS_MEMORY_BYTES, reading.device.handle
    try:
        answer = call(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle)
    except pynvml.NVMLError as error:
        if code_of(error) != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            reading.note(metric, code_of(error))
            return None
        answer = reading.ask(metric, pynvml.nvmlDeviceGetComputeRunningProcesses_v2, handle)
    return None if answer is None else [_process(each) for each in answer]


def _process(answer: Any) -> Process:
    of_no_instance = answer.gpuInstanceId == 0xFFFFFFFF
    return Process(answer.pid, answer.usedGpuMemory, None if of_no_instance else answer.gpuInstanceId)


def _memory(
    device: Device, processes: Iterable[Process], owners: dict[int, RankProcess], *, all_visible: bool
) -> Iterator[Sample]:
    """A sample for each rank on the GPU, and one for all other processes where all are visible.

    What NVML does not tell of one process leaves the sum it belongs to unknown.
    """
    sums: dict[tuple[str, str], list[int | None]] = defaultdict(list)
    if all_visible:
        sums["", ""] = []
    for process in processes:
        owner = owners.get(process.pid)
        if owner is not None:
            sums[owner.run, str(owner.rank)].append(process.memory_bytes)
        elif all_visible:
            sums["", ""].append(process.memory_bytes)
    for (run, rank), known in sums.items():
        told = [each for each in known if each is not None]
        if len(told) == len(known):
            labels = {**device.labels, "run": run, "rank": rank}
            yield Sample(catalog.NVIDIA_GPU_PROCESS_MEMORY_BYTES, labels, float(sum(told)))
