"""The web process: builds its parts once, and makes its routes of the operations."""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from server import __version__
from server.adapters.imaging.pool import Imaging
from server.adapters.redis.subscribing import Subscriber, make_subscriber
from server.config.settings import Config
from server.domain.images import Limits
from server.services import Services, open_services
from server.system.clock import Clock
from server.system.randomness import Randomness
from server.telemetry import metrics
from server.web.api.files import FileEndpoints
from server.web.api.health import HealthEndpoints
from server.web.api.limits import LimitsEndpoint
from server.web.api.metrics_page import MetricsEndpoint
from server.web.api.operation import Endpoints, Http, Operation, Socket
from server.web.api.operations import OPERATIONS
from server.web.api.pages import PageEndpoints
from server.web.api.processor import ProcessorEndpoint
from server.web.api.quota import QuotaEndpoint
from server.web.api.sessions import SessionEndpoints
from server.web.api.static_files import static_files
from server.web.api.submit import SubmitEndpoints
from server.web.common.credentials import identify
from server.web.common.problems import deny, on_http_exception, on_refusal
from server.web.docs.documents import GeneratedDocuments
from server.web.ops.endpoints import OperatorEndpoints
from server.web.ops.operations import OPERATIONS as OPERATOR_OPERATIONS
from server.web.push.hub import Hub
from server.web.serving.admission import AdmissionMiddleware
from server.web.serving.cors import OriginMiddleware
from server.web.serving.forwarded import ForwardedLimitMiddleware
from server.web.serving.middleware import RequestMiddleware
from server.web.serving.unanswered import Unanswered
from server.web.transports.connection_limits import ConnectionLimits
from server.web.transports.joining import Joining
from server.web.transports.long_poll import Polls
from server.web.transports.owners import OwnerSockets, OwnerStreams, Watching
from server.web.transports.sse import Streams
from server.web.transports.websocket import Sockets
from tryon.protocol.errors import NotFound, TryOnError


class Running:
    """The slot of the parts that answer requests; the lifespan fills it."""

    __slots__ = ("_endpoints",)

    def __init__(self) -> None:
        self._endpoints: Endpoints | None = None

    def __repr__(self) -> str:
        return f"<Running {'started' if self._endpoints else 'not started'}>"

    def start(self, endpoints: Endpoints) -> None:
        """Fill the slot, before the server accepts its first connection."""
        self._endpoints = endpoints

    @property
    def endpoints(self) -> Endpoints:
        assert self._endpoints is not None, "requests come after the start"
        return self._endpoints


def create_app(config: Config, *, clock: Clock, randomness: Randomness) -> Starlette:
    """Return the ASGI application. Its lifespan connects it."""
    running = Running()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with (
            open_services(config, clock=clock, randomness=randomness) as services,
            Imaging(image_limits(config)) as imaging,
        ):
            await services.database.reader.check()
            await services.database.clock.synchronize()
            hub = make_hub(config, services)
            app.state.hub = hub
            app.state.services = services
            operators = OperatorEndpoints(services, hub, static_files()) if config.ops_tokens else None
            running.start(make_endpoints(config, services, imaging, hub, operators))
            metrics.note_process("web", __version__, platform.python_version())
            async with hub.running(), services.reconciling.maintenance.running(), contextlib.AsyncExitStack() as more:
                if operators is not None:
                    await more.enter_async_context(operators.running())
                yield

    cors, unanswered = Middleware(OriginMiddleware, config.origins), Unanswered()
    outermost = Middleware(
        RequestMiddleware, config=config, cors=cors, unanswered=unanswered, clock=clock, randomness=randomness
    )
    app = Starlette(
        routes=make_routes(running, operators=bool(config.ops_tokens)),
        lifespan=lifespan,
        middleware=[
            outermost,
            Middleware(AdmissionMiddleware, config=config),
            cors,
            Middleware(ForwardedLimitMiddleware, config=config),
        ],
        exception_handlers={TryOnError: on_refusal, HTTPException: on_http_exception},
    )
    app.state.unanswered = unanswered
    app.router.redirect_slashes = False  # such a redirect would lead to whatever Host says
    app.router.default = nowhere(app.router.default)
    return app


