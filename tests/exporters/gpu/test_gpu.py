"""The collectors beside a real driver: what they say is what nvidia-smi says. Run by `make test-gpu`."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import time

import pytest

from exporters.collector import Sample
from exporters.gpu.node import NvmlGpus
from tests.exporters.gpu.double import names_of_gpu, of_gpu, unsupported, values

pytestmark = pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs a GPU with its driver")

MIB = 1024**2
GPM_OF_HOPPER = "nvidia_gpu_sm_active_seconds_total"
QUERY = {
    "uuid": "",
    "memory.total": "nvidia_gpu_memory_total_bytes",
    "memory.used": "nvidia_gpu_memory_used_bytes",
    "power.draw.instant": "nvidia_gpu_power_watts",
    "power.limit": "nvidia_gpu_power_limit_watts",
    "temperature.gpu": "nvidia_gpu_temperature_celsius",
    "clocks.sm": "nvidia_gpu_clock_hertz",
    "clocks.max.sm": "nvidia_gpu_clock_max_hertz",
    "utilization.gpu": "nvidia_gpu_utilization_percent",
    "pcie.link.width.max": "nvidia_gpu_pcie_link_width_max",
}


def nvidia_smi() -> list[dict[str, str]]:
    """A row a GPU, in order of the index."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    rows = csv.reader(io.StringIO(answer), skipinitialspace=True)
    return [dict(zip(QUERY, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Two rounds of every collector, so that GPM has a window."""
    gpus = NvmlGpus()
    for _ in range(2):
        rounds = [sample for collector in gpus.collectors for sample in collector.collect()]
        time.sleep(0.3)
    gpus.close()
    return rounds


def test_what_is_said_is_what_nvidia_smi_says(samples: list[Sample]) -> None:
    for index, told in enumerate(nvidia_smi()):
        ours = of_gpu(samples, str(index))
        assert ours[0].labels["uuid"] == told["uuid"]

        def value(name: str, gpu: list[Sample] = ours, **labels: str) -> float:
            (found,) = (
                s.value for s in gpu if s.metric.name == QUERY[name] and labels.items() <= s.labels.items()
            )
            assert isinstance(found, float)
            return found

        def close(ours: float, theirs: str, *, rel: float = 0.0, absolute: float) -> None:
            if theirs.replace(".", "").isdecimal():  # "[N/A]" otherwise
                assert ours == pytest.approx(float(theirs), rel=rel, abs=absolute)

        close(value("memory.total") / MIB, told["memory.total"], absolute=1)
        close(value("memory.used") / MIB, told["memory.used"], rel=0.02, absolute=64)
        close(value("power.draw.instant"), told["power.draw.instant"], rel=0.15, absolute=15)
        close(value("power.limit"), told["power.limit"], absolute=1)
        close(value("temperature.gpu", sensor="gpu"), told["temperature.gpu"], absolute=4)
        close(value("clocks.sm", domain="sm") / 1e6, told["clocks.sm"], rel=0.15, absolute=300)
        close(value("clocks.max.sm", domain="sm") / 1e6, told["clocks.max.sm"], absolute=1)
        close(value("utilization.gpu"), told["utilization.gpu"], absolute=25)
        close(value("pcie.link.width.max"), told["pcie.link.width.max"], absolute=0)


def test_energy_is_power_over_time() -> None:
    gpus = NvmlGpus()
    (device,) = (each for each in gpus.collectors if each.name == "gpu")
    joules, watts, began = [], [], time.monotonic()
    for _ in range(6):
        looked = list(device.collect())
        joules.append(values(looked, "nvidia_gpu_energy_joules_total")["0"])
        watts.append(values(looked, "nvidia_gpu_power_watts")["0"])
        time.sleep(0.5)
    seconds = time.monotonic() - began - 0.5
    gpus.close()

    assert (joules[-1] - joules[0]) / seconds == pytest.approx(sum(watts) / len(watts), rel=0.25)


def test_a_gpu_of_hopper_tells_what_works_inside_it_or_why_not(samples: list[Sample]) -> None:
    (name,) = {s.labels.get("name", "") for s in of_gpu(samples, "0") if s.metric.name == "nvidia_gpu_info"}
    if "H100" in name or "H200" in name:
        reason = unsupported(samples).get(GPM_OF_HOPPER)
        assert GPM_OF_HOPPER in names_of_gpu(samples, "0") or reason == "no_permission"


def test_every_collector_is_done_within_a_tenth_of_its_pace() -> None:
    gpus = NvmlGpus()
    for collector in gpus.collectors:
        collector.collect()
        began = time.perf_counter()
        collector.collect()
        seconds = time.perf_counter() - began
        print(f"{collector.name}: {seconds * 1000:.1f} ms")
        assert seconds < max(0.1, collector.interval_seconds / 10)
    gpus.close()
