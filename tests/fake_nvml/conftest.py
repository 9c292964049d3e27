"""A session with the double, for every test of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fake_nvml import Calls, Machine
from tests.fake_nvml.asking import nvml


@pytest.fixture(autouse=True)
def _session(calls: Calls, machine: Machine) -> None:
    nvml.nvmlInit()


@pytest.fixture
def gpu(machine: Machine) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(0)
