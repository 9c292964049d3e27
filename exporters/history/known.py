"""The runs the service knows: what the collectors say at present, over what the database kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from exporters.history import runs, series
from exporters.history.acknowledgements import Acknowledgements
from exporters.history.database import Database
from exporters.history.runs import ANY, START, Page, Place, Wanted
from exporters.runs import RankProcess, RunStatus, acknowledged


class KnownRuns:
    """Runs of several sources; where two know one of the same name, the first source is believed."""

    def __init__(
        self,
        database: Database,
        acknowledgements: Acknowledgements,
        sources: Sequence[Callable[[], Sequence[RunStatus]]],
        processes: Callable[[], Sequence[RankProcess]] = tuple,
    ) -> None:
        """`processes` are the ranks that live on this node."""
        self.database = database
        self.processes = processes
        self._acknowledgements = acknowledgements
        self._sources = sources

    @property
    def current(self) -> list[RunStatus]:
        """Those of which the sources know at present."""
        found: dict[str, RunStatus] = {}
        for source in self._sources:
            for status in source():
                found.setdefault(status.run, status)
        return list(found.values())

    def listed(self, *, wanted: Wanted = ANY, limit: int = 100, behind: Place = START) -> Page:
        """Some runs, the newest start first; where the database cannot be read, the current ones."""
        current = self.current
        try:
            return runs.listed(self.database, current, wanted=wanted, limit=limit, behind=behind)
        except sqlite3.Error:
            found = (each for each in current if wanted.has(each) and runs.place(each) < behind)
            return runs.page(found, limit)

    def one(self, run: str) -> RunStatus | None:
        """The run of this name; None where it is not known."""
        found = next((each for each in self.current if each.run == run), None)
        return found or runs.one(self.database, run)

    def acknowledge(self, status: RunStatus, by: str) -> None:
        """Note that this person ends the run, or knows that it is dead.

        Raises sqlite3.Error where the database cannot be written.
        """
        # The first one stays, unless the run has reported since and so holds it no more.
        acknowledgement = status.acknowledged or self._acknowledgements.add(status.run, status.attempt, by)
        if all(each.run != status.run for each in self.current):
            with self.database.write() as connection:
                runs.keep(connection, acknowledged(status, acknowledgement), self.database.wall())

    def sparklines(self, names: Iterable[str], points: int) -> dict[str, list[float]]:
        """The loss of each of these runs in so many numbers at most; none where it cannot be read."""
        if points <= 0:
            return {}
        try:
            with self.database.read() as connection:
                return {
                    name: each.points.mean
                    for name in names
                    for each in series.of_steps(connection, name, ["loss"], most_points=points)
                }
        except sqlite3.Error:
            return {}