# -- the parts -------------------------------------------------------------------------


def make_hub(config: Config, services: Services, *, subscriber: Callable[..., Subscriber] = make_subscriber) -> Hub:
    """Return the hub between Redis and the clients of this process."""
    return Hub(
        config=config,
        database=services.database,
        bus=services.bus,
        sessions=services.sessions,
        signer=services.signer,
        clock=services.clock,
        randomness=services.randomness,
        subscriber=functools.partial(subscriber, config.redis, randomness=services.randomness),
    )


def make_endpoints(
    config: Config, services: Services, imaging: Imaging, hub: Hub, operators: OperatorEndpoints | None
) -> Endpoints:
    """Return the parts that answer requests; all transports share the limits."""
    limits = ConnectionLimits(config)
    reads = services.sessions.reads
    joining = Joining(config=config, hub=hub, reads=reads, limits=limits)
    watching = Watching(config=config, hub=hub, reads=reads, limits=limits, database_clock=services.database.clock)
    return Endpoints(
        verifier=services.verifier,
        submit=SubmitEndpoints(services, imaging),
        sessions=SessionEndpoints(services),
        files=FileEndpoints(services),
        processor=ProcessorEndpoint(services),
        limits=LimitsEndpoint(config),
        quota=QuotaEndpoint(services),
        health=HealthEndpoints(services, hub),
        metrics=MetricsEndpoint(services, hub),
        polls=Polls(services, hub, limits, joining),
        streams=Streams(services, hub, limits, joining),
        sockets=Sockets(services, hub, limits, joining),
        owner_streams=OwnerStreams(services, hub, limits, watching),
        owner_sockets=OwnerSockets(services, hub, limits, joining, watching),
        pages=PageEndpoints(static_files(), config),
        documents=GeneratedDocuments(),
        ops=operators,
    )


def image_limits(config: Config) -> Limits:
    """Return the configured sizes of accepted images."""
    return Limits(
        max_bytes=config.image_max_bytes,
        min_side=config.image_min_side,
        max_side=config.image_max_side,
        max_pixels=config.image_max_pixels,
    )


# -- the routes ------------------------------------------------------------------------


class Follow:
    """An ASGI application that follows over a WebSocket.

    An endpoint that is a function would cost two more layers of calls, and thousands of
    clients connect at once.
    """

    __slots__ = ("_handler", "_running")

    def __init__(self, handler: Socket, running: Running) -> None:
        self._handler = handler
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoints, socket = self._running.endpoints, WebSocket(scope, receive, send)
        await identify(socket, endpoints.verifier)
        await self._handler.pick(endpoints)(socket)


def make_routes(running: Running, *, operators: bool) -> list[BaseRoute]:
    """Return a route for each operation; ``operators``: those of their page, too.

    Sockets are matched first, since thousands of clients may connect at once.
    """
    rows = sorted(
        OPERATIONS + (OPERATOR_OPERATIONS if operators else ()), key=lambda row: isinstance(row.handler, Http)
    )
    sockets = [row.route for row in rows if isinstance(row.handler, Socket)]
    return [_route(row, running) for row in rows] + [Route(path, _no_handshake, methods=["GET"]) for path in sockets]


async def _no_handshake(request: Request) -> Response:
    """Answer a request to a socket's path that asks for no socket."""
    raise NotFound


def _route(row: Operation, running: Running) -> BaseRoute:
    handler = row.handler
    if isinstance(handler, Socket):
        return WebSocketRoute(row.route, Follow(handler, running), name=row.name)

    async def endpoint(request: Request) -> Response:
        if row.identifies:
            await identify(request, running.endpoints.verifier)
        return await handler.pick(running.endpoints)(request)

    return Route(row.route, endpoint, methods=[row.method], name=row.name)


def nowhere(not_found: ASGIApp) -> ASGIApp:
    """Return the application for paths without a route.

    It refuses a WebSocket before its handshake, like any other request.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await deny(WebSocket(scope, receive, send), NotFound())
        else:
            await not_found(scope, receive, send)

    return answer
