"""Random input of every kind at a real service, which goes on serving."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import random
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.exporters.trainers import Trainer
from tests.trainvitals.test_serve import Service

AT_ONCE = 16
MOST_GROWTH_KIB = 120_000
A_RUN = "/api/v1/runs/a-run"
PATHS = (
    *("/", "/assets/page.css", "/assets/..%2f..%2fetc%2fpasswd", "/health", "/ready", "/metrics"),
    *(A_RUN, f"{A_RUN}/series", f"{A_RUN}/events", f"{A_RUN}/progress", f"{A_RUN}/ranks", f"{A_RUN}/gpus"),
    *(f"/api/v1{each}" for each in ("", "/runs", "/compare", "/gpus", "/gpus/release", "/alerts", "/sd")),
    *(f"/api/v1/{each}" for each in ("kubeflow/a-run", "session", "audit", "stream")),
    "/openapi.json",
)
PARAMETERS = (
    *("name", "run", "by", "max_points", "from", "to", "rank", "cursor", "limit", "state", "kind"),
    *("started_after", "started_before", "sparkline_points"),
)
VALUES = (
    *("loss", "a-run", "step", "tokens", "1000", "-1", "1e999", "NaN", "2026-01-02T03:04:05Z"),
    *("%00", "'", '"><', "é"),
)
METHODS = ("GET", "GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH", "TRACE", "X" * 50)
HOSTS = ("127.0.0.1", "127.0.0.1", "localhost:8003", "evil.example", "[::1]", "", "a b")
TYPES = ("application/json", "application/json", "text/plain", "x", "")
ORIGINS = ("null", "http://evil.example", "http://127.0.0.1", "://")
SUFFIXES = ("/", "//", "/..", "/%2e%2e/", "%0a", ";a", "/" + "x" * 300)
PAYLOADS = (b"{}", b'{"type": "authenticate", "token": "x"}', b"\xff" * 50, b"x" * 20_000)
FIRST_BYTES = (0x81, 0x82, 0x88, 0x89, 0x8A, 0x01, 0xF3)  # text, binary, close, ping, pong, a part, none


class Fuzz:
    """Inputs out of a seed, and the connections on which they are sent."""

    def __init__(self, port: int, token: str, chance: random.Random) -> None:
        self._port = port
        self._token = token
        self._chance = chance
        self.answered = Counter[str]()

    async def send(self, count: int) -> None:
        """So many inputs, one after the other; a connection for each."""
        for _ in range(count):
            payload = self._websocket() if self._chance.random() < 0.3 else self._http()
            try:
                await asyncio.wait_for(self._exchange(payload), 30)
            except (ConnectionError, asyncio.IncompleteReadError):
                self._count("closed")

    async def _exchange(self, payload: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(payload)
            await writer.drain()
            if self._chance.random() < 0.5:
                writer.write_eof()
            answer = await reader.read(65536)
            self._count(answer[9:12].decode("ascii", "replace") if answer.startswith(b"HTTP/") else "none")
        finally:
            writer.transport.abort()

    def _count(self, what: str) -> None:
        self.answered[what] += 1

    def _http(self) -> bytes:
        chance = self._chance
        if chance.random() < 0.1:
            return self._noise(chance.randrange(1, 400)) + b"\r\n\r\n"
        method = chance.choice(
            ("GET", "GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH", "TRACE", "X" * 50)
        )
        body = self._body() if method in ("POST", "PUT", "PATCH") else b""
        lines = [
            f"{method} {self._target()} HTTP/1.{chance.choice('0111')}",
            f"Host: {chance.choice(HOSTS)}",
            "Connection: close",
        ]
        if body or chance.random() < 0.1:
            length = len(body) if chance.random() < 0.9 else chance.choice((0, 10**12, -1))
            lines.append(f"Content-Length: {length}")
        if chance.random() < 0.7:
            lines.append(f"Content-Type: {chance.choice(TYPES)}")
        if chance.random() < 0.5:
            token = chance.choice((self._token, self._token, "wrong", "é", "x" * 3000))
            lines.append(f"Authorization: Bearer {token}")
        if chance.random() < 0.2:
            lines.append(f"Cookie: trainvitals_session={chance.choice(('x', ';;', '=', 'é' * 50))}")
        if chance.random() < 0.2:
            lines.append(f"Origin: {chance.choice(ORIGINS)}")
        if chance.random() < 0.1:
            lines.append(f"X-{chance.randrange(9)}: {'y' * chance.choice((1, 20_000))}")
        return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body

    def _target(self) -> str:
        chance = self._chance
        path = chance.choice(PATHS)
        if chance.random() < 0.2:
            path += chance.choice((*SUFFIXES, "/" + quote(self._noise(8))))
        pairs = [
            f"{chance.choice(PARAMETERS)}={quote(chance.choice(VALUES), safe='%')}"
            for _ in range(chance.choice((0, 0, 1, 2, 5)))
        ]
        return "?".join([path, "&".join(pairs)] if pairs else [path])

    def _body(self) -> bytes:
        value = functools.partial(self._chance.choice, VALUES)
        kind = self._chance.randrange(5)
        if kind == 0:
            return self._noise(self._chance.randrange(0, 2000))
        if kind == 1:
            return b"[" * self._chance.choice((10, 5000))
        body: dict[str, Any] = {"address": value(), "seconds": value(), "token": "x"}
        if kind == 2:
            metrics = [{"name": self._chance.choice(("loss", "current_step")), "value": value()}]
            percentage = self._chance.choice((0, 50, 101, -1, None))
            body = {"trainerStatus": {"progressPercentage": percentage, "metrics": metrics}}
        elif kind == 3:
            starts_at = self._chance.choice(("2026-01-02T03:04:05Z", "never", 7))
            alert = {
                "status": "firing",
                "labels": {"run": value()},
                "fingerprint": "1",
                "startsAt": starts_at,
            }
            body = {"version": "4", "status": "firing", "receiver": "r", "alerts": [alert]}
        return json.dumps(body).encode()

    def _websocket(self) -> bytes:
        chance = self._chance
        key = base64.b64encode(self._noise(16)).decode()
        head = (
            f"GET /api/v1/stream?run={quote(chance.choice(VALUES))} HTTP/1.1\r\n"
            "Host: 127.0.0.1\r\nConnection: Upgrade\r\n"
            f"Upgrade: {chance.choice(('websocket', 'websocket', 'h2c'))}\r\n"
            f"Sec-WebSocket-Version: {chance.choice((13, 13, 13, 8))}\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        frames = b"".join(self._frame() for _ in range(chance.randrange(4)))
        return head.encode() + frames

    def _frame(self) -> bytes:
        chance = self._chance
        if chance.random() < 0.2:
            return self._noise(chance.randrange(1, 200))
        payload = chance.choice(
            (b"{}", b'{"type": "authenticate", "token": "x"}', self._noise(50), b"x" * 20_000)
        )
        first = chance.choice(FIRST_BYTES)
        mask = self._noise(4)
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
        return bytes([first]) + length + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))

    def _noise(self, count: int) -> bytes:
        return self._chance.randbytes(count)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, "--dir", str(tmp_path / "recordings")).wait_until_ready()
    yield service
    service.terminate()
    service.close()


@pytest.mark.parametrize("inputs", [1_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_whatever_it_is_sent_the_service_goes_on(service: Service, tmp_path: Path, inputs: int) -> None:
    port = int(service.url.rpartition(":")[2])
    token = service.local_token["Authorization"].removeprefix("Bearer ")
    with Trainer(tmp_path / "recordings", "a-run"):  # which somebody ends, with the token
        before = resident_kib(service)

        async def all_at_once() -> Counter[str]:
            fuzzes = [Fuzz(port, token, random.Random(seed)) for seed in range(AT_ONCE)]
            await asyncio.gather(*(each.send(inputs // AT_ONCE) for each in fuzzes))
            answered = Counter[str]()
            for each in fuzzes:
                answered += each.answered
            return answered

        # In this thread a loop may run: that of another test's browser.
        with ThreadPoolExecutor(1) as thread:
            answered = thread.submit(lambda: asyncio.run(all_at_once())).result()
        print(f"{inputs} inputs were answered with {dict(answered)}")
        assert service.process.poll() is None
        assert service.client.get("/health").status_code == 200
        assert service.client.get("/api/v1/runs/a-run").status_code == 200
        assert b"training_steps_total" in service.client.get("/metrics").content
    assert not {code for code in answered if code.startswith("5") and code != "503"}
    assert {"200", "101", "400", "401", "404", "421", "422"} <= answered.keys()
    assert "Traceback" not in service.log
    assert resident_kib(service) - before < MOST_GROWTH_KIB


def resident_kib(service: Service) -> int:
    for line in Path(f"/proc/{service.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("it is gone")
