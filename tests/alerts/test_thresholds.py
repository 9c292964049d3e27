from __future__ import annotations

from dataclasses import fields

import promql_parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.thresholds import Thresholds, duration


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
        "runbook_base",
        "page_base",
    }


@pytest.mark.parametrize(
    "figures", [{"stall_seconds": 0}, {"stall_seconds": 90_000}, {"killed_page_seconds": 86_400}]
)
def test_a_page_that_could_never_come_is_refused(figures: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="below lookback_seconds"):
        Thresholds(**figures)  # type: ignore[arg-type]


def test_an_xid_that_would_page_for_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="or no XID ever pages"):
        Thresholds(xid_page_seconds=0)


def test_a_share_given_in_percent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.9 for 90 %"):
        Thresholds(gpu_memory_ratio=90)


@pytest.mark.parametrize("name", ["gpu_thermal_ratio", "gpu_link_busy_ratio", "host_memory_ratio"])
def test_a_share_of_none_or_all_is_refused(name: str) -> None:
    for share in (0, 1, 5):
        with pytest.raises(ValueError, match=f"{name} is {share}; give a share between 0 and 1"):
            Thresholds(**{name: share})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["oom_told_seconds", "oom_ahead_seconds", "host_oom_page_seconds"])
def test_a_window_of_no_length_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; it must be above 0, or its alert never fires"):
        Thresholds(**{name: 0})  # type: ignore[arg-type]
