"""When each recording was last seen alive, over restarts of the service."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from exporters.deaths import Death
from exporters.followed import Endings, SeenAlive
from exporters.history.database import Database

logger = logging.getLogger(__name__)


class StoredEndings(Endings):
    """Those of the database. What cannot be read or written is logged once and left out."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._remember_failed = False

    def last_seen(self, path: Path, boot_id: str, start_ns: int) -> SeenAlive | None:
        try:
            with self._database.read() as connection:
                row = connection.execute(
                    "SELECT seen_alive_ns, death FROM endings "
                    "WHERE path = ? AND boot_id = ? AND start_ns = ?",
                    (str(path), boot_id, start_ns),
                ).fetchone()
        except sqlite3.Error as error:
            logger.error("the last sign of life of %s could not be looked up: %s", path, error)
            return None
        if row is None:
            return None
        death = None if row[1] is None else Death(*json.loads(row[1]))
        return SeenAlive(path, boot_id, start_ns, int(row[0]), death)

    def remember(self, seen: Iterable[SeenAlive]) -> None:
        rows = [
            (
                *(str(each.path), each.boot_id, each.start_ns, each.monotonic_ns),
                None if each.death is None else json.dumps(each.death),
            )
            for each in seen
        ]
        try:
            with self._database.write() as connection:
                # Another service with this file may have looked later.
                connection.executemany(
                    "INSERT INTO endings (path, boot_id, start_ns, seen_alive_ns, death) "
                    "VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (path, boot_id, start_ns) DO UPDATE SET "
                    "death = ifnull(excluded.death, death), "
                    "seen_alive_ns = max(seen_alive_ns, excluded.seen_alive_ns)",
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
