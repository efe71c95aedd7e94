"""The verbs of an owner, such as cancel, delete and share; and the receipt keys.

A ticket is read-only: with one, all but history are a 404.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from server.domain.session import valid_session_id
from server.services import Services
from server.web.common.answers import json_response, session_answer
from server.web.common.credentials import client_address, counted, credential_of, owner_of
from server.web.common.fields import query
from tryon.protocol.errors import BadRequest
from tryon.protocol.frames import encode
from tryon.protocol.numbers import whole_number
from tryon.protocol.views import SessionView

LIMIT: Final = 20
"""Sessions on a page unless ``limit`` is given."""
MAX_LIMIT: Final = 100
"""Maximum sessions on a page."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class SessionList(msgspec.Struct, frozen=True):
    """One page of an owner's sessions, newest first.

    ``next_cursor`` opens the next page; null on the last one.
    """

    sessions: list[SessionView]
    next_cursor: str | None


class ReceiptKey(msgspec.Struct, frozen=True):
    """An Ed25519 public key: its 32 bytes in base64url."""

    key_id: str
    public_key: str
    algorithm: str = "Ed25519"


class ReceiptKeys(msgspec.Struct, frozen=True):
    """The keys that receipts are verified with; the first one signs."""

    keys: list[ReceiptKey]


class SessionEndpoints:
    """The endpoints of an owner's sessions."""

    def __init__(self, services: Services) -> None:
        self._config = services.config
        self._reads = services.sessions.reads
        self._cancelling = services.sessions.cancelling
        self._crashing = services.sessions.crashing
        self._erasure = services.sessions.erasure
        self._signer = services.signer

    async def list(self, request: Request) -> Response:
        """Answer with one page of the owner's sessions.

        Raises Unauthorized without a token, BadRequest for a malformed ``limit`` or
        ``cursor``.
        """
        owner = owner_of(request)
        views, following = await self._reads.mine(
            owner, limit=_limit(query(request.scope).get("limit")), before=_position(query(request.scope).get("cursor"))
        )
        return json_response(encode(SessionList(views, None if following is None else _cursor(*following))))

    async def cancel(self, request: Request) -> Response:
        """Cancel a session.

        Answers 200 if it is cancelled or has ended, 202 if it runs and its worker was
        asked to stop.
        """
        owner = credential_of(request).owner
        cancelled = await self._cancelling.cancel(request.path_params["session_id"], owner)
        return json_response(session_answer(cancelled.view), 202 if cancelled.pending else 200)

    async def crash(self, request: Request) -> Response:
        """Let the worker of a session crash; answers 202 with the session."""
        address = counted(client_address(request, self._config))
        owner = credential_of(request).owner
        session = await self._crashing.crash(request.path_params["session_id"], owner, address=address)
        return json_response(session_answer(await self._reads.view_of(session)), 202)

    async def delete(self, request: Request) -> Response:
        """Delete a session with all retries of its photo; answer with the receipt."""
        owner = credential_of(request).owner
        return json_response(encode(await self._erasure.delete(request.path_params["session_id"], owner)))

    async def share(self, request: Request) -> Response:
        """Answer with a link to the first result that opens without a credential."""
        owner = credential_of(request).owner
        return json_response(encode(await self._reads.share(request.path_params["session_id"], owner)), 201)

    async def history(self, request: Request) -> Response:
        """Answer with every transition of a session; a ticket is enough."""
        history = await self._reads.history(request.path_params["session_id"], credential_of(request))
        return json_response(encode(history))

    async def receipt_key(self, request: Request) -> Response:
        """Answer with the public keys that receipts are verified with."""
        keys = [ReceiptKey(key_id, public_key) for key_id, public_key in self._signer.receipt_keys()]
        return json_response(encode(ReceiptKeys(keys)))


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT
    limit = whole_number(text)
    if limit is None or not 1 <= limit <= MAX_LIMIT:
        raise BadRequest("bad_request", f"limit must be from 1 to {MAX_LIMIT}.")
    return limit


def _cursor(created_at: datetime, session_id: str) -> str:
    """Return an opaque cursor.

    It holds microseconds since 1970 and the id of the page's last session.
    """
    micros = (created_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(f"{micros}.{session_id}".encode()).decode().rstrip("=")


def _position(cursor: str | None) -> tuple[datetime, str] | None:
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode("ascii")
        number, _, session_id = text.partition(".")
        micros = whole_number(number)
        if micros is None or not valid_session_id(session_id):
            raise ValueError
        return _EPOCH + timedelta(microseconds=micros), session_id
    except (ValueError, OverflowError):  # binascii.Error and UnicodeDecodeError are ValueErrors
        raise BadRequest("bad_request", "The cursor was not issued here.") from None
