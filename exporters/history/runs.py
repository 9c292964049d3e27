"""The runs of this node, also those whose recordings are gone: last status, and every change of state."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from pydantic import TypeAdapter

from exporters.collector import Sample
from exporters.history.cursors import encoded
from exporters.history.database import Database
from exporters.runs import OVER, RunStatus, State

_STATUS: TypeAdapter[RunStatus] = TypeAdapter(RunStatus)
_FAR_FUTURE = 1e12  # SQLite has no infinite numbers
_LIVING_EVERY_SECONDS = 5.0
VANISHED_AFTER_SECONDS = 60.0
VANISHED = "its recordings vanished"


class RunsCollector:
    """Keeps the status of every run the recordings tell of, and when its state changed."""

    name = "history_runs"
    interval_seconds = 1.0
    deadline_seconds = 30.0

    def __init__(
        self,
        statuses: Callable[[], Sequence[RunStatus] | None],
        database: Database,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`statuses` is None while nobody has looked: what is not seen then has not vanished."""
        self._statuses = statuses
        self._database = database
        self._wall = wall
        self._kept: dict[str, tuple[RunStatus, float]] = {}

    def collect(self) -> Iterator[Sample]:
        """Raises sqlite3.Error where the database cannot be written."""
        now = self._wall()
        statuses = self._statuses()
        if statuses is None:
            return
        due = [each for each in statuses if self._is_due(each, now)]
        with self._database.write() as connection:
            for status in due:
                keep(connection, status, now)
            _end_the_vanished(connection, now)
        self._kept |= {each.run: (each, now) for each in due}
        for run in self._kept.keys() - {each.run for each in statuses}:
            del self._kept[run]
        yield from ()

    def _is_due(self, status: RunStatus, now: float) -> bool:
        kept, kept_at = self._kept.get(status.run, (None, 0.0))
        if kept is None or (kept.state, kept.attempt) != (status.state, status.attempt):
            return True
        if status.state in OVER:
            return status != kept
        return now - kept_at >= _LIVING_EVERY_SECONDS  # which says that it is still there

    def close(self) -> None: ...


def keep(connection: sqlite3.Connection, status: RunStatus, now: float) -> None:
    """Store a run's status, and tell of it where its state is another than before; `now` is unix time."""
    row = connection.execute("SELECT state FROM runs WHERE run = ?", (status.run,)).fetchone()
    before = row[0] if row else None
    if before != status.state:
        at = status.ended_at if status.ended_at is not None else now if before else status.started_at
        _tell(connection, status.run, status.state, before, at, status.reason, status.attempt)
    connection.execute(
        "INSERT OR REPLACE INTO runs (run, state, started_at, ended_at, seen_at, status) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            *(status.run, status.state, status.started_at, status.ended_at, now),
            _STATUS.dump_json(status).decode(),
        ),
    )


def _tell(
    connection: sqlite3.Connection,
    run: str,
    state: str,
    before: str | None,
    at: float,
    reason: str | None,
    attempt: int,
) -> None:
    fields = {"state": state, "before": before, "reason": reason}
    connection.execute(
        "INSERT INTO events (run, at, kind, attempt, fields) VALUES (?, ?, 'state', ?, ?)",
        (run, at, attempt, json.dumps(fields)),
    )


def _end_the_vanished(connection: sqlite3.Connection, now: float) -> None:
    """A reboot takes recordings on a tmpfs with it: what was seen alive last is not alive for ever."""
    rows = connection.execute(
        "SELECT run, state, seen_at, status FROM runs WHERE state IN ('running', 'stalled') AND seen_at < ?",
        (now - VANISHED_AFTER_SECONDS,),
    ).fetchall()
    for run, before, seen_at, text in rows:
        kept = _STATUS.validate_json(text)
        ranks = [
            each
            if each.state in OVER
            else replace(each, state="killed", ended_at=seen_at, silent_seconds=0.0)
            for each in kept.ranks
        ]
        status = replace(
            kept,
            state="killed",
            reason=VANISHED,
            ended_at=seen_at,
            eta_seconds=None,
            eta_least_seconds=None,
            eta_most_seconds=None,
            tokens_per_second=None,
            first_silent_rank=None,
            ranks=tuple(ranks),
        )
        _tell(connection, run, "killed", before, seen_at, VANISHED, status.attempt)
        connection.execute(
            "UPDATE runs SET state = 'killed', ended_at = ?, status = ? WHERE run = ?",
            (seen_at, _STATUS.dump_json(status).decode(), run),
        )


Place = tuple[float, str]  # in a list of runs: when it started, and its name
START: Place = (math.inf, "")


class Page(NamedTuple):
    """Some runs, the newest start first, and the cursor of those that follow; None at the end."""

    runs: list[RunStatus]
    next_cursor: str | None


class Wanted(NamedTuple):
    """Which runs: of these states, or any; with this in the name; started in this time (unix seconds)."""

    states: Sequence[State] = ()
    name: str = ""
    started_after: float = 0.0
    started_before: float = math.inf

    def has(self, status: RunStatus) -> bool:
        return (
            (not self.states or status.state in self.states)
            and self.name.lower() in status.run.lower()
            and self.started_after <= status.started_at < self.started_before
        )


ANY = Wanted()


def listed(
    database: Database,
    current: Sequence[RunStatus] = (),
    *,
    wanted: Wanted = ANY,
    limit: int = 100,
    behind: Place = START,
) -> Page:
    """The runs of the database, and those of which more is known at present: `current` goes before."""
    known = {each.run: each for each in current}
    found = [each for each in current if wanted.has(each) and place(each) < behind]
    conditions, values = ["started_at < ?"], list[object]([min(wanted.started_before, _FAR_FUTURE)])
    if wanted.states:
        conditions.append(f"state IN ({', '.join('?' * len(wanted.states))})")
        values += wanted.states
    if behind != START:
        conditions.append("(started_at, run) < (?, ?)")
        values += behind
    with database.read() as connection:
        rows = connection.execute(
            f"SELECT run, status FROM runs WHERE {' AND '.join(conditions)} "
            "AND started_at >= ? AND instr(lower(run), lower(?)) > 0 "
            "ORDER BY started_at DESC, run DESC LIMIT ?",
            (*values, wanted.started_after, wanted.name, limit + len(known) + 1),
        ).fetchall()
    found += [_STATUS.validate_json(row["status"]) for row in rows if row["run"] not in known]
    return page(found, limit)


def page(found: Iterable[RunStatus], limit: int) -> Page:
    """The newest of these, and a cursor where there are more."""
    newest_first = sorted(found, key=place, reverse=True)
    more = len(newest_first) > limit
    return Page(newest_first[:limit], encoded(*place(newest_first[limit - 1])) if more else None)


def place(status: RunStatus) -> tuple[float, str]:
    return status.started_at, status.run


def one(database: Database, run: str) -> RunStatus | None:
    """The last status of a run; None where it is not known."""
    with database.read() as connection:
        row = connection.execute("SELECT status FROM runs WHERE run = ?", (run,)).fetchone()
    return None if row is None else _STATUS.validate_json(row["status"])
