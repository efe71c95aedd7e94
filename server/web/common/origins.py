"""The origin of a request: the page, or the application, that sent it."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from server.config.authorities import Origin, foreign_origin_allowed, parse_origin
from server.config.settings import Config
from server.web.common.fields import fields
from server.web.common.forwarding import host_of, secure


def origin_allowed(connection: HTTPConnection, config: Config) -> bool:
    """Return whether a page of the request's origin may connect.

    A request without an Origin header does not come from a browser, and is allowed.
    One with two does not come from a browser either, and is not.
    """
    origins = fields(connection.scope, b"origin")
    if not origins:
        return True
    if len(origins) > 1:
        return False
    origin = parse_origin(origins[0])
    if origin is None:
        return False
    return origin == own_origin(connection, config) or foreign_origin_allowed(origins[0], config.origins)


def own_origin(connection: HTTPConnection, config: Config) -> Origin | None:
    """Return the origin that this request came to, as the page sees it.

    Scheme and host are those that a trusted proxy reports. None without a host.
    """
    scope, proxies = connection.scope, config.trusted_proxies
    host = host_of(scope, proxies)
    return Origin.of("https" if secure(scope, proxies) else "http", host) if host else None
