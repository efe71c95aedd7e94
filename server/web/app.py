"""The web process: routes, middleware, lifespan; and the server that runs it.

Reads top to bottom as what can be asked. Everything that an endpoint needs is built in
the lifespan, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from server.adapters.imaging.pool import Imaging
from server.config.settings import Config, ConfigError
from server.domain.images import Limits
from server.services import open_services
from server.telemetry import logs
from server.web.api.sessions import Actions
from server.web.api.status import Status
from server.web.api.submit import Submit
from server.web.common.problems import deny, on_http_exception, on_refusal
from server.web.docs.openapi import asyncapi_json, openapi_json
from server.web.push.hub import Hub
from server.web.serving.handshake import Handshake
from server.web.serving.http import HttpProtocol
from server.web.serving.middleware import RequestMiddleware
from server.web.transports.long_poll import Polls
from server.web.transports.outbox import Places
from server.web.transports.sse import Streams
from server.web.transports.websocket import Sockets
from tryon.protocol.errors import NotFound, TryOnError
from tryon.protocol.paths import API, FILES, SESSIONS

log = logging.getLogger("tryon.web")

EXPOSED_HEADERS: Final = (
    "Location", "ETag", "Retry-After", "RateLimit", "RateLimit-Policy", "X-Request-ID", "Idempotent-Replay",
)  # fmt: skip
ALLOWED_HEADERS: Final = (
    "Authorization", "X-Client-Token", "Idempotency-Key", "Last-Event-ID", "If-None-Match", "X-Request-ID", "Content-Type",
)  # fmt: skip
LOCALHOST: Final = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"

PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

UNACKNOWLEDGED_MS: Final = 8000
"""How long sent bytes may stay unacknowledged before the kernel drops a connection (RFC
5482): a peer that vanished, or that takes nothing. It finds them long before a ping
does, and without a byte from us.
"""

STOP_SECONDS: Final = 2
"""How long a stopping server waits for requests in flight, after it has told all who
follow: it has five seconds in all.
"""


def create_app(config: Config) -> Starlette:
    """The ASGI application. Starting its lifespan connects it."""
    endpoints: dict[str, Any] = {}

    def http(name: str, method: str) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            answer: Response = await getattr(endpoints[name], method)(request)
            return answer

        endpoint.__name__ = f"{name}_{method}"
        return endpoint

    class Follow:
        """An ASGI application of its own: an endpoint that is a function costs two more
        layers, and thousands come at once.
        """

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await endpoints["sockets"].endpoint(WebSocket(scope, receive, send))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with open_services(config) as services, Imaging(image_limits(config)) as imaging:
            await services.store.check()
            await services.store.synchronize_clock()
            hub = Hub(
                config=config,
                store=services.store,
                bus=services.bus,
                sessions=services.sessions,
                signer=services.signer,
                redis_url=config.redis,
            )
            app.state.hub = hub
            app.state.services = services
            places = Places(config)
            endpoints["submit"] = Submit(services, imaging)
            endpoints["status"] = Status(services, hub)
            endpoints["polls"] = Polls(services, hub, places)
            endpoints["actions"] = Actions(services)
            endpoints["sockets"] = Sockets(services, hub, places)
            endpoints["streams"] = Streams(services, hub, places)
            async with hub.running(), services.reconciler.maintenance():
                yield

    routes: list[BaseRoute] = [
        WebSocketRoute(f"{SESSIONS}/{{session_id}}/ws", Follow()),  # first: thousands come back at once
        Route(SESSIONS, http("submit", "upload"), methods=["POST"]),
        Route(SESSIONS, http("actions", "list"), methods=["GET"]),
        Route(f"{SESSIONS}/{{session_id}}", http("polls", "session"), methods=["GET"]),
        Route(f"{SESSIONS}/{{session_id}}", http("actions", "delete"), methods=["DELETE"]),
        Route(f"{SESSIONS}/{{session_id}}/history", http("status", "history"), methods=["GET"]),
        Route(f"{SESSIONS}/{{session_id}}/events", http("streams", "endpoint"), methods=["GET"]),
        Route(f"{SESSIONS}/{{session_id}}/cancel", http("actions", "cancel"), methods=["POST"]),
        Route(f"{SESSIONS}/{{session_id}}/retry", http("submit", "retry"), methods=["POST"]),
        Route(f"{API}/receipt-key", http("actions", "receipt_key"), methods=["GET"]),
        Route(f"{FILES}/{{key:path}}", http("status", "file"), methods=["GET"]),
        Route("/api/health", http("status", "health"), methods=["GET"]),
        Route("/api/health/live", http("status", "live"), methods=["GET"]),
        Route("/api/health/ready", http("status", "ready"), methods=["GET"]),
        Route("/metrics", http("status", "metrics"), methods=["GET"]),
        Route("/api/docs", docs, methods=["GET"]),
        Route("/api/openapi.json", openapi_json, methods=["GET"]),
        Route("/api/asyncapi.json", asyncapi_json, methods=["GET"]),
        Route("/", page, methods=["GET"]),
        Route("/static/{path:path}", static_file, methods=["GET"]),
    ]
    cors = _cors(config)
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(RequestMiddleware, config=config, cors=cors), cors],
        exception_handlers={TryOnError: on_refusal, HTTPException: on_http_exception},
    )
    app.router.default = nowhere(app.router.default)
    return app


def image_limits(config: Config) -> Limits:
    return Limits(
        max_bytes=config.image_max_bytes,
        min_side=config.image_min_side,
        max_side=config.image_max_side,
        max_pixels=config.image_max_pixels,
    )


def _cors(config: Config) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=list(config.origins),
        allow_origin_regex=None if config.origins else LOCALHOST,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=list(ALLOWED_HEADERS),
        expose_headers=list(EXPOSED_HEADERS),
        max_age=3600,
    )


# -- the demo page ---------------------------------------------------------------------


def static_directory() -> Path:
    """Beside the packages in a checkout, inside the package when installed from a
    wheel.
    """
    here = Path(__file__).resolve().parents[1]
    for folder in (here.parent / "static", here / "static"):
        if (folder / "index.html").is_file():
            return folder
    raise ConfigError("the static files are missing from this installation")


async def page(request: Request) -> Response:
    return await _static("index.html")


def nowhere(not_found: ASGIApp) -> ASGIApp:
    """What answers where no route matches: a WebSocket is refused before its handshake
    like any other request.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await deny(WebSocket(scope, receive, send), NotFound())
        else:
            await not_found(scope, receive, send)

    return answer


