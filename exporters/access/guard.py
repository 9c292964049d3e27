"""The guard before the whole application: it knows who calls, refuses, limits, and has it written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporters.access.access import Access
from exporters.access.call import Call
from exporters.access.entry import Event
from exporters.access.hosts import is_own_origin
from exporters.access.refusal import Refusal, limited, no_token
from exporters.access.roles import LOGIN, SESSION, STREAM, Caller, Need, Role, role_of
from exporters.access.tokens import MOST_CHARACTERS

MOST_BODY_BYTES = 1_000_000
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Guard:
    """Middleware round everything else, for HTTP and WebSockets.

    In the scope's state a route finds `caller` (None is a stranger on a route that is open), and a WebSocket
    `authenticate`, which takes a token, and `still_allowed`, which says whether the caller may stay.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        self._access.journal.keep_up()
        call = Call(scope)
        identity = self._identity(call)
        caller = identity()
        refusal = self._refusal(call, caller) or await self._cannot_be_told(call)
        scope["state"] = {**scope.get("state", {}), "caller": caller, "still_allowed": lambda: True}
        if refusal is not None:
            await self._access.journal.tell_of_refusal(
                _event(call, caller, f"{refusal.status} {refusal.reason}")
            )
            await _refuse(refusal, call, scope, receive, send)
        elif call.is_websocket:
            self._let_authenticate(call, identity, scope["state"])
            await self.app(scope, receive, send)
        else:
            await self._pass(call, scope, receive, _with_headers(send, call.path.startswith("/api/")))

    def _identity(self, call: Call) -> Callable[[], Caller | None]:
        """What says who calls, at any later moment as well: a token may be revoked meanwhile."""
        callers, nobody = self._access.callers, self._access.nobody
        token = call.bearer
        if token is not None:
            token = token if len(token) <= MOST_CHARACTERS else ""
            if call.rule.need is Need.scrape and callers.is_scrape_token(token):
                return lambda: _SCRAPER if callers.is_scrape_token(token) else None
            return lambda: callers.of_token(token)
        for session in call.sessions:
            if callers.of_session(session) is not None:
                return lambda: callers.of_session(session)
        return lambda: nobody

    def _refusal(self, call: Call, caller: Caller | None) -> Refusal | None:
        if call.rule.any_host:
            return None
        # Only this service's own pages and programs know a token of it, under whatever name they found it.
        knows_a_token = call.bearer is not None and caller is not None
        if not knows_a_token and not self._access.hosts.include(call.one("host")):
            return Refusal(
                421,
                "host",
                f"Host {call.one('host')!r} is not one of {self._access.hosts}; "
                "a service of another name is started with --host NAME",
            )
        if call.is_write or call.is_websocket:
            return self._foreign(call) or self._not_allowed(call, caller) or self._unfit(call, caller)
        return self._not_allowed(call, caller)

    def _foreign(self, call: Call) -> Refusal | None:
        """What a browser says of a page of another site that would write or listen here."""
        origins, site = call.all("origin"), call.all("sec-fetch-site")
        own = all(is_own_origin(origin, call.scheme, call.one("host")) for origin in origins)
        if own and len(origins) < 2 and all(each in ("same-origin", "none") for each in site):
            return None
        return Refusal(403, "origin", "pages of another site may neither write nor listen here")

    def _not_allowed(self, call: Call, caller: Caller | None) -> Refusal | None:
        needed = role_of(call.rule.need)
        tells_of_tokens = needed is not None or call.rule.path == SESSION
        if caller is None and call.bearer is not None and tells_of_tokens:
            return self._access.wrong_token(call.network)
        if needed is None:
            return None
        if caller is None and call.is_websocket and call.path == STREAM:
            return None  # it has some seconds to authenticate
        if call.rule.need is Need.scrape and self._access.callers.has_scrape_token:
            if caller is None or not caller.authenticated:
                return no_token("no token", "this needs the token of --scrape-token-file, or a viewer's")
            return None
        if caller is not None and caller.role.includes(needed):
            return None
        if caller is None or not caller.authenticated:
            return no_token("no token", f"this needs a token of the role {needed}")
        return Refusal(
            403, "role", f"this needs the role {needed}; the token {caller.name} has the role {caller.role}"
        )

    def _unfit(self, call: Call, caller: Caller | None) -> Refusal | None:
        """What is wrong with a write that its caller may make."""
        if call.is_websocket:
            return None
        if call.has_body and call.media_types != ["application/json"]:
            # A page of another site may send without asking only what is not declared as JSON.
            told = ", ".join(call.media_types)
            return Refusal(415, "media type", f"Content-Type {told!r} is not application/json")
        if call.told_bytes > MOST_BODY_BYTES:
            return Refusal(413, "size", _too_large())
        return self._too_many(call, caller)

    def _too_many(self, call: Call, caller: Caller | None) -> Refusal | None:
        wait = self._access.writes.take((call.network, caller and caller.name))
        return limited("writes", wait) if wait else None

    async def _cannot_be_told(self, call: Call) -> Refusal | None:
        problem = await self._access.journal.problem() if call.is_write else None
        if problem is None:
            return None
        return Refusal(
            503, "audit log", f"the audit log cannot be written ({problem}); until it can, nothing is changed"
        )

    def _let_authenticate(
        self, call: Call, identity: Callable[[], Caller | None], state: dict[str, Any]
    ) -> None:
        was = state["caller"]
        state["still_allowed"] = lambda: identity() == was

        async def authenticate(token: str) -> Caller | None:
            """Whose the token is that came as a message; None for a wrong one, or too many of them."""
            access = self._access
            caller = access.callers.of_token(token)
            refusal = access.wrong_token(call.network) if caller is None else self._too_many(call, caller)
            if refusal is not None:
                event = _event(call, caller, f"{refusal.status} {refusal.reason}")
                await access.journal.tell_of_refusal(event)
                return None
            access.journal.tell_of_routine(_event(call, caller, "200", action=LOGIN))
            state["caller"], state["still_allowed"] = caller, lambda: access.callers.of_token(token) == caller
            return caller

        state["authenticate"] = authenticate

    async def _pass(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, and have it written down before the answer is sent."""
        began = False

        async def told_and_sent(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start" and not began:
                began = True
                if call.is_write:
                    await self._tell(call, scope["state"]["caller"], str(message["status"]))
            await send(message)

        try:
            await self.app(scope, _limited_body(receive), told_and_sent)
        except Exception:
            # Answered here, so that this answer has its headers and its line as well; and told further on.
            if not began:
                answer = JSONResponse({"detail": "the service failed; its log says why"}, status_code=500)
                await answer(scope, receive, told_and_sent)
            raise
        finally:
            if call.is_write and not began:  # it was cancelled
                self._access.journal.later(_event(call, scope["state"]["caller"], "no answer"))

    async def _tell(self, call: Call, caller: Caller | None, outcome: str) -> None:
        journal, event = self._access.journal, _event(call, caller, outcome)
        if caller is None or not caller.authenticated:
            await journal.tell_of_refusal(event)  # such as a wrong token to log in with
        elif call.rule.routine:
            journal.tell_of_routine(event)
        else:
            await journal.tell(event)


_SCRAPER = Caller("scrape", Role.viewer)


def _event(call: Call, caller: Caller | None, outcome: str, action: str | None = None) -> Event:
    return Event(
        actor=caller.name if caller else "unknown",
        role=caller.role if caller else "none",
        action=action or call.rule.action or call.method[:20],
        resource=call.path,
        outcome=outcome,
        address=call.address,
    )


def _too_large() -> str:
    return f"the body has more than {MOST_BODY_BYTES} bytes"


def _limited_body(receive: Receive) -> Receive:
    """Ends a body of more than MOST_BODY_BYTES before it is read whole, whatever the headers say."""
    received_bytes = 0

    async def counted() -> Message:
        nonlocal received_bytes
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes > MOST_BODY_BYTES:
            raise HTTPException(413, _too_large())
        return message

    return counted


def _with_headers(send: Send, no_store: bool) -> Send:
    """Adds what each answer says to a browser, where the application does not say it itself."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if no_store:
                headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sent


async def _refuse(refusal: Refusal, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
    if call.is_websocket:
        await receive()  # the handshake, which is answered with 403: a browser shows its page no more
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.reason})
        return
    answer = JSONResponse({"detail": refusal.detail}, status_code=refusal.status, headers=refusal.headers)
    await answer(scope, receive, _with_headers(send, no_store=True))
