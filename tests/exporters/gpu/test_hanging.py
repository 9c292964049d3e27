"""A driver that does not answer for a minute: one source is lost, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters import exposition
from exporters.collector import Runner, Sample, stop_all
from exporters.gpu import last_window
from exporters.gpu.node import NvmlGpus
from tests.exporters.gpu.double import names_of_gpu, values
from tests.fake_nvml import Machine
from tests.trainer_hooks.processes import wait_until

DEADLINE_SECONDS = 0.4


class Service:
    """The collectors in their threads, their paces and deadlines shortened."""

    def __init__(self) -> None:
        self.scrapes_seconds: list[float] = []
        self.gpus = NvmlGpus(kernel_log=Path("/nonexistent"))
        self.runners = {each.name: Runner(each) for each in self.gpus.collectors}
        for runner in self.runners.values():
            runner.collector.interval_seconds = 0.15
            runner.collector.deadline_seconds = DEADLINE_SECONDS
            runner.start()

    def scrape(self) -> list[Sample]:
        """The page's samples; how long the page took is noted."""
        began = time.perf_counter()
        samples = list(exposition.gather(self.runners.values()))
        exposition.render(samples, None)
        self.scrapes_seconds.append(time.perf_counter() - began)
        return samples

    def successes(self) -> dict[str, float]:
        return values(self.scrape(), "trainvitals_collector_success", "collector")


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    machine.update({"gpu0.mig_mode": 1, "gpu0.mig.0": "1 0 3g.40gb 40448 0"})
    service = Service()
    wait_until(lambda: set(service.successes().values()) == {1.0})
    wait_until(lambda: "nvidia_gpu_sm_active_seconds_total" in names_of_gpu(service.scrape(), "1"))
    yield service
    stop_all(list(service.runners.values()))
    service.gpus.close()


@pytest.mark.parametrize(
    ("function", "collector", "lost"),
    [
        ("nvmlDeviceGetUtilizationRates", "gpu", "nvidia_gpu_memory_used_bytes"),
        ("nvmlDeviceGetFieldValues", "gpu", "nvidia_gpu_power_watts"),
        ("nvmlGpmSampleGet", "gpu_profile", "nvidia_gpu_sm_active_seconds_total"),
        ("nvmlGpmMetricsGet", "gpu_profile", "nvidia_gpu_sm_active_seconds_total"),
        ("nvmlDeviceGetTotalEccErrors", "gpu_health", "nvidia_gpu_ecc_errors_total"),
        ("nvmlDeviceGetComputeRunningProcesses_v3", "gpu_processes", "nvidia_gpu_process_memory_bytes"),
        ("nvmlEventSetWait_v2", "gpu_xid", "nvidia_gpu_xid_errors_total"),
    ],
)
def test_a_call_that_hangs_costs_its_own_source_until_it_returns(
    machine: Machine, service: Service, function: str, collector: str, lost: str
) -> None:
    machine.set("event.1", "1 31")
    wait_until(lambda: lost in names_of_gpu(service.scrape(), "1"))

    machine.set(f"hang.{function}", 60)
    service.scrapes_seconds = []

    wait_until(lambda: service.successes()[collector] == 0)
    # The quickest of them, since another process may hold up any; one that waits waits always.
    assert min(service.scrapes_seconds) < 0.1
    others = service.successes().keys() - {collector}
    if function == "nvmlDeviceGetFieldValues":  # which two collectors ask
        others -= {"gpu_health"}
    samples: list[Sample] = []

    def the_others_answer() -> bool:
        """In one scrape: one of them that is held up beyond its deadline has nothing to say either."""
        samples[:] = service.scrape()
        told = values(samples, "trainvitals_collector_success", "collector")
        return all(told[name] == 1 for name in others)

    wait_until(the_others_answer)
    assert lost not in names_of_gpu(samples, "1"), "nothing of it is served that is stale"
    if collector == "gpu_profile":
        assert not [each for each in samples if each.metric is last_window.TENSOR_ACTIVE]
    if collector != "gpu":
        assert values(samples, "nvidia_gpu_up") == {"0": 1, "1": 1}

    machine.unset(f"hang.{function}")

    wait_until(lambda: set(service.successes().values()) == {1.0})
    wait_until(lambda: lost in names_of_gpu(service.scrape(), "1"))


def test_a_library_that_hangs_as_it_opens_costs_the_gpus_and_no_more(machine: Machine) -> None:
    machine.set("hang.nvmlInitWithFlags", 60)
    service = Service()

    wait_until(lambda: all(runner.ready for runner in service.runners.values()))
    assert set(service.successes().values()) == {0.0}
    assert names_of_gpu(service.scrape(), "0") == set()

    machine.unset("hang.nvmlInitWithFlags")
    wait_until(lambda: set(service.successes().values()) == {1.0})
    stop_all(list(service.runners.values()))
    service.gpus.close()


def test_an_end_beside_a_call_that_hangs_takes_seconds(machine: Machine, service: Service) -> None:
    machine.update({"hang.nvmlDeviceGetUtilizationRates": 60, "hang.nvmlGpmSampleGet": 60})
    wait_until(lambda: service.successes()["gpu"] == 0)

    began = time.monotonic()
    stop_all(list(service.runners.values()), 0.5)
    service.gpus.close()

    assert time.monotonic() - began < 20, "the calls would take a minute"
    machine.unset("hang.nvmlDeviceGetUtilizationRates", "hang.nvmlGpmSampleGet")
