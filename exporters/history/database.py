"""The service's own SQLite file: who may write when, its tables, and what is done when it is damaged.

Times named `_ns` are monotonic nanoseconds of the recording's boot, as in the recording itself; those named
`_at` are unix seconds. NaN is NULL.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from exporters.history.readers import Readers
from trainer_hooks.recording import PHASES

logger = logging.getLogger(__name__)

VERSION = 2
_BUSY_SECONDS = 5.0

# Of a step and of a bucket of steps: running totals of the attempt up to its end.
TOTALS = (
    "batches",
    "samples",
    "tokens_all",
    "tokens_trained",
    "loss_tokens",
    "loss_token_sum",
    *(f"{phase}_ns" for phase in PHASES),
)
# Of a step: what is its own. Of a bucket: their least, greatest, sum and number.
QUANTITIES = ("duration_ns", "loss", "learning_rate", "gradient_norm")
OF_A_BUCKET = tuple(f"{name}_{what}" for name in QUANTITIES for what in ("min", "max", "sum", "count"))

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS alerts (
    fingerprint TEXT NOT NULL,
    starts_at TEXT NOT NULL,
    status TEXT NOT NULL,
    received_at REAL NOT NULL,
    notifications INTEGER NOT NULL,
    alert TEXT NOT NULL,
    run TEXT,
    -- counts what has come, over all alerts: which number came last to this one
    change INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (fingerprint, starts_at)
);
CREATE INDEX IF NOT EXISTS alerts_by_time ON alerts (received_at);
CREATE INDEX IF NOT EXISTS alerts_of_run ON alerts (run, received_at);
CREATE INDEX IF NOT EXISTS alerts_by_change ON alerts (change);
CREATE TABLE IF NOT EXISTS endings (
    path TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    start_ns INTEGER NOT NULL DEFAULT 0,
    seen_alive_ns INTEGER NOT NULL,
    death TEXT,
    PRIMARY KEY (path, boot_id, start_ns)
);
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    started_at REAL NOT NULL,
    ended_at REAL,
    seen_at REAL NOT NULL,
    status TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS runs_by_start ON runs (started_at, run);
CREATE TABLE IF NOT EXISTS acknowledgements (
    run TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    person TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (run, attempt)
);
CREATE TABLE IF NOT EXISTS kubeflow_runs (
    run TEXT PRIMARY KEY,
    attempt TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS registered_nodes (
    address TEXT PRIMARY KEY,
    scheme TEXT NOT NULL,
    labels TEXT NOT NULL,
    expires_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS recordings (
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    node TEXT NOT NULL,
    rank INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    wall_offset_seconds REAL NOT NULL,
    -- how far it was read: the number of the newest step record, bytes of events
    records INTEGER NOT NULL DEFAULT 0,
    events_bytes INTEGER NOT NULL DEFAULT 0,
    lost_records INTEGER NOT NULL DEFAULT 0,
    -- the end of the newest step that is in a bucket of each width
    bucketed_ns INTEGER NOT NULL DEFAULT 0,
    over INTEGER NOT NULL DEFAULT 0,
    UNIQUE (run, node, rank, attempt, boot_id, start_ns)
);
CREATE TABLE IF NOT EXISTS steps (
    recording INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    step INTEGER NOT NULL,
    {", ".join(f"{name} NUMERIC" for name in (*TOTALS, *QUANTITIES))},
    PRIMARY KEY (recording, end_ns)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS buckets (
    recording INTEGER NOT NULL,
    width_seconds INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    step INTEGER NOT NULL,
    {", ".join(f"{name} NUMERIC" for name in (*TOTALS, *OF_A_BUCKET))},
    PRIMARY KEY (recording, width_seconds, bucket)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    rank INTEGER,
    attempt INTEGER,
    step INTEGER,
    fields TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_run ON events (run, at, id);
CREATE INDEX IF NOT EXISTS events_of_kind ON events (run, kind, at, id);
CREATE INDEX IF NOT EXISTS events_by_time ON events (at);
CREATE TABLE IF NOT EXISTS series (
    id INTEGER PRIMARY KEY,
    metric TEXT NOT NULL,
    labels TEXT NOT NULL,
    run TEXT,
    gpu_uuid TEXT,
    UNIQUE (metric, labels)
);
CREATE INDEX IF NOT EXISTS series_of_run ON series (run, metric);
CREATE INDEX IF NOT EXISTS series_of_gpu ON series (gpu_uuid, metric);
CREATE TABLE IF NOT EXISTS samples (
    series INTEGER NOT NULL,
    width_seconds INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    min REAL NOT NULL,
    max REAL NOT NULL,
    sum REAL NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (series, width_seconds, bucket)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gpus_of_runs (
    run TEXT NOT NULL,
    rank INTEGER NOT NULL,
    gpu_uuid TEXT NOT NULL,
    first_seen_at REAL NOT NULL,
    last_seen_at REAL NOT NULL,
    PRIMARY KEY (run, rank, gpu_uuid)
) WITHOUT ROWID;
"""


