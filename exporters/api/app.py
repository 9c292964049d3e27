"""The application of the service: health, metrics, and the API over what the collectors know."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field

import trainer_hooks
from exporters import exposition
from exporters.api import alerts, gpus, page, runs, stream
from exporters.api.stream import Stream
from exporters.collector import Runner, Sample, problems
from exporters.gpu.node import Gpus, published
from exporters.history.known import KnownRuns

logger = logging.getLogger(__name__)


_OF_THE_GUARD: dict[int | str, dict[str, Any]] = {
    401: {"description": "This needs a token, or another one."},
    403: {"description": "The token's role does not suffice, or a page of another site asks."},
    413: {"description": "The body is too large."},
    415: {"description": "The body is not declared as application/json."},
    421: {"description": "The Host header is no name of this service."},
    429: {"description": "Too many writes, or wrong tokens; Retry-After says when to come again."},
    503: {"description": "The database or the audit log cannot be used."},
}


class Index(BaseModel):
    """The version, what there is to ask, and what gives nothing at present: `history: disk is full`."""

    trainvitals: str = Field(examples=[trainer_hooks.__version__])
    paths: list[str]
    problems: list[str]


class Health(BaseModel):
    status: str = Field(examples=["ok"])
    version: str = Field(examples=[trainer_hooks.__version__])


class Readiness(BaseModel):
    ready: bool
    waiting_for: list[str] = Field(examples=[["history"]])


def create_app(
    runners: Sequence[Runner],
    of_gpus: Gpus,
    known: KnownRuns | None = None,
    *,
    more: Sequence[APIRouter] = (),
    samples: Callable[[Iterable[Sample]], Iterable[Sample]] = published,
) -> FastAPI:
    """The application over running collectors; without known runs it tells of GPUs only.

    `samples` makes those of the metrics page out of all that were gathered. `more` are routes below
    /api/v1. Who may call is for the guard round the application to say.
    """
    app = FastAPI(title="trainvitals", version=trainer_hooks.__version__, docs_url=None, redoc_url=None)

    @app.get("/health")
    def health() -> Health:
        """The process is alive."""
        return Health(status="ok", version=trainer_hooks.__version__)

    @app.get("/ready", responses={200: {"model": Readiness}, 503: {"model": Readiness}})
    def ready() -> Response:
        """Every collector has looked once, or is overdue."""
        waiting = [runner.collector.name for runner in runners if not runner.ready]
        answer = Readiness(ready=not waiting, waiting_for=waiting)
        return JSONResponse(answer.model_dump(), status_code=503 if waiting else 200)

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={200: {"content": {"application/openmetrics-text": {"schema": {"type": "string"}}}}},
    )
    async def metrics(request: Request) -> Response:
        """Every series, as OpenMetrics where the Accept header asks for it, else as classic text."""
        body, content_type = exposition.render(
            samples(exposition.gather(runners)), request.headers.get("accept")
        )
        return Response(body, media_type=content_type)

    @app.get("/api/v1")
    def index() -> Index:
        """What there is to ask, and what fails."""
        paths = sorted(app.openapi()["paths"])
        return Index(trainvitals=trainer_hooks.__version__, paths=paths, problems=problems(runners))

    @app.exception_handler(sqlite3.Error)
    async def database_fails(request: Request, error: Exception) -> Response:
        # Not a success: Alertmanager will try again.
        logger.error("%s %r: the database cannot be used: %s", request.method, request.url.path, error)
        return JSONResponse({"detail": f"the database cannot be used: {error}"}, status_code=503)

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> Response:
        # Without what was sent: it may be no JSON, such as NaN, and is nobody's business.
        told = [{key: each[key] for key in ("type", "loc", "msg")} for each in error.errors()]
        return JSONResponse({"detail": told}, status_code=422)

    app.include_router(page.page_routes())
    routers = [gpus.routes(of_gpus, runners), *more]
    if known is not None:
        routers += [
            runs.routes(known),
            gpus.history_routes(known.database),
            alerts.routes(known.database),
            stream.routes(Stream(known, runners)),
        ]
    for router in routers:
        app.include_router(router, prefix="/api/v1", responses=_OF_THE_GUARD)
    return app
