from __future__ import annotations

import httpx

from trainvitals.drill.sink import DEADMAN_PATH, NOTIFICATIONS_PATH, Sink

NOTIFICATION = {
    "receiver": "page",
    "status": "firing",
    "alerts": [
        {"status": "firing", "labels": {"alertname": "TrainingStalled", "run": "r1"}},
        {"status": "resolved", "labels": {"alertname": "TrainingStalled", "run": "r2"}},
    ],
}


def post(url: str, body: object) -> int:
    return httpx.post(url, json=body, trust_env=False).status_code


def test_each_alert_is_kept_with_its_own_status_and_who_was_told() -> None:
    with Sink() as sink:
        assert post(f"{sink.url}{NOTIFICATIONS_PATH}", NOTIFICATION) == 204
    assert [(each.receiver, each.status, each.labels["run"]) for each in sink.arrivals] == [
        ("page", "firing", "r1"),
        ("page", "resolved", "r2"),
    ]
    assert sink.arrivals[0].name == "TrainingStalled"


def test_what_is_no_notification_is_refused_and_not_kept() -> None:
    with Sink() as sink:
        assert post(f"{sink.url}{NOTIFICATIONS_PATH}", {"alerts": [{}]}) == 400
    assert sink.arrivals == []


def test_a_deadmans_switch_that_refuses_refuses_no_other_call() -> None:
    with Sink() as sink:
        sink.refuses_deadman = True
        assert post(f"{sink.url}{DEADMAN_PATH}", NOTIFICATION) == 403
        assert sink.arrivals == []
        assert post(f"{sink.url}{NOTIFICATIONS_PATH}", NOTIFICATION) == 204
