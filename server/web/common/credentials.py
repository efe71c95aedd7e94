"""Who asks, and from where: what a request shows of tokens, tickets, its origin and its
address.
"""

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


def fields(scope: Scope, name: bytes) -> list[str]:
    """The values of a header field, its name in small letters.

    Starlette's Headers take ten times as long, and thousands of clients come back at
    once.
    """
    return [value.decode("latin-1") for each, value in scope["headers"] if each == name]


def offered_subprotocols(connection: HTTPConnection) -> list[str]:
    offered = fields(connection.scope, b"sec-websocket-protocol")
    return [name.strip() for value in offered for name in value.split(",") if name.strip()]


def token_of(connection: HTTPConnection) -> str | None:
    """The client's token:

    Authorization, else X-Client-Token, else the subprotocol pair. Raises Unauthorized
    if malformed.
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
    """A token wins over a ticket: it may see more.

    Raises Unauthorized for a malformed token.
    """
    token = token_of(connection)
    if token is not None:
        return Credential.of_token(token)
    return Credential(ticket=connection.query_params.get("ticket"))


def client_address(connection: HTTPConnection, config: Config) -> str:
    """The address that is counted and logged.

    X-Forwarded-For counts only as far as it was written by proxies that are trusted:
    read from the right, the first address that is not one of theirs is the client. What
    is no address ends the walk.
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
    """What limits count for this address: of IPv6 its /64, since one client has all of
    it (RFC 6177).
    """
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


def _plain(address: str) -> str:
    """An IPv4 address as such: a socket that listens on ``::`` shows it as
    ``::ffff:192.0.2.1``.
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
    """Whether a browser's page of that origin may connect.

    No Origin header: not a browser, allowed.
    """
    origins = fields(connection.scope, b"origin")
    return not origins or origins[0] == own_origin(connection, config) or foreign_origin_allowed(origins[0], config)


def own_origin(connection: HTTPConnection, config: Config) -> str:
    """As the page sees it: the Host header and the scheme, which a trusted TLS proxy
    tells.
    """
    scheme = connection.scope["scheme"]
    if config.trusted_proxies and _trusted(_plain(connection.client.host) if connection.client else "unknown", config):
        scheme = connection.headers.get("x-forwarded-proto", scheme)
    secure = scheme in ("https", "wss")
    return f"{'https' if secure else 'http'}://{connection.headers.get('host', '')}"


def foreign_origin_allowed(origin: str, config: Config) -> bool:
    if config.origins:
        return origin in config.origins
    try:
        host = urlsplit(origin).hostname
    except ValueError:
        return False
    return host is not None and (host in LOCAL_HOSTS or f"[{host}]" in LOCAL_HOSTS)
