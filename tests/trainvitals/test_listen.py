from __future__ import annotations

import socket

import pytest

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
def test_an_address_that_others_reach_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a loopback address; the service answers to this machine"):
        parse_listen(text)
