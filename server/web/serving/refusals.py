"""Answers of the connection itself, past the application, as problems (RFC 9457)."""

from __future__ import annotations

import uuid
from typing import ClassVar

from server.telemetry import logs
from server.web.common.problems import problem
from server.web.serving.handshake import WrongVersion, response_head
from tryon.protocol.errors import BadRequest, TryOnError


class TooLate(BadRequest):
    """A part of a request was not complete in time."""

    status: ClassVar[int] = 408


def refusal(error: TryOnError) -> bytes:
    """Return a whole answer, the last one of its connection."""
    rid = str(uuid.uuid4())  # uvicorn builds the protocol: no other source of chance reaches it
    more = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"} if isinstance(error, WrongVersion) else {}
    token = logs.request_id.set(rid)
    try:
        response = problem(
            error, {"Connection": "close", "X-Request-ID": rid, "X-Content-Type-Options": "nosniff"} | more
        )
    finally:
        logs.request_id.reset(token)
    return response_head(response.status_code, response.raw_headers) + bytes(response.body)
