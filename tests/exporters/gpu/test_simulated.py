"""GPUs that do not exist: plausible, and joined to the runs like real ones."""

from __future__ import annotations

import itertools

import pytest

from exporters.catalog import CATALOG
from exporters.collector import Sample
from exporters.gpu import last_window
from exporters.gpu.node import gpu_statuses
from exporters.gpu.simulated import (
    FAULT_AFTER_SECONDS,
    POWER_LIMIT_WATTS,
    Scenario,
    SimulatedGpus,
    Simulation,
    parse_simulation,
)
from exporters.runs import RankProcess
from tests.exporters.gpu.double import Clock, names_of_gpu, of_gpu, shown, values

AFTER_THE_DIP = 1_699_999_950.0  # of an evaluation and a checkpoint
ONLY_IN_TROUBLE = {
    "nvidia_gpu_metric_unsupported",
    "nvidia_gpu_xid_errors_total",
    "nvidia_gpu_xid_last_timestamp_seconds",
}
OF_EVERY_GPU = {metric.name for metric in CATALOG.values() if metric.scope == "gpu"} - ONLY_IN_TROUBLE


class Node:
    """Simulated GPUs, looked at every 2 seconds."""

    def __init__(self, count: int, scenario: Scenario = Scenario.healthy) -> None:
        self.clock = Clock(AFTER_THE_DIP)
        self.ranks: list[RankProcess] = []
        self.gpus = SimulatedGpus(Simulation(count, scenario), lambda: self.ranks, clock=self.clock)

    def after(self, seconds: float) -> list[Sample]:
        """The samples after so many seconds more."""
        samples = self.gpus.collect()
        for _ in range(int(seconds / 2)):
            self.clock.now += 2
            samples = self.gpus.collect()
        return samples


@pytest.mark.parametrize("scenario", Scenario)
def test_simulated_gpus_give_the_series_of_real_ones(scenario: Scenario) -> None:
    for samples in (Node(2, scenario).after(0), Node(2, scenario).after(FAULT_AFTER_SECONDS - 2)):
        assert names_of_gpu(samples, "0") == names_of_gpu(samples, "1") == OF_EVERY_GPU
        assert values(samples, "nvidia_gpu_devices") == {"": 2}


def test_every_simulated_gpu_is_named_as_one() -> None:
    infos = [s.labels for s in Node(3).after(0) if s.metric.name == "nvidia_gpu_info"]

    assert [labels["uuid"] for labels in infos] == ["SIMULATED-0", "SIMULATED-1", "SIMULATED-2"]
    assert {labels["name"] for labels in infos} == {"Simulated H100 (no hardware)"}


def test_the_same_times_give_the_same_figures() -> None:
    assert Node(2).after(30) == Node(2).after(30)


def test_figures_stay_within_what_an_h100_can_show_and_below_the_memory_alert() -> None:
    node = Node(8)
    for _ in range(130):
        samples = node.after(2)
        used = values(samples, "nvidia_gpu_memory_used_bytes")
        for gpu, total in values(samples, "nvidia_gpu_memory_total_bytes").items():
            assert 0.5 < used[gpu] / total < 0.9
        for name, least, most in (
            ("nvidia_gpu_utilization_percent", 0, 100),
            ("nvidia_gpu_memory_controller_active_percent", 0, 100),
            ("nvidia_gpu_power_watts", 60, POWER_LIMIT_WATTS),
        ):
            assert all(least <= value <= most for value in values(samples, name).values()), name
        assert all(
            25 <= value <= 80
            for value in values(of_gpu(samples, "0"), "nvidia_gpu_temperature_celsius", "sensor").values()
        )


def test_no_counter_falls_in_any_scenario() -> None:
    for scenario in Scenario:
        node = Node(2, scenario)
        before: dict[object, float] = {}
        for _ in range(60):
            for sample in node.after(2):
                if sample.metric.kind == "counter":
                    assert isinstance(sample.value, float)
                    key = sample.metric.name, tuple(sorted(sample.labels.items()))
                    assert sample.value >= before.get(key, 0.0), (scenario, key)
                    before[key] = sample.value


