"""A collector over the recordings in a test's folder, and the clocks it goes by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters.recordings import RecordingsCollector
from tests.exporters.looks import Clocks, Look


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def collector(tmp_path: Path, clocks: Clocks) -> Iterator[RecordingsCollector]:
    collector = RecordingsCollector(
        [tmp_path], stall_after_seconds=60, monotonic_ns=clocks.monotonic_ns, wall=clocks.wall
    )
    yield collector
    collector.close()


@pytest.fixture
def look(collector: RecordingsCollector) -> Look:
    return lambda: list(collector.collect())
