from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from exporters.history.cursors import encoded
from tests.exporters.api.service import Service
from tests.exporters.trainers import small_recording


@pytest.fixture
def two_runs(service: Service) -> Service:
    for run in ("a-run", "b-run"):
        small_recording(service.directory, run)
    service.look()
    return service


@pytest.mark.parametrize("path", ["runs", "runs/a-run/events"])
@pytest.mark.parametrize("place", [(1.0, 10**40), (1.0, -1), (float("nan"), 1), (1.0, "\ud800")])
def test_a_cursor_that_nobody_gave_is_422(
    two_runs: Service, path: str, place: tuple[float, str | int]
) -> None:
    answer = two_runs.client.get(f"/api/v1/{path}", params={"cursor": encoded(*place)})

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "cursor"]


def test_a_cursor_of_another_list_is_422(two_runs: Service) -> None:
    of_runs = two_runs.client.get("/api/v1/runs?limit=1").json()["next_cursor"]
    of_events = encoded(1.0, 7)

    assert two_runs.client.get(f"/api/v1/runs?cursor={of_events}").status_code == 422
    assert two_runs.client.get(f"/api/v1/runs/a-run/events?cursor={of_runs}").status_code == 422


def test_a_status_that_was_spoiled_is_not_laid_to_the_cursor(two_runs: Service) -> None:
    with two_runs.database.write() as connection:
        connection.execute("INSERT INTO runs VALUES ('spoiled', 'running', 1, NULL, 1, '{}')")

    assert two_runs.client.get("/api/v1/runs").status_code == 500


def test_without_the_database_the_runs_of_the_present_are_listed_page_by_page(
    two_runs: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def unreadable() -> Iterator[sqlite3.Connection]:
        raise sqlite3.OperationalError("disk I/O error")
        yield

    monkeypatch.setattr(two_runs.database, "read", unreadable)

    found, cursor = [], ""
    for _ in range(2):
        answer = two_runs.client.get(f"/api/v1/runs?limit=1&sparkline_points=20{cursor}").json()
        found += [each["run"] for each in answer["runs"]]
        cursor = f"&cursor={answer['next_cursor']}"

    assert sorted(found) == ["a-run", "b-run"]
    assert answer["next_cursor"] is None
