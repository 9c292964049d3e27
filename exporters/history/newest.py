"""How far the ranks of a run are: they are read one after the other, and written some at a time."""

from __future__ import annotations

import sqlite3

from exporters.history.series import FAR_FUTURE

_WAITED_FOR_SECONDS = 60.0
_WAITED_FOR_STEPS = 3

_LIVING = """
    SELECT wall_offset_seconds + steps.end_ns / 1e9, steps.duration_ns / 1e9
    FROM recordings JOIN steps ON steps.recording = id
        AND steps.end_ns = (SELECT max(end_ns) FROM steps WHERE recording = id)
    WHERE run = ? AND NOT over AND attempt = (SELECT max(attempt) FROM recordings WHERE run = ?)
"""


def of_leading_rank(connection: sqlite3.Connection, run: str) -> float:
    """When the newest step of the leading rank ended, in unix seconds; 0 where there is none."""
    (newest,) = connection.execute(
        "SELECT max(wall_offset_seconds + (SELECT max(end_ns) FROM steps WHERE recording = id) / 1e9) "
        "FROM recordings WHERE run = ? AND rank = (SELECT min(rank) FROM recordings WHERE run = ?)",
        (run, run),
    ).fetchone()
    return float(newest or 0.0)


def of_every_rank(connection: sqlite3.Connection, run: str) -> float:
    """Until when the steps of all living ranks are there, in unix seconds; FAR_FUTURE where none lives.

    A rank that is far behind, by a minute and by three steps, is not waited for.
    """
    living = connection.execute(_LIVING, (run, run)).fetchall()
    leading_at = max((at for at, _ in living), default=FAR_FUTURE)
    waited_for = (
        at
        for at, seconds in living
        if leading_at - at <= max(_WAITED_FOR_SECONDS, _WAITED_FOR_STEPS * (seconds or 0.0))
    )
    return round(min(waited_for, default=FAR_FUTURE), 6)  # as the curves tell it
