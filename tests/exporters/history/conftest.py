from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters.history.database import Database
from exporters.history.writer import HistoryCollector


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "state" / "history.db")
    yield database
    database.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the recordings are."""
    return tmp_path / "recordings"


@pytest.fixture
def collector(directory: Path, database: Database) -> Iterator[HistoryCollector]:
    collector = HistoryCollector([directory], database, buckets_every_seconds=0)
    yield collector
    collector.close()
