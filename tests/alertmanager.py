"""A real Alertmanager for tests, and a webhook that keeps what it sends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.prometheus import binary
from trainvitals.child import Child, start_server


class Notification(NamedTuple):
    """One call of the webhook, cut down to what it says: its status and the labels of each alert in it."""

    status: str
    alerts: list[dict[str, str]]


class AlertmanagerServer:
    """An Alertmanager that lives as long as the `with` block, alone, on a free loopback port.

    `directory` takes the configuration, the log and its state. Entering raises ChildError, with the end of
    the log, when it is not ready within a minute.
    """

    def __init__(self, directory: Path, config: str) -> None:
        self.directory = directory
        self.address = ""
        self._config = config
        self._child: Child | None = None

    def __enter__(self) -> Self:
        config = self.directory / "alertmanager.yml"
        config.write_text(self._config, encoding="utf-8")
        self._child, url = start_server(
            "alertmanager",
            lambda address: [
                binary("prometheus-alertmanager"),
                f"--config.file={config}",
                f"--storage.path={self.directory / 'state'}",
                f"--web.listen-address={address}",
                "--cluster.listen-address=",
            ],
            self.directory / "alertmanager.log",
        )
        self.address = url.removeprefix("http://")
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process; nothing happens when it is gone."""
        if self._child is not None:
            self._child.stop()


class WebhookReceiver:
    """Takes Alertmanager's webhook calls as long as the `with` block lasts."""

    def __init__(self) -> None:
        self._received: list[Notification] = []
        self._arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver._take(payload)
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/api/v1/alerts"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def notifications(self) -> list[Notification]:
        """All that has arrived, oldest first."""
        with self._arrived:
            return list(self._received)

    def wait_for(
        self, condition: Callable[[list[Notification]], bool], timeout_seconds: float
    ) -> list[Notification]:
        """What has arrived once `condition` holds for it, or when the time is over."""
        with self._arrived:
            self._arrived.wait_for(lambda: condition(self._received), timeout_seconds)
            return list(self._received)

    def _take(self, payload: dict[str, Any]) -> None:
        with self._arrived:
            self._received.append(
                Notification(payload["status"], [alert["labels"] for alert in payload["alerts"]])
            )
            self._arrived.notify_all()
