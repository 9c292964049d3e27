from __future__ import annotations

import json
import re
import secrets
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from alerts.alertmanager import INHIBITIONS, Routing, alertmanager_config, way
from alerts.build import GENERATED, groups
from alerts.lifecycle import TRAINING_RANK_MISSING, TRAINING_STALLED
from alerts.rules import AlertRule
from alerts.thresholds import Thresholds
from alerts.throughput import TRAINING_COLLECTIVE_HUNG, TRAINING_STEP_OVERDUE
from tests.alertmanager import AlertmanagerServer, WebhookReceiver

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
def test_every_alert_takes_the_way_of_its_severity_and_scope(alert: AlertRule) -> None:
    labels = [f"alertname={alert.name}", f"severity={alert.severity}", f"scope={alert.scope}", "run=r1"]
    routed = amtool("config", "routes", "test", f"--config.file={SHIPPED}", *labels)
    assert (routed.returncode, routed.stdout.strip()) == (0, way(alert))


def test_the_watchdog_calls_whoever_expects_the_call_every_minute(tmp_path: Path) -> None:
    config = tmp_path / "alertmanager.yml"
    config.write_text(alertmanager_config(Routing(deadman_url="http://127.0.0.1:9/alive")))
    routed = amtool("config", "routes", "test", f"--config.file={config}", "alertname=Watchdog")
    assert routed.stdout.strip() == "deadman"
    loaded = yaml.safe_load(config.read_text())
    [deadman] = [each for each in loaded["receivers"] if each["name"] == "deadman"]
    [webhook] = deadman["webhook_configs"]
    assert (webhook["url"], webhook["send_resolved"]) == ("http://127.0.0.1:9/alive", False)
    assert loaded["route"]["routes"][0]["repeat_interval"] == "1m"


def test_a_killed_run_takes_the_route_that_repeats_after_a_day() -> None:
    route = yaml.safe_load(SHIPPED.read_text())["route"]
    [killed] = [each for each in route["routes"] if each["matchers"] == ['alertname = "TrainingRunKilled"']]
    assert (killed["receiver"], killed["repeat_interval"]) == ("page", "1d")


def test_the_digest_keeps_office_hours_unless_it_is_told_not_to() -> None:
    def times(routing: Routing) -> list[str] | None:
        routes = yaml.safe_load(alertmanager_config(routing))["route"]["routes"]
        [digest] = [each for each in routes if each["receiver"] == "digest"]
        times: list[str] | None = digest.get("active_time_intervals")
        return times

    assert times(Routing()) == ["office"]
    assert times(Routing(digest_at_any_hour=True)) is None


def test_one_kill_is_over_before_it_could_be_repeated() -> None:
    assert Thresholds().killed_page_seconds < Routing().killed_repeat_seconds


def test_a_kill_is_told_within_a_minute() -> None:
    seen_by_the_service, scraped, evaluated = 5, 15, Thresholds().evaluation_interval_seconds
    assert seen_by_the_service + scraped + evaluated + Routing().group_wait_seconds <= 60


def test_notifications_are_grouped_by_run_node_and_alert_and_tickets_about_machines_by_node() -> None:
    route = yaml.safe_load(SHIPPED.read_text())["route"]
    assert route["group_by"] == ["cluster", "run", "instance", "alertname"]
    others = {each["receiver"]: each["group_by"] for each in route["routes"] if "group_by" in each}
    assert others == {
        "nobody": ["alertname"],
        "hardware": ["cluster", "instance"],
        "digest": ["cluster"],
    }


def test_what_a_second_node_has_is_told_on_its_own(tmp_path: Path) -> None:
    with WebhookReceiver() as receiver:
        token = tmp_path / "token"
        token.write_text("secret")
        routing = Routing(receiver.url, str(token), group_wait_seconds=0, group_interval_seconds=3600)
        with AlertmanagerServer(tmp_path, alertmanager_config(routing)) as server:
            send(server, XID | {"cluster": "c", "instance": "n1:8003", "uuid": "GPU-0"})
            receiver.wait_for(lambda told: len(told) == 1, 30)
            send(server, XID | {"cluster": "c", "instance": "n2:8003", "uuid": "GPU-1"})
            told = receiver.wait_for(lambda told: len(told) == 2, 30)
    assert [[each["instance"] for each in one.alerts] for one in told] == [["n1:8003"], ["n2:8003"]]


