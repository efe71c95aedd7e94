"""The caller of a request: its token or ticket, and its address."""

from __future__ import annotations

import ipaddress

from starlette.requests import HTTPConnection

from server.config.settings import Config
from server.domain.tokens import valid_token
from server.sessions.reads import Credential
from server.web.common.fields import fields, members, query
from server.web.common.forwarding import forwarded_address, peer_address, plain
from tryon.protocol.errors import Unauthorized
from tryon.protocol.frames import BEARER_SUBPROTOCOL, SUBPROTOCOL


def offered_subprotocols(connection: HTTPConnection) -> list[str]:
    """Return the WebSocket subprotocols that the client offers."""
    return members(fields(connection.scope, b"sec-websocket-protocol"))


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
    return Credential(ticket=query(connection.scope).get("ticket"))


def client_address(connection: HTTPConnection, config: Config) -> str:
    """Return the client's address, for limits and logs.

    X-Forwarded-For counts only as far as trusted proxies wrote it.
    """
    peer = peer_address(connection.scope)
    if not config.trusted_proxies:
        return plain(peer)
    return forwarded_address(peer, fields(connection.scope, b"x-forwarded-for"), config.trusted_proxies)


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
