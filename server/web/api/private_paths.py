"""Access to `/metrics` and `/api/health`: ``TRYON_PRIVATE_PATHS``.

They tell how the service is built and how busy it is, and their answers cost more than
others. Liveness and readiness say less, are shared and stay open.
"""

from __future__ import annotations

import ipaddress

from starlette.types import Scope

from server.config.private_rule import PrivateRule
from server.config.settings import Config
from server.web.common.fields import field
from server.web.common.forwarding import peer_address, plain
from tryon.protocol.errors import NotFound, Unauthorized


class PrivatePaths:
    """The rule of one process, made from its settings."""

    __slots__ = ("_rule",)

    def __init__(self, config: Config) -> None:
        self._rule = PrivateRule(config)

    def __repr__(self) -> str:
        return f"<PrivatePaths {self._rule.name}>"

    def check(self, scope: Scope) -> None:
        """Raise NotFound or Unauthorized unless the request may read a private path."""
        match self._rule.judge(field(scope, b"authorization") or "", lambda: from_this_machine(scope)):
            case "hidden":
                raise NotFound
            case "token_required":
                raise Unauthorized("token_required", "This path needs the bearer token that TRYON_PRIVATE_PATHS names.")


def from_this_machine(scope: Scope) -> bool:
    """Return whether a program of this machine asks for itself.

    A proxy that runs here says so: it adds ``Forwarded`` (RFC 7239) or one of
    ``X-Forwarded-*``. A connection to an address of this machine comes from it, where
    the machine listens on no loopback address.
    """
    if any(name == b"forwarded" or name.startswith(b"x-forwarded-") for name, _ in scope["headers"]):
        return False
    peer, server = plain(peer_address(scope)), scope.get("server")
    try:
        if ipaddress.ip_address(peer).is_loopback:
            return True
    except ValueError:  # a Unix socket: a proxy's
        return False
    return server is not None and peer == plain(server[0])
