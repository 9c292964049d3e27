"""Cursors: where a page of a list ends, as a text that says nothing to whom it is given."""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import TypeVar

Name = TypeVar("Name", int, str)

_LARGEST = 2**63 - 1  # that SQLite can hold


def encoded(at: float, name: str | int) -> str:
    """A cursor behind the entry of this time and name."""
    return base64.urlsafe_b64encode(json.dumps([at, name]).encode()).decode().rstrip("=")


def decoded(cursor: str, kind: type[Name]) -> tuple[float, Name]:
    """What `encoded` made a cursor of. Raises ValueError for another text, or a name of another kind."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        at, name = json.loads(base64.urlsafe_b64decode(padded))
        if isinstance(at, float | int) and math.isfinite(at) and type(name) is kind:
            if isinstance(name, str):
                name.encode()  # no half of a pair
            elif not 0 <= name <= _LARGEST:
                raise ValueError
            return float(at), name
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error):
        pass
    raise ValueError(f"no cursor: {cursor[:100]!r}; leave it out for the first page")
