from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.access.hosts import Host, Hosts, is_own_origin, parse_host


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("LocalHost:8003", Host("localhost", 8003)),
        ("localhost.", Host("localhost", None)),
        ("[::0001]:1", Host("[::1]", 1)),
        ("a_b.c-d.example", Host("a_b.c-d.example", None)),
        ("127.0.0.1:65535", Host("127.0.0.1", 65535)),
        ("a:0", None),
        ("a:65536", None),
        ("a:", None),
        ("a..b", None),
        (".a", None),
        ("a..", None),
        ("a:1:1", None),
        ("::1", None),
        ("[1]", None),
        ("[::1].", None),
        ("a\n", None),
        ("a,b", None),
        ("u@a", None),
        ("a/b", None),
        ("é", None),
        ("a:\uff11", None),
    ],
)
def test_a_host_is_a_name_and_a_port_and_nothing_else(text: str, host: Host | None) -> None:
    assert parse_host(text) == host


@settings(deadline=None)
@given(text=st.text())
def test_no_text_is_too_odd_to_be_looked_at(text: str) -> None:
    Hosts().include(text)
    is_own_origin(text, "http", text)


@settings(deadline=None)
@given(text=st.text(alphabet="lLoOcCaAhHsStT127.0:[]@/ \\#?%\t", max_size=24))
def test_what_is_taken_for_this_machine_is_its_name_in_full(text: str) -> None:
    if Hosts().include(text):
        name = text.lower().rpartition(":")[0] if text.rpartition(":")[2].isdecimal() else text.lower()
        assert name.rstrip(".") in ("localhost", "127.0.0.1", "[::1]")


def test_where_every_address_is_listened_on_every_address_is_a_name_of_ours() -> None:
    assert Hosts("0.0.0.0").include("192.0.2.7:8003")
    assert Hosts("::").include("[2001:db8::7]")
    assert not Hosts("0.0.0.0").include("evil.example")
    assert not Hosts("192.0.2.1").include("192.0.2.7")
    assert Hosts("192.0.2.1").include("192.0.2.1:80")
    assert not Hosts("127.0.0.1").include("192.0.2.7")
    assert Hosts("::1").include("[::1]:1")


@pytest.mark.parametrize("name", ["", "a b", "a:80", "http://a", "*", "a/b"])
def test_an_option_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a host; for example --host "):
        Hosts(more=[name])


@pytest.mark.parametrize(
    ("origin", "scheme", "host", "own"),
    [
        ("http://a:8003", "http", "a:8003", True),
        ("HTTP://A:8003", "http", "a:8003", True),
        ("https://a", "https", "a:443", True),
        ("http://a:80", "http", "a", True),
        ("http://a", "https", "a", False),
        ("https://a", "http", "a:443", True),
        ("https://a", "http", "a", True),
        ("https://a", "http", "a:80", False),
        ("https://a:8443", "http", "a:8443", True),
        ("ftp://a", "http", "a", False),
        ("http://a:8003", "http", "a", False),
        ("http://a", "http", None, False),
        ("null", "http", "null", False),
        ("file://", "http", "", False),
        ("http://a/", "http", "a", False),
        ("http://u@a", "http", "a", False),
    ],
)
def test_an_origin_is_ours_by_scheme_host_and_port(
    origin: str, scheme: str, host: str | None, own: bool
) -> None:
    assert is_own_origin(origin, scheme, host) is own
