from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser

from tests.page.browser import Tab
from tests.page.fake import fake_service
from tests.page.invented import invented_runs
from tests.trainer_hooks.processes import wait_until
from tests.trainvitals.test_serve import Service

NewTab = Callable[..., Tab]


@pytest.fixture
def new_tab(browser: Browser) -> Iterator[NewTab]:
    """Opens tabs that are closed with the test."""
    opened: list[Tab] = []

    def make(url: str, *, size: tuple[int, int] = (1280, 900), scheme: str = "light") -> Tab:
        opened.append(Tab(browser, url, size=size, scheme=scheme))
        return opened[-1]

    yield make
    for tab in opened:
        tab.close()


@pytest.fixture(scope="session")
def invented() -> Iterator[str]:
    """The address of a stand-in for the service that tells of invented runs."""
    config = uvicorn.Config(fake_service(invented_runs()), port=0, log_level="error", ws="websockets-sansio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = server.force_exit = True
    # A stream whose page is gone has been seen to hold it for ever.
    thread.join(timeout=10)


@pytest.fixture
def service(services: list[Service], tmp_path: Path) -> Service:
    """A real one, ready, that follows the recordings below `tmp_path / "recordings"`."""
    services.append(Service(tmp_path, "--dir", str(tmp_path / "recordings")))
    return services[0].wait_until_ready()
