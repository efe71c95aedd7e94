"""The bodies of HTTP answers: the session, its history, a share, a receipt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from tryon.protocol.states import Event, Status

Params: TypeAlias = Mapping[str, object]
"""Parameters for the processor: a JSON object of the client's own, at most 4 KiB and 16
levels; no model has checked it.
"""

EventData = dict[str, Any]
"""The details of an event as JSON: the attempt, files with keys or links, the error."""


class SessionError(msgspec.Struct, frozen=True):
    """The error of a failed session; ``message`` is safe to show."""

    code: str
    message: str
    retryable: bool


class Links(msgspec.Struct, frozen=True):
    """Paths of the session's views and files: signed and expiring, except ``self``."""

    self: str
    ws: str
    events: str
    input: str
    garment: str | None
    output: str | None


class FileView(msgspec.Struct, frozen=True):
    """A photo or a result; ``width`` and ``height`` are null if they are unknown.

    ``index``: its place among the files of its role, from 0.
    """

    role: str
    index: int
    type: str
    width: int | None
    height: int | None
    bytes: int
    link: str


class PreviewView(msgspec.Struct, frozen=True):
    """The last intermediate picture."""

    type: str
    width: int | None
    height: int | None
    link: str


class SessionView(msgspec.Struct, frozen=True):
    """The session as clients see it: in answers, in lists and in snapshots."""

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
    copy_of: str | None
    params: dict[str, Any]
    seed: int
    step: int | None
    steps: int | None
    upstream_position: int | None
    inputs: list[FileView]
    outputs: list[FileView]
    preview: PreviewView | None
    links: Links


class HistoryEvent(msgspec.Struct, frozen=True):
    """One row of the audit trail."""

    seq: int
    event: Event
    from_: Status | None = msgspec.field(name="from")
    status: Status
    at: str
    attempt: int
    data: EventData


class History(msgspec.Struct, frozen=True):
    """The audit trail.

    ``delivered_at``: when a client was first sent the terminal event; null before that.
    """

    events: list[HistoryEvent]
    delivered_at: str | None = None


class Share(msgspec.Struct, frozen=True):
    """A link to a result for others: it opens the first output, and nothing else."""

    link: str
    expires_at: str


class ErasedFile(msgspec.Struct, frozen=True):
    """One erased file of a receipt.

    ``role``: that of the input or the output, or ``preview``. ``sha256``: of the stored
    bytes.
    """

    session_id: str
    role: str
    bytes: int
    sha256: str


class ReceiptBody(msgspec.Struct, frozen=True):
    """The signed part of a receipt: as JSON, keys sorted, no white space, UTF-8.

    ``upstream``: what the service that the last attempt ran on keeps: ``none``,
    ``pending`` (it is told to delete it), ``deleted``, or ``kept`` (it cannot be told).
    """

    session_id: str
    reason: str
    deleted_at: str
    files: list[ErasedFile]
    upstream: str


class Receipt(ReceiptBody, frozen=True):
    """The answer to a DELETE.

    ``signature``: Ed25519 over the body, base64url. ``key_id``: which of the receipt
    keys verifies it.
    """

    key_id: str
    signature: str
