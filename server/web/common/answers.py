"""Answers in JSON: any body, and the session."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from tryon.protocol.frames import EventFrame, encode
from tryon.protocol.views import SessionView


class SessionAnswer(SessionView, frozen=True, omit_defaults=True):
    """The session as an answer.

    ``missed`` is present only if ``since`` was given, ``client_token`` only if one was
    made.
    """

    missed: list[EventFrame] | None = None
    client_token: str | None = None


def session_answer(
    view: SessionView, *, missed: list[EventFrame] | None = None, client_token: str | None = None
) -> bytes:
    """Return the session as JSON."""
    return encode(SessionAnswer(**msgspec.structs.asdict(view), missed=missed, client_token=client_token))


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return the answer with this JSON body, which no cache keeps."""
    return Response(
        body, status, media_type="application/json", headers={"Cache-Control": "no-store"} | (headers or {})
    )
