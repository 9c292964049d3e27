"""The alerts that were received: each once from when it fires until it is resolved, whoever tells of it.

Each of a pair of Prometheus servers has its own moment at which an alert started; the fingerprint, which is
of its labels, says that it is one alert.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC

from exporters.alert_inbox import Alert, StoredAlert
from exporters.history.database import Database

MOST_LISTED = 500
_NAME_OF_A_RUN = "run"
_COLUMNS = "alert, received_at, notifications"


def add(database: Database, alerts: Iterable[Alert]) -> None:
    """Store alerts, all or none; one that fires already, or is resolved once more, has come once more.

    Raises sqlite3.Error where the database cannot be written.
    """
    now = database.wall()
    with database.write() as connection:
        for alert in alerts:
            _add(connection, alert, now)


def _add(connection: sqlite3.Connection, alert: Alert, now: float) -> None:
    known = connection.execute(
        "SELECT starts_at, status, alert FROM alerts WHERE fingerprint = ? "
        "ORDER BY status = 'firing' DESC, change DESC LIMIT 1",
        (alert.fingerprint,),
    ).fetchone()
    starts_at = alert.starts_at.astimezone(UTC).isoformat()
    if known is not None and (known[1] == "firing" or alert.status == "resolved"):
        starts_at = known[0]
        alert = alert.model_copy(update={"starts_at": Alert.model_validate_json(known[2]).starts_at})
    connection.execute(
        "INSERT INTO alerts (fingerprint, starts_at, status, received_at, notifications, run, alert, change) "
        "VALUES (?, ?, ?, ?, 1, ?, ?, (SELECT ifnull(max(change), 0) + 1 FROM alerts)) "
        "ON CONFLICT (fingerprint, starts_at) DO UPDATE SET status = excluded.status, "
        "received_at = excluded.received_at, alert = excluded.alert, change = excluded.change, "
        "notifications = notifications + 1",
        (
            *(alert.fingerprint, starts_at, alert.status, now),
            *(alert.labels.get(_NAME_OF_A_RUN), alert.model_dump_json()),
        ),
    )


def listed(database: Database, run: str | None = None, *, most: int = MOST_LISTED) -> list[StoredAlert]:
    """The newest, of one run or of all; last received first."""
    condition, values = ("", ()) if run is None else ("WHERE run = ?", (run,))
    with database.read() as connection:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM alerts {condition} ORDER BY received_at DESC, rowid DESC LIMIT ?",
            (*values, most),
        ).fetchall()
    return [_stored(*row) for row in rows]


def newest_change(database: Database) -> int:
    """Of the alert that came last; 0 where there is none."""
    with database.read() as connection:
        return int(connection.execute("SELECT ifnull(max(change), 0) FROM alerts").fetchone()[0])


def changed(database: Database, since: int, *, most: int = MOST_LISTED) -> tuple[list[StoredAlert], int]:
    """Those that came after the change of this number, the first to come first, and from which to go on."""
    with database.read() as connection:
        rows = connection.execute(
            f"SELECT {_COLUMNS}, change FROM alerts WHERE change > ? ORDER BY change LIMIT ?", (since, most)
        ).fetchall()
        (newest,) = connection.execute("SELECT ifnull(max(change), 0) FROM alerts").fetchone()
    # Where all were forgotten, the count begins anew.
    return [_stored(*row[:3]) for row in rows], rows[-1][3] if rows else min(since, newest)


def _stored(alert: str, received_at: float, notifications: int) -> StoredAlert:
    return StoredAlert(
        **Alert.model_validate_json(alert).model_dump(), received_at=received_at, notifications=notifications
    )
