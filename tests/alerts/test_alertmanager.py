from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from alerts.alertmanager import Routing, alertmanager_config
from alerts.build import GENERATED, groups
from alerts.rules import AlertRule
from alerts.thresholds import Thresholds

SHIPPED = GENERATED / "alertmanager.yml"
ALERTS = [rule for group in groups(Thresholds()) for rule in group.rules if isinstance(rule, AlertRule)]


def amtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["amtool", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "routing",
    [Routing(), Routing(group_wait_seconds=0, group_interval_seconds=0.5, killed_repeat_seconds=5)],
    ids=["as shipped", "as a demonstration has it"],
)
def test_amtool_accepts_the_configuration(routing: Routing, tmp_path: Path) -> None:
    config = tmp_path / "alertmanager.yml"
    config.write_text(alertmanager_config(routing))
    checked = amtool("check-config", config)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=[alert.name for alert in ALERTS])
def test_every_alert_reaches_the_service(alert: AlertRule) -> None:
    labels = [f"alertname={alert.name}", f"severity={alert.severity}", f"scope={alert.scope}", "run=r1"]
    routed = amtool("config", "routes", "test", f"--config.file={SHIPPED}", *labels)
    assert (routed.returncode, routed.stdout.strip()) == (0, "training-service")


def test_a_killed_run_takes_the_route_that_repeats_after_a_day() -> None:
    route = yaml.safe_load(SHIPPED.read_text())["route"]
    [killed] = route["routes"]
    assert killed["matchers"] == ['alertname = "TrainingRunKilled"']
    assert killed["repeat_interval"] == "1d"


def test_one_kill_is_over_before_it_could_be_repeated() -> None:
    assert Thresholds().killed_page_seconds < Routing().killed_repeat_seconds


def test_a_kill_is_told_within_a_minute() -> None:
    seen_by_the_service, scraped, evaluated = 5, 15, Thresholds().evaluation_interval_seconds
    assert seen_by_the_service + scraped + evaluated + Routing().group_wait_seconds <= 60


def test_notifications_are_grouped_by_run_and_alert() -> None:
    assert yaml.safe_load(SHIPPED.read_text())["route"]["group_by"] == ["cluster", "run", "alertname"]


def test_the_service_is_also_told_of_ends_and_never_of_more_than_it_can_take() -> None:
    [receiver] = yaml.safe_load(SHIPPED.read_text())["receivers"]
    [webhook] = receiver["webhook_configs"]
    assert webhook["url"] == "http://127.0.0.1:8003/api/v1/alerts"
    assert webhook["send_resolved"] is True
    assert webhook["max_alerts"] == 100


def test_every_alert_that_the_configuration_names_exists() -> None:
    named = set(re.findall(r'alertname\s*=~?\s*"?([\w|]+)', SHIPPED.read_text()))
    assert named
    assert {name for names in named for name in names.split("|")} <= {alert.name for alert in ALERTS}
