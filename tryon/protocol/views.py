"""What HTTP answers carry: the session, its history, a receipt of deletion."""

from __future__ import annotations

from typing import Any

import msgspec

from tryon.protocol.states import Event, Status


class SessionError(msgspec.Struct, frozen=True):
    """Why a session failed."""

    code: str
    message: str
    retryable: bool


class Links(msgspec.Struct, frozen=True):
    """Where the session's other views and files are.

    Signed and expiring, except ``self``.
    """

    self: str
    ws: str
    events: str
    input: str
    garment: str | None
    output: str | None


class SessionView(msgspec.Struct, frozen=True):
    """The session, the same everywhere: in answers, in lists and in snapshots."""

    session_id: str
    status: Status
    seq: int
    terminal: bool
    attempt: int
    stage: str | None
    progress: float | None
    queue_position: int | None
    eta_seconds: float | None
    error: SessionError | None
    created_at: str
    updated_at: str
    deadline: str
    expires_at: str
    processor: str
    retry_of: str | None
    links: Links


class HistoryEvent(msgspec.Struct, frozen=True):
    """One row of the audit trail as ``GET .../history`` shows it."""

    seq: int
    event: Event
    from_: Status | None = msgspec.field(name="from")
    status: Status
    at: str
    attempt: int
    data: dict[str, Any]


class History(msgspec.Struct, frozen=True):
    """``delivered_at``: when the terminal event was first handed to a client; null if
    that has not happened (yet).
    """

    events: list[HistoryEvent]
    delivered_at: str | None = None


class ErasedFile(msgspec.Struct, frozen=True):
    """One file that a receipt vouches for.

    ``role``: image, garment or output. ``sha256`` of what was stored.
    """

    session_id: str
    role: str
    bytes: int
    sha256: str


class ReceiptBody(msgspec.Struct, frozen=True):
    """What is signed: this object as JSON, keys sorted, no white space, UTF-8."""

    session_id: str
    reason: str
    deleted_at: str
    files: list[ErasedFile]


class Receipt(ReceiptBody, frozen=True):
    """The answer to a DELETE.

    ``signature``: Ed25519 over the body, base64url; the key is at
    /api/tryon/receipt-key.
    """

    key_id: str
    signature: str
