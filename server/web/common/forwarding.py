"""The headers in which proxies describe a request: its client, its scheme and its host.

Only a peer in ``TRYON_TRUSTED_PROXIES`` is believed; every other client may write what
it likes into these fields. In each of them the last value counts, which the nearest
proxy wrote; in ``X-Forwarded-For`` it is the last one that is no trusted proxy's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Final

from starlette.types import Scope

from server.config.authorities import Authority, parse_authority
from server.web.common.fields import field, fields

Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]

MAX_HOPS: Final = 32
"""Maximum addresses that are read from the right of X-Forwarded-For."""

_NODE: Final = re.compile(r"\[([0-9A-Fa-f:.%\w]{2,60})\](?::\w{1,20})?|([0-9.]{7,15}):\w{1,20}")
"""An address with brackets or a port; the port may be obfuscated (RFC 7239, 6)."""


def forwarded_address(peer: str, values: list[str], trusted_proxies: Networks) -> str:
    """Return the client's address, given that of the peer and X-Forwarded-For.

    Read from the right, the first address that is not a trusted proxy's is the client.
    Reading stops at a node without an address (``unknown``, ``_hidden``): the proxy
    before it is then the client.
    """
    address = plain(peer)
    if not trusted(address, trusted_proxies):
        return address
    for node in _from_the_right(values):
        hop = node_address(node)
        if hop is None:
            break
        address = hop
        if not trusted(address, trusted_proxies):
            break
    return address


def _from_the_right(values: list[str]) -> Iterator[str]:
    left = MAX_HOPS
    for value in reversed(values):
        *_, nodes = "", value.rsplit(",", left)
        for node in reversed(nodes[-left:]):
            left -= 1
            if node := node.strip():
                yield node
        if left <= 0:
            return


def node_address(text: str) -> str | None:
    """Return the address of a node in X-Forwarded-For; None if it has none.

    A node is written as in RFC 7239 section 6, or as proxies do: with a port
    (``203.0.113.7:51234``, ``[2001:db8::1]:443``), in brackets, in quotes.
    """
    if len(text) > 100:
        return None
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if match := _NODE.fullmatch(text):
        text = match[1] or match[2]
        if match[1] and ":" not in text:
            return None
    try:
        return plain(str(ipaddress.ip_address(text)))
    except ValueError:
        return None


def plain(address: str) -> str:
    """Return an IPv4 address without its IPv6 form.

    A socket that listens on ``::`` shows 192.0.2.1 as ``::ffff:192.0.2.1``.
    """
    if address[:7].lower() != "::ffff:":
        return address
    try:
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
    except ValueError:
        return address
    return str(mapped) if mapped else address


def trusted(address: str, trusted_proxies: Networks) -> bool:
    """Return whether an address is that of a trusted proxy.

    A Unix socket has no address; only a local proxy can connect there.
    """
    if not trusted_proxies:
        return False
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address in ("unknown", "")
    return any(parsed in network for network in trusted_proxies)


def peer_address(scope: Scope) -> str:
    """Return the address of the other end of the connection."""
    client = scope.get("client")
    return client[0] if client else "unknown"


def from_trusted_proxy(scope: Scope, trusted_proxies: Networks) -> bool:
    """Return whether a trusted proxy sent the request."""
    return bool(trusted_proxies) and trusted(plain(peer_address(scope)), trusted_proxies)


def host_of(scope: Scope, trusted_proxies: Networks) -> Authority | None:
    """Return the host that the client asked for; None if it is malformed or missing.

    X-Forwarded-Host of a trusted proxy wins over Host, which then is the proxy's own.
    """
    values = _last(scope, b"x-forwarded-host") if from_trusted_proxy(scope, trusted_proxies) else []
    value = values[0] if values else field(scope, b"host")
    return None if value is None else parse_authority(value.strip())


def secure(scope: Scope, trusted_proxies: Networks) -> bool:
    """Return whether the client used TLS.

    A trusted proxy says so by X-Forwarded-Proto; else the connection decides.
    """
    schemes = _last(scope, b"x-forwarded-proto") if from_trusted_proxy(scope, trusted_proxies) else []
    scheme = schemes[0].lower() if schemes else scope["scheme"]
    return scheme in ("https", "wss")


def _last(scope: Scope, name: bytes) -> list[str]:
    values = fields(scope, name)
    last = values[-1].rpartition(",")[2].strip() if values else ""
    return [last] if last else []
