"""Where the commands that tell of runs ask: a running service, or the database of one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import httpx
from fastapi import FastAPI
from pydantic import ValidationError

from exporters.access.tokens import read_local_token, read_token
from exporters.api import alerts, gpus, runs
from exporters.calling import checked_url, client
from exporters.history.acknowledgements import Acknowledgements
from exporters.history.known import KnownRuns
from exporters.history.read_only import ReadOnlyDatabase
from trainer_hooks import directory
from trainvitals.listen import DEFAULT_LISTEN, is_loopback

DEFAULT_URL = f"http://{DEFAULT_LISTEN}"
_ANSWER_SECONDS = 30.0
_NOT_ALLOWED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
_LISTENING = "0A"

Parameters = Mapping[str, str | int | float | Sequence[str]]


class SourceError(Exception):
    """What was asked for cannot be had; the message says why, and what to do."""


class NoServiceError(SourceError):
    """Nothing answers where a service was asked for."""


class Source(Protocol):
    """Answers what the API answers. Raises SourceError."""

    name: str

    def get(self, path: str, parameters: Parameters | None = None) -> Any:
        """The JSON of /api/v1 and this path."""

    def text(self, path: str) -> str | None:
        """What lies at a path outside the API; None where there is no such thing."""

    def seen_at(self, run: str) -> float | None:
        """When a run was last seen as it is told, in unix seconds; None where that is now."""

    def close(self) -> None: ...


class ServiceSource:
    """A running service. Its answers are asked for without a token, until it wants one."""

    def __init__(self, url: str = DEFAULT_URL, token_file: Path | None = None) -> None:
        """Raises SourceError where the URL is none, or the token cannot be read."""
        try:
            self._url = checked_url(url)
            token = read_token(token_file) if token_file is not None else None
        except (OSError, ValueError) as error:
            raise SourceError(str(error)) from None
        self.name = str(self._url)
        self._client = client(answer_seconds=_ANSWER_SECONDS)
        if token is not None:
            self._authenticate(token)

    def get(self, path: str, parameters: Parameters | None = None) -> Any:
        answer = self._answer(f"/api/v1{path}", parameters)
        if answer.is_success:
            try:
                return answer.json()
            except ValueError:
                raise SourceError(f"what answers at {self.name} is no service of trainvitals") from None
        raise _error(answer, self.name)

    def text(self, path: str) -> str | None:
        answer = self._answer(path, None)
        return answer.text if answer.is_success else None

    def seen_at(self, run: str) -> float | None:
        return None

    def close(self) -> None:
        self._client.close()

    def _answer(self, path: str, parameters: Parameters | None) -> httpx.Response:
        answer = self._ask(path, parameters)
        if answer.status_code in _NOT_ALLOWED and "authorization" not in self._client.headers:
            token = self._local_token()
            if token is not None:
                self._authenticate(token)
                answer = self._ask(path, parameters)
        return answer

    def _ask(self, path: str, parameters: Parameters | None) -> httpx.Response:
        try:
            return self._client.get(f"{self.name}{path}", params=dict(parameters or {}))
        except httpx.HTTPError as error:
            said = f" ({error})" if str(error) else ""
            raise NoServiceError(
                f"no service answers at {self.name}{said}; start one with `trainvitals serve` "
                "or name another with --url"
            ) from None

    def _authenticate(self, token: str) -> None:
        self._client.headers["Authorization"] = f"Bearer {token}"

    def _local_token(self) -> str | None:
        """The token of this machine's own service, for a server that this user runs here and no other."""
        port = self._url.port or {"http": 80, "https": 443}[self._url.scheme]
        if not is_loopback(self._url.host) or listening_users(port) != {os.geteuid()}:
            return None
        with contextlib.suppress(OSError, ValueError):
            return read_local_token(directory.state_directory())
        return None


class DatabaseSource:
    """The database of a service, read by the API's own routes in this process."""

    def __init__(self, path: Path) -> None:
        """Raises SourceError where it cannot be read."""
        self.name = str(path)
        try:
            self._database = ReadOnlyDatabase(path)
            known = KnownRuns(self._database, Acknowledgements(self._database), [])
        except (OSError, sqlite3.Error) as error:
            raise SourceError(f"the database {path} cannot be read: {error}") from None
        self._worker = ThreadPoolExecutor(max_workers=1)  # whoever calls may have an event loop of its own
        self._application = FastAPI()
        for router in (
            runs.routes(known),
            alerts.routes(self._database),
            gpus.history_routes(self._database),
        ):
            self._application.include_router(router, prefix="/api/v1")

    def get(self, path: str, parameters: Parameters | None = None) -> Any:
        asked = self._ask(f"/api/v1{path}", dict(parameters or {}))
        answer = self._worker.submit(asyncio.run, asked).result()
        if answer.is_success:
            return answer.json()
        raise _error(answer, self.name)

    def text(self, path: str) -> str | None:
        return None

    def seen_at(self, run: str) -> float | None:
        try:
            with self._database.read() as connection:
                row = connection.execute("SELECT seen_at FROM runs WHERE run = ?", (run,)).fetchone()
        except sqlite3.Error as error:
            raise SourceError(f"the database {self.name} cannot be read: {error}") from None
        return None if row is None else float(row["seen_at"])

    def close(self) -> None:
        self._worker.shutdown()
        self._database.close()

    async def _ask(self, path: str, parameters: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(self._application)
        async with httpx.AsyncClient(transport=transport, base_url="http://database") as client:
            try:
                return await client.get(path, params=parameters)
            except sqlite3.Error as error:
                raise SourceError(f"the database {self.name} cannot be read: {error}") from None


def opened(url: str, token_file: Path | None, database: Path | None) -> Source:
    """The database where one is named, else the service. Raises SourceError."""
    return DatabaseSource(database) if database is not None else ServiceSource(url, token_file)


@contextlib.contextmanager
def understood(source: Source) -> Iterator[None]:
    """Within it an answer is read; raises SourceError where it is none that is known."""
    try:
        yield
    except (ValidationError, LookupError, TypeError, ValueError):
        raise SourceError(
            f"what {source.name} answers is not understood; is it trainvitals of another version?"
        ) from None


def listening_users(port: int, tables: Path = Path("/proc/self/net")) -> set[int]:
    """The users whose sockets listen on a TCP port of this machine (proc_net_tcp(5))."""
    found = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in (tables / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(int(fields[7]))
    return found


def _error(answer: httpx.Response, name: str) -> SourceError:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = None
    message = detail.get("message") if isinstance(detail, dict) else detail
    if answer.status_code == httpx.codes.NOT_FOUND and isinstance(detail, dict):
        return SourceError(str(message))
    if answer.status_code in _NOT_ALLOWED:
        said = message if isinstance(message, str) else f"status {answer.status_code}"
        return SourceError(
            f"{name} does not answer without a token that may read: {said}; use --token-file FILE"
        )
    return SourceError(f"{name} answers {answer.status_code}: {message or answer.text[:200]}")
