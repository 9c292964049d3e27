"""A session with the double, and a clock that a test moves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from exporters.gpu.nvml import Nvml
from tests.exporters.gpu.double import Clock
from tests.fake_nvml import Machine


@pytest.fixture
def nvml(machine: Machine) -> Iterator[Nvml]:
    session = Nvml()
    yield session
    session.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()
