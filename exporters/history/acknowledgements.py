"""Which runs a person has ended, or taken note of that they are dead."""

from __future__ import annotations

from exporters.history.database import Database
from exporters.runs import Acknowledgement


class Acknowledgements:
    """Those of the database, held in memory: they are asked for at every look."""

    def __init__(self, database: Database) -> None:
        """Raises sqlite3.Error where the database cannot be read."""
        self._database = database
        with database.read() as connection:
            rows = connection.execute("SELECT run, attempt, person, at FROM acknowledgements").fetchall()
        self._known = {(run, attempt): Acknowledgement(person, at) for run, attempt, person, at in rows}

    def of(self, run: str, attempt: int) -> Acknowledgement | None:
        return self._known.get((run, attempt))

    def add(self, run: str, attempt: int, by: str) -> Acknowledgement:
        """Of this attempt; the newest holds. Raises sqlite3.Error where the database cannot be written."""
        added = Acknowledgement(by, self._database.wall())
        with self._database.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO acknowledgements VALUES (?, ?, ?, ?)", (run, attempt, *added)
            )
        self._known[run, attempt] = added
        return added