def test_a_busy_gpu_is_warm_from_the_first_look_on() -> None:
    first, later = Node(1).after(0), Node(1).after(120)

    sensors = [
        values(of_gpu(each, "0"), "nvidia_gpu_temperature_celsius", "sensor") for each in (first, later)
    ]
    assert sensors[0]["gpu"] == pytest.approx(sensors[1]["gpu"], abs=6)


def test_power_clocks_activity_and_temperature_move_together() -> None:
    """Energy is power over time, activity its counter's rate, and a pause cools."""
    node = Node(1)
    busy = node.after(120)
    power = values(busy, "nvidia_gpu_power_watts")["0"]
    window = shown(busy, last_window.TENSOR_ACTIVE)["0"]
    later = node.after(20)
    joules = (
        values(later, "nvidia_gpu_energy_joules_total")["0"]
        - values(busy, "nvidia_gpu_energy_joules_total")["0"]
    )
    tensor = "nvidia_gpu_tensor_active_seconds_total"
    seconds = values(later, tensor)["0"] - values(busy, tensor)["0"]

    assert joules / 20 == pytest.approx(power, rel=0.1)
    assert seconds / 20 == pytest.approx(window, rel=0.1)
    node.clock.now = AFTER_THE_DIP + 208  # the next checkpoint
    idle = node.after(4)
    assert values(idle, "nvidia_gpu_power_watts")["0"] < power / 3
    sensors = [
        values(of_gpu(each, "0"), "nvidia_gpu_temperature_celsius", "sensor") for each in (later, idle)
    ]
    assert sensors[1]["gpu"] < sensors[0]["gpu"]


def test_memory_that_fills_passes_ninety_percent_and_stays_there() -> None:
    node = Node(1, Scenario.memory_fill)
    ratios = []
    for _ in range(100):
        samples = node.after(2)
        used = values(samples, "nvidia_gpu_memory_used_bytes")["0"]
        ratios.append(used / values(samples, "nvidia_gpu_memory_total_bytes")["0"])

    assert ratios[5] < 0.85
    assert min(ratios[60:]) > 0.9
    assert max(ratios) < 1


def test_a_gpu_that_overheats_throttles_and_loses_pace() -> None:
    node = Node(1, Scenario.overheat)
    before = node.after(18)
    looks = [node.after(2) for _ in range(60)]
    after = looks[-1]

    def of_first(samples: list[Sample], name: str, label: str) -> dict[str, float]:
        return values(of_gpu(samples, "0"), name, label)

    hottest = max(of_first(look, "nvidia_gpu_temperature_celsius", "sensor")["gpu"] for look in looks)
    assert 87 <= hottest < 92
    assert of_first(after, "nvidia_gpu_throttle_seconds_total", "reason")["hw_thermal"] > 10
    assert of_first(before, "nvidia_gpu_throttle_seconds_total", "reason")["hw_thermal"] == 0
    lowest = min(of_first(look, "nvidia_gpu_clock_hertz", "domain")["sm"] for look in looks)
    assert lowest < of_first(before, "nvidia_gpu_clock_hertz", "domain")["sm"]


def test_xid_79_takes_the_last_gpu_off_the_bus_and_leaves_the_others() -> None:
    node = Node(2, Scenario.xid79)
    assert values(node.after(FAULT_AFTER_SECONDS - 2), "nvidia_gpu_up") == {"0": 1, "1": 1}
    lost_at = node.clock.now + 2

    samples = node.after(10)

    assert values(samples, "nvidia_gpu_up") == {"0": 1, "1": 0}
    assert names_of_gpu(samples, "1") == {
        *("nvidia_gpu_info", "nvidia_gpu_up"),
        *("nvidia_gpu_xid_errors_total", "nvidia_gpu_xid_last_timestamp_seconds"),
    }
    assert names_of_gpu(samples, "0") == OF_EVERY_GPU
    (xid,) = (s for s in samples if s.metric.name == "nvidia_gpu_xid_last_timestamp_seconds")
    assert (xid.labels["xid"], xid.labels["class"], xid.value) == ("79", "hardware", lost_at)


