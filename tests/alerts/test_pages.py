"""From a scraped page to a notification, through a real Prometheus and a real Alertmanager, in seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from alerts.alertmanager import Routing
from alerts.build import write
from alerts.thresholds import Thresholds
from exporters import catalog
from exporters.runs import RUN_STATES
from tests.alertmanager import AlertmanagerServer, Notification, WebhookReceiver
from tests.prometheus import PrometheusServer

DEADLINE_SECONDS = 60.0
# So that Alertmanager has the same alert over and over to tell once; after four times as long without it the
# alert counts as over.
FLAGS = ("--rules.alert.resend-delay=3s",)
THRESHOLDS = Thresholds(
    evaluation_interval_seconds=0.5,
    stall_seconds=8,
    restart_grace_seconds=1,
    overdue_seconds=4,
    overdue_for_seconds=1,
    xid_page_seconds=15,  # far above what two scrapes that fail would take
    ecc_page_seconds=3,
    gpu_lost_for_seconds=2,
)


class Nodes:
    """The metrics pages of some nodes; a node without a page answers 503, as one whose service is gone."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        nodes = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = nodes.pages.get(self.path.strip("/"))
                self.send_response(503 if page is None else 200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write((page or "").encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def page_of_a_run(*, start: float, progress: float, state: str = "running", end: float | None = None) -> str:
    lines = [
        f'{catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS}{{run="r1"}} {start}',
        f'{catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS}{{run="r1",rank="0"}} {progress}',
        *(
            f'{catalog.TRAINING_RUN_STATE}{{run="r1",state="{one}"}} {int(one == state)}'
            for one in RUN_STATES
        ),
    ]
    if end is not None:
        lines.append(f'{catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS}{{run="r1"}} {end}')
    return "\n".join(lines) + "\n"


def page_of_a_gpu(*, up: bool, xid_seen: float | None = None) -> str:
    lines = [
        f"{catalog.WALLCLOCK_SECONDS} {time.time()}",
        f'{catalog.NVIDIA_GPU_UP}{{gpu="0",uuid="GPU-0"}} {int(up)}',
    ]
    if xid_seen is not None:
        labels = 'gpu="0",uuid="GPU-0",xid="79",class="hardware"'
        lines.append(f"{catalog.NVIDIA_GPU_XID_LAST_TIMESTAMP_SECONDS}{{{labels}}} {xid_seen}")
    return "\n".join(lines) + "\n"


class Stack:
    """Two nodes, Prometheus and Alertmanager with our rules, and the webhook at the end."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.nodes = Nodes()
        stack.callback(self.nodes.close)
        self.webhook = stack.enter_context(WebhookReceiver())
        token = directory / "token"
        token.write_text("of the webhook")
        write(
            directory / "rules",
            THRESHOLDS,
            Routing(self.webhook.url, str(token), group_wait_seconds=0, group_interval_seconds=0.5),
        )
        (directory / "alertmanager").mkdir()
        self._alertmanager = stack.enter_context(
            AlertmanagerServer(
                directory / "alertmanager", (directory / "rules" / "alertmanager.yml").read_text()
            )
        )
        self._directory = directory / "prometheus"
        self._directory.mkdir()

    def prometheus(self) -> PrometheusServer:
        """A Prometheus over the same database each time."""
        return PrometheusServer(self._directory, self._config(), FLAGS)

    def _config(self) -> str:
        targets = "\n".join(
            f"    - targets: ['{self.nodes.address}']\n"
            f"      labels: {{instance: '{node}:8003', __metrics_path__: /{node}}}"
            for node in ("a", "b")
        )
        return (
            # A scrape that takes longer fails, and whatever it would have told is gone until the next.
            "global: {scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 500ms}\n"
            "rule_files: [../rules/*.yaml]\n"
            "alerting:\n"
            "  alertmanagers:\n"
            f"  - static_configs: [{{targets: ['{self._alertmanager.address}']}}]\n"
            "scrape_configs:\n"
            f"- job_name: {THRESHOLDS.job}\n"
            f"  static_configs:\n{targets}\n"
        )


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with ExitStack() as exits:
        yield Stack(tmp_path, exits)


def wait_until_scraped(prometheus: PrometheusServer, expr: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not prometheus.query(expr):
        assert time.monotonic() < deadline, f"{expr} never had a value"
        time.sleep(0.1)


def firing(notifications: list[Notification]) -> list[Notification]:
    return [notification for notification in notifications if notification.status == "firing"]


def test_one_kill_is_one_page_that_ends_when_the_run_is_started_elsewhere(stack: Stack) -> None:
    now = time.time()
    stack.nodes.pages["a"] = page_of_a_run(start=now - 60, progress=now + 3600)
    with stack.prometheus() as prometheus:
        wait_until_scraped(prometheus, f"{catalog.TRAINING_RUN_START_TIMESTAMP_SECONDS}")
        died = time.time()
        stack.nodes.pages["a"] = page_of_a_run(start=now - 60, progress=died, state="killed", end=died)
        received = stack.webhook.wait_for(lambda notifications: len(notifications) > 0, DEADLINE_SECONDS)
        assert received == [
            Notification(
                "firing",
                [{"alertname": "TrainingRunKilled", "run": "r1", "severity": "critical", "scope": "run"}],
            )
        ]
        # Long enough for the stall of the same run to be due, and for the kill to be sent again and again.
        wait_until_scraped(
            prometheus,
            f"time() - {catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS} > {THRESHOLDS.stall_seconds + 2}",
        )
        assert stack.webhook.notifications == received

        started = time.time()
        stack.nodes.pages["b"] = page_of_a_run(start=started, progress=started + 3600)
        received = stack.webhook.wait_for(lambda notifications: len(notifications) > 1, DEADLINE_SECONDS)
    assert [notification.status for notification in received] == ["firing", "resolved"]


@pytest.mark.long
def test_a_gpu_that_falls_off_the_bus_is_one_page_for_as_long_as_it_is_lost(stack: Stack) -> None:
    stack.nodes.pages["a"] = page_of_a_gpu(up=True)
    with stack.prometheus() as prometheus:
        wait_until_scraped(prometheus, f"{catalog.NVIDIA_GPU_UP} == 1")
        lost_at = time.time()
        stack.nodes.pages["a"] = page_of_a_gpu(up=False, xid_seen=lost_at)
        received = stack.webhook.wait_for(lambda notifications: len(notifications) > 0, DEADLINE_SECONDS)
        [page] = received
        [alert] = page.alerts
        assert page.status == "firing"
        assert (alert["alertname"], alert["xid"], alert["uuid"]) == ("GPUXidHardware", "79", "GPU-0")
        # Long after the XID alone would page, and after the loss is due.
        while time.time() < lost_at + THRESHOLDS.xid_page_seconds + 5:
            stack.nodes.pages["a"] = page_of_a_gpu(up=False, xid_seen=lost_at)
            time.sleep(0.2)
        wait_until_scraped(prometheus, 'ALERTS{alertname="GPULost", alertstate="firing"}')
        assert stack.webhook.notifications == received

        stack.nodes.pages["a"] = page_of_a_gpu(up=True, xid_seen=lost_at)
        received = stack.webhook.wait_for(lambda notifications: len(notifications) > 1, DEADLINE_SECONDS)
    assert [(each.status, each.alerts[0]["alertname"]) for each in received] == [
        ("firing", "GPUXidHardware"),
        ("resolved", "GPUXidHardware"),
    ]


@pytest.mark.long
def test_a_run_that_vanished_with_its_node_pages_after_prometheus_was_restarted(stack: Stack) -> None:
    start = time.time()
    stack.nodes.pages["a"] = page_of_a_run(start=start, progress=start + 3600)
    with stack.prometheus() as prometheus:
        wait_until_scraped(prometheus, f"{catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS}")
        # Ahead of the clock: the stall must not be due before Prometheus has ended, however slowly it does.
        last_progress = time.time() + 20
        stack.nodes.pages["a"] = page_of_a_run(start=start, progress=last_progress)
        wait_until_scraped(
            prometheus, f"{catalog.TRAINING_LAST_PROGRESS_TIMESTAMP_SECONDS} < {last_progress + 1}"
        )
        stack.nodes.pages.clear()
        wait_until_scraped(prometheus, 'up{instance="a:8003"} == 0')
    assert stack.webhook.notifications == []

    with stack.prometheus():
        received = stack.webhook.wait_for(lambda notifications: bool(firing(notifications)), DEADLINE_SECONDS)
    assert [notification.alerts for notification in firing(received)] == [
        [{"alertname": "TrainingStalled", "run": "r1", "severity": "critical", "scope": "run"}]
    ]
