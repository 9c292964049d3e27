from __future__ import annotations

import re
from dataclasses import fields

import promql_parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts.thresholds import LEAST_CHANGES, Thresholds, duration


@pytest.mark.parametrize(
    ("seconds", "rendered"),
    [
        (0, "0s"),
        (15, "15s"),
        (600, "10m"),
        (5400, "1h30m"),
        (86_400, "1d"),
        (0.25, "250ms"),
        (61.5, "1m1s500ms"),
    ],
)
def test_a_duration_reads_as_prometheus_writes_it(seconds: float, rendered: str) -> None:
    assert duration(seconds) == rendered


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=10**9))
def test_prometheus_reads_back_every_duration(milliseconds: int) -> None:
    assert promql_parser.parse_duration(
        duration(milliseconds / 1000)
    ).total_seconds() * 1000 == pytest.approx(milliseconds)


def test_a_negative_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 s is no duration"):
        duration(-1)


def test_every_threshold_that_is_a_time_says_its_unit() -> None:
    assert {f.name for f in fields(Thresholds) if not f.name.endswith(("_seconds", "_ratio"))} == {
        "job",
        "restart_loop_restarts",
        "gradient_norm_minimum",
        "loss_rise_minimum",
        "warmup_steps",
        "gpu_pcie_replays",
        "service_restarts",
        "hook_dropped_values",
        "recordings_volume_bytes",
        "runbook_base",
        "page_base",
        "grafana_base",
    }


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"stall_seconds": 90_000}, "stall_seconds is 90000; it must be below lookback_seconds"),
        ({"killed_page_seconds": 86_400}, "a dead run is forgotten before it pages"),
        ({"loss_recent_seconds": 3600}, "no loss ever differs from what it was"),
        ({"loss_lookback_seconds": 60}, "no loss ever differs from what it was"),
        ({"throughput_history_seconds": 21_600}, "no run ever has a history"),
        ({"history_lost_window_seconds": 600}, "no lost step is told"),
        ({"delivery_failing_for_seconds": 600}, "a notification that fails once is told"),
        ({"xid_page_seconds": 600}, "a memory error that its XID has told is told again"),
        (
            {"stall_seconds": 300},
            "overdue_seconds and overdue_for_seconds are 300 together; they must be below stall_seconds",
        ),
        ({"loss_recent_seconds": 89}, "loss_recent_seconds is 89; it must be 90 or more, 6 times evaluation"),
        ({"evaluation_interval_seconds": 101}, "or no loss changes so often"),
        ({"restart_loop_restarts": 0}, "restart_loop_restarts is 0; it must be 1 or more"),
        ({"service_restarts": 0}, "service_restarts is 0; it must be 1 or more"),
        ({"gpu_pcie_replays": -1}, "gpu_pcie_replays is -1; it must be 0 or more"),
        ({"gpu_memory_ratio": 90}, "gpu_memory_ratio is 90; give a share between 0 and 1, 0.9 for 90 %"),
        ({"steps_skipped_ratio": 0.5}, "give a share below 0.5"),
        ({"gradient_norm_ratio": 1}, "a usual gradient norm fires"),
    ],
)
def test_a_set_under_which_an_alert_could_never_fire_or_always_would_is_refused(
    figures: dict[str, float], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Thresholds(**figures)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [f.name for f in fields(Thresholds) if f.name.endswith("_seconds")])
def test_a_time_below_zero_is_refused_and_a_window_of_no_length(name: str) -> None:
    may_be_none = ("_for_seconds", "_grace_seconds", "_keep_firing_seconds")
    for seconds in (-1,) if name.endswith(may_be_none) else (-1, 0):
        with pytest.raises(ValueError, match=f"{name} is {seconds}; it must be above 0"):
            Thresholds(**{name: seconds})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [f.name for f in fields(Thresholds) if f.name.endswith("_ratio")])
def test_a_share_or_a_multiple_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; "):
        Thresholds(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "figures",
    [
        {"gpu_memory_for_seconds": 0},
        {"restart_grace_seconds": 0},
        {"overdue_steps_ratio": 20},
        {"stall_seconds": 301},
        {"loss_recent_seconds": 15 * (LEAST_CHANGES + 1)},
        {"hook_dropped_values": 0},
    ],
)
def test_no_wait_at_all_a_multiple_and_the_least_that_can_fire_are_choices(figures: dict[str, float]) -> None:
    Thresholds(**figures)  # type: ignore[arg-type]
