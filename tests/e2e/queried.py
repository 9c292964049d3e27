"""What a Prometheus has of a query, once it has anything."""

from __future__ import annotations

import time
from typing import Any

from trainvitals.stack import Stack


def queried(stack: Stack, expression: str) -> list[dict[str, Any]]:
    """The series; a scrape that takes too long leaves nothing to a query until the next. None after 20 s."""
    deadline = time.monotonic() + 20
    while not (found := stack.query(expression)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found
