"""The audit log: one JSON line an entry, each holding the hash of the one before.

Who changes, removes or moves a line breaks the chain there. Beside it `audit.head` holds how many entries
there are and the hash of the last, so that lines missing at the end are noticed, too. Both are plain files:
who may write them can write the whole chain anew, and only a hash noted elsewhere would tell.

The head is written after its line, so a crash leaves it behind the log, never ahead. What a crash leaves of a
line has no end and was never counted: the next entry takes its place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from exporters.access.entry import NO_HASH, AuditEntry, Event, make_entry, parse_entry
from exporters.access.stored import synchronize, write_private

LOG_FILE = "audit.jsonl"
HEAD_MISSED = "find no head"  # what the log says of itself: lines may be missing before this one
_CHUNK_BYTES = 16_384


@dataclass(frozen=True)
class Head:
    """How far the log goes."""

    count: int
    hash: str


class AuditLog:
    """The log of one folder, which has to be there. Any number of processes append to it, one at a time."""

    def __init__(self, path: Path, *, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self._wall = wall

    def append(self, event: Event, at: float | None = None) -> AuditEntry:
        """Kept on disk when this returns; `at` is when it happened, where that was before.

        Raises OSError, and then nothing of it is kept.
        """
        log = self._open()
        try:
            fcntl.flock(log, fcntl.LOCK_EX)
            head, head_missed = self._end(log)
            for each in (*head_missed, event):
                entry = make_entry(each, head.count + 1, head.hash, self._wall() if at is None else at)
                _write(log, entry.line)
                head = Head(entry.id, entry.hash)
                with contextlib.suppress(OSError):  # it stays behind, which is no harm
                    write_head(self.path, head)
            return entry
        finally:
            os.close(log)

    def check(self) -> None:
        """Raises OSError where nothing could be appended at present, but for a lack of room."""
        os.close(self._open())

    def newest(self, most: int, before: int | None = None) -> tuple[list[AuditEntry], int | None]:
        """Up to `most` entries that end before an offset, newest first; and the offset that goes on there.

        Raises OSError.
        """
        found: list[AuditEntry] = []
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return [], None
        try:
            size = os.fstat(descriptor).st_size
            for start, line in _lines_backwards(descriptor, size if before is None else min(before, size)):
                entry = parse_entry(line)
                if entry is not None:
                    found.append(entry)
                    if len(found) == most:
                        return found, start or None
        finally:
            os.close(descriptor)
        return found, None

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _end(self, log: int) -> tuple[Head, list[Event]]:
        """Whom the next entry follows, and what has to be said first."""
        last = None
        for start, line in _lines_backwards(log, os.fstat(log).st_size):
            if line.endswith(b"\n"):
                last = parse_entry(line)
                break
            os.ftruncate(log, start)
        try:
            head = read_head(self.path)
        except ValueError:
            head = None
        head_missed = []
        is_empty = os.fstat(log).st_size == 0
        if head is None:
            head = Head(0, NO_HASH)
            if is_empty:
                write_head(self.path, head)  # before the first line, so that a log without one is suspect
            else:
                name = head_path(self.path).name
                head_missed = [Event("trainvitals", "service", HEAD_MISSED, name, "begun anew", "")]
        if is_empty:
            synchronize(self.path.parent)
        if last is not None and last.is_whole and last.id > head.count:
            head = Head(last.id, last.hash)
        # Else the head is the truth: where lines were removed the next entry shall not close the gap.
        return head, head_missed


def head_path(path: Path) -> Path:
    return path.with_suffix(".head")


def read_head(path: Path) -> Head | None:
    """Of the log at `path`; None where there is none. Raises ValueError with a sentence for another file."""
    name = head_path(path)
    try:
        found = json.loads(name.read_bytes())
        count, digest = found["count"], found["hash"]
        if type(count) is not int or count < 0 or not re.fullmatch("[0-9a-f]{64}", digest):
            raise TypeError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        raise ValueError(
            f"{name.name} cannot be read: whether lines are missing at the end is not known"
        ) from None
    return Head(count, digest)


def write_head(path: Path, head: Head) -> None:
    write_private(head_path(path), json.dumps(asdict(head)).encode() + b"\n", replace=True)


def _write(log: int, line: bytes) -> None:
    size = os.fstat(log).st_size
    try:
        written = os.write(log, line)
        if written < len(line):
            raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes could be written")
        os.fsync(log)
    except OSError:
        # Without the part that was; if it cannot be removed, the next entry does.
        with contextlib.suppress(OSError):
            os.ftruncate(log, size)
        raise


def _lines_backwards(descriptor: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Lines that end before an offset, the last first, with where each begins."""
    data = b""
    while end > 0:
        begin = max(0, end - _CHUNK_BYTES)
        data = os.pread(descriptor, end - begin, begin) + data
        whole = data.find(b"\n") + 1 if begin else 0  # what is before may have begun earlier
        if begin == 0 or whole:
            at = begin + len(data)
            for line in reversed(_split(data[whole:])):
                at -= len(line)
                yield at, line
            data = data[:whole]
        end = begin


def _split(data: bytes) -> list[bytes]:
    """Into lines with their ends; at line feeds only, since torn bytes may hold any other."""
    *lines, last = data.split(b"\n")
    return [line + b"\n" for line in lines] + ([last] if last else [])
