"""The demo page, the documentation's page, and the static files of both."""

from __future__ import annotations

import os
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from server.config.authorities import DEFAULT_PORTS, Origin, parse_origin
from server.config.settings import Config
from server.web.api.static_files import StaticFiles
from server.web.common.origins import own_origin
from server.web.common.resources import REVALIDATED, Resource

POLICY: Final = "Content-Security-Policy"
SOCKETS: Final = {"http": "ws", "https": "wss"}
"""The scheme of a WebSocket, by that of its page."""


class PageEndpoints:
    """The endpoints of everything that a browser shows as a page."""

    def __init__(self, files: StaticFiles, config: Config) -> None:
        self._files = files
        self._config = config
        self._page = files.page("index.html")
        self._docs = files.page("docs/index.html")
        self._bucket = config.storage_url.public_origin(os.environ) if config.presigned and config.storage_url else ""
        self._public = [origin for text in config.origins if (origin := parse_origin(text))]

    async def page(self, request: Request) -> Response:
        """Answer with the demo page."""
        return await self._answer(self._page, request)

    async def docs(self, request: Request) -> Response:
        """Answer with the page of the API's documentation."""
        return await self._answer(self._docs, request)

    async def static(self, request: Request) -> Response:
        """Answer with a static file of the two pages.

        Raises NotFound for any name that is not a file below the static folder.
        """
        resource, cache_control = self._files.find(request.path_params["path"])
        return await resource.answer(request, cache_control=cache_control)

    async def _answer(self, page: Resource, request: Request) -> Response:
        """Answer with a page that may connect to the service's own names alone.

        Some browsers do not count sockets as ``'self'``, so they are named: those of
        the host that was asked for, under both schemes since a proxy may have ended
        TLS, and those of the configured origins, one of which is the public name where
        a proxy changes the host.
        """
        own = own_origin(request, self._config)
        named = [] if own is None else [Origin(scheme, own.host, own.port) for scheme in DEFAULT_PORTS]
        sources = dict.fromkeys(source for origin in [*named, *self._public] if (source := socket_source(origin)))
        policy = page.headers[POLICY].replace("connect-src 'self'", " ".join(["connect-src 'self'", *sources]))
        if self._bucket:  # where redirects of results lead
            for kind in ("img-src 'self'", "media-src 'self'", "connect-src 'self'"):
                policy = policy.replace(kind, f"{kind} {self._bucket}")
        return await page.answer(request, cache_control=REVALIDATED, more={POLICY: policy})


def socket_source(origin: Origin) -> str | None:
    """Return the CSP source of an origin's sockets; None where it has no such form.

    An IPv6 address has none (CSP 3, section 2.3.1), nor has an application's scheme.
    """
    scheme = SOCKETS.get(origin.scheme)
    if scheme is None or origin.host.startswith("["):
        return None
    return f"{scheme}://{origin.host}" + ("" if origin.port is None else f":{origin.port}")
