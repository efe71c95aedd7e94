"""What an owner may do with a session: cancel it, erase it, list their own.

A ticket is read-only: 404.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from server.domain.session import valid_session_id
from server.services import Services
from server.web.common.answers import json_response, session_answer
from server.web.common.credentials import credential_of
from tryon.protocol.errors import BadRequest, Unauthorized
from tryon.protocol.frames import encode
from tryon.protocol.views import SessionView

LIMIT: Final = 20
MAX_LIMIT: Final = 100

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class SessionList(msgspec.Struct, frozen=True):
    """Mine, newest first.

    ``next_cursor`` opens the next page; null: this was the last.
    """

    sessions: list[SessionView]
    next_cursor: str | None


class ReceiptKey(msgspec.Struct, frozen=True):
    """An Ed25519 public key: its 32 bytes in base64url."""

    key_id: str
    public_key: str
    algorithm: str = "Ed25519"


class ReceiptKeys(msgspec.Struct, frozen=True):
    """The keys that receipts are checked with; the first signs."""

    keys: list[ReceiptKey]


class Actions:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._sessions = services.sessions

    async def list(self, request: Request) -> Response:
        owner = credential_of(request).owner
        if owner is None:
            raise Unauthorized("token_required")
        views, following = await self._sessions.reads.mine(
            owner, limit=_limit(request.query_params.get("limit")), before=_position(request.query_params.get("cursor"))
        )
        return json_response(encode(SessionList(views, None if following is None else _cursor(*following))))

    async def cancel(self, request: Request) -> Response:
        """200: cancelled, or at its end already. 202: the worker has been asked to
        stop.
        """
        owner = credential_of(request).owner
        cancelled = await self._sessions.cancelling.cancel(request.path_params["session_id"], owner)
        return json_response(session_answer(cancelled.view), 202 if cancelled.pending else 200)

    async def delete(self, request: Request) -> Response:
        """Erase now, with all retries of the same photo; the answer is a signed
        receipt.
        """
        owner = credential_of(request).owner
        return json_response(encode(await self._sessions.erasure.delete(request.path_params["session_id"], owner)))

    async def history(self, request: Request) -> Response:
        """Answer with every transition of a session; a ticket is enough."""
        history = await self._sessions.reads.history(request.path_params["session_id"], credential_of(request))
        return json_response(encode(history))

    async def receipt_key(self, request: Request) -> Response:
        keys = [ReceiptKey(key_id, public_key) for key_id, public_key in self._services.signer.receipt_keys()]
        return json_response(encode(ReceiptKeys(keys)))


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_LIMIT):
        raise BadRequest("bad_request", f"limit must be from 1 to {MAX_LIMIT}.")
    return int(text)


def _cursor(created_at: datetime, session_id: str) -> str:
    """Opaque to clients: microseconds since 1970 and the id of the page's last session."""
    micros = (created_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(f"{micros}.{session_id}".encode()).decode().rstrip("=")


def _position(cursor: str | None) -> tuple[datetime, str] | None:
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode("ascii")
        micros, _, session_id = text.partition(".")
        if not valid_session_id(session_id) or len(micros) > 18:
            raise ValueError
        return _EPOCH + timedelta(microseconds=int(micros)), session_id
    except (ValueError, OverflowError, binascii.Error, UnicodeDecodeError):
        raise BadRequest("bad_request", "The cursor is not one of ours.") from None
