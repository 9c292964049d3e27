"""Which rank trains on which GPU, and how much of its memory it holds.

A rank's GPU is the one its recording names, as torch told its uuid. Where it names none it is the one on
which NVML sees the rank's process, or the one CUDA_VISIBLE_DEVICES leaves it. The order has a reason: a rank
may hold a stray context on a GPU it does not train on.
"""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pynvml

from exporters import catalog
from exporters.collector import Sample
from exporters.gpu.mig import MigInstance, mig_devices
from exporters.gpu.nvml import Device, GpuLostError, Nvml, NvmlCollector, Session, call, code_of
from exporters.gpu.reading import Reading, unsupported
from exporters.runs import RankProcess
from trainer_hooks import recording

_LOOK_EVERY_SECONDS = 5.0
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # its number in every Linux
_OLDER_MIG_UUID = re.compile(r"MIG-(?P<gpu>GPU-[^/]+)/(?P<instance>\d+)/\d+")


class Place(NamedTuple):
    """Where a rank can train: a GPU, or one of its MIG devices."""

    device: Device
    mig: MigInstance | None = None

    @property
    def uuid(self) -> str:
        return self.mig.uuid if self.mig else self.device.uuid

    @property
    def gpu_instance(self) -> int | None:
        return self.mig.gpu_instance if self.mig else None

    @property
    def labels(self) -> dict[str, str]:
        return {**self.device.labels, **(self.mig.labels if self.mig else {})}


class Process(NamedTuple):
    """A process with a context on a GPU; None for memory that NVML does not tell."""

    pid: int
    memory_bytes: int | None
    gpu_instance: int | None


class Look(NamedTuple):
    """What NVML says now: the GPUs, the processes on each by uuid, and what is missing.

    `places` and `processes` are also those of GPUs that answered before: a rank does not move when its GPU is
    lost. Of a GPU whose processes NVML does not tell there is no entry in `processes`.
    """

    devices: list[Device]
    places: list[Place]
    processes: dict[str, list[Process]]
    missing: list[Sample]


class ProcessCollector(NvmlCollector):
    """Joins the ranks that live on this node to its GPUs; asks NVML every five seconds only."""

    name = "gpu_processes"
    interval_seconds = 1.0
    deadline_seconds = 10.0

    def __init__(
        self,
        nvml: Nvml,
        ranks: Callable[[], Sequence[RankProcess] | None],
        *,
        pid_namespace: Callable[[], int] = recording.pid_namespace,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(nvml)
        self._ranks = ranks
        self._pid_namespace = pid_namespace
        self._monotonic = monotonic
        self._places: dict[str, list[Place]] = {}
        self._processes: dict[str, list[Process]] = {}
        self._look: Look | None = None
        self._looked_at = -math.inf

    def collect(self) -> list[Sample]:
        """Raises NvmlUnavailableError when there is no library, no driver, or no access to it."""
        now = self._monotonic()
        with self._nvml.session() as session:
            if self._look is None or now - self._looked_at >= _LOOK_EVERY_SECONDS:
                self._look, self._looked_at = self._ask(session), now
            look = self._look
        here = self._pid_namespace()
        ranks = self._ranks()
        samples = [*look.missing]
        if ranks is None:  # not known now: memory of theirs would be taken for that of others
            return samples
        for rank in ranks:
            for place in places_of(rank, look, here):
                samples.append(Sample(catalog.TRAINING_RUN_GPU_INFO, {**rank.labels, **place.labels}, 1.0))
        owners = {rank.pid: rank for rank in ranks if rank.pid_namespace == here}
        for device in look.devices:
            if device.uuid in look.processes:
                processes = look.processes[device.uuid]
                samples += _memory(device, processes, owners, all_visible=here == _FIRST_PID_NAMESPACE)
        return samples

    def _ask(self, session: Session) -> Look:
        devices: list[Device] = []
        missing: list[Sample] = []
        for device in session.devices():
            reading = Reading(device)
            try:
                places = [Place(device), *(Place(device, mig) for mig in mig_devices(device))]
                listed = _listed(reading)
            except GpuLostError:
                continue
            devices.append(device)
            self._places[device.uuid] = places
            self._processes.pop(device.uuid, None)
            missing.extend(reading.samples())
            if listed is not None:
                self._processes[device.uuid] = listed
                if self._pid_namespace() != _FIRST_PID_NAMESPACE:
                    metric = catalog.NVIDIA_GPU_PROCESS_MEMORY_BYTES
                    missing.append(unsupported(device, metric, "pid_namespace"))
        places = [place for of_device in self._places.values() for place in of_device]
        return Look(devices, places, dict(self._processes), missing)


def places_of(rank: RankProcess, look: Look, pid_namespace: int) -> list[Place]:
    """The GPUs the rank trains on, none where nothing tells; pids count in this service's own namespace."""
    is_here = rank.pid_namespace == pid_namespace
    found = [place for uuid in rank.gpu_uuids for place in _of_uuid(uuid, look.places)]
    if not found and is_here:
        found = [place for place in look.places if _runs_on(rank.pid, place, look)]
    if not found and rank.visible_device:
        found = _named(rank.visible_device, look, indices=is_here)
    # Several MIG devices may be of one GPU instance.
    return list({(place.device.uuid, place.gpu_instance): place for place in found}.values())


def _of_uuid(uuid: str, places: Sequence[Place]) -> list[Place]:
    """Also by the name that a MIG device had before the drivers of 2021: MIG-GPU-…/its GPU instance/…"""
    older = _OLDER_MIG_UUID.fullmatch(uuid)
    if older is None:
        return [place for place in places if place.uuid == uuid]
    gpu, instance = older["gpu"], int(older["instance"])
    return [each for each in places if each.device.uuid == gpu and each.gpu_instance == instance]


def _runs_on(pid: int, place: Place, look: Look) -> bool:
    processes = look.processes.get(place.device.uuid, ())
    return any(each.pid == pid and each.gpu_instance == place.gpu_instance for each in processes)


def _named(entry: str, look: Look, *, indices: bool) -> list[Place]:
    """What an entry of CUDA_VISIBLE_DEVICES names: a uuid, the beginning of one, or an index.

    Another container counts its own GPUs only, CUDA orders GPUs of different kinds by their speed, and on a
    divided GPU it takes an instance: an index means something on a node of equal, undivided GPUs, to its own
    processes.
    """
    if not entry.isdecimal():
        exact = _of_uuid(entry, look.places)
        found = exact or [place for place in look.places if place.uuid.startswith(entry)]
        return found if exact or len(found) == 1 else []
    answering = [place for place in look.places if place.device in look.devices]
    alike = len({place.device.name for place in answering}) == 1 and all(
        each.mig is None for each in answering
    )
    return [place for place in answering if place.device.index == int(entry)] if indices and alike else []


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
