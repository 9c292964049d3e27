"""The MIG instances of a GPU: which there are, and their memory."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pynvml

from exporters import catalog
from exporters.collector import Sample
from exporters.gpu.nvml import Device, EachGpuCollector, answer, text
from exporters.gpu.reading import Reading

# The compute instance's part of a profile such as 1c.3g.40gb: the memory is that of the GPU instance.
_OF_COMPUTE_INSTANCE = re.compile(r"^\d+c\.")
_MEMORY = (catalog.NVIDIA_GPU_MIG_MEMORY_USED_BYTES, catalog.NVIDIA_GPU_MIG_MEMORY_TOTAL_BYTES)


class MigInstance(NamedTuple):
    """One MIG device: `gpu_instance` is NVML's number of its GPU instance, which may have several."""

    handle: Any
    uuid: str
    gpu_instance: int
    profile: str

    @property
    def labels(self) -> dict[str, str]:
        return {"mig_instance": str(self.gpu_instance), "mig_profile": self.profile}


class MigCollector(EachGpuCollector):
    """Reads the memory of every MIG instance."""

    name = "gpu_mig"
    interval_seconds = 10.0
    deadline_seconds = 10.0

    def read(self, device: Device) -> list[Sample]:
        reading = Reading(device)
        for instance in gpu_instances(mig_devices(device)):
            memory = reading.ask(
                _MEMORY, pynvml.nvmlDeviceGetMemoryInfo, instance.handle, pynvml.nvmlMemory_v2
            )
            if memory is not None:
                reading.add(catalog.NVIDIA_GPU_MIG_MEMORY_USED_BYTES, memory.used, **instance.labels)
                reading.add(catalog.NVIDIA_GPU_MIG_MEMORY_TOTAL_BYTES, memory.total, **instance.labels)
        return reading.samples()


def mig_devices(device: Device) -> list[MigInstance]:
    """Those of the GPU at this moment, none where MIG is off: it can be changed while the service runs.

    Raises GpuLostError, and NVMLError when the session is over.
    """
    mode = answer(pynvml.nvmlDeviceGetMigMode, device.handle)
    if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return []
    most = answer(pynvml.nvmlDeviceGetMaxMigDeviceCount, device.handle) or 0
    return [found for index in range(most) if (found := _mig_device(device, index)) is not None]


def gpu_instances(devices: list[MigInstance]) -> list[MigInstance]:
    """One MIG device of each GPU instance."""
    return list({each.gpu_instance: each for each in reversed(devices)}.values())[::-1]


def _mig_device(device: Device, index: int) -> MigInstance | None:
    """None when there is none of this index, or it was taken away just now."""
    handle = answer(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, device.handle, index)
    if handle is None:
        return None
    gpu_instance = answer(pynvml.nvmlDeviceGetGpuInstanceId, handle)
    attributes = answer(pynvml.nvmlDeviceGetAttributes, handle)
    uuid = text(pynvml.nvmlDeviceGetUUID, handle)
    if gpu_instance is None or attributes is None or uuid is None:
        return None
    _, is_named, profile = (text(pynvml.nvmlDeviceGetName, handle) or "").rpartition(" MIG ")
    if not is_named:
        gigabytes = round(attributes.memorySizeMB / 1024)
        profile = f"{attributes.gpuInstanceSliceCount}g.{gigabytes}gb"
    return MigInstance(handle, uuid, gpu_instance, _OF_COMPUTE_INSTANCE.sub("", profile))
