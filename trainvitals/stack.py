"""The local stack: service, Prometheus and Alertmanager as child processes on free loopback ports."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from alerts import build
from alerts.alertmanager import Routing
from alerts.thresholds import Thresholds

READY_SECONDS = 60.0
STOP_SECONDS = 10.0
PROMETHEUS, ALERTMANAGER = "prometheus", "prometheus-alertmanager"


class StackError(Exception):
    """A part of the stack did not start; the message says which, and shows the end of its log."""


class Child:
    """A child process in a session of its own, its output in a log file."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is for us, who then stop our children in order
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait_until(self, url: str) -> None:
        """Wait until the URL answers with success. Raises StackError when the process ends or time is up."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.running:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url, timeout=5).is_success:
                    return
            time.sleep(0.05)
        raise StackError(f"{self.name} did not become ready; the end of its log:\n{self.last_lines()}")

    def last_lines(self, count: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def stop(self) -> None:
        """End the process and whatever it started in its session; by force when it does not go."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class Stack:
    """Service, Prometheus and Alertmanager, living as long as the `with` block.

    Everything they write is below `directory`; `recordings` in it is where trainings are to record. Scrape
    and evaluation intervals are a second. Entering raises StackError.
    """

    def __init__(self, directory: Path, thresholds: Thresholds, *, simulate_gpus: int = 0) -> None:
        self.recordings = directory / "recordings"
        self.service_url = self.prometheus_url = self.alertmanager_url = ""
        self._directory = directory
        self._thresholds = thresholds
        self._simulate_gpus = simulate_gpus
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        missing = [name for name in (PROMETHEUS, ALERTMANAGER) if shutil.which(name) is None]
        if missing:
            raise StackError(f"not installed: {', '.join(missing)}; sudo apt-get install {' '.join(missing)}")
        self.recordings.mkdir(parents=True, exist_ok=True)
        try:
            self._start_service()
            self._start_alertmanager()
            self._start_prometheus()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        while self._children:
            self._children.pop().stop()

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> Child:
        """Start a child that is stopped with the stack."""
        child = Child(name, command, self._directory / f"{name}.log", environment=environment)
        self._children.append(child)
        return child

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query of Prometheus."""
        answer = httpx.get(f"{self.prometheus_url}/api/v1/query", params={"query": expression}, timeout=10)
        answer.raise_for_status()
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def run(self, name: str) -> dict[str, Any] | None:
        """What the service says of a run; None while it does not know it."""
        answer = httpx.get(f"{self.service_url}/api/v1/runs/{name}", timeout=10)
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        run: dict[str, Any] = answer.json()
        return run

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that came through Alertmanager, the newest first."""
        answer = httpx.get(f"{self.service_url}/api/v1/alerts", timeout=10)
        answer.raise_for_status()
        alerts: list[dict[str, Any]] = answer.json()["alerts"]
        return alerts

    def _start_service(self) -> None:
        port = _free_port()
        self.service_url = f"http://127.0.0.1:{port}"
        service = self.start(
            "service",
            *(sys.executable, "-m", "trainvitals", "serve"),
            *("--listen", f"127.0.0.1:{port}"),
            *("--dir", str(self.recordings)),
            *("--state", str(self._directory / "history.db")),
            *("--simulate-gpus", str(self._simulate_gpus)),
            *("--stall-after", str(self._thresholds.stall_seconds)),
        )
        service.wait_until(f"{self.service_url}/ready")

    def _start_alertmanager(self) -> None:
        routing = Routing(
            webhook_url=f"{self.service_url}/api/v1/alerts", group_wait_seconds=1, group_interval_seconds=1
        )
        build.write(self._directory / "alerts", self._thresholds, routing)
        port = _free_port()
        self.alertmanager_url = f"http://127.0.0.1:{port}"
        alertmanager = self.start(
            "alertmanager",
            ALERTMANAGER,
            f"--config.file={self._directory / 'alerts' / 'alertmanager.yml'}",
            f"--storage.path={self._directory / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        )
        alertmanager.wait_until(f"{self.alertmanager_url}/-/ready")

    def _start_prometheus(self) -> None:
        config = self._directory / "prometheus.yml"
        # JSON is YAML: nothing to quote.
        config.write_text(json.dumps(self._prometheus_config(), indent=2))
        port = _free_port()
        self.prometheus_url = f"http://127.0.0.1:{port}"
        prometheus = self.start(
            "prometheus",
            PROMETHEUS,
            f"--config.file={config}",
            f"--storage.tsdb.path={self._directory / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        prometheus.wait_until(f"{self.prometheus_url}/-/ready")

    def _prometheus_config(self) -> dict[str, Any]:
        def targets(url: str) -> list[dict[str, list[str]]]:
            return [{"targets": [url.removeprefix("http://")]}]

        return {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(self._directory / "alerts" / "*.yaml")],
            "scrape_configs": [
                {"job_name": self._thresholds.job, "static_configs": targets(self.service_url)}
            ],
            "alerting": {"alertmanagers": [{"static_configs": targets(self.alertmanager_url)}]},
        }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
