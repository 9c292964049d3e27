from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.trainvitals.test_serve import Service
from trainvitals.listen import Address, parse_listen


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("127.0.0.1:8003", Address("127.0.0.1", 8003), "127.0.0.1:8003"),
        ("localhost:0", Address("localhost", 0), "localhost:0"),
        ("[::1]:8003", Address("::1", 8003), "[::1]:8003"),
        ("::1:8003", Address("::1", 8003), "[::1]:8003"),
        ("127.1.2.3:65535", Address("127.1.2.3", 65535), "127.1.2.3:65535"),
    ],
)
def test_a_loopback_address_is_read_and_shown_as_it_stands_in_a_url(
    text: str, address: Address, shown: str
) -> None:
    assert parse_listen(text) == address
    assert str(address) == shown
    assert address.family == (socket.AF_INET6 if "[" in shown else socket.AF_INET)


@pytest.mark.parametrize(
    "text", ["8003", ":8003", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "localhost:65536", "localhost:²"]
)
def test_what_is_no_host_and_port_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not HOST:PORT; for example --listen 127\.0\.0\.1:8003"):
        parse_listen(text)


@pytest.mark.parametrize("text", ["0.0.0.0:8003", "[::]:8003", "192.0.2.1:8003", "example.org:8003"])
def test_an_address_that_others_reach_needs_a_decision_who_may_come_in(text: str) -> None:
    with pytest.raises(ValueError, match="is not a loopback address") as refused:
        parse_listen(text)
    assert "--token-file FILE" in str(refused.value)
    assert "--insecure" in str(refused.value)

    address = parse_listen(text, open_to_all=True)

    assert str(address) == text
    assert not address.is_loopback
    assert parse_listen("127.0.0.1:1", open_to_all=True).is_loopback


def test_a_service_answers_to_the_name_it_listens_on(tmp_path: Path) -> None:
    """127.1 stands for a name: what is bound and shown is 127.0.0.1."""
    service = Service(
        tmp_path,
        *("--only", "gpu", "--simulate-gpus", "1", "--insecure"),
        listen="127.1:0",
        XDG_STATE_HOME=str(tmp_path),
    )
    try:
        port = service.url.rpartition(":")[2]
        statuses = [
            service.client.get("/api/v1/gpus", headers={"host": f"{name}:{port}"}).status_code
            for name in ("127.1", "127.0.0.1", "127.2")
        ]
    finally:
        service.close()

    assert statuses == [200, 200, 421]
