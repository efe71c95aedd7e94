"""The caller of a request: its token or ticket, its origin, its address."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import Scope

from server.config.settings import Config
from server.domain.tokens import valid_token
from server.sessions.reads import Credential
from tryon.protocol.errors import Unauthorized
from tryon.protocol.frames import BEARER_SUBPROTOCOL, SUBPROTOCOL

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
"""Hosts of this machine, as a URL names them."""


def fields(scope: Scope, name: bytes) -> list[str]:
    """Return the values of a header field, whose name is given in lower case.

    Starlette's Headers take ten times as long, and thousands of clients reconnect at
    once.
    """
    return [value.decode("latin-1") for each, value in scope["headers"] if each == name]


def offered_subprotocols(connection: HTTPConnection) -> list[str]:
    """Return the WebSocket subprotocols that the client offers."""
    offered = fields(connection.scope, b"sec-websocket-protocol")
    return [name.strip() for value in offered for name in value.split(",") if name.strip()]


def token_of(connection: HTTPConnection) -> str | None:
    """Return the client's token, or None.

    It is looked for in Authorization, then X-Client-Token, then the subprotocol pair.
    Raises Unauthorized if it is malformed.
    """
    token = None
    scheme, _, value = (fields(connection.scope, b"authorization") or [""])[0].partition(" ")
    if scheme.lower() == "bearer":
        token = value.strip()
    elif given := fields(connection.scope, b"x-client-token"):
        token = given[0].strip()
    elif SUBPROTOCOL in (offered := offered_subprotocols(connection)):
        token = next(
            (name.removeprefix(BEARER_SUBPROTOCOL) for name in offered if name.startswith(BEARER_SUBPROTOCOL)), None
        )
    if token is not None and not valid_token(token):
        raise Unauthorized("invalid_token")
    return token


def credential_of(connection: HTTPConnection) -> Credential:
    """Return the token of a request, or else its ticket: a token grants more.

    Raises Unauthorized for a malformed token.
    """
    token = token_of(connection)
    if token is not None:
        return Credential.of_token(token)
    return Credential(ticket=connection.query_params.get("ticket"))


def client_address(connection: HTTPConnection, config: Config) -> str:
    """Return the client's address, for limits and logs.

    X-Forwarded-For counts only as far as trusted proxies wrote it: read from the right,
    the first address that is not one of theirs is the client. Reading stops at anything
    that is no address.
    """
    address = _plain(connection.client.host) if connection.client else "unknown"
    if not config.trusted_proxies or not _trusted(address, config):
        return address
    forwarded = ",".join(connection.headers.getlist("x-forwarded-for"))
    for hop in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
        try:
            ipaddress.ip_address(hop)
        except ValueError:
            break
        address = _plain(hop)
        if not _trusted(address, config):
            break
    return address


def counted(address: str) -> str:
    """Return the key that limits count an address under.

    For IPv6 that is its /64, since one client has all of it (RFC 6177).
    """
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


def _plain(address: str) -> str:
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


def _trusted(address: str, config: Config) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a Unix socket has no address; only a local proxy can connect there
        return address in ("unknown", "")
    return any(parsed in network for network in config.trusted_proxies)


def origin_allowed(connection: HTTPConnection, config: Config) -> bool:
    """Return whether a page of the request's origin may connect.

    A request without an Origin header does not come from a browser, and is allowed.
    """
    origins = fields(connection.scope, b"origin")
    return not origins or origins[0] == own_origin(connection, config) or foreign_origin_allowed(origins[0], config)


def own_origin(connection: HTTPConnection, config: Config) -> str:
    """Return the origin that this request came to, as the page sees it.

    The scheme is the one that a trusted TLS proxy reports.
    """
    scheme = connection.scope["scheme"]
    if config.trusted_proxies and _trusted(_plain(connection.client.host) if connection.client else "unknown", config):
        scheme = connection.headers.get("x-forwarded-proto", scheme)
    secure = scheme in ("https", "wss")
    return f"{'https' if secure else 'http'}://{connection.headers.get('host', '')}"


def foreign_origin_allowed(origin: str, config: Config) -> bool:
    """Return whether pages of another origin may connect.

    Without configured origins those are the pages of this machine.
    """
    if config.origins:
        return origin in config.origins
    try:
        host = urlsplit(origin).hostname
    except ValueError:
        return False
    return host is not None and (host in LOCAL_HOSTS or f"[{host}]" in LOCAL_HOSTS)
