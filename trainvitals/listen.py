"""Where the service listens: the one form of `--listen`, for whoever binds it or asks about it."""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple

DEFAULT_LISTEN = "127.0.0.1:8003"


class Address(NamedTuple):
    """Where to listen; port 0 stands for any free one."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"{in_url(self.host)}:{self.port}"


def parse_listen(text: str, *, open_to_all: bool = False) -> Address:
    """The address out of HOST:PORT; raises ValueError with a sentence where it will not do.

    One that others reach will do where it was decided who may come in: `open_to_all`.
    """
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f"--listen {text} is not HOST:PORT; for example --listen {DEFAULT_LISTEN}")
    address = Address(host, int(port))
    if not open_to_all and not address.is_loopback:
        raise ValueError(
            f"--listen {text} is not a loopback address, so others reach it: say with --token-file FILE who "
            "may come in (`trainvitals token create` makes it), or let everybody read with --insecure"
        )
    return address


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
