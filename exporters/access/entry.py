"""One line of the audit log, written and read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

NO_HASH = "0" * 64
_MOST_CHARACTERS = 200


@dataclass(frozen=True)
class Event:
    """What is to be told: who did what to what, and how that ended; `count` times alike."""

    actor: str
    role: str
    action: str
    resource: str
    outcome: str
    address: str
    count: int = 1


@dataclass(frozen=True)
class AuditEntry:
    """An event in its place in the log; `at` is ISO 8601, hashes are SHA-256 in hexadecimal."""

    id: int
    at: str
    actor: str
    role: str
    action: str
    resource: str
    outcome: str
    address: str
    count: int
    previous_hash: str
    hash: str

    @property
    def line(self) -> bytes:
        return _canonical(asdict(self)) + b"\n"

    @property
    def is_whole(self) -> bool:
        """Whether its hash is that of what it says."""
        return self.hash == hash_of(asdict(self))


def make_entry(event: Event, number: int, previous_hash: str, at: float) -> AuditEntry:
    """`at` is in unix seconds; texts are cut to 200 characters."""
    moment = datetime.fromtimestamp(at, UTC)
    texts = {
        name: value[:_MOST_CHARACTERS] if isinstance(value, str) else value
        for name, value in asdict(event).items()
    }
    values: dict[str, Any] = {
        "id": number,
        "at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **texts,
        "previous_hash": previous_hash,
    }
    return AuditEntry(**values, hash=hash_of(values))


def parse_entry(line: bytes) -> AuditEntry | None:
    """None where the line is not one exactly as it is written; its hash is not looked at."""
    try:
        entry = AuditEntry(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    for field in fields(AuditEntry):
        if type(getattr(entry, field.name)) is not (int if field.name in ("id", "count") else str):
            return None
    return entry if entry.line == line else None


def hash_of(values: dict[str, Any]) -> str:
    """Over all of an entry but its hash."""
    return hashlib.sha256(_canonical({k: v for k, v in values.items() if k != "hash"})).hexdigest()


def _canonical(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
