"""What the service must still know after a restart, in one SQLite file."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC
from pathlib import Path

from exporters.alert_inbox import Alert, StoredAlert
from exporters.followed import Endings, SeenAlive

logger = logging.getLogger(__name__)

KEPT_ALERT_SECONDS = 30 * 24 * 3600
MOST_ALERTS_LISTED = 500

_SCHEMA = """
CREATE TABLE IF NOT EXISTS alerts (
    fingerprint TEXT NOT NULL,
    starts_at TEXT NOT NULL,
    status TEXT NOT NULL,
    received_at REAL NOT NULL,
    notifications INTEGER NOT NULL,
    alert TEXT NOT NULL,
    PRIMARY KEY (fingerprint, starts_at)
);
CREATE TABLE IF NOT EXISTS endings (
    path TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    seen_alive_ns INTEGER NOT NULL,
    PRIMARY KEY (path, boot_id)
);
PRAGMA user_version = 1;
"""


class History(Endings):
    """Alerts as received, and when each recording was last seen alive.

    Opening and what concerns alerts may raise sqlite3.Error, on a full disk for example. Safe for use by
    several threads.
    """

    def __init__(self, path: Path, *, wall: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._wall = wall
        self._lock = threading.Lock()
        self._remember_failed = False
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.executescript(_SCHEMA)
        self._forget_removed()

    def add_alerts(self, alerts: Iterable[Alert]) -> None:
        """Store alerts, all or none; one that is known by fingerprint and start has come once more."""
        now = self._wall()
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT INTO alerts VALUES (?, ?, ?, ?, 1, ?) ON CONFLICT (fingerprint, starts_at) DO UPDATE "
                "SET status = excluded.status, received_at = excluded.received_at, alert = excluded.alert, "
                "notifications = notifications + 1",
                [
                    (
                        alert.fingerprint,
                        alert.starts_at.astimezone(UTC).isoformat(),
                        alert.status,
                        now,
                        alert.model_dump_json(),
                    )
                    for alert in alerts
                ],
            )
            self._database.execute("DELETE FROM alerts WHERE received_at < ?", (now - KEPT_ALERT_SECONDS,))

    def alerts(self) -> list[StoredAlert]:
        """The newest 500, last received first."""
        with self._lock:
            rows = self._database.execute(
                "SELECT alert, received_at, notifications FROM alerts "
                "ORDER BY received_at DESC, rowid DESC LIMIT ?",
                (MOST_ALERTS_LISTED,),
            ).fetchall()
        return [
            StoredAlert(
                **Alert.model_validate_json(alert).model_dump(), received_at=received_at, notifications=count
            )
            for alert, received_at, count in rows
        ]

    def seen_alive_ns(self, path: Path, boot_id: str) -> int:
        try:
            with self._lock:
                row = self._database.execute(
                    "SELECT seen_alive_ns FROM endings WHERE path = ? AND boot_id = ?", (str(path), boot_id)
                ).fetchone()
        except sqlite3.Error as error:
            logger.error("the last sign of life of %s could not be looked up: %s", path, error)
            return 0
        return int(row[0]) if row else 0

    def remember(self, seen: Iterable[SeenAlive]) -> None:
        rows = [(str(each.path), each.boot_id, each.monotonic_ns) for each in seen]
        try:
            with self._lock, self._database:
                self._database.execute("BEGIN IMMEDIATE")
                # Another service with this file may have looked later.
                self._database.executemany(
                    "INSERT INTO endings VALUES (?, ?, ?) ON CONFLICT (path, boot_id) DO UPDATE "
                    "SET seen_alive_ns = max(seen_alive_ns, excluded.seen_alive_ns)",
                    rows,
                )
        except sqlite3.Error as error:
            if not self._remember_failed:
                logger.error(
                    "the last signs of life of %d recordings could not be stored: %s", len(rows), error
                )
            self._remember_failed = True
        else:
            self._remember_failed = False

    def _forget_removed(self) -> None:
        rows = self._database.execute("SELECT DISTINCT path FROM endings").fetchall()
        gone = [(path,) for (path,) in rows if not Path(path).exists()]
        self._database.executemany("DELETE FROM endings WHERE path = ?", gone)

    def close(self) -> None:
        with self._lock:
            self._database.close()
