"""Judge the addresses that a name stands for: whether they are of the public internet.

Everything that connects to a host of a setting or of an answer asks here: the calls of
webhooks and those of processors.
"""

from __future__ import annotations

import ipaddress
from typing import Final, TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_LOW_32_BITS: Final = 0xFFFF_FFFF


def is_public(address: Address) -> bool:
    """Return whether an address is one of the public internet.

    IPv6 that stands for an IPv4 address is judged by it; Teredo is never public.
    """
    if getattr(address, "teredo", None) is not None:
        return False
    meant = embedded(address)
    special = meant.is_multicast or meant.is_reserved or getattr(meant, "is_site_local", False)
    return meant.is_global and not special


def embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, else the address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & _LOW_32_BITS)
    return address
