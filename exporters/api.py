"""The HTTP side of the service: health, metrics, runs, the alert inbox."""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import trainer_hooks
from exporters import exposition
from exporters.alert_inbox import Notification, StoredAlert
from exporters.collector import Runner, Sample
from exporters.gpu.node import Gpus, GpuStatus, gpu_statuses, published
from exporters.history import History
from exporters.recordings import RecordingsCollector
from exporters.runs import RunStatus

logger = logging.getLogger(__name__)

MOST_BODY_BYTES = 1_000_000
_CLOSED = {True: "closed", False: "open yet: a call into NVML has not returned"}
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class Index(BaseModel):
    trainvitals: str
    paths: list[str]


class Health(BaseModel):
    status: str
    version: str


class Readiness(BaseModel):
    ready: bool
    waiting_for: list[str]


class RunList(BaseModel):
    runs: list[RunStatus]


class AlertList(BaseModel):
    alerts: list[StoredAlert]


class Received(BaseModel):
    stored: int


class GpuList(BaseModel):
    """The GPUs, and why something of them is missing at present: `gpu, gpu_mig: the driver is not loaded`."""

    gpus: list[GpuStatus]
    problems: list[str]


class Release(BaseModel):
    """For how long NVML is to be let go of."""

    seconds: float = Field(gt=0, le=3600, allow_inf_nan=False)


class Released(BaseModel):
    """Whether the session is closed, which lets the driver be unloaded, and for how long none is opened."""

    closed: bool
    seconds_left: float


def create_app(
    recordings: RecordingsCollector | None,
    runners: Sequence[Runner],
    history: History | None,
    gpus: Gpus,
    hosts: Sequence[str] = LOCAL_HOSTS,
    *,
    page: Callable[[Iterable[Sample]], Iterable[Sample]] = published,
) -> FastAPI:
    """The application over running collectors; without recordings and history it knows GPUs only.

    `page` makes the samples of the page out of all that were gathered. `hosts` are the names, without port,
    under which a write may address the service: a page of another site that resolves to this machine is
    refused.
    """
    app = FastAPI(title="trainvitals", version=trainer_hooks.__version__, docs_url=None, redoc_url=None)

    @app.get("/")
    def index() -> Index:
        """What there is to ask."""
        return Index(trainvitals=trainer_hooks.__version__, paths=sorted(app.openapi()["paths"]))

    @app.get("/health")
    def health() -> Health:
        """The process is alive."""
        return Health(status="ok", version=trainer_hooks.__version__)

    @app.get("/ready", responses={503: {"model": Readiness}})
    def ready() -> Response:
        """Every collector has looked once, or is overdue."""
        waiting = [runner.collector.name for runner in runners if not runner.ready]
        content = Readiness(ready=not waiting, waiting_for=waiting).model_dump()
        return JSONResponse(content, status_code=503 if waiting else 200)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Every series, as OpenMetrics where the Accept header asks for it, else as classic text."""
        body, content_type = exposition.render(
            page(exposition.gather(runners)), request.headers.get("accept")
        )
        return Response(body, media_type=content_type)

    @app.exception_handler(sqlite3.Error)
    async def database_fails(request: Request, error: Exception) -> Response:
        # Not a success: Alertmanager will try again.
        logger.error("%s %s: the database cannot be used: %s", request.method, request.url.path, error)
        return JSONResponse({"detail": f"the database cannot be used: {error}"}, status_code=503)

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> Response:
        # Without what was sent: it may be no JSON, such as NaN, and is nobody's business.
        told = [{key: each[key] for key in ("type", "loc", "msg")} for each in error.errors()]
        return JSONResponse({"detail": told}, status_code=422)

    app.add_middleware(BodyLimit)
    writes = [Depends(_addressed_to(hosts)), Depends(_in_json)]
    app.include_router(_gpus(gpus, runners, writes), prefix="/api/v1")
    if recordings is not None:
        app.include_router(_runs(recordings), prefix="/api/v1")
    if history is not None:
        app.include_router(_alerts(history, writes), prefix="/api/v1")
    return app


class BodyLimit:
    """Refuses a body of more than MOST_BODY_BYTES before it is read whole, whatever the headers say."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received_bytes = 0

        async def receive_limited() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > MOST_BODY_BYTES:
                raise HTTPException(413, f"the body has more than {MOST_BODY_BYTES} bytes")
            return message

        await self._app(scope, receive_limited, send)


