"""The names under which the service may be addressed.

A page of another site whose name is made to resolve to this machine (DNS rebinding) is same-origin to the
browser; what gives it away is the Host header, which holds the name of that site.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Lower case; an IPv6 address stands in brackets. No user, no path, nothing to be read in two ways.
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?)(?::([0-9]{1,5}))?")


class Host(NamedTuple):
    """A name or address, IPv6 in brackets and in its shortest form, and the port where one is given."""

    name: str
    port: int | None


def parse_host(text: str) -> Host | None:
    """Of a Host header or the end of an Origin; None for what is neither name nor address."""
    found = _HOST.fullmatch(text.lower())
    if not found:
        return None
    name, port = found[1].rstrip("."), int(found[2]) if found[2] else None
    if port is not None and not 0 < port < 65536:
        return None
    if name.startswith("["):
        try:
            name = f"[{ipaddress.IPv6Address(name[1:-1])}]"
        except ValueError:
            return None
    return Host(name, port)


class Hosts:
    """The names the service answers to: loopback, the host it listens on, and those given with --host."""

    def __init__(self, listening: str = "127.0.0.1", more: Iterable[str] = ()) -> None:
        """Raises ValueError with a sentence where one of `more` is no name."""
        self._names = {*LOOPBACK}
        self._any_address = listening.strip("[]") in ("0.0.0.0", "::")
        for name in (_in_brackets(listening), *map(_in_brackets, more)):
            parsed = parse_host(name)
            if parsed is None or parsed.port is not None:
                raise ValueError(
                    f"--host {name} is no name of a host; for example --host trainvitals.example"
                )
            self._names.add(parsed.name)

    def include(self, header: str | None) -> bool:
        parsed = parse_host(header) if header is not None else None
        if parsed is None:
            return False
        # An address cannot be made to resolve to another: where the service listens on all of this
        # machine's, each is its own.
        return parsed.name in self._names or (self._any_address and _is_address(parsed.name))

    def __str__(self) -> str:
        return ", ".join(sorted(self._names))


def is_own_origin(origin: str, scheme: str, host: str | None) -> bool:
    """Whether the Origin header of a browser names what it addressed: same scheme, host and port.

    `scheme` is that of the connection, http or https. Where that is http, a page of https is ours too: a
    proxy speaks TLS before us, and hands on the Host header as the browser sent it.
    """
    its_scheme, separator, rest = origin.lower().partition("://")
    its_host, own = parse_host(rest), parse_host(host or "")
    if not separator or its_scheme not in {scheme, "https"} or its_host is None or own is None:
        return False
    default = _DEFAULT_PORTS[its_scheme]
    return (its_host.name, its_host.port or default) == (own.name, own.port or default)


def _in_brackets(name: str) -> str:
    return f"[{name}]" if ":" in name and not name.startswith("[") else name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
