"""The collector that writes the history: it follows the recordings on its own, from where the database ends.

What was read of a recording and how far are kept in one transaction. So whatever ends the service, the next
one goes on without a gap or a double, as far back as the ring reaches; and where the database cannot be
written, nothing is lost before the ring comes round.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeGuard, TypeVar

from exporters import catalog
from exporters.collector import Sample
from exporters.followed import CLOCK_WAS_SET_SECONDS, file_at, wall_offset_seconds
from exporters.history import retention, steps
from exporters.history.database import Database
from exporters.runs import printable
from trainer_hooks import recording
from trainer_hooks.recording import EventReader, RecordingError, RecordingReader, StepRecord

logger = logging.getLogger(__name__)

_MOST_RECORDS = 2048  # of one recording in one round: a backlog is worked off in several
_RECORDINGS_AT_ONCE = 16  # in one transaction, so that others who write need not wait long
_OF_EVERY_EVENT = {"event", "time_ns", "step"}
_MOST_FIELDS, _LONGEST_TEXT = 32, 1024
_LONGEST_NAME = 64
# names of slots, which the service asks for; and what it alone says
_NOT_TOLD = {"scalar", "state"}
_NEW_RECORDINGS_SECONDS = 5.0  # of a round's deadline
_AGAIN_AFTER_SECONDS = 10.0
# What is wrong with values rather than with the file they go to.
_OF_VALUES = {
    *(sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH),
    *(sqlite3.SQLITE_RANGE, sqlite3.SQLITE_TOOBIG),
}


class _Progress(NamedTuple):
    """How far a recording is in the database."""

    recording: int
    records: int
    events_bytes: int
    bucketed_ns: int
    over: int
    wall_offset_seconds: float


class _Taken(NamedTuple):
    """What came of one recording in one round; `over` when it has ended and was read to its end.

    With an `error` nothing came of it.
    """

    reader: RecordingReader
    steps: int = 0
    lost: int = 0
    alive: bool = False
    over: bool = False
    error: Exception | None = None


class _Failing(NamedTuple):
    """Why a recording could not be read or kept, and when (monotonic) it is tried again."""

    why: str
    again_at: float


class HistoryCollector:
    """Reads every recording below some directories into the database."""

    name = "history"
    interval_seconds = 1.0
    deadline_seconds = 30.0

    def __init__(
        self,
        directories: Sequence[Path],
        database: Database,
        *,
        buckets_every_seconds: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._buckets_every_seconds = buckets_every_seconds
        self._directories = directories
        self._database = database
        self._monotonic = monotonic
        self._wall = wall
        self._readers: dict[Path, RecordingReader] = {}
        self._nameless: list[RecordingReader] = []  # their files were removed while they lived
        self._over: dict[Path, tuple[int, int] | None] = {}  # those that are over, and their files
        self._failing: dict[Path, _Failing] = {}
        self._bucketed_at = 0.0
        self._steps = self._lost = 0

    def collect(self) -> Iterator[Sample]:
        """Read on in every recording. Raises sqlite3.Error where the database cannot be written.

        One that cannot be read or kept is nothing to the others: logged once, counted, and tried again.
        """
        now = self._monotonic()
        new = self._find(now)
        buckets = now - self._bucketed_at >= self._buckets_every_seconds
        for some in _parts([*self._readers.values(), *self._nameless]):
            self._read_on(some, buckets)
        # The dead are closed before the next are opened: many recordings need few descriptors.
        for paths in _parts(new):
            self._read_on(list(self._opened(paths)), buckets)
            if self._monotonic() - now > _NEW_RECORDINGS_SECONDS:
                break
        if buckets:
            self._bucketed_at = now
        yield Sample(catalog.HISTORY_STEPS_TOTAL, {}, self._steps)
        yield Sample(catalog.HISTORY_LOST_STEPS_TOTAL, {}, self._lost)
        yield Sample(catalog.HISTORY_FAILING_RECORDINGS, {}, len(self._failing))
        yield Sample(catalog.HISTORY_SIZE_BYTES, {}, self._database.size_bytes())

    @property
    def open_recordings(self) -> int:
        return len(self._readers) + len(self._nameless)

    def close(self) -> None:
        for reader in [*self._readers.values(), *self._nameless]:
            reader.close()

    def _find(self, now: float) -> list[Path]:
        """Those to be opened, the living first."""
        present = {path for directory in self._directories for path in recording.find(directory)}
        for known in (self._over, self._failing):
            for path in known.keys() - present:
                del known[path]
        for path, reader in list(self._readers.items()):
            if reader.unlinked:
                del self._readers[path]
                self._nameless.append(reader)
        new = [path for path in present - self._readers.keys() if self._is_due(path, now)]
        return sorted(new, key=lambda path: (not recording.is_locked(path), path))

    def _is_due(self, path: Path, now: float) -> bool:
        if path in self._failing:
            return now >= self._failing[path].again_at
        return path not in self._over or self._over[path] != file_at(path)

    def _opened(self, paths: Iterable[Path]) -> Iterator[RecordingReader]:
        for path in paths:
            try:
                self._readers[path] = RecordingReader(path)
            except Exception as error:
                self._put_off(path, error)
            else:
                yield self._readers[path]

    def _read_on(self, readers: Sequence[RecordingReader], buckets: bool) -> None:
        with self._database.write() as connection:
            taken = [self._take_or_leave(connection, reader, buckets) for reader in readers]
        for each in taken:
            self._steps += each.steps
            self._lost += each.lost
            if each.error is not None:
                self._put_off(each.reader.path, each.error)
                self._let_go(each.reader)
            else:
                self._failing.pop(each.reader.path, None)
                # A dead one with more to be read is new again, unless it could not be opened again.
                if each.over or not (each.alive or each.reader in self._nameless):
                    self._let_go(each.reader, over=each.over)

    def _put_off(self, path: Path, error: Exception) -> None:
        # The collector of recordings tells of what cannot be read.
        why = "" if isinstance(error, RecordingError) else f"{type(error).__name__}: {error}"
        before = self._failing.get(path)
        if why and (before is None or before.why != why):
            logger.warning("%s is missing in the history: %s", path, why, exc_info=error)
        self._failing[path] = _Failing(why, self._monotonic() + _AGAIN_AFTER_SECONDS)

    def _let_go(self, reader: RecordingReader, *, over: bool = False) -> None:
        reader.close()
        if reader in self._nameless:
            self._nameless.remove(reader)
            return
        del self._readers[reader.path]
        if over:
            self._over[reader.path] = file_at(reader.path)

    def _take_or_leave(
        self, connection: sqlite3.Connection, reader: RecordingReader, buckets: bool
    ) -> _Taken:
        """All or nothing of one recording. Raises sqlite3.Error where it is the database that fails."""
        connection.execute("SAVEPOINT recording")
        try:
            taken = self._take(connection, reader, buckets)
        except Exception as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code not in _OF_VALUES or not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO recording")
            taken = _Taken(reader, error=error)
        connection.execute("RELEASE recording")
        return taken

    def _take(self, connection: sqlite3.Connection, reader: RecordingReader, buckets: bool) -> _Taken:
        """Read on in one recording."""
        progress = self._progress(connection, reader)
        if progress.over:
            return _Taken(reader, over=True)
        alive = reader.alive()  # before the values: those of a dead one are its last
        records, reached, newest = _next_steps(reader, progress.records)
        kept = steps.add(connection, progress.recording, records)
        lost = reached - progress.records - kept
        offset_seconds = self._follow_clock(connection, reader, progress)
        events = EventReader(reader.path, offset=progress.events_bytes)
        if not reader.unlinked:  # what is under its name then is another's
            self._add_events(connection, reader, events.new(), offset_seconds)
        over = not alive and reached >= newest
        bucketed_ns = progress.bucketed_ns
        if buckets or over:
            bucketed_ns = steps.bucket(connection, progress.recording, bucketed_ns)
        now = (reached, events.offset, bucketed_ns, over)
        if now != progress[1:-1]:
            connection.execute(
                "UPDATE recordings SET records = ?, events_bytes = ?, bucketed_ns = ?, over = ?, "
                "lost_records = lost_records + ? WHERE id = ?",
                (*now, lost, progress.recording),
            )
        return _Taken(reader, kept, lost, alive, over)

    def _progress(self, connection: sqlite3.Connection, reader: RecordingReader) -> _Progress:
        static = reader.static
        identity = (
            *(static.run, static.node, static.rank, reader.attempt),
            *(static.boot_id, static.start_monotonic_ns),
        )
        select = (
            "SELECT id, records, events_bytes, bucketed_ns, over, wall_offset_seconds FROM recordings "
            "WHERE run = ? AND node = ? AND rank = ? AND attempt = ? AND boot_id = ? AND start_ns = ?"
        )
        row = connection.execute(select, identity).fetchone()
        if row is None:
            connection.execute(
                "INSERT INTO recordings (run, node, rank, attempt, boot_id, start_ns, wall_offset_seconds) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*identity, self._wall_offset_seconds(reader)),
            )
            row = connection.execute(select, identity).fetchone()
        return _Progress(*row)

    def _wall_offset_seconds(self, reader: RecordingReader) -> float:
        return wall_offset_seconds(reader.static, self._wall() - self._monotonic())

    def _follow_clock(
        self, connection: sqlite3.Connection, reader: RecordingReader, progress: _Progress
    ) -> float:
        """What turns its monotonic seconds into unix time: as it is kept, unless the clock was set since.

        Then its events move with its steps, which are told by their monotonic times.
        """
        before, now = progress.wall_offset_seconds, self._wall_offset_seconds(reader)
        if abs(now - before) <= CLOCK_WAS_SET_SECONDS:
            return before
        static = reader.static
        connection.execute(
            "UPDATE recordings SET wall_offset_seconds = ? WHERE id = ?", (now, progress.recording)
        )
        connection.execute(
            "UPDATE events SET at = round(at + ?, 3) "
            "WHERE run = ? AND rank = ? AND attempt = ? AND kind <> 'state' AND at >= ?",
            (
                *(now - before, static.run, static.rank, reader.attempt),
                round(before + static.start_monotonic_ns / 1e9, 3),  # not an earlier recording's
            ),
        )
        return now

    def _add_events(
        self,
        connection: sqlite3.Connection,
        reader: RecordingReader,
        events: Sequence[Mapping[str, object]],
        offset_seconds: float,
    ) -> None:
        oldest = self._wall() - retention.DEFAULT.runs
        for event in events:
            kind, time_ns, step = (event.get(name) for name in ("event", "time_ns", "step"))
            if not isinstance(kind, str) or kind in _NOT_TOLD or not _is_whole(time_ns):
                continue
            at = round(offset_seconds + time_ns / 1e9, 3)
            if at < oldest:
                continue
            fields = {name: value for name, value in _told(event) if name not in _OF_EVERY_EVENT}
            connection.execute(
                "INSERT INTO events (run, at, kind, rank, attempt, step, fields) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(reader.static.run, at, printable(kind)[:_LONGEST_NAME]),
                    *(reader.static.rank, reader.attempt, step if _is_whole(step) else None),
                    json.dumps(fields),
                ),
            )


def _next_steps(reader: RecordingReader, after: int) -> tuple[list[StepRecord], int, int]:
    """The next records that are left, the number they reach to, and the newest number."""
    first = after
    records, newest = reader.steps(first, first + _MOST_RECORDS)
    if newest - reader.ring_capacity > first:
        first = newest - reader.ring_capacity
        records, newest = reader.steps(first, first + _MOST_RECORDS)
    if not _is_whole(newest):
        raise RecordingError(reader.path, "corrupt", f"its newest step has the number {newest}")
    return records, max(after, min(newest, first + _MOST_RECORDS)), newest


def _is_whole(value: object) -> TypeGuard[int]:
    """Whether it is an integer, not below 0, that the database can hold."""
    return isinstance(value, int) and 0 <= value < 2**63


_Each = TypeVar("_Each")


def _parts(whole: Sequence[_Each]) -> Iterator[Sequence[_Each]]:
    for first in range(0, len(whole), _RECORDINGS_AT_ONCE):
        yield whole[first : first + _RECORDINGS_AT_ONCE]


def _told(event: Mapping[str, object]) -> Iterator[tuple[str, str | float]]:
    """What an event says in numbers and short texts; a recording may hold anything."""
    for name, value in list(event.items())[:_MOST_FIELDS]:
        if isinstance(value, str):
            yield printable(name)[:_LONGEST_NAME], printable(value)[:_LONGEST_TEXT]
        elif isinstance(value, int | float) and abs(value) <= sys.float_info.max:
            yield printable(name)[:_LONGEST_NAME], value
