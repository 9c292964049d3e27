"""A history that nobody writes to from here: a service's that has ended, or a copy of it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from exporters.history.database import VERSION, Database, written_ahead
from exporters.history.readers import Readers, opened


class ReadOnlyDatabase(Database):
    """One file that is only read, beside a service that writes it or without one.

    Without one nothing is written beside it either: it may lie where nobody may write.
    Opening raises FileNotFoundError where there is none, sqlite3.Error where it is no history or not one of
    this version.
    """

    def _opened_writer(self) -> sqlite3.Connection:
        """One that cannot write, as SQLite itself would say."""
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no {self.path}")
        immutable = not written_ahead(self.path).exists()  # who writes it has that open
        self._readers = Readers(self.path, immutable=immutable)
        connection = opened(self.path, immutable=immutable)
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                raise sqlite3.NotSupportedError(
                    f"it is of version {version}, and this trainvitals reads version {VERSION}; "
                    "a service of its version, or a newer one, can read it"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        raise sqlite3.OperationalError("this history is only read")
        yield

    def give_back(self) -> None:
        """Nothing: there is none that is ours to give."""
