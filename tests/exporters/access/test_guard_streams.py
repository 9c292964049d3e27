"""Who may listen to a stream, and how its client says who it is."""

from __future__ import annotations

import json

import anyio
import pytest
from starlette.types import Message, Scope
from starlette.websockets import WebSocketDisconnect

from exporters.access.guard import Guard
from exporters.access.limits import Buckets
from tests.exporters.access.guarded import STREAM, Guarded, bearer


def test_a_stream_is_for_who_may_read(public: Guarded) -> None:
    with public.listen(**bearer(public.tokens["viewer"])) as stream:
        stream.send_text("may I stay?")
        assert stream.receive_json() == {"caller": "a-viewer", "may": True}
        public.file.revoke("a-viewer")
        stream.send_text("may I stay?")
        assert stream.receive_json() == {"caller": "a-viewer", "may": False}
    with (
        pytest.raises(WebSocketDisconnect),
        public.listen(**bearer("wrong")),
    ):
        pass
    assert public.told == [("unknown", "WEBSOCKET", STREAM, "401 wrong token")]


def test_a_stream_may_bring_its_token_as_a_message(public: Guarded) -> None:
    with public.listen() as stream:
        stream.send_text(public.tokens["viewer"])
        stream.send_text("may I stay?")
        assert stream.receive_json() == {"caller": "a-viewer", "may": True}
        public.file.revoke("a-viewer")
        stream.send_text("may I stay?")
        assert stream.receive_json() == {"caller": "a-viewer", "may": False}
    with public.listen() as stream:
        stream.send_text("wrong")
        with pytest.raises(WebSocketDisconnect) as closed:
            stream.receive_text()
        assert closed.value.code == 1008

    assert public.told == [
        ("a-viewer", "login", STREAM, "200"),
        ("unknown", "WEBSOCKET", STREAM, "401 wrong token"),
    ]


def test_who_authenticates_a_stream_without_end_fills_no_disk_and_is_limited(public: Guarded) -> None:
    public.access.writes = Buckets(1.0, 20, clock=lambda: 0.0)

    for _ in range(20):
        with public.listen() as stream:
            stream.send_text(public.tokens["viewer"])
            stream.send_text("may I stay?")
            assert stream.receive_json()["may"]
    with public.listen() as stream:
        stream.send_text(public.tokens["viewer"])
        with pytest.raises(WebSocketDisconnect):
            stream.receive_text()
    public.access.close()

    assert [(entry.action, entry.outcome, entry.count) for entry in public.entries] == [
        ("login", "200", 1),
        ("WEBSOCKET", "429 writes", 1),
        ("login", "200", 19),
    ]


def test_a_stream_takes_a_right_token_after_many_wrong_ones(public: Guarded) -> None:
    for _ in range(12):
        with public.listen() as stream:
            stream.send_text("wrong")
            with pytest.raises(WebSocketDisconnect):
                stream.receive_text()

    with public.listen() as stream:
        stream.send_text(public.tokens["viewer"])
        stream.send_text("may I stay?")
        assert stream.receive_json() == {"caller": "a-viewer", "may": True}


def test_no_other_websocket_is_let_through_without_a_token(public: Guarded) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        public.listen("/api/v1/stream/other"),
    ):
        pass


def test_a_refused_handshake_is_closed_and_told_even_of_a_client_without_an_address(local: Guarded) -> None:
    sent: list[Message] = []
    scope: Scope = {
        "type": "websocket",
        "path": STREAM,
        "headers": [(b"host", b"evil.example")],
        "scheme": "ws",
        "client": None,
    }

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    anyio.run(Guard(local.app, local.access), scope, receive, send)

    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "host"}]
    assert json.loads(local.access.journal.log.path.read_text())["address"] == ""
