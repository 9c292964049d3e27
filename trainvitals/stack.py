"""The local stack: service, Prometheus and Alertmanager as child processes on free loopback ports."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx
from pydantic import TypeAdapter

from alerts import build
from alerts.alertmanager import Routing
from alerts.thresholds import Thresholds, duration
from exporters.access.tokens import LOCAL_FILE
from exporters.api.models import Alert, AlertList
from exporters.runs import RunStatus
from trainvitals.child import Child, ChildError, loopback, start_server
from trainvitals.interruption import held
from trainvitals.node import Node

SERVICE, PROMETHEUS, ALERTMANAGER = "service", "prometheus", "prometheus-alertmanager"

INTERVAL_SECONDS = 1
# Prometheus finds Alertmanager a few seconds after its start: what fires before that is lost until it is
# sent again.
RESEND_SECONDS = 5

_RUN_STATUS = TypeAdapter(RunStatus)


class Surroundings(NamedTuple):
    """A stack that is not the usual one: `routing` tells somebody else than a service.

    Prometheus scrapes itself and Alertmanager too. `metric_relabel` and `remote_read` are sections of its
    configuration.
    """

    routing: Routing
    metric_relabel: Sequence[Mapping[str, Any]] = ()
    remote_read: Sequence[Mapping[str, Any]] = ()


class Stack:
    """Service, Prometheus and Alertmanager, living as long as the `with` block.

    Everything they write is below `directory`; `recordings` is where trainings are to record. Everything is
    scraped, and rules are evaluated, every `interval_seconds`. `simulate_gpus` is what `trainvitals serve`
    takes: `1:xid79` for example, `0` for the real ones. With `surroundings` there is no service but those
    that `node` starts. Entering raises ChildError.
    """

    def __init__(
        self,
        directory: Path,
        thresholds: Thresholds,
        *,
        simulate_gpus: str = "0",
        surroundings: Surroundings | None = None,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self.service_url = self.prometheus_url = self.alertmanager_url = ""
        self._directory = directory
        self._thresholds = replace(thresholds, evaluation_interval_seconds=interval_seconds)
        self._surroundings = surroundings
        self._children: list[Child] = []
        self._nodes: list[Node] = []
        self._service = Node(SERVICE, directory / SERVICE, self._options(simulate_gpus))
        self.recordings = self._service.recordings

    def __enter__(self) -> Self:
        missing = [name for name in (PROMETHEUS, ALERTMANAGER) if shutil.which(name) is None]
        if missing:
            raise ChildError(f"not installed: {', '.join(missing)}; sudo apt-get install {' '.join(missing)}")
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            if self._surroundings is None:
                self._start_node(self._service)
                self.service_url = self._service.url
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
            for node in self._nodes:
                node.terminate()
            while self._children:
                self._children.pop().stop()
            while self._nodes:
                self._nodes.pop().stop()

    def node(
        self,
        name: str,
        simulate_gpus: str = "0",
        *,
        cluster: str | None = None,
        environment: Mapping[str, str] | None = None,
        wrapper: Callable[[Path], Sequence[str]] = lambda recordings: (),
    ) -> Node:
        """Start a further service, scraped under the name as its `instance`. Raises ChildError."""
        node = Node(
            name,
            self._directory / name,
            self._options(simulate_gpus),
            instance=name,
            cluster=cluster,
            environment=environment,
            wrapper=wrapper,
        )
        self._start_node(node)
        return node

    def add_rules(self, name: str, text: str) -> Path:
        """Give Prometheus a further rule file, while it runs; returns its path."""
        path = self._rules / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        for child in self._children:
            if child.name == PROMETHEUS:
                child.process.send_signal(signal.SIGHUP)
        return path

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
            ended = self.ended()
            if ended:
                return ended
            time.sleep(0.05)
        return None

    def ended(self) -> str | None:
        """`failure` without a wait."""
        for child in self._children:
            if child.name in (PROMETHEUS, ALERTMANAGER) and not child.running:
                return _end_of(child)
        for node in self._nodes:
            if node.failed:
                return _end_of(node.failed)
        return None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query of Prometheus."""
        answer = loopback.get(f"{self.prometheus_url}/api/v1/query", params={"query": expression})
        answer.raise_for_status()
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def sees(self, expression: str) -> bool:
        """Whether an instant query of Prometheus has any result; False where Prometheus cannot be asked."""
        try:
            return bool(self.query(expression))
        except httpx.HTTPError:
            return False

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

    @property
    def _rules(self) -> Path:
        return self._directory / "alerts"

    def _options(self, simulate_gpus: str) -> list[str]:
        return ["--simulate-gpus", simulate_gpus, "--stall-after", str(self._thresholds.stall_seconds)]

    def _start_node(self, node: Node) -> None:
        self._nodes.append(node)
        node.start()
        self._write_targets()

    def _write_targets(self) -> None:
        """Renamed into place: Prometheus never reads half of it."""
        beside = self._directory / "targets.new"
        beside.write_text(json.dumps([node.target() for node in self._nodes if node.url]))
        beside.replace(self._directory / "targets.json")

    def _routing(self) -> Routing:
        if self._surroundings is not None:
            return self._surroundings.routing
        return Routing(
            webhook_url=f"{self.service_url}/api/v1/alerts",
            token_file=str(self._service.directory / LOCAL_FILE),
            group_wait_seconds=1,
            group_interval_seconds=1,
        )

    def _start_alertmanager(self) -> None:
        build.write(self._rules, self._thresholds, self._routing())
        self.alertmanager_url = self._start_server(
            ALERTMANAGER,
            lambda address: [
                ALERTMANAGER,
                f"--config.file={self._rules / 'alertmanager.yml'}",
                f"--storage.path={self._directory / 'alertmanager'}",
                f"--web.listen-address={address}",
                "--cluster.listen-address=",
            ],
        )

    def _start_prometheus(self) -> None:
        config = self._directory / "prometheus.yml"

        def command(address: str) -> list[str]:
            # JSON is YAML: nothing to quote.
            config.write_text(json.dumps(self._prometheus_config(address), indent=2))
            return [
                PROMETHEUS,
                f"--config.file={config}",
                f"--storage.tsdb.path={self._directory / 'prometheus'}",
                f"--web.listen-address={address}",
                f"--rules.alert.resend-delay={RESEND_SECONDS}s",
            ]

        self._write_targets()
        self.prometheus_url = self._start_server(PROMETHEUS, command)

    def _start_server(self, name: str, command: Callable[[str], Sequence[str]]) -> str:
        log = self._directory / f"{name}.log"
        _, url = start_server(name, command, log, started=self._children.append)
        return url

    def _prometheus_config(self, prometheus_address: str) -> dict[str, Any]:
        alertmanager = [{"targets": [self.alertmanager_url.removeprefix("http://")]}]
        jobs: list[dict[str, Any]] = [
            {
                "job_name": self._thresholds.job,
                "file_sd_configs": [{"files": [str(self._directory / "targets.json")]}],
            }
        ]
        config: dict[str, Any] = {
            "global": {"scrape_interval": duration(self._thresholds.evaluation_interval_seconds)},
            "rule_files": [str(self._rules / "*.yaml")],
            "scrape_configs": jobs,
            "alerting": {"alertmanagers": [{"static_configs": alertmanager}]},
        }
        if self._surroundings is not None:
            jobs[0]["metric_relabel_configs"] = list(self._surroundings.metric_relabel)
            for job, targets in (
                (PROMETHEUS, [{"targets": [prometheus_address]}]),
                (ALERTMANAGER, alertmanager),
            ):
                labels = {"instance": job}
                jobs.append(
                    {"job_name": job, "static_configs": [{**each, "labels": labels} for each in targets]}
                )
            config["remote_read"] = list(self._surroundings.remote_read)
        return config


def _end_of(child: Child) -> str:
    return f"{child.name} has ended; the end of its log:\n{child.last_lines()}"