def _runs(recordings: RecordingsCollector) -> APIRouter:
    router = APIRouter()

    @router.get("/runs")
    def runs() -> RunList:
        """Every run this node knows, the newest start first."""
        return RunList(runs=[_finite(run) for run in recordings.runs])

    @router.get("/runs/{run}", responses={404: {}})
    def run(run: str) -> RunStatus:
        """One run."""
        known = {each.run: each for each in recordings.runs}
        if run not in known:
            names = ", ".join(known) or "none"
            raise HTTPException(
                404, {"message": f"no run {run!r}; known are: {names}", "known_runs": list(known)}
            )
        return _finite(known[run])

    return router


def _addressed_to(hosts: Sequence[str]) -> Callable[[Request], None]:
    def addressed_to_us(request: Request) -> None:
        host = request.headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in hosts:
            raise HTTPException(403, f"Host {host!r} is not one of {', '.join(hosts)}")

    return addressed_to_us


def _in_json(request: Request) -> None:
    # A page of another site may post without asking only what is not declared as JSON.
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(415, f"Content-Type {media_type!r} is not application/json")


def _gpus(gpus: Gpus, runners: Sequence[Runner], writes: Sequence[params.Depends]) -> APIRouter:
    router = APIRouter()

    @router.get("/gpus")
    def statuses() -> GpuList:
        """Every GPU of this node, the means of the last window, and the ranks that train on it."""
        failing: dict[str, list[str]] = {}
        for runner in runners:
            if runner.collector in gpus.collectors and runner.ready and runner.error:
                failing.setdefault(runner.error, []).append(runner.collector.name)
        problems = [f"{', '.join(names)}: {error}" for error, names in failing.items()]
        return GpuList(gpus=gpu_statuses(exposition.gather(runners)), problems=problems)

    @router.post("/gpus/release", dependencies=writes, responses={403: {}, 409: {}, 415: {}})
    def release(wanted: Release) -> Released:
        """Close NVML, so that the driver can be reloaded or MIG changed; it is opened again by itself."""
        if gpus.nvml is None:
            raise HTTPException(409, "these GPUs are simulated: no driver is held")
        closed = gpus.nvml.release(wanted.seconds)
        logger.info("NVML is released for %g s; the session is %s", wanted.seconds, _CLOSED[closed])
        return Released(closed=closed, seconds_left=gpus.nvml.released_seconds)

    @router.delete("/gpus/release", dependencies=writes[:1], responses={403: {}, 409: {}})
    def resume() -> Released:
        """Take NVML up again before its time."""
        if gpus.nvml is None:
            raise HTTPException(409, "these GPUs are simulated: no driver is held")
        gpus.nvml.resume()
        return Released(closed=gpus.nvml.is_closed, seconds_left=0.0)

    return router


def _alerts(history: History, writes: Sequence[params.Depends]) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/alerts",
        dependencies=writes,
        responses={403: {}, 413: {}, 415: {}, 503: {}},
    )
    def receive(notification: Notification) -> Received:
        """Alertmanager's webhook. The same alert from two Alertmanagers is one alert."""
        history.add_alerts(notification.alerts)
        for alert in notification.alerts:
            logger.info("alert %s: %r", alert.status, alert.labels.get("alertname", "?"))
        return Received(stored=len(notification.alerts))

    @router.get("/alerts", responses={503: {}})
    def alerts() -> AlertList:
        """The alerts received, the newest first."""
        return AlertList(alerts=history.alerts())

    return router


def _finite(run: RunStatus) -> RunStatus:
    """The run without what JSON has no number for, a perplexity that overflowed for example."""
    values = {field.name: getattr(run, field.name) for field in fields(run)}
    infinite = [name for name, value in values.items() if isinstance(value, float) and math.isinf(value)]
    left_out: dict[str, Any] = dict.fromkeys(infinite)
    return replace(run, **left_out)
