"""A request or a WebSocket handshake, read once and in one way."""

from __future__ import annotations

from starlette.requests import cookie_parser
from starlette.types import Scope

from exporters.access.network import network_of
from exporters.access.roles import SAFE_METHODS, WEBSOCKET, rule_for

COOKIE = "trainvitals_session"
_MOST_COOKIES = 4


class Call:
    """What the guard asks of an ASGI scope. A header that stands there twice has no value of its own."""

    def __init__(self, scope: Scope) -> None:
        self._headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        self.is_websocket = scope["type"] == "websocket"
        self.method: str = WEBSOCKET if self.is_websocket else scope["method"]
        # What the routes are matched with: decoded, nothing in it resolved.
        self.path: str = scope["path"]
        self.rule = rule_for(self.method, self.path)
        self.is_write = self.method not in (*SAFE_METHODS, WEBSOCKET)
        self.scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
        client = scope.get("client")
        self.address = str(client[0]) if client else ""
        self.network = network_of(self.address)

    @property
    def has_tls(self) -> bool:
        """Whether the browser speaks TLS, with us or with a proxy before us: then its page is of https."""
        return self.scheme == "https" or (self.one("origin") or "").lower().startswith("https:")

    def all(self, name: str) -> list[str]:
        wanted = name.encode()
        return [value.decode("latin-1") for key, value in self._headers if key.lower() == wanted]

    def one(self, name: str) -> str | None:
        found = self.all(name)
        return found[0].strip() if len(found) == 1 else None

    @property
    def bearer(self) -> str | None:
        """The token of the Authorization header, "" for what is none; None for another kind of header."""
        found = self.all("authorization")
        if len(found) > 1:
            return ""
        scheme, _, token = (found[0] if found else "").strip().partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    @property
    def sessions(self) -> list[str]:
        """The session cookies; a neighbour on another port of this host may have set one as well."""
        cookies = [part for header in self.all("cookie") for part in header.split(";")]
        found = [cookie_parser(part).get(COOKIE) for part in cookies]
        return [session for session in found if session][:_MOST_COOKIES]

    @property
    def has_body(self) -> bool:
        lengths = self.all("content-length")
        return bool(self.all("transfer-encoding")) or any(length.strip() != "0" for length in lengths)

    @property
    def told_bytes(self) -> int:
        """How long the headers say the body is; 0 where they say nothing one can read."""
        length = self.one("content-length") or ""
        return int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else 0

    @property
    def media_types(self) -> list[str]:
        return [value.partition(";")[0].strip().lower() for value in self.all("content-type")]
