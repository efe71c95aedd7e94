"""One session as a value, and as every client sees it.

:class:`Session` is the row. :class:`SessionView` is the JSON that the POST, the GET and every snapshot carry: one shape
everywhere. :func:`view` turns the one into the other.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from server.domain.errors import FAILURES
from server.domain.states import Event, Status
from server.domain.tokens import SESSIONS, Signer


def new_session_id() -> str:
    """A UUIDv7 (RFC 9562 section 5.7): 48 bits of Unix milliseconds, then 74 random bits; sorts by creation."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


_SESSION_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)


def valid_session_id(text: str) -> bool:
    """Whether the text is a UUID in its canonical form, the only one that names a session."""
    return _SESSION_ID.fullmatch(text) is not None


def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: ``2026-11-22T09:00:00.000Z``."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A row of ``tryon_sessions``. All times are aware and in UTC, of the database's clock."""

    id: str
    owner: str
    """Hash of the client's token, 64 hex digits."""
    status: Status
    seq: int
    attempt: int
    """How often it was claimed; also the fencing token of the worker that holds it."""
    burnt: int
    """How many attempts were lost (lease lapsed, crash, retryable error)."""
    enqueues: int
    """How often it was put into the queue: the n of the job id."""
    cancel_requested: bool
    processor: str
    params: dict[str, Any]
    input_key: str
    garment_key: str | None
    output_key: str | None
    error_code: str | None
    error_message: str | None
    error_retryable: bool
    retry_of: str | None
    request_id: str | None
    lease_owner: str | None
    lease_expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    deadline_at: datetime
    expires_at: datetime
    delivered_at: datetime | None = None
    """When a client was first handed the terminal event."""

    @property
    def file_keys(self) -> list[str]:
        return [key for key in (self.input_key, self.garment_key, self.output_key) if key]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """A row of ``tryon_events``: the audit trail is the event log. ``data`` holds file keys, never links."""

    session_id: str
    seq: int
    event: Event
    from_status: Status | None
    status: Status
    at: datetime
    attempt: int
    actor: str
    data: dict[str, Any] = field(default_factory=dict)


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """The latest word about the current transition. It belongs to one (attempt, seq) and to no other."""

    seq: int
    attempt: int
    at: str
    progress: float | None = None
    stage: str | None = None
    eta_seconds: float | None = None


class Waiting(NamedTuple):
    """Where a session stands in the queue, from 1, and the time to its expected end (None: nobody can say)."""

    queue_position: int
    eta_seconds: float | None


def worth_telling(told: Waiting | None, now: Waiting) -> bool:
    """Whether who waits should hear of this place: at position 500 each tenth move, in the first hundred every one; a time
    that has changed by a tenth and a second."""
    if told is None or told == now:
        return told is None
    if abs(told.queue_position - now.queue_position) >= max(1, now.queue_position // 50):
        return True
    if told.eta_seconds is None or now.eta_seconds is None:
        return told.eta_seconds is not now.eta_seconds
    return abs(told.eta_seconds - now.eta_seconds) >= max(1.0, told.eta_seconds / 10)


def expected_seconds(position: int, *, run_seconds: float | None, slots: int) -> float | None:
    """The time to the end of a session that waits at ``position`` while ``slots`` sessions run at once.

    As if everybody took the recent usual time and all slots were free now: each full round in front of it takes one such
    time, then it runs itself. None without workers or experience.
    """
    if run_seconds is None or slots < 1:
        return None
    rounds_ahead = (position - 1) // slots
    return round(run_seconds * (rounds_ahead + 1), 1)


class SessionError(msgspec.Struct, frozen=True):
    """Why a session failed."""

    code: str
    message: str
    retryable: bool


class Links(msgspec.Struct, frozen=True):
    """Where the session's other views and files are. Signed and expiring, except ``self``."""

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


@dataclass(frozen=True, slots=True)
class Access:
    """Who looks: decides which links an answer may hold. Times in Unix seconds of the database's clock.

    A token holder gets tickets and links of full life. A ticket holder gets no ticket, and no link that lives longer
    than the ticket (``until``).
    """

    signer: Signer
    now: float
    link_seconds: int
    ticket_seconds: int
    until: int | None = None
    """End of the ticket that was shown; None: the token itself was."""

    def file(self, key: str | None) -> str | None:
        if key is None:
            return None
        expires = int(self.now) + self.link_seconds
        return self.signer.link(key, expires=expires if self.until is None else min(expires, self.until))

    def ticket(self, session_id: str) -> str:
        """The query that opens the session's streams; empty for a ticket holder."""
        if self.until is not None:
            return ""
        return f"?ticket={self.signer.ticket(session_id, expires=int(self.now) + self.ticket_seconds)}"


def error_of(session: Session) -> SessionError | None:
    if session.error_code is None:
        return None
    known = FAILURES.get(session.error_code, FAILURES["processor_error"])
    return SessionError(session.error_code, session.error_message or known.detail, session.error_retryable)


def view(
    session: Session, access: Access, *, progress: Progress | None = None, waiting: Waiting | None = None
) -> SessionView:
    """The session as a client may see it. ``progress`` counts only if it belongs to the current transition,
    ``waiting`` only before the first."""
    if progress is not None and (progress.seq, progress.attempt) != (session.seq, session.attempt):
        progress = None
    if session.status is not Status.CREATED:
        waiting = None
    file, path, query = access.file, f"{SESSIONS}/{session.id}", access.ticket(session.id)
    return SessionView(
        session_id=session.id,
        status=session.status,
        seq=session.seq,
        terminal=session.status.terminal,
        attempt=session.attempt,
        stage=progress.stage if progress else None,
        progress=progress.progress if progress else (1.0 if session.status is Status.COMPLETED else None),
        queue_position=waiting.queue_position if waiting else None,
        eta_seconds=progress.eta_seconds if progress else waiting.eta_seconds if waiting else None,
        error=error_of(session),
        created_at=timestamp(session.created_at),
        updated_at=timestamp(session.updated_at),
        deadline=timestamp(session.deadline_at),
        expires_at=timestamp(session.expires_at),
        processor=session.processor,
        retry_of=session.retry_of,
        links=Links(
            self=path,
            ws=f"{path}/ws{query}",
            events=f"{path}/events{query}",
            input=file(session.input_key) or "",
            garment=file(session.garment_key),
            output=file(session.output_key),
        ),
    )


class ErasedFile(msgspec.Struct, frozen=True):
    """One file that a receipt vouches for. ``role``: image, garment or output. ``sha256`` of what was stored."""

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
    """The answer to a DELETE. ``signature``: Ed25519 over the body, base64url; the key is at /api/tryon/receipt-key."""

    key_id: str
    signature: str


def signed_receipt(body: ReceiptBody, signer: Signer) -> Receipt:
    key_id, signature = signer.sign_receipt(msgspec.json.encode(body, order="sorted"))
    return Receipt(body.session_id, body.reason, body.deleted_at, body.files, key_id, signature)
