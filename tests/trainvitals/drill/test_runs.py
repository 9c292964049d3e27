from __future__ import annotations

import re

import pytest

from alerts.build import groups
from alerts.rules import AlertRule
from alerts.thresholds import Thresholds
from trainer_hooks.recording import NAME_PATTERN
from trainvitals.drill.runs import CONDITIONS, run_of

ALERTS = {rule.name for group in groups(Thresholds()) for rule in group.rules if isinstance(rule, AlertRule)}


def test_every_condition_is_that_of_an_alert_and_no_alert_has_two() -> None:
    names = [condition.alert for condition in CONDITIONS]
    assert set(names) <= ALERTS
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("alert", "run"),
    [
        ("TrainingRunKilled", "drill-training-run-killed"),
        ("TrainingOOMPredicted", "drill-training-oom-predicted"),
        ("TrainingGPUIdle", "drill-training-gpu-idle"),
    ],
)
def test_a_run_bears_the_name_of_its_alert(alert: str, run: str) -> None:
    assert run_of(alert) == run


def test_every_run_has_a_name_that_can_be_recorded_and_no_two_are_alike() -> None:
    runs = [run_of(condition.alert) for condition in CONDITIONS]
    assert all(NAME_PATTERN.fullmatch(run) for run in runs)
    assert len(set(runs)) == len(runs)


def test_what_happens_is_part_of_a_sentence() -> None:
    assert [c.what for c in CONDITIONS if not re.fullmatch(r"[a-z].*[^.]", c.what)] == []
