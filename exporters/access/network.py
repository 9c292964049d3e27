"""Whom an address stands for."""

from __future__ import annotations

import ipaddress


def network_of(address: str) -> str:
    """Of IPv4 the address; of IPv6 a subscriber has 2⁶⁴ of them, so their network counts."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if found.version == 4:
        return str(found)
    assert isinstance(found, ipaddress.IPv6Address)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
