"""A collector over the recordings in a test's folder, the clocks it goes by, and the double of NVML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters.recordings import RecordingsCollector
from tests import fake_nvml
from tests.exporters.gpu import double
from tests.exporters.looks import Clocks, Look
from tests.fake_nvml import Calls, Machine


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


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C double of libnvidia-ml.so.1, built once a process."""
    return fake_nvml.build(tmp_path_factory.mktemp("fake_nvml"))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the double is asked; named before `machine`, whose first call opens the count."""
    monkeypatch.setenv(fake_nvml.CALLS_VARIABLE, str(tmp_path / "calls"))
    return Calls(tmp_path / "calls")


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> Iterator[Machine]:
    """A machine with two GPUs, the double in the library's place for one test."""
    with double.machine(library, tmp_path / "control") as scenario:
        yield scenario
