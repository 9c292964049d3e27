from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families as parse_classic

import trainer_hooks
from exporters.api.app import create_app
from exporters.collector import Runner, Sample
from tests.exporters.api.service import Service, client_of
from tests.exporters.trainers import small_recording
from trainer_hooks.recording import FINISHED

parse_openmetrics: Any = parser.text_string_to_metric_families


def test_the_api_names_what_there_is_to_ask(service: Service) -> None:
    answer = service.client.get("/api/v1")

    assert answer.status_code == 200
    assert {"/metrics", "/health", "/ready", "/api/v1/runs", "/api/v1/alerts"} <= set(answer.json()["paths"])


def test_health_tells_the_version(service: Service) -> None:
    answer = service.client.get("/health")

    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ok", "version": trainer_hooks.__version__},
    )


def test_the_service_is_ready_once_every_collector_has_looked(service: Service) -> None:
    before = service.client.get("/ready")
    assert (before.status_code, before.json()) == (
        503,
        {"ready": False, "waiting_for": ["recordings", "gpu"]},
    )

    service.look()

    after = service.client.get("/ready")
    assert (after.status_code, after.json()) == (
        200,
        {"ready": True, "waiting_for": []},
    )


def test_a_collector_that_fails_is_told_as_a_problem(service: Service) -> None:
    service.look()
    small_recording(service.directory, "a-run")
    history = service.history[0]
    app = create_app([*service.runners, history], service.gpus, service.known)
    service.database.close()

    history.run_once()

    answer = client_of(app).get("/api/v1")
    assert answer.status_code == 200
    assert answer.json()["problems"] == ["history: Cannot operate on a closed database."]


def test_metrics_come_in_the_format_the_scraper_asks_for(service: Service) -> None:
    small_recording(service.directory, "a-run")
    service.look()

    classic = service.client.get("/metrics", headers={"accept": "*/*"})
    modern = service.client.get(
        "/metrics",
        headers={
            "accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        },
    )

    assert classic.headers["content-type"].startswith("text/plain; version=0.0.4; charset=utf-8")
    assert "training_steps" in {family.name for family in parse_classic(classic.text)}
    assert modern.headers["content-type"].startswith(
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    )
    assert "training_steps" in {family.name for family in parse_openmetrics(modern.text)}


class HangingCollector:
    name = "hanging"
    interval_seconds = 1.0
    deadline_seconds = 0.05

    def __init__(self) -> None:
        self.released = threading.Event()

    def collect(self) -> list[Sample]:
        assert self.released.wait(30)
        return []

    def close(self) -> None:
        pass


def test_a_scrape_does_not_wait_for_a_collector_that_hangs(service: Service) -> None:
    service.look()
    hanging = HangingCollector()
    stuck = Runner(hanging)
    stuck.start()
    client = client_of(create_app([service.recordings, stuck], service.gpus, service.known))
    client.get("/health")

    took_seconds = []
    for _ in range(3):
        began = time.perf_counter()
        body = client.get("/metrics").text
        took_seconds.append(time.perf_counter() - began)

    print(f"a scrape beside a collector that hangs: {min(took_seconds) * 1000:.1f} ms")
    # The quickest of them, since another process may hold up any; one that waits waits always.
    assert min(took_seconds) < 1
    assert 'trainvitals_collector_success{collector="recordings"} 1.0' in body
    deadline = time.monotonic() + 10
    while client.get("/ready").status_code != 200:  # once it is overdue, it is known not to answer
        assert time.monotonic() < deadline
    assert 'trainvitals_collector_success{collector="hanging"} 0.0' in client.get("/metrics").text
    hanging.released.set()
    stuck.stop()


def test_without_its_database_the_service_still_tells_of_runs(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = small_recording(service.directory, "killed")
    service.look()
    service.database.close()
    recorder.disarm()
    service.look_at_recordings()
    small_recording(service.directory, "finished").close(FINISHED, time.monotonic_ns())
    service.look_at_recordings()

    assert service.client.get("/api/v1/alerts").status_code == 503
    assert [run["run"] for run in service.client.get("/api/v1/runs").json()["runs"]] == ["finished", "killed"]
    assert service.client.get("/api/v1/runs/killed").json()["state"] == "killed"
    assert 'trainvitals_collector_success{collector="recordings"} 1.0' in service.client.get("/metrics").text
    assert "the last sign of life of" in caplog.text


def test_the_api_describes_itself(service: Service) -> None:
    description = service.client.get("/openapi.json").json()

    below = "/api/v1"
    assert description["paths"].keys() == {
        *("/health", "/ready", "/metrics", below),
        *(f"{below}/{each}" for each in ("runs", "compare", "alerts", "gpus", "gpus/release")),
        f"{below}/gpus/{{uuid}}/series",
        f"{below}/runs/{{run}}",
        *(f"{below}/runs/{{run}}/{each}" for each in ("progress", "ranks", "series", "events", "gpus")),
    }
    assert description["info"] == {"title": "trainvitals", "version": trainer_hooks.__version__}
