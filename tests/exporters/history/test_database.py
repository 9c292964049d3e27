from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from exporters.history import database as module
from exporters.history.database import Database
from tests.exporters.history.written import rows


def put(database: Database, run: str) -> None:
    with database.write() as connection:
        connection.execute("INSERT INTO events (run, at, kind, fields) VALUES (?, 0, 'start', '{}')", (run,))


def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    def put_and_fail() -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO events (run, at, kind, fields) VALUES ('a', 0, 'start', '{}')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        put_and_fail()

    put(database, "b")
    assert rows(database, "SELECT run FROM events") == [("b",)]


def test_a_reader_waits_for_no_writer_and_sees_what_was_kept(database: Database) -> None:
    put(database, "before")
    with database.write() as connection:
        connection.execute("INSERT INTO events (run, at, kind, fields) VALUES ('in', 0, 'start', '{}')")
        assert rows(database, "SELECT run FROM events") == [("before",)]

    assert rows(database, "SELECT run FROM events") == [("before",), ("in",)]


def test_each_thread_reads_by_itself(database: Database) -> None:
    put(database, "a")
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.extend(rows(database, "SELECT run FROM events")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [("a",)] * 8


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    content = b"no database at all, and long enough to be sure of it" * 100
    path.write_bytes(content)

    with pytest.raises(sqlite3.DatabaseError):
        Database(path)

    assert path.read_bytes() == content


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Database(tmp_path / "history.db").close()
    with sqlite3.connect(tmp_path / "history.db") as connection:
        connection.execute(f"PRAGMA user_version = {module.VERSION + 1}")
    connection.close()

    with pytest.raises(sqlite3.Error, match="newer trainvitals"):
        Database(tmp_path / "history.db")


def test_a_damaged_file_is_kept_aside_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "history.db"
    database = Database(path)
    put(database, "a")
    database.close()
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996  # the page that says which tables there are
    path.write_bytes(content)

    database = Database(path)

    assert rows(database, "SELECT run FROM events") == []
    put(database, "b")
    (aside,) = tmp_path.glob("history.db.damaged-*")
    assert aside.read_bytes() == content
    assert aside.name in caplog.text
    database.close()


@pytest.fixture
def first_version(tmp_path: Path) -> Path:
    """A file of it."""
    path = tmp_path / "history.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE alerts (fingerprint TEXT NOT NULL, starts_at TEXT NOT NULL, status TEXT NOT NULL, "
            "received_at REAL NOT NULL, notifications INTEGER NOT NULL, alert TEXT NOT NULL, "
            "PRIMARY KEY (fingerprint, starts_at));"
            "CREATE TABLE endings (path TEXT NOT NULL, boot_id TEXT NOT NULL, "
            "seen_alive_ns INTEGER NOT NULL, PRIMARY KEY (path, boot_id));"
            "INSERT INTO endings VALUES ('p', 'b', 7);"
            "INSERT INTO alerts VALUES ('f', 's', 'firing', 1.0, 1, '{}'); PRAGMA user_version = 1;"
        )
    connection.close()
    return path


def test_a_file_of_the_first_version_is_taken_over(first_version: Path) -> None:
    database = Database(first_version)

    assert rows(database, "SELECT path, seen_alive_ns, start_ns, death FROM endings") == [("p", 7, 0, None)]
    assert rows(database, "SELECT fingerprint, run, change FROM alerts") == [("f", None, 0)]
    database.close()


def test_what_ends_a_service_while_it_takes_a_file_over_spoils_nothing(
    first_version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "_SCHEMA", module._SCHEMA + "; the end")
        with pytest.raises(sqlite3.OperationalError):
            Database(first_version)

    database = Database(first_version)

    assert rows(database, "SELECT path, seen_alive_ns FROM endings") == [("p", 7)]
    database.close()


@pytest.fixture
def damaged_deep(tmp_path: Path) -> Path:
    """A file whose events lie in pages that are spoiled; nothing of them is needed to open it."""
    path = tmp_path / "history.db"
    database = Database(path)
    with database.write() as connection:
        connection.executemany(
            "INSERT INTO events (run, at, kind, fields) VALUES ('a', 0, 'start', ?)", [("x" * 1000,)] * 5000
        )
    database.close()
    content = bytearray(path.read_bytes())
    content[1_000_000:3_000_000] = b"\xff" * 2_000_000
    path.write_bytes(content)
    return path


def test_after_a_kill_the_whole_file_is_looked_at(damaged_deep: Path) -> None:
    damaged_deep.with_name("history.db-wal").touch()  # who closes the file removes it

    database = Database(damaged_deep)

    assert rows(database, "SELECT * FROM events") == []
    assert len(list(damaged_deep.parent.glob("history.db.damaged-*"))) == 1
    database.close()


def test_damage_that_is_met_with_is_looked_for_at_the_next_start(
    damaged_deep: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(damaged_deep)
    for _ in range(2):
        with pytest.raises(sqlite3.DatabaseError), database.write() as connection:
            connection.execute("DELETE FROM events")
    database.close()
    assert caplog.text.count("restart the service") == 1

    database = Database(damaged_deep)

    put(database, "b")
    assert rows(database, "SELECT run FROM events") == [("b",)]
    database.close()
    names = sorted(each.name.partition("-")[0] for each in damaged_deep.parent.glob("history.db*"))
    assert names == ["history.db", "history.db.damaged"]


def test_the_number_of_an_event_is_not_given_again(database: Database) -> None:
    put(database, "a")
    with database.write() as connection:
        connection.execute("DELETE FROM events")
    put(database, "b")

    assert rows(database, "SELECT id FROM events") == [(2,)]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT fields FROM events WHERE run = 'a' AND kind = 'stage' ORDER BY at DESC, id DESC",
        "SELECT * FROM events WHERE run = 'a' AND kind IN ('stage', 'resume') ORDER BY at DESC, id DESC",
        "SELECT at FROM events WHERE run = 'a' AND kind = 'evaluation' AND rank = 0 ORDER BY at, id",
        "SELECT id FROM events WHERE at < 5",
        "SELECT alert FROM alerts WHERE change > 5 ORDER BY change",
        "SELECT alert FROM alerts WHERE run = 'a' ORDER BY received_at DESC, rowid DESC",
    ],
)
def test_what_is_asked_often_is_looked_up_by_an_index(database: Database, query: str) -> None:
    plan = [str(row[3]) for row in rows(database, f"EXPLAIN QUERY PLAN {query} LIMIT 100")]

    assert plan[0].startswith("SEARCH")


def test_the_newest_alerts_are_listed_without_sorting_all(database: Database) -> None:
    plan = rows(
        database, "EXPLAIN QUERY PLAN SELECT alert FROM alerts ORDER BY received_at DESC, rowid DESC LIMIT 9"
    )

    assert [row[3] for row in plan] == ["SCAN alerts USING INDEX alerts_by_time"]


def test_what_is_deleted_is_given_back(database: Database) -> None:
    with database.write() as connection:
        connection.executemany(
            "INSERT INTO events (run, at, kind, fields) VALUES ('a', 0, 'start', ?)", [("x" * 1000,)] * 5000
        )
    with database.write() as connection:
        connection.execute("DELETE FROM events")
    database.give_back()

    assert database.path.stat().st_size < 1_000_000
