"""How long what is kept: every step of recent time, then buckets, the wider the older; at last nothing.

A run that has little at a resolution keeps it as long as it keeps anything: a short training stays whole.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from exporters.history.database import Database
from exporters.history.steps import WIDTHS_SECONDS

logger = logging.getLogger(__name__)

DAY_SECONDS = 86_400
KEPT_ROWS = 2_000  # of one rank at one resolution, whatever their age
MOST_STEPS = 50_000  # of one rank


class Retention(NamedTuple):
    """Seconds for which is kept: each step, buckets by their width, everything else."""

    steps: float = 1 * DAY_SECONDS
    buckets: tuple[float, ...] = (3 * DAY_SECONDS, 14 * DAY_SECONDS, 90 * DAY_SECONDS)
    runs: float = 90 * DAY_SECONDS
    alerts: float = 30 * DAY_SECONDS


DEFAULT = Retention()

_PIECE = 5_000  # rows that one transaction deletes of one table, so that nobody waits long
_ALL = 2**63 - 1

_STEPS_END = """
    SELECT min(bucketed_ns + 1, max(
        min(:old_ns, ifnull((SELECT end_ns FROM steps WHERE recording = :recording
            ORDER BY end_ns DESC LIMIT 1 OFFSET :kept), 0)),
        ifnull((SELECT end_ns FROM steps WHERE recording = :recording
            ORDER BY end_ns DESC LIMIT 1 OFFSET :most), 0)
    )) FROM recordings WHERE id = :recording
"""
_BUCKETS_END = """
    SELECT min(:old_bucket, ifnull((SELECT bucket FROM buckets WHERE recording = :recording
        AND width_seconds = :width ORDER BY bucket DESC LIMIT 1 OFFSET :kept), 0))
"""
# Of a recording without steps, its start.
_RECORDINGS = """
    SELECT id, wall_offset_seconds, max(
        start_ns,
        ifnull((SELECT max(end_ns) FROM steps WHERE recording = id), 0),
        ifnull((SELECT max(end_ns) FROM buckets WHERE recording = id AND width_seconds = :widest), 0)
    ) FROM recordings
"""
_STEPS = "recording = :recording AND end_ns < :end"
_BUCKETS = "recording = :recording AND width_seconds = :width AND bucket < :end"
_SAMPLES = "series = :series AND width_seconds = :width AND bucket < :end"


def keep(database: Database, retention: Retention = DEFAULT) -> None:
    """Thin what has aged, forget what is too old, and give the room back.

    Raises sqlite3.Error where the database cannot be written. It goes on in small transactions, and looks
    outside them for what is to be deleted, so that nobody waits long.
    """
    now = database.wall()
    with database.read() as connection:
        recordings = connection.execute(_RECORDINGS, {"widest": WIDTHS_SECONDS[-1]}).fetchall()
    for recording, offset, newest_ns in recordings:
        if offset + newest_ns / 1e9 < now - retention.runs:
            _forget_recording(database, recording)
        else:
            _thin_recording(database, recording, retention, now - offset)
    _thin_samples(database, retention, now)
    _forget_runs(database, now - retention.runs)
    _delete(database, "events", "id", "at < :end", {"end": now - retention.runs})
    _delete(database, "alerts", "rowid", "received_at < :end", {"end": now - retention.alerts})
    _forget_endings(database)
    database.give_back()


def _thin_recording(database: Database, recording: int, retention: Retention, now_seconds: float) -> None:
    """`now_seconds` is that of the recording's boot."""
    values = {
        "recording": recording,
        "kept": KEPT_ROWS,
        "most": MOST_STEPS,
        "old_ns": int((now_seconds - retention.steps) * 1e9),
    }
    with database.read() as connection:
        (end_ns,) = connection.execute(_STEPS_END, values).fetchone() or (0,)
    _delete(database, "steps", "end_ns", _STEPS, {"recording": recording, "end": end_ns})
    for width, seconds in zip(WIDTHS_SECONDS, retention.buckets, strict=True):
        values |= {"width": width, "old_bucket": int((now_seconds - seconds) // width)}
        with database.read() as connection:
            (end,) = connection.execute(_BUCKETS_END, values).fetchone()
        _delete(
            *(database, "buckets", "bucket", _BUCKETS), {"recording": recording, "width": width, "end": end}
        )


def _thin_samples(database: Database, retention: Retention, now: float) -> None:
    """Of gauges; and of those that have none any more, the series."""
    with database.read() as connection:
        numbers = [number for (number,) in connection.execute("SELECT id FROM series")]
    for number in numbers:
        for width, seconds in zip(WIDTHS_SECONDS, retention.buckets, strict=True):
            values = {"series": number, "width": width, "end": int((now - seconds) // width)}
            _delete(database, "samples", "bucket", _SAMPLES, values)
        is_empty = "id = :series AND NOT EXISTS (SELECT * FROM samples WHERE series = :series)"
        _delete(database, "series", "id", is_empty, {"series": number})


def _forget_recording(database: Database, recording: int) -> None:
    _delete(database, "steps", "end_ns", _STEPS, {"recording": recording, "end": _ALL})
    for width in WIDTHS_SECONDS:
        values = {"recording": recording, "width": width, "end": _ALL}
        _delete(database, "buckets", "bucket", _BUCKETS, values)
    _delete(database, "recordings", "id", "id = :recording", {"recording": recording})


def _forget_runs(database: Database, before: float) -> None:
    """Those that ended before this time."""
    with database.read() as connection:
        ended = connection.execute("SELECT run FROM runs WHERE ended_at < ?", (before,)).fetchall()
        runs = [
            (run, connection.execute("SELECT id FROM recordings WHERE run = ?", (run,)).fetchall())
            for (run,) in ended
        ]
    for run, recordings in runs:
        for (recording,) in recordings:
            _forget_recording(database, recording)
        for table, key in (("events", "id"), ("gpus_of_runs", "rank"), ("acknowledgements", "rowid")):
            _delete(database, table, key, "run = :run", {"run": run})
        # At last: until then the next round goes on with it.
        _delete(database, "runs", "rowid", "run = :run AND ended_at < :end", {"run": run, "end": before})


def _forget_endings(database: Database) -> None:
    """Those of recordings that are gone."""
    with database.read() as connection:
        paths = [path for (path,) in connection.execute("SELECT DISTINCT path FROM endings")]
    for path in paths:
        if not Path(path).exists():
            _delete(database, "endings", "rowid", "path = :path", {"path": path})


def _delete(database: Database, table: str, key: str, condition: str, values: Mapping[str, object]) -> None:
    """The rows for which a condition holds, piece by piece; `key` tells them apart."""
    due = f"SELECT {key} FROM {table} WHERE {condition} LIMIT {_PIECE}"
    while True:
        with database.read() as connection:
            if connection.execute(due, values).fetchone() is None:
                return
        with database.write() as connection:
            connection.execute(f"DELETE FROM {table} WHERE {condition} AND {key} IN ({due})", values)
