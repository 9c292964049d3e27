"""A healthy day tells nobody of anything, and a day of twelve incidents of twelve, each in time and once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from alerts import gpu_health, lifecycle, loss, memory, telemetry, throughput
from alerts.alertmanager import INHIBITIONS
from alerts.build import groups
from alerts.thresholds import Thresholds
from exporters import catalog
from tests.alerts.account import RULES, Account, account, clock, entries
from tests.alerts.answers import Sample, ask
from tests.alerts.day import Fleet, seconds
from tests.alerts.expressions import selectors
from tests.alerts.tape import notation

THRESHOLDS = Thresholds()


class Incident(NamedTuple):
    """What is to be told of what begins at a time, and how long its condition takes, in seconds, to hold.

    The same message may tell it of something else, `also`.
    """

    at: str
    alert: str
    about: str
    takes: float = 0
    also: tuple[str, ...] = ()

    @property
    def promised(self) -> float:
        """When it is to be told, but for the scrape and the evaluation that see it."""
        return seconds(self.at) + self.takes + RULES[self.alert].for_seconds


def healthy_day() -> Fleet:
    """A long run over two nodes that moves to a third, short ones beside it, and what happens on any day."""
    fleet = Fleet(hours=24)
    n1, n2, n3, n4 = (
        fleet.node(name, gpus=gpus) for name, gpus in (("n1", 2), ("n2", 2), ("n3", 4), ("n4", 2))
    )
    long = fleet.run("long", hours_expected=30, deadline=40 * 3600.0)
    fleet.at("0:10", long.begins, *n1.gpus, *n2.gpus)
    tuned = fleet.run("tuned", hours_expected=7, step_seconds=0.4, evaluations=(3 * 3600, 25 * 60))
    fleet.at("1:00", tuned.begins, *n3.gpus)
    fleet.at("7:40", tuned.ends, "finished")
    for number in range(4):
        short = fleet.run(f"short-{number}", hours_expected=1.5, init_seconds=2 * 60, loss_falls_for_hours=1)
        fleet.at(f"{2 * number}:30", short.begins, *n4.gpus)
        fleet.at(f"{2 * number + 2}:05", short.ends, "finished")

    # A node is drained for a boot: its run is ended by a person, and goes on elsewhere.
    fleet.at("9:00", long.ends, "aborted")
    fleet.at("9:05", n1.goes_down)
    fleet.at("9:09", n1.boots)
    fleet.at("9:20", long.begins, *n3.gpus)

    # A launcher starts a killed run again at once.
    again = fleet.run("again", hours_expected=14)
    fleet.at("9:30", again.begins, *n1.gpus)
    fleet.at("14:00", again.ends, "killed")
    fleet.at("14:00", again.begins, *n1.gpus)

    plateau = fleet.run("plateau", loss_falls_for_hours=0.5)
    fleet.at("10:00", plateau.begins, n4.gpus[0])
    fleet.at("23:30", plateau.ends, "finished")

    for minute, node in ((0, n1), (10, n2), (20, n3), (30, n4)):  # the service's upgrade
        fleet.at(f"12:{minute:02}", node.service_stops)
        fleet.at(f"12:{minute + 1:02}", node.service_starts)
    fleet.at("16:00", fleet.prometheus_stops)
    fleet.at("16:04", fleet.prometheus_starts)

    # What passes.
    fleet.between("3:30", "3:36", n1.gpus[0], memory_of_others_ratio=0.25)
    fleet.between("4:20", "4:23", n3.gpus[2], throttled_by_heat=True)
    fleet.between("5:00", "5:03", n2, memory_available_ratio=0.03)
    fleet.between("6:00", "6:02", n2.gpus[1], links_down=1)
    fleet.between("6:40", "6:44", long, loss_factor=1.8)
    fleet.between("11:00", "11:05", long, pace=0.5)
    fleet.between("13:10", "13:15", long, data_share=0.5)
    fleet.between("15:00", "15:01", fleet, scrapes_fail={"n3"})
    fleet.at("17:00", n2.gpus[0].resends, 20)
    fleet.at("17:30", n2.gpus[1].meets_xid, "43", "noise")
    fleet.between("18:00", "18:30", fleet, notifications_failed=1)
    return fleet


def healthy_hours(scrape_seconds: int = 60) -> Fleet:
    """As much of it as two nodes can see in an hour and a quarter."""
    fleet = Fleet(1.25, scrape_seconds)
    n1, n2 = fleet.node("n1", gpus=2), fleet.node("n2", gpus=2)
    often: dict[str, Any] = {"evaluations": (20 * 60, 5 * 60), "checkpoints": (8 * 60, 60)}
    run = fleet.run("run", hours_expected=4, deadline=6 * 3600.0, **often)
    fleet.at("0:02", run.begins, *n1.gpus, *n2.gpus)
    fleet.at("0:35", run.ends, "aborted")
    fleet.at("0:37", n1.goes_down)
    fleet.at("0:41", n1.boots)
    fleet.at("0:40", run.begins, *n2.gpus)
    fleet.at("0:52", n2.service_stops)
    fleet.at("0:53", n2.service_starts)
    fleet.at("1:00", fleet.prometheus_stops)
    fleet.at("1:03", fleet.prometheus_starts)
    fleet.at("1:10", run.ends, "finished")
    return fleet


def day_of_incidents() -> tuple[Fleet, list[Incident]]:
    """Each of another kind, and each mended in a while."""
    fleet = Fleet(hours=24)
    n1, n2, n3, n4, n5 = (
        fleet.node(name, gpus=gpus) for name, gpus in (("n1", 2), ("n2", 2), ("n3", 4), ("n4", 2), ("n5", 1))
    )
    # Its steps are long, so that one of them is overdue no sooner than a collective is known to hang.
    long = fleet.run("long", hours_expected=48, step_seconds=12.0)
    fleet.at("0:10", long.begins, *n1.gpus, *n2.gpus)

    killed = fleet.run("killed")
    fleet.at("0:10", killed.begins, *n3.gpus)
    fleet.at("1:00", killed.ends, "killed")
    failed = fleet.run("failed")
    fleet.at("1:30", failed.begins, *n3.gpus)
    fleet.at("2:30", failed.ends, "failed")
    poisoned = fleet.run("poisoned")
    fleet.at("3:00", poisoned.begins, *n3.gpus)
    fleet.at("3:50", setattr, poisoned, "loss_is_nan", True)
    fleet.at("3:58", poisoned.ends, "aborted")
    stalled = fleet.run("stalled", evaluations=(30 * 60, 10 * 60))
    fleet.at("4:30", stalled.begins, *n3.gpus)
    fleet.at("5:05", stalled.hangs_in, "evaluation")
    fleet.at("6:00", stalled.ends, "aborted")

    fleet.at("7:00", long.hangs_in, "backward")
    fleet.at("7:15", long.ends, "aborted")
    fleet.at("7:20", long.begins, *n1.gpus, *n2.gpus)
    fleet.at("8:30", n4.gpus[1].falls_off_the_bus)
    fleet.at("9:10", n4.goes_down)
    fleet.at("9:14", n4.boots)
    fleet.between("10:00", "10:40", n4.gpus[0], memory_of_others_ratio=0.95)
    fleet.at("11:00", n5.service_stops)
    fleet.at("11:20", n5.service_starts)
    fleet.at("12:30", setattr, n2.gpus[0], "uncorrected", 1)

    full = fleet.run("full", hours_expected=2)
    fleet.at("13:00", full.begins, *n3.gpus)
    fleet.at("13:30", full.runs_out_of_memory)
    fleet.at("15:20", full.ends, "finished")
    starved = fleet.run("starved", hours_expected=2, data_share=0.4)
    fleet.at("16:00", starved.begins, *n3.gpus)
    fleet.at("17:30", starved.ends, "finished")
    fleet.at("19:00", long.loses_rank, 3)
    fleet.at("19:12", long.ends, "aborted")
    fleet.at("19:30", long.begins, *n1.gpus, *n2.gpus)

    starts = starved.init_seconds + THRESHOLDS.throughput_window_seconds
    return fleet, [
        Incident("1:00", lifecycle.TRAINING_RUN_KILLED, "run=killed"),
        Incident("2:30", lifecycle.TRAINING_RUN_FAILED, "run=failed"),
        Incident(
            "3:50",
            loss.TRAINING_LOSS_NON_FINITE,
            "run=poisoned what=gradient",
            also=("run=poisoned what=loss",),
        ),
        Incident("5:05", lifecycle.TRAINING_STALLED, "run=stalled", takes=THRESHOLDS.stall_seconds),
        Incident("7:00", throughput.TRAINING_COLLECTIVE_HUNG, "run=long", takes=THRESHOLDS.hung_seconds),
        Incident("8:30", gpu_health.GPU_XID_HARDWARE, "instance=n4:8003 gpu=1 xid=79"),
        Incident("10:00", gpu_health.GPU_MEMORY_HIGH, "instance=n4:8003 gpu=0"),
        Incident("11:00", telemetry.TRAINING_SERVICE_DOWN, "instance=n5:8003"),
        Incident("12:30", gpu_health.GPU_ECC_UNCORRECTABLE, "instance=n2:8003 gpu=0"),
        Incident("13:30", memory.TRAINING_OUT_OF_MEMORY, "run=full"),
        Incident("16:00", throughput.TRAINING_DATA_LOADER_BOUND, "run=starved", takes=starts),
        Incident(
            "19:00",
            lifecycle.TRAINING_RANK_MISSING,
            "run=long",
            takes=THRESHOLDS.rank_missing_silence_seconds,
        ),
    ]


def hour_of_incidents(scrape_seconds: int = 60) -> tuple[Fleet, list[Incident]]:
    """Two of them, from each of which another alert follows."""
    fleet = Fleet(0.75, scrape_seconds)
    n1, n2 = fleet.node("n1", gpus=2), fleet.node("n2", gpus=1)
    run = fleet.run("run", step_seconds=12.0, init_seconds=60)
    fleet.at("0:01", run.begins, *n1.gpus)
    fleet.at("0:15", run.hangs_in, "backward")
    fleet.at("0:24", run.ends, "aborted")
    fleet.at("0:27", n2.gpus[0].falls_off_the_bus)
    return fleet, [
        Incident("0:15", throughput.TRAINING_COLLECTIVE_HUNG, "run=run", takes=THRESHOLDS.hung_seconds),
        Incident("0:27", gpu_health.GPU_XID_HARDWARE, "instance=n2:8003 gpu=0 xid=79"),
    ]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_healthy_day_tells_nobody_of_anything(tmp_path: Path) -> None:
    result = account(healthy_day(), tmp_path)
    expect(result, [])
    # Of severity info: alone it needs nobody.
    assert {str(entry).partition(" from")[0] for entry in result.held_back} == {
        f"{loss.TRAINING_LOSS_PLATEAU} (run=plateau)"
    }


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_twelve_incidents_of_a_day_are_told_once_each_and_in_time(tmp_path: Path) -> None:
    fleet, incidents = day_of_incidents()
    assert len(incidents) == 12
    result = account(fleet, tmp_path)
    expect(result, incidents)
    assert {(entry.alert, entry.about) for entry in result.held_back} == {
        (gpu_health.GPU_LOST, "instance=n4:8003 gpu=1"),
        (throughput.TRAINING_STEP_OVERDUE, "run=long"),
        (throughput.TRAINING_COLLECTIVE_HUNG, "run=long"),
    }


in_steps = pytest.mark.parametrize(
    "scrape_seconds",
    [
        pytest.param(60, id="in steps of a minute"),
        pytest.param(15, id="as shipped", marks=pytest.mark.long),
    ],
)


def test_samples_are_written_in_the_notation_of_promtool() -> None:
    samples = [(0, 5.0), (1, 5.0), (2, 5.0), (4, 7.0), (5, 9.0), (6, None), (8, 0.1), (9, 0.2)]
    assert notation(samples) == "5.0x2 _x1 7.0+2.0x1 stale _x1 0.1 0.2"


def test_no_rule_is_quiet_for_lack_of_what_it_reads() -> None:
    fleets = (healthy_hours(), hour_of_incidents()[0])
    published = {each["series"].partition("{")[0] for fleet in fleets for each in fleet.input_series()}
    rules = [rule for group in groups(THRESHOLDS) for rule in group.rules]
    read = {selector.metric for rule in rules for selector in selectors(rule.expr)}
    of_other_gpus = {
        catalog.NVIDIA_GPU_MIG_MEMORY_TOTAL_BYTES.name,
        catalog.NVIDIA_GPU_TENSOR_ACTIVE_SECONDS_TOTAL.name,
    }
    for_no_alert = {
        catalog.TRAINING_MODEL_FLOPS_TOTAL.name,
        catalog.TRAINING_PEAK_FLOPS.name,
        catalog.NVIDIA_GPU_CLOCK_HERTZ.name,
        catalog.NVIDIA_GPU_CLOCK_MAX_HERTZ.name,
        catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS.name,
        catalog.NVIDIA_GPU_TEMPERATURE_LIMIT_CELSIUS.name,
    }
    missing = read - published - {rule.name for rule in rules} - {"ALERTS"}
    assert missing == of_other_gpus | for_no_alert


@in_steps
def test_healthy_hours_tell_nobody_of_anything(scrape_seconds: int, tmp_path: Path) -> None:
    expect(account(healthy_hours(scrape_seconds), tmp_path), [])


@in_steps
def test_incidents_of_an_hour_are_told_once_each_and_what_follows_from_them_is_held_back(
    scrape_seconds: int, tmp_path: Path
) -> None:
    fleet, incidents = hour_of_incidents(scrape_seconds)
    result = account(fleet, tmp_path)
    expect(result, incidents)
    assert {entry.alert for entry in result.held_back} == {
        gpu_health.GPU_LOST,
        throughput.TRAINING_STEP_OVERDUE,
    }


def test_a_missing_inhibition_and_an_incident_too_many_break_the_account(tmp_path: Path) -> None:
    fleet, incidents = hour_of_incidents()
    fleet.at("0:27", fleet.nodes["n2"].gpus[0].meets_xid, "95", "hardware")
    fleet.at("0:33", fleet.nodes["n1"].service_stops)
    without = [each for each in INHIBITIONS if gpu_health.GPU_LOST not in each.targets]
    assert faults(account(fleet, tmp_path, without), incidents) == [
        "GPUXidHardware (instance=n2:8003 gpu=0 xid=95) from 0:28 to 0:45 was not to be told",
        "GPULost (instance=n2:8003 gpu=0) from 0:29 to 0:45 was not to be told",
        "TrainingServiceDown (instance=n1:8003) from 0:39 to 0:45 was not to be told",
    ]


def test_a_rule_that_cannot_be_evaluated_is_an_error_though_others_can(tmp_path: Path) -> None:
    rules = {"record": "day:paired", "expr": "x * on () y"}, {"record": "day:copied", "expr": "x"}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": list(rules)}]}))
    series = [{"series": f'{metric}{{run="{run}"}}', "values": "1x5"} for metric in "xy" for run in "ab"]
    test = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m"}
    scenario = {"interval": "1m", "input_series": series}
    with pytest.raises(RuntimeError, match="many-to-many"):
        ask(tmp_path / "test.yaml", test, scenario, ["day:copied"], "3m")
    with pytest.raises(RuntimeError, match="parse error"):
        ask(tmp_path / "test.yaml", {**test, "rule_files": []}, scenario, ["x", "day:copied {"], "3m")


def test_of_what_is_told_all_figures_must_be_known() -> None:
    told = Sample({"alertname": lifecycle.TRAINING_STALLED, "run": "r"}, 60)
    assert [str(entry) for entry in entries([told], [told], [told._replace(value=1)])] == [
        "TrainingStalled (run=r) from 0:01 to 0:01"
    ]
    nothing: list[Sample] = []
    for figures in (nothing, [told], [told]), ([told], nothing, [told]), ([told], [told], nothing):
        with pytest.raises(RuntimeError, match="not all is known"):
            entries(*figures)


def expect(result: Account, incidents: Sequence[Incident]) -> None:
    """That these and no others are told."""
    found = faults(result, incidents)
    assert not found, "\n".join(found)


def faults(result: Account, incidents: Sequence[Incident]) -> list[str]:
    """What is told but should not, not told but should, too early or after it is due, and again and again."""
    awaited = {
        (incident.alert, about): incident
        for incident in incidents
        for about in (incident.about, *incident.also)
    }
    found = []
    for group, further in result.notifications():
        for entry in group:
            incident = awaited.pop((entry.alert, entry.about), None)
            if incident is None:
                found.append(f"{entry} was not to be told")
                continue
            latest = incident.promised + 2 * result.scrape_seconds
            if not seconds(incident.at) < entry.first <= latest:
                found.append(f"{entry} was to be told after {incident.at} and by {clock(latest)}")
        if further > 1:
            found.append(f"{group[0]} was told {further} times more")
    return found + [f"{alert} ({about}) was not told" for alert, about in awaited]
