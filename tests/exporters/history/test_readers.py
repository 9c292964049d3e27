from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from exporters.history.database import Database
from exporters.history.read_only import ReadOnlyDatabase
from tests.exporters.history.written import rows


def open_files(path: Path) -> int:
    links = Path("/proc/self/fd").iterdir()
    return sum(each.is_symlink() and each.readlink() == path for each in links)


def test_threads_that_are_gone_leave_no_connection(database: Database) -> None:
    before = open_files(database.path)
    for _ in range(30):
        thread = threading.Thread(target=lambda: rows(database, "SELECT * FROM events"))
        thread.start()
        thread.join()

    assert open_files(database.path) - before == 1


def test_as_many_files_are_open_as_there_were_readers_at_a_time(database: Database) -> None:
    """SQLite keeps the file of a connection that is closed, for the next one, as long as others have it."""
    before = open_files(database.path)
    together = threading.Barrier(20)

    def read() -> None:
        with database.read():
            together.wait(20)

    for _ in range(3):
        threads = [threading.Thread(target=read) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert open_files(database.path) - before == 20


def test_a_reader_may_read_beside_itself(database: Database) -> None:
    with database.read() as one, database.read() as other:
        assert one is not other


def test_who_reads_while_the_database_is_closed_reads_on(database: Database) -> None:
    with database.read() as connection:
        database.close()
        assert connection.execute("SELECT count(*) FROM events").fetchone()[0] == 0

    assert open_files(database.path) == 0
    with pytest.raises(sqlite3.ProgrammingError, match="closed"), database.read():
        pass


def test_a_block_that_raises_leaves_its_connection_to_the_next(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError):
        rows(database, "SELECT nothing")

    assert rows(database, "SELECT * FROM events") == []


def test_a_history_that_is_only_read_has_everything_that_a_database_has(database: Database) -> None:
    history = ReadOnlyDatabase(database.path)

    assert rows(history, "SELECT * FROM events") == []
    assert history.size_bytes() > 0
    history.give_back()
    with pytest.raises(sqlite3.OperationalError, match="only read"), history.write():
        pass
    history.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"), history.read():
        pass


def test_where_there_is_no_history_none_can_be_read(tmp_path: Path, database: Database) -> None:
    with pytest.raises(FileNotFoundError):
        ReadOnlyDatabase(tmp_path / "none.db")
    with database.write() as connection:
        connection.execute("PRAGMA user_version = 1")
    with pytest.raises(sqlite3.NotSupportedError, match="of version 1"):
        ReadOnlyDatabase(database.path)
