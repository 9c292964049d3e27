"""The files of compose/ as they are, run without containers: see `Machine` for what is put in whose place."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from alerts.lifecycle import TRAINING_RUN_KILLED
from exporters import catalog
from tests.compose.stack import Machine, in_tree
from tests.exporters.trainers import Trainer
from tests.prometheus import binary
from tests.trainer_hooks.processes import environment
from trainvitals.child import Child, loopback, start_server

pytestmark = pytest.mark.long

_JOBS = ("training-service", "prometheus", "alertmanager", "grafana", "node")


def test_a_killed_run_is_told_to_the_service_by_the_files_as_they_are(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.set_up()
    children: list[Child] = []
    try:
        service = _start_service(machine, children)
        _start(machine, children, "alertmanager", "prometheus-alertmanager", port=9093)
        prometheus = _start(
            machine,
            children,
            "prometheus",
            "prometheus",
            "--enable-feature=expand-external-labels",  # Prometheus 3 does so by itself
            port=9090,
        )
        for path in ("/metrics", "/api/v1/runs", "/api/v1/alerts"):
            assert loopback.get(f"{service}{path}").status_code == 401
        node = _start_node(machine, children, service)
        trainer = Trainer(machine.recordings, "a-run")
        trainer.do("steps(3)")
        seen = f'{catalog.TRAINING_STEPS_TOTAL}{{job="training-service", run="a-run"}}'
        _wait_until(lambda: bool(_query(prometheus, seen)))
        trainer.kill()
        token = (machine.volume("alertmanager-config") / "service-token").read_text().strip()
        known = {"Authorization": f"Bearer {token}"}

        def told() -> list[dict[str, str]]:
            answer = loopback.get(f"{service}/api/v1/alerts", headers=known)
            answer.raise_for_status()
            return [
                each["labels"]
                for each in answer.json()["alerts"]
                if each["labels"]["alertname"] == TRAINING_RUN_KILLED
            ]

        _wait_until(lambda: bool(told()))
        assert {(labels["run"], labels["cluster"]) for labels in told()} == {("a-run", "local")}
        up = 'up{{job="{}",instance="{}"}} == 1'
        here = {"training-service", "prometheus", "alertmanager"}  # the others are not
        _wait_until(lambda: {job for job in _JOBS if _query(prometheus, up.format(job, "a-machine"))} == here)
        _wait_until(lambda: bool(_query(prometheus, up.format("training-service", node))))
    finally:
        for child in reversed(children):
            child.stop()


def _start_service(machine: Machine, children: list[Child]) -> str:
    def command(address: str) -> list[str]:
        machine.addresses["0.0.0.0:8003"] = address
        return [sys.executable, "-m", "trainvitals", *machine.command("trainvitals")]

    _, url = start_server(
        "service",
        command,
        machine.root / "service.log",
        ready_path="/ready",
        started=children.append,
        environment={**environment(), **machine.environment("trainvitals")},
    )
    machine.addresses["trainvitals:8003"] = url.removeprefix("http://")
    return url


def _start_node(machine: Machine, children: list[Child], service: str) -> str:
    """Another machine's service, which registers at ours as docs/compose.md says; where it is scraped."""
    folder = machine.root / "node"
    folder.mkdir()
    token = folder / "operator-token"
    made = [sys.executable, "-m", "trainvitals", "token", "create", "node", "--role", "operator"]
    variables = {**environment(), **machine.environment("trainvitals")}
    with token.open("wb") as output:
        subprocess.run(made, env=variables, stdout=output, stderr=subprocess.DEVNULL, check=True)
    scrape_token = machine.volume("prometheus-config") / "scrape-token"

    def command(address: str) -> list[str]:
        return [
            *(sys.executable, "-m", "trainvitals", "serve", f"--listen={address}"),
            *(f"--dir={folder}", f"--state={folder / 'history.db'}"),
            *(f"--scrape-token-file={scrape_token}", f"--register-at={service}"),
            *(f"--register-as={address}", f"--register-token-file={token}"),
        ]

    _, url = start_server(
        "node",
        command,
        folder / "node.log",
        ready_path="/ready",
        started=children.append,
        environment=environment(),
    )
    return url.removeprefix("http://")


def _start(machine: Machine, children: list[Child], name: str, program: str, *more: str, port: int) -> str:
    """With the file of its configuration as it reads here, and at a free address."""

    def command(address: str) -> list[str]:
        machine.addresses[f"127.0.0.1:{port}"] = address
        return [binary(program), *_with_own_file(machine, name), f"--web.listen-address={address}", *more]

    _, url = start_server(
        name,
        command,
        machine.root / f"{name}.log",
        started=children.append,
        environment=machine.environment(name),
    )
    machine.addresses[f"{name}:{port}"] = url.removeprefix("http://")
    return url


def _with_own_file(machine: Machine, name: str) -> list[str]:
    flag = "--config.file="
    given = machine.service(name)["command"]
    [path] = [argument.removeprefix(flag) for argument in given if argument.startswith(flag)]
    try:
        file = in_tree(machine.service(name), path)
    except KeyError:  # it lies in a volume
        file = Path(machine.text(name, path))
    here = machine.root / f"{name}.yml"
    here.write_text(machine.text(name, file.read_text()))
    return [f"{flag}{here}" if word.startswith(flag) else machine.text(name, word) for word in given]


def _query(prometheus: str, expression: str) -> list[object]:
    answer = loopback.get(f"{prometheus}/api/v1/query", params={"query": expression})
    answer.raise_for_status()
    result: list[object] = answer.json()["data"]["result"]
    return result


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.5)
