"""Routes of access itself: log in and out with a token, and read the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field, SecretStr

from exporters.access.access import Access
from exporters.access.call import COOKIE, Call
from exporters.access.callers import SESSION_SECONDS
from exporters.access.entry import AuditEntry
from exporters.access.roles import Caller, Role
from exporters.access.tokens import MOST_CHARACTERS


class Detail(BaseModel):
    """Why not, and what to do."""

    detail: str = Field(examples=["this needs a token of the role operator"])


class WhoAmI(BaseModel):
    """Whom the service takes the caller for; `name` and `role` are null for one who has to log in first."""

    name: str | None = Field(examples=["ci"])
    role: Role | None = Field(examples=["operator"])
    authenticated: bool = Field(description="Whether by a token, and not as one of this machine.")
    may_log_in: bool = True


class Credentials(BaseModel):
    token: SecretStr = Field(
        min_length=1, max_length=MOST_CHARACTERS, examples=["tvl_dGhpcyBpcyBubyB0b2tlbg"]
    )


class AuditLine(BaseModel):
    """One entry; `count` calls alike are one. The hashes chain it to the one before."""

    id: int = Field(examples=[17])
    at: float | None = Field(examples=[1767323045.678])
    at_iso: str = Field(examples=["2026-01-02T03:04:05.678Z"])
    actor: str = Field(examples=["ci"])
    role: str = Field(examples=["operator"])
    action: str = Field(examples=["abort"])
    resource: str = Field(examples=["/api/v1/runs/tiny-gpt2"])
    outcome: str = Field(examples=["200"])
    address: str = Field(examples=["127.0.0.1"])
    count: int = Field(examples=[1])
    previous_hash: str = Field(examples=["0" * 64])
    hash: str = Field(examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])


class AuditPage(BaseModel):
    """Some entries, the newest first; `next_cursor` asks for those that follow and is null at the end."""

    entries: list[AuditLine]
    next_cursor: str | None = Field(examples=["4711"])


def access_routes(access: Access) -> APIRouter:
    router = APIRouter(tags=["access"])

    @router.get("/session")
    async def session(request: Request) -> WhoAmI:
        """Who I am."""
        return _who(request.state.caller)

    @router.post("/session", responses={401: {"model": Detail}, 429: {"model": Detail}})
    async def log_in(credentials: Credentials, request: Request, response: Response) -> WhoAmI:
        """Log in with a token: the cookie that is set stands for it, for 12 hours at most."""
        call = Call(request.scope)
        opened = access.callers.open_session(credentials.token.get_secret_value())
        if opened is None:
            raise access.wrong_token(call.network).raised()
        for former in call.sessions:
            access.callers.close_session(former)
        session, caller = opened
        response.set_cookie(
            COOKIE,
            session,
            max_age=SESSION_SECONDS,
            path="/",
            secure=call.has_tls,
            httponly=True,
            samesite="strict",
        )
        request.state.caller = caller  # the audit log names who logged in
        return _who(caller)

    @router.delete("/session")
    async def log_out(request: Request, response: Response) -> WhoAmI:
        """Log out: the session ends, the token does not."""
        call = Call(request.scope)
        for session in call.sessions:
            access.callers.close_session(session)
        response.delete_cookie(COOKIE, path="/", secure=call.has_tls, httponly=True, samesite="strict")
        return _who(access.nobody)

    @router.get("/audit", responses={503: {"model": Detail}})
    def audit_log(
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$", examples=["4711"])] = None,
    ) -> AuditPage:
        """Who changed what, who was refused: the newest first."""
        try:
            entries, before = access.journal.log.newest(limit, None if cursor is None else int(cursor))
        except OSError as error:
            raise HTTPException(503, f"the audit log cannot be read ({error.strerror})") from None
        return AuditPage(
            entries=[_line(each) for each in entries], next_cursor=None if before is None else str(before)
        )

    return router


def _who(caller: Caller | None) -> WhoAmI:
    if caller is None:
        return WhoAmI(name=None, role=None, authenticated=False)
    return WhoAmI(name=caller.name, role=caller.role, authenticated=caller.authenticated)


def _line(entry: AuditEntry) -> AuditLine:
    try:
        at = datetime.fromisoformat(entry.at).timestamp()
    except ValueError:  # somebody changed the line
        at = None
    values = {name: getattr(entry, name) for name in AuditLine.model_fields if name not in ("at", "at_iso")}
    return AuditLine(**values, at=at, at_iso=entry.at)
