"""Where the service listens: the one form of `--listen`, for whoever binds it or asks about it."""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple

DEFAULT_LISTEN = "127.0.0.1:8003"


class Address(NamedTuple):
    """A loopback address; port 0 stands for any free one."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def __str__(self) -> str:
        return f"{in_url(self.host)}:{self.port}"


def parse_listen(text: str) -> Address:
    """The address out of HOST:PORT; raises ValueError with a sentence where it will not do."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f"--listen {text} is not HOST:PORT; for example --listen {DEFAULT_LISTEN}")
    if not _is_loopback(host):
        raise ValueError(
            f"--listen {text} is not a loopback address; the service answers to this machine only"
        )
    return Address(host, int(port))


def in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