def test_the_others_wait_for_a_straggler() -> None:
    """They are in use all the time, and their tensor cores idle."""
    healthy, slow = Node(4), Node(4, Scenario.straggler)
    whole = healthy.after(60)
    samples = slow.after(60)

    clocks = {gpu: values(of_gpu(samples, gpu), "nvidia_gpu_clock_hertz", "domain")["sm"] for gpu in "0123"}
    assert clocks["3"] < 0.7 * min(clocks[gpu] for gpu in "012")
    assert values(samples, "nvidia_gpu_utilization_percent") == values(
        whole, "nvidia_gpu_utilization_percent"
    )
    waiting, busy = (shown(each, last_window.TENSOR_ACTIVE) for each in (samples, whole))
    assert all(waiting[gpu] < 0.7 * busy[gpu] for gpu in "012")
    assert [status.throttled for status in gpu_statuses(samples)][3] == ("hw_power_brake",)


def test_ranks_are_joined_by_their_place_on_the_node_and_share_its_memory() -> None:
    node = Node(2)
    node.ranks = [RankProcess("a-run", rank, rank, 0, 0) for rank in range(2)]
    node.ranks.append(RankProcess("other", 0, 0, 0, 0))

    samples = node.after(0)

    joined = {
        (s.labels["run"], s.labels["rank"], s.labels["uuid"])
        for s in samples
        if s.metric.name == "training_run_gpu_info"
    }
    assert joined == {
        ("a-run", "0", "SIMULATED-0"),
        ("a-run", "1", "SIMULATED-1"),
        ("other", "0", "SIMULATED-0"),
    }
    first = of_gpu(samples, "0")
    shares = values(first, "nvidia_gpu_process_memory_bytes", "run")
    assert shares.keys() == {"a-run", "other"}
    assert sum(shares.values()) == pytest.approx(values(first, "nvidia_gpu_memory_used_bytes")["0"], rel=1e-6)


def test_a_status_has_what_a_person_asks_for() -> None:
    node = Node(2, Scenario.xid79)
    node.ranks = [RankProcess("a-run", 1, 0, 0, 0)]
    samples = node.after(FAULT_AFTER_SECONDS + 10)

    first, last = gpu_statuses(samples)

    assert (first.gpu, first.up, first.name, first.xids) == (0, True, "Simulated H100 (no hardware)", ())
    assert [(rank.run, rank.rank) for rank in first.ranks] == [("a-run", 1)]
    assert first.tensor_active_ratio == shown(samples, last_window.TENSOR_ACTIVE)["0"]
    assert first.power_watts == values(samples, "nvidia_gpu_power_watts")["0"]
    assert (last.gpu, last.up, last.xids, last.power_watts, last.sm_active_ratio) == (
        *(1, False, ("79",), None, None),
    )


@pytest.mark.parametrize(
    ("text", "simulation"),
    [
        ("0", Simulation(0)),
        ("8", Simulation(8)),
        ("8:", Simulation(8)),
        ("8:healthy", Simulation(8)),
        *((f"64:{scenario}", Simulation(64, scenario)) for scenario in Scenario),
    ],
)
def test_a_number_and_a_scenario_are_read_from_the_command_line(text: str, simulation: Simulation) -> None:
    assert parse_simulation(text) == simulation
    if simulation.count:
        assert parse_simulation(str(simulation)) == simulation


@pytest.mark.parametrize("text", ["", "-1", "65", "eight", "8:fire", ":healthy", "8:healthy:more", "0:xid79"])
def test_what_is_no_simulation_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"give a number from 0 to 64|there are healthy, mem|before it, 1:xid79"
    ):
        parse_simulation(text)


def test_a_machine_that_slept_does_not_compute_for_long() -> None:
    node = Node(64)
    node.after(0)
    node.clock.now += 30 * 24 * 3600
    samples = node.after(0)

    assert len(list(itertools.groupby(samples, lambda sample: sample.labels.get("gpu")))) > 64
