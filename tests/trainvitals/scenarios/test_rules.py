"""Rules are evaluated in the order of what they rest on, and alerts wait and last as Prometheus has them."""

from __future__ import annotations

import pytest

from alerts.build import groups
from alerts.rules import AlertRule, Group, RecordingRule
from alerts.thresholds import Thresholds
from trainvitals.scenarios.period import Period
from trainvitals.scenarios.rules import levels, states

PERIOD = Period(0, 100, 10)


def alert(**more: float) -> AlertRule:
    return AlertRule("An", "x", "warning", "run", "It is.", "It is so.", **more)  # type: ignore[arg-type]


def told(rule: AlertRule, *active: float) -> str:
    """P, F or - for each moment."""
    found = {at: state[0].upper() for at, state, _ in states(rule, active, PERIOD)}
    return "".join(found.get(at, "-") for at in PERIOD.moments())


def test_every_rule_comes_after_what_it_rests_on() -> None:
    before: set[str] = set()
    found = levels(groups(Thresholds()))
    for level in found:
        for rule in level:
            others = {each.name for later in found for each in later} - before
            assert not [name for name in others if name in rule.expr], rule.name
        before |= {rule.name for rule in level}

    recording = [
        rule for group in groups(Thresholds()) for rule in group.rules if isinstance(rule, RecordingRule)
    ]
    assert sum(map(len, found)) == len(recording)


def test_rules_that_rest_on_each_other_are_refused() -> None:
    rules = (RecordingRule("a:x:sum", "b:x:sum"), RecordingRule("b:x:sum", "a:x:sum"))

    with pytest.raises(ValueError, match=r"rest on each other: a:x:sum, b:x:sum"):
        levels([Group("circle", rules)])


def test_an_alert_without_a_wait_fires_at_once() -> None:
    assert told(alert(), 20, 30) == "--FF-------"


def test_an_alert_waits_for_its_time_and_begins_anew_after_a_gap() -> None:
    assert told(alert(for_seconds=20), 0, 10, 20, 30, 50, 60) == "PPFF-PP----"


def test_an_alert_is_kept_firing() -> None:
    assert told(alert(keep_firing_for_seconds=30), 20, 30) == "--FFFFF----"
    assert told(alert(keep_firing_for_seconds=30), 20, 50) == "--FFFFFFF--"


def test_since_when_it_is_active_is_told_with_each_moment() -> None:
    assert [since for _, _, since in states(alert(for_seconds=20), [10, 20, 50], PERIOD)] == [10, 10, 50]
