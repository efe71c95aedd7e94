"""Requests that no endpoint may see: a malformed path, a host that is not served."""

from __future__ import annotations

from typing import ClassVar, Final

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from server.config.authorities import ServedHosts
from server.config.parsing import private_token
from server.config.settings import Config
from server.web.common.fields import excess
from server.web.common.forwarding import host_of
from server.web.common.problems import deny, problem
from tryon.protocol.errors import BadRequest, TryOnError
from tryon.protocol.paths import HEALTH, LIVE, METRICS, READY

ANY_HOST: Final = frozenset({LIVE, READY})
"""Paths that are served under any name: probes ask by an address of their own."""

GUARDED: Final = frozenset({METRICS, HEALTH})
"""Paths that are served under any name where a token guards them.

Monitoring asks each process by an address that no setting can list beforehand. A page
that rebinds its own name to this server (the reason for TRYON_HOSTS) has no token.
"""


class _Misdirected(BadRequest):
    """A host that is not served (RFC 9110 sections 7.4 and 15.5.20)."""

    status: ClassVar[int] = 421


def refusal(scope: Scope, config: Config, served: ServedHosts) -> TryOnError | None:
    """Return why a request is refused before it is routed, or None.

    - A path holds printable characters only. ``$`` in a route's pattern matches before
      a line feed, too: ``/metrics%0a`` would pass a proxy that denies ``/metrics``.
    - The query and the lists in header fields are short enough to be split.
    - HTTP/1.1 has one Host (RFC 9112 section 3.2), a browser sends one Origin at most.
    - The host is one of ``TRYON_HOSTS``.
    """
    path: str = scope["path"]
    if not path.isprintable():
        return BadRequest("bad_request", "The path holds a control character.")
    if too_many := excess(scope):
        return BadRequest("bad_request", too_many)
    names = [name for name, _ in scope["headers"]]
    hosts = names.count(b"host")
    if hosts != 1 and (hosts or scope["http_version"] != "1.0"):
        return BadRequest("bad_request", "A request has one Host header.")
    if names.count(b"origin") > 1:
        return BadRequest("bad_request", "A request has at most one Origin header.")
    host = host_of(scope, config.trusted_proxies)
    if host is None and hosts:
        return BadRequest("bad_request", "The host is malformed.")
    guarded = path in GUARDED and private_token(config.private_paths) is not None
    if not guarded and path not in ANY_HOST and not (served.serves(host) if host else served.any):
        return _Misdirected("bad_request", "This host is not served here; TRYON_HOSTS lists those that are.")
    return None


class AdmissionMiddleware:
    """The layer that answers the requests that :func:`refusal` refuses."""

    def __init__(self, app: ASGIApp, *, config: Config) -> None:
        self._app = app
        self._config = config
        self._served = ServedHosts(config.hosts, bound=config.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = None if scope["type"] == "lifespan" else refusal(scope, self._config, self._served)
        if error is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await problem(error)(scope, receive, send)
        else:
            await deny(WebSocket(scope, receive, send), error)
