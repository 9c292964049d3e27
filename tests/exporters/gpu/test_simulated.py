"""GPUs that do not exist: plausible, and joined to the runs like real ones."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from exporters.catalog import CATALOG
from exporters.collector import Sample
from exporters.gpu import last_window, simulated
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
from tests.exporters.gpu.double import Clock, names_of_gpu, of_gpu, shown, unsupported, values

AFTER_THE_DIP = 1_699_999_950.0  # of an evaluation and a checkpoint
ONLY_IN_TROUBLE = {
    "nvidia_gpu_metric_unsupported",
    "nvidia_gpu_xid_errors_total",
    "nvidia_gpu_xid_last_timestamp_seconds",
}
OF_EVERY_GPU = {metric.name for metric in CATALOG.values() if metric.scope == "gpu"} - ONLY_IN_TROUBLE


# What it counts, or says of itself, changes with the fault, and nothing of what it does.
HARMLESS_TO_WORK = {
    Scenario.ecc: ("nvidia_gpu_ecc_errors_total", "severity", {"corrected": 0, "uncorrected": 1}),
    Scenario.row_remap_pending: ("nvidia_gpu_row_remap_pending", "", {"": 1}),
    Scenario.row_remap_failed: ("nvidia_gpu_row_remap_failed", "", {"": 1}),
    Scenario.recovery_action: ("nvidia_gpu_recovery_action", "", {"": 1}),
    Scenario.pcie_degraded: ("nvidia_gpu_pcie_link_width", "", {"": 8}),
    Scenario.pcie_replays: ("nvidia_gpu_pcie_replays_total", "", {"": 230}),
    Scenario.nvlink_down: ("nvidia_gpu_nvlink_links", "state", {"up": 16, "down": 2}),
}


class Node:
    """Simulated GPUs, looked at every 2 seconds."""

    def __init__(self, count: int, scenario: Scenario = Scenario.healthy, *more: Simulation) -> None:
        self.clock = Clock(AFTER_THE_DIP)
        self.ranks: list[RankProcess] = []
        self.gpus = SimulatedGpus(Simulation(count, scenario, more), lambda: self.ranks, clock=self.clock)

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


@pytest.mark.parametrize("scenario", [Scenario.idle, Scenario.hung, *HARMLESS_TO_WORK])
def test_a_fault_of_a_gpu_that_answers_takes_none_of_its_series(scenario: Scenario) -> None:
    samples = Node(2, scenario).after(FAULT_AFTER_SECONDS + 2)

    assert names_of_gpu(samples, "0") == names_of_gpu(samples, "1") == OF_EVERY_GPU


def test_every_simulated_gpu_is_named_as_one() -> None:
    infos = [s.labels for s in Node(3).after(0) if s.metric.name == "nvidia_gpu_info"]

    assert [labels["uuid"] for labels in infos] == ["SIMULATED-0", "SIMULATED-1", "SIMULATED-2"]
    assert {labels["name"] for labels in infos} == {"Simulated H100 (no hardware)"}


def test_the_readme_tells_every_scenario_and_its_alert() -> None:
    readme = (Path(simulated.__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| .+ \| ([A-Z][A-Za-z]+) \|$", readme, re.MULTILINE)

    assert sorted(name for name, _ in rows) == sorted(set(Scenario) - {"healthy"})
    assert len({alert for _, alert in rows}) == len(rows)


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


def test_a_gpu_can_be_lost_without_an_xid() -> None:
    node = Node(2, Scenario.lost)
    node.after(FAULT_AFTER_SECONDS - 2)

    samples = node.after(2)

    assert values(samples, "nvidia_gpu_devices") == {"": 2}
    assert values(samples, "nvidia_gpu_up") == {"0": 1, "1": 0}
    assert names_of_gpu(samples, "1") == {"nvidia_gpu_info", "nvidia_gpu_up"}
    assert names_of_gpu(samples, "0") == OF_EVERY_GPU


def test_a_gpu_that_is_gone_is_not_reported_by_the_driver() -> None:
    node = Node(2, Scenario.gone)
    node.ranks = [RankProcess("a-run", rank, rank, 0, 0) for rank in range(2)]
    node.after(FAULT_AFTER_SECONDS - 2)

    samples = node.after(2)

    assert values(samples, "nvidia_gpu_devices") == {"": 1}
    assert values(samples, "nvidia_gpu_up") == {"0": 1}
    assert of_gpu(samples, "1") == []


def test_a_program_that_crashes_again_and_again_causes_xid_31_each_time() -> None:
    node = Node(1, Scenario.xid31)
    node.after(FAULT_AFTER_SECONDS)
    first = node.clock.now

    (errors,) = (s for s in node.after(28) if s.metric.name == "nvidia_gpu_xid_errors_total")
    (last,) = (s for s in node.after(0) if s.metric.name == "nvidia_gpu_xid_last_timestamp_seconds")
    assert (errors.labels["xid"], errors.labels["class"], errors.value) == ("31", "application", 1)
    assert last.value == first

    samples = node.after(4)
    assert values(samples, "nvidia_gpu_xid_errors_total", "xid") == {"31": 2}
    assert values(samples, "nvidia_gpu_xid_last_timestamp_seconds", "xid") == {"31": first + 30}
    assert values(samples, "nvidia_gpu_up") == {"0": 1}


def test_an_idle_gpu_does_nothing_and_keeps_its_memory() -> None:
    node = Node(1, Scenario.idle)
    before = node.after(FAULT_AFTER_SECONDS - 2)
    samples = node.after(10)

    assert values(before, "nvidia_gpu_utilization_percent")["0"] > 90
    assert values(samples, "nvidia_gpu_utilization_percent") == {"0": 0}
    assert values(samples, "nvidia_gpu_power_watts")["0"] < 0.2 * POWER_LIMIT_WATTS
    assert values(samples, "nvidia_gpu_memory_used_bytes")["0"] > 40e9


def test_gpus_that_hang_in_a_collective_spin_and_draw_little() -> None:
    node = Node(2, Scenario.hung)
    before = node.after(FAULT_AFTER_SECONDS - 2)
    power = values(before, "nvidia_gpu_power_watts")

    looks = [node.after(2) for _ in range(130)]

    assert all(watts > 0.8 * POWER_LIMIT_WATTS for watts in power.values())
    for samples in looks:
        assert values(samples, "nvidia_gpu_utilization_percent") == {"0": 100, "1": 100}
        for watts in values(samples, "nvidia_gpu_power_watts").values():
            assert watts == pytest.approx(POWER_LIMIT_WATTS / 4, rel=0.1)
        assert shown(samples, last_window.TENSOR_ACTIVE) == {"0": 0, "1": 0}


@pytest.mark.parametrize("scenario", HARMLESS_TO_WORK)
def test_a_fault_of_its_parts_is_told_by_the_last_gpu_and_it_works_on(scenario: Scenario) -> None:
    name, label, expected = HARMLESS_TO_WORK[scenario]
    node, healthy = Node(2, scenario), Node(2)

    def told(samples: list[Sample], gpu: str) -> dict[str, float]:
        return values(of_gpu(samples, gpu), name, label)

    before, sound = node.after(FAULT_AFTER_SECONDS - 2), healthy.after(FAULT_AFTER_SECONDS - 2)
    assert before == sound
    samples, sound = node.after(24), healthy.after(24)

    assert told(samples, "1") == expected
    assert told(samples, "0") == told(sound, "0") == told(sound, "1")
    for work in ("nvidia_gpu_utilization_percent", "nvidia_gpu_power_watts", "nvidia_gpu_clock_hertz"):
        for gpu in "01":
            assert values(of_gpu(samples, gpu), work, "domain") == values(of_gpu(sound, gpu), work, "domain")


def test_a_driver_that_withholds_a_metric_says_which_one() -> None:
    node = Node(2, Scenario.withheld)
    assert unsupported(node.after(FAULT_AFTER_SECONDS - 2), "1") == {}

    samples = node.after(2)

    assert unsupported(samples, "1") == {"nvidia_gpu_recovery_action": "function_not_found"}
    assert names_of_gpu(samples, "1") == OF_EVERY_GPU - {"nvidia_gpu_recovery_action"} | {
        "nvidia_gpu_metric_unsupported"
    }
    assert unsupported(samples, "0") == {}


def test_gpus_of_one_node_have_faults_of_their_own() -> None:
    node = Node(1, Scenario.healthy, Simulation(2, Scenario.xid79), Simulation(1, Scenario.nvlink_down))
    samples = node.after(FAULT_AFTER_SECONDS + 2)

    assert values(samples, "nvidia_gpu_up") == {"0": 1, "1": 1, "2": 0, "3": 1}
    up = {gpu: values(of_gpu(samples, gpu), "nvidia_gpu_nvlink_links", "state")["up"] for gpu in "013"}
    assert up == {"0": 18, "1": 18, "3": 16}


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
        ("overheat", Simulation(1, Scenario.overheat)),
        ("6,overheat", Simulation(6, Scenario.healthy, (Simulation(1, Scenario.overheat),))),
        (
            "healthy,2:overheat,xid79",
            Simulation(1, more=(Simulation(2, Scenario.overheat), Simulation(1, Scenario.xid79))),
        ),
        ("0,lost,0", Simulation(1, Scenario.lost)),
    ],
)
def test_numbers_and_scenarios_are_read_from_the_command_line(text: str, simulation: Simulation) -> None:
    assert parse_simulation(text) == simulation
    if simulation.count:
        assert parse_simulation(str(simulation)) == simulation


@pytest.mark.parametrize(
    ("text", "scenarios"),
    [
        ("0", []),
        ("3:xid79", ["healthy", "healthy", "xid79"]),
        ("2:overheat", ["overheat", "overheat"]),
        ("2,2:lost,2:hung,gone", ["healthy", "healthy", "healthy", "lost", "hung", "hung", "gone"]),
    ],
)
def test_of_gpus_of_one_kind_the_last_is_at_fault_or_all_of_them(text: str, scenarios: list[str]) -> None:
    assert list(parse_simulation(text).scenarios) == scenarios


@pytest.mark.parametrize(
    "text",
    [
        *("", "-1", "65", "eight", "8:fire", ":healthy", "8:healthy:more", "0:xid79"),
        *("2,", ",", "2,fire", "2,1:fire", "2,0:xid79", "2;overheat", "2, overheat"),
    ],
)
def test_what_is_no_simulation_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"give a number from 0 to 64|there are healthy, mem|before it, 1:xid79"
    ):
        parse_simulation(text)


def test_more_gpus_than_a_node_has_are_refused_by_their_sum() -> None:
    assert len(parse_simulation("32,32").scenarios) == 64
    with pytest.raises(ValueError, match=r"^66 simulated GPUs cannot be shown; give at most 64 in all$"):
        parse_simulation("64,overheat,lost")


def test_a_machine_that_slept_does_not_compute_for_long() -> None:
    node = Node(64)
    node.after(0)
    node.clock.now += 30 * 24 * 3600
    samples = node.after(0)

    assert len(list(itertools.groupby(samples, lambda sample: sample.labels.get("gpu")))) > 64
