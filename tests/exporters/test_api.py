from __future__ import annotations

import json
import math
import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families as parse_classic

import trainer_hooks
from exporters.api import MOST_BODY_BYTES, create_app
from exporters.collector import Runner, Sample
from exporters.gpu.node import NvmlGpus
from exporters.gpu.simulated import SimulatedGpus, Simulation
from exporters.history import History
from exporters.recordings import RecordingsCollector
from tests.exporters.trainers import set_slot, small_recording
from tests.fake_nvml import Machine
from trainer_hooks.monitor import Monitor
from trainer_hooks.recording import FINISHED

parse_openmetrics: Any = parser.text_string_to_metric_families
ALERTS = "/api/v1/alerts"


class Service:
    """The application over real recordings, without the threads: `look` has the collector look once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "recordings"
        self.history = History(directory / "history.db")
        collector = RecordingsCollector([self.directory], last_seen=self.history)
        self.runner = Runner(collector)
        self.gpus = SimulatedGpus(Simulation(2), lambda: collector.processes)
        self.gpu_runner = Runner(self.gpus)
        self.app = create_app(collector, [self.runner, self.gpu_runner], self.history, self.gpus)
        self.client = self.client_of("http://127.0.0.1:8003")

    def client_of(self, url: str) -> TestClient:
        return TestClient(self.app, base_url=url, raise_server_exceptions=False)

    def look(self) -> None:
        for runner in (self.runner, self.gpu_runner):
            runner.run_once()
            assert runner.error is None

    def close(self) -> None:
        self.runner.stop()
        self.history.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


def notification(*names: str, status: str = "firing", **alert: Any) -> dict[str, Any]:
    """What Alertmanager 0.25 posts."""
    return {
        "version": "4",
        "groupKey": '{}:{alertname="TrainingRunKilled"}',
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "trainvitals",
        "groupLabels": {"alertname": names[0]} if names else {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://127.0.0.1:9093",
        "alerts": [
            {
                "status": status,
                "labels": {"alertname": name, "run": "a-run", "severity": "critical"},
                "annotations": {"summary": "Run a-run was killed."},
                "startsAt": "2026-11-22T21:03:07.123456789+01:00",
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": "http://127.0.0.1:9090/graph?g0.expr=up",
                "fingerprint": f"of{name}",
                **alert,
            }
            for name in names
        ],
    }


def test_the_root_names_what_there_is_to_ask(service: Service) -> None:
    answer = service.client.get("/")

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
    assert (after.status_code, after.json()) == (200, {"ready": True, "waiting_for": []})


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


def test_a_scrape_does_not_wait_for_a_collector_that_hangs(service: Service, tmp_path: Path) -> None:
    service.look()
    hanging = HangingCollector()
    stuck = Runner(hanging)
    stuck.start()
    app = create_app(RecordingsCollector([]), [service.runner, stuck], service.history, service.gpus)
    client = TestClient(app, base_url="http://localhost")
    client.get("/health")

    began = time.perf_counter()
    body = client.get("/metrics").text
    took_seconds = time.perf_counter() - began

    print(f"a scrape beside a collector that hangs: {took_seconds * 1000:.1f} ms")
    assert took_seconds < 1
    assert 'trainvitals_collector_success{collector="recordings"} 1.0' in body
    deadline = time.monotonic() + 10
    while client.get("/ready").status_code != 200:  # once it is overdue, it is known not to answer
        assert time.monotonic() < deadline
    assert 'trainvitals_collector_success{collector="hanging"} 0.0' in client.get("/metrics").text
    hanging.released.set()
    stuck.stop()


def test_runs_are_listed_the_newest_start_first(service: Service) -> None:
    assert service.client.get("/api/v1/runs").json() == {"runs": []}
    for run in ("first", "second"):
        small_recording(service.directory, run)
        time.sleep(0.002)
    service.look()

    assert [run["run"] for run in service.client.get("/api/v1/runs").json()["runs"]] == ["second", "first"]


def test_a_run_tells_its_state_its_progress_and_its_last_losses(service: Service) -> None:
    monitor = Monitor(
        run="a-run", rank=0, world_size=1, directory=service.directory, loss_kind="cross_entropy"
    )
    monitor.expect(steps=4, epochs=1)
    for _ in range(2):
        with monitor.step():
            monitor.batch(loss=2.0, tokens=10, trained_tokens=10)
    monitor.log(epoch=0.5)
    monitor.evaluated(loss=1.0, tokens=10)
    service.look()

    run = service.client.get("/api/v1/runs/a-run").json()
    monitor.finish()

    expected = {
        "run": "a-run",
        "state": "running",
        "reason": None,
        "attempt": 1,
        "ended_at": None,
        "step": 2,
        "steps_expected": 4,
        "resumed_from_step": None,
        "epoch": 0.5,
        "epochs_expected": 1.0,
        "progress_ratio": 0.5,
        "loss": 2.0,
        "perplexity": pytest.approx(math.exp(2)),
        "validation_loss": 1.0,
        "validation_loss_best": 1.0,
        "validation_perplexity": pytest.approx(math.e),
        "world_size": 1,
        "info": {"loss_kind": "cross_entropy"},
    }
    assert {key: run[key] for key in expected} == expected
    assert run["eta_seconds"] >= 0
    assert run["tokens_per_second"] > 0
    assert run["started_at"] == pytest.approx(time.time(), abs=20)
    (rank,) = run["ranks"]
    assert (rank["rank"], rank["state"], rank["phase"]) == (0, "running", "other")


def test_an_unknown_run_is_404_and_the_known_ones_are_named(service: Service) -> None:
    for run in ("one", "two"):
        small_recording(service.directory, run)
        time.sleep(0.002)
    service.look()

    answer = service.client.get("/api/v1/runs/three")

    assert answer.status_code == 404
    assert answer.json()["detail"] == {
        "message": "no run 'three'; known are: two, one",
        "known_runs": ["two", "one"],
    }


def test_an_unknown_run_is_404_where_no_run_is_known(service: Service) -> None:
    answer = service.client.get("/api/v1/runs/any")

    assert answer.status_code == 404
    assert answer.json()["detail"]["message"] == "no run 'any'; known are: none"


def test_a_number_that_json_cannot_hold_is_null(service: Service) -> None:
    recorder = small_recording(service.directory, "a-run", info={"loss_kind": "cross_entropy"})
    set_slot(recorder, validation_loss=1e4, validation_loss_tokens=10, loss=math.inf, epoch=-math.inf)
    service.look()

    run = service.client.get("/api/v1/runs/a-run").json()
    metrics = service.client.get("/metrics").text

    assert (run["validation_loss"], run["validation_perplexity"]) == (1e4, None)
    assert (run["loss"], run["epoch"]) == (None, None)
    assert 'validation_perplexity{run="a-run"} +Inf' in metrics
    assert service.client.get("/api/v1/runs").status_code == 200


def test_names_of_files_in_any_bytes_spoil_neither_page(service: Service) -> None:
    small_recording(service.directory, "a-run", info={"model path": "weights-\udcff"})
    service.look()

    assert service.client.get("/api/v1/runs/a-run").json()["info"] == {"model_path": "weights-?"}
    assert 'model_path="weights-?"' in service.client.get("/metrics").text


def test_an_alert_is_stored_and_listed(service: Service) -> None:
    answer = service.client.post(ALERTS, json=notification("TrainingRunKilled"))
    assert (answer.status_code, answer.json()) == (200, {"stored": 1})

    (alert,) = service.client.get(ALERTS).json()["alerts"]

    assert alert["labels"] == {"alertname": "TrainingRunKilled", "run": "a-run", "severity": "critical"}
    assert alert["annotations"] == {"summary": "Run a-run was killed."}
    assert (alert["status"], alert["notifications"]) == ("firing", 1)
    assert alert["startsAt"] == "2026-11-22T21:03:07.123456+01:00"
    assert alert["generatorURL"] == "http://127.0.0.1:9090/graph?g0.expr=up"


def test_the_same_alert_again_is_one_alert_and_its_end_is_seen(service: Service) -> None:
    for status in ("firing", "firing", "resolved"):
        service.client.post(ALERTS, json=notification("TrainingStalled", "GPUMemoryHigh", status=status))

    alerts = service.client.get(ALERTS).json()["alerts"]

    assert [(alert["status"], alert["notifications"]) for alert in alerts] == [("resolved", 3)] * 2


def test_an_alert_that_starts_anew_is_another_alert(service: Service) -> None:
    for start in ("2026-11-22T20:00:00Z", "2026-11-22T21:00:00Z"):
        service.client.post(ALERTS, json=notification("TrainingStalled", startsAt=start))

    assert len(service.client.get(ALERTS).json()["alerts"]) == 2


def test_a_notification_without_alerts_is_fine(service: Service) -> None:
    assert service.client.post(ALERTS, json=notification()).json() == {"stored": 0}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'"4"',
        b'{"version": "4", "status": "firing", "receiver": "r", "alerts": "none"}',
        b'{"version": "4", "status": "firing", "receiver": "r", "alerts": [{}]}',
    ],
)
def test_what_is_no_notification_is_422(service: Service, body: bytes) -> None:
    answer = service.client.post(ALERTS, content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 422
    assert answer.json()["detail"]


@pytest.mark.parametrize("body", [b'{"version": "\xff"}', b"\xff\xfe", b"[" * 5000])
def test_bytes_that_are_no_text_and_endless_nesting_are_refused(service: Service, body: bytes) -> None:
    answer = service.client.post(ALERTS, content=body, headers={"content-type": "application/json"})

    assert answer.status_code in (400, 422)


@pytest.mark.parametrize(
    "changes",
    [{"version": "3"}, {"version": 4}, {"status": "maybe"}, {"alerts": None}],
)
def test_a_notification_of_another_version_or_shape_is_422(service: Service, changes: dict[str, Any]) -> None:
    answer = service.client.post(ALERTS, json={**notification("TrainingStalled"), **changes})

    assert answer.status_code == 422
    assert service.client.get(ALERTS).json() == {"alerts": []}


@pytest.mark.parametrize(
    "changes",
    [
        {"startsAt": "yesterday"},
        {"startsAt": "2026-11-22T20:00:00"},
        {"fingerprint": ""},
        {"labels": {"a": 1}},
    ],
)
def test_a_notification_with_one_bad_alert_is_422(service: Service, changes: dict[str, Any]) -> None:
    assert service.client.post(ALERTS, json=notification("TrainingStalled", **changes)).status_code == 422


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_what_a_page_of_another_site_could_post_is_415(service: Service, content_type: str | None) -> None:
    """A browser sends these types across sites without asking; a JSON body it would have to ask for.

    Older versions of FastAPI take a body without a type for JSON.
    """
    body = json.dumps(notification("TrainingStalled")).encode()
    headers = {"content-type": content_type} if content_type else {}

    answer = service.client.post(ALERTS, content=body, headers=headers)

    assert answer.status_code == 415
    assert answer.json()["detail"].endswith("is not application/json")
    assert service.client.get(ALERTS).json() == {"alerts": []}


def test_json_with_a_charset_is_accepted(service: Service) -> None:
    body = json.dumps(notification("Any")).encode()
    headers = {"content-type": "Application/JSON; charset=utf-8"}

    assert service.client.post(ALERTS, content=body, headers=headers).status_code == 200


def test_the_name_of_an_alert_stays_on_its_line_of_the_log(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    service.client.post(ALERTS, json=notification("Any\n2026-01-01 ERROR forged"))

    (line,) = (each.getMessage() for each in caplog.records if "forged" in each.getMessage())
    assert "\n" not in line


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost", "[::1]"])
@pytest.mark.parametrize("port", ["", ":8003"])
def test_a_write_to_this_machine_is_accepted(service: Service, host: str, port: str) -> None:
    answer = service.client.post(ALERTS, json=notification("Any"), headers={"host": host + port})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8003", "127.0.0.1.evil.example", "localhost.evil:8003", "[::2]:8003", ""],
)
def test_a_write_under_a_foreign_name_is_refused_and_reading_is_not(service: Service, host: str) -> None:
    answer = service.client.post(ALERTS, json=notification("Any"), headers={"host": host})

    assert answer.status_code == 403
    assert "is not one of localhost" in answer.json()["detail"]
    assert service.client.get("/api/v1/runs", headers={"host": host}).status_code == 200
    assert service.client.get(ALERTS).json() == {"alerts": []}


def test_a_body_of_more_than_a_megabyte_is_413_whatever_its_headers_say(service: Service) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while taken < 100 * MOST_BODY_BYTES:
            taken += 100_000
            yield b"x" * 100_000

    told = service.client.post(
        ALERTS, content=b"x" * (MOST_BODY_BYTES + 1), headers={"content-type": "application/json"}
    )
    untold = service.client.post(ALERTS, content=endless(), headers={"content-type": "application/json"})

    assert told.status_code == untold.status_code == 413
    assert told.json()["detail"] == "the body has more than 1000000 bytes"


def test_alerts_survive_a_restart(service: Service, tmp_path: Path) -> None:
    service.client.post(ALERTS, json=notification("TrainingRunKilled"))
    before = service.client.get(ALERTS).json()
    service.close()

    again = Service(tmp_path)

    assert again.client.get(ALERTS).json() == before
    again.close()


def test_a_full_disk_is_503_and_a_line_in_the_log_and_the_next_try_succeeds(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"Alert{number}" for number in range(900)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = (tmp_path / "history.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, before[1]))
    try:
        answer = service.client.post(ALERTS, json=notification(*names))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("the database cannot be used: ")
    assert f"POST {ALERTS}: the database cannot be used" in caplog.text
    assert service.client.get(ALERTS).json() == {"alerts": []}
    assert service.client.post(ALERTS, json=notification(*names)).json() == {"stored": 900}


def test_a_locked_database_is_503_until_it_is_free(service: Service, tmp_path: Path) -> None:
    """sqlite waits 5 seconds for the lock."""
    other = sqlite3.connect(tmp_path / "history.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    answer = service.client.post(ALERTS, json=notification("Any"))
    assert (answer.status_code, answer.json()) == (
        503,
        {"detail": "the database cannot be used: database is locked"},
    )

    other.close()
    assert service.client.post(ALERTS, json=notification("Any")).status_code == 200


def test_without_its_database_the_service_still_tells_of_runs(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = small_recording(service.directory, "killed")
    service.look()
    service.history.close()
    recorder.disarm()
    service.look()
    small_recording(service.directory, "finished").close(FINISHED, time.monotonic_ns())
    service.look()

    assert service.client.get(ALERTS).status_code == 503
    assert service.client.get("/api/v1/runs/killed").json()["state"] == "killed"
    assert 'trainvitals_collector_success{collector="recordings"} 1.0' in service.client.get("/metrics").text
    assert "the last sign of life of" in caplog.text


def test_the_api_describes_itself(service: Service) -> None:
    description = service.client.get("/openapi.json").json()

    assert description["paths"].keys() == {
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/api/v1/runs",
        "/api/v1/runs/{run}",
        "/api/v1/alerts",
        "/api/v1/gpus",
        "/api/v1/gpus/release",
    }
    assert description["info"] == {"title": "trainvitals", "version": trainer_hooks.__version__}


def test_gpus_are_told_with_the_ranks_on_them_and_the_last_window(service: Service) -> None:
    small_recording(service.directory, "a-run")
    service.look()

    answer = service.client.get("/api/v1/gpus").json()

    assert answer["problems"] == []
    first, second = answer["gpus"]

    assert (first["gpu"], first["uuid"], first["up"]) == (0, "SIMULATED-0", True)
    assert first["ranks"] == [{"run": "a-run", "rank": 0}]
    assert 0 < first["tensor_active_ratio"] < 1
    assert second["ranks"] == []


def test_simulated_gpus_have_no_driver_to_let_go_of(service: Service) -> None:
    for answer in (
        service.client.post("/api/v1/gpus/release", json={"seconds": 5}),
        service.client.request("DELETE", "/api/v1/gpus/release"),
    ):
        assert (answer.status_code, answer.json()["detail"]) == (
            409,
            "these GPUs are simulated: no driver is held",
        )


class NodeOfGpus:
    """The application over GPUs of the double only, without threads."""

    def __init__(self) -> None:
        self.gpus = NvmlGpus(kernel_log=Path("/nonexistent"))
        self.runners = [Runner(each) for each in self.gpus.collectors]
        app = create_app(None, self.runners, None, self.gpus)
        self.client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)

    def look(self) -> list[str | None]:
        """One round of each; the errors."""
        for runner in self.runners:
            runner.run_once()
        return [runner.error for runner in self.runners]


def test_nvml_is_released_for_a_reload_of_the_driver_and_taken_up_again(machine: Machine) -> None:
    node = NodeOfGpus()
    assert node.look() == [None] * len(node.runners)
    assert "nvidia_gpu_up" in node.client.get("/metrics").text

    answer = node.client.post("/api/v1/gpus/release", json={"seconds": 600})

    assert answer.json() == {"closed": True, "seconds_left": pytest.approx(600, abs=5)}
    assert node.look() == ["NVML is released; it is taken up again by itself"] * len(node.runners)
    assert "nvidia_gpu_up" not in node.client.get("/metrics").text
    answer = node.client.get("/api/v1/gpus").json()
    released = "NVML is released; it is taken up again by itself"
    assert answer["gpus"] == []
    assert answer["problems"] == [f"{', '.join(each.collector.name for each in node.runners)}: {released}"]
    assert node.client.delete("/api/v1/gpus/release").json() == {"closed": True, "seconds_left": 0.0}
    assert node.look() == [None] * len(node.runners)
    assert len(node.client.get("/api/v1/gpus").json()["gpus"]) == 2
    node.gpus.close()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"host": "evil.example"}, {"seconds": 5}, 403),
        ({"content-type": "text/plain"}, {"seconds": 5}, 415),
        ({}, {"seconds": 0}, 422),
        ({}, {"seconds": 3601}, 422),
        ({}, {}, 422),
    ],
)
def test_a_release_is_taken_from_nobody_else_and_for_an_hour_at_most(
    machine: Machine, headers: dict[str, str], body: dict[str, float], status: int
) -> None:
    node = NodeOfGpus()
    node.look()

    answer = node.client.post("/api/v1/gpus/release", json=body, headers=headers)

    assert answer.status_code == status
    if status == 403:
        assert node.client.delete("/api/v1/gpus/release", headers=headers).status_code == 403
    assert node.look() == [None] * len(node.runners)
    node.gpus.close()


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "1e400"])
def test_a_release_for_no_time_that_could_be_told_is_refused(machine: Machine, seconds: str) -> None:
    node = NodeOfGpus()

    answer = node.client.post(
        "/api/v1/gpus/release",
        content=f'{{"seconds": {seconds}}}',
        headers={"content-type": "application/json"},
    )

    assert answer.status_code == 422
    node.gpus.close()


def test_without_recordings_there_are_gpus_only(machine: Machine) -> None:
    paths = NodeOfGpus().client.get("/openapi.json").json()["paths"].keys()

    assert {"/metrics", "/api/v1/gpus"} <= paths
    assert not {"/api/v1/runs", "/api/v1/alerts"} & paths
