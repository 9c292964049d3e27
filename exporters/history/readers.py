"""Connections that only read, kept for those who read next."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

_MOST_FREE = 8


class Readers:
    """As many connections as there are readers at a time; whoever comes next takes a free one."""

    def __init__(self, path: Path, *, immutable: bool = False) -> None:
        self._path = path
        self._immutable = immutable
        self._lock = threading.Lock()
        self._free: list[sqlite3.Connection] = []
        self._closed = False

    @contextlib.contextmanager
    def one(self) -> Iterator[sqlite3.Connection]:
        """For this block alone, in which it sees one state of the file."""
        connection = self._taken()
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            self._put_back(connection)

    def close(self) -> None:
        """At once those that are free, the others when they are put back."""
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def _taken(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise sqlite3.ProgrammingError("the database is closed")
            if self._free:
                return self._free.pop()
        return opened(self._path, immutable=self._immutable)

    def _put_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            raise
        with self._lock:
            if not self._closed and len(self._free) < _MOST_FREE:
                self._free.append(connection)
                return
        connection.close()


def opened(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """A connection that reads only and may be used by any thread, by one at a time.

    With `immutable` no file is made beside it; it is for one that nobody writes (https://sqlite.org/uri.html).
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro&immutable={int(immutable)}",
        uri=True,
        check_same_thread=False,
        isolation_level=None,
    )
    connection.row_factory = sqlite3.Row
    return connection
