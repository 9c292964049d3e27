"""Machines that the double can play, and the page of each: `golden/` keeps the pages.

After a change that is meant, `python -m tests.exporters.gpu.scenarios` writes them anew; read the difference.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from exporters import exposition
from exporters.collector import Collector, Sample
from exporters.gpu.node import NvmlGpus, published
from exporters.gpu.nvml import NvmlUnavailableError
from exporters.runs import RankProcess
from tests import fake_nvml
from tests.exporters.gpu.double import FIRST_PID_NAMESPACE, UUIDS, Clock
from tests.fake_nvml import in_process

GOLDEN = Path(__file__).with_name("golden")
ROUND_SECONDS = 60.0  # every collector asks NVML in every round
NOT_SUPPORTED, NO_PERMISSION, LOST = 3, 4, 15
Settings = Mapping[str, str | bytes | float]
NO_GPM: Settings = {"gpm_supported": 0}
NO_NVLINK: Settings = {"nvlinks": 0, "field.138.error": NOT_SUPPORTED, "field.139.error": NOT_SUPPORTED}
NO_ECC: Settings = {
    "ecc_mode": "n/a",
    "error.nvmlDeviceGetTotalEccErrors": NOT_SUPPORTED,
    **{f"field.{field}.error": NOT_SUPPORTED for field in range(142, 146)},
}
NO_MIG: Settings = {"mig_mode": "n/a"}
NO_MEMORY_SENSOR: Settings = {"field.82.error": NOT_SUPPORTED}
GPM_FUNCTIONS = (
    *("nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree"),
    *("nvmlGpmSampleGet", "nvmlGpmMigSampleGet", "nvmlGpmMetricsGet"),
)
RANKS = (
    RankProcess("chat-7b", 0, 0, 100, FIRST_PID_NAMESPACE, (UUIDS[0],)),
    RankProcess("chat-7b", 1, 1, 101, FIRST_PID_NAMESPACE, (UUIDS[1],)),
    RankProcess("probe", 0, 0, 200, FIRST_PID_NAMESPACE, (UUIDS[1],)),
)
PROCESSES: Settings = {
    "gpu0.processes": "100:60000000000 4711:500000000",
    "gpu1.processes": "101:60000000000 200:8000000000",
}


class Scenario(NamedTuple):
    """The double's settings from the first round on, and what changes before the third."""

    settings: Settings
    later: Settings = MappingProxyType({})
    without: tuple[str, ...] = ()
    ranks: tuple[RankProcess, ...] = ()
    pid_namespace: int = FIRST_PID_NAMESPACE


