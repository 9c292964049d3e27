"""The service put together: what runs by the clock, and how it stops."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters import service as put_together
from exporters.access.access import open_access
from exporters.gpu.simulated import Simulation
from exporters.history import retention
from exporters.history.database import Database
from exporters.service import Service, Trainings
from tests.trainer_hooks.processes import wait_until


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "history.db")
    yield database
    database.close()


@pytest.fixture
def service(tmp_path: Path, database: Database) -> Service:
    trainings = Trainings([tmp_path / "recordings"], database)
    return Service(open_access(tmp_path), trainings, simulation=Simulation(1))


def test_the_history_is_thinned_again_and_again_also_after_a_failure(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    thinned: list[Database] = []

    def keep(history: Database) -> None:
        thinned.append(history)
        if len(thinned) == 1:
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(retention, "keep", keep)
    monkeypatch.setattr(put_together, "THIN_EVERY_SECONDS", 0.1)
    service.start()
    try:
        wait_until(lambda: len(thinned) >= 3)
    finally:
        service.stop()

    assert set(thinned) == {database}
    assert "the history could not be thinned: disk I/O error" in caplog.text


def test_a_service_that_never_started_stops(service: Service, database: Database) -> None:
    service.stop()

    with pytest.raises(sqlite3.ProgrammingError, match="closed"), database.read():
        pass
