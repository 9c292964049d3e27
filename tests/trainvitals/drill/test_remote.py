"""The drill on a real Alertmanager that is somebody's own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from alerts.alertmanager import Routing, alertmanager_config
from tests.alertmanager import AlertmanagerServer, WebhookReceiver
from tests.alerts.test_settings import KILLED, LOST, rendered
from tests.trainer_hooks.processes import wait_until
from trainvitals.alerts import app
from trainvitals.drill import remote

Call = list[dict[str, Any]]


@pytest.fixture(scope="module")
def webhook() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def alertmanager(
    tmp_path_factory: pytest.TempPathFactory, webhook: WebhookReceiver
) -> Iterator[AlertmanagerServer]:
    """With the routes that are shipped, which wait for less."""
    folder = tmp_path_factory.mktemp("alertmanager")
    (folder / "token").write_text("none")
    routing = Routing(
        webhook_url=webhook.url,
        token_file=str(folder / "token"),
        group_wait_seconds=1,
        group_interval_seconds=1,
        digest_wait_seconds=1,
        deadman_url=webhook.url,
        deadman_seconds=1,
    )
    with AlertmanagerServer(folder, alertmanager_config(routing)) as server:
        yield server


def drill(address: str, *names: str, options: Sequence[str] = ()) -> tuple[int, str]:
    named = [word for name in names for word in ("--alert", name)]
    done = CliRunner().invoke(app, ["drill", *named, "--alertmanager", f"http://{address}", *options])
    return done.exit_code, done.output


def ask(alertmanager: AlertmanagerServer, method: str, path: str, **more: Any) -> Any:
    answer = httpx.request(method, f"http://{alertmanager.address}/api/v2{path}", trust_env=False, **more)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def test_a_test_alert_reaches_whoever_is_paged_says_what_it_is_and_is_taken_back(
    alertmanager: AlertmanagerServer, webhook: WebhookReceiver
) -> None:
    status, output = drill(alertmanager.address, "TrainingRunKilled")
    assert status == 0, output
    assert "TrainingRunKilled  is routed to page (webhook)" in output
    assert "they are told within 1 s" in output
    assert re.search("calls by webhook meanwhile, for these or others: [1-9].*, of which 0 failed", output)
    assert "the test alerts are taken back" in output

    def is_ours(labels: dict[str, str]) -> bool:
        return labels["alertname"] == "TrainingRunKilled"

    told = webhook.wait_for(
        lambda all: any(each.status == "resolved" and any(map(is_ours, each.alerts)) for each in all), 30
    )
    ours = [(each.status, labels) for each in told for labels in each.alerts if is_ours(labels)]
    assert [each[0] for each in ours] == ["firing", "resolved"]
    assert ours[0][1] == {
        "alertname": "TrainingRunKilled",
        "severity": "critical",
        "scope": "run",
        "run": "trainvitals-drill-TrainingRunKilled",
        "drill": "true",
    }
    assert ask(alertmanager, "GET", "/alerts") == []


@contextmanager
def fires(alertmanager: AlertmanagerServer, **labels: str) -> Iterator[None]:
    """A real alert, for as long as the `with` block lasts."""
    starts = datetime.now(UTC)
    alert = {"labels": labels, "startsAt": starts.isoformat()}
    ends = (starts + timedelta(minutes=5)).isoformat()
    ask(alertmanager, "POST", "/alerts", json=[{**alert, "endsAt": ends}])
    try:
        yield
    finally:
        ask(alertmanager, "POST", "/alerts", json=[{**alert, "endsAt": datetime.now(UTC).isoformat()}])


def test_no_message_tells_of_a_test_and_of_a_real_alert_of_the_same_name(
    alertmanager: AlertmanagerServer, webhook: WebhookReceiver
) -> None:
    name = "GPUXidHardware"
    with fires(alertmanager, alertname=name, severity="critical", scope="hardware", instance="n1", gpu="0"):
        status, output = drill(alertmanager.address, name)
    assert status == 0, output
    told = [
        {labels["instance"] for labels in each.alerts if labels["alertname"] == name}
        for each in webhook.notifications
    ]
    assert {"n1"} in told
    assert {f"trainvitals-drill-{name}"} in told
    assert all(len(instances) <= 1 for instances in told)


def test_a_message_with_a_test_and_a_real_alert_is_headed_by_the_real_one(tmp_path: Path) -> None:
    test = {
        "status": "firing",
        "labels": {"alertname": "TrainingRunKilled", "severity": "critical", "drill": "true"},
        "annotations": {"summary": "DRILL: this is a test."},
        "generatorURL": "http://prometheus/graph",
    }
    assert rendered("trainvitals.title", tmp_path, test) == "DRILL: this is a test."
    assert rendered("trainvitals.title", tmp_path, test, KILLED) == "Run r1 was killed. (2 alerts)"
    assert rendered("trainvitals.link", tmp_path, test, KILLED) == "https://vitals.example/#/runs/r1"
    assert rendered("trainvitals.title", tmp_path, LOST, KILLED) == "Run r1 was killed. (2 alerts)"
    assert rendered("trainvitals.title", tmp_path, LOST, test) == "DRILL: this is a test. (2 alerts)"
    ended = {**test, "status": "resolved"}
    assert rendered("trainvitals.title", tmp_path, ended, LOST) == (
        "Over: GPU 0 on n1 does <not> answer. (2 alerts)"
    )


def test_the_summary_says_that_nothing_has_happened() -> None:
    from trainvitals.drill.command import ALERTS

    for alert in ALERTS.values():
        sent = remote._test_alert(alert, {})
        assert sent["annotations"]["summary"].startswith("DRILL: ")
        assert sent["labels"]["drill"] == "true"


def test_each_of_several_is_told_with_its_way_and_none_holds_another_back(
    alertmanager: AlertmanagerServer,
) -> None:
    status, output = drill(alertmanager.address, "TrainingRunKilled", "TrainingStalled", "GPUThermalThrottle")
    assert status == 0, output
    assert "TrainingStalled     is routed to page (webhook)" in output
    assert "GPUThermalThrottle  is routed to hardware (webhook)" in output


def test_a_way_that_is_bound_to_times_may_tell_nobody_now(alertmanager: AlertmanagerServer) -> None:
    status, output = drill(alertmanager.address, "TelemetryHookSlow")
    assert status == 1, output
    assert "may tell nobody now: digest (webhook; bound to the times office)" in output
    assert "they are told within 1 s" in output


def configured(*more: str, url: str = "http://127.0.0.1:9/") -> str:
    """One receiver, `all`, whose webhook is called after half a second."""
    route = "route: {receiver: all, group_wait: 500ms, group_by: [alertname]"
    return "\n".join([f"receivers: [{{name: all, webhook_configs: [{{url: '{url}'}}]}}]", route, *more, "}"])


def test_when_a_call_fails_it_is_not_said_that_anybody_was_told(tmp_path: Path) -> None:
    with AlertmanagerServer(tmp_path, configured()) as server:
        status, output = drill(server.address, "TrainingStalled")
    assert status == 1, output
    assert "TrainingStalled  is routed to all (webhook)" in output
    assert re.search(
        r"calls by webhook meanwhile, for these or others: ([1-9]\d*), of which \1 failed", output
    )
    assert "not everybody may have been told of TrainingStalled: " in output


def test_an_alert_that_joins_a_group_that_was_told_of_is_not_told_in_time(
    tmp_path: Path, webhook: WebhookReceiver
) -> None:
    with (
        AlertmanagerServer(tmp_path, configured(url=webhook.url)) as server,
        fires(server, alertname="TrainingStalled", run="real"),
    ):
        counted = remote._Alertmanager(f"http://{server.address}").calls
        wait_until(lambda: counted()["webhook"].made == 1)
        status, output = drill(server.address, "TrainingStalled")
    assert status == 1, output
    assert "calls by webhook meanwhile, for these or others: 0, of which 0 failed" in output
    assert "the alert has joined a group that was told of not long ago" in output


def test_where_nobody_counts_the_calls_it_is_said_that_it_is_not_known(
    something_else: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = remote._Alertmanager(f"http://{something_else}")
    routed = remote._Routed("TrainingStalled", frozenset({"webhook"}), 1)
    assert remote._unheard([routed], {}, page) == 0
    assert "whether they were told is not known" in capsys.readouterr().out


def test_the_labels_of_a_prometheus_lead_to_the_route_that_asks_for_them(
    tmp_path: Path, webhook: WebhookReceiver
) -> None:
    routes = ", routes: [{receiver: empty, matchers: ['cluster = a']}]"
    config = configured(routes, url=webhook.url).replace("[{name: all", "[{name: empty}, {name: all")
    with AlertmanagerServer(tmp_path, config) as server:
        status, output = drill(server.address, "TrainingStalled", options=["--label", "cluster=a"])
        assert status == 1, output
        assert "TrainingStalled  tells nobody: empty (nothing is set up there)" in output
        assert re.search("the routes see .*cluster=a", output)
        assert drill(server.address, "TrainingStalled", options=["--label", "cluster=b"])[0] == 0


CRITICAL_HOLDS_BACK = """\
inhibit_rules:
- {source_matchers: ['severity = "critical"'], target_matchers: ['severity = "warning"'], equal: [cluster]}
"""


def test_a_test_that_could_hold_back_real_alerts_is_sent_only_anyway(
    tmp_path: Path, webhook: WebhookReceiver
) -> None:
    config = configured(url=webhook.url) + "\n" + CRITICAL_HOLDS_BACK
    with AlertmanagerServer(tmp_path, config) as server:
        status, output = drill(server.address, "TrainingStalled", "TrainingRunFailed")
        assert status == 1, output
        assert (
            "a test of TrainingStalled could hold back real alerts, and is not sent: by an inhibit" in output
        )
        assert 'severity="critical" holds back severity="warning" with the same cluster' in output
        assert ask(server, "GET", "/alerts") == []
        assert drill(server.address, "TrainingRunFailed")[0] == 0
        assert drill(server.address, "TrainingStalled", options=["--anyway"])[0] == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--label", "cluster"), "--label cluster is no NAME=VALUE of a label"),
        (("--label", "clus-ter=a"), "--label clus-ter=a is no NAME=VALUE of a label"),
        (("--label", "run=mine"), "what run is, the test alert says itself"),
    ],
)
def test_a_label_that_will_not_do_is_said(options: tuple[str, ...], sentence: str) -> None:
    status, output = drill("127.0.0.1:9", "TrainingStalled", options=options)
    assert (status, sentence in " ".join(output.replace("│", "").split())) == (2, True), output


def test_one_that_is_silenced_tells_nobody_and_it_is_said_who_silences_it(
    alertmanager: AlertmanagerServer,
) -> None:
    now = datetime.now(UTC)
    silence = {
        "matchers": [{"name": "alertname", "value": "TrainingRunFailed", "isRegex": False, "isEqual": True}],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(minutes=5)).isoformat(),
        "createdBy": "Ada",
        "comment": "moving house",
    }
    identity = ask(alertmanager, "POST", "/silences", json=silence)["silenceID"]
    status, output = drill(alertmanager.address, "TrainingRunFailed")
    ask(alertmanager, "DELETE", f"/silence/{identity}")
    assert status == 1, output
    assert (
        "TrainingRunFailed  tells nobody: silenced by Ada (moving house); else it would tell ticket (webhook)"
        in output
    )


def test_one_that_is_held_back_tells_nobody_and_it_is_said_by_what(alertmanager: AlertmanagerServer) -> None:
    with fires(alertmanager, alertname="InfoInhibitor", severity="none"):
        status, output = drill(alertmanager.address, "TrainingLossPlateau")
    assert status == 1, output
    assert "tells nobody: held back by InfoInhibitor; else it would tell digest" in output


def test_of_the_watchdog_it_is_said_whether_the_real_one_is_there(alertmanager: AlertmanagerServer) -> None:
    with fires(alertmanager, alertname="Watchdog", severity="none", scope="somebody else's"):
        status, output = drill(alertmanager.address, "Watchdog")
    assert (status, "Watchdog  is not there" in output) == (1, True), output

    ours = {"alertname": "Watchdog", "severity": "none", "scope": "telemetry", "cluster": "a"}
    with fires(alertmanager, **ours):
        status, output = drill(alertmanager.address, "Watchdog")
        elsewhere, _ = drill(alertmanager.address, "Watchdog", options=["--label", "cluster=b"])
    assert status == 0, output
    assert "Watchdog  is there, and is routed to deadman (webhook)" in output
    assert elsewhere == 1


def test_a_watchdog_that_calls_nobody_is_not_well(tmp_path: Path) -> None:
    config = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"
    with (
        AlertmanagerServer(tmp_path, config) as server,
        fires(server, alertname="Watchdog", severity="none", scope="telemetry"),
    ):
        status, output = drill(server.address, "Watchdog")
    assert status == 1, output
    assert "Watchdog  is there, and tells nobody: nobody (nothing is set up there)" in output


def test_a_receiver_with_nothing_set_up_is_nobody(tmp_path: Path) -> None:
    config = "route: {receiver: empty}\nreceivers: [{name: empty}]\n"
    with AlertmanagerServer(tmp_path, config) as server:
        status, output = drill(server.address, "TrainingStalled")
    assert status == 1, output
    assert "TrainingStalled  tells nobody: empty (nothing is set up there)" in output


@contextmanager
def drill_that_waits(server: AlertmanagerServer) -> Iterator[subprocess.Popen[str]]:
    """A drill whose test alert fires."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "trainvitals", "alerts", "drill", "--alert", "TrainingStalled"),
            *("--alertmanager", f"http://{server.address}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not ask(server, "GET", "/alerts"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


SLOW = """\
route: {receiver: slow, group_wait: 5m}
receivers: [{name: slow, webhook_configs: [{url: 'http://127.0.0.1:9/'}]}]
"""


def test_an_interrupted_drill_takes_its_alerts_back(tmp_path: Path) -> None:
    with AlertmanagerServer(tmp_path, SLOW) as server, drill_that_waits(server) as process:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert ask(server, "GET", "/alerts") == []
    assert process.returncode == 130, output
    assert "the test alerts are taken back" in output
    assert "interrupted" in output


def test_an_alert_that_cannot_be_taken_back_is_said_with_the_time_at_which_it_ends(tmp_path: Path) -> None:
    with AlertmanagerServer(tmp_path, SLOW) as server, drill_that_waits(server) as process:
        process.send_signal(signal.SIGSTOP)  # or it would ask the one that is gone before it is interrupted
        server.stop()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert re.search(
        r"1 test alerts could not be taken back; they end by \d\d:\d\d: .*cannot be reached", output
    )
    assert "are taken back" not in output


@pytest.fixture
def something_else() -> Iterator[str]:
    """A web server that answers every question with a page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"status": "fine"}).encode() if "json" in self.path else b"<html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("path", "why"), [("", "its answer is no JSON"), ("/json", "what it says of itself is not what")]
)
def test_what_is_no_alertmanager_is_told_from_one(something_else: str, path: str, why: str) -> None:
    status, output = drill(f"{something_else}{path}", "TrainingStalled")
    assert status == 1
    assert "is no Alertmanager, or does not let us in" in output
    assert why in output


def test_one_that_cannot_be_reached_is_said_without_the_password() -> None:
    status, output = drill("somebody:secret@127.0.0.1:9", "TrainingStalled")
    assert status == 1
    assert "http://127.0.0.1:9 cannot be reached (" in output
    assert "secret" not in output


@pytest.mark.parametrize("url", ["alertmanager:9093", "foo", "http://", "ftp://host"])
def test_what_is_no_url_is_said(url: str) -> None:
    done = CliRunner().invoke(app, ["drill", "--alert", "TrainingStalled", "--alertmanager", url])
    assert done.exit_code == 1
    assert "is no URL of an Alertmanager, such as http://HOST:9093" in done.output


def test_without_names_nothing_is_sent(alertmanager: AlertmanagerServer) -> None:
    status, output = drill(alertmanager.address)
    assert status == 2
    assert "--all of them" in " ".join(output.split())