def test_the_service_is_also_told_of_ends_and_never_of_more_than_it_can_take() -> None:
    *receivers, nobody = yaml.safe_load(SHIPPED.read_text())["receivers"]
    assert [each["name"] for each in receivers] == ["page", "hardware", "ticket", "digest"]
    assert nobody == {"name": "nobody"}
    for receiver in receivers:
        [webhook] = receiver["webhook_configs"]
        assert webhook["url"] == "http://127.0.0.1:8003/api/v1/alerts"
        token = webhook["http_config"]["authorization"]["credentials_file"]
        assert token == "/etc/prometheus/trainvitals-token"
        assert webhook["send_resolved"] is True
        assert webhook["max_alerts"] == 100


def test_every_alert_that_the_configuration_names_exists() -> None:
    named = set(re.findall(r'alertname\s*=~?\s*"?([\w|]+)', SHIPPED.read_text()))
    assert len(named) > 5
    assert {name for names in named for name in names.split("|")} <= {alert.name for alert in ALERTS}


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AlertmanagerServer]:
    with AlertmanagerServer(tmp_path_factory.mktemp("alertmanager"), SHIPPED.read_text()) as server:
        yield server


def send(alertmanager: AlertmanagerServer, *alerts: dict[str, str]) -> None:
    url = f"http://{alertmanager.address}/api/v2/alerts"
    body = json.dumps([{"labels": labels} for labels in alerts]).encode()
    urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})).close()


def held_back(alertmanager: AlertmanagerServer, *alerts: dict[str, str]) -> list[dict[str, str]]:
    """Which of these alerts, all firing now, another of them holds back.

    Alertmanager learns of them one by one, and of what they hold back a moment later: a pair of which that is
    certain is sent after them, and waited for.
    """
    gpu = {"instance": "certain:8003", "uuid": f"GPU-{secrets.token_hex(4)}"}
    url = f"http://{alertmanager.address}/api/v2/alerts"
    for some in (alerts, [XID | gpu], [LOST | gpu]):
        send(alertmanager, *some)
    deadline = time.monotonic() + 30
    is_certain = False
    while True:
        with urllib.request.urlopen(url) as answer:
            known = json.load(answer)
        inhibited = [each["labels"] for each in known if each["status"]["inhibitedBy"]]
        # It looks at one after the other: what it was told may have come to be known between two of them.
        if is_certain and all(any(each["labels"] == one for each in known) for one in alerts):
            return [labels for labels in inhibited if labels in alerts]
        is_certain = LOST | gpu in inhibited
        assert time.monotonic() < deadline, f"Alertmanager knows {known} only"
        time.sleep(0.1)


XID = {"alertname": "GPUXidHardware", "gpu": "0", "xid": "79", "severity": "critical", "scope": "hardware"}
LOST = {"alertname": "GPULost", "gpu": "0", "severity": "critical", "scope": "hardware"}


@pytest.mark.parametrize("cluster", [{"cluster": "c"}, {}], ids=["with a cluster", "without one"])
def test_the_xid_of_a_lost_gpu_holds_back_that_it_is_lost(
    alertmanager: AlertmanagerServer, cluster: dict[str, str]
) -> None:
    gpu = {**cluster, "instance": "n1:8003", "uuid": f"GPU-of-{len(cluster)}"}
    assert held_back(alertmanager, XID | gpu, LOST | gpu) == [LOST | gpu]


def test_the_xid_of_a_gpu_whose_links_are_down_holds_back_that_they_are(
    alertmanager: AlertmanagerServer,
) -> None:
    gpu = {"cluster": "c", "instance": "n4:8003", "uuid": "GPU-0"}
    links = LOST | gpu | {"alertname": "GPUNvlinkDown"}
    of_another = links | {"uuid": "GPU-1", "gpu": "1"}
    assert held_back(alertmanager, XID | gpu | {"xid": "74"}, links, of_another) == [links]