SCENARIOS: dict[str, Scenario] = {
    "h100": Scenario(PROCESSES, ranks=RANKS),
    "h100-lost": Scenario(PROCESSES, {"gpu1.error": LOST, "event.0": "1 79"}, ranks=RANKS),
    "h100-mig": Scenario(
        {
            "gpu0.mig_mode": 1,
            "gpu0.mig.0": "1 0 3g.40gb 40448 1073741824",
            "gpu0.mig.1": "2 0 3g.40gb 40448 2147483648",
            "gpu0.mig.1.uuid": "MIG-0b1d7b4e-6a52-5d0e-9b3c-2f1a5e7d9c10",
            "gpu0.error.nvmlGpmSampleGet": NOT_SUPPORTED,
            "gpu0.processes": "100:1500000000:2:0",
        },
        ranks=(
            RankProcess(
                "probe", 0, 0, 100, FIRST_PID_NAMESPACE, ("MIG-0b1d7b4e-6a52-5d0e-9b3c-2f1a5e7d9c10",)
            ),
        ),
    ),
    "h100-mig-reconfigured": Scenario(
        {
            "gpu0.mig_mode": 1,
            "gpu0.mig.0": "1 0 3g.40gb 40448 1073741824",
            "gpu0.mig.1": "2 0 3g.40gb 40448 2147483648",
        },
        {
            "gpu0.mig.0": "5 0 2g.20gb 20096 1048576",
            "gpu0.mig.1": "3 0 2g.20gb 20096 2097152",
            "gpu0.mig.2": "9 0 1g.10gb 9856 0",
        },
    ),
    "h100-mig-container": Scenario(
        {
            "mig_mode": 1,
            "mig.0": "4 0 1c.3g.40gb 40448 1073741824",
            "mig.1": "4 1 2c.3g.40gb 40448 1073741824",
            "mig.2": "5 0 3g.40gb 40448 2147483648",
            "error.nvmlGpmSampleGet": NO_PERMISSION,
            "error.nvmlGpmMigSampleGet": NO_PERMISSION,
            "gpu0.processes": "100:1500000000:4:1",
        },
        ranks=(RankProcess("probe", 0, 0, 100, 1),),
        pid_namespace=1,
    ),
    "h100-container": Scenario(
        {**PROCESSES, "error.nvmlGpmSampleGet": NO_PERMISSION}, ranks=RANKS, pid_namespace=1
    ),
    "h100-errors": Scenario(
        {},
        {
            "event.0": "0 13",
            "event.1": "0 94 x3",
            "event.2": "1 63",
            "gpu0.ecc_aggregate_uncorrected": 3,
            "gpu0.remapped_uncorrectable": 1,
            "gpu0.remapped_pending": 1,
            "gpu0.recovery_action": 1,
            "gpu1.nvlink.3.state": 0,
            "gpu1.pcie_width": 8,
            "gpu1.field.270": 12_000_000_000,
        },
    ),
    "h100-old-driver": Scenario(
        {
            "driver_version": "515.105.01",
            **{f"field.{field}.error": 2 for field in (186, 230, 269, 270, 271)},
        },
        without=(*GPM_FUNCTIONS, "nvmlDeviceGetComputeRunningProcesses_v3"),
    ),
    "a100": Scenario({"name": "NVIDIA A100-SXM4-80GB", **NO_GPM, "pcie_max_generation": 4}),
    "a10": Scenario({"name": "NVIDIA A10", **NO_GPM, **NO_NVLINK, **NO_MIG, **NO_MEMORY_SENSOR}),
    "l4": Scenario({"name": "NVIDIA L4", **NO_GPM, **NO_NVLINK, **NO_MIG, **NO_MEMORY_SENSOR}),
    "consumer": Scenario(
        {
            "name": "NVIDIA GeForce RTX 4090",
            "serial": "n/a",
            **NO_GPM,
            **NO_NVLINK,
            **NO_ECC,
            **NO_MIG,
            **NO_MEMORY_SENSOR,
            "field.197.error": NOT_SUPPORTED,
            "field.198.error": NOT_SUPPORTED,
        }
    ),
    "odd-name": Scenario({"gpu0.name": 'NVIDIA H100 "試作" Ω\\', "gpu1.name": b"Qu\xe9bec"}),
    "none": Scenario({"devices": 0}),
    "unloaded": Scenario({}, {"driver": "unloaded"}),
}


def page(library: Path, control: Path, scenario: Scenario) -> list[Sample]:
    """What every collector publishes after three rounds, a minute apart; none where it fails."""
    clock = Clock()
    with in_process.machine(library, control) as machine:
        machine.update(scenario.settings)
        gpus = NvmlGpus(
            lambda: scenario.ranks,
            kernel_log=Path("/nonexistent"),
            pid_namespace=lambda: scenario.pid_namespace,
            monotonic=clock,
            wall=lambda: 1_700_000_000.0 + clock.now,
        )
        for number in range(3):
            if number == 2:
                machine.update(scenario.later)
            samples = [sample for collector in gpus.collectors for sample in _round(collector)]
            clock.now += ROUND_SECONDS
        gpus.close()
    return published(samples)


def _round(collector: Collector) -> list[Sample]:
    try:
        return list(collector.collect())
    except NvmlUnavailableError:
        return []


def text(samples: list[Sample]) -> str:
    return exposition.render(samples, None)[0].decode()


def write(build: Callable[..., Path] = fake_nvml.build) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, scenario in SCENARIOS.items():
            directory = Path(folder) / name
            directory.mkdir()
            library = build(directory, without=scenario.without)
            (GOLDEN / f"{name}.txt").write_text(text(page(library, directory / "control", scenario)))
            print(f"golden/{name}.txt")


if __name__ == "__main__":
    write()
