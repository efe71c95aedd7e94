"""Requests in flight by the forwarded address, for clients behind trusted proxies.

The connections of such a proxy have no limit of their own
(:mod:`server.web.serving.connections`), since they are those of many clients.
"""

from __future__ import annotations

from collections import Counter

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from server.config.settings import Config
from server.web.common.credentials import client_address, counted
from server.web.common.problems import problem
from tryon.protocol.errors import RateLimited


class ForwardedLimitMiddleware:
    """The layer that gives each address as many requests at once as connections."""

    def __init__(self, app: ASGIApp, *, config: Config) -> None:
        self._app = app
        self._config = config
        self._running: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<ForwardedLimitMiddleware addresses={len(self._running)}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._config.trusted_proxies:
            await self._app(scope, receive, send)
            return
        address = counted(client_address(HTTPConnection(scope), self._config))
        if self._running[address] >= self._config.connections_per_address:
            await problem(RateLimited(limit="connections_per_address", retry_after=5))(scope, receive, send)
            return
        self._running[address] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running[address] -= 1
            if not self._running[address]:
                del self._running[address]
