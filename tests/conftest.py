"""What holds for every test, and for those that ask for it the double of NVML and a browser."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import fake_nvml
from tests.fake_nvml import Calls, Machine

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.trainvitals.test_serve import Service


@pytest.fixture(autouse=True, scope="session")
def _logs_of_stable_baselines3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Below pytest's folder, which goes; by itself each training makes one in /tmp, which stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("sb3")))
        yield


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
    from tests.fake_nvml import in_process  # where there is only the hook, there is no pynvml

    with in_process.machine(library, tmp_path / "control") as scenario:
        yield scenario


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real headless Chromium; a process can have one of Playwright only."""
    from playwright.sync_api import expect  # where there is only the hook, there is no playwright

    from tests.page.browser import chromium

    expect.set_options(timeout=20_000)
    with chromium() as opened:
        yield opened


@pytest.fixture
def services() -> Iterator[list[Service]]:
    """Those that are put in here are ended with the test."""
    started: list[Service] = []
    yield started
    for service in started:
        service.close()


@pytest.fixture
def address() -> Iterator[str]:
    """Where a service can listen again and again: nobody is given its port as a free one meanwhile."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"