class Database:
    """One file, one writer at a time, any number of readers that wait for nobody.

    Opening raises OSError where the folder cannot be made, sqlite3.Error where the file cannot be opened or
    was written by a newer trainvitals. A damaged file is moved aside, and a new one begun; all of it is
    looked at where a service was killed that wrote it, or met with the damage.
    """

    def __init__(self, path: Path, *, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self.wall = wall
        self._write_lock = threading.Lock()
        self._readers = Readers(path)
        self._writer = self._opened_writer()

    def _opened_writer(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        try:
            return _opened(self.path)
        except sqlite3.DatabaseError as error:
            # A file of another kind is somebody's: that is for the user to see.
            if not _is_damage(error):
                raise
            _move_aside(self.path, error)
            return _opened(self.path)

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is kept when the block ends, and undone when it raises."""
        with self._write_lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:
                if _is_damage(error):
                    self._mark(error)
                self._undo()
                raise

    def _undo(self) -> None:
        if self._writer.in_transaction:  # SQLite undoes by itself what finds the disk full
            self._writer.execute("ROLLBACK")

    def _mark(self, error: BaseException) -> None:
        """Have whoever opens the file next look for the damage."""
        mark = _mark_of(self.path)
        with contextlib.suppress(OSError):
            if not mark.exists():
                mark.touch()
                logger.error(
                    "%s is damaged (%s): restart the service, which keeps it aside and begins anew",
                    *(self.path, error),
                )

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One view of everything that was kept before, for this block alone."""
        with self._readers.one() as connection:
            yield connection

    def size_bytes(self) -> int:
        """Of the file and of what is written ahead beside it."""
        files = (self.path, written_ahead(self.path))
        return sum(each.stat().st_size for each in files if each.exists())

    def give_back(self) -> None:
        """Return the pages nobody needs any more to the file system."""
        with self._write_lock:
            self._writer.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        with self._write_lock:
            self._readers.close()
            self._writer.close()


def _opened(path: Path) -> sqlite3.Connection:
    was_left_open = written_ahead(path).exists()  # whoever closes it last removes that
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # after a power cut the newest may be missing
        if _mark_of(path).exists():
            _check(connection, "integrity_check")
            _mark_of(path).unlink(missing_ok=True)
        elif was_left_open:
            _check(connection, "quick_check")
        connection.execute("BEGIN IMMEDIATE")  # who is killed in it leaves what was there before
        _bring_up_to_date(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise sqlite3.NotSupportedError(
            f"it was written by a newer trainvitals (version {version}, this one knows {VERSION})"
        )
    if version == 1:
        connection.execute("ALTER TABLE alerts ADD COLUMN run TEXT")
        connection.execute("ALTER TABLE alerts ADD COLUMN change INTEGER NOT NULL DEFAULT 0")
        connection.execute("ALTER TABLE endings RENAME TO endings_before")
    for statement in _SCHEMA.split(";"):
        connection.execute(statement)
    if version == 1:
        connection.execute(
            "INSERT INTO endings (path, boot_id, seen_alive_ns) "
            "SELECT path, boot_id, seen_alive_ns FROM endings_before"
        )
        connection.execute("DROP TABLE endings_before")
    connection.execute(f"PRAGMA user_version = {VERSION}")


class _Damaged(sqlite3.DatabaseError):
    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _check(connection: sqlite3.Connection, pragma: str) -> None:
    (found,) = connection.execute(f"PRAGMA {pragma}(1)").fetchone()
    if found != "ok":
        raise _Damaged(" ".join(found.split()))


def _is_damage(error: BaseException) -> bool:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF == sqlite3.SQLITE_CORRUPT  # of an extended code, what it extends


def written_ahead(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _mark_of(path: Path) -> Path:
    return path.with_name(path.name + ".damaged")


def _move_aside(path: Path, error: sqlite3.DatabaseError) -> None:
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    path.rename(aside)
    for each in (written_ahead(path), path.with_name(path.name + "-shm"), _mark_of(path)):
        each.unlink(missing_ok=True)
    logger.error(
        "%s is damaged (%s); it is kept as %s, and the history begins anew from the recordings",
        *(path, error, aside.name),
    )
