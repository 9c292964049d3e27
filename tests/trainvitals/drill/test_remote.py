"""The drill on a real Alertmanager that is somebody's own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from alerts.alertmanager import Routing, alertmanager_config
from tests.alertmanager import AlertmanagerServer, WebhookReceiver
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


def drill(address: str, *names: str) -> tuple[int, str]:
    named = [word for name in names for word in ("--alert", name)]
    done = CliRunner().invoke(app, ["drill", *named, "--alertmanager", f"http://{address}"])
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
    assert "TrainingRunKilled  tells page (webhook)" in output
    assert "they are told within 1 s" in output

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


def test_the_summary_says_that_nothing_has_happened() -> None:
    from trainvitals.drill.command import ALERTS

    for alert in ALERTS.values():
        sent = remote._test_alert(alert)
        assert sent["annotations"]["summary"].startswith("DRILL: ")
        assert sent["labels"]["drill"] == "true"


def test_each_of_several_is_told_with_its_way_and_none_holds_another_back(
    alertmanager: AlertmanagerServer,
) -> None:
    status, output = drill(alertmanager.address, "TrainingRunKilled", "TrainingStalled", "GPUThermalThrottle")
    assert status == 0, output
    assert "TrainingStalled     tells page (webhook)" in output
    assert "GPUThermalThrottle  tells hardware (webhook)" in output


def test_a_way_that_is_bound_to_times_says_so(alertmanager: AlertmanagerServer) -> None:
    assert (
        "tells digest (webhook; bound to the times office)"
        in drill(alertmanager.address, "GPUMetricUnsupported")[1]
    )


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
    assert "tells nobody: silenced by Ada (moving house); else it would tell ticket (webhook)" in output


def test_one_that_is_held_back_tells_nobody_and_it_is_said_by_what(alertmanager: AlertmanagerServer) -> None:
    ends = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    inhibitor = {"labels": {"alertname": "InfoInhibitor", "severity": "none"}, "endsAt": ends}
    ask(alertmanager, "POST", "/alerts", json=[inhibitor])
    status, output = drill(alertmanager.address, "TrainingLossPlateau")
    ask(alertmanager, "POST", "/alerts", json=[{**inhibitor, "endsAt": datetime.now(UTC).isoformat()}])
    assert status == 1, output
    assert "tells nobody: held back by InfoInhibitor; else it would tell digest" in output


def test_of_the_watchdog_it_is_said_whether_the_real_one_is_there(alertmanager: AlertmanagerServer) -> None:
    status, output = drill(alertmanager.address, "Watchdog")
    assert (status, "Watchdog  is not there" in output) == (1, True), output

    ends = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    watchdog = {"labels": {"alertname": "Watchdog", "severity": "none"}, "endsAt": ends}
    ask(alertmanager, "POST", "/alerts", json=[watchdog])
    status, output = drill(alertmanager.address, "Watchdog")
    ask(alertmanager, "POST", "/alerts", json=[{**watchdog, "endsAt": datetime.now(UTC).isoformat()}])
    assert (status, "Watchdog  is there, and tells deadman (webhook)" in output) == (0, True), output


def test_a_receiver_with_nothing_set_up_is_nobody(tmp_path: Path) -> None:
    config = "route: {receiver: empty}\nreceivers: [{name: empty}]\n"
    with AlertmanagerServer(tmp_path, config) as server:
        status, output = drill(server.address, "TrainingStalled")
    assert status == 1, output
    assert "TrainingStalled  tells nobody: empty (nothing is set up there)" in output


def test_an_interrupted_drill_takes_its_alerts_back(tmp_path: Path) -> None:
    config = (
        "route: {receiver: slow, group_wait: 5m}\n"
        "receivers: [{name: slow, webhook_configs: [{url: 'http://127.0.0.1:9/'}]}]\n"
    )
    with AlertmanagerServer(tmp_path, config) as server:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "trainvitals", "alerts", "drill", "--alert", "TrainingStalled"),
                *("--alertmanager", f"http://{server.address}"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + 60
        while not ask(server, "GET", "/alerts"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert ask(server, "GET", "/alerts") == []
    assert process.returncode == 130, output
    assert "what it sent taken back" in output


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


def test_a_route_inherits_how_long_it_waits_but_not_its_times() -> None:
    route = {
        "receiver": "first",
        "group_wait": "1m30s",
        "routes": [
            {"matchers": [], "active_time_intervals": ["office"], "routes": [{"receiver": "below"}]},
            {"receiver": "soon", "group_wait": "500ms"},
        ],
    }
    assert list(remote._ways(route, "", remote._Way(30, ()))) == [
        ("first", remote._Way(90, ())),
        ("first", remote._Way(90, ("office",))),
        ("below", remote._Way(90, ())),
        ("soon", remote._Way(0.5, ())),
    ]