@pytest.mark.parametrize(
    "other",
    [
        {"cluster": "c", "instance": "n2:8003", "uuid": "GPU-0"},
        {"cluster": "d", "instance": "n1:8003", "uuid": "GPU-0"},
        {"cluster": "c", "instance": "n1:8003", "uuid": "GPU-1"},
        {"instance": "n1:8003", "uuid": "GPU-0"},
    ],
    ids=["on another node", "in another cluster", "beside it", "in no cluster"],
)
def test_the_xid_of_one_gpu_holds_back_nothing_of_another(
    alertmanager: AlertmanagerServer, other: dict[str, str]
) -> None:
    gpu = {"cluster": "c", "instance": "n1:8003", "uuid": "GPU-0"}
    assert held_back(alertmanager, XID | gpu, LOST | other) == []


def test_an_xid_holds_back_no_other_alert_of_its_gpu(alertmanager: AlertmanagerServer) -> None:
    gpu = {"cluster": "c", "instance": "n3:8003", "uuid": "GPU-0"}
    another_xid = {**XID, **gpu, "xid": "48"}
    memory = {**LOST, **gpu, "alertname": "GPUMemoryHigh", "severity": "warning"}
    assert held_back(alertmanager, XID | gpu, another_xid, memory) == []


def test_nothing_holds_itself_back_by_way_of_others() -> None:
    """Two that hold each other back are both told of never."""
    holds_back = {
        name: {target for each in INHIBITIONS if name in each.sources for target in each.targets}
        for each in INHIBITIONS
        for name in each.sources
    }
    for name in holds_back:
        reached, seen = set(holds_back[name]), set[str]()
        while reached - seen:
            seen |= reached
            reached |= {target for each in reached for target in holds_back.get(each, ())}
        assert name not in reached


def test_what_is_held_back_by_an_alert_of_its_group_ends_before_that_does() -> None:
    """Alertmanager hears in that order: what ends after what holds it back could be told between the two."""
    for group in groups(Thresholds()):
        order = [rule.name for rule in group.rules]
        wrong = [
            (source, target)
            for each in INHIBITIONS
            for source in each.sources
            for target in each.targets
            if source in order and target in order and order.index(source) < order.index(target)
        ]
        assert wrong == []


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (TRAINING_COLLECTIVE_HUNG, TRAINING_STALLED),
        (TRAINING_RANK_MISSING, TRAINING_COLLECTIVE_HUNG),
        (TRAINING_RANK_MISSING, TRAINING_STEP_OVERDUE),
    ],
)
def test_what_ends_with_an_alert_of_another_group_that_holds_it_back_ends_before_that_does(
    source: str, target: str
) -> None:
    """Both end with the next step; their groups are evaluated up to an interval apart."""
    alerts = {alert.name: alert for alert in ALERTS}
    assert any(source in each.sources and target in each.targets for each in INHIBITIONS)
    longer = alerts[source].keep_firing_for_seconds - alerts[target].keep_firing_for_seconds
    assert longer > Thresholds().evaluation_interval_seconds


def test_a_checkpoint_that_fails_holds_back_what_follows_from_it_at_its_run_alone(
    alertmanager: AlertmanagerServer,
) -> None:
    run = {"run": "cannot-write", "severity": "warning", "scope": "run"}
    failed = {**run, "alertname": "TrainingCheckpointFailed"}
    late, full = (
        {**run, "alertname": name} for name in ("TrainingCheckpointStale", "TrainingCheckpointVolumeFilling")
    )
    held = held_back(alertmanager, failed, late, full, {**late, "run": "another"})
    assert sorted(each["alertname"] for each in held) == [late["alertname"], full["alertname"]]
    assert {each["run"] for each in held} == {"cannot-write"}
    ended = {**run, "alertname": "TrainingRunFailed"}
    assert held_back(alertmanager, ended, failed) == [failed]
