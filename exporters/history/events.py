"""What happened in a run, rare thing by rare thing, and what the service saw of its state."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from exporters.history.cursors import encoded
from exporters.history.database import Database

Fields = dict[str, str | float | None]


@dataclass(frozen=True)
class Event:
    """One event. `fields` are what its kind says further; those of kind `state` come from the service."""

    id: int
    run: str
    at: float
    kind: str
    rank: int | None
    attempt: int | None
    step: int | None
    fields: Fields


_COLUMNS = "id, run, at, kind, rank, attempt, step, fields"


def _event(row: sqlite3.Row) -> Event:
    number, run, at, kind, rank, attempt, step, fields = row
    return Event(number, run, at, kind, rank, attempt, step, json.loads(fields))


def listed(
    database: Database,
    run: str,
    *,
    kinds: Sequence[str] = (),
    limit: int = 100,
    behind: tuple[float, int] | None = None,
) -> tuple[list[Event], str | None]:
    """Of a run, the newest first, and the cursor of those that follow; None at the end.

    `behind` are time and id of the last one of the page before.
    """
    conditions, values = ["run = ?"], list[object]([run])
    if kinds:
        conditions.append(f"kind IN ({', '.join('?' * len(kinds))})")
        values += kinds
    if behind is not None:
        conditions.append("(at, id) < (?, ?)")
        values += behind
    with database.read() as connection:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM events "
            f"WHERE {' AND '.join(conditions)} ORDER BY at DESC, id DESC LIMIT ?",
            (*values, limit + 1),
        ).fetchall()
    events = [_event(row) for row in rows[:limit]]
    more = len(rows) > limit
    return events, encoded(events[-1].at, events[-1].id) if more else None


def newest_id(database: Database) -> int:
    """Of the event that was written last; 0 where there is none."""
    with database.read() as connection:
        return int(connection.execute("SELECT ifnull(max(id), 0) FROM events").fetchone()[0])


def newer(database: Database, than: int, *, limit: int = 500) -> list[Event]:
    """The events of all runs written after the one of this id, the oldest first."""
    with database.read() as connection:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM events WHERE id > ? ORDER BY id LIMIT ?", (than, limit)
        ).fetchall()
    return [_event(row) for row in rows]


def stage(database: Database, run: str, attempt: int) -> str | None:
    """The stage that rank 0 of this attempt told of last; None where it told of none."""
    with database.read() as connection:
        row = connection.execute(
            "SELECT fields FROM events WHERE run = ? AND attempt = ? AND rank = 0 AND kind = 'stage' "
            "ORDER BY at DESC, id DESC LIMIT 1",
            (run, attempt),
        ).fetchone()
    told = json.loads(row[0]).get("name") if row else None
    return None if told is None else str(told)
