"""One session and one of its events, as values.

:class:`Session` is the row of the database; ``access.view`` makes of it what a client
may see.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import msgspec

from server.domain.stored_files import Direction, StoredFile
from tryon.protocol.states import Event, Status
from tryon.protocol.views import EventData, Params

MAX_SEED: Final = 2**31 - 1
"""The largest seed of a session."""

MAX_SEQ: Final = 2**31 - 1
"""Larger than any seq; both databases hold it in an integer."""


def session_id_of(at: float, random: bytes) -> str:
    """Return a UUIDv7 (RFC 9562 section 5.7), which sorts by creation.

    ``at``: Unix seconds, of which it holds the milliseconds; ``random``: 10 bytes, of
    which it holds 74 bits.
    """
    value = int(at * 1000) << 80 | int.from_bytes(random, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def time_of_id(session_id: str) -> float:
    """Return the Unix seconds of the milliseconds in a session's id."""
    return uuid.UUID(session_id).int / 2**80 / 1000


_SESSION_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)


def valid_session_id(text: str) -> bool:
    """Return whether the text is a UUID in canonical form, as session ids are."""
    return _SESSION_ID.fullmatch(text) is not None


def timestamp(at: datetime) -> str:
    """Return RFC 3339 in UTC, to the millisecond: ``2026-11-22T09:00:00.000Z``."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A row of ``tryon_sessions``.

    All times are in UTC, of the database's clock.
    """

    id: str
    owner: str
    """Hash of the client's token, 64 hex digits."""
    status: Status
    seq: int
    attempt: int
    """Number of claims; also the fencing token of the worker that holds the lease."""
    burnt: int
    """Number of attempts lost to a lapsed lease, a crash or a retryable error."""
    enqueues: int
    """Number of times it was put into the queue: the n of the job id."""
    cancel_requested: bool
    processor: str
    params: Params
    seed: int
    """The number that a processor draws its random numbers from."""
    files: tuple[StoredFile, ...]
    """Inputs, outputs and the preview, each in their order."""
    error_code: str | None
    error_message: str | None
    error_retryable: bool
    retry_of: str | None
    copy_of: str | None
    """The session whose photos it has copied; erased with it."""
    request_id: str | None
    lease_owner: str | None
    lease_expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    deadline_at: datetime
    expires_at: datetime
    delivered_at: datetime | None = None
    """When a client was first sent the terminal event; None before that."""
    trace: str | None = None
    """W3C ``traceparent`` of the upload."""

    @property
    def inputs(self) -> list[StoredFile]:
        """Return its photos; the first is that of the processor's first role."""
        return [file for file in self.files if file.direction is Direction.INPUT]

    @property
    def outputs(self) -> list[StoredFile]:
        """Return its results, the most important one first."""
        return [file for file in self.files if file.direction is Direction.OUTPUT]

    @property
    def preview(self) -> StoredFile | None:
        """Return its last intermediate picture, or None."""
        return next((file for file in self.files if file.direction is Direction.PREVIEW), None)

    @property
    def file_keys(self) -> list[str]:
        """Return the keys of its stored files, photos first."""
        return [file.key for file in self.files]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """A row of ``tryon_events``, which is both the audit trail and the event log.

    ``data`` holds file keys, never links.
    """

    session_id: str
    seq: int
    event: Event
    from_status: Status | None
    status: Status
    at: datetime
    attempt: int
    actor: str
    data: EventData = field(default_factory=dict)


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """The latest progress of one transition (``seq``) and ``attempt``."""

    seq: int
    attempt: int
    at: str
    progress: float | None = None
    stage: str | None = None
    eta_seconds: float | None = None
    step: int | None = None
    steps: int | None = None
    upstream_position: int | None = None
    preview: str | None = None
    """Key of the last intermediate picture."""
