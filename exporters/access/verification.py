"""Whether an audit log is as it was written, and if not, which line is the first that is wrong."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from exporters.access.audit import HEAD_MISSED, Head, head_path, read_head
from exporters.access.entry import NO_HASH, AuditEntry, parse_entry


@dataclass(frozen=True)
class Verdict:
    """What is known of a log: how many entries, the last hash, and the first thing that is wrong."""

    count: int
    hash: str
    problem: str | None
    remark: str | None = None


def verify(path: Path) -> Verdict:
    """Go through the whole chain as it is now; raises OSError where the log cannot be read."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # not while a line is being written
        size = os.fstat(file.fileno()).st_size
        head, problem = _head(path)
        fcntl.flock(file, fcntl.LOCK_UN)  # who writes need not wait for the rest
        chain = _Chain(path)
        while size > 0 and (line := file.readline(size)):
            size -= len(line)
            if line.endswith(b"\n"):
                chain.take(line)
            if chain.problem is not None:
                return Verdict(chain.count, chain.hash, chain.problem)
            if not line.endswith(b"\n"):
                remark = f"line {chain.count + 1} is incomplete: a crash while it was written"
                return Verdict(chain.count, chain.hash, _at_the_end(chain, head, problem), remark)
    return Verdict(chain.count, chain.hash, _at_the_end(chain, head, problem))


def _head(path: Path) -> tuple[Head | None, str | None]:
    try:
        return read_head(path), None
    except ValueError as error:
        return None, str(error)


class _Chain:
    """The entries so far, followed line by line up to the first that does not follow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count, self.hash = 0, NO_HASH
        self.problem: str | None = None
        self.head_missed: int | None = None

    def take(self, line: bytes) -> None:
        """One line more; `problem` says why it does not follow."""
        number = self.count + 1
        entry = parse_entry(line)
        if entry is None:
            self.problem = f"line {number} was changed: it is no entry"
        elif not entry.is_whole:
            self.problem = f"line {number} was changed: its hash is not that of what it says"
        elif entry.id != number:
            self.problem = self._out_of_place(entry)
        elif entry.previous_hash != self.hash:
            self.problem = (
                f"line {number} does not follow the one before it: one of them was changed or replaced"
            )
        else:
            self.count, self.hash = entry.id, entry.hash
            if entry.action == HEAD_MISSED and self.head_missed is None:
                self.head_missed = number

    def _out_of_place(self, entry: AuditEntry) -> str:
        wanted, found = self.count + 1, entry.id
        if found < wanted:
            return f"line {wanted} is out of order or there twice: it is entry {found}, and {wanted} follows"
        with self.path.open("rb") as file:
            later = any(each is not None and each.id == wanted for each in map(parse_entry, file))
        if later:
            return f"line {wanted} is out of order: it is entry {found}, and {wanted} comes later"
        missing = f"entry {wanted} is" if found == wanted + 1 else f"entries {wanted} to {found - 1} are"
        return f"before line {wanted} something was removed: {missing} missing"


def _at_the_end(chain: _Chain, head: Head | None, problem: str | None) -> str | None:
    """What is wrong with a log that is in order up to its last line; `problem` is that of its head."""
    name = head_path(chain.path).name
    if problem is not None:
        return problem
    if head is None and chain.count:
        return f"{name} is missing: whether lines are missing at the end is not known"
    if head is not None and head.count > chain.count:
        return (
            f"after line {chain.count} something was removed: the log ends with entry {chain.count}, "
            f"and {name} knows {head.count}"
        )
    if head is not None and head.count == chain.count and head.hash != chain.hash:
        return f"line {chain.count} was replaced: {name} knows another last entry"
    if chain.head_missed is not None:
        return (
            f"before line {chain.head_missed} something may have been removed: "
            f"{name} was missing when it was written"
        )
    return None
