from __future__ import annotations

import json
import resource
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.exporters.api.service import Service

ALERTS = "/api/v1/alerts"


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


def test_an_alert_is_stored_and_listed(service: Service) -> None:
    answer = service.client.post(ALERTS, json=notification("TrainingRunKilled"))
    assert (answer.status_code, answer.json()) == (200, {"stored": 1})

    (alert,) = service.client.get(ALERTS).json()["alerts"]

    assert alert["labels"] == {"alertname": "TrainingRunKilled", "run": "a-run", "severity": "critical"}
    assert alert["annotations"] == {"summary": "Run a-run was killed."}
    assert (alert["status"], alert["notifications"]) == ("firing", 1)
    assert alert["starts_at_iso"] == "2026-11-22T20:03:07.123Z"
    assert (alert["ends_at"], alert["ends_at_iso"]) == (None, None)
    assert alert["generator_url"] == "http://127.0.0.1:9090/graph?g0.expr=up"


def test_the_same_alert_again_is_one_alert_and_its_end_is_seen(service: Service) -> None:
    for status in ("firing", "firing", "resolved"):
        service.client.post(ALERTS, json=notification("TrainingStalled", "GPUMemoryHigh", status=status))

    alerts = service.client.get(ALERTS).json()["alerts"]

    assert [(alert["status"], alert["notifications"]) for alert in alerts] == [("resolved", 3)] * 2


def test_an_alert_that_starts_anew_is_another_alert(service: Service) -> None:
    for start, status in (("20:00", "firing"), ("20:00", "resolved"), ("21:00", "firing")):
        moment = f"2026-11-22T{start}:00Z"
        service.client.post(ALERTS, json=notification("TrainingStalled", status=status, startsAt=moment))

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
    assert f"POST '{ALERTS}': the database cannot be used" in caplog.text
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


def test_alerts_that_alertmanager_left_out_are_told(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.client.post(ALERTS, json={**notification("Any"), "truncatedAlerts": 7})

    assert "Alertmanager left out 7 alerts: raise its max_alerts" in caplog.text
