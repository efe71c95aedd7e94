"""Around every request: its id, its two log lines, its metrics, its error answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from server.config.settings import Config
from server.system.clock import Clock
from server.system.randomness import Randomness
from server.telemetry import logs, metrics, tracing
from server.web.common.credentials import client_address
from server.web.common.fields import fields
from server.web.common.problems import deny, internal_error, out_of_descriptors, problem
from server.web.serving.unanswered import Unanswered
from tryon.protocol.errors import InternalError, Unavailable
from tryon.protocol.paths import API, HEALTH, LIVE, METRICS, PROCESSOR, READY, SSE

log = logging.getLogger("tryon.web")

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)

QUIET: Final = frozenset({HEALTH, LIVE, READY, METRICS, PROCESSOR})
"""Paths that programs poll, `tryon up` among them; they are logged at debug level."""

RETRY_SECONDS: Final = 2
"""``Retry-After`` of a request that is refused because the server stops (another one
listens), or has no file descriptor left.
"""


class RequestMiddleware:
    """The outermost layer.

    The path is logged without its query, which may hold tickets and signatures.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        config: Config,
        cors: Middleware,
        unanswered: Unanswered,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._app = app
        self._unanswered = unanswered
        self._config = config
        self._clock = clock
        self._randomness = randomness
        # With CORS, because a page of another origin may read these answers, too.
        self._failed: ASGIApp = cors.cls(_failed, *cors.args, **cors.kwargs)
        self._unavailable: ASGIApp = cors.cls(_unavailable, *cors.args, **cors.kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        given = fields(scope, b"x-request-id")
        rid = given[0] if given and REQUEST_ID.fullmatch(given[0]) else self._new_id()
        token = logs.request_id.set(rid)
        try:
            if scope["type"] == "http":
                with _traced(scope):
                    await self._http(scope, receive, send, rid)
            else:
                await self._websocket(scope, receive, send, rid)
        finally:
            logs.request_id.reset(token)

    def _new_id(self) -> str:
        return str(uuid.UUID(bytes=self._randomness.bytes(16), version=4))

    async def _http(self, scope: Scope, receive: Receive, send: Send, rid: str) -> None:
        method, path = scope["method"], scope["path"]
        level = logging.DEBUG if path in QUIET else logging.INFO
        address = client_address(HTTPConnection(scope), self._config)
        log.log(level, "[%s] %s %s - Client: %s", rid, method, path, address, extra={"event": "request"})
        begin = self._clock.monotonic()
        status, refused = 0, False

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = rid
                headers.setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        async def refuse() -> bool:
            nonlocal refused
            if status == 0:
                refused = True
                logs.request_id.set(rid)  # the server's own task calls this
                await self._unavailable(scope, receive, send_with_id)
            return refused

        try:
            with self._unanswered.added(refuse):
                await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if not status:
                raise  # else it has its answer, or as much of it as its client took in time
        except Exception as error:
            if not refused:  # else it has its answer, and may not send another one
                seconds = self._clock.monotonic() - begin
                short = out_of_descriptors(error)
                if short:
                    log.warning("[%s] No file descriptor is left", rid)
                else:
                    log.exception("[%s] Error after %.3fs: %s", rid, seconds, type(error).__name__)
                if status:  # the answer has begun: it can only be cut off
                    raise
                await (self._unavailable if short else self._failed)(scope, receive, send_with_id)
        seconds = self._clock.monotonic() - begin
        route = route_name(scope)
        metrics.http_requests.labels(method if route != "unknown" else "any", route, str(status)).inc()
        metrics.http_seconds.labels(route).observe(seconds)
        answer: tracing.Attributes = {"http.route": route, "http.response.status_code": status}
        tracing.note(answer, name=f"{method} {route}", failed=status >= 500)
        log.log(level, "[%s] Completed %d in %.3fs", rid, status, seconds, extra={"status": status, "seconds": seconds})

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, rid: str) -> None:
        if log.isEnabledFor(logging.DEBUG):
            address = client_address(HTTPConnection(scope), self._config)
            log.debug("[%s] WebSocket %s - Client: %s", rid, scope["path"], address)
        begin = self._clock.monotonic()
        answered, refused = False, False

        async def send_with_id(message: Message) -> None:
            nonlocal answered
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", rid.encode())]
            answered = True
            await send(message)

        async def refuse() -> bool:
            nonlocal refused
            if not answered:
                refused = True
                logs.request_id.set(rid)
                await deny(WebSocket(scope, receive, send_with_id), Unavailable(retry_after=RETRY_SECONDS))
            return refused

        try:
            with self._unanswered.added(refuse):
                await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if not refused:
                raise
        except Exception as error:
            if not refused:
                log.exception("[%s] Error after %.3fs: %s", rid, self._clock.monotonic() - begin, type(error).__name__)
            if not answered:
                await deny(WebSocket(scope, receive, send_with_id), InternalError())
        log.debug("[%s] WebSocket ended after %.3fs", rid, self._clock.monotonic() - begin)


async def _failed(scope: Scope, receive: Receive, send: Send) -> None:
    await internal_error()(scope, receive, send)


async def _unavailable(scope: Scope, receive: Receive, send: Send) -> None:
    await problem(Unavailable(retry_after=RETRY_SECONDS))(scope, receive, send)


def _traced(scope: Scope) -> contextlib.AbstractContextManager[None]:
    """Return the span of a call, in the trace that its client names.

    Pages and probes have none, nor have event streams, which last for hours.
    """
    path = scope["path"]
    if not path.startswith(API) or path.endswith(SSE):
        return contextlib.nullcontext()
    parent = tracing.parsed(next(iter(fields(scope, b"traceparent")), None))
    return tracing.span(scope["method"], "server", parent, {"http.request.method": scope["method"]})


def route_name(scope: Scope) -> str:
    """Return the template of the route that matches, else ``unknown``.

    Templates keep the number of metric labels small.
    """
    application = scope.get("app")
    for route in application.routes if application is not None else ():
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            return route.path
    return "unknown"
