"""GPM integrated over windows of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporters.gpu import last_window
from exporters.gpu.nvml import Nvml, NvmlUnavailableError
from exporters.gpu.profile import ProfileCollector
from tests import fake_nvml
from tests.exporters.gpu.double import NOT_PRIVILEGED, Clock, names_of_gpu, of_gpu, shown, unsupported, values
from tests.fake_nvml import Calls, Machine, in_process

SM = "nvidia_gpu_sm_active_seconds_total"
TENSOR = "nvidia_gpu_tensor_active_seconds_total"
METRICS = {
    SM,
    TENSOR,
    "nvidia_gpu_dram_active_seconds_total",
    "nvidia_gpu_sm_occupancy_seconds_total",
    "nvidia_gpu_pipe_active_seconds_total",
}
MIG_METRICS = {
    "nvidia_gpu_mig_sm_active_seconds_total",
    "nvidia_gpu_mig_tensor_active_seconds_total",
    "nvidia_gpu_mig_dram_active_seconds_total",
}


@pytest.fixture
def collector(nvml: Nvml, clock: Clock) -> ProfileCollector:
    return ProfileCollector(nvml, monotonic=clock)


def test_the_rate_of_a_counter_is_the_mean_over_any_window(
    machine: Machine, collector: ProfileCollector, clock: Clock
) -> None:
    """Rounds of uneven lengths, activity that changes: seconds of activity over seconds of time."""
    machine.set("gpu0.gpm.2", 50)
    collector.collect()
    activity = 0.0
    for seconds, percent in ((5, 80.0), (1, 20.0), (14, 0.0), (5.5, 100.0)):
        machine.set("gpu0.gpm.2", percent)
        clock.now += seconds
        samples = collector.collect()
        activity += seconds * percent / 100
        assert values(samples, SM)["0"] == pytest.approx(activity)

    assert names_of_gpu(samples, "0") == names_of_gpu(samples, "1") == METRICS
    pipes = values(of_gpu(samples, "1"), "nvidia_gpu_pipe_active_seconds_total", "pipe")
    assert pipes.keys() == {"fp64", "fp32", "fp16", "int"}


def test_the_last_window_is_told_as_ratios(
    machine: Machine, collector: ProfileCollector, clock: Clock
) -> None:
    machine.update({"gpm.2": 91, "gpm.5": 47.5, "gpm.10": 60, "gpm.1": 99, "gpm.20": 10, "gpm.21": 100})
    collector.collect()
    clock.now += 5
    samples = of_gpu(collector.collect(), "0")

    assert {s.metric: s.value for s in samples if s.metric.scope == "window"} == {
        last_window.SM_ACTIVE: pytest.approx(0.91),
        last_window.TENSOR_ACTIVE: pytest.approx(0.475),
        last_window.DRAM_ACTIVE: pytest.approx(0.6),
        last_window.GRAPHICS_ACTIVE: pytest.approx(0.99),
        last_window.PCIE_TRANSMIT: 10 * 1024**2,
        last_window.PCIE_RECEIVE: 100 * 1024**2,
    }


def test_no_metric_is_there_before_there_was_a_window(machine: Machine, collector: ProfileCollector) -> None:
    assert collector.collect() == []


def test_two_rounds_too_close_for_nvml_are_one_window(
    machine: Machine, collector: ProfileCollector, clock: Clock
) -> None:
    machine.set("gpm.2", 100)
    for now in (1000.0, 1005.0, 1005.05, 1010.0):
        clock.now = now
        samples = collector.collect()
        if now == 1005.05:
            assert values(samples, SM)["0"] == pytest.approx(5), "the series stays"

    assert values(samples, SM)["0"] == pytest.approx(10)


@pytest.mark.parametrize("function", ["nvmlGpmSampleGet", "nvmlGpmMetricsGet", "nvmlGpmQueryDeviceSupport"])
def test_a_permission_that_comes_and_goes_takes_the_series_with_it_and_says_why(
    machine: Machine, collector: ProfileCollector, clock: Clock, function: str
) -> None:
    denied = f"error.{function}"
    machine.set(denied, NOT_PRIVILEGED)
    for _ in range(2):
        samples = collector.collect()
        clock.now += 5
    if function != "nvmlGpmMetricsGet":
        assert names_of_gpu(samples, "0") == {"nvidia_gpu_metric_unsupported"}
    assert unsupported(samples) == dict.fromkeys(METRICS, "no_permission")

    machine.unset(denied)
    machine.set("gpm.2", 100)
    for _ in range(2):
        samples = collector.collect()
        clock.now += 5
    assert values(samples, SM)["0"] == pytest.approx(5)
    assert not unsupported(samples)

    if function != "nvmlGpmQueryDeviceSupport":  # which is asked once
        machine.set(denied, NOT_PRIVILEGED)
        samples = collector.collect()
        assert unsupported(samples) == dict.fromkeys(METRICS, "no_permission")
        assert SM not in names_of_gpu(samples, "0")
        clock.now += 60
        machine.unset(denied)
        collector.collect()
        clock.now += 5
        samples = collector.collect()
        assert values(samples, SM)["0"] == pytest.approx(10), "what went on unseen is not made up"


def test_one_metric_that_is_denied_leaves_the_others(
    machine: Machine, collector: ProfileCollector, clock: Clock
) -> None:
    machine.set("gpu0.gpm.5.error", NOT_PRIVILEGED)
    collector.collect()
    clock.now += 5
    samples = collector.collect()

    assert unsupported(samples) == {TENSOR: "no_permission"}
    assert names_of_gpu(samples, "0") == METRICS - {TENSOR} | {"nvidia_gpu_metric_unsupported"}
    assert shown(samples, last_window.TENSOR_ACTIVE).keys() == {"1"}


def test_a_value_that_is_no_number_is_not_added(
    machine: Machine, collector: ProfileCollector, clock: Clock
) -> None:
    machine.set("gpu0.gpm.2", "nan")
    machine.set("gpu1.gpm.2", 250)
    collector.collect()
    clock.now += 10
    samples = collector.collect()

    assert values(samples, SM) == {"1": pytest.approx(10)}, "and none is more than always"
    assert unsupported(samples) == {SM: "failed"}


def test_a_gpu_before_hopper_says_that_it_has_none(machine: Machine, collector: ProfileCollector) -> None:
    machine.set("gpm_supported", 0)

    samples = collector.collect()

    assert unsupported(samples) == dict.fromkeys(METRICS, "not_supported")


def test_a_driver_older_than_gpm_says_so(tmp_path: Path) -> None:
    functions = ["QueryDeviceSupport", "SampleAlloc", "SampleFree", "SampleGet", "MigSampleGet", "MetricsGet"]
    old = fake_nvml.build(tmp_path, without=[f"nvmlGpm{name}" for name in functions])
    with in_process.machine(old, tmp_path / "control"):
        samples = ProfileCollector(Nvml()).collect()

    assert unsupported(samples) == dict.fromkeys(METRICS, "function_not_found")


def test_counters_go_on_over_a_driver_that_was_away(
    machine: Machine, collector: ProfileCollector, clock: Clock
) -> None:
    machine.set("gpm.2", 100)
    collector.collect()
    clock.now += 5
    before = values(collector.collect(), SM)
    machine.set("driver", "unloaded")
    clock.now += 5
    with pytest.raises(NvmlUnavailableError):
        collector.collect()
    machine.set("driver", "loaded")

    clock.now += 5
    assert values(collector.collect(), SM) == before, "its samples died with the session: the window is new"
    clock.now += 5
    assert values(collector.collect(), SM)["0"] == pytest.approx(10)


def test_a_lost_gpu_has_no_series_and_leaves_the_others(
    machine: Machine, collector: ProfileCollector, clock: Clock
) -> None:
    collector.collect()
    clock.now += 5
    machine.set("gpu0.error", 15)
    samples = collector.collect()

    assert of_gpu(samples, "0") == []
    assert names_of_gpu(samples, "1") == METRICS


def test_each_mig_instance_has_its_own_counters(
    machine: Machine, collector: ProfileCollector, clock: Clock
) -> None:
    machine.update(
        {
            "gpu0.mig_mode": 1,
            "gpu0.mig.0": "1 0 3g.40gb 40448 0",
            "gpu0.mig.1": "2 0 3g.40gb 40448 0",
            "gpu0.mig.1.gpm.2": 10,
            "gpu0.mig.2.gpm.2": 90,
        }
    )
    collector.collect()
    clock.now += 10
    samples = collector.collect()

    sm = "nvidia_gpu_mig_sm_active_seconds_total"
    assert values(of_gpu(samples, "0"), sm, "mig_instance") == {
        "1": pytest.approx(1),
        "2": pytest.approx(9),
    }
    assert names_of_gpu(samples, "0") >= MIG_METRICS
    assert not MIG_METRICS & names_of_gpu(samples, "1")


def test_samples_are_given_back_when_an_instance_is_taken_away(
    calls: Calls, machine: Machine, collector: ProfileCollector, clock: Clock
) -> None:
    machine.update({"mig_mode": 1, "mig.0": "1 0 1g.10gb 9856 0", "mig.1": "2 0 1g.10gb 9856 0"})
    for _ in range(3):
        clock.now += 5
        collector.collect()
    assert calls.live_samples() == 2 * 2 * 3, "two for each GPU and instance"
    machine.unset("mig.1")
    for _ in range(3):
        clock.now += 5
        collector.collect()
    assert calls.live_samples() == 2 * 2 * 2


def test_two_compute_instances_of_one_gpu_instance_are_one_unit(
    machine: Machine, collector: ProfileCollector, clock: Clock
) -> None:
    machine.update(
        {"gpu0.mig_mode": 1, "gpu0.mig.0": "4 0 1c.3g.40gb 40448 0", "gpu0.mig.1": "4 1 2c.3g.40gb 40448 0"}
    )
    machine.set("gpu0.mig.4.gpm.2", 50)
    collector.collect()
    clock.now += 10
    samples = collector.collect()

    sm = "nvidia_gpu_mig_sm_active_seconds_total"
    assert values(of_gpu(samples, "0"), sm, "mig_instance") == {"4": pytest.approx(5)}


def test_what_no_instance_of_a_gpu_gives_is_said_once(machine: Machine, collector: ProfileCollector) -> None:
    machine.update(
        {"gpu0.mig_mode": 1, "gpu0.mig.0": "1 0 3g.40gb 40448 0", "gpu0.mig.1": "2 0 3g.40gb 40448 0"}
    )
    machine.set("error.nvmlGpmMigSampleGet", NOT_PRIVILEGED)

    samples = of_gpu(collector.collect(), "0")

    assert unsupported(samples) == dict.fromkeys(MIG_METRICS, "no_permission")
    assert len(samples) == len(MIG_METRICS)


def test_memory_for_one_sample_only_is_a_round_lost_and_no_more(
    machine: Machine, collector: ProfileCollector, clock: Clock
) -> None:
    machine.set("error.nvmlGpmSampleAlloc", 20)
    assert unsupported(collector.collect()) == dict.fromkeys(METRICS, "failed")
    machine.unset("error.nvmlGpmSampleAlloc")
    for _ in range(2):
        clock.now += 5
        samples = collector.collect()

    assert names_of_gpu(samples, "0") == METRICS
