"""The local stack: service, Prometheus and Alertmanager as child processes on free loopback ports."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import TypeAdapter

from alerts import build
from alerts.alertmanager import Routing
from alerts.thresholds import Thresholds
from exporters.access.tokens import LOCAL_FILE
from exporters.api.models import Alert, AlertList
from exporters.runs import RunStatus
from trainvitals.child import Child, ChildError, loopback, start_server
from trainvitals.interruption import held

SERVICE, PROMETHEUS, ALERTMANAGER = "service", "prometheus", "prometheus-alertmanager"

INTERVAL_SECONDS = 1

_RUN_STATUS = TypeAdapter(RunStatus)


class Stack:
    """Service, Prometheus and Alertmanager, living as long as the `with` block.

    Everything they write is below `directory`; `recordings` in it is where trainings are to record. Scrape
    and evaluation intervals are a second. `simulate_gpus` is what `trainvitals serve` takes: `1:xid79` for
    example, `0` for the real ones. Entering raises ChildError.
    """

    def __init__(self, directory: Path, thresholds: Thresholds, *, simulate_gpus: str = "0") -> None:
        self.recordings = directory / "recordings"
        self.service_url = self.prometheus_url = self.alertmanager_url = ""
        self._directory = directory
        self._thresholds = replace(thresholds, evaluation_interval_seconds=INTERVAL_SECONDS)
        self._simulate_gpus = simulate_gpus
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        missing = [name for name in (PROMETHEUS, ALERTMANAGER) if shutil.which(name) is None]
        if missing:
            raise ChildError(f"not installed: {', '.join(missing)}; sudo apt-get install {' '.join(missing)}")
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
        """Stop every child. A Ctrl-C has to wait until that is done, or it would leave the rest behind."""
        with held():
            for child in self._children:
                child.terminate()
            while self._children:
                self._children.pop().stop()

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> Child:
        """Start a child that is stopped with the stack."""
        with held():
            child = Child(name, command, self._directory / f"{name}.log", environment=environment)
            self._children.append(child)
        return child

    def failure(self) -> str | None:
        """Which of its servers has ended, with the end of its log; None while all run.

        Waits for up to 2 s: a connection breaks some time before its process is gone.
        """
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            for child in self._children:
                if child.name in (SERVICE, PROMETHEUS, ALERTMANAGER) and not child.running:
                    return f"{child.name} has ended; the end of its log:\n{child.last_lines()}"
            time.sleep(0.05)
        return None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query of Prometheus."""
        answer = loopback.get(f"{self.prometheus_url}/api/v1/query", params={"query": expression})
        answer.raise_for_status()
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def run(self, name: str) -> RunStatus | None:
        """What the service says of a run; None while it does not know it."""
        answer = loopback.get(f"{self.service_url}/api/v1/runs/{name}")
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        return _RUN_STATUS.validate_json(answer.content)

    def alerts(self) -> list[Alert]:
        """The alerts that came through Alertmanager, the newest first."""
        answer = loopback.get(f"{self.service_url}/api/v1/alerts")
        answer.raise_for_status()
        return AlertList.model_validate_json(answer.content).alerts

    def _start_service(self) -> None:
        self.service_url = self._start_server(
            SERVICE,
            lambda address: [
                *(sys.executable, "-m", "trainvitals", "serve", "--listen", address),
                *("--dir", str(self.recordings), "--state", str(self._directory / "history.db")),
                *("--simulate-gpus", self._simulate_gpus),
                *("--stall-after", str(self._thresholds.stall_seconds)),
            ],
            ready_path="/ready",
        )

    def _start_alertmanager(self) -> None:
        routing = Routing(
            webhook_url=f"{self.service_url}/api/v1/alerts",
            token_file=str(self._directory / LOCAL_FILE),
            group_wait_seconds=1,
            group_interval_seconds=1,
        )
        build.write(self._directory / "alerts", self._thresholds, routing)
        self.alertmanager_url = self._start_server(
            ALERTMANAGER,
            lambda address: [
                ALERTMANAGER,
                f"--config.file={self._directory / 'alerts' / 'alertmanager.yml'}",
                f"--storage.path={self._directory / 'alertmanager'}",
                f"--web.listen-address={address}",
                "--cluster.listen-address=",
            ],
        )

    def _start_prometheus(self) -> None:
        config = self._directory / "prometheus.yml"
        # JSON is YAML: nothing to quote.
        config.write_text(json.dumps(self._prometheus_config(), indent=2))
        self.prometheus_url = self._start_server(
            PROMETHEUS,
            lambda address: [
                PROMETHEUS,
                f"--config.file={config}",
                f"--storage.tsdb.path={self._directory / 'prometheus'}",
                f"--web.listen-address={address}",
            ],
        )

    def _start_server(
        self, name: str, command: Callable[[str], Sequence[str]], *, ready_path: str = "/-/ready"
    ) -> str:
        log = self._directory / f"{name}.log"
        _, url = start_server(name, command, log, ready_path=ready_path, started=self._children.append)
        return url

    def _prometheus_config(self) -> dict[str, Any]:
        def targets(url: str) -> list[dict[str, list[str]]]:
            return [{"targets": [url.removeprefix("http://")]}]

        return {
            "global": {"scrape_interval": f"{INTERVAL_SECONDS}s"},
            "rule_files": [str(self._directory / "alerts" / "*.yaml")],
            "scrape_configs": [
                {"job_name": self._thresholds.job, "static_configs": targets(self.service_url)}
            ],
            "alerting": {"alertmanagers": [{"static_configs": targets(self.alertmanager_url)}]},
        }
