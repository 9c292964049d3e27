from __future__ import annotations

import pytest

from trainer_hooks.recording import NAME_PATTERN
from trainvitals.drill.runs import CONDITIONS, run_of


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
