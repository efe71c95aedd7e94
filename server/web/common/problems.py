"""Every refusal as an answer: ``application/problem+json`` (RFC 9457).

The one map from errors to answers; unknown routes and wrong methods go through it, too.
"""

from __future__ import annotations

import errno
import logging
import math
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.websockets import WebSocket

from server.telemetry import logs
from tryon.protocol.errors import BadRequest, InternalError, MethodNotAllowed, NotFound, TooSlow, TryOnError
from tryon.protocol.frames import encode

log = logging.getLogger("tryon.web")


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a refusal.

    ``type`` is always about:blank (RFC 9457 section 4.2.1); programs read ``code``.
    ``limit`` is present only with ``rate_limited``, ``part`` only where a part of an
    upload is refused, ``pointer`` with ``bad_params``: the place in ``params``.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    request_id: str | None
    limit: str | None = None
    part: str | None = None
    pointer: str | None = None


ACCEPTED: Final[dict[str, dict[str, str]]] = {
    "not_multipart": {"Accept": "multipart/form-data"},
    "unsupported_encoding": {"Accept-Encoding": "identity"},
}
"""Types that would have been accepted, by the code of a 415 (RFC 9110, 15.5.16)."""


CHALLENGES: Final[dict[str, str]] = {
    "invalid_token": 'Bearer error="invalid_token"',
    "invalid_ticket": "Bearer",
    "token_required": "Bearer",
    "insufficient_scope": 'Bearer error="insufficient_scope"',
}
"""``WWW-Authenticate`` (RFC 9110 section 11.6.1, RFC 6750 section 3), by the code."""


def problem(error: TryOnError, headers: dict[str, str] | None = None) -> Response:
    """Return the answer to a refusal, with Retry-After where waiting helps."""
    body = Problem(
        type="about:blank",
        title=error.title,
        status=error.status,
        detail=error.detail,
        code=error.code,
        retryable=error.retryable,
        request_id=logs.request_id.get(),
        limit=error.limit,
        part=error.part,
        pointer=error.pointer,
    )
    extra = ACCEPTED.get(error.code, {}) | (headers or {})
    if error.status == TooSlow.status:  # the rest of the request is not waited for (RFC 9110 section 15.5.9)
        extra["Connection"] = "close"
    if (challenge := CHALLENGES.get(error.code)) is not None:
        extra["WWW-Authenticate"] = challenge
    if error.retry_after is not None:
        extra["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return Response(
        encode(body), error.status, media_type="application/problem+json", headers={"Cache-Control": "no-store"} | extra
    )


async def on_refusal(request: Request, error: Exception) -> Response:
    """Answer a refusal that an endpoint raised."""
    assert isinstance(error, TryOnError)
    return problem(error)


def _methods(request: Request) -> list[str]:
    """Return the methods of all routes with this path.

    Starlette's own Allow names only those of the first route.
    """
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    fitting = [route.methods or set() for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted(set().union(*fitting))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer Starlette's own refusals: unknown routes, wrong methods, bad requests."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return problem(MethodNotAllowed(), {"Allow": ", ".join(_methods(request))})
    if error.status_code == 404:
        return problem(NotFound())
    return problem(BadRequest("bad_request"))


def internal_error() -> Response:
    """Return the answer to an error that was not foreseen."""
    return problem(InternalError())


def out_of_descriptors(error: Exception) -> bool:
    """Return whether the process, or the machine, had no file descriptor left.

    That is no defect: there is one again as soon as a client leaves.
    """
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


async def deny(socket: WebSocket, error: TryOnError) -> None:
    """Refuse the handshake, with the reason where the server can send one.

    The ASGI extension for that is ``websocket.http.response``.
    """
    if "websocket.http.response" in (socket.scope.get("extensions") or {}):
        await socket.send_denial_response(problem(error))
    else:
        await socket.close()
