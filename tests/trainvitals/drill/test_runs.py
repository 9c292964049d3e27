from __future__ import annotations

import signal
import time
from collections.abc import Mapping

import pytest

from exporters import catalog
from tests.trainer_hooks.processes import wait_until
from trainer_hooks.recording import NAME_PATTERN
from trainvitals.drill import command, local
from trainvitals.drill.condition import Drill
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


@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_step_is_overdue_though_another_was_held_up_at_first() -> None:
    condition = command.CONDITIONS["TrainingStepOverdue"]

    def provoke_on_a_busy_machine(drill: Drill) -> Mapping[str, str]:
        labels = condition.provoke(drill)
        steps = f'{catalog.TRAINING_STEPS_TOTAL}{{run="{labels["run"]}"}} > 0'
        wait_until(lambda: drill.seen(steps))
        training = drill.trainings[labels["run"]][0].process
        training.send_signal(signal.SIGSTOP)
        time.sleep(2)
        training.send_signal(signal.SIGCONT)
        return labels

    alerts = {condition._replace(provoke=provoke_on_a_busy_machine): command.ALERTS[condition.alert]}
    assert local.drill(alerts, awaited_seconds=120) == local.Outcome(arrived=1, missing=0, not_here=0)
