"""A small application behind a guard, on files of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession

from exporters.access.access import Access, open_access
from exporters.access.entry import AuditEntry
from exporters.access.guard import Guard
from exporters.access.roles import Role
from exporters.access.routes import access_routes
from exporters.access.tokens import TokenFile, read_local_token

URL = "http://127.0.0.1:8003"
ALERTS = "/api/v1/alerts"
STREAM = "/api/v1/stream"
SESSION = "/api/v1/session"


def now() -> datetime:
    return datetime.now(UTC)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


class Guarded:
    """`tokens` holds one of each role where a token file is wanted."""

    def __init__(self, folder: Path, *, token_file: bool = False, **options: Any) -> None:
        self.folder = folder
        self.file = TokenFile(folder / "tokens.json", now=now)
        self.tokens: dict[str, str] = {}
        if token_file:
            self.tokens = {role.value: self.file.create(f"a-{role}", role)[1] for role in Role}
            options["token_file"] = self.file.path
        # The clock stands: however long a test takes, no attempt comes back.
        self.access: Access = open_access(folder, clock=lambda: 0.0, **options)
        self.local = read_local_token(folder)
        self.app = small_app(self.access)
        self.guard = Guard(self.app, self.access)
        self.client = self.client_of(URL)

    def listen(self, path: str = STREAM, url: str = URL, **headers: str) -> WebSocketTestSession:
        """A WebSocket; headers with _ for -."""
        address = url.replace("http", "ws", 1) + path
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client_of(url).websocket_connect(address, headers=named)

    def client_of(self, url: str) -> TestClient:
        return TestClient(self.guard, base_url=url, raise_server_exceptions=False)

    @property
    def entries(self) -> Sequence[AuditEntry]:
        """Of the audit log, the oldest first."""
        self.access.journal._drain()  # what nobody waits for
        return self.access.journal.log.newest(10_000)[0][::-1]

    @property
    def told(self) -> list[tuple[str, str, str, str]]:
        return [(entry.actor, entry.action, entry.resource, entry.outcome) for entry in self.entries]


def small_app(access: Access) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    @app.get("/health")
    @app.get("/metrics")
    @app.get("/assets/{name:path}")
    @app.get("/api/v1/runs")
    async def read(request: Request) -> dict[str, str | None]:
        caller = request.state.caller
        return {"caller": caller and caller.name}

    @app.get("/api/v1/runs/{run}")
    async def run(run: str) -> dict[str, str]:
        return {"run": run}

    @app.delete("/api/v1/runs/{run}")
    @app.post("/api/v1/kubeflow/{run}")
    @app.post("/api/v1/alerts")
    async def write(request: Request) -> dict[str, Any]:
        return {"caller": request.state.caller.name, "bytes": len(await request.body())}

    @app.post("/api/v1/gpus/release")
    async def fails() -> None:
        raise RuntimeError("secret-of-the-failure")

    @app.websocket("/api/v1/stream")
    async def stream(websocket: WebSocket) -> None:
        state = websocket.scope["state"]
        await websocket.accept()
        if state["caller"] is None:
            caller = await state["authenticate"](await websocket.receive_text())
            if caller is None:
                await websocket.close(1008)
                return
        async for _ in websocket.iter_text():
            await websocket.send_json({"caller": state["caller"].name, "may": state["still_allowed"]()})

    app.include_router(access_routes(access), prefix="/api/v1")
    return app
