"""Where the drill's Alertmanager sends its notifications: a small HTTP server that keeps what comes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

DEADMAN_PATH, NOTIFICATIONS_PATH, SLOW_PATH = "/deadman", "/notifications", "/slow"
SLOW_SECONDS = 2.5


class Arrival(NamedTuple):
    """An alert that was told to a receiver, and when (monotonic seconds)."""

    receiver: str
    status: str
    labels: Mapping[str, str]
    at: float

    @property
    def name(self) -> str:
        return self.labels.get("alertname", "?")


class Sink:
    """Takes Alertmanager's webhook calls on a free loopback port, as long as the `with` block lasts.

    `refuses_deadman` lets the calls of the dead-man's switch fail with 403, which is never tried again. What
    is asked at SLOW_PATH is answered with an error after SLOW_SECONDS: a store far away that is slow.
    """

    def __init__(self) -> None:
        self.refuses_deadman = False
        self._arrivals: list[Arrival] = []
        self._closing = threading.Event()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(sink._answer(self.path, body))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def arrivals(self) -> list[Arrival]:
        """All that has come, in the order in which it came."""
        return list(self._arrivals)

    def _answer(self, path: str, body: bytes) -> int:
        """The HTTP status of the answer."""
        if path == SLOW_PATH:
            self._closing.wait(SLOW_SECONDS)
            return 503
        if path == DEADMAN_PATH and self.refuses_deadman:
            return 403
        try:
            told = json.loads(body)
            now = time.monotonic()
            self._arrivals += [
                Arrival(told["receiver"], alert["status"], alert["labels"], now) for alert in told["alerts"]
            ]
        except (ValueError, KeyError, TypeError):
            return 400
        return 204
