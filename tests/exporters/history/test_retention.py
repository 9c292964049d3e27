from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporters.history import retention
from exporters.history.acknowledgements import Acknowledgements
from exporters.history.database import Database
from exporters.history.retention import DAY_SECONDS, keep
from tests.exporters.history.written import rows

NOW = 1.7e9
LONG_AGO = NOW - 91 * DAY_SECONDS


class Watched(Database):
    """Counts what each transaction changed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, wall=lambda: NOW)
        self.changes: list[int] = []
        self.is_written = False

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        with super().write() as connection:
            before = connection.total_changes
            self.is_written = True
            yield connection
            self.is_written = False
            self.changes.append(connection.total_changes - before)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Watched]:
    database = Watched(tmp_path / "history.db")
    yield database
    database.close()


def put_run(database: Database, run: str, ended_at: float | None) -> None:
    with database.write() as connection:
        connection.execute(
            "INSERT INTO runs VALUES (?, 'running', ?, ?, ?, '{}')", (run, LONG_AGO - 100, ended_at, NOW)
        )


def put_recording(
    database: Database, run: str, *, newest_at: float, attempt: int = 1, steps: int = 10
) -> None:
    """One whose steps, a second each, and their buckets end then; there is an event at each."""
    with database.write() as connection:
        recording = connection.execute(
            "INSERT INTO recordings (run, node, rank, attempt, boot_id, start_ns, wall_offset_seconds, "
            "bucketed_ns) VALUES (?, 'here', 0, ?, 'boot', 1, ?, ?) RETURNING id",
            (run, attempt, newest_at - steps, steps * 10**9),
        ).fetchone()[0]
        for number in range(1, steps + 1):
            connection.execute(
                "INSERT INTO steps (recording, end_ns, step) VALUES (?, ?, ?)",
                (recording, number * 10**9, number),
            )
            connection.execute(
                "INSERT INTO events (run, at, kind, attempt, fields) VALUES (?, ?, 'log', ?, '{}')",
                (run, newest_at - steps + number, attempt),
            )
        connection.execute(
            "INSERT INTO buckets (recording, width_seconds, bucket, end_ns, step) VALUES (?, 10, 0, ?, ?)",
            (recording, steps * 10**9, steps),
        )


def test_a_run_that_ended_long_ago_is_forgotten_with_everything(database: Watched) -> None:
    for run, at in (("old", LONG_AGO), ("new", NOW)):
        put_run(database, run, ended_at=at)
        put_recording(database, run, newest_at=at)
        Acknowledgements(database).add(run, 1, "a-person")

    keep(database)

    for table in ("runs", "recordings", "acknowledgements"):
        assert rows(database, f"SELECT run FROM {table}") == [("new",)]
    assert rows(database, "SELECT DISTINCT run FROM events") == [("new",)]
    for table, count in (("steps", 10), ("buckets", 1)):
        assert rows(database, f"SELECT count(*) FROM {table}") == [(count,)]


def test_of_a_run_that_lives_the_old_attempts_are_forgotten(database: Watched) -> None:
    put_run(database, "a-run", ended_at=None)
    put_recording(database, "a-run", newest_at=LONG_AGO, attempt=1)
    put_recording(database, "a-run", newest_at=NOW, attempt=2)

    keep(database)

    assert rows(database, "SELECT attempt FROM recordings") == [(2,)]
    assert rows(database, "SELECT count(*) FROM steps") == [(10,)]
    assert rows(database, "SELECT DISTINCT attempt FROM events") == [(2,)]
    assert rows(database, "SELECT run FROM runs") == [("a-run",)]


def test_no_transaction_deletes_more_than_a_piece(database: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_PIECE", 100)
    for run in ("one", "two"):
        put_run(database, run, ended_at=LONG_AGO)
        put_recording(database, run, newest_at=LONG_AGO, steps=450)
    with database.write() as connection:
        for series in range(250):
            connection.execute("INSERT INTO series (metric, labels) VALUES ('m', ?)", (str(series),))
            connection.execute("INSERT INTO samples VALUES (?, 10, 1, 0, 0, 0, 1)", (series + 1,))
    database.changes.clear()

    keep(database)

    assert max(database.changes) == 100
    for table in ("steps", "buckets", "events", "recordings", "runs", "samples", "series"):
        assert rows(database, f"SELECT count(*) FROM {table}") == [(0,)]


def test_where_nothing_is_due_nobody_waits(database: Watched) -> None:
    put_run(database, "a-run", ended_at=None)
    put_recording(database, "a-run", newest_at=NOW)
    database.changes.clear()

    keep(database)

    assert database.changes == []


def test_files_are_looked_for_outside_of_transactions(
    database: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.write() as connection:
        connection.execute("INSERT INTO endings VALUES ('/none', 'boot', 1, 1, NULL)")
    looked: list[bool] = []

    def exists(path: Path) -> bool:
        looked.append(database.is_written)
        return False

    monkeypatch.setattr(Path, "exists", exists)

    keep(database)

    assert looked
    assert not any(looked)