async def docs(request: Request) -> Response:
    return await _static("docs/index.html")


async def static_file(request: Request) -> Response:
    return await _static(request.path_params["path"])


async def _static(name: str) -> Response:
    root = static_directory()
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not await asyncio.to_thread(path.is_file):
            raise NotFound
    except (ValueError, OSError):  # a NUL in the name, or a name too long for the file system
        raise NotFound from None
    return FileResponse(
        path,
        headers={"Cache-Control": "no-cache", "Content-Security-Policy": PAGE_POLICY, "Referrer-Policy": "no-referrer"},
    )


# -- the server ------------------------------------------------------------------------


class Server(uvicorn.Server):
    """uvicorn, but sockets are told before they are closed: it would send all of them a
    bare 1012 first.
    """

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._application = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:  # before its listeners: asyncio cannot take a closed one out of its selector
            server.close()
        for listener in sockets or []:
            listener.close()
        hub: Hub | None = getattr(self._application.state, "hub", None)
        if hub is not None and (told := hub.drain()):
            log.info("Told %d clients to come back later", told)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while hub.followers:
                        await asyncio.sleep(0.01)
        await super().shutdown(sockets)


def listen(config: Config, *, reuse_port: bool) -> socket.socket:
    """The listening socket. Raises ConfigError if the port is taken."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; every accepted connection inherits it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
    if reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"TRYON_PORT: {config.host}:{config.port} cannot be listened on: {error.strerror}") from error
    listener.listen(4096)
    listener.setblocking(False)
    return listener


def raise_file_limit() -> None:
    """As many sockets as the system lets us have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def make_server(
    app: Starlette, *, ws: type[asyncio.Protocol] = Handshake, http: type[asyncio.Protocol] = HttpProtocol
) -> Server:
    """The server around the application, as :func:`run` and the tests run it; it
    listens on sockets it is given.

    ``ws``: uvicorn's WebSocket protocol; with another than ours sockets go over plain
    ASGI. ``http``: likewise; with another than ours nobody counts the bytes of a head.
    """
    return Server(
        uvicorn.Config(
            app,
            http=http,
            loop="uvloop",
            ws=ws,
            ws_max_size=4096,
            ws_per_message_deflate=False,
            ws_ping_interval=20,
            ws_ping_timeout=20,
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=STOP_SECONDS,
        ),
        app,
    )


def run(config: Config, *, reuse_port: bool = False) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError if the port is taken."""
    logs.setup_logging(log_format=config.log_format, log_level=config.log_level)
    raise_file_limit()
    listener = listen(config, reuse_port=reuse_port)
    server = make_server(create_app(config))
    gc.freeze()  # what was loaded stays: 90,000 objects that no collection need look at again while pushes wait
    host, port = listener.getsockname()[:2]
    log.info("Listening on http://%s:%d", host, port)
    server.run(sockets=[listener])
