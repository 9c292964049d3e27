from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from alerts.build import rule_files
from trainvitals.drill import command, gpus, page, runs, telemetry
from trainvitals.drill.condition import Condition, Drill
from trainvitals.drill.scaled import SCALED
from trainvitals.drill.sink import Sink
from trainvitals.drill.unprovoked import UNPROVOKED
from trainvitals.stack import Stack

PROVOKED = [each.alert for each in (*runs.CONDITIONS, *gpus.CONDITIONS, *telemetry.CONDITIONS)]


def test_every_alert_is_provoked_once_or_it_is_said_why_not() -> None:
    assert len(set(PROVOKED)) == len(PROVOKED)
    assert not set(PROVOKED) & UNPROVOKED.keys()
    assert set(PROVOKED) | UNPROVOKED.keys() == command.ALERTS.keys()


@pytest.mark.parametrize("condition", command.CONDITIONS.values(), ids=command.CONDITIONS)
def test_what_happens_is_part_of_a_sentence(condition: Condition) -> None:
    assert re.fullmatch(r"([a-z]|Prometheus).*[^.]", condition.what)


def test_the_scaled_rules_are_rules(tmp_path: Path) -> None:
    for name, text in rule_files(SCALED).items():
        (tmp_path / name).write_text(text)
    checked = subprocess.run(["promtool", "check", "rules", *tmp_path.glob("*.yaml")], capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_the_page_of_the_drill_is_what_the_conditions_say(tmp_path: Path) -> None:
    assert page.main(["--check"]) == 0
    assert page.main([], tmp_path) == 0
    text = (tmp_path / "drill.md").read_text()
    assert "| TrainingRunKilled | page | a training is killed by SIGKILL |" in text
    assert "| HostOOMKill | page | *not provoked:* " in text
    assert "| Watchdog | deadman | " in text


def test_the_other_commands_do_not_wait_for_the_drill() -> None:
    code = "import sys, trainvitals.alerts; sys.exit('trainvitals.drill' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def drill(tmp_path: Path) -> Drill:
    """One whose stack is never started."""
    return Drill(tmp_path, SCALED, Stack(tmp_path, SCALED), Sink())


def test_an_action_waits_for_its_time_or_its_condition(drill: Drill) -> None:
    done: list[str] = []
    ready: list[str] = []
    drill.after(0, lambda: done.append("at once"))
    drill.after(1000, lambda: done.append("never"))
    drill.until(lambda: ready, then=lambda: done.append("when ready"))

    drill.poll()
    assert done == ["at once"]
    ready.append("now")
    drill.poll()
    drill.poll()
    assert done == ["at once", "when ready"]


def test_an_action_may_register_the_next(drill: Drill) -> None:
    done: list[int] = []

    def again() -> None:
        done.append(len(done))
        drill.after(0, again)

    drill.after(0, again)
    drill.poll()
    drill.poll()
    assert done == [0, 1]


def test_a_prometheus_that_is_not_there_has_seen_nothing(drill: Drill) -> None:
    drill.stack.prometheus_url = "http://127.0.0.1:9"
    assert not drill.seen("up")
