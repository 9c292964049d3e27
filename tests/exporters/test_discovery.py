"""Nodes that register, and the Prometheus that finds them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

from exporters import discovery
from exporters.api import discovery as api
from exporters.history.database import Database
from exporters.registration import Registration
from tests.exporters.kubeflow import Clock, served
from tests.prometheus import PrometheusServer, Series
from tests.trainer_hooks.processes import wait_until

SD = "/api/v1/sd"
RIGHT, WRONG = "right-" + "r" * 20, "wrong-" + "w" * 20


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path, clock: Clock) -> Iterator[Database]:
    database = Database(tmp_path / "history.db", wall=clock)
    yield database
    database.close()


@pytest.fixture
def app(database: Database) -> FastAPI:
    app = FastAPI()
    app.include_router(api.routes(database), prefix="/api/v1")
    return app


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1:8003")


def addresses(client: TestClient) -> list[str]:
    return [address for group in client.get(SD).json() for address in group["targets"]]


def test_the_list_is_what_prometheus_reads_by_address(client: TestClient) -> None:
    assert client.get(SD).json() == []
    client.post(SD, json={"address": "Node-7:8003", "labels": {"rack": "b4", "cluster": "west"}})
    client.post(SD, json={"address": "[FD00:0::7]:8003", "scheme": "https"})

    answer = client.get(SD)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == [
        {
            "targets": ["[fd00::7]:8003"],
            "labels": {"__meta_trainvitals_node": "fd00::7", "__scheme__": "https"},
        },
        {
            "targets": ["node-7:8003"],
            "labels": {"rack": "b4", "cluster": "west", "__meta_trainvitals_node": "node-7"},
        },
    ]


def test_a_node_is_there_until_it_expires_and_stays_when_it_registers_anew(
    client: TestClient, clock: Clock
) -> None:
    answer = client.post(SD, json={"address": "node-7:8003", "expires_seconds": 60})
    assert answer.json() == {
        "address": "node-7:8003",
        "expires_at": 1_000_060.0,
        "expires_at_iso": "1970-01-12T13:47:40.000Z",
    }
    clock.now += 59
    client.post(SD, json={"address": "node-7:8003", "labels": {"rack": "b5"}})
    clock.now += 119
    assert client.get(SD).json()[0]["labels"]["rack"] == "b5"
    clock.now += 1
    assert addresses(client) == []


def test_nodes_outlive_a_restart_of_the_service(tmp_path: Path, database: Database, clock: Clock) -> None:
    discovery.register(database, discovery.Node(address="node-7:8003"))

    after = Database(database.path, wall=clock)
    assert [group.targets for group in discovery.target_groups(after)] == [("node-7:8003",)]
    after.close()


def test_their_number_is_bounded_but_not_for_those_that_are_there(
    client: TestClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "MOST_NODES", 2)
    for name in ("a:1", "b:1", "a:1"):
        assert client.post(SD, json={"address": name}).status_code == 200
    refused = client.post(SD, json={"address": "c:1"})
    assert (refused.status_code, refused.json()) == (503, {"detail": "2 nodes are registered already"})

    clock.now += 121
    assert client.post(SD, json={"address": "c:1"}).status_code == 200
    assert addresses(client) == ["c:1"]


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ({"address": "node-7"}, "no HOST:PORT"),
        ({"address": "node-7:0"}, "no HOST:PORT"),
        ({"address": "node-7:٣"}, "no HOST:PORT"),
        ({"address": "node-7:65536"}, "no HOST:PORT"),
        ({"address": "evil.example/path#:80"}, "no HOST:PORT"),
        ({"address": "user@node:80"}, "no HOST:PORT"),
        ({"address": "node\n:80"}, "no HOST:PORT"),
        ({"address": "fd00::7:8003"}, "no HOST:PORT"),
        ({"address": "[::7%eth0]:8003"}, "no HOST:PORT"),
        ({"address": "[zz]:8003"}, "no HOST:PORT"),
        ({"address": "a" * 300 + ":1"}, "at most 300 characters"),
        ({"address": "a:1", "labels": {"__address__": "evil:80"}}, "__address__ is not free"),
        ({"address": "a:1", "labels": {"__param_target": "x"}}, "is not free"),
        ({"address": "a:1", "labels": {"job": "node"}}, "the label job is not free"),
        ({"address": "a:1", "labels": {"instance": "b:1"}}, "the label instance is not free"),
        ({"address": "a:1", "labels": {"run": "mine"}}, "the label run is not free"),
        ({"address": "a:1", "labels": {'a="b",c': "x"}}, "a label's name has letters"),
        ({"address": "a:1", "labels": {"rack\n": "x"}}, "a label's name has letters"),
        ({"address": "a:1", "labels": {"rack": "b\n4"}}, "cannot be printed"),
        ({"address": "a:1", "labels": {"rack": "x" * 129}}, "at most 128 characters"),
        ({"address": "a:1", "labels": {"rack": ""}}, "at least 1 character"),
        ({"address": "a:1", "labels": {f"l{number}": "x" for number in range(17)}}, "at most 16 items"),
        ({"address": "a:1", "scheme": "file"}, "'http' or 'https'"),
        ({"address": "a:1", "expires_seconds": 29}, "greater than or equal to 30"),
        ({"address": "a:1", "expires_seconds": 86401}, "less than or equal to 86400"),
        ({"address": "a:1", "metrics_path": "/admin"}, "Extra inputs are not permitted"),
    ],
)
def test_what_could_harm_is_refused_with_a_sentence(
    client: TestClient, node: dict[str, Any], problem: str
) -> None:
    answer = client.post(SD, json=node)

    assert answer.status_code == 422
    assert any(problem in each["msg"] for each in answer.json()["detail"])
    assert client.get(SD).json() == []


def test_a_node_registers_with_the_token_of_its_file_and_complains_once(
    tmp_path: Path, app: FastAPI, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    told: list[str | None] = []

    @app.middleware("http")
    async def guard(request: Request, next_one: Any) -> Response:
        told.append(request.headers.get("authorization"))
        allowed = request.method == "GET" or told[-1] == f"Bearer {RIGHT}"
        return await next_one(request) if allowed else Response("who are you?", 401)

    token = tmp_path / "token"
    with served(app) as url:
        registration = Registration(f"{url}/", "node-7:8003", token)
        registration.register()
        token.write_text(f"{WRONG}\n{RIGHT}\n")
        registration.register()
        token.write_text(WRONG)
        registration.register()
        registration.register()
        token.write_text(f"{RIGHT}\n")
        registration.register()
    registration.register()
    registration.register()
    registration.close()

    assert registration.interval_seconds == 40
    assert told == [f"Bearer {WRONG}", f"Bearer {WRONG}", f"Bearer {RIGHT}"]
    assert addresses(client) == ["node-7:8003"]
    messages = [record.message for record in caplog.records if record.name == "exporters.registration"]
    assert len(messages) == 4
    assert messages[0].startswith(f"this node could not be registered at {url}/api/v1/sd: [Errno 2]")
    assert f"{token} holds no token" in messages[1]
    assert messages[2].endswith("401 who are you?")
    assert "refused" in messages[3]
    assert RIGHT not in caplog.text
    assert WRONG not in caplog.text


@pytest.mark.parametrize(
    ("url", "address", "problem"),
    [
        ("monitor:8003", "a:1", "monitor:8003 is no URL of a service"),
        ("ftp://monitor", "a:1", "ftp://monitor is no URL of a service"),
        ("http://monitor:x", "a:1", "http://monitor:x is no URL"),
        ("http://me:secret@monitor", "a:1", "^the URL of a service has no user and no password"),
        ("http://monitor", "a", "address: no HOST:PORT"),
    ],
)
def test_a_registration_that_cannot_go_well_is_refused_at_the_start(
    url: str, address: str, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        Registration(url, address)


@pytest.mark.long
def test_a_real_prometheus_scrapes_those_that_registered_and_drops_who_expired(
    tmp_path: Path, app: FastAPI, client: TestClient, clock: Clock
) -> None:
    @app.get("/metrics")
    def metrics() -> Response:
        return Response('training_step_current{run="a-run"} 7\n', media_type="text/plain")

    with served(app) as url, served(app) as other:
        stays, goes = (each.removeprefix("http://") for each in (url, other))
        client.post(SD, json={"address": stays, "labels": {"rack": "b4"}, "expires_seconds": 3600})
        client.post(SD, json={"address": goes})
        config = (
            "scrape_configs:\n"
            "  - job_name: trainvitals\n"
            "    scrape_interval: 200ms\n"
            "    scrape_timeout: 200ms\n"
            "    http_sd_configs:\n"
            f"      - {{url: '{url}{SD}', refresh_interval: 1s}}\n"
            "    relabel_configs:\n"
            "      - {source_labels: [__meta_trainvitals_node], target_label: node}\n"
        )
        with PrometheusServer(tmp_path, config) as prometheus:
            found: dict[str, Series] = {}

            def scraped() -> set[str]:
                # A scrape that comes too late takes its series along until the next.
                found.update(
                    (one.labels["instance"], one) for one in prometheus.query("training_step_current")
                )
                return {*found}

            wait_until(lambda: scraped() == {stays, goes})
            of_one = found[stays]
            clock.now += 121
            wait_until(lambda: targets_of(prometheus) == [stays])
            found.clear()
            wait_until(lambda: not prometheus.query(f'training_step_current{{instance="{goes}"}}'))
            wait_until(lambda: scraped() == {stays})

    assert of_one.labels == {
        "__name__": "training_step_current",
        "run": "a-run",
        "rack": "b4",
        "node": "127.0.0.1",
        "instance": stays,
        "job": "trainvitals",
    }


def targets_of(prometheus: PrometheusServer) -> list[str]:
    return [each["labels"]["instance"] for each in prometheus.get("/api/v1/targets")["activeTargets"]]
