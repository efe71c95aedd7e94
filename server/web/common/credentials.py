"""The caller of a request: its token or ticket, and its address.

An anonymous token is an owner's by itself. A user's JWT is judged before the endpoint
runs (:func:`identify`), since its key may have to be fetched; a refusal waits in the
scope until the endpoint asks, so that each transport answers it in its own way.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from starlette.requests import HTTPConnection

from server.adapters.identity.verifier import TokenVerifier, is_jwt
from server.config.settings import Config
from server.domain.identities import Identity
from server.domain.tokens import valid_token
from server.sessions.reads import Credential
from server.web.common.fields import fields, members, query
from server.web.common.forwarding import forwarded_address, peer_address, plain
from tryon.protocol.errors import TryOnError, Unauthorized
from tryon.protocol.frames import BEARER_SUBPROTOCOL, SUBPROTOCOL

IDENTITY: Final = "tryon.identity"
"""Key of the scope: the identity of a user's JWT, or its refusal."""


def offered_subprotocols(connection: HTTPConnection) -> list[str]:
    """Return the WebSocket subprotocols that the client offers."""
    return members(fields(connection.scope, b"sec-websocket-protocol"))


def token_of(connection: HTTPConnection) -> str | None:
    """Return the client's anonymous token, or None.

    Raises Unauthorized if it is malformed.
    """
    token = _shown_token(connection)
    if token is not None and not valid_token(token):
        raise Unauthorized("invalid_token")
    return token


def _shown_token(connection: HTTPConnection) -> str | None:
    """Return the token or JWT in Authorization, X-Client-Token or the subprotocols."""
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
    return token


async def identify(connection: HTTPConnection, verifier: TokenVerifier) -> None:
    """Judge the JWT of a request, if there is one; its scope keeps the outcome."""
    token = _shown_token(connection)
    if token is None or not is_jwt(token):
        return
    try:
        connection.scope[IDENTITY] = await verifier.verify(token)
    except TryOnError as error:
        connection.scope[IDENTITY] = error


def identity_of(connection: HTTPConnection) -> Identity | None:
    """Return the identity of a token or a JWT; None without either.

    Raises Unauthorized for one that is not valid, Forbidden for one without the scope,
    Unavailable for one that cannot be judged now.
    """
    found = connection.scope.get(IDENTITY)
    if isinstance(found, TryOnError):
        raise found
    if isinstance(found, Identity):
        return found
    token = token_of(connection)
    return None if token is None else Identity.of_token(token)


def credential_of(connection: HTTPConnection) -> Credential:
    """Return the owner of a request, or else its ticket: a token grants more.

    Raises as :func:`identity_of`.
    """
    identity = identity_of(connection)
    if identity is not None:
        return Credential(owner=identity.owner)
    return Credential(ticket=query(connection.scope).get("ticket"))


def owner_of(connection: HTTPConnection) -> str:
    """Return the hash that the caller owns its sessions by.

    Raises Unauthorized for a malformed or missing token; a ticket is none.
    """
    owner = credential_of(connection).owner
    if owner is None:
        raise Unauthorized("token_required")
    return owner


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
