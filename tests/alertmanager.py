"""A real Alertmanager for tests, and a webhook that keeps what it sends."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.prometheus import free_port

START_DEADLINE_SECONDS = 60.0
STOP_DEADLINE_SECONDS = 20.0


class Notification(NamedTuple):
    """One call of the webhook, cut down to what it says: its status and the labels of each alert in it."""

    status: str
    alerts: list[dict[str, str]]


class AlertmanagerServer:
    """An Alertmanager that lives as long as the `with` block, alone, on a free loopback port.

    `directory` takes the configuration, the log and its state. Entering raises RuntimeError, with the end of
    the log, when it is not ready within a minute or not installed.
    """

    def __init__(self, directory: Path, config: str) -> None:
        self.directory = directory
        self.log = directory / "alertmanager.log"
        self.address = ""
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # Debian's name, then upstream's.
        program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
        if program is None:
            raise RuntimeError("no Alertmanager is installed: apt-get install prometheus-alertmanager")
        config = self.directory / "alertmanager.yml"
        config.write_text(self._config, encoding="utf-8")
        # Another process may take the free port first: then try the next.
        for attempts_left in (2, 1, 0):
            self.address = f"127.0.0.1:{free_port()}"
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [
                        program,
                        f"--config.file={config}",
                        f"--storage.path={self.directory / 'state'}",
                        f"--web.listen-address={self.address}",
                        "--cluster.listen-address=",
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            if self._wait_until_ready():
                return self
            self.stop()
            if not attempts_left or "address already in use" not in self.log.read_text(errors="replace"):
                break
        last_lines = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
        raise RuntimeError(f"Alertmanager did not become ready; the end of {self.log}:\n{last_lines}")

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process, by force when it does not go; nothing happens when it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_until_ready(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5):
                    return self._process.poll() is None
            except OSError:
                time.sleep(0.05)
        return False


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
